"""Which examples pictures show, and the windows of them that training sees."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import tiny
from PIL import Image

from jaxseg import VOID, build
from jaxseg.augment import Augmentation, augment
from jaxseg.check_data import check_data
from jaxseg.data.examine import examine
from jaxseg.data_samples import Split, choose, choose_samples, training_windows


def test_choose_covers_the_classes():
  """Class 2 is in two examples, class 3 in one; of the two, the one with more of it is chosen."""
  counts = np.array([[9, 1, 0, 0], [9, 1, 1, 0], [9, 0, 0, 0], [8, 0, 5, 0], [8, 0, 0, 1]])
  assert choose(counts, 1) == [1]  # three classes at once
  assert choose(counts, 2) == [1, 4]
  assert choose(counts, 4) == [0, 1, 2, 4]  # the first and the second of 0, 2, 3
  assert choose(counts, 9) == [0, 1, 2, 3, 4]
  assert choose(counts, 1, np.array([True, True, False, True])) == [3]
  assert choose(counts, 2, np.ones(4, bool)) == [0, 2]  # evenly spread
  assert choose(counts, 0) == [] and choose(counts[:0], 3) == []


def read(name, config):
  info, source = build.open_split(config, "train" if name == "train" else "eval")
  examples = [examine(source, len(info.classes), i) for i in range(len(source))]
  return Split(f"{name}: {name}", info, source, examples)


def rare(name):
  """A split of 6 examples, of which the one before the last has class 2."""
  masks = np.zeros((6, 8, 8), np.uint8)
  masks[:, 4:] = 1
  masks[4, 0, 0] = 2 if name == "train" else 0
  image = np.zeros((8, 8, 3), np.uint8)
  source = [{"image": image + i, "mask": mask, "name": f"{i}"} for i, mask in enumerate(masks)]
  examples = [examine(source, 3, i) for i in range(6)]
  return Split(f"{name}: {name}", tiny.INFO, source, examples)


def test_samples_show_every_class():
  samples = choose_samples({"train": rare("train"), "eval": rare("eval")}, 2)
  assert [name for name, *_ in samples] == ["train: 0", "train: 4", "eval: 0", "eval: 3"]
  assert {int(x) for _, _, mask in samples for x in np.unique(mask)} == {0, 1, 2}


def test_windows_are_those_of_the_training_step(photos):
  """By hand: the key of each index, one example at a time, on a window that is the whole image."""
  values = {"flip": True, "brightness": 0.2, "hue": 0.1, "cutout": 0.3, "scale": (0.5, 2.0)}
  values["border"] = "void"
  config = tiny.make_config(
    1, data__fit="resize", **{f"augment__{k}": v for k, v in values.items()}
  )
  config.eval.num_samples, config.augment.contrast = 2, (1.0, 1.0)
  split = read("train", config)
  found = training_windows(config, split)
  counts = split.counts(range(len(split.examples)))
  assert [name for name, *_ in found] == [f"train{i}.png" for i in choose(counts, 2)]
  stream = jax.random.fold_in(jax.random.key(config.seed), 0)
  step = jax.jit(functools.partial(augment, config=Augmentation(**config.augment)))
  for n, (name, pictures, masks) in enumerate(found):
    photo = next(x for x in split.source if x["name"] == name)
    image = Image.fromarray(photo["image"]).resize((32, 32), Image.Resampling.BILINEAR)
    mask = Image.fromarray(photo["mask"]).resize((32, 32), Image.Resampling.NEAREST)
    image, mask = np.float32(image) / np.float32(255), {"mask": np.asarray(mask)}
    for i, (picture, drawn) in enumerate(zip(pictures, masks, strict=True)):
      expected, labels = step(jax.random.fold_in(stream, 5 * n + i), image, mask)
      np.testing.assert_array_equal(drawn, labels["mask"])
      np.testing.assert_allclose(picture, 255 * np.clip(expected, 0, 1), atol=2.5)
    assert len(pictures) == 5 and (masks == VOID).any()


def test_windows_without_augmentation(photos):
  """Parts of the image; beyond the logits, the mask is VOID. Standardised images show 2 standard
  deviations."""
  config = tiny.make_config(
    1, model__padding="valid", data__image_size=36, augment__brightness=0.0,
    augment__contrast=(1.0, 1.0), augment__scale=(1.0, 1.0), augment__flip=False,
    eval__num_samples=1,
  )  # fmt: skip
  split = read("train", config)
  margin = build.build_model(config, split.info).margin
  ((name, pictures, masks),) = training_windows(config, split)
  assert pictures.shape == (5, 36, 36, 3) and 0 < margin < 18
  inside = np.zeros((36, 36), bool)
  inside[margin:-margin, margin:-margin] = True
  assert (masks[:, ~inside] == VOID).all()
  photo = next(x for x in split.source if x["name"] == name)
  shape = (36 - 2 * margin,) * 2
  labels = np.lib.stride_tricks.sliding_window_view(photo["mask"], shape)
  values = np.lib.stride_tricks.sliding_window_view(photo["image"][..., 0], shape)
  for picture, mask in zip(pictures, masks, strict=True):
    part = mask[inside].reshape(shape)
    same = (labels == part).all((2, 3)) & (values == picture[inside, 0].reshape(shape)).all((2, 3))
    assert same.sum() == 1
  assert any((pictures[0] != picture).any() for picture in pictures[1:])
  ranges = ([100.0, 150.0],) * 3  # as a config file may have them
  info = dataclasses.replace(split.info, value_range=ranges, clip=False)
  ((_, standardised, _),) = training_windows(config, dataclasses.replace(split, info=info))
  expected = 255 * np.clip(((pictures - 100.0) / 50 + 2) / 4, 0, 1)
  np.testing.assert_allclose(standardised, expected, atol=1)


@pytest.mark.parametrize("number", [0, 2])
def test_the_sheet_of_windows(photos, tmp_path, number):
  config = tiny.make_config(1, eval__num_samples=number)
  check_data(config, tmp_path)
  path = tmp_path / "plots/augmented.png"
  assert path.exists() == bool(number)
  page = (tmp_path / "plots/data.html").read_text(encoding="utf-8")
  assert ('<a href="augmented.png">' in page) == bool(number)
  if number:  # five columns of 250 px; four rows of 250 px, a head, a legend and names
    assert Image.open(path).size == (1250, pytest.approx(4 * 250 + 80 + 4 * 20, abs=1))
