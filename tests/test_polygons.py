"""Masks drawn from labelme's JSON, against arithmetic, matplotlib and VOC's masks; and damage."""

import base64
import io
import json

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
  saved,
  shape,
)
from matplotlib.path import Path as Outline
from PIL import Image
from tiny import error_of

from jaxseg import VOID, UserError
from jaxseg.data.decode import ImageFormat
from jaxseg.data.encoded import Encoded
from jaxseg.data.label_spaces import LABEL_SPACES
from jaxseg.data.labels import label_map
from jaxseg.data.masks import decode_mask
from jaxseg.data.polygons import coco_masks, draw_coco, draw_labelme


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
  pets = label_map(LABEL_SPACES["pets"].classes)
  assert "and `label_space` to ''" in error_of(decode_mask, path, "m", pets)
