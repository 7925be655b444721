"""Every data set by name, groups and instances."""

import pickle
import sys

import numpy as np
import pytest
import tiny
from PIL import Image
from tiny import error_of

from jaxseg import VOID
from jaxseg.data import datasets


@pytest.mark.parametrize("size", [16, 33, 64])
def test_cells(size):
  info, source = datasets.load("cells", "test", image_size=size)
  _, again = datasets.load("cells", "test", image_size=size)
  assert len(source) == 64
  for i in (0, 63):
    first, second = source[i], again[i]
    assert first["image"].shape == (size, size, info.channels)
    assert first["mask"].shape == first["instances"].shape == (size, size)
    assert set(np.unique(first["mask"])) <= set(range(len(info.classes)))
    for name in ("image", "mask", "instances"):
      np.testing.assert_array_equal(first[name], second[name])
  with pytest.raises(IndexError):
    source[64]


def test_cells_differ_by_index_split_and_seed():
  sources = [
    datasets.load("cells", split, image_size=32, seed=seed)[1]
    for split, seed in (("train", 0), ("test", 0), ("train", 1))
  ]
  drawn = [source[i]["image"].tobytes() for source in sources for i in range(3)]
  assert len(set(drawn)) == 9


def test_cells_too_small():
  message = error_of(lambda: datasets.load("cells", "train", image_size=15))
  assert "`image_size`" in message and "15" in message and "16" in message


def test_unknown_data_set_split_and_folder(tmp_path):
  message = error_of(lambda: datasets.load("cels", "train"))
  assert "'cels'" in message and all(name in message for name in datasets.DATASETS)
  message = error_of(lambda: datasets.load("cells", "val"))
  assert "'val'" in message and "train" in message and "test" in message
  for name in datasets.DATASETS:
    message = error_of(lambda n=name: datasets.load(n, "train", data_dir=str(tmp_path / "typo")))
    assert str(tmp_path / "typo") in message and "`data_dir`" in message


def test_folder_is_loaded_as_its_format_says(tmp_path):
  for part in ("images", "masks"):
    (tmp_path / part).mkdir()
    Image.fromarray(np.array([[0, 9]], np.uint8)).save(tmp_path / part / "a.png")
  fmt = {"classes": ("x", "y"), "channels": 1, "mask_values": (9, 0)}
  info, source = datasets.load("folder", "all", data_dir=str(tmp_path), **fmt)
  assert info.classes == ("x", "y")
  np.testing.assert_array_equal(source[0]["image"], [[[0], [9]]])
  np.testing.assert_array_equal(source[0]["mask"], [[1, 0]])


def test_groups_of_a_data_set_without():
  _, source = datasets.load("cells", "test", image_size=16)
  assert "`group_by` needs" in error_of(datasets.groups_of, source)


def test_subset():
  subset = pickle.loads(pickle.dumps(datasets.Subset("abcde", (4, 1, 1))))
  assert len(subset) == 3 and list(subset) == ["e", "b", "b"]
  with pytest.raises(IndexError):
    subset[3]


def test_connected_components():
  mask = np.array([
    [0, 1, 1, 0, 2],
    [1, 0, 1, 2, 2],  # the 1 on the left touches by its corner only
    [255, 0, 2, 255, 1],
    [255, 255, 2, 254, 254],
  ], np.uint8)  # fmt: skip
  expected = [
    [0, 1, 1, 0, 4],
    [2, 0, 1, 4, 4],
    [0, 0, 5, 0, 3],
    [0, 0, 5, 6, 6],
  ]
  instances = datasets.connected_components(mask)
  assert instances.dtype == np.int32
  np.testing.assert_array_equal(instances, expected)
  cells = datasets.load("cells", "test", image_size=96)[1][0]
  np.testing.assert_array_equal(datasets.connected_components(cells["mask"]), cells["instances"])


CAMVID = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car",
          "pedestrian", "bicyclist")  # fmt: skip
PETS = {"train": 300, "test": 298, "train[:90%]": 270}
# Of every data set: splits with their number of examples, how many to look at, where it is, keys.
ROWS = {
  "cells": ({"train": 512, "test": 64}, 4, "", {}),
  "oxford_iiit_pet": (PETS, 12, "tfds", {}),
  "folder": ({"train": 367, "val": 101}, 12, "camvid", {"classes": CAMVID, "void_values": (11,)}),
  "tfds": (PETS, 12, "tfds", {"source": "oxford_iiit_pet", "label_space": "pets"}),
  "huggingface": (tiny.NUM_PHOTOS, 3, "", {"classes": tiny.INFO.classes[:2]}),
}


@pytest.mark.parametrize("name", datasets.DATASETS)
def test_every_data_set(name, request, tmp_path):
  assert name in ROWS, f"give {name} a row of this test"
  splits, num_looked_at, place, fmt = ROWS[name]
  folder = str(request.getfixturevalue("data_dir") / place if place else tmp_path)
  if name == "huggingface":
    tiny.write_parquet(tmp_path, splits)
  for split, count in splits.items():
    info, source = datasets.load(name, split, data_dir=folder, image_size=32, **fmt)
    assert len(source) == count
    assert info.channels in (1, 3)
    assert len(info.classes) == len(set(info.classes)) == len(info.palette)
    assert len(set(info.palette)) == len(info.palette)
    assert (255, 255, 255) not in info.palette  # white is VOID on the sheets
    seen, names = set(), set()
    for i in range(0, count, count // num_looked_at):
      example = source[i]
      image, mask = example["image"], example["mask"]
      assert (image.dtype, mask.dtype) == (np.uint8, np.uint8)
      assert image.shape == (*mask.shape, info.channels)
      seen |= set(np.unique(mask))
      names.add(example["name"])
    assert seen - {VOID} == set(range(len(info.classes)))
    assert len(names) == len(range(0, count, count // num_looked_at))


def test_pets_equal_an_independent_decode(data_dir):
  """The records by TFDS's own features and its own decoders."""
  import tensorflow_datasets as tfds

  builder = tfds.builder("oxford_iiit_pet", data_dir=data_dir / "tfds", file_format="array_record")
  expected = builder.as_data_source("train")
  _, source = datasets.load("oxford_iiit_pet", "train", data_dir=str(data_dir / "tfds"))
  for i in (0, 299):
    example = source[i]
    np.testing.assert_array_equal(example["mask"], expected[i]["segmentation_mask"][..., 0] - 1)
    np.testing.assert_array_equal(example["image"], expected[i]["image"])
    assert example["name"] == expected[i]["file_name"].decode()


def test_pets_without_their_extra(monkeypatch):
  monkeypatch.delitem(sys.modules, "jaxseg.data.pets", raising=False)
  monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)  # as if not installed
  message = error_of(datasets.load, "oxford_iiit_pet", "test")
  assert "tensorflow_datasets" in message and "pip install -e '.[tfds]'" in message
