"""Masks drawn from COCO's JSON, against arithmetic, pycocotools and VOC's masks; and its damage."""

import pickle
import sys

import numpy as np
import pytest
from drawings import (
  GOOD,
  LABELS,
  RLE,
  SQUARE,
  VOC,
  VOC_LABELS,
  box,
  change,
  del_,
  document,
  iou,
  labelme,
  read,
  rectangle,
  saved,
  shape,
)
from PIL import Image
from pycocotools import mask as coco
from pycocotools.coco import COCO
from tiny import error_of

from jaxseg import VOID
from jaxseg.data.labels import label_map
from jaxseg.data.masks import decode_mask, read_mask
from jaxseg.data.polygons import coco_masks


def test_small_objects_lie_on_large_ones_and_crowds_are_void(tmp_path):
  """In COCO, coordinates are edges of pixels: x from 1 to 3 are the columns 1 and 2."""
  content = document(
    {"category_id": 6, "segmentation": rectangle(1, 1, 3, 3)},
    {"category_id": 5, "segmentation": rectangle(0, 0, 6, 5)},
    {"category_id": 5, "segmentation": rectangle(5, 4, 8, 6), "iscrowd": 1},
    images=((6, 8), (3, 4)),
  )
  masks = pickle.loads(pickle.dumps(read(tmp_path, content)))
  assert list(masks) == ["a0.jpg", "a1.jpg"]
  expected = box(6, 8, (1, 0, 4, 0, 5), (VOID, 4, 5, 5, 7), (2, 1, 2, 1, 2))
  np.testing.assert_array_equal(decode_mask(masks["a0.jpg"], "m", LABELS), expected)
  np.testing.assert_array_equal(decode_mask(masks["a1.jpg"], "m", LABELS), np.zeros((3, 4)))
  np.testing.assert_array_equal(
    decode_mask(masks["a1.jpg"], "m", label_map(("cat", "dog"))), np.full((3, 4), VOID)
  )
  assert "label 'dog' is not a class" in error_of(
    decode_mask, masks["a0.jpg"], "m", label_map(("background", "cat"))
  )
  stored = read_mask(masks["a0.jpg"], "m", LABELS)
  assert stored.counts == {"_background_": 13, "cat": 25, "__ignore__": 6, "dog": 4}
  assert stored.format == "COCO"


def test_run_lengths_against_pycocotools(tmp_path):
  rng = np.random.default_rng(0)
  for height, width, share in (7, 9, 0.5), (1, 5, 0.2), (40, 300, 0.001), (50, 60, 0.999):
    stored = np.asfortranarray(rng.random((height, width)) < share)
    packed = coco.encode(stored.astype(np.uint8, order="F"))
    text = {"size": [height, width], "counts": packed["counts"].decode()}
    changes = np.flatnonzero(np.diff(stored.T.ravel().astype(int))) + 1
    runs = np.diff([0, *changes, stored.size]).tolist()
    plain = {"size": [height, width], "counts": [0] * int(stored[0, 0]) + runs}
    for segmentation in (text, plain):
      content = document(
        {"category_id": 6, "segmentation": segmentation}, images=((height, width),)
      )
      mask = decode_mask(read(tmp_path, content)["a0.jpg"], "m", LABELS)
      np.testing.assert_array_equal(mask == 2, stored)


def test_coco_against_pycocotools_and_the_masks_of_voc(data_dir):
  folder = data_dir / "layouts/coco"
  masks = coco_masks(folder / "annotations.json")
  api = COCO(folder / "annotations.json")
  assert len(masks) == len(api.imgs) == 3
  for image in api.imgs.values():
    mask = decode_mask(masks[image["file_name"]], "m", VOC_LABELS)
    parts = [(api.annToMask(item), item) for item in api.imgToAnns[image["id"]]]
    expected = np.zeros_like(mask)
    for part, item in sorted(parts, key=lambda pair: -int(pair[0].sum())):
      expected[part == 1] = VOC.classes.index(api.cats[item["category_id"]]["name"])
    np.testing.assert_array_equal(mask, expected)
    stem = image["file_name"].split("/")[-1].split(".")[0]
    voc = np.asarray(Image.open(data_dir / f"layouts/voc/SegmentationClass/{stem}.png"))
    for label in np.unique(mask[mask > 0]):
      judged = voc != VOID
      assert iou((mask == label) & judged, (voc == label) & judged) > 0.75, VOC.classes[label]


