"""From a source to batches for one process, with Grain."""

import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grain
import numpy as np
from PIL import Image

from jaxseg import VOID, UserError
from jaxseg.augment import LABEL_FILL
from jaxseg.data.datasets import Subset, connected_components
from jaxseg.data.encoded import Encoded
from jaxseg.data.memory import owning
from jaxseg.data.resize import resize_image
from jaxseg.data.workers import WorkerBatches
from jaxseg.tiles import mirror

FITS = ("resize", "crop")
SPREAD = 2_654_435_761  # odd: seeds stay different, and far from each other


def resize_example(example: Mapping[str, Any], size: int) -> dict[str, Any]:
  """Squeezes an example into size x size: image antialiased, labels by nearest neighbour."""
  if example["mask"].shape == (size, size):
    return example

  def nearest(labels):
    resized = Image.fromarray(labels).resize((size, size), Image.Resampling.NEAREST)
    return np.asarray(resized)

  labels = {name: nearest(example[name]) for name in LABEL_FILL if name in example}
  return {**example, "image": resize_image(example["image"], size), **labels}


@dataclasses.dataclass(frozen=True)
class Sampling:
  """Which examples and windows are drawn more often than others. The defaults change nothing.

  Attributes:
    class_crops: probability that a window contains a pixel of a class, see `draw_pixel`; nnU-Net
      (Isensee et al. 2021) takes 1/3.
    crop_labels: the classes for that; () = all.
    class_balanced: probability that an example is drawn by its classes, see `draw_example`.
    examples: for that, the numbers of the examples that hold a class; one list for each class that
      occurs.
  """

  class_crops: float = 0.0
  crop_labels: tuple[int, ...] = ()
  class_balanced: float = 0.0
  examples: Sequence[Sequence[int]] = ()


def draw_example(index: int, number: int, *, seed: int, sampling: Sampling) -> int:
  """The example at a position of the stream: `number` as shuffled, or one drawn by its classes.

  With probability `class_balanced`, a class is drawn uniformly, and then one of its examples.

  Args:
    index: position in the stream of all processes, which decides together with the seed.
  """
  rng = np.random.default_rng((seed, index))
  if rng.random() >= sampling.class_balanced:
    return number
  examples = sampling.examples[rng.integers(len(sampling.examples))]
  return int(examples[rng.integers(len(examples))])


def draw_pixel(
  rng: np.random.Generator, mask: np.ndarray, labels: Sequence[int] = ()
) -> tuple[int, int] | None:
  """Draws a class uniformly among those in the mask, and then one of its pixels uniformly.

  Args:
    mask: u8[H,W].  labels: the classes to choose from; () = all but VOID.
  Returns:
    (row, column), or None if the mask has none of the classes
  """
  counts = np.bincount(mask.ravel(), minlength=256)
  counts[VOID] = 0
  present = [int(label) for label in np.flatnonzero(counts) if not labels or label in labels]
  if not present:
    return None
  label = present[rng.integers(len(present))]
  place = np.flatnonzero(mask == label)[rng.integers(counts[label])]
  row, col = divmod(int(place), mask.shape[1])
  return row, col


def draw_window(
  rng: np.random.Generator, shape: Sequence[int], size: int, pixel: Sequence[int] | None = None
) -> list[int]:
  """First row and column of a window, uniformly among those inside an image that hold a pixel.

  A window that is longer than the image starts with it.

  Args:
    shape: (H, W).  size: of the window, px.  pixel: (row, column); None for any window.
  """
  starts = []
  for axis, length in enumerate(shape):
    low, high = 0, max(length - size, 0)
    if pixel is not None:
      low, high = max(low, pixel[axis] - size + 1), min(high, pixel[axis])
    starts.append(low + int(rng.integers(high - low + 1)))
  return starts


