"""Folders of images and masks: what pairs, what is refused, and what the values mean."""

import pickle

import numpy as np
import pytest
import tiny
from PIL import Image

from jaxseg import VOID, UserError
from jaxseg.data.decode import ImageFormat
from jaxseg.data.folder import FolderFormat, default_palette, open_folder

FORMAT = FolderFormat(("left", "right"))


def save(path, *arrays):
  """One image, or the pages of a TIFF."""
  path.parent.mkdir(parents=True, exist_ok=True)
  first, *rest = [Image.fromarray(array) for array in arrays]
  first.save(path, **({"save_all": True, "append_images": rest} if rest else {}))


def constant(value, dtype=np.uint8):
  return np.full((3, 4), value, dtype)


def fill(folder, images=("a.jpg",), masks=("a.png",)):
  """Image number i is grey 10 i, and its mask says i % 2, as far as they pair."""
  for part, names in ("images", images), ("masks", masks):
    (folder / part).mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
      save(folder / part / name, constant(10 * i if part == "images" else i % 2))


def error_of(*arguments, **changes):
  file_format = FolderFormat(**{"classes": FORMAT.classes, **changes})
  return tiny.error_of(open_folder, *arguments, file_format)


@pytest.mark.parametrize(
  "split, place", [("train", "train"), ("", "."), ("all", "."), ("fold/a", "fold/a")]
)
def test_files_pair_by_name_in_natural_order(tmp_path, split, place):
  images = ["2.jpg", "10.png", "A3.TIF", "a20.bmp"]
  fill(tmp_path / place, images, ["2.png", "10.tiff", "A3.png", "a20.gif"])
  for name in (".2.png", "._10.jpg", "notes.txt", "Thumbs.db"):
    (tmp_path / place / "images" / name).write_text("no image")
  (tmp_path / place / "masks" / "old.png").mkdir()
  info, source = open_folder(str(tmp_path), split, FORMAT)
  assert (info.classes, info.channels) == (FORMAT.classes, 3)
  source = pickle.loads(pickle.dumps(source))
  assert [example["name"] for example in source] == images
  for i, example in enumerate(source):
    assert (example["image"].shape, example["mask"].dtype) == ((3, 4, 3), np.uint8)
    np.testing.assert_array_equal(example["image"], 10 * i)
    np.testing.assert_array_equal(example["mask"], i % 2)


def test_volumes(tmp_path):
  for part, step in ("images", 1000), ("masks", 1):
    for name, count in ("b.tif", 3), ("a.tif", 2):
      pages = [constant(step * i, np.uint16 if step > 1 else np.uint8) for i in range(count)]
      save(tmp_path / "train" / part / name, *pages)
    save(tmp_path / "train" / part / "c.png", constant(0))
  fmt = FolderFormat(("x", "y", "z"), images=ImageFormat(1, value_range=(0, 2550)))
  info, source = open_folder(tmp_path, "train", fmt)
  pages = [("a.tif", 2), ("b.tif", 3)]
  names = [f"{name} page {i + 1}" for name, count in pages for i in range(count)]
  assert [example["name"] for example in source] == [*names, "c.png"]
  values = [int(example["image"][0, 0, 0]) for example in source]
  assert values == [0, 1000, 0, 1000, 2000, 0]
  assert info.dtype == "uint16" == source[5]["image"].dtype  # the PNG of 8 bits as well
  assert [int(example["mask"][0, 0]) for example in source] == [0, 1, 0, 1, 2, 0]
  assert info.value_range == (0, 2550)  # predictions need it

  save(tmp_path / "train/masks/b.tif", constant(0), constant(1))
  message = error_of(tmp_path, "train")
  assert f"{tmp_path}/train/images/b.tif has 3 pages" in message and "masks/b.tif has 2" in message


def test_a_single_volume_needs_no_common_name(tmp_path):
  save(tmp_path / "images/train-volume.tif", constant(50), constant(60))
  save(tmp_path / "masks/train-labels.tif", constant(0), constant(255))
  _, source = open_folder(tmp_path, "all", FolderFormat(("membrane", "cell"), mask_values=(0, 255)))
  assert [(e["name"], e["image"][0, 0, 0], e["mask"][0, 0]) for e in source] == [
    ("train-volume.tif page 1", 50, 0),
    ("train-volume.tif page 2", 60, 1),
  ]
  save(tmp_path / "masks/train-labels.tif", constant(0))  # no volume any more
  assert "train-volume.tif has no mask masks/{name} in" in error_of(tmp_path, "all")


@pytest.mark.parametrize(
  "fmt, expected",
  [
    ({}, [0, 1, 2, VOID]),
    ({"mask_values": (2, 0, (1, 255))}, [1, 2, 0, 2]),
    ({"mask_values": (0, 1, 255), "void_values": (2,)}, [0, 1, VOID, 2]),
    ({"mask_values": [0, [1, 2], 9], "void_values": [255]}, [0, 1, 1, VOID]),
  ],
)
def test_meaning_of_mask_values(tmp_path, fmt, expected):
  fill(tmp_path)
  stored = np.array([[0, 1, 2, 255]], np.uint8)
  save(tmp_path / "images/a.jpg", stored)
  save(tmp_path / "masks/a.png", stored)
  _, source = open_folder(tmp_path, "", FolderFormat(("a", "b", "c"), **fmt))
  np.testing.assert_array_equal(source[0]["mask"], [expected])


