"""Pictures, pixel by pixel where it is known what a pixel should be."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from jaxseg import VOID, visualize
from jaxseg.visualize import (
  curves,
  data_sheet,
  label_map,
  overlay,
  plot_confusion,
  prediction_sheet,
)

PALETTE = ((10, 20, 30), (250, 100, 0), (0, 0, 200))
CLASSES = ("sky", "road", "a rather long name of a class")


@pytest.fixture
def labels():
  labels = np.random.default_rng(0).integers(0, 3, (11, 17), dtype=np.uint8)
  labels[2:4, 5:9] = VOID
  return labels


def test_palette():
  table = visualize.full_palette(PALETTE)
  assert (table.shape, table.dtype) == ((256, 3), np.uint8)
  assert [tuple(colour) for colour in table[:3]] == list(PALETTE)
  assert tuple(table[VOID]) == (255, 255, 255)
  assert (table[3:VOID] == 128).all()


def test_the_suffix_is_the_format(tmp_path):
  plot_confusion(tmp_path / "x.pdf", np.eye(2), ("a", "b"), "")
  assert (tmp_path / "x.pdf").read_bytes().startswith(b"%PDF")


def test_a_picture_is_whole_or_that_of_before(tmp_path, monkeypatch):
  path = tmp_path / "x.png"
  plot_confusion(path, np.eye(2), ("a", "b"), "")
  before = path.read_bytes()

  def stop(self, file, **_):
    (file.write if hasattr(file, "write") else open(file, "wb").write)(b"half")
    raise KeyboardInterrupt

  monkeypatch.setattr(visualize.Figure, "savefig", stop)
  with pytest.raises(KeyboardInterrupt):
    plot_confusion(path, np.eye(2), ("a", "b"), "")
  assert path.read_bytes() == before and [*tmp_path.iterdir()] == [path]


def test_label_map_round_trip(tmp_path, labels):
  label_map(labels, PALETTE).save(tmp_path / "x.png")
  image = Image.open(tmp_path / "x.png")
  assert (image.format, image.mode, image.size) == ("PNG", "P", (17, 11))
  np.testing.assert_array_equal(np.asarray(image), labels)
  colours = np.asarray(image.convert("RGB"))
  for y in range(11):
    for x in range(17):
      label = labels[y, x]
      expected = (255, 255, 255) if label == VOID else PALETTE[label]
      assert tuple(colours[y, x]) == expected
  np.testing.assert_array_equal(visualize.colour_labels(labels, PALETTE), colours)


@pytest.mark.parametrize("channels", [1, 3])
def test_overlay_tints_and_outlines(channels):
  rng = np.random.default_rng(1)
  image = rng.integers(0, 256, (12, 20, channels), dtype=np.uint8)
  labels = np.zeros((12, 20), np.uint8)
  labels[4:9, 6:15] = 1
  picture = overlay(image, labels, PALETTE, opacity=0.25)
  assert (picture.shape, picture.dtype) == ((12, 20, 3), np.uint8)
  grey = np.broadcast_to(image, (12, 20, 3)).astype(float)
  for y in range(12):
    for x in range(20):
      colour = np.array(PALETTE[labels[y, x]])
      around = labels[max(0, y - 1) : y + 2, x], labels[y, max(0, x - 1) : x + 2]
      if any(label < labels[y, x] for label in np.concatenate(around)):
        np.testing.assert_array_equal(picture[y, x], colour)
      else:
        np.testing.assert_allclose(picture[y, x], 0.75 * grey[y, x] + 0.25 * colour, atol=0.51)


def test_the_outline_is_as_wide_on_all_sides_and_void_has_none():
  labels = np.full((9, 9), 255, np.uint8)
  labels[1:8, 1:8] = 1
  labels[3:6, 3:6] = 2
  picture = overlay(np.zeros((9, 9, 3), np.uint8), labels.astype(int), PALETTE, opacity=0)
  drawn = picture.any(-1)
  np.testing.assert_array_equal(drawn, drawn[::-1])
  np.testing.assert_array_equal(drawn, drawn.T)
  assert drawn[4].tolist() == [False, True, False, True, False, True, False, True, False]


def test_overlay_of_one_class_is_the_image_behind_a_tint():
  image = np.random.default_rng(1).integers(0, 256, (9, 9, 3), dtype=np.uint8)
  labels = np.zeros((9, 9), np.uint8)
  np.testing.assert_array_equal(overlay(image, labels, PALETTE, opacity=0), image)
  picture = overlay(image, labels, PALETTE).astype(float)
  # More of the image than of the colour: what was different stays different.
  slope = np.polyfit(image[..., 0].ravel(), picture[..., 0].ravel(), 1)[0]
  assert 0.5 < slope < 0.7


def test_overlay_of_a_large_image_is_subsampled(monkeypatch):
  rng = np.random.default_rng(1)
  image = rng.integers(0, 256, (25, 10, 3), dtype=np.uint8)
  labels = rng.integers(0, 3, (25, 10), dtype=np.uint8)
  expected = overlay(image[::3, ::3], labels[::3, ::3], PALETTE)
  monkeypatch.setattr(visualize, "MAX_OVERLAY", 24)
  assert overlay(image[:24], labels[:24], PALETTE).shape == (24, 10, 3)
  assert overlay(image, labels, PALETTE).shape == (13, 5, 3)
  monkeypatch.setattr(visualize, "MAX_OVERLAY", 12)
  np.testing.assert_array_equal(overlay(image, labels, PALETTE), expected)


def pixels(path):
  return np.asarray(Image.open(path).convert("RGB"))


def has_colour(picture, colour):
  return int((np.abs(picture.astype(int) - colour).max(-1) <= 1).sum())


def test_sheet(tmp_path, labels):
  grey = np.random.default_rng(0).integers(60, 90, (11, 17, 1), dtype=np.uint8)
  samples = [(grey, labels, np.full_like(labels, 2))] * 2
  path = tmp_path / "plots" / "sheet.png"
  prediction_sheet(path, samples, CLASSES, PALETTE, "step 7: mean IoU 0.123, test")
  picture = pixels(path)
  for colour in PALETTE:
    assert has_colour(picture, colour) > 500
  # Left third the input, then the truth, then the prediction, which knows but one class.
  left, middle, right = np.array_split(picture[60:-60], 3, axis=1)
  assert has_colour(left, PALETTE[1]) == 0 and has_colour(left, (75, 75, 75)) > 100
  assert has_colour(middle, PALETTE[1]) > 1000 and has_colour(middle, PALETTE[2]) > 1000
  assert has_colour(right, PALETTE[1]) == 0
  # VOID takes 8 of 187 pixels, and the prediction is white there, too.
  blue = has_colour(right, PALETTE[2])
  prediction_sheet(path, [(grey, labels * 0, samples[0][2])] * 2, CLASSES, PALETTE, "no void")
  blue_without_void = has_colour(np.array_split(pixels(path)[60:-60], 3, axis=1)[2], PALETTE[2])
  assert blue / blue_without_void == pytest.approx(1 - 8 / 187, abs=0.01)


def test_data_sheet(tmp_path, labels):
  """The image in the left third, its labels in the middle, and both on the right."""
  grey = np.full((11, 17, 1), 75, np.uint8)
  path = tmp_path / "plots" / "sheet.png"
  data_sheet(path, [("a.png", grey, labels), ("b.png", grey, labels)], CLASSES, PALETTE, "title")
  left, middle, right = np.array_split(pixels(path)[60:-60], 3, axis=1)
  assert has_colour(left, (75, 75, 75)) > 10_000 and has_colour(left, PALETTE[2]) == 0
  assert all(has_colour(middle, colour) > 1000 for colour in PALETTE)
  assert has_colour(middle, (75, 75, 75)) == 0
  # Random labels are all edges, but for the inside of the block that is void.
  assert has_colour(right, np.round(0.55 * 75 + 0.45 * 255)) > 500
  height = pixels(path).shape[0]
  name = b"no UTF-8 \xff $x^{$".decode(errors="surrogateescape")
  data_sheet(path, [(name, grey, labels * 0)], CLASSES, PALETTE, f"title {name}")
  assert height - pixels(path).shape[0] == pytest.approx(250 * 11 / 17 + 20, abs=1)


@pytest.mark.parametrize("shapes", [[(16, 16)], [(10, 40), (40, 9), (30, 30), (5, 5), (20, 40)]])
def test_sheet_has_a_row_per_sample(tmp_path, shapes):
  rng, samples = np.random.default_rng(0), []
  for shape in shapes:
    mask = np.zeros(shape, np.uint8)
    samples.append((rng.integers(0, 256, (*shape, 3), dtype=np.uint8), mask, mask + 1))
  prediction_sheet(tmp_path / "x.png", samples, CLASSES, PALETTE, "title")
  height, width = pixels(tmp_path / "x.png").shape[:2]
  rows = sum(250 * min(h / w, 1) for h, w in shapes)  # an image is up to 250 px wide and high
  assert width == 750 and abs(height - (rows + 80)) <= 1
  # Every truth is one block of the colour of class 0: its rows are as many as there are shapes.
  middle = np.array_split(pixels(tmp_path / "x.png")[50:-60], 3, axis=1)[1]
  inside = (np.abs(middle.astype(int) - PALETTE[0]).max(-1) <= 1).any(axis=1)
  assert int((np.diff(inside.astype(int)) == 1).sum() + inside[0]) == len(shapes)


def line(epoch, split, **numbers):
  return {"step": int(10 * epoch), "epoch": epoch, "split": split, **numbers}


def num_dark_pixels(path):
  return int((pixels(path).max(-1) < 200).sum())


def test_curves(tmp_path):
  """Many points, one point, none; every one gives a picture, and more lines give more ink."""
  train = [line(0.1 * i, "train", loss=2.0 / i) for i in range(1, 40)]
  test = [
    line(float(i), "test", loss=1 / i, miou=i / 9, pixel_accuracy=i / 5, iou={"sky": None})
    for i in range(1, 5)
  ]
  ink = []
  for i, metrics in enumerate(([], train[:1], train, train[:1] + test[:1], train + test)):
    path = tmp_path / "plots" / f"{i}.png"
    curves(path, metrics)
    assert pixels(path).shape == (350, 900, 3)
    ink.append(num_dark_pixels(path))
  empty, _, only_train, _, everything = ink
  assert empty > 100  # the axes
  assert empty < only_train < everything
  assert len(set(ink)) == 5


def test_a_single_point_is_drawn(tmp_path):
  figures = [curves(tmp_path / "x.png", [line(0.1 * i, "train", loss=1.0) for i in range(1, n)])
             for n in (2, 3)]  # fmt: skip
  markers = [figure.axes[0].lines[0].get_marker() for figure in figures]
  assert markers == ["o", "None"]


def test_curves_go_where_the_numbers_are(tmp_path):
  """A loss that falls is drawn from the upper left to the lower right, a score upwards."""
  metrics = [
    line(float(i), "test", loss=0.5**i, miou=0.2 * i, pixel_accuracy=0.2 * i) for i in range(1, 5)
  ]
  curves(tmp_path / "x.png", metrics)
  picture = pixels(tmp_path / "x.png").astype(int)
  blue, orange = (31, 119, 180), (255, 127, 14)  # the first colours of matplotlib
  halves = np.array_split(picture, 2, axis=1)
  for half, colour, sign in ((halves[0], blue, 1), (halves[1], orange, -1)):
    y, x = np.nonzero(np.abs(half - colour).max(-1) < 30)
    first, last = y[x < np.quantile(x, 0.1)].mean(), y[x > np.quantile(x, 0.9)].mean()
    assert sign * (last - first) > 100  # rows are counted from above


def test_curves_are_labelled(tmp_path):
  figures = [curves(tmp_path / "x.png", [line(1.0, "train", loss=1.0)])]
  test = line(1.0, "test", loss=1.0, miou=0.5, pixel_accuracy=0.5)
  figures.append(curves(tmp_path / "x.png", [line(1.0, "train", loss=1.0), test]))
  parts = {"loss/cross_entropy": 0.25, "loss/dice": 0.75}
  figures.append(curves(tmp_path / "x.png", [line(1.0, "train", loss=1.0, **parts), test]))
  labels = [
    [text.get_text() for text in axis.get_legend().get_texts()] if axis.get_legend() else None
    for figure in figures
    for axis in figure.axes
  ]
  both = ["pixel accuracy, test", "mean IoU, test"]
  left = ["train", "cross-entropy, test"]
  summed = ["train", "cross-entropy, train", "dice, train", "cross-entropy, test"]
  assert labels == [["train"], None, left, both, summed, both]
  drawn = {x.get_label(): x.get_ydata() for x in figures[-1].axes[0].lines}
  assert (drawn["train"], drawn["cross-entropy, train"], drawn["dice, train"]) == (1, 0.25, 0.75)


@pytest.mark.parametrize(
  "losses, labels", [((0.84, 0.66), "0.7 0.8"), ((3.0, 0.06), "0.06 0.08 0.1 0.2 0.3 0.5 1 2")]
)
def test_ticks_of_the_loss(tmp_path, losses, labels):
  """Enough of them in a narrow range, none upon the other in a wide one."""
  metrics = [line(float(i), "train", loss=loss) for i, loss in enumerate(losses)]
  figure = curves(tmp_path / "x.png", metrics)
  figure.draw_without_rendering()
  ticks = figure.axes[0].yaxis.get_ticklabels(which="both")
  shown = {tick.get_text() for tick in ticks}
  assert set(labels.split()) <= shown
  assert losses[0] < 1 or not shown & {"0.07", "0.09", "0.7", "0.9"}


def confusion_axis(tmp_path, counts, classes):
  return plot_confusion(tmp_path / "x.png", counts, classes, "title").axes[0]


def test_confusion_is_in_percent_of_the_truth(tmp_path):
  axis = confusion_axis(tmp_path, [[1500, 500, 0], [1, 2, 5], [0, 0, 0]], CLASSES)
  shown = [[75, 25, 0], [12.5, 25, 62.5], [0, 0, 0]]  # the last class is not in the truth
  np.testing.assert_allclose(axis.images[0].get_array(), shown)
  texts = {text.get_position(): text.get_text() for text in axis.texts if text.get_text()}
  assert texts == {(0, 0): "75.0", (1, 0): "25.0", (0, 1): "12.5", (1, 1): "25.0", (2, 1): "62.5"}
  for ticks in axis.get_xticklabels(), axis.get_yticklabels():
    assert [text.get_text() for text in ticks] == list(CLASSES)
  assert "prediction" in axis.get_xlabel() and axis.get_ylabel() == "truth"
  (sums,) = axis.child_axes
  assert [text.get_text() for text in sums.get_yticklabels()] == ["2,000", "8", "0"]


def test_confusion_of_many_classes_has_no_numbers(tmp_path):
  for num_classes, numbered in (25, True), (26, False):
    names = [f"class {i}" for i in range(num_classes)]
    axis = confusion_axis(tmp_path, np.eye(num_classes, dtype=int), names)
    assert bool(axis.texts) is numbered


def test_instances_have_colours_of_their_own():
  instances = np.arange(40, dtype=np.int32).reshape(5, 8)
  colours = visualize.colour_instances(instances)
  assert (colours.shape, colours.dtype) == ((5, 8, 3), np.uint8)
  assert not colours[0, 0].any() and colours.reshape(-1, 3)[1:].min() >= 60
  assert len(np.unique(colours.reshape(-1, 3), axis=0)) == 40
  np.testing.assert_array_equal(visualize.colour_instances(instances[:2]), colours[:2])
  assert not visualize.colour_instances(np.zeros((2, 3), np.int32)).any()


def test_pictures_leave_pyplot_alone(tmp_path):
  """Neither the import nor a picture loads pyplot, chooses a backend or changes a setting."""
  program = """
import sys
import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["lines.linewidth"] = 7
before = dict(matplotlib.rcParams)
import numpy as np
from jaxseg.visualize import curves, legend, plot_confusion, prediction_sheet

mask, folder = np.zeros((4, 4), np.uint8), sys.argv[1]
palette = ((1, 2, 3), (4, 5, 6))
curves(f"{folder}/a.png", [{"epoch": 1.0, "split": "train", "loss": 1.0}])
prediction_sheet(f"{folder}/b.png", [(mask[..., None], mask, mask)], "ab", palette, "")
plot_confusion(f"{folder}/c.png", np.eye(2, dtype=int), "ab", "")
legend(f"{folder}/d.png", "ab", palette)
assert dict(matplotlib.rcParams) == before
assert "matplotlib.pyplot" not in sys.modules
"""
  root = pathlib.Path(__file__).parents[1]
  command = [sys.executable, "-c", program, str(tmp_path)]
  done = subprocess.run(command, cwd=root, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr[-2000:]
  assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png", "c.png", "d.png"]
