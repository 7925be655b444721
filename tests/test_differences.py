"""Two runs on the same images: a difference that was planted is found where it is."""

import dataclasses

import numpy as np
import pytest
from tiny import error_of

from configs import default
from jaxseg import differences
from jaxseg.comparison import write_comparison
from jaxseg.data.decode import DatasetInfo
from jaxseg.differences import Run, compare, verdict
from jaxseg.per_image import PerImage

INFO = DatasetInfo(("sky", "road", "car"), ((0, 0, 255), (99, 99, 99), (255, 0, 0)), 3)
NUM = 40


def make_run(name, gain=0, seed=0, names=None, config=None):
  """A run whose images have random errors; a `gain` of pixels of cars is right in images 10 to 19,
  which the same run without it took for road."""
  rng = np.random.default_rng(seed)
  truth = rng.integers(800, 1200, (NUM, 3))
  wrong = rng.integers(100, 300, (NUM, 3))
  found = truth - wrong + np.roll(wrong, 1, axis=1)  # a class's errors become the next class
  right = truth - wrong
  right[10:20, 2] += gain
  found[10:20, 2] += gain
  found[10:20, 0] -= gain
  scores = {"loss": rng.random(NUM) - 0.001 * (found[:, 2] - truth[:, 2])}
  names = names or [f"{i}.png" for i in range(NUM)]
  table = PerImage(names, INFO.classes, np.stack([right, truth, found], axis=1), scores)
  result = {"miou": 0.5, "pixel_accuracy": 0.5, "num_images": NUM, "split": "test"}
  return Run(name, f"about {name}", result, table, INFO, config or default.get_config())


def miou(run, rows):
  right, truth, found = run.images.pixels[rows].sum(0)
  return (right / (truth + found - right)).mean()


def test_a_planted_difference():
  first, second = make_run("a"), make_run("b", gain=80)
  found = compare(first, second)
  one, two, gain, (low, high) = found.scores["miou"]
  everywhere = np.arange(NUM)
  assert (one, two) == pytest.approx((miou(first, everywhere), miou(second, everywhere)))
  assert gain == pytest.approx(two - one) and 0 < low < gain < high
  assert verdict("miou", (low, high)) == "better"
  # The class that gained, the one from which pixels came, and one that has no part in it.
  assert verdict("iou", found.scores["iou", "car"][3]) == "better"
  assert verdict("iou", found.scores["iou", "sky"][3]) == "better"
  assert found.scores["iou", "road"][2] == 0
  assert verdict("iou", found.scores["iou", "road"][3]) == ""
  assert verdict("loss", found.scores["loss"][3]) == "better"  # which is lower
  gains = found.gains()
  assert (gains[10:20] > 0).all() and (gains[:10] == 0).all() and (gains[20:] == 0).all()
  better, worse = differences.changed_most(gains)
  assert set(better) <= set(range(10, 20)) and len(better) == differences.NUM_CHANGED
  assert better == sorted(better, key=lambda i: -gains[i]) and worse == []
  back = compare(second, first)
  assert verdict("miou", back.scores["miou"][3]) == "worse"
  assert differences.changed_most(back.gains()) == ([], better)


def test_intervals_are_those_of_pairs():
  """Images differ much, but both runs fail on the same ones: the pairs know, single runs do not."""
  first, second = make_run("a"), make_run("b", gain=80)
  low, high = compare(first, second).scores["miou"][3]
  rng, alone, paired = np.random.default_rng(1), [], []
  for _ in range(1000):
    rows, others = rng.integers(NUM, size=(2, NUM))
    alone.append(miou(second, others) - miou(first, rows))
    paired.append(miou(second, rows) - miou(first, rows))
  np.testing.assert_allclose((low, high), np.percentile(paired, (2.5, 97.5)), atol=7e-4)
  assert high - low < 0.8 * np.subtract(*np.percentile(alone, (97.5, 2.5)))


