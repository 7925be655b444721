"""HD95 and NSD against a twin that measures every pair of pixels, and by hand."""

import math

import numpy as np
import pytest

from jaxseg import VOID
from jaxseg.surface_distances import surface_scores


def step(column, shape=(20, 30)):
  labels = np.zeros(shape, np.uint8)
  labels[:, column:] = 1
  return labels


def test_a_straight_line_that_is_moved():
  """By 3 px: each class has a line of 20 pixels, 3 px from the other one."""
  for tolerance, nsd in ((2.9, 0), (3, 1)):
    assert surface_scores(step(10), step(13), tolerance) == [3, nsd]
  assert surface_scores(step(10), step(10), 0) == [0, 1]


def test_a_class_that_is_missed_counts_as_far_away():
  diagonal = math.hypot(20, 30)
  assert surface_scores(step(10), step(30), 99) == [diagonal, 0]
  assert surface_scores(step(30), step(10), 99) == [diagonal, 0]
  # Both classes have no line, since one fills the image.
  assert np.isnan(surface_scores(step(30), step(30), 1)).all()
  assert np.isnan(surface_scores(np.full((4, 4), VOID, np.uint8), step(2, (4, 4)), 1)).all()


def test_void_has_no_boundary():
  mask, prediction = step(10), step(10)
  mask[:, 20:] = VOID
  prediction[:, 25:] = 2
  assert surface_scores(mask, prediction, 0) == [0, 1]


def edge(labels, mask):
  """[(row, column, class)] of pixels with a 4-neighbour of another class."""
  found, (height, width) = [], labels.shape
  for row in range(height):
    for col in range(width):
      for i, j in ((row - 1, col), (row + 1, col), (row, col - 1), (row, col + 1)):
        if 0 <= i < height and 0 <= j < width and VOID not in (mask[row, col], mask[i, j]):
          if labels[row, col] != labels[i, j]:
            found.append((row, col, int(labels[row, col])))
            break
  return found


def twin(mask, prediction, tolerance):
  one, two = edge(mask, mask), edge(prediction, mask)
  found = []
  for label in {x[2] for x in (*one, *two)}:
    truth, guess = ([x[:2] for x in part if x[2] == label] for part in (one, two))
    if not truth or not guess:
      found.append((math.hypot(*mask.shape), 0))
      continue
    there = [min(math.dist(p, q) for q in truth) for p in guess]
    back = [min(math.dist(p, q) for q in guess) for p in truth]
    near = sum(d <= tolerance for d in (*there, *back)) / (len(there) + len(back))
    found.append((max(np.percentile(there, 95), np.percentile(back, 95)), near))
  return [sum(x) / len(found) for x in zip(*found, strict=True)]


@pytest.mark.parametrize("seed", range(4))
def test_every_pair(seed):
  rng = np.random.default_rng(seed)
  mask = rng.integers(0, 3, (3, 4), np.uint8).repeat(5, 0).repeat(4, 1)
  prediction = np.roll(mask, rng.integers(0, 3, 2), (0, 1))
  prediction[rng.random(mask.shape) < 0.05] = 3
  mask[rng.random(mask.shape) < 0.1] = VOID
  found = surface_scores(mask, prediction, 1.5)
  np.testing.assert_allclose(found, twin(mask, prediction, 1.5), rtol=1e-12)
  assert 0 < found[1] < 1
