"""What training refuses once it knows its data, and that the check of the data says the same."""

import warnings

import numpy as np
import pytest
import tifffile
import tiny
from PIL import Image
from tiny import error_of

from jaxseg import DataWarning, checks, training
from jaxseg.check_data import check_data
from jaxseg.data import datasets
from jaxseg.models import cost

VALID = {"model__padding": "valid"}
ENCODER = {"model__name": "encoder_unet", "model__encoder": "mobilenet_v2"}
TWO = {"data__class_crops": 0.5, "data__crop_classes": ("sky", "sky")}
DEEPLAB = {"model__name": "deeplabv3", "model__encoder": "resnet18", "model__widths": (8, 4),
           "model__output_stride": 16}  # fmt: skip
REFUSED = [
  ({"data__class_crops": 0.5, "data__fit": "resize"}, "config.data.class_crops is 0.5"),
  ({"data__fast_jpeg": True}, "config.data.fast_jpeg is True, but config.data.fit is 'crop'"),
  ({"data__class_crops": 0.5, "data__crop_classes": ("rode",)}, "has 'rode', which is no class"),
  ({"data__crop_classes": ("road",)}, "has no effect while config.data.class_crops is 0"),
  (TWO, "config.data.crop_classes is ('sky', 'sky'); name each class once"),
  ({**VALID, "data__image_size": 33}, "33 px do not divide"),
  ({"model__separable": False}, "config.model.separable is False, but unet has no such option"),
  ({"predict__output_stride": 8}, "config.predict.output_stride 8 is for DeepLab"),
  ({"train__class_weights": (1.0, 2.0)}, "config.train.class_weights has 2 numbers"),
  ({"train__class_weights": (0.0, 0.0, 0.0)}, "config.train.class_weights are all 0"),
  pytest.param({**ENCODER, "model__widths": (), "model__pretrained": "no.h5"}, "no.h5",
               marks=pytest.mark.slow),
  pytest.param({**ENCODER, "model__widths": (), "model__pretrained": __file__}, "test_checks.py",
               marks=pytest.mark.slow),
  ({"model__init_from": "nowhere"}, "correct config.model.init_from"),
  ({**DEEPLAB, "model__up": "transposed", "predict__output_stride": 8},
   "config.predict.output_stride 8 needs another learned upsampling than that of training, 16"),
  pytest.param({**DEEPLAB, "model__up": "resize", "model__rates": (1, 2, 3),
                "predict__output_stride": 32},
               "config.model.rates has 1, at output stride 16; at 32", marks=pytest.mark.slow),
  ({"model__head": "sigmoid"}, "config.model.head 'sigmoid' is for two classes"),
  ({"train__batch_size": 12}, "config.train.batch_size is 12"),
  ({"data__name": "cells", "augment__hue": 0.1}, "config.augment.hue is 0.1, but needs RGB images"),
  ({"data__name": "cells", "augment__gray": 0.1}, "config.augment.gray is 0.1, but needs RGB"),
  ({"data__name": "cells", "data__group_by": "x"}, "config.data.group_by needs the data set"),
]  # fmt: skip


@pytest.mark.parametrize("output_stride", [32, 16])
def test_a_deeplab_without_atrous_convolutions_is_named(output_stride):
  config = tiny.make_config(1, **{**DEEPLAB, "model__output_stride": output_stride})
  with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    checks.check_own_keys(config)
  words = "config.model.output_stride is 32, where the encoder of deeplabv3 has no atrous"
  assert any(words in str(warning.message) for warning in told) == (output_stride == 32)


@pytest.mark.parametrize("changes, words", REFUSED)
def test_training_and_check_data_refuse_the_same(
  photos, monkeypatch, tmp_path, capsys, changes, words
):
  monkeypatch.setattr(datasets, "CELLS_SPLITS", {"train": 8, "test": 2})
  config = tiny.make_config(1, **changes)
  message = error_of(training.train, config, tmp_path / "train")
  assert words in message
  errors = {f.text for f in check_data(config, tmp_path / "check") if f.severity == "error"}
  assert errors == {message}
  assert "`" not in capsys.readouterr().out


def test_want_of_memory_is_a_warning_of_check_data(monkeypatch, tmp_path, capsys):
  """Data are looked at on a laptop, too, for a training run elsewhere."""
  monkeypatch.setattr(datasets, "CELLS_SPLITS", {"train": 8, "test": 2})
  monkeypatch.setattr(cost, "device_bytes", lambda: 100_000)
  config = tiny.make_config(1, data__name="cells")
  message = error_of(training.train, config, tmp_path / "train")
  assert "GiB, but the device has" in message
  found = {(f.severity, f.text) for f in check_data(config, tmp_path / "check")}
  assert ("warning", message) in found and "error" not in dict(found)


def test_all_faults_are_reported_at_once():
  config = tiny.make_config(
    1, **TWO, data__fit="resize", augment__shift=99.0, train__class_weights=(1.0,), model__head="x"
  )
  found = checks.all_faults(config, tiny.INFO)
  parts = ["class_crops", "crop_classes", "shift", "class_weights", "head"]
  assert len(found) == len(parts)
  assert all(part in text for part, text in zip(parts, found, strict=True)), found
  # Without a data set, what does not depend on it.
  assert checks.all_faults(config, None) == found[:3]
  assert checks.all_faults(tiny.make_config(1), tiny.INFO) == []


