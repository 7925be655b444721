"""Masks drawn from labelme's and COCO's JSON, against arithmetic, pycocotools and VOC's masks."""

import base64
import copy
import io
import json
import pickle
import sys

import numpy as np
import pytest
from matplotlib.path import Path as Outline
from PIL import Image
from pycocotools import mask as coco
from pycocotools.coco import COCO
from tiny import error_of

from jaxseg import VOID, UserError
from jaxseg.data.decode import ImageFormat
from jaxseg.data.encoded import Encoded
from jaxseg.data.examine import examine
from jaxseg.data.label_spaces import LABEL_SPACES
from jaxseg.data.labels import label_map
from jaxseg.data.masks import decode_mask, read_mask
from jaxseg.data.polygons import CocoMask, coco_masks, draw_coco, draw_labelme

LABELS = label_map(("background", "cat", "dog"))
VOC, PETS = LABEL_SPACES["voc"], LABEL_SPACES["pets"]
VOC_LABELS = label_map(VOC.classes)


def shape(label, *points, kind="polygon", **more):
  return {"label": label, "points": [list(p) for p in points], "shape_type": kind, **more}


def labelme(*shapes, size=(12, 16), **more):
  document = {"imageHeight": size[0], "imageWidth": size[1], "shapes": list(shapes), **more}
  return json.dumps(document).encode()


def saved(path, data):
  path.write_bytes(data)
  return path


def box(height, width, *filled):
  """Zeros with rectangles (label, y0, y1, x0, x1) of inclusive limits."""
  array = np.zeros((height, width), np.uint8)
  for label, y0, y1, x0, x1 in filled:
    array[y0 : y1 + 1, x0 : x1 + 1] = label
  return array


def test_labelme_shapes(tmp_path):
  """Later shapes lie on earlier ones; outlines count; groups and flags do not matter."""
  data = labelme(
    shape("cat", (1, 2), (6, 2), (6, 8), (1, 8), group_id=3, flags={"hard": True}),
    shape("dog", (9, 7), (4, 5), kind="rectangle"),
    shape("__ignore__", (-4, 10), (20, 10), (20, 20), (-4, 20)),
    {**shape("cat", (15, 0), (15, 1), (14, 0)), "shape_type": None},
    flags={}, imageData="no image at all",
  )  # fmt: skip
  expected = box(12, 16, (1, 2, 8, 1, 6), (2, 5, 7, 4, 9), (VOID, 10, 11, 0, 15), (1, 0, 0, 14, 15))
  expected[1, 15] = 1
  path = saved(tmp_path / "a.JSON", data)
  mask = decode_mask(path, "m", LABELS)
  assert mask.dtype == np.uint8
  np.testing.assert_array_equal(mask, expected)
  np.testing.assert_array_equal(decode_mask(str(path), "m", LABELS), expected)


def test_labelme_lines_circles_and_points(tmp_path):
  """As labelme draws them: lines 10 px wide, points with a radius of 5 px."""
  y, x = np.mgrid[:40, :60]
  for kind, points, distance, radius in (
    ("circle", [(20, 15), (20, 25)], np.hypot(x - 20, y - 15), 10),
    ("point", [(30, 20)], np.hypot(x - 30, y - 20), 5),
    ("line", [(-5, 12), (70, 12)], abs(y - 12), 5),
    ("linestrip", [(-5, 12), (25, 12), (70, 12)], abs(y - 12), 5),
  ):
    data = labelme(shape("cat", *points, kind=kind), size=(40, 60))
    mask = decode_mask(saved(tmp_path / "a.json", data), "m", LABELS)
    assert (mask[distance < radius - 1] == 1).all() and (mask[distance > radius + 1] == 0).all()


def inner_mask(array):
  buffer = io.BytesIO()
  Image.fromarray(array).save(buffer, "PNG")
  return base64.b64encode(buffer.getvalue()).decode()


def test_labelme_masks(tmp_path):
  """Of labelme's tool that segments for you: a PNG of 0 and 1 between two corners, inclusive."""
  inside = np.array([[1, 0, 1], [0, 1, 0]], np.uint8)
  data = labelme(
    shape("cat", (0, 0), (15, 11), kind="rectangle"),
    shape("dog", (4.0, 3.0), (6.0, 4.0), kind="mask", mask=inner_mask(inside)),
    shape("dog", (-1, 10), (1, 11), kind="mask", mask=inner_mask(inside * 255)),  # half outside
  )
  expected = box(12, 16, (1, 0, 11, 0, 15))
  expected[3:5, 4:7][inside == 1] = 2
  expected[10:, :2][inside[:, 1:] == 1] = 2
  np.testing.assert_array_equal(
    decode_mask(saved(tmp_path / "a.json", data), "m", LABELS), expected
  )


