"""Scores against a twin that looks at one pixel after the other."""

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
  """Pixel by pixel: (accuracy, IoU of each class or None, loss)."""
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
  return sum(hits) / num_pixels, iou, loss / num_pixels


@pytest.mark.parametrize("num_labels", [3, 2])
def test_scores_equal_the_twin(num_labels):
  examples = make_data(num_labels)
  result, samples = evaluate(predict, iter(examples), CLASSES)
  accuracy, iou, loss = twin(examples, 3)
  assert set(result) == {"pixel_accuracy", "miou", "iou", "loss", "num_images"}
  assert result["num_images"] == len(SHAPES)
  assert result["pixel_accuracy"] == pytest.approx(accuracy, abs=1e-12)
  assert list(result["iou"]) == list(CLASSES)
  for name, value in zip(CLASSES, iou, strict=True):
    assert result["iou"][name] == (None if value is None else pytest.approx(value, abs=1e-12))
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


def test_processes_add_up(monkeypatch):
  """Shares of two processes, whose sums meet, give what one process gives."""
  examples, sent = make_data(), []
  expected, _ = evaluate(predict, examples, CLASSES)
  monkeypatch.setattr(evaluate_module, "sum_over_processes", lambda x: sent.append(x) or x)
  for number in (0, 1):
    evaluate(predict, examples[number::2], CLASSES)
  assert all(np.issubdtype(x.dtype, np.integer) for x in sent)
  monkeypatch.setattr(evaluate_module, "sum_over_processes", lambda x: sent[0] + sent[1])
  result, _ = evaluate(predict, examples[:1], CLASSES)
  assert result.pop("loss") == pytest.approx(expected.pop("loss"), abs=1e-6)
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
