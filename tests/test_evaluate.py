"""Scores against a twin that looks at one pixel after the other."""

import functools
import json
import math

import numpy as np
import pytest

from jaxseg import VOID, UserError
from jaxseg import evaluate as evaluate_module
from jaxseg.evaluate import evaluate

CLASSES = ("sky", "road", "car")
SHAPES = ((5, 9), (16, 4), (1, 1), (12, 12), (7, 30))


def make_data(num_labels=3, seed=0):
  """Examples of many sizes with VOID, and probabilities that are right a little too often."""
  rng, examples = np.random.default_rng(seed), []
  for i, shape in enumerate(SHAPES):
    mask = rng.integers(0, num_labels, shape, dtype=np.uint8)
    mask[rng.random(shape) < 0.2] = VOID
    probs = rng.dirichlet([1.0] * num_labels, shape)
    probs[..., 0] += 0.3 * (mask == 0)
    probs = np.pad(probs, ((0, 0), (0, 0), (0, 3 - num_labels)))
    probs = (probs / probs.sum(-1, keepdims=True)).astype(np.float32)
    examples.append({"image": np.full((*shape, 1), i, np.uint8), "mask": mask, "probs": probs})
  return examples


def predict(examples):
  for example in examples:
    yield {k: v for k, v in example.items() if k != "probs"}, example["probs"]


def twin(examples, num_classes):
  """Pixel by pixel: (accuracy, IoU and Dice of each class or None, loss)."""
  hits, truths, guesses = ([0] * num_classes for _ in range(3))
  loss = num_pixels = 0
  for example in examples:
    for row in range(example["mask"].shape[0]):
      for col in range(example["mask"].shape[1]):
        label = int(example["mask"][row, col])
        if label == 255:
          continue
        probs = [float(p) for p in example["probs"][row, col]]
        guess = probs.index(max(probs))
        truths[label] += 1
        guesses[guess] += 1
        hits[label] += label == guess
        loss -= math.log(probs[label])
        num_pixels += 1
  unions = [truths[c] + guesses[c] - hits[c] for c in range(num_classes)]
  iou = [hits[c] / unions[c] if unions[c] else None for c in range(num_classes)]
  dice = [2 * hits[c] / (truths[c] + guesses[c]) if unions[c] else None for c in range(num_classes)]
  return sum(hits) / num_pixels, iou, dice, loss / num_pixels


@pytest.mark.parametrize("num_labels", [3, 2])
def test_scores_equal_the_twin(num_labels):
  examples = make_data(num_labels)
  result, samples = evaluate(predict, iter(examples), CLASSES)
  accuracy, iou, dice, loss = twin(examples, 3)
  assert set(result) == {"pixel_accuracy", "miou", "iou", "dice", "loss", "num_images"}
  assert result["num_images"] == len(SHAPES)
  assert result["pixel_accuracy"] == pytest.approx(accuracy, abs=1e-12)
  for score, values in ("iou", iou), ("dice", dice):
    assert list(result[score]) == list(CLASSES)
    for name, value in zip(CLASSES, values, strict=True):
      assert result[score][name] == (None if value is None else pytest.approx(value, abs=1e-12))
  present = [value for value in iou if value is not None]
  assert len(present) == num_labels  # a class that is nowhere stays out of the mean
  assert result["miou"] == pytest.approx(sum(present) / len(present), abs=1e-12)
  assert result["loss"] == pytest.approx(loss, abs=1e-5)
  assert samples == []
  json.dumps(result, allow_nan=False)


def test_what_is_predicted_on_void_does_not_matter():
  examples = make_data()
  expected, _ = evaluate(predict, examples, CLASSES)
  for example in examples:
    example["probs"][example["mask"] == VOID] = (1e-9, 0, 1)
  assert evaluate(predict, examples, CLASSES)[0] == expected


def test_pixels_count_the_same_in_small_and_large_images():
  """One image, and the same pixels as two images of different size."""
  (whole,) = make_data()[4:]
  parts = [{k: v[:, cut] for k, v in whole.items()} for cut in (np.s_[:3], np.s_[3:])]
  one, two = (evaluate(predict, x, CLASSES)[0] for x in ([whole], parts))
  assert (one.pop("num_images"), two.pop("num_images")) == (1, 2)
  assert one.pop("loss") == pytest.approx(two.pop("loss"), abs=1e-6)
  assert one == two


def test_perfect_and_certain_but_wrong():
  mask = np.array([[0, 1, 2, VOID]], np.uint8)
  right = np.eye(3, dtype=np.float32)[np.array([[0, 1, 2, 0]])]
  example = {"image": mask[..., None], "mask": mask, "probs": right}
  result, _ = evaluate(predict, [example], CLASSES)
  assert result == {
    "pixel_accuracy": 1.0,
    "miou": 1.0,
    "iou": dict.fromkeys(CLASSES, 1.0),
    "dice": dict.fromkeys(CLASSES, 1.0),
    "loss": 0.0,
    "num_images": 1,
  }
  result, _ = evaluate(predict, [{**example, "probs": np.roll(right, 1, axis=-1)}], CLASSES)
  assert result["miou"] == result["pixel_accuracy"] == 0
  assert 50 < result["loss"] < 100  # a probability of 0 costs much, but not infinitely