@pytest.mark.parametrize(
  "images, masks, words",
  [
    (["a.jpg", "b.jpg", "c.jpg"], ["b.png"], "images/a.jpg masks 2"),
    (["a.jpg"], ["a.png", "b.png"], "masks/b.png images 1"),
    (["a.jpg", "a.png"], ["a.png"], "images/a.jpg a.png"),
    (["a.txt.png"], ["a.png"], "images/a.txt.png"),
    ([], ["a.png"], "images .png,"),
    (["a.png"], [], "masks .png,"),
  ],
)
def test_files_that_do_not_pair(tmp_path, images, masks, words):
  fill(tmp_path / "val", images, masks)
  message = error_of(tmp_path, "val")
  assert str(tmp_path / "val") in message and all(word in message for word in words.split())


def test_folders_that_are_missing(tmp_path):
  fill(tmp_path / "train")
  fill(tmp_path / "test")
  message = error_of(tmp_path, "val")
  assert f"no folder {tmp_path}/val/images" in message and "'test', 'train'" in message
  (tmp_path / "test/masks").rename(tmp_path / "test/labels")
  message = error_of(tmp_path, "test")
  assert f"no folder {tmp_path}/test/masks" in message and "has 'train' (" in message
  fill(tmp_path)
  assert "'train', 'all'" in error_of(tmp_path, "val")
  (tmp_path / "other" / "pictures").mkdir(parents=True)
  message = error_of(tmp_path / "other", "all")
  assert "other holds pictures/" in message and "`images`" in message
  assert "`data_dir`" in error_of("", "train")


@pytest.mark.parametrize(
  "changes, words",
  [
    ({"classes": ()}, "classes 0"),
    ({"classes": ("cell",)}, "classes 1"),
    ({"classes": tuple(map(str, range(256)))}, "classes 256"),
    ({"classes": ("a", "a")}, "classes a twice"),
    ({"classes": ("a", "b", "")}, "classes empty"),
    ({"classes": ("a", " ")}, "classes empty"),
    ({"mask_values": (0, 1, 2)}, "mask_values 3 2"),
    ({"mask_values": (7, 7)}, "mask_values 7"),
    ({"mask_values": (0, (1, 0))}, "mask_values 0"),
    ({"mask_values": (0, 5), "void_values": (5,)}, "void_values 5"),
    ({"void_values": (0,)}, "void_values 0"),
    ({"mask_values": (0, "x")}, "mask_values 'x'"),
    ({"palette": ((0, 0, 0),)}, "palette 1 2"),
    ({"palette": ((0, 0, 0), (0, 0, 256))}, "palette 256"),
    ({"images": ImageFormat(0)}, "channels 0"),
    ({"images": ImageFormat(3, value_range=(5, 5))}, "value_range (5, 5)"),
    ({"display_bands": (3,)}, "display_bands 3"),
  ],
)
def test_formats_that_contradict_themselves(tmp_path, changes, words):
  fill(tmp_path)
  message = error_of(tmp_path, "", **changes)
  assert "`" in message and all(word in message for word in words.split())


def test_errors_of_an_example_name_its_file_and_page(tmp_path):
  fill(tmp_path)
  save(tmp_path / "images/b.tif", constant(0), constant(0))
  save(tmp_path / "masks/b.tif", constant(0), constant(7))
  _, source = open_folder(tmp_path, "", FORMAT)
  with pytest.raises(UserError, match=f"^mask of {tmp_path}/images/b.tif page 2: label 7 "):
    source[2]


def test_palette(tmp_path):
  fill(tmp_path)
  colours = ((1, 2, 3), (4, 5, 6))
  info, _ = open_folder(tmp_path, "", FolderFormat(FORMAT.classes, palette=colours))
  assert info.palette == colours
  assert open_folder(tmp_path, "", FORMAT)[0].palette == default_palette(2)
  many = default_palette(255)
  assert many[0] == (0, 0, 0) and many[:2] == default_palette(2)
  assert len(set(many)) == 255 and all(0 <= value < 256 for colour in many for value in colour)
  assert (255, 255, 255) not in many  # white is VOID on the sheets
  gaps = [np.abs(np.subtract(a, b)).sum() for i, a in enumerate(many[:16]) for b in many[:i]]
  assert min(gaps) > 50


def test_isbi(data_dir):
  fmt = FolderFormat(("membrane", "cell"), images=ImageFormat(1), mask_values=(0, 255))
  info, source = open_folder(data_dir / "isbi2012", "train", fmt)
  assert [example["name"] for example in source] == [f"{i:02}.png" for i in range(30)]
  files = sorted((data_dir / "isbi2012/train/masks").iterdir())
  for example, file in zip(source, files, strict=True):
    assert example["image"].shape == (512, 512, 1)
    np.testing.assert_array_equal(example["mask"] * 255, np.asarray(Image.open(file)))