def test_labelme_polygons_of_any_form(tmp_path):
  """Inside and outside of random stars, away from the outline, by matplotlib."""
  rng = np.random.default_rng(0)
  y, x = np.mgrid[:64, :80]
  pixels = np.stack([x.ravel(), y.ravel()], -1)
  for _ in range(5):
    angles, radii = np.sort(rng.uniform(0, 2 * np.pi, 9)), rng.uniform(5, 40, 9)
    points = np.stack([40 + radii * np.cos(angles), 32 + radii * np.sin(angles)], -1)
    points = points.clip(0, 79)
    data = labelme(shape("dog", *points.tolist()), size=(64, 80))
    mask = decode_mask(saved(tmp_path / "a.json", data), "m", LABELS).ravel()
    inside = Outline(points).contains_points(pixels)
    start, step = points, np.roll(points, -1, 0) - points
    along = ((pixels[:, None] - start) * step).sum(-1) / (step**2).sum(-1)
    nearest = start + along.clip(0, 1)[..., None] * step
    far = np.hypot(*np.moveaxis(pixels[:, None] - nearest, -1, 0)).min(-1) > 1.5
    assert 300 < inside.sum() < 4000 and far.sum() > 3000
    np.testing.assert_array_equal(mask[far] == 2, inside[far])


def test_pixels_without_a_shape(tmp_path):
  """Of the class that is called background, else void; `mask_values` can say more."""
  path = saved(tmp_path / "a.json", labelme(shape("cat", (0, 0), (15, 0), (15, 5), (0, 5))))
  cats = box(12, 16, (1, 0, 5, 0, 15)) == 1
  for classes, keys, expected in (
    (("background", "cat"), {}, (0, 1)),
    (("cat", "Background"), {}, (1, 0)),
    (("cat", "_background_"), {}, (1, 0)),
    (("other", "cat"), {}, (VOID, 1)),
    (("other", "cat"), {"mask_values": ("_background_", "cat")}, (0, 1)),
    (("other", "animal"), {"mask_values": ("_background_", ("dog", "cat"))}, (0, 1)),
    (("background", "dog"), {"void_values": ("cat", 7)}, (0, VOID)),
    (("background", "dog"), {"mask_values": (("cat", "_background_"), "dog")}, (0, 0)),
  ):
    mask = decode_mask(path, "m", label_map(classes, **keys))
    np.testing.assert_array_equal(mask, np.where(cats, expected[1], expected[0]))
  empty = saved(tmp_path / "b.json", labelme())
  assert not decode_mask(empty, "m", LABELS).any()


def test_labels_that_are_no_classes(tmp_path):
  square = (0, 0), (5, 0), (5, 5)
  data = labelme(shape("cow", *square), shape("a\nb", *square), shape("dog", *square))
  path = saved(tmp_path / "a.json", data)
  message = error_of(decode_mask, path, "mask of a.jpg", label_map(("x", "dog"), void_values=(7,)))
  assert message.startswith(f"{path}: label 'cow', 'a\\nb' is not a class")  # though hidden
  assert "dog" in message and "`void_values`=(7,'cow','a\\nb')" in message
  followed = label_map(("x", "dog"), void_values=(7, "cow", "a\nb"))
  assert {*np.unique(decode_mask(path, "m", followed))} == {1, VOID}


def test_image_and_drawing_of_different_sizes(tmp_path):
  Image.fromarray(np.zeros((12, 17), np.uint8)).save(tmp_path / "a.png")
  record = {"image": tmp_path / "a.png", "mask": saved(tmp_path / "a.json", labelme())}
  source = Encoded([{**record, "name": "a.png"}], ImageFormat(3), LABELS)
  message = error_of(source.__getitem__, 0)
  assert "17x12" in message and "16x12" in message


