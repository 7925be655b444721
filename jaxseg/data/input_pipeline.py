"""From a source to batches for one process, with Grain."""

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grain
import numpy as np
from PIL import Image

from jaxseg import UserError
from jaxseg.augment import LABEL_FILL
from jaxseg.data.datasets import connected_components
from jaxseg.data.decode import resize_image
from jaxseg.tiles import mirror

FITS = ("resize", "crop")


def resize_example(example: Mapping[str, Any], size: int) -> dict[str, Any]:
  """Squeezes an example into size x size: image antialiased, labels by nearest neighbour."""
  if example["mask"].shape == (size, size):
    return example

  def nearest(labels):
    resized = Image.fromarray(labels).resize((size, size), Image.Resampling.NEAREST)
    return np.asarray(resized)

  labels = {name: nearest(example[name]) for name in LABEL_FILL if name in example}
  return {**example, "image": resize_image(example["image"], size), **labels}


def window_example(
  example: Mapping[str, Any], starts: Sequence[int], size: int
) -> dict[str, np.ndarray]:
  """A size x size window of an example, which may reach beyond it.

  Outside, the image is mirrored; the mask is VOID and there are no instances.

  Args:
    starts: row and column of the first pixel; may be negative.
  """
  rows, cols = (start + np.arange(size) for start in starts)
  height, width = example["mask"].shape
  inside = ((rows >= 0) & (rows < height))[:, None] & ((cols >= 0) & (cols < width))
  window = np.ix_(mirror(rows, height), mirror(cols, width))
  labels = {
    name: np.where(inside, example[name][window], np.array(fill, example[name].dtype))
    for name, fill in LABEL_FILL.items()
    if name in example
  }
  return {"image": example["image"][window], **labels}


class Cached(Sequence):
  """Keeps the examples of another sequence in memory, up to a number of bytes."""

  def __init__(self, source: Sequence, max_bytes: int):
    self._source, self._free, self._kept = source, max_bytes, {}

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, i: int) -> dict[str, Any]:
    example = self._kept.get(i)
    if example is None:
      example = self._source[i]
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
  cache_mb: int = 0,
) -> grain.DatasetIterator:
  """Endless shuffled batches of this process; the iterator has `get_state` and `set_state`.

  Every pass over the data is shuffled anew. `index` is the position in the shuffled stream of all
  processes, from which the randomness of an example is derived: slicing comes last, so any number
  of processes sees the same examples with the same draws.

  Args:
    source: as `datasets.load` returns it.
    size: height and width of the canvas.
    fit: "resize" squeezes every image into it; "crop" takes a random window at native resolution.
    batch_size: total over all processes.
    margin: of the network, px: this much of the canvas on each side is context without logits, and
      may lie outside the image.
    instances: adds them, from the connected components of the mask if the source has none.
    process: (number of this process, number of processes).
    num_threads: threads that decode ahead.  cache_mb: memory for decoded examples, MiB.
  Returns:
    grain iterator of {"image": u8[b,S,S,D], "mask": u8[b,S,S], "index": i32[b]} and, if asked for,
    "instances", i32[b,S,S]
  """
  if fit not in FITS:
    raise UserError(f"unknown `fit` {fit!r}; choose from {', '.join(FITS)}")
  number, count = process
  inner = size - 2 * margin
  names = ("image", *LABEL_FILL) if instances else ("image", "mask")

  def fixed(example):
    if instances and "instances" not in example:
      example = {**example, "instances": connected_components(example["mask"])}
    example = {name: example[name] for name in names}
    return resize_example(example, inner) if fit == "resize" else example

  def window(example, rng):
    starts = [int(rng.integers(max(n - inner, 0) + 1)) - margin for n in example["mask"].shape]
    return window_example(example, starts, size)

  source = Cached(Mapped(source, fixed), cache_mb << 20)
  data = grain.MapDataset.source(source).shuffle(seed=seed).repeat()
  if fit == "crop" or margin:
    data = data.random_map(window, seed=seed)
  data = data.map_with_index(lambda i, example: {**example, "index": np.int32(i)})
  # Grain counts batches in floating point: with one example each, sys.maxsize would overflow.
  data = data.slice(slice(number, sys.maxsize // 2, count)).batch(batch_size // count)
  options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=2 * num_threads)
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
