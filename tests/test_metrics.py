"""Confusion matrix and scores by hand, by loop and by their invariants."""

import math

import numpy as np
import pytest
import reference

from jaxseg import VOID
from jaxseg.metrics import confusion_matrix, scores


def example(num_classes=4, seed=0):
  """Random mask with VOID and prediction, right in about half of the pixels, u8[12,9]."""
  rng = np.random.default_rng(seed)
  mask = rng.integers(0, num_classes, (12, 9)).astype(np.uint8)
  guess = rng.integers(0, num_classes, mask.shape).astype(np.uint8)
  prediction = np.where(rng.random(mask.shape) < 0.5, mask, guess)
  mask[rng.random(mask.shape) < 0.2] = VOID
  return mask, prediction


def test_by_hand():
  mask = np.array([[0, 0, 1], [1, 1, 2], [VOID, 2, 0]], np.uint8)
  prediction = np.array([[0, 1, 1], [1, 0, 2], [0, 2, 0]], np.uint8)
  counts = confusion_matrix(mask, prediction, 3)
  np.testing.assert_array_equal(counts, [[2, 1, 0], [1, 2, 0], [0, 0, 2]])
  result = scores(counts)
  assert result["pixel_accuracy"] == 6 / 8
  np.testing.assert_allclose(result["iou"], [2 / 4, 2 / 4, 2 / 2])
  assert result["miou"] == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)
  np.testing.assert_allclose(result["dice"], [4 / (3 + 3), 4 / (3 + 3), 4 / (2 + 2)])


def test_rows_are_the_truth():
  counts = confusion_matrix(np.array([1], np.uint8), np.array([2], np.uint8), 3)
  np.testing.assert_array_equal(counts, [[0, 0, 0], [0, 0, 1], [0, 0, 0]])


@pytest.mark.parametrize("num_classes", [1, 2, 4, 200])  # 200^2 does not fit into u8
def test_equals_loop(num_classes):
  mask, prediction = example(num_classes)
  counts = confusion_matrix(mask, prediction, num_classes)
  assert counts.dtype == np.int64
  np.testing.assert_array_equal(counts, reference.confusion_matrix(mask, prediction, num_classes))
  result = scores(counts)
  iou = [reference.iou(mask, prediction, label) for label in range(num_classes)]
  np.testing.assert_allclose(result["iou"], iou)
  kept = mask != VOID
  both = [((mask == c) & (prediction == c) & kept).sum() for c in range(num_classes)]
  sizes = [((x == c) & kept).sum() for c in range(num_classes) for x in (mask, prediction)]
  with np.errstate(invalid="ignore"):  # 0 / 0 is NaN: the class is nowhere
    dice = 2 * np.array(both) / np.reshape(sizes, (-1, 2)).sum(1)
  np.testing.assert_allclose(result["dice"], dice)
  np.testing.assert_allclose(result["miou"], np.mean([x for x in iou if not math.isnan(x)]))
  np.testing.assert_allclose(result["pixel_accuracy"], (mask == prediction)[kept].mean())


def test_void_is_left_out():
  mask, prediction = example()
  counts = confusion_matrix(mask, prediction, 4)
  assert counts.sum() == (mask != VOID).sum() < mask.size
  prediction[mask == VOID] = (prediction[mask == VOID] + 1) % 4
  np.testing.assert_array_equal(confusion_matrix(mask, prediction, 4), counts)
  np.testing.assert_array_equal(confusion_matrix(np.full_like(mask, VOID), prediction, 4), 0)


def test_absent_class_stays_out_of_the_mean():
  result = scores([[3, 1, 0], [0, 4, 0], [0, 0, 0]])
  np.testing.assert_array_equal(result["iou"], [3 / 4, 4 / 5, np.nan])
  np.testing.assert_allclose(result["dice"], [6 / (4 + 3), 8 / (4 + 5), np.nan])
  assert result["miou"] == pytest.approx((3 / 4 + 4 / 5) / 2)
  # Predicted where it never is: 0, not left out.
  result = scores([[3, 0, 1], [0, 4, 0], [0, 0, 0]])
  np.testing.assert_array_equal(result["iou"], [3 / 4, 1, 0])
  np.testing.assert_allclose(result["dice"], [6 / (4 + 3), 1, 0])
  assert result["miou"] == pytest.approx((3 / 4 + 1 + 0) / 3)


def test_nothing_to_count():
  result = scores(np.zeros((3, 3), int))
  assert math.isnan(result["pixel_accuracy"]) and math.isnan(result["miou"])
  np.testing.assert_array_equal([result["iou"], result["dice"]], [[np.nan] * 3] * 2)


def test_relabelling_permutes():
  mask, prediction = example()
  new_label = np.array([2, 0, 3, 1], np.uint8)
  relabelled = np.where(mask == VOID, VOID, new_label[np.minimum(mask, 3)]).astype(np.uint8)
  counts = confusion_matrix(mask, prediction, 4)
  permuted = confusion_matrix(relabelled, new_label[prediction], 4)
  np.testing.assert_array_equal(permuted[np.ix_(new_label, new_label)], counts)
  before, after = scores(counts), scores(permuted)
  np.testing.assert_allclose(after["iou"][new_label], before["iou"])
  assert after["miou"] == pytest.approx(before["miou"])


def test_images_add_up():
  """One matrix of the whole set, not a mean over images."""
  pairs = [example(seed=seed) for seed in range(3)]
  total = sum(confusion_matrix(*pair, 4) for pair in pairs)
  stacked = [np.stack(part) for part in zip(*pairs, strict=True)]
  np.testing.assert_array_equal(total, confusion_matrix(*stacked, 4))


def test_counts_beyond_2_to_the_24():
  """Where float32 stops: 2^24 + 1 = 2^24."""
  n = 2**24 + 3
  counts = confusion_matrix(np.zeros(n, np.uint8), np.zeros(n, np.uint8), 2)
  assert counts[0, 0] == n
  counts += confusion_matrix(np.zeros(1, np.uint8), np.ones(1, np.uint8), 2)
  np.testing.assert_array_equal(counts, [[n, 1], [0, 0]])
  assert scores(counts)["iou"][0] == n / (n + 1) < 1
  assert scores(counts * 10**6)["pixel_accuracy"] == pytest.approx(n / (n + 1), rel=1e-12)