def window_example(
  example: Mapping[str, Any], starts: Sequence[int], size: int | Sequence[int]
) -> dict[str, np.ndarray]:
  """A window of an example, which may reach beyond it.

  Outside, the image is mirrored; the mask is VOID and there are no instances.

  Args:
    starts: row and column of the first pixel; may be negative.
    size: (height, width), or one number for both, px.
  Returns:
    image, mask and, if there are any, instances; views of the example if the window is inside
  """
  height, width = example["mask"].shape
  sides = (size, size) if isinstance(size, int) else size
  top, left, bottom, right = *starts, *map(sum, zip(starts, sides, strict=True))
  if min(starts) >= 0 and bottom <= height and right <= width:
    window = np.s_[top:bottom, left:right]
    return {name: example[name][window] for name in ("image", *LABEL_FILL) if name in example}
  rows, cols = np.arange(top, bottom), np.arange(left, right)
  inside = ((rows >= 0) & (rows < height))[:, None] & ((cols >= 0) & (cols < width))
  window = np.ix_(mirror(rows, height), mirror(cols, width))
  labels = {
    name: np.where(inside, example[name][window], np.array(fill, example[name].dtype))
    for name, fill in LABEL_FILL.items()
    if name in example
  }
  return {"image": example["image"][window], **labels}


class Cached(Sequence):
  """Keeps the examples of another sequence in memory, up to a number of bytes.

  What it keeps stays in its process: a copy that is sent to another one begins empty.
  """

  def __init__(self, source: Sequence, max_bytes: int):
    self._source, self._max_bytes = source, max_bytes
    self._free, self._kept = max_bytes, {}

  def __reduce__(self) -> tuple:
    return Cached, (self._source, self._max_bytes)

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, i: int) -> dict[str, Any]:
    example = self._kept.get(i)
    if example is None:
      example = owning(self._source[i])
      size = sum(x.nbytes for x in example.values() if isinstance(x, np.ndarray))
      # Two threads may count the same example; then less than the budget is used.
      if size <= self._free:
        self._free -= size
        self._kept[i] = example
    return example


@dataclasses.dataclass(frozen=True)
class Mapped(Sequence):
  """`function(element)` of each element of another sequence."""

  source: Sequence
  function: Callable[[Any], Any]

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, i: int) -> Any:
    return self.function(self.source[i])


def fit_example(
  example: Mapping[str, Any], size: int, fit: str, instances: bool = False
) -> dict[str, np.ndarray]:
  """What all windows of an example are cut from: image, mask and, if asked for, instances.

  Args:
    size: height and width for "resize", px.  fit, instances: as in `train_batches`.
  """
  if instances and "instances" not in example:
    example = {**example, "instances": connected_components(example["mask"])}
  names = ("image", *LABEL_FILL) if instances else ("image", "mask")
  example = {name: example[name] for name in names}
  return resize_example(example, size) if fit == "resize" else example


def fitted_source(
  source: Sequence, *, size: int, fit: str, margin: int, instances: bool, max_bytes: int
) -> Cached:
  """`fit_example` of each example, kept in memory; several `train_batches` may share it.

  Args:
    size, fit, margin, instances: as there.  max_bytes: of memory.
  """
  function = functools.partial(fit_example, size=size - 2 * margin, fit=fit, instances=instances)
  return Cached(Mapped(source, function), max_bytes)


def with_fast_jpeg(source: Sequence, size: int) -> Sequence:
  """A source that decodes JPEGs of more than twice this size to it; its masks stay as they are.

  See `files.read_raster`.

  Raises:
    UserError: it does not decode files.
  """
  if isinstance(source, Subset):
    return dataclasses.replace(source, source=with_fast_jpeg(source.source, size))
  if isinstance(source, Encoded):
    return dataclasses.replace(source, shrink_to=size)
  raise UserError("`fast_jpeg` is True, but this data set does not decode files: set it to False")


