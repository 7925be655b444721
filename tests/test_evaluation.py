"""Scores against a twin that looks at one pixel after the other."""

import functools
import json
import math

import numpy as np
import pytest

from jaxseg import VOID, UserError, evaluation
from jaxseg.evaluation import score, score_table

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
  """Pixel by pixel: (pixel accuracy; IoU, Dice, accuracy of each class or None; loss; pairs; for
  each of 15 bins of the highest probability: pixels, right ones, sum of these probabilities)."""
  hits, truths, guesses = ([0] * num_classes for _ in range(3))
  pairs = [[0] * num_classes for _ in range(num_classes)]
  loss = num_pixels = 0
  bins = [[0, 0, 0.0] for _ in range(15)]
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
        pairs[label][guess] += 1
        loss -= math.log(probs[label])
        num_pixels += 1
        one = next(x for x, edge in zip(bins, range(1, 16), strict=True) if max(probs) < edge / 15)
        one[0], one[1], one[2] = one[0] + 1, one[1] + (label == guess), one[2] + max(probs)
  unions = [truths[c] + guesses[c] - hits[c] for c in range(num_classes)]
  iou = [hits[c] / unions[c] if unions[c] else None for c in range(num_classes)]
  dice = [2 * hits[c] / (truths[c] + guesses[c]) if unions[c] else None for c in range(num_classes)]
  accuracy = [hits[c] / truths[c] if truths[c] else None for c in range(num_classes)]
  return sum(hits) / num_pixels, (iou, dice, accuracy), loss / num_pixels, pairs, bins


NUMBERS = ("loss", "pixel_accuracy", "mean_accuracy", "miou", "fw_iou", "ece")
INTERVALS = {f"{name}_interval" for name in (*NUMBERS, "iou")}


@pytest.mark.parametrize("num_labels", [3, 2])
def test_scores_equal_the_twin(num_labels):
  examples = make_data(num_labels)
  result, samples, _ = score(predict, iter(examples), CLASSES)
  pixel_accuracy, class_scores, loss, pairs, bins = twin(examples, 3)
  assert set(result) == {
    *NUMBERS, *INTERVALS, "iou", "dice", "accuracy", "num_images", "confusion", "reliability"
  }
  assert result["num_images"] == len(SHAPES)
  assert result["confusion"] == pairs
  np.testing.assert_allclose(result["reliability"], bins, rtol=1e-6)
  gaps = [abs(right - probs) for _, right, probs in bins]
  assert result["ece"] == pytest.approx(sum(gaps) / sum(n for n, _, _ in bins), rel=1e-6)
  assert result["pixel_accuracy"] == pytest.approx(pixel_accuracy, abs=1e-12)
  for part, values in zip(("iou", "dice", "accuracy"), class_scores, strict=True):
    assert list(result[part]) == list(CLASSES)
    for name, value in zip(CLASSES, values, strict=True):
      assert result[part][name] == (None if value is None else pytest.approx(value, abs=1e-12))
  for part, values in ("miou", class_scores[0]), ("mean_accuracy", class_scores[2]):
    present = [value for value in values if value is not None]
    assert len(present) == num_labels  # a class that is nowhere stays out of the mean
    assert result[part] == pytest.approx(sum(present) / len(present), abs=1e-12)
  assert result["loss"] == pytest.approx(loss, abs=1e-5)
  for name in NUMBERS:
    low, high = result[f"{name}_interval"]
    assert low < high and (low < result[name] < high or name == "ece")  # which is biased upwards
  for name, value in result["iou"].items():
    interval = result["iou_interval"][name]
    assert interval is None if value is None else interval[0] < value < interval[1]
  assert samples == []
  json.dumps(result, allow_nan=False)


def test_what_is_predicted_on_void_does_not_matter():
  examples = make_data()
  expected, *_ = score(predict, examples, CLASSES)
  for example in examples:
    example["probs"][example["mask"] == VOID] = (1e-9, 0, 1)
  assert score(predict, examples, CLASSES)[0] == expected