@pytest.mark.parametrize("num, is_enough", [(7, False), (8, True)])
def test_few_images_have_no_intervals(num, is_enough, tmp_path):
  first, second = (
    dataclasses.replace(run, images=differences._taken(run.images, list(range(10, 10 + num))))
    for run in (make_run("a"), make_run("b", gain=80))
  )
  found = compare(first, second)
  assert all((x[3] is not None) == is_enough for x in found.scores.values())
  write_comparison(tmp_path / "x.html", [first, second], [found], [{}])
  text = (tmp_path / "x.html").read_text()
  assert ("Of fewer than 8 images there is no verdict" in text) != is_enough
  assert ('class="better"' in text) == is_enough


def test_the_same_run_differs_nowhere():
  run = make_run("a")
  found = compare(run, run)
  assert all(gain == 0 and interval == [0, 0] for _, _, gain, interval in found.scores.values())
  assert not found.notes and differences.changed_most(found.gains()) == ([], [])


def test_images_are_matched_by_name():
  first, second = make_run("a"), make_run("b", gain=80)
  order = np.random.default_rng(0).permutation(NUM)
  mixed = differences._taken(second.images, order[:30])
  found = compare(first, dataclasses.replace(second, images=mixed))
  assert found.notes == ["10 images are in a alone and left out here."]
  assert found.first.names == found.second.names
  expected = compare(first, second)
  for name, gain in zip(found.first.names, found.gains(), strict=True):
    assert gain == expected.gains()[int(name.removesuffix(".png"))]
  for i, (row, other) in enumerate(zip(*found.rows, strict=True)):
    assert first.images.names[row] == mixed.names[other] == found.first.names[i]


def test_names_that_occur_twice_are_matched_in_order():
  names = ["same.png"] * NUM
  found = compare(make_run("a", names=names), make_run("b", gain=80, names=names))
  assert len(found.first.names) == NUM and (found.gains()[10:20] > 0).all()


def test_other_truth_is_named():
  first, second = make_run("a"), make_run("b")
  pixels = second.images.pixels.copy()
  pixels[3, 1, 0] += 1
  second = dataclasses.replace(second, images=dataclasses.replace(second.images, pixels=pixels))
  (note,) = compare(first, second).notes
  assert note.startswith("The truth of 1 of these images is not the same")


def test_runs_that_do_not_compare():
  first = make_run("a")
  second = make_run("b", names=[f"other{i}" for i in range(NUM)])
  assert "no image of the same name" in error_of(compare, first, second)
  assert "a (test) and b (val) were" in error_of(compare, first, dataclasses.replace(
    second, result={**second.result, "split": "val"}
  ))  # fmt: skip
  images = dataclasses.replace(first.images, classes=("sky", "road", "bus"))
  message = error_of(compare, first, dataclasses.replace(first, name="b", images=images))
  assert message.startswith("a and b have other classes (sky, road, car; sky, road, bus)")


@pytest.mark.parametrize(
  "name, interval, word",
  [
    ("miou", (0.1, 0.2), "better"),
    ("miou", (-0.2, -0.1), "worse"),
    ("miou", (-0.1, 0.2), ""),
    ("miou", (0.0, 0.2), ""),
    ("loss", (0.1, 0.2), "worse"),
    ("hd95", (-0.2, -0.1), "better"),
    ("miou", None, ""),
  ],
)
def test_verdict(name, interval, word):
  assert verdict(name, interval) == word


def test_scores_that_do_not_compare_are_named():
  """One that a single run has, and one that was measured in another way."""
  other = default.get_config()
  other.eval.surface_tolerance = 10.0
  first, second = make_run("a"), make_run("b", config=other)
  for run in (first, second):
    run.images.scores["nsd"] = np.ones(NUM)
  second.images.scores["hd95"] = np.ones(NUM)
  found = compare(first, second)
  assert found.notes == [
    "HD95, px is in b alone and left out here.",
    "normalised surface distance is left out: its tolerance is 2 px in a and 10 px in b.",
  ]
  assert not {"nsd", "hd95"} & found.scores.keys() and "loss" in found.scores
