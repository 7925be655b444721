"""Examples and windows drawn by their classes: frequencies against enumerated probabilities."""

import collections
import itertools
import sys

import numpy as np
import pytest
from scipy import stats
from test_input_pipeline import LARGE, SMALL, coordinates, join, numbers, take, train_batches

from jaxseg import VOID
from jaxseg.data.input_pipeline import Sampling, draw_example, draw_pixel, draw_window


def check_frequencies(draws, probabilities):
  """Nothing but what is possible, as often as that; by chi-square at 1 in 10,000.

  Args:
    draws: list of outcomes.  probabilities: {outcome: p}.
  """
  counts = collections.Counter(draws)
  expected = {outcome: p * len(draws) for outcome, p in probabilities.items() if p}
  assert set(counts) <= set(expected), set(counts) - set(expected)
  assert sum(probabilities.values()) == pytest.approx(1)
  assert min(expected.values()) >= 5, "too few draws for chi-square"
  chi_square = sum((counts[outcome] - mean) ** 2 / mean for outcome, mean in expected.items())
  assert chi_square < stats.chi2.ppf(1 - 1e-4, max(len(expected) - 1, 1))


def windows(shape, size):
  """First row and column of every window inside an image, or at its start if it is longer."""
  return list(itertools.product(*(range(max(n - size, 0) + 1) for n in shape)))


def holds(start, size, pixel):
  return all(s <= p < s + size for s, p in zip(start, pixel, strict=True))


def window_probabilities(shape, size, pixels):
  """{start: p} of windows that contain a pixel that is drawn from {pixel: p}."""
  found = collections.Counter()
  for pixel, p in pixels.items():
    around = [start for start in windows(shape, size) if holds(start, size, pixel)]
    for start in around:
      found[start] += p / len(around)
  return found


MASK = np.array([[0, 0, 0, 0, 3], [0, VOID, 0, 1, 3], [0, 0, 0, 0, 3], [VOID, 0, 0, 0, 0]], "u1")


@pytest.mark.parametrize("labels", [(), (1, 3), (3, 7), (0, 1, 3, VOID)])
def test_pixels(labels):
  """Each class alike, and each of its pixels alike; VOID is no class."""
  present = [label for label in (0, 1, 3) if not labels or label in labels]
  probabilities = {
    (row, col): 1 / len(present) / (MASK == MASK[row, col]).sum()
    for row, col in np.ndindex(MASK.shape)
    if MASK[row, col] in present
  }
  rng = np.random.default_rng(0)
  check_frequencies([draw_pixel(rng, MASK, labels) for _ in range(3000)], probabilities)


def test_no_pixel():
  rng = np.random.default_rng(0)
  assert draw_pixel(rng, MASK, (2, 7)) is None
  assert draw_pixel(rng, np.full((3, 4), VOID, np.uint8)) is None