def test_pixels_count_the_same_in_small_and_large_images():
  """One image, and the same pixels as two images of different size."""
  (whole,) = make_data()[4:]
  one, two = (score(predict, x, CLASSES)[0] for x in ([whole], [whole, whole]))
  assert not INTERVALS & set(one)  # nothing is known about how images differ
  assert {name: two[name] for name in INTERVALS} == {
    **{f"{name}_interval": pytest.approx([one[name]] * 2) for name in NUMBERS},
    "iou_interval": {name: pytest.approx([x] * 2) for name, x in one["iou"].items()},
  }
  parts = [{k: v[:, cut] for k, v in whole.items()} for cut in (np.s_[:3], np.s_[3:])]
  two, *_ = score(predict, parts, CLASSES)
  assert (one.pop("num_images"), two.pop("num_images")) == (1, 2)
  for name in ("loss", "ece"):
    assert one.pop(name) == pytest.approx(two.pop(name), abs=1e-6)
  np.testing.assert_allclose(one.pop("reliability"), two.pop("reliability"), rtol=1e-12)
  assert one == {name: x for name, x in two.items() if name not in INTERVALS}


def test_perfect_and_certain_but_wrong():
  mask = np.array([[0, 1, 2, VOID]], np.uint8)
  right = np.eye(3, dtype=np.float32)[np.array([[0, 1, 2, 0]])]
  example = {"image": mask[..., None], "mask": mask, "probs": right}
  result, *_ = score(predict, [example], CLASSES)
  assert result == {
    **dict.fromkeys(("pixel_accuracy", "mean_accuracy", "miou", "fw_iou"), 1.0),
    **{score: dict.fromkeys(CLASSES, 1.0) for score in ("iou", "dice", "accuracy")},
    "loss": 0.0,
    "ece": 0.0,
    "num_images": 1,
    "confusion": np.eye(3).tolist(),
    "reliability": [[0, 0, 0]] * 14 + [[3, 3, 3]],
  }
  result, *_ = score(predict, [{**example, "probs": np.roll(right, 1, axis=-1)}], CLASSES)
  assert result["miou"] == result["pixel_accuracy"] == 0
  assert result["ece"] == 1
  assert 50 < result["loss"] < 100  # a probability of 0 costs much, but not infinitely


def test_samples_are_those_asked_for():
  examples = make_data()
  _, samples, _ = score(predict, examples, CLASSES, sample_at={1, 4})
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
    ([RIGHT, MERGED, cells("xxxxx xxxxx", "##### #####")], (5 / 6, 1 / 2, 1 / 10)),  # no label
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
  result, *_ = score(predict, examples, CELLS, instances=True)
  got = [result[name] for name in evaluation.INSTANCE_SCORES]
  assert list(evaluation.INSTANCE_SCORES) == ["v_rand", "v_info", "warping_error"]
  for value, truth in zip(got, expected, strict=True):
    assert value == (None if truth is None else pytest.approx(truth, abs=1e-6))
  json.dumps(result, allow_nan=False)


def test_boundary_f1_is_a_mean_over_images():
  """0.75% of the diagonal: 0.76 px of 100 x 20 px, 1.04 of 120 x 70, for a step moved by 1 px."""

  def step(shape, column):
    labels = np.zeros(shape, np.uint8)
    labels[:, column:] = 1
    return labels

  def moved(shape):
    truth, found = step(shape, 9), step(shape, 10)
    return {"image": truth[..., None], "mask": truth, "probs": np.eye(3, dtype=np.float32)[found]}

  small, large = moved((100, 20)), moved((120, 70))
  even = {**small, "mask": step((100, 20), 20), "probs": small["probs"][:, :1].repeat(20, axis=1)}
  for examples, expected in ([small], 0), ([large, small, large], 2 / 3), ([even, large], 1):
    result, *_ = score(predict, examples, CLASSES, boundaries=True)
    assert result["boundary_f1"] == pytest.approx(expected)
  assert score(predict, [even], CLASSES, boundaries=True)[0]["boundary_f1"] is None