def test_polygons_are_examined_like_images(tmp_path):
  """check_data counts them: a triangle of 21 pixels, without its hidden labels."""
  Image.fromarray(np.arange(192, dtype=np.uint8).reshape(12, 16)).save(tmp_path / "a.png")
  corners = (0, 0), (5, 0), (5, 5)
  Image.fromarray(np.eye(12, 16, dtype=np.uint8)).save(tmp_path / "diagonal.png")
  square = {"category_id": 6, "segmentation": rectangle(1, 1, 3, 3)}
  for mask, kind, counts in (
    (saved(tmp_path / "b.json", labelme(shape("cat", *corners))), "labelme", [171, 21, 0, 0]),
    (read(tmp_path, document(square, images=((12, 16),)))["a0.jpg"], "COCO", [188, 0, 4, 0]),
    ({"dog": [tmp_path / "diagonal.png"]}, "PNG per label", [180, 0, 12, 0]),
  ):
    record = {"image": tmp_path / "a.png", "mask": mask, "name": "a.png"}
    example = examine(Encoded([record], ImageFormat(1), LABELS), 3, 0)
    assert not example.findings and not example.fault
    assert example.formats == {"image": "PNG grey 8 bit", "mask": kind}
    assert example.counts.tolist() == counts
  record["mask"] = saved(tmp_path / "a.json", labelme(shape("cow", *corners)))
  example = examine(Encoded([record], ImageFormat(1), LABELS), 3, 0)
  assert "label 'cow' is not a class" in example.fault
  record["mask"] = saved(tmp_path / "a.json", b"no JSON")
  (finding,) = examine(Encoded([record], ImageFormat(1), LABELS), 3, 0).findings
  assert finding.kind == "masks that cannot be read"