@pytest.mark.parametrize("shape", [(6, 9), (4, 6), (3, 2), (5, 4)])
@pytest.mark.parametrize("where", [None, "corner", "middle", "edge"])
def test_windows(shape, where):
  height, width = shape
  places = {"corner": (height - 1, 0), "middle": (height // 2, width // 2), "edge": (0, width // 2)}
  pixel = places.get(where)
  possible = [s for s in windows(shape, 4) if pixel is None or holds(s, 4, pixel)]
  rng = np.random.default_rng(1)
  draws = [tuple(draw_window(rng, shape, 4, pixel)) for _ in range(1000)]
  check_frequencies(draws, dict.fromkeys(possible, 1 / len(possible)))


@pytest.mark.parametrize("labels", [(1,), (), (9,)])
@pytest.mark.parametrize("share", [0.5, 1.0])
@pytest.mark.parametrize("margin", [0, 3])
def test_crops_of_the_stream(margin, share, labels):
  """A class crop with the set probability, any other window else; pixels in the part with logits.

  Classes: 1 at one pixel of a corner, 2 in a column, else 0.
  """
  example = coordinates(7, 9)
  example["mask"] = mask = np.zeros((7, 9), np.uint8)
  mask[:, 6], mask[0, 8] = 2, 1
  present = [label for label in (0, 1, 2) if not labels or label in labels]
  pixels = {
    place: 1 / len(present) / (mask == mask[place]).sum()
    for place in np.ndindex(mask.shape)
    if mask[place] in present
  }
  # With none of the classes in the example, every window is alike.
  by_class = window_probabilities((7, 9), 5, pixels) if pixels else None
  everywhere = windows((7, 9), 5)
  plain = dict.fromkeys(everywhere, 1 / len(everywhere))
  probabilities = {
    start: share * (by_class or plain)[start] + (1 - share) * plain[start] for start in everywhere
  }
  batches = train_batches(
    [example],
    fit="crop",
    size=5 + 2 * margin,
    margin=margin,
    batch_size=100,
    sampling=Sampling(class_crops=share, crop_labels=labels),
  )
  batch = join(take(batches, 25))
  starts = batch["image"][:, margin, margin, :2].astype(int)
  check_frequencies(list(map(tuple, starts)), probabilities)
  if share == 1 and labels == (1,):
    inner = batch["mask"][:, margin : margin + 5, margin : margin + 5]
    assert (inner == 1).any((1, 2)).all()


@pytest.mark.slow
def test_examples_by_class():
  """0.4 / 10 for each as shuffled, and 0.6 / 3 for each class, shared by its examples."""
  sampling = Sampling(class_balanced=0.6, examples=[[0], [0, 1, 2], [5, 9]])
  batches = train_batches(SMALL, batch_size=100, sampling=sampling)
  probabilities = np.full(10, 0.4 / 10)
  for examples in sampling.examples:
    probabilities[examples] += 0.6 / 3 / len(examples)
  check_frequencies(numbers(take(batches, 10)).tolist(), dict(enumerate(probabilities)))


def test_the_others_are_as_shuffled():
  """So are they if nothing is drawn by class."""
  plain = numbers(take(train_batches(SMALL), 50))
  for share in (0.0, 0.3, 1.0):
    sampling = Sampling(class_balanced=share, examples=[[7]])
    found = numbers(take(train_batches(SMALL, sampling=sampling), 50))
    drawn = found != plain
    assert (found[drawn] == 7).all()
    expected = 0.9 * share  # 7 has its turn anyway
    assert abs(drawn.mean() - expected) <= 4 * np.sqrt(expected * (1 - expected) / 200)


@pytest.mark.slow
def test_crops_and_examples_are_drawn_independently():
  """Both follow from the seed and the position, but not from the same numbers."""
  mask = np.zeros((8, 24), np.uint8)
  mask[0, 0] = 1
  source = [{**coordinates(8, 24, i), "mask": mask} for i in range(10)]
  sampling = Sampling(0.5, (1,), 0.5, [[7]])
  batch = join(take(train_batches(source, fit="crop", batch_size=100, sampling=sampling), 20))
  left, seven = batch["image"][:, 0, 0, 1] == 0, batch["image"][:, 0, 0, 2] == 7
  assert abs(np.corrcoef(left, seven)[0, 1]) < 4 / np.sqrt(2000)


def test_positions_and_seeds_decide():
  sampling = Sampling(class_balanced=1.0, examples=[list(range(100))])

  def draw(seed, start):
    return [draw_example(start + i, 0, seed=seed, sampling=sampling) for i in range(20)]

  assert draw(3, 0) == draw(3, 0)
  late = sys.maxsize // 2 - 30
  others = [draw(3, 0), draw(4, 0), draw(3, 20), draw(3, late), draw(2**32 - 1, late)]
  assert len({tuple(x) for x in others}) == 5
  assert all(type(x) is int and 0 <= x < 100 for x in draw(3, late))


def test_a_late_position():
  """The same examples as one who has read all before, whatever the number of processes."""
  sampling = Sampling(0.5, (), 0.5, [[0, 1], [5]])
  options = {"fit": "crop", "sampling": sampling, "batch_size": 2}
  whole = train_batches(LARGE, **options)
  whole.set_state({"next_index": 10**8})
  expected = next(whole)
  assert expected["index"].tolist() == [2 * 10**8, 2 * 10**8 + 1]
  for number in (0, 1):
    share = train_batches(LARGE, process=(number, 2), **options)
    share.set_state({"next_index": 10**8})
    for name, x in next(share).items():
      np.testing.assert_array_equal(x[0], expected[name][number])
