"""Every file in configs/: its keys, its header, its network, and two steps of a small variant."""

import functools
import importlib
import json
import os
import pathlib

import command
import jax
import numpy as np
import pytest
from PIL import Image

from configs import default
from jaxseg.build import build_model
from jaxseg.check_data import check_data
from jaxseg.data import datasets
from jaxseg.losses import LOSSES
from jaxseg.schema import flatten

ROOT = pathlib.Path(__file__).parents[1]
NAMES = sorted(file.stem for file in (ROOT / "configs").glob("[!_]*.py"))
# Widths of the small variants.
NARROW = {"unet": "(4,8)", "encoder_unet": "(8,8,8,8)"}
NARROW |= dict.fromkeys(("fcn32s", "fcn16s", "fcn8s", "deeplabv3", "deeplabv3plus"), "(8,8)")


def load(name):
  module = importlib.import_module(f"configs.{name}")
  return module, module.get_config()


@pytest.mark.parametrize("name", NAMES)
def test_keys_are_those_of_default_and_locked(name):
  _, config = load(name)
  expected = flatten(default.get_config().to_dict())
  values = flatten(config.to_dict())
  assert list(values) == list(expected)
  for key, value in values.items():
    assert type(value) is type(expected[key]), key
  for part in (config, *(value for value in config.values() if hasattr(value, "is_locked"))):
    assert part.is_locked
  with pytest.raises(AttributeError, match="learning_rat"):
    config.train.learning_rat = 1.0
  # Every call makes a new one: a flag that changes one run must not reach the next.
  config.train.batch_size += 1
  assert load(name)[1].train.batch_size == config.train.batch_size - 1


def test_every_loss_has_a_factor():
  assert set(default.get_config().train.losses) == set(LOSSES)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "default"])
def test_header_names_its_own_command(name):
  header = load(name)[0].__doc__.splitlines()
  assert header[0].endswith(".")
  assert any(f"python -m jaxseg.main --config=configs/{name}.py" in line for line in header)


@pytest.mark.parametrize("name", NAMES)
def test_network_has_the_classes_of_its_data(name):
  _, config = load(name)
  data = config.data
  info = datasets.describe(split=data.train_split, **data)
  model = build_model(config, info)
  size = data.image_size
  image = jax.ShapeDtypeStruct((2, size, size, info.channels), np.float32)
  run = functools.partial(model.init_with_output, train=False)
  logits, _ = jax.eval_shape(run, jax.random.key(0), image)
  size -= 2 * model.margin
  assert (logits.shape, logits.dtype) == ((2, size, size, len(info.classes)), np.float32)


def make_cityscapes(folder):
  """Two images a split and what lies beside their masks, in the layout of Cityscapes."""
  rng = np.random.default_rng(0)
  for split, city in ("train", "aachen"), ("val", "lindau"):
    for part in ("leftImg8bit", "gtFine"):
      (folder / part / split / city).mkdir(parents=True)
    for i in range(2):
      name = f"{split}/{city}/{city}_00000{i}_000019"
      image = rng.integers(0, 256, (48, 96, 3), np.uint8)
      ids = np.tile(np.arange(96) * 34 // 96, (48, 1)).astype(np.uint8)  # 0 to 33, all there are
      Image.fromarray(image).save(folder / f"leftImg8bit/{name}_leftImg8bit.png")
      Image.fromarray(ids).save(folder / f"gtFine/{name}_gtFine_labelIds.png")
      Image.fromarray(image).save(folder / f"gtFine/{name}_gtFine_color.png")
      (folder / f"gtFine/{name}_gtFine_polygons.json").write_text("{}")
  return folder


def make_ade20k(folder, source):
  """Links to the real samples, in the layout of ADEChallengeData2016."""
  for image in sorted((source / "images").iterdir()):
    split = "training" if image.stem[-1] < "3" else "validation"
    for file in (image, source / "annotations" / f"{image.stem}.png"):
      link = folder / file.parent.name / split / file.name
      link.parent.mkdir(parents=True, exist_ok=True)
      link.symlink_to(file)
  return folder


# The data of a public data set's config: a function of an empty folder and $JAXSEG_TEST_DATA, and
# the number of images of its two splits.
PUBLIC = {
  "deeplabv3plus_voc": (lambda folder, root: root / "layouts/voc", 2, 1),
  "deeplabv3plus_cityscapes": (lambda folder, root: make_cityscapes(folder), 2, 2),
  "deeplabv3plus_ade20k": (lambda folder, root: make_ade20k(folder, root / "layouts/ade20k"), 2, 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLIC)
def test_public_data_sets_pass_the_check(name, tmp_path, data_dir, capsys):
  """As they are: only the place of the data is set."""
  config = load(name)[1]
  make, *nums = PUBLIC[name]
  (tmp_path / "data").mkdir()
  config.data.data_dir = str(make(tmp_path / "data", data_dir))
  findings = check_data(config, tmp_path / "run")
  assert not [finding for finding in findings if finding.severity == "error"]
  out = capsys.readouterr().out
  splits = config.data.train_split, config.data.eval_split
  for role, split, number in zip(("train", "eval"), splits, nums, strict=True):
    assert f"{role}: {split}, {number} images" in out


@pytest.mark.parametrize(
  "name, steps, num_images",
  [
    ("deeplabv3plus_voc", 30_000, 1464),
    ("deeplabv3plus_cityscapes", 90_000, 2975),
    ("deeplabv3plus_ade20k", 150_000, 20_210),
  ],
)
def test_published_number_of_steps(name, steps, num_images):
  train = load(name)[1].train
  assert round(train.num_epochs * num_images / train.batch_size) == steps


def small(name, folder):
  """Values of a variant that trains two steps in seconds: small images, narrow, not pretrained."""
  config = load(name)[1]
  root = pathlib.Path(os.environ.get("JAXSEG_TEST_DATA", "."))
  if (root / "tfds" / config.data.name).is_dir():
    data, num_images = {"data_dir": root / "tfds", "train_split": "train[:64]"}, 64
    data["eval_split"] = "test[:16]"
  elif "isbi" in name and (root / "isbi2012").is_dir():
    data, num_images = {"data_dir": root / "isbi2012/train", "num_folds": 15}, 28
  elif "camvid" in name and (root / "camvid").is_dir():
    data, num_images = {"data_dir": root / "camvid", "num_folds": 183}, 365  # 2 are scored
  elif name in PUBLIC and (root / "layouts").is_dir():
    make, num_images, _ = PUBLIC[name]
    data = {"data_dir": make(folder, root)}
  else:  # the generated images, whatever the config asks for
    data = {"name": "cells", "train_split": "train", "eval_split": "test"}
    data |= {"num_folds": 0, "fold": 0}
    num_images = datasets.CELLS_SPLITS["train"]
  return {
    **{f"data.{key}": value for key, value in data.items()},
    "data.image_size": 32,
    "model.widths": NARROW[config.model.name],
    "model.pretrained": "",
    "model.init_from": "",
    "train.batch_size": 8,
    "train.num_epochs": 2 * 8 / num_images,
  }


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_small_variant_trains(name, tmp_path):
  folder = tmp_path / name
  (tmp_path / "data").mkdir()
  command.finish(command.start(name, folder, small(name, tmp_path / "data")))
  lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
  assert [line["step"] for line in lines] == [2, 2]
  assert lines[0]["split"] == "train" and "miou" in lines[1]
  assert np.isfinite([line["loss"] for line in lines]).all()
  assert (folder / "checkpoints" / "2").is_dir()
