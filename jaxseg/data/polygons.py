"""Draws masks from outlines: labelme's JSON files and the JSON of COCO instances."""

import base64
import dataclasses
import io
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from jaxseg import UserError
from jaxseg.data.labels import BACKGROUND, IGNORE
from jaxseg.data.raster import Path, check_png, decoding

MAX_PIXELS = 1 << 28  # of a mask that JSON declares
MAX_NAMES = 255  # labels in one mask
LINE_WIDTH, POINT_RADIUS = 10, 5  # px, as labelme draws what has no area
# Shapes of labelme: (least number of points, largest).
SHAPES = {
  "polygon": (3, math.inf),
  "rectangle": (2, 2),
  "circle": (2, 2),
  "line": (2, 2),
  "linestrip": (2, math.inf),
  "point": (1, 1),
  "mask": (2, 2),  # corners of a PNG that the shape holds
}
KINDS = {dict: "an object", list: "a list", str: "text", int: "a whole number"}  # of JSON


@dataclasses.dataclass(frozen=True)
class CocoMask:
  """The objects of one image in a COCO file; see `coco_masks`.

  Attributes:
    size: (height, width), px.
    objects: (label, is_crowd, segmentation, number of the annotation) of each, where a segmentation
      is a list of polygons [x0, y0, x1, y1, ...] or a run-length encoding.
    where: the file and the image in it, for errors.
  """

  size: tuple[int, int]
  objects: tuple[tuple[str, bool, Any, int], ...]
  where: str = ""


def draw_labelme(data: bytes | Path, name: str) -> tuple[list[str], np.ndarray]:
  """The mask of a labelme file; later shapes lie on earlier ones.

  Shapes are drawn as labelme exports them: an outline belongs to its shape, lines are 10 px wide,
  and points have a radius of 5 px. Groups and flags do not matter.

  Args:
    data: JSON or its path.  name: in errors.
  Returns:
    (names of the labels, u8[H,W] of their positions); position 0 is "_background_", no shape.
  Raises:
    UserError: it is damaged, or has a shape that cannot be drawn.
  """
  document = _load(data, name)
  shapes = _member(document, "shapes", list, name)
  height, width = _size(document, "imageHeight", "imageWidth", name)
  picture = Image.new("L", (width, height))
  draw = ImageDraw.Draw(picture)
  names = [BACKGROUND]
  for i, shape in enumerate(shapes, 1):
    where = f"{name}: shape {i}"
    label = _member(_checked(shape, dict, where), "label", str, where)
    where = f"{where} ({label[:40]!r})"
    kind = shape.get("shape_type") or "polygon"  # which old files do not name
    if not isinstance(kind, str) or kind not in SHAPES:
      raise UserError(
        f"{where}: {str(kind)[:40]!r} cannot be drawn: use one of {', '.join(SHAPES)}"
      )
    points = [
      _numbers(point, 2, (width, height), where) for point in _member(shape, "points", list, where)
    ]
    low, high = SHAPES[kind]
    if not low <= len(points) <= high:
      number = f"{low}" if low == high else f"at least {low}"
      raise UserError(f"{where}: a {kind} needs {number} points, but it has {len(points)}")
    value = _position(names, label, name)
    if kind == "mask":
      inside, corner = _inner_mask(_member(shape, "mask", str, where), points, where)
      picture.paste(value, corner, inside)
    else:
      _draw(draw, kind, points, value)
  return names, np.asarray(picture)


def _inner_mask(text, points, where):
  """(1-bit image of a shape of kind "mask", its upper left corner)"""
  x0, y0, x1, y1 = (round(value) for point in points for value in point)
  data = b""
  with decoding(where):
    data = base64.b64decode(text)
    if data.startswith(b"\x89PNG"):
      check_png(data)
  with decoding(where), Image.open(io.BytesIO(data)) as image:
    if image.size != (x1 - x0 + 1, y1 - y0 + 1):
      raise ValueError("its mask does not fit its corners: draw it again")
    return Image.fromarray(np.asarray(image.convert("L")) > 0), (x0, y0)


