"""Tables of known data sets, against their own files and against numbers of their publications."""

import dataclasses

import numpy as np
import pytest
from PIL import Image
from tiny import error_of

from configs import unet_camvid
from jaxseg import VOID
from jaxseg.data import datasets
from jaxseg.data.folder import FolderFormat, open_folder
from jaxseg.data.label_spaces import LABEL_SPACES, fill_in
from jaxseg.data.labels import label_map
from jaxseg.data.masks import decode_mask


def labels_of(name):
  return label_map(**dataclasses.asdict(LABEL_SPACES[name]))


@pytest.mark.parametrize(
  "name, num_classes, num_colors",
  [
    ("voc", 21, 21),
    ("cityscapes", 19, 19),
    ("cityscapes_train_ids", 19, 19),
    ("ade20k", 150, 149),  # road and skyscraper share one
    ("camvid", 11, 11),
    ("pets", 3, 3),
  ],
)
def test_counts(name, num_classes, num_colors):
  space = LABEL_SPACES[name]
  assert len(space.classes) == len(set(space.classes)) == num_classes == len(space.palette)
  assert len(set(space.palette)) == num_colors
  assert {len(color) for color in space.palette} == {3}
  assert all(name == name.strip() and name.islower() for name in space.classes)
  labels = labels_of(name)
  assert labels.num_classes == num_classes
  assert list(labels.look_up(space.classes)) == list(range(num_classes))


def test_every_table_is_tested():
  assert set(LABEL_SPACES) == {
    "voc", "cityscapes", "cityscapes_train_ids", "ade20k", "camvid", "pets"}  # fmt: skip


def test_voc_against_its_files(data_dir):
  """The palette in the files, and masks in these colours."""
  space, labels = LABEL_SPACES["voc"], labels_of("voc")
  for path in sorted((data_dir / "layouts/voc/SegmentationClass").iterdir()):
    image = Image.open(path)
    palette = np.reshape(image.getpalette(), (-1, 3))
    np.testing.assert_array_equal(space.palette, palette[:21])
    np.testing.assert_array_equal(space.void_colors, palette[255:])
    stored = np.asarray(image)
    np.testing.assert_array_equal(decode_mask(path, "m", labels), stored)
    by_color = label_map(
      space.classes, mask_colors=space.palette, void_colors=space.void_colors
    )  # reads the same file by its colours
    np.testing.assert_array_equal(decode_mask(path, "m", by_color), stored)
  held = {1: {0, 1, VOID}, 23: {0, 17, VOID}, 114: {0, 3, VOID}}  # aeroplane, sheep, bird
  for number, expected in held.items():
    path = data_dir / f"layouts/colour_masks/masks/{number}_target.png"
    mask = decode_mask(path, "m", labels)
    assert {*np.unique(mask).tolist()} == expected
    colors = np.array([*space.palette, *[(0, 0, 0)] * 234, *space.void_colors])
    np.testing.assert_array_equal(colors[mask], np.asarray(Image.open(path)))


def test_ade20k_against_its_files(data_dir):
  """0 is void, and what is there fits a street: road, car, bus, street light, van."""
  space, labels = LABEL_SPACES["ade20k"], labels_of("ade20k")
  for path in sorted((data_dir / "layouts/ade20k/annotations").iterdir()):
    stored = np.asarray(Image.open(path)).astype(int)
    expected = np.where(stored > 0, stored - 1, VOID)
    np.testing.assert_array_equal(decode_mask(path, "m", labels), expected)
    reduced = label_map(space.classes, reduce_zero_label=True)
    np.testing.assert_array_equal(decode_mask(path, "m", reduced), expected)
  street = {space.classes[i] for i in np.unique(expected) if i != VOID}
  assert {"building", "sky", "tree", "road", "sidewalk", "car", "bus", "streetlight"} <= street
  named = {1: "wall", 2: "building", 3: "sky", 7: "road", 13: "person", 21: "car", 150: "flag"}
  assert {i: space.classes[i - 1] for i in named} == named


def test_camvid_and_pets_against_their_files(data_dir):
  labels = labels_of("camvid")
  path = sorted((data_dir / "camvid/val/masks").iterdir())[0]
  stored = np.asarray(Image.open(path))
  np.testing.assert_array_equal(
    decode_mask(path, "m", labels), np.where(stored == 11, VOID, stored)
  )
  assert dict(zip(LABEL_SPACES["camvid"].classes, LABEL_SPACES["camvid"].palette, strict=True)) == (
    unet_camvid.CLASSES
  )
  assert labels_of("pets").values == {1: 0, 2: 1, 3: 2} == datasets.PETS_LABELS.values


def test_cityscapes():
  """Ids as in gtFine's labelIds, with the train ids of the benchmark's 19 classes."""
  train_ids = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11,
               25: 12, 26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18}  # fmt: skip
  values = labels_of("cityscapes").values
  assert values == {i: train_ids.get(i, VOID) for i in range(-1, 34)}
  assert labels_of("cityscapes_train_ids").values == {i: i for i in range(19)} | {255: VOID}
  space = LABEL_SPACES["cityscapes"]
  assert space.classes[13] == "car" and space.palette[13] == (0, 0, 142)
  assert space.classes[18] == "bicycle" and space.palette[18] == (119, 11, 32)
  assert space.classes == LABEL_SPACES["cityscapes_train_ids"].classes


def test_keys_that_are_set_win():
  given = {"classes": (), "palette": (), "mask_values": (), "void_values": (9,), "channels": 3}
  filled = fill_in("pets", given)
  assert filled["classes"] == ("pet", "background", "outline")
  assert (filled["mask_values"], filled["void_values"], filled["channels"]) == ((1, 2, 3), (9,), 3)
  assert fill_in("pets", {"classes": ("a", "b", "c")})["classes"] == ("a", "b", "c")
  assert fill_in("", given) == given
  message = error_of(fill_in, "cityscapes", {"classes": ("a", "b")})
  assert "`classes` has 2 names" in message and "'cityscapes' has 19" in message
  given = {"classes": (), "mask_values": (), "reduce_zero_label": True}
  assert "`reduce_zero_label` contradicts `label_space`='voc'" in error_of(fill_in, "voc", given)
  assert fill_in("ade20k", given)["mask_values"] == tuple(range(1, 151))
  assert "`label_space` is 'kitti'" in error_of(fill_in, "kitti", given)


def test_a_folder_of_a_known_data_set(tmp_path):
  for part, value in ("images", 77), ("masks", 26):
    (tmp_path / part).mkdir()
    Image.fromarray(np.full((2, 3), value, np.uint8)).save(tmp_path / part / "a.png")
  info, source = open_folder(tmp_path, "all", FolderFormat((), label_space="cityscapes"))
  assert (info.classes[13], info.palette[13]) == ("car", (0, 0, 142))
  np.testing.assert_array_equal(source[0]["mask"], 13)
  options = {"data_dir": tmp_path, "classes": (), "palette": (), "channels": 3, "value_range": (),
             "label_space": "cityscapes"}  # fmt: skip
  assert datasets.describe("folder", "all", **options) == info
  assert datasets.load("folder", "all", **options)[0] == info