@pytest.mark.parametrize("header", ["image", "image,mask", "image;mask;split"])
def test_lists_of_a_header_alone(tmp_path, header):
  """The message names the list; a header with one name below it is a list."""
  for part in ("images", "masks"):
    (tmp_path / part).mkdir()
    for i in range(2):
      noise = np.random.default_rng(i).integers(0, 2, (8, 8), dtype=np.uint8)
      Image.fromarray(noise).save(tmp_path / part / f"a{i}.png")
  for split, text in ("train", header), ("val", "image\na1"):
    (tmp_path / f"{split}.csv").write_text(f"{text}\n")
  layout = {"images": "images/{name}.png", "masks": "masks/{name}.png", "split_file": "{split}.csv"}
  config = tiny.make_config(
    1, data__name="folder", data__data_dir=str(tmp_path), data__classes=("a", "b"),
    data__eval_split="val", **{f"data__{key}": value for key, value in layout.items()},
  )  # fmt: skip
  remedy = "has a header and lists nothing: add images, or correct config.data.split_file"
  assert error_of(training.train, config, tmp_path) == f"{tmp_path}/train.csv {remedy}"
  (error,) = [f for f in check_data(config, tmp_path / "run") if f.severity == "error"]
  assert f"{tmp_path}/train.csv" in error.file + error.text and remedy in error.text


def test_crop_classes_that_no_training_mask_has(photos, tmp_path):
  """No mask has "nowhere"."""
  crops = {"data__class_crops": 0.5}
  config = tiny.make_config(1, **crops, data__crop_classes=("road", "nowhere"))
  kind = "crop classes that do not occur"
  (finding,) = [f for f in check_data(config, tmp_path) if f.kind == kind]
  assert finding.severity == "warning" and finding.text.startswith("nowhere: no pixel")
  assert "config.data.crop_classes" in finding.text
  config = tiny.make_config(1, **crops, data__crop_classes=("road",))
  assert kind not in {f.kind for f in check_data(config, tmp_path)}


def test_keys_that_a_data_set_does_not_use_are_named(monkeypatch):
  """Another data set may be tried with a config; a note says which of its keys are idle."""
  config = tiny.make_config(1, data__name="cells", data__classes=("a", "b"), data__channels=4)
  with pytest.warns(DataWarning, match="^the data set cells does not use (.*)$") as said:
    checks.check_own_keys(config)
  assert str(said[0].message).endswith("`data.channels`, `data.classes`")
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    config = tiny.make_config(1, data__classes=("a", "b"), data__source="x")
    config.data.name = "anything"
    monkeypatch.setitem(datasets.DATASETS, "anything", lambda split, **options: None)
    checks.check_own_keys(config)
    config.data.name = "tfds"
    checks.check_own_keys(config)
  config.data.name = "folder"
  with pytest.warns(DataWarning, match="folder does not use `data.source`$"):
    checks.check_own_keys(config)


def test_black_and_white_are_given_or_measured():
  config = tiny.make_config(1, data__value_range=(0, 9), data__normalization="percentiles")
  assert "config.data.value_range is (0, 9), but" in error_of(checks.check_own_keys, config)


@pytest.mark.parametrize("keys", [{"eval_split": "train"}, {"num_folds": 2}, {"num_folds": 9}])
def test_what_follows_from_a_file_that_does_not_pair_is_no_error_of_its_own(tmp_path, keys):
  """Four channels as pages, and a mask of four pages: the split is empty, which is no news."""
  for part in ("images", "masks"):
    (tmp_path / "train" / part).mkdir(parents=True)
    tifffile.imwrite(tmp_path / "train" / part / "a.tif", np.zeros((4, 8, 8), np.uint8),
                     photometric="minisblack", metadata=None)  # fmt: skip
  keys = {"name": "folder", "data_dir": str(tmp_path), "classes": ("a", "b"), "channels": 4, **keys}
  config = tiny.make_config(1, data__pages="channels", **{f"data__{k}": v for k, v in keys.items()})
  (error,) = [f for f in check_data(config, tmp_path) if f.severity == "error"]
  assert error.kind == "volumes of different lengths"
  assert "4 pages: save it with one, or set config.data.pages=auto" in error.text


@pytest.mark.slow
@pytest.mark.parametrize("deep", ["train", "val"])
def test_splits_of_different_depths(tmp_path, deep):
  """Black and white of each type are 0 and 1, so training does not mind; the check says so."""
  rng = np.random.default_rng(0)
  for split in ("train", "val"):
    dtype = np.uint16 if split == deep else np.uint8
    for part in ("images", "masks"):
      (tmp_path / split / part).mkdir(parents=True)
    pixels = rng.integers(0, 256, (32, 32), dtype) * dtype(np.iinfo(dtype).max // 255)
    np.save(tmp_path / split / "images" / "a.npy", pixels)
    mask = np.repeat(np.arange(2, dtype=np.uint8), 512).reshape(32, 32)
    Image.fromarray(mask).save(tmp_path / split / "masks" / "a.png")
  config = tiny.make_config(
    1, data__name="folder", data__data_dir=str(tmp_path), data__classes=("a", "b"),
    data__eval_split="val", data__channels=1,
  )  # fmt: skip
  assert training.train(config, tmp_path / "run") is True
  (finding,) = check_data(config, tmp_path / "check")
  assert finding.severity == "warning"
  assert finding.text.startswith(f"{deep} has 16 bit, ") or ", eval has 16 bit: " in finding.text
