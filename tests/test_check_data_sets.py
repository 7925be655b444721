"""The check of every kind of data set, and of real ones."""

import numpy as np
import pytest
import tiny
from flawed import FOLDS, make_config
from PIL import Image
from scipy import ndimage

from jaxseg.check_data import check_data
from jaxseg.data import datasets
from jaxseg.data.input_pipeline import Mapped

# Of every data set: splits and the number of their images.
SPLITS = {
  "cells": {"train": 3, "test": 2},
  "oxford_iiit_pet": {"train[:4]": 4, "test[:3]": 3},
  "folder": {"train without fold 1 of 2": 15, "fold 1 of 2": 15},
  "tfds": {"train[:4]": 4, "test[:3]": 3},
  "huggingface": {"train": 3, "test": 2},
}


@pytest.mark.parametrize("name", datasets.DATASETS)
def test_every_data_set(name, request, tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(datasets, "CELLS_SPLITS", SPLITS["cells"])
  place = {"oxford_iiit_pet": "tfds", "tfds": "tfds", "folder": "isbi2012"}.get(name)
  folder = request.getfixturevalue("data_dir") / place if place else tmp_path
  train, test = SPLITS[name]
  changes = {"train_split": train, "eval_split": test}
  if name == "folder":
    changes = {**FOLDS, "classes": ("membrane", "cell"), "mask_values": (0, 255)}
  elif name == "tfds":
    changes |= {"source": "oxford_iiit_pet", "classes": (), "label_space": "pets"}
  elif name == "huggingface":
    tiny.write_parquet(tmp_path, SPLITS[name])
    changes |= {"classes": ("sky", "road")}
  size = 24 if name == "huggingface" else 64
  config = make_config(folder, name=name, image_size=size, **changes)
  assert check_data(config, tmp_path) == []
  out = capsys.readouterr().out
  for split, count in SPLITS[name].items():
    assert f": {split}, {count} images" in out


VOC = {"images": "JPEGImages/{name}.jpg", "label_space": "voc"}
REAL = [
  ("layouts/voc", {**VOC, "masks": "SegmentationClass/{name}.png"}, "palette"),
  ("layouts/coco", {**VOC, "masks": "annotations.json"}, "COCO"),
  ("layouts/labelme", {**VOC, "images": "{name}.jpg", "masks": "{name}.json"}, "labelme"),
  ("layouts/colour_masks", {**VOC, "images": "images/{name}_image.png",
                            "masks": "masks/{name}_target.png"}, "RGB"),
  ("layouts/ade20k", {"masks": "annotations/{name}", "label_space": "ade20k"}, "grey"),
]  # fmt: skip


@pytest.mark.parametrize("folder, keys, mask_format", REAL)
def test_real_layouts_have_no_errors(data_dir, tmp_path, capsys, folder, keys, mask_format):
  config = make_config(data_dir / folder, classes=(), train_split="all[:2]", eval_split="all[2:]",
                       image_size=64, **keys)  # fmt: skip
  findings = check_data(config, tmp_path)
  assert {finding.kind for finding in findings} <= {"classes that do not occur", "small images"}
  out = capsys.readouterr().out
  assert "train: all[:2], 2 images" in out and "eval: all[2:], 1 images" in out
  assert f"  mask    {'PNG ' * (mask_format in ('palette', 'RGB', 'grey'))}{mask_format}" in out
  table = out[out.index("class ") : out.index("\nwarning:")]
  assert max(map(len, table.splitlines())) <= 100
  if "ade20k" in folder:
    masks = sorted((data_dir / folder / "annotations").iterdir())
    found = {value for path in masks for value in np.unique(Image.open(path))} - {0}
    assert f"{150 - len(found)} of 150 classes do not occur" in table
  page = (tmp_path / "plots/data.html").read_text(encoding="utf-8")
  assert page.endswith("</html>\n")


def test_frames_of_a_video_and_noisy_masks(data_dir, tmp_path, capsys):
  """CamVid: frames of val follow each other closely; specks are checked by scipy."""
  config = make_config(data_dir / "camvid", label_space="camvid", classes=(), image_size=64,
                       train_split="train[14:20]", eval_split="val[:8]")  # fmt: skip
  findings = check_data(config, tmp_path)
  kinds = {"specks in masks", "near-duplicates in the eval split", "classes that do not occur"}
  assert {finding.kind for finding in findings} == kinds
  noisy = [finding for finding in findings if finding.kind == "specks in masks"]
  for finding in noisy:
    path = str(finding.file).removeprefix("mask of ").replace("images", "masks")
    labels = np.array(Image.open(path.replace(".jpg", ".png")))
    number = 0
    for label in range(11):
      areas, _ = ndimage.label(labels == label, np.ones((3, 3)))
      number += (np.bincount(areas.ravel())[1:] <= 3).sum()
    assert finding.detail.startswith(f"{number}: (") and number >= 2e-4 * labels.size
  assert len(capsys.readouterr().out.splitlines()) < 60


def test_encoded_examples_and_sources_that_read_themselves(tmp_path, monkeypatch, capsys):
  """Data sets that somebody adds: bytes instead of files, or no `Encoded` at all."""

  def load(split, *_):
    info, source = tiny.load_photos(split, "", 32, 0)
    source.records[1]["image"] = b"no image"
    return info, source

  def load_lazily(split, *_):
    info, source = load(split)
    return info, Mapped(range(len(source)), source.__getitem__)

  for loader, file in (load, "train1.png"), (load_lazily, "example 1"):
    monkeypatch.setitem(datasets.DATASETS, "photos", loader)
    config = make_config("", name="photos", eval_split="test", image_size=16)
    errors = [f for f in check_data(config, tmp_path) if f.severity == "error"]
    assert [f.file for f in errors][0] == file and "cannot be decoded" in errors[0].text
    assert len(errors) == 2  # one in each split
    assert "train: train, 20 images" in capsys.readouterr().out
