"""Drawings of labelme and COCO as files, and damage to them."""

import copy
import json

import numpy as np

from jaxseg.data.label_spaces import LABEL_SPACES
from jaxseg.data.labels import label_map
from jaxseg.data.polygons import coco_masks

LABELS = label_map(("background", "cat", "dog"))
VOC = LABEL_SPACES["voc"]
VOC_LABELS = label_map(VOC.classes)
SQUARE = [[0, 0], [5, 0], [5, 5]]  # three of its corners
del_ = object()  # for `change`


def shape(label, *points, kind="polygon", **more):
  """One of labelme's shapes; points: (x, y) px."""
  return {"label": label, "points": [list(p) for p in points], "shape_type": kind, **more}


def labelme(*shapes, size=(12, 16), **more):
  """A file of labelme.  size: (height, width) px."""
  document = {"imageHeight": size[0], "imageWidth": size[1], "shapes": list(shapes), **more}
  return json.dumps(document).encode()


def saved(path, data):
  """The path, after the bytes are written to it."""
  path.write_bytes(data)
  return path


def box(height, width, *filled):
  """Zeros with rectangles (label, y0, y1, x0, x1) of inclusive limits."""
  array = np.zeros((height, width), np.uint8)
  for label, y0, y1, x0, x1 in filled:
    array[y0 : y1 + 1, x0 : x1 + 1] = label
  return array


def iou(a, b):
  """Of two boolean masks."""
  return (a & b).sum() / (a | b).sum()


def document(*annotations, images=((6, 8),), categories=("cat", "dog")):
  """What a JSON file of COCO holds.  images: (height, width) px of each."""
  return {
    "images": [
      {"id": 10 + i, "file_name": f"a{i}.jpg", "height": h, "width": w}
      for i, (h, w) in enumerate(images)
    ],
    "categories": [{"id": 5 + i, "name": name} for i, name in enumerate(categories)],
    "annotations": [
      {"id": i, "image_id": 10, "iscrowd": 0, **item} for i, item in enumerate(annotations)
    ],
  }


def rectangle(x0, y0, x1, y1):
  """A COCO segmentation."""
  return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def read(tmp_path, content):
  """{file name: mask} of what a COCO file holds."""
  return coco_masks(saved(tmp_path / "a.json", json.dumps(content).encode()))


def change(content, path, value):
  """A copy of nested content with another value at a path; `del_` removes it."""
  content = copy.deepcopy(content)
  *head, last = path
  part = content
  for key in head:
    part = part[key]
  if value is del_:
    del part[last]
  else:
    part[last] = value
  return content


GOOD = document({"category_id": 6, "segmentation": rectangle(1, 1, 3, 3)}, images=((6, 8), (3, 4)))
RLE = {"size": [6, 8], "counts": [8, 40]}
