"""Masks of a few pixels, and what their values mean."""

import numpy as np
from PIL import Image

from jaxseg.data.labels import LabelMap, label_map
from jaxseg.data.masks import decode_mask

LABELS = (np.arange(35) % 3).astype(np.uint8).reshape(5, 7)
ALPHA = np.linspace(0, 255, 35).astype(np.uint8).reshape(5, 7)
COLORS = ((0, 0, 0), (128, 0, 0), (0, 128, 0))
PICTURE = np.array(COLORS, np.uint8)[LABELS]
THREE = LabelMap({0: 0, 1: 1, 2: 2})
ABC = ("a", "b", "c")


def palette_image():
  """Labels 0..2 as indices of a palette in which no colour is the index."""
  image = Image.fromarray(LABELS)
  image.putpalette([200, 10, 30, 40, 250, 60, 70, 80, 9])
  return image


def of_classes(count, **keys):
  """A LabelMap of as many classes."""
  return label_map(tuple(f"c{i}" for i in range(count)), **keys)


def check(data, labels, expected):
  """Asserts what a file decodes to."""
  mask = decode_mask(data, "m", labels)
  assert mask.dtype == np.uint8
  np.testing.assert_array_equal(mask, expected)


def grey(*values, dtype=np.uint8):
  """A mask of one row."""
  return np.array([values], dtype)