SQUARE = [[0, 0], [5, 0], [5, 5]]
DAMAGED = {
  "nothing": b"",
  "text": b"no JSON",
  "bytes": bytes(range(256)),
  "a list": b"[]",
  "deep": b"[" * 100_000,
  "deep object": b'{"shapes":' * 100_000,
  "no shapes": json.dumps({"imageHeight": 5, "imageWidth": 5}).encode(),
  "no size": json.dumps({"shapes": []}).encode(),
  "huge": labelme(size=(10**9, 10**9)),
  "size of 5000 digits": labelme().replace(b"12", b"9" * 5000),
  "size 0": labelme(size=(0, 5)),
  "negative size": labelme(size=(-3, -3)),
  "size is true": labelme(size=(True, True)),
  "size is a fraction": labelme(size=(4.5, 5)),
  "shapes are text": json.dumps({"imageHeight": 5, "imageWidth": 5, "shapes": "x"}).encode(),
  "a shape is a number": labelme(5),
  "no label": labelme({"points": SQUARE}),
  "label is a number": labelme(shape(5, *SQUARE)),
  "no points": labelme({"label": "cat"}),
  "two points": labelme(shape("cat", *SQUARE[:2])),
  "three numbers": labelme(shape("cat", (1, 2, 3), *SQUARE)),
  "NaN": labelme(shape("cat", (float("nan"), 0), *SQUARE)),
  "infinity": labelme(shape("cat", (float("inf"), 0), *SQUARE)),
  "far away": labelme(shape("cat", (10**12, 0), *SQUARE)),
  "400 digits": labelme(shape("cat", (10**400, 0), *SQUARE)),
  "text as number": labelme(shape("cat", ("1", "2"), *SQUARE)),
  "unknown kind": labelme(shape("cat", *SQUARE, kind="oriented_rectangle")),
  "mask of three": labelme(shape("cat", *SQUARE, kind="mask", mask="")),
  "mask without pixels": labelme(shape("cat", (0, 0), (1, 1), kind="mask")),
  "mask of text": labelme(shape("cat", (0, 0), (1, 1), kind="mask", mask="\n!")),
  "mask that does not fit": labelme(
    shape("cat", (0, 0), (1, 1), kind="mask", mask=inner_mask(np.eye(3, dtype=np.uint8)))
  ),
  "kind is a list": labelme(shape("cat", *SQUARE, kind=["polygon"])),
  "rectangle of three": labelme(shape("cat", *SQUARE, kind="rectangle")),
  "300 labels": labelme(*(shape(f"c{i}", *SQUARE) for i in range(300))),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_labelme_files(tmp_path, kind):
  path = saved(tmp_path / "a.json", DAMAGED[kind])
  message = error_of(decode_mask, path, "mask of a.jpg", LABELS)
  assert message.startswith(f"{path}: ") and len(message) < 400


def test_a_file_that_is_missing(tmp_path):
  path = tmp_path / "a.json"
  assert error_of(decode_mask, path, "m", LABELS).startswith(f"{path}: ")
  assert error_of(coco_masks, tmp_path / "a.json").startswith(str(tmp_path))


def iou(a, b):
  return (a & b).sum() / (a | b).sum()


def test_labelme_against_the_masks_of_voc(data_dir):
  """Drawn by others, for the same photographs."""
  for number, names in (3, "person bottle"), (6, "person chair sofa"), (25, "bus car"):
    folder = data_dir / "layouts/labelme"
    mask = decode_mask(folder / f"2011_{number:06}.json", "m", VOC_LABELS)
    voc = np.asarray(Image.open(data_dir / f"layouts/voc/SegmentationClass/2011_{number:06}.png"))
    assert mask.shape == voc.shape
    for name in names.split():
      label = VOC.classes.index(name)
      judged = (voc != VOID) & (mask != VOID)
      assert iou((mask == label) & judged, (voc == label) & judged) > 0.8, name
    image = Image.open(folder / f"2011_{number:06}.jpg")
    assert mask.shape == image.size[::-1]


# COCO.


def document(*annotations, images=((6, 8),), categories=("cat", "dog")):
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
  return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def read(tmp_path, content):
  return coco_masks(saved(tmp_path / "a.json", json.dumps(content).encode()))


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


def change(content, path, value):
  """A copy of nested content with another value at a path; `del` removes it."""
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


del_ = object()
GOOD = document({"category_id": 6, "segmentation": rectangle(1, 1, 3, 3)}, images=((6, 8), (3, 4)))
RLE = {"size": [6, 8], "counts": [8, 40]}
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
  [[]],
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
  assert draw_coco(CocoMask((2, 2), (("dog", False, [], 1),)), "m")[1].sum() == 0  # an empty list


def places(content, path=()):
  """The paths of all members of nested content."""
  for key in content if isinstance(content, dict) else range(len(content)):
    yield (*path, key)
    if isinstance(content[key], dict | list):
      yield from places(content[key], (*path, key))


VALUES = [None, -1, 0, 3, 99, 0.5, 1e300, float("nan"), 10**30, True, "", "x", [], [[]], {}, del_]


def test_json_that_was_damaged_at_random(tmp_path):
  """Bytes that flipped, and members of the wrong kind: the right result or one line."""
  rng = np.random.default_rng(0)
  runs = {"category_id": 5, "segmentation": RLE}
  drawing = labelme(shape("cat", *SQUARE), shape("dog", (3, 3), (9, 9), kind="rectangle"))
  objects = document(runs, *GOOD["annotations"], images=((6, 8), (3, 4)))
  outcomes = []
  for i in range(500):
    content = json.loads(drawing) if i % 2 else objects
    paths = [*places(content)]
    if i % 3:
      value = VALUES[rng.integers(len(VALUES))]
      data = json.dumps(change(content, paths[rng.integers(len(paths))], value)).encode()
    else:
      data = np.frombuffer(json.dumps(content).encode(), np.uint8).copy()
      data[rng.integers(len(data))] = rng.integers(32, 256)
      data = data.tobytes()
    path = saved(tmp_path / "a.json", data)
    try:
      if i % 2:
        results = [draw_labelme(path, "m")]
      else:
        results = [draw_coco(mask, "m") for mask in coco_masks(path).values()]
      for names, index in results:
        assert index.dtype == np.uint8 and index.max() < len(names)
      outcomes.append("read")
    except UserError as error:
      assert "\n" not in str(error) and str(error).startswith(("m: ", str(path))), error
      outcomes.append("refused")
  assert min(outcomes.count("read"), outcomes.count("refused")) > 50


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


@pytest.mark.parametrize("first", ["Background", "sky"])
def test_the_remedy_for_names_that_are_classes_works(tmp_path, first):
  """The flag has the classes in their order, and then the new ones."""
  data = labelme(shape("cow", *SQUARE), shape("dog", (8, 8), (12, 8), (12, 11)))
  path = saved(tmp_path / "a.json", data)
  message = error_of(decode_mask, path, "m", label_map((first, "cat")))
  classes = (first, "cat", "cow", "dog")
  text = "('" + "','".join(classes) + "')"
  assert f'set --`classes`="{text}"; ' in message
  assert {2, 3} <= {*np.unique(decode_mask(path, "m", label_map(classes)))}
  # Where one key is not enough, both are named.
  for keys in {"mask_values": ("x", "cat")}, {"mask_values": (3, 4)}:
    message = error_of(decode_mask, path, "m", label_map((first, "cat"), **keys))
    assert "name it in `classes` or `mask_values`; " in message
  assert "and `label_space` to ''" in error_of(decode_mask, path, "m", label_map(PETS.classes))
