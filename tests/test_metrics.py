"""Confusion matrix, scores and intervals by hand, by loop and by their invariants."""

import math

import numpy as np
import pytest
import reference

from jaxseg import VOID
from jaxseg.metrics import (
  bootstrap_intervals,
  boundary_f1,
  class_pixels,
  confusion_matrix,
  scores,
)


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
  result = scores(*class_pixels(counts))
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
  result = scores(*class_pixels(counts))
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


def scores_of(rows):
  return scores(*class_pixels(np.array(rows)))


def test_absent_class_stays_out_of_the_mean():
  result = scores_of([[3, 1, 0], [0, 4, 0], [0, 0, 0]])
  np.testing.assert_array_equal(result["iou"], [3 / 4, 4 / 5, np.nan])
  np.testing.assert_allclose(result["dice"], [6 / (4 + 3), 8 / (4 + 5), np.nan])
  np.testing.assert_allclose(result["accuracy"], [3 / 4, 4 / 4, np.nan])
  assert result["miou"] == pytest.approx((3 / 4 + 4 / 5) / 2)
  assert result["mean_accuracy"] == pytest.approx((3 / 4 + 4 / 4) / 2)
  # Predicted where it never is: an IoU of 0, not left out; there is no accuracy without truth.
  result = scores_of([[3, 0, 1], [0, 4, 0], [0, 0, 0]])
  np.testing.assert_array_equal(result["iou"], [3 / 4, 1, 0])
  np.testing.assert_allclose(result["dice"], [6 / (4 + 3), 1, 0])
  np.testing.assert_allclose(result["accuracy"], [3 / 4, 1, np.nan])
  assert result["miou"] == pytest.approx((3 / 4 + 1 + 0) / 3)
  assert result["mean_accuracy"] == pytest.approx((3 / 4 + 1) / 2)
  assert result["fw_iou"] == pytest.approx(4 / 8 * 3 / 4 + 4 / 8 * 1)


def test_frequent_classes_weigh_more():
  """Ten pixels of one class, nine of them hit; one of the other, missed."""
  result = scores_of([[9, 1], [1, 0]])
  assert result["pixel_accuracy"] == pytest.approx(9 / 11)
  assert result["mean_accuracy"] == pytest.approx((9 / 10 + 0) / 2)
  assert result["miou"] == pytest.approx((9 / 11 + 0) / 2)
  assert result["fw_iou"] == pytest.approx(10 / 11 * 9 / 11 + 1 / 11 * 0)


@pytest.mark.filterwarnings("error")
def test_nothing_to_count():
  for value in scores_of(np.zeros((3, 3), int)).values():
    assert np.isnan(value).all()


def test_relabelling_permutes():
  mask, prediction = example()
  new_label = np.array([2, 0, 3, 1], np.uint8)
  relabelled = np.where(mask == VOID, VOID, new_label[np.minimum(mask, 3)]).astype(np.uint8)
  counts = confusion_matrix(mask, prediction, 4)
  permuted = confusion_matrix(relabelled, new_label[prediction], 4)
  np.testing.assert_array_equal(permuted[np.ix_(new_label, new_label)], counts)
  before, after = scores(*class_pixels(counts)), scores(*class_pixels(permuted))
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
  assert scores(*class_pixels(counts))["iou"][0] == n / (n + 1) < 1
  many = scores(*class_pixels(counts * 10**6))
  assert many["pixel_accuracy"] == pytest.approx(n / (n + 1), rel=1e-12)


def labels(rows):
  """A label map of strings; "x" is VOID."""
  return np.array([[VOID if x == "x" else int(x) for x in row] for row in rows.split()], np.uint8)


# Boundary pixels: of class 0 column 1, of class 1 column 2. One pixel to the right, 2 and 3.
STEP, MOVED = labels("001111 001111 001111"), labels("000111 000111 000111")


@pytest.mark.parametrize(
  "mask, prediction, tolerance, expected",
  [
    (STEP, STEP, 0, 1),
    (STEP, MOVED, 0, 0),
    (STEP, MOVED, 0.99, 0),
    (STEP, MOVED, 1, 1),
    (STEP, STEP * 0, 9, 0),  # one class everywhere has no boundary
    # Class 0: columns 1 of the truth, 1 and 5 of the prediction: precision 3/6, recall 1, F1 2/3.
    # Class 1: column 2 of the truth, 2 and 4 of the prediction: the same.
    (STEP, labels("001110 001110 001110"), 0, 2 / 3),
    (STEP, labels("001110 001110 001110"), 1, 2 / 3),
    (STEP, labels("001110 001110 001110"), 2, (2 / 3 + 1) / 2),
    # 2 lies beyond 0, and 1 is not found: (1 + 0) / 2, because the truth has no 2.
    (STEP, labels("002222 002222 002222"), 0, 1 / 2),
    # One pixel of class 1, moved by (1, 1): distances are Euclidean. Of its four neighbours in
    # class 0, two are neighbours of the moved one as well, the others are sqrt(2) from those.
    (labels("0000 0100 0000 0000"), labels("0000 0000 0010 0000"), 1.4, (2 / 4 + 0) / 2),
    (labels("0000 0100 0000 0000"), labels("0000 0000 0010 0000"), 1.42, 1),
    # Nothing to find and nothing invented; then a boundary where the truth has none.
    (labels("000 000"), labels("000 000"), 1, math.nan),
    (labels("000 000"), labels("001 001"), 1, 0),
    (labels("xxx xxx"), labels("001 001"), 1, math.nan),
    # VOID has no boundary: not against a class, and none that is predicted in it.
    (labels("00x11 00x11"), labels("00011 00011"), 1, math.nan),
    (labels("001xx 001xx"), labels("00110 00101"), 0, 1),
    (labels("001xx 001xx"), labels("00000 00000"), 0, 0),
    # More tolerance than image.
    (labels("01"), labels("10"), 40, 1),
  ],
)
def test_boundary_f1_by_hand(mask, prediction, tolerance, expected):
  assert boundary_f1(mask, prediction, tolerance) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("tolerance", [0, 1, 1.5, 2, 3.2, 4.5])