def test_samples_are_those_asked_for():
  examples = make_data()
  _, samples = evaluate(predict, examples, CLASSES, sample_at={1, 4})
  assert len(samples) == 2
  for i, (image, mask, labels) in zip((1, 4), samples, strict=True):
    np.testing.assert_array_equal(image, examples[i]["image"])
    np.testing.assert_array_equal(mask, examples[i]["mask"])
    np.testing.assert_array_equal(labels, examples[i]["probs"].argmax(-1))
    assert labels.dtype == np.uint8


CELLS = ("background", "cell")


def cells(truth, prediction, **more):
  """An example of strings: "#" is a cell, "." background, "x" VOID; the prediction is certain."""
  mask, found = (
    np.array([[{"#": 1, ".": 0, "x": VOID}[x] for x in row] for row in rows.split()], np.uint8)
    for rows in (truth, prediction)
  )
  return {
    "image": mask[..., None],
    "mask": mask,
    "probs": np.eye(2, dtype=np.float32)[found],
    **more,
  }


# Two cells of 4 px, found and merged: v_rand = (16 + 16) / (64 / 2 + 32 / 2), v_info 0, and two
# pixels of ten each of which joins what is not joined.
RIGHT = cells("##.## ##.##", "##.## ##.##")
MERGED = cells("##.## ##.##", "##### #####")
NO_CELL = cells("..... .....", "..... .#...")  # v_rand and v_info are NaN; the new cell is 1 pixel


@pytest.mark.parametrize(
  "examples, expected",
  [
    ([RIGHT], (1, 1, 0)),
    ([MERGED], (2 / 3, 0, 1 / 5)),
    ([RIGHT, MERGED, RIGHT], (8 / 9, 2 / 3, 2 / 30)),  # means over images, not pixels
    ([RIGHT, NO_CELL, MERGED], (5 / 6, 1 / 2, 3 / 30)),  # NaN stays out of the mean, 0 does not
    ([NO_CELL], (None, None, 1 / 10)),
    # The instances of the example come first: to them, the mask's one cell is two.
    (
      [cells("#### ####", "#### ####", instances=np.array([[3, 3, 8, 8]] * 2, np.int32))],
      (2 / 3, 0, 0),
    ),
    # VOID separates cells of the mask, and no cell is wrong there.
    ([cells("##x## ##x##", "##.## ##.##")], (1, 1, 0)),
    ([cells("##.xx ##.xx", "##.## ##...")], (1, 1, 0)),
  ],
)
def test_instance_scores_are_means_over_images(examples, expected):
  result, _ = evaluate(predict, examples, CELLS, instances=True)
  got = [result[name] for name in evaluate_module.INSTANCE_SCORES]
  assert list(evaluate_module.INSTANCE_SCORES) == ["v_rand", "v_info", "warping_error"]
  for value, truth in zip(got, expected, strict=True):
    assert value == (None if truth is None else pytest.approx(truth, abs=1e-6))
  json.dumps(result, allow_nan=False)


@pytest.mark.parametrize(
  "examples, classes, instances",
  [(make_data(), CLASSES, False), ([RIGHT, NO_CELL, MERGED, MERGED, RIGHT], CELLS, True)],
  ids=["pixels", "instances"],
)
def test_processes_add_up(monkeypatch, examples, classes, instances):
  """Shares of two processes, whose sums meet, give what one process gives."""
  run = functools.partial(evaluate, predict, classes=classes, instances=instances)
  (expected, _), sent = run(examples), []
  monkeypatch.setattr(evaluate_module, "sum_over_processes", lambda x: sent.append(x) or x)
  for number in (0, 1):
    run(examples[number::2])
  assert all(np.issubdtype(x.dtype, np.integer) for x in sent)
  monkeypatch.setattr(evaluate_module, "sum_over_processes", lambda x: sent[0] + sent[1])
  result, _ = run(examples[:1])
  for name in ("loss", *(evaluate_module.INSTANCE_SCORES if instances else ())):
    assert result.pop(name) == pytest.approx(expected.pop(name), abs=1e-6)
  assert result == expected


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_probabilities_that_are_not_finite(value):
  examples = make_data()
  examples[1]["probs"][2, 3, 1] = value
  examples[3]["probs"][0, 0] = value
  with pytest.raises(UserError, match="not finite for 2 of 5 images"):
    evaluate(predict, examples, CLASSES)


def test_nothing_to_score():
  examples = make_data()
  for example in examples:
    example["mask"][:] = VOID
  with pytest.raises(UserError, match="no pixel of the 5 images"):
    evaluate(predict, examples, CLASSES)
  with pytest.raises(UserError, match="no pixel of the 0 images"):
    evaluate(predict, [], CLASSES)