def test_without_pycocotools(tmp_path, monkeypatch):
  runs = {"size": [6, 8], "counts": [8, 40]}
  content = document({"category_id": 6, "segmentation": runs})
  outlines = document({"category_id": 6, "segmentation": rectangle(1, 1, 3, 3)})
  monkeypatch.setitem(sys.modules, "pycocotools", None)
  assert decode_mask(read(tmp_path, content)["a0.jpg"], "m", LABELS).sum() == 80
  message = error_of(decode_mask, read(tmp_path, outlines)["a0.jpg"], "m", LABELS)
  assert "pip install -e '.[formats]'" in message


BAD_COCO = [
  (("images",), del_),
  (("images",), {}),
  (("images", 0), 5),
  (("images", 0, "height"), del_),
  (("images", 0, "height"), 10**9),
  (("images", 0, "width"), "8"),
  (("images", 0, "file_name"), 7),
  (("images", 1, "file_name"), "a0.jpg"),
  (("images", 1, "id"), 10),
  (("images", 1, "id"), []),
  (("categories",), None),
  (("categories", 1, "id"), 5),
  (("categories", 0, "name"), None),
  (("annotations", 0), []),
  (("annotations", 0, "image_id"), 99),
  (("annotations", 0, "category_id"), 1),
  (("annotations", 0, "category_id"), {}),
]
BAD_OBJECTS = [
  None,
  7,
  "text",
  [7],
  [[1, 2, 3, 4]],
  [[1, 2, 3, 4, 5, 6, 7]],
  [[1, 2, 3, 4, 5, float("nan")]],
  [[1, 2, 3, 4, 5, 1e9]],
  [[1, 2, 3, 4, 5, 10**400]],
  [[1, 2, 3, 4, 5, "6"]],
  [[1, 2, 3, 4, 5, True]],
  {},
  {"size": [6, 8]},
  {**RLE, "size": [8, 6]},
  {**RLE, "size": "6x8"},
  {**RLE, "counts": [8, 39]},
  {**RLE, "counts": [8, 10**12]},
  {**RLE, "counts": [-8, 56]},
  {**RLE, "counts": [8.0, 40.0]},
  {**RLE, "counts": "zz~~~\x00"},
  {**RLE, "counts": "o" * 1000},
  {**RLE, "counts": "é"},
]


@pytest.mark.parametrize("path, value", BAD_COCO)
def test_damaged_coco_files(tmp_path, path, value):
  message = error_of(read, tmp_path, change(GOOD, path, value))
  assert message.startswith(f"{tmp_path}/a.json: ") and len(message) < 400
  read(tmp_path, GOOD)


@pytest.mark.parametrize("segmentation", BAD_OBJECTS)
def test_damaged_coco_objects(tmp_path, segmentation):
  masks = read(tmp_path, change(GOOD, ("annotations", 0, "segmentation"), segmentation))
  message = error_of(decode_mask, masks["a0.jpg"], "m", LABELS)
  place = f"{tmp_path}/a.json: image 'a0.jpg': annotation 1 ('dog')"
  assert message.startswith(place) and len(message) < 400 + len(str(tmp_path))


@pytest.mark.parametrize("nothing", [[], [[]], {"size": [6, 8], "counts": [48]}])
def test_objects_without_pixels_are_named(tmp_path, nothing):
  objects = [{"category_id": 5, "segmentation": x} for x in (rectangle(0, 0, 6, 5), nothing)]
  for number, expected in (1, []), (2, ["annotations without pixels are left out"]):
    notes, masks = [], read(tmp_path, document(*objects[:number]))
    assert (decode_mask(masks["a0.jpg"], "m", LABELS, notes=notes) > 0).sum() == 30
    assert notes == expected


def test_errors_name_the_json_file_and_what_in_it(tmp_path):
  """The second shape of a labelme file, and the third annotation of a COCO file, are wrong."""
  path = saved(tmp_path / "a.json", labelme(shape("cat", *SQUARE), shape("dog", (1, 1))))
  message = error_of(decode_mask, path, "mask of a.jpg", LABELS)
  assert message == f"{path}: shape 2 ('dog'): a polygon needs at least 3 points, but it has 1"
  items = [{"category_id": 5, "segmentation": x} for x in (RLE, RLE, [[1, 2]])]
  items[1]["image_id"] = 11
  masks = read(tmp_path, document(*items, images=((6, 8), (6, 8))))
  message = error_of(decode_mask, masks["a0.jpg"], "mask of a0.jpg", LABELS)
  assert message.startswith(f"{path}: image 'a0.jpg': annotation 3 ('cat'): a polygon needs 3")
  assert (decode_mask(masks["a1.jpg"], "m", LABELS) == 1).any()
