"""Pictures of examples and of what is wrong with them, pixel by pixel."""

import numpy as np

from jaxseg import thumbnails
from jaxseg.data.decode import DatasetInfo
from jaxseg.data.examine import UNKNOWN, Parts
from jaxseg.data.labels import label_map


def test_specks_are_framed_and_enlarged():
  labels = np.zeros((96, 128), np.uint8)
  labels[40, 60] = 1
  picture = np.full((96, 128, 3), 100, np.uint8)
  info = DatasetInfo(("a", "b"), ((0, 0, 0), (255, 0, 0)), 3)
  parts = Parts("x", picture, labels, {0: 1, 1: 1}, "PNG", label_map(info.classes), {}, ())
  shown = dict(thumbnails.pictures(parts, info, [(60, 40, 61, 41)]))
  plain = dict(thumbnails.pictures(parts, info))
  assert [*plain] == ["Image", "Mask over the image"]
  assert [*shown] == [*plain, "The first speck, enlarged"]
  rows, cols = np.nonzero((shown["Mask over the image"] != plain["Mask over the image"]).any(-1))
  factor = plain["Image"].shape[1] / 128  # the frame reaches 4 px beyond the box on each side
  assert (cols.min(), cols.max()) == (round(60 * factor) - 4, round(61 * factor) + 4)
  assert (rows.min(), rows.max()) == (round(40 * factor) - 4, round(41 * factor) + 4)
  # 48 px around it: the red pixel is in the middle, 320 / 48 px wide.
  large = shown["The first speck, enlarged"]
  is_red = (large[..., 0] > 200) & (large[..., 1] < 100)
  rows, cols = np.nonzero(is_red)
  assert large.shape == (320, 320, 3) and abs(rows.mean() - 163) < 4 and abs(cols.mean() - 163) < 4


def test_pixels_without_a_class_are_magenta():
  labels = np.zeros((320, 320), np.uint8)
  labels[:, 160:] = 1  # the position of 7 in the values below
  info = DatasetInfo(("a", "b"), ((0, 0, 0), (255, 0, 0)), 1)
  parts = Parts("x", None, labels, {0: 1, 7: 1}, "PNG", label_map(info.classes), {}, ())
  assert set(np.unique(parts.label_map())) == {0, UNKNOWN}
  ((alt, picture),) = thumbnails.pictures(parts, info)
  assert alt == "Mask" and picture[9, 9].tolist() == [0, 0, 0]
  np.testing.assert_allclose(picture[9, 300], (255, 0, 255), atol=2)


def test_sizes_that_differ_are_shown_apart():
  info = DatasetInfo(("a", "b"), ((0, 0, 0), (255, 0, 0)), 1)
  image, index = np.zeros((30, 40, 1), np.uint8), np.zeros((40, 30), np.uint8)
  parts = Parts("x", image, index, {0: 1200}, "PNG", label_map(info.classes), {}, ())
  shown = dict(thumbnails.pictures(parts, info))
  assert [*shown] == ["Image", "Mask"]
  assert shown["Image"].shape[:2] == (120, 160) and shown["Mask"].shape[:2] == (160, 120)
