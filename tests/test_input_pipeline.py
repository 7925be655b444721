"""The stream of examples: complete passes, the same for any number of processes, resumable."""

import collections
import itertools
import json
import sys
import threading

import numpy as np
import pytest
from encoders import encode
from scipy import ndimage

from jaxseg import VOID, UserError
from jaxseg.data import input_pipeline
from jaxseg.data.datasets import Subset
from jaxseg.data.decode import ImageFormat
from jaxseg.data.encoded import Encoded
from jaxseg.data.input_pipeline import (
  Cached,
  Sampling,
  eval_examples,
  resize_example,
  window_example,
  with_fast_jpeg,
)  # fmt: skip
from jaxseg.data.labels import LabelMap

NUM = 10


def coordinates(height, width, number=0):
  """An image whose pixels say where they are; mask and instances say the same again."""
  y, x = np.mgrid[:height, :width].astype(np.uint8)
  image = np.stack([y, x, np.full_like(y, number)], -1)
  return {
    "image": image,
    "mask": (y + 2 * x) % 200,
    "instances": 1000 * (1 + y.astype(np.int32)) + x,
    "name": f"image {number}",
  }


SMALL = [coordinates(8, 8, i) for i in range(NUM)]
LARGE = [coordinates(20 + i, 31 - i, i) for i in range(NUM)]


def train_batches(source, **options):
  defaults = {"size": 8, "fit": "resize", "batch_size": 4, "seed": 3}
  return input_pipeline.train_batches(source, **{**defaults, **options})


def take(iterator, num_batches):
  return list(itertools.islice(iterator, num_batches))


def join(batches):
  """A list of batches -> one, as {name: array}."""
  return {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}


def numbers(batches):
  return join(batches)["image"][:, 0, 0, 2]


def assert_equal(first, second):
  assert first.keys() == second.keys()
  for key in first:
    np.testing.assert_array_equal(first[key], second[key], err_msg=key)


@pytest.mark.parametrize("num_threads, instances", [(0, False), (2, False), (2, True)])
def test_every_pass_is_complete_and_in_a_new_order(num_threads, instances):
  batches = train_batches(SMALL, num_threads=num_threads, instances=instances)
  batches = take(batches, 15)  # six passes of ten
  for batch in batches:
    assert {k: (v.shape, v.dtype.name) for k, v in batch.items()} == {
      "image": ((4, 8, 8, 3), "uint8"),
      "mask": ((4, 8, 8), "uint8"),
      "index": ((4,), "int32"),
      **({"instances": ((4, 8, 8), "int32")} if instances else {}),  # the source has them
    }
  np.testing.assert_array_equal(join(batches)["index"], np.arange(60))
  passes = numbers(batches).reshape(6, NUM)
  np.testing.assert_array_equal(np.sort(passes, axis=1), np.tile(np.arange(NUM), (6, 1)))
  assert len({tuple(order) for order in passes}) == 6
  assert tuple(range(NUM)) not in {tuple(order) for order in passes}


@pytest.mark.parametrize("fit", ["resize", "crop"])
def test_batches_of_one(fit):
  batches = take(train_batches(SMALL, batch_size=1, fit=fit), NUM)
  assert sorted(numbers(batches)) == list(range(NUM))


def test_order_depends_on_the_seed_alone():
  first, again, other = (numbers(take(train_batches(SMALL, seed=s), 5)) for s in (3, 3, 4))
  np.testing.assert_array_equal(first, again)
  assert (first != other).any()


def test_seeds_have_no_epoch_in_common():
  """Nor is an epoch of one the next epoch of its neighbour."""
  orders = [
    tuple(order)
    for seed in (0, 1, 2, 2**32 - 1)
    for order in numbers(take(train_batches(SMALL, seed=seed, batch_size=10), 5)).reshape(5, NUM)
  ]
  assert len({*orders}) == len(orders) == 20


RANDOM = [
  (SMALL, {}),
  (LARGE, {"fit": "crop", "instances": True}),
  (LARGE, {"size": 12, "margin": 2}),
  (LARGE, {"fit": "crop", "sampling": Sampling(0.5, (7, 40), 0.5, [[0, 1], [2, 3, 4], [9]])}),
]
IDS = ["resize", "crop", "margin", "by classes"]