def train_batches(
  source: Sequence,
  *,
  size: int,
  fit: str,
  batch_size: int,
  seed: int,
  margin: int = 0,
  instances: bool = False,
  process: tuple[int, int] = (0, 1),
  num_threads: int = 2,
  num_workers: int = 0,
  cache_mb: int = 0,
  sampling: Sampling = Sampling(),
  positions: bool = False,
) -> grain.DatasetIterator | WorkerBatches:
  """Endless shuffled batches of this process, from an iterator that can be resumed and closed.

  It has `get_state`, `set_state` and `close`.

  Every pass over the data is shuffled anew. `index` is the position in the shuffled stream of all
  processes, from which the randomness of an example is derived: slicing comes last, so any number
  of processes sees the same examples with the same draws.

  Args:
    source: as `datasets.load` or `fitted_source` returns it.
    size: height and width of the canvas.
    fit: "resize" squeezes every image into it; "crop" takes a random window at native resolution.
    batch_size: total over all processes.
    margin: of the network, px: this much of the canvas on each side is context without logits, and
      may lie outside the image.
    instances: adds them, from the connected components of the mask if the source has none.
    process: (number of this process, number of processes).
    num_threads: threads that decode ahead.
    num_workers: processes that do so instead of this one, each with as many threads.
    cache_mb: memory for decoded examples, MiB; each worker has its share.
    sampling: by classes; what it draws depends on seed and `index` alone.
    positions: tells where the windows lie instead of cutting them, see `on_device`; then `source`
      is what `fit_example` returns, of which only masks are read, with the "number" of each.
  Returns:
    grain iterator of {"image": u8[b,S,S,D], "mask": u8[b,S,S], "index": i32[b]} and, if asked for,
    "instances", i32[b,S,S]; with `positions`, of {"number": i32[b], "starts": i32[b,2], "index":
    i32[b]}: the part without margin of each window begins at this row and column of the example
  """
  if fit not in FITS:
    raise UserError(f"unknown `fit` {fit!r}; choose from {', '.join(FITS)}")
  number, count = process
  inner = size - 2 * margin

  def window(example, rng):
    mask, pixel = example["mask"], None
    if sampling.class_crops and rng.random() < sampling.class_crops:
      pixel = draw_pixel(rng, mask, sampling.crop_labels)
    starts = draw_window(rng, mask.shape, inner, pixel)
    if positions:
      return {"number": example["number"], "starts": np.array(starts, np.int32)}
    return window_example(example, [start - margin for start in starts], size)

  if not positions and not isinstance(source, Cached):
    max_bytes = (cache_mb << 20) // max(1, num_workers)
    options = {"size": size, "fit": fit, "margin": margin, "instances": instances}
    source = fitted_source(source, **options, max_bytes=max_bytes)
  # Grain shuffles an epoch by seed + epoch: without the factor, the next seed would have its order.
  order = seed * SPREAD % 2**32
  data = grain.MapDataset.range(len(source)).shuffle(seed=order).repeat()
  if sampling.class_balanced:
    data = data.map_with_index(functools.partial(draw_example, seed=seed, sampling=sampling))
  data = data.map(source.__getitem__)
  if fit == "crop" or margin:
    data = data.random_map(window, seed=seed)
  elif positions:
    data = data.map(lambda example: {"number": example["number"], "starts": np.zeros(2, np.int32)})
  # Of this number, the random draws of an example are made.
  data = data.map_with_index(lambda i, example: {**example, "index": np.int32(i % 2**31)})
  # Grain counts batches in floating point: with one example each, sys.maxsize would overflow.
  data = data.slice(slice(number, sys.maxsize // 2, count)).batch(batch_size // count)
  options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=2 * num_threads)
  if num_workers:
    return WorkerBatches(data, options, num_workers)
  return iter(data.to_iter_dataset(options))


def eval_examples(
  source: Sequence, *, process: tuple[int, int] = (0, 1), num_threads: int = 2
) -> grain.DatasetIterator:
  """Every example of this process once, in order, at its native size.

  The shares of the processes are disjoint and make up the whole source.
  """
  number, count = process
  data = grain.MapDataset.source(source).slice(slice(number, len(source), count))
  options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=4 * num_threads)
  return iter(data.to_iter_dataset(options))