def _draw(draw, kind, points, value):
  options = {"fill": value, "outline": value}
  if kind == "polygon":
    draw.polygon(points, **options)
  elif kind == "rectangle":
    (x0, x1), (y0, y1) = (sorted(axis) for axis in zip(*points, strict=True))
    draw.rectangle([x0, y0, x1, y1], **options)
  elif kind in ("line", "linestrip"):
    draw.line(points, fill=value, width=LINE_WIDTH)
  else:
    (x, y), radius = points[0], POINT_RADIUS
    if kind == "circle":
      radius = math.dist(*points)
    draw.ellipse([x - radius, y - radius, x + radius, y + radius], **options)


def coco_masks(path: Path) -> dict[str, CocoMask]:
  """Reads a COCO file of instances: {file_name: CocoMask} of its images.

  Images without annotations have a mask without objects.

  Raises:
    UserError: it is damaged, or refers to images or categories that it does not have.
  """
  name = str(path)
  document = _load(path, name)
  labels, sizes, files, objects, taken = {}, {}, {}, {}, set()
  for i, category in enumerate(_member(document, "categories", list, name), 1):
    where = f"{name}: category {i}"
    key = _member(_checked(category, dict, where), "id", int, where)
    label = _member(category, "name", str, where)
    if labels.setdefault(key, label) != label:
      raise UserError(f"{where}: its id {key} is also that of {labels[key]!r}: give it its own")
  for i, image in enumerate(_member(document, "images", list, name), 1):
    where = f"{name}: image {i}"
    key = _member(_checked(image, dict, where), "id", int, where)
    file = _member(image, "file_name", str, where)
    if key in files or file in taken:
      raise UserError(f"{where}: its id or its file_name {file!r} occurs twice: give it its own")
    taken.add(file)
    files[key], sizes[key] = file, _size(image, "height", "width", where)
    objects[key] = []
  for i, item in enumerate(_member(document, "annotations", list, name), 1):
    where = f"{name}: annotation {i}"
    image = _member(_checked(item, dict, where), "image_id", int, where)
    label = _member(item, "category_id", int, where)
    if image not in files or label not in labels:
      raise UserError(
        f"{where}: there is no image {image} or no category {label}: add it, or remove this"
      )
    is_crowd, segmentation = bool(item.get("iscrowd")), item.get("segmentation")
    objects[image].append((labels[label], is_crowd, segmentation, i))
  return {
    file: CocoMask(sizes[key], tuple(objects[key]), f"{name}: image {file[:80]!r}")
    for key, file in files.items()
  }


def draw_coco(
  mask: CocoMask, name: str, notes: list[str] | None = None
) -> tuple[list[str], np.ndarray]:
  """The mask of an image in a COCO file; smaller objects lie on larger ones.

  Crowds are "__ignore__", which is VOID. Polygons are rasterised by pycocotools.

  Args:
    notes: list that collects what is not used, in words that follow "FILE: ".
  Returns:
    see `draw_labelme`
  Raises:
    UserError: a segmentation is damaged, or pycocotools is needed and not installed.
  """
  (height, width), objects = mask.size, []
  for label, is_crowd, segmentation, number in mask.objects:
    runs = _runs(segmentation, mask.size, f"{name}: annotation {number} ({label[:40]!r})")
    objects.append((sum(runs[1::2]), IGNORE if is_crowd else label, runs))
  if notes is not None and not all(area for area, *_ in objects):
    notes.append("annotations without pixels are left out")
  names, columns = [BACKGROUND], np.zeros(height * width, np.uint8)  # runs go down the columns
  for _, label, runs in sorted(objects, key=lambda item: -item[0]):
    columns[np.repeat(np.arange(len(runs)) % 2 == 1, runs)] = _position(names, label, name)
  return names, np.ascontiguousarray(columns.reshape(width, height).T)