@pytest.mark.parametrize("source, options", RANDOM, ids=IDS)
@pytest.mark.parametrize("count", [2, 4])
def test_processes_together_see_what_one_sees(source, options, count):
  alone = take(train_batches(source, **options), 8)
  shares = [
    take(train_batches(source, process=(number, count), **options), 8) for number in range(count)
  ]
  for step, expected in enumerate(alone):
    assert all(len(share[step]["index"]) == 4 // count for share in shares)
    together = join([share[step] for share in shares])
    order = np.argsort(together["index"])
    assert_equal({key: value[order] for key, value in together.items()}, expected)


@pytest.mark.parametrize("source, options", RANDOM, ids=IDS)
def test_goes_on_from_a_state(source, options):
  straight = take(train_batches(source, **options), 9)
  iterator = train_batches(source, **options)
  take(iterator, 4)  # in the middle of a pass, and prefetching has run ahead
  state = json.loads(json.dumps(iterator.get_state()))  # a checkpoint holds it as JSON
  fresh = train_batches(source, num_threads=0, cache_mb=1, **options)
  fresh.set_state(state)
  assert_equal(join(take(fresh, 5)), join(straight[4:]))
  iterator.set_state(state)
  assert_equal(join(take(iterator, 5)), join(straight[4:]))


def test_crop_draws_a_new_window_every_time():
  source = [coordinates(30, 30)]
  batch = join(take(train_batches(source, fit="crop"), 5))
  corners = {(int(y), int(x)) for y, x in batch["image"][:, 0, 0, :2]}
  assert len(corners) > 10


def test_unknown_fit():
  with pytest.raises(UserError, match="'stretch'.*resize, crop"):
    train_batches(SMALL, fit="stretch")


def test_resize_takes_the_nearest_label():
  example = coordinates(21, 34)
  example["mask"][3:9, 5:20] = VOID
  resized = resize_example(example, 16)
  assert resized["image"].shape == (16, 16, 3)
  rows = [int((i + 0.5) * 21 / 16) for i in range(16)]
  cols = [int((j + 0.5) * 34 / 16) for j in range(16)]
  for i, row in enumerate(rows):
    for j, col in enumerate(cols):
      for name in "mask", "instances":
        assert resized[name][i, j] == example[name][row, col]
  assert {k: v.dtype for k, v in resized.items() if k != "name"} == {
    "image": np.uint8, "mask": np.uint8, "instances": np.int32
  }  # fmt: skip
  assert_equal(resize_example(SMALL[2], 8), SMALL[2])


@pytest.mark.parametrize("shape, size", [((50, 33), 24), ((15, 40), 32)])
def test_resize_keeps_image_and_mask_aligned(shape, size):
  rng, shifts = np.random.default_rng(0), []
  for _ in range(100):
    mask = np.zeros(shape, np.uint8)
    (top, bottom), (left, right) = (np.sort(rng.integers(2, n - 1, 2)) for n in shape)
    mask[top : bottom + 1, left : right + 1] = 1
    resized = resize_example({"image": 200 * mask[..., None], "mask": mask}, size)
    image, mask = resized["image"][..., 0] / 200.0, resized["mask"].astype(float)
    if mask.any():
      centres = [
        [np.average(np.indices(x.shape)[axis], weights=x) for axis in (0, 1)] for x in (image, mask)
      ]
      shifts.append(np.subtract(*centres))
  # The nearest pixel is up to half a pixel off, but to no side in particular.
  assert len(shifts) > 60
  np.testing.assert_allclose(np.mean(shifts, axis=0), 0, atol=0.1)  # px


def window_of(example, starts, size):
  """A window by np.pad: the image goes on mirrored, labels end."""
  margin = 40
  rows, cols = (slice(start + margin, start + margin + size) for start in starts)
  image = np.pad(example["image"], [(margin, margin)] * 2 + [(0, 0)], mode="symmetric")
  mask = np.pad(example["mask"], margin, constant_values=VOID)
  instances = np.pad(example["instances"], margin)
  padded = {"image": image, "mask": mask, "instances": instances}
  return {name: x[rows, cols] for name, x in padded.items()}


def test_windows_inside_are_views_and_the_others_go_on_mirrored():
  example = coordinates(12, 10)
  del example["name"]
  for starts in itertools.product(range(-3, 8), range(-3, 6)):
    window = window_example(example, starts, 8)
    assert_equal(window, window_of(example, starts, 8))
    inside = all(0 <= start <= n - 8 for start, n in zip(starts, (12, 10), strict=True))
    for name, x in window.items():
      assert np.shares_memory(x, example[name]) == inside


@pytest.mark.parametrize("margin", [0, 3])
@pytest.mark.parametrize("height, width", [(12, 10), (8, 8), (5, 6), (5, 12), (12, 5), (2, 3)])
def test_crops_reach_every_place_and_go_on_mirrored(height, width, margin):
  """What gets logits, all but the margin, lies inside of the image if that is large enough."""
  example, inner = coordinates(height, width), 8
  size = inner + 2 * margin
  batches = train_batches(
    [example], fit="crop", size=size, margin=margin, instances=True, batch_size=60
  )
  batch, corners = join(take(batches, 10)), collections.Counter()
  for i, corner in enumerate(batch["image"][:, margin, margin, :2].astype(int)):
    window = window_of(example, corner - margin, size)
    assert_equal({name: batch[name][i] for name in window}, window)
    corners[tuple(corner)] += 1
  places = (range(max(n - inner, 0) + 1) for n in (height, width))
  assert set(corners) == set(itertools.product(*places))
  # 600 draws of up to 15 places: 5 standard deviations.
  mean = 600 / len(corners)
  assert all(abs(num - mean) <= 5 * mean**0.5 for num in corners.values())


def test_resize_leaves_a_margin():
  example = coordinates(21, 34)
  batch = next(train_batches([example], size=14, margin=3, instances=True, batch_size=2))
  expected = window_of(resize_example(example, 8), (-3, -3), 14)
  for i in range(2):
    assert_equal({name: batch[name][i] for name in expected}, expected)


@pytest.mark.parametrize("fit", ["resize", "crop"])
def test_instances_are_those_of_the_whole_mask(fit):
  """A cell of which a crop shows two arms keeps one id."""
  example = coordinates(13, 15)
  mask = np.zeros((13, 15), np.uint8)
  mask[1:12, [2, 6, 10]] = mask[11, 2:7] = 1  # a U and an I
  mask[5, :] = VOID
  del example["instances"]
  example["mask"] = mask
  expected = {**example, "instances": ndimage.label(mask == 1)[0].astype(np.int32)}
  batch = join(take(train_batches([example], fit=fit, size=8, instances=True), 10))
  num_cut = 0
  for image, instances in zip(batch["image"], batch["instances"], strict=True):
    if fit == "resize":
      np.testing.assert_array_equal(instances, resize_example(expected, 8)["instances"])
    else:
      y, x = image[0, 0, :2]
      np.testing.assert_array_equal(instances, expected["instances"][y : y + 8, x : x + 8])
      pieces = [ndimage.label(instances == i)[1] for i in np.unique(instances[instances > 0])]
      num_cut += max(pieces) == 2
  assert num_cut > 3 or fit == "resize"


class Counting:
  """Counts how often each example is read."""

  def __init__(self, source):
    self.source, self.reads = source, collections.Counter()

  def __len__(self):
    return len(self.source)

  def __getitem__(self, i):
    self.reads[i] += 1
    return {k: np.copy(v) if k != "name" else v for k, v in self.source[i].items()}


def test_cached_keeps_to_its_budget():
  size = 8 * 8 * (3 + 1 + 4)  # bytes of one example
  for budget, kept in ((0, 0), (size - 1, 0), (3 * size, 3), (4 * size - 1, 3), (99 * size, NUM)):
    source = Counting(SMALL)
    cached = Cached(source, budget)
    assert len(cached) == NUM
    for _ in range(3):
      for i in range(NUM):
        assert_equal(cached[i], SMALL[i])
    # A kept example was read once, any other each of the three times.
    assert sorted(source.reads.values()) == [1] * kept + [3] * (NUM - kept)


def test_cached_keeps_to_its_budget_with_threads(monkeypatch):
  example = {"image": np.zeros((1, 1, 3), np.uint8), "mask": np.zeros((1, 1), np.uint8)}
  source = Counting([example] * 3000)
  cached = Cached(source, 4 * 1000)
  interval = sys.getswitchinterval()
  sys.setswitchinterval(1e-6)
  try:
    threads = [
      threading.Thread(target=lambda n=n: [cached[i] for i in range(n, 3000, 4)]) for n in range(4)
    ]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()
  finally:
    sys.setswitchinterval(interval)
  source.reads.clear()
  for i in range(3000):
    cached[i]
  assert 3000 - len(source.reads) <= 1000


def test_training_reads_each_example_once_if_memory_allows():
  for fit in input_pipeline.FITS:
    source = Counting(LARGE)
    take(train_batches(source, fit=fit, cache_mb=1, num_threads=0), 20)
    assert source.reads == dict.fromkeys(range(NUM), 1)
    source = Counting(LARGE)
    take(train_batches(source, fit=fit, cache_mb=0, num_threads=0), 20)
    assert set(source.reads.values()) == {8}


@pytest.mark.parametrize("count", [1, 2, 3, 12])
def test_evaluation_sees_everything_once_at_its_own_size(count):
  seen = []
  for number in range(count):
    share = list(eval_examples(LARGE, process=(number, count)))
    order = [int(example["image"][0, 0, 2]) for example in share]
    assert order == sorted(order) and abs(len(order) - NUM / count) < 1
    for i, example in zip(order, share, strict=True):
      assert example["name"] == LARGE[i]["name"]
      np.testing.assert_array_equal(example["image"], LARGE[i]["image"])
      np.testing.assert_array_equal(example["mask"], LARGE[i]["mask"])
    seen += order
  assert sorted(seen) == list(range(NUM))


class Failing(Counting):
  def __getitem__(self, i):
    if i == 7:
      raise UserError("a.jpg: cannot be decoded (truncated); delete it")
    return super().__getitem__(i)


@pytest.mark.parametrize("num_threads", [0, 2])
def test_a_user_error_of_a_reading_thread_arrives(num_threads):
  source = Failing(SMALL)
  for iterator in (
    eval_examples(source, num_threads=num_threads),
    train_batches(source, num_threads=num_threads, cache_mb=1),
    train_batches(source, num_threads=num_threads, fit="crop"),
  ):
    with pytest.raises(UserError) as error:
      take(iterator, 20)
    assert str(error.value) == "a.jpg: cannot be decoded (truncated); delete it"


def test_fast_jpegs():
  """Images differ by little, masks not at all; a fold of a data set is no obstacle."""
  y, x = np.mgrid[:80, :100]
  picture = np.stack([2 * x, 3 * y, x + y], -1).astype(np.uint8)
  mask = encode((x // 7 % 2).astype(np.uint8))
  records = [{"image": encode(picture + i, "JPEG"), "mask": mask, "name": "a"} for i in range(9)]
  source = Subset(Encoded(records, ImageFormat(3), LabelMap({0: 0, 1: 1})), [5, 2, 7])
  fast = with_fast_jpeg(source, 32)
  assert fast[0]["image"].shape == (32, 32, 3) and source[0]["image"].shape == (80, 100, 3)
  options = {"size": 34, "margin": 1, "batch_size": 3}
  full, batch = (next(train_batches(part, **options)) for part in (source, fast))
  difference = np.abs(full["image"].astype(int) - batch["image"])
  assert 0 < difference.mean() < 2
  assert_equal({**full, "image": 0}, {**batch, "image": 0})
  with pytest.raises(UserError, match="`fast_jpeg` is True, but .* does not decode files"):
    with_fast_jpeg(SMALL, 32)