@pytest.mark.parametrize(
  "examples, classes, more",
  [(make_data(), CLASSES, False), ([RIGHT, NO_CELL, MERGED, MERGED, RIGHT], CELLS, True)],
  ids=["pixels", "instances"],
)
def test_two_processes_are_one(monkeypatch, examples, classes, more):
  """Each has every other example; what they send to each other is put together."""
  run = functools.partial(score, predict, classes=classes, instances=more, boundaries=more)
  examples = [{**example, "name": f"image {i}"} for i, example in enumerate(examples)]
  (expected, _, table), sent = run(examples), {"rows": [], "sums": [], "names": []}
  assert table.names == [f"image {i}" for i in range(len(examples))]
  monkeypatch.setattr(evaluation, "json_from_all", lambda x: sent["names"].append(x) or [x])
  monkeypatch.setattr(evaluation, "rows_of_processes", lambda x: sent["rows"].append(x) or x)
  monkeypatch.setattr(evaluation, "sum_over_processes", lambda x: sent["sums"].append(x) or x)
  for number in (0, 1):
    run(examples[number::2])
  rows = [sent["rows"][i % 2][i // 2] for i in range(len(examples))]
  monkeypatch.setattr(evaluation, "rows_of_processes", lambda x: np.array(rows))
  monkeypatch.setattr(evaluation, "sum_over_processes", lambda x: sum(sent["sums"]))
  names = sent["names"].copy()
  monkeypatch.setattr(evaluation, "json_from_all", lambda _: names)
  for share in examples[:1], []:  # the second process may have none
    result, _, found = run(share)
    assert result == expected and found.names == table.names
    np.testing.assert_array_equal(found.pixels, table.pixels)


def test_table_of_images_has_the_scores_of_each_alone():
  examples = make_data()
  examples[2]["mask"][:] = VOID  # an image without a label has no score
  _, _, table = score(predict, examples, CLASSES, boundaries=True, surface_tolerance=1.0)
  found, iou = table.of_images(), table.iou()
  assert list(found) == [
    "pixels", "pixel_accuracy", "miou", "loss", "boundary_f1", "hd95", "nsd"
  ]  # fmt: skip
  for i, example in enumerate(examples):
    if i == 2:
      assert found.pop("pixels")[i] == 0
      assert np.isnan([x[i] for x in (*found.values(), *iou.T)]).all()
      continue
    options = {"boundaries": True, "surface_tolerance": 1.0}
    alone, *_ = score(predict, [example], CLASSES, **options)
    for name in ("pixel_accuracy", "miou", "loss", "boundary_f1", "hd95", "nsd"):
      assert found[name][i] == pytest.approx(alone[name], rel=1e-12)
    np.testing.assert_allclose(iou[i], list(alone["iou"].values()), rtol=1e-12)


def test_table():
  examples = make_data(2)
  result, *_ = score(predict, examples, CLASSES, boundaries=True)
  head, *lines = score_table(result).splitlines()
  assert head.split() == ["class", "IoU", "Dice", "accuracy", "pixels"]
  assert len({len(line) for line in (head, *lines[:3])}) == 1  # aligned
  share = sum((x["mask"] == 0).sum() for x in examples)
  share /= sum((x["mask"] != VOID).sum() for x in examples)
  numbers = [f"{result[score]['sky']:.4f}" for score in ("iou", "dice", "accuracy")]
  assert lines[0].split() == ["sky", *numbers, f"{share:.2%}"]
  assert lines[2].split() == ["car", "-", "-", "-", "0.00%"]
  assert f"miou           {result['miou']:.4f}  95% interval" in score_table(result)
  names = ["loss", "boundary_f1", *NUMBERS[1:], "num_images"]
  assert [line.split()[0] for line in lines[4:]] == names


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_probabilities_that_are_not_finite(value):
  examples = make_data()
  examples[1]["probs"][2, 3, 1] = value
  examples[3]["probs"][0, 0] = value
  with pytest.raises(UserError, match="not finite for 2 of 5 images"):
    score(predict, examples, CLASSES)


def test_nothing_to_score():
  examples = make_data()
  for example in examples:
    example["mask"][:] = VOID
  with pytest.raises(UserError, match="no pixel of the 5 images"):
    score(predict, examples, CLASSES)
  with pytest.raises(UserError, match="no pixel of the 0 images"):
    score(predict, [], CLASSES)