@pytest.mark.parametrize("step", [2, 5])  # px: small patches, and less than full recall
def test_boundary_f1_equals_loop(step, tolerance):
  def patches(seed, num_classes):
    rng = np.random.default_rng(seed)
    return np.kron(rng.integers(0, num_classes, (20 // step, 30 // step)), np.ones((step, step)))

  mask, prediction = patches(0, 5).astype(np.uint8), patches(1, 7).astype(np.uint8)
  mask[mask == 4] = VOID
  expected = reference.boundary_f1(mask, prediction, tolerance)
  assert 0 < expected < 1
  assert boundary_f1(mask, prediction, tolerance) == pytest.approx(expected, abs=1e-12)


def miou(sums):
  """Of rows of hits, truth and prediction of two classes."""
  return {"miou": scores(*np.split(sums, 3, axis=-1))["miou"]}


def image_rows(num_images, num_classes=2):
  """f64[N,3C] of images of different size, of which some have one class only."""
  rows = []
  for seed in range(num_images):
    mask, prediction = example(num_classes, seed=seed)
    mask, prediction = mask[: 1 + seed], prediction[: 1 + seed]
    mask[mask == seed % 3] = VOID
    rows.append(np.concatenate(class_pixels(confusion_matrix(mask, prediction, num_classes))))
  return np.array(rows, float)


@pytest.mark.parametrize("num_images", [2, 9])
def test_intervals_equal_loop(num_images):
  rows = image_rows(num_images)
  low, high = bootstrap_intervals(rows, miou, seed=4)["miou"]
  values = []
  for sums in reference.resampled(rows.tolist(), 1000, 4):
    hits, truth, predicted = sums[:2], sums[2:4], sums[4:]
    unions = [t + p - h for h, t, p in zip(hits, truth, predicted, strict=True)]
    iou = [h / union for h, union in zip(hits, unions, strict=True) if union]
    values.append(sum(iou) / len(iou))
  values.sort()
  # Rank 0.025 * 999 = 24.975 between the sorted values 24 and 25; the same from above.
  assert low == pytest.approx(values[24] + 0.975 * (values[25] - values[24]))
  assert high == pytest.approx(values[975] - 0.975 * (values[975] - values[974]))
  assert low <= miou(rows.sum(0))["miou"] <= high and low < high


def test_interval_of_identical_images_has_no_width():
  rows = np.repeat(image_rows(3)[2:], 7, axis=0)
  low, high = bootstrap_intervals(rows, miou)["miou"]
  assert low == high == miou(rows[0])["miou"]


def test_interval_of_a_mean_is_that_of_the_normal_distribution():
  """400 values: mean +- 1.96 standard errors."""
  values = np.random.default_rng(0).normal(5, 2, (400, 1))
  low, high = bootstrap_intervals(values, lambda sums: {"mean": sums[:, 0] / 400})["mean"]
  mean, error = values.mean(), values.std() / 20
  np.testing.assert_allclose([low, high], [mean - 1.96 * error, mean + 1.96 * error], atol=0.03)


def test_intervals_need_two_images_and_a_score():
  assert bootstrap_intervals(image_rows(1), miou) == {}
  assert bootstrap_intervals(np.ones((3, 1)), lambda sums: {"x": sums[:, 0] * np.nan}) == {}


@pytest.mark.parametrize("num_with, is_there", [(1, False), (2, False), (8, True)])
def test_no_interval_of_a_class_that_few_images_have(num_with, is_there):
  """All resamples that have the class at all would give the same IoU, were it in one image."""
  values = np.zeros((100, 2))
  values[:num_with] = [[1 + i, 10] for i in range(num_with)]

  def iou(sums):
    with np.errstate(invalid="ignore"):  # 0 / 0
      return {"iou": sums[:, 0] / sums[:, 1]}

  assert ("iou" in bootstrap_intervals(values, iou)) == is_there