def _runs(segmentation, size, where):
  """Lengths of the runs of 0, 1, 0 ... of a list of polygons or of a run-length encoding."""
  height, width = size
  if isinstance(segmentation, Mapping):
    counts = segmentation.get("counts")
    if isinstance(counts, str):
      counts = _counts(counts, where)
    is_list = isinstance(counts, list) and all(type(n) is int and n >= 0 for n in counts)
    if not is_list or sum(counts) != height * width or segmentation.get("size") != [height, width]:
      raise UserError(f"{where}: its run lengths do not fill the image: export it again")
    return counts
  rings = []
  for ring in _checked(segmentation, list, f"{where}: its segmentation"):
    if ring == []:
      continue
    rings.append(_numbers(ring, None, (width, height), where))
    if len(ring) < 6 or len(ring) % 2:
      raise UserError(f"{where}: a polygon needs 3 points, x and y of each: correct or remove it")
  if not rings:
    return [height * width]
  try:
    from pycocotools import mask as coco
  except ModuleNotFoundError as error:
    raise UserError(
      f"{where}: its polygons need pycocotools: run pip install -e '.[formats]' in the checkout of "
      "jaxseg"
    ) from error
  with decoding(where):
    packed = coco.merge(coco.frPyObjects(rings, height, width))
  return _counts(packed["counts"].decode(), where)


def _counts(text, where):
  """The run lengths of a compressed encoding, as in COCO's maskApi: signed numbers in groups of
  five bits, lowest first, and from the fourth number on the difference to the second last."""
  counts, number, shift = [], 0, 0
  for character in text:
    bits = ord(character) - 48
    if not 0 <= bits < 64 or shift > 60:
      raise UserError(f"{where}: its run lengths are damaged: export it again")
    number |= (bits & 31) << shift
    shift += 5
    if not bits & 32:
      if bits & 16:
        number -= 1 << shift
      counts.append(number + (counts[-2] if len(counts) > 2 else 0))
      number, shift = 0, 0
  return counts


def _load(data, name):
  if not isinstance(data, bytes):
    with decoding(name):
      data = pathlib.Path(data).read_bytes()
  try:
    content = json.loads(data)
  except (ValueError, RecursionError) as error:
    raise UserError(f"{name}: cannot be decoded (not JSON: {error})") from error
  return _checked(content, dict, f"{name}: its content")


def _checked(value, kind, where):
  if type(value) is not kind:
    raise UserError(f"{where} has to be {KINDS[kind]}, but is {str(value)[:40]!r}: export it again")
  return value


def _member(entries, key, kind, where):
  if key not in entries:
    raise UserError(f"{where}: has no {key!r}: export it again")
  return _checked(entries[key], kind, f"{where}: {key!r}")


def _size(entries, height, width, where):
  size = tuple(_member(entries, key, int, where) for key in (height, width))
  if not (min(size) > 0 and size[0] * size[1] <= MAX_PIXELS):
    raise UserError(
      f"{where}: its size is {size[1]:,} x {size[0]:,} px: use 1 to {MAX_PIXELS:,} pixels"
    )
  return size


def _numbers(values, length, size, where):
  """A tuple of coordinates, none of them far outside an image of (width, height)."""
  values = tuple(_checked(values, list, f"{where}: a point"))
  limits = [(-side, 2 * side) for side in size]
  if length not in (None, len(values)):
    raise UserError(f"{where}: a point has {len(values)} numbers, but needs x and y")
  for i, value in enumerate(values):
    low, high = limits[i % 2]
    if type(value) not in (int, float) or not low <= value <= high:
      raise UserError(
        f"{where}: {str(value)[:40]!r} is no coordinate in an image of {size[0]} x {size[1]} px: "
        "correct or remove it"
      )
  return values


def _position(names, label, name):
  """The position of a label in `names`, to which it is added."""
  if label not in names:
    names.append(label)
  if len(names) > MAX_NAMES:
    raise UserError(f"{name}: has more than {MAX_NAMES} labels: name fewer classes")
  return names.index(label)
