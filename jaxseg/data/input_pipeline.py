"""From a source to batches for one process, by Grain."""

import collections.abc
import dataclasses
import sys
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


def resize_example(example, size):
  """Squeezes an example into size x size: image antialiased, labels to the nearest pixel."""
  if example["mask"].shape == (size, size):
    return example

  def nearest(labels):
    resized = Image.fromarray(labels).resize((size, size), Image.Resampling.NEAREST)
    return np.asarray(resized)

  labels = {name: nearest(example[name]) for name in LABEL_FILL if name in example}
  return {**example, "image": resize_image(example["image"], size), **labels}


def window_example(example, starts, size):
  """A size x size window of an example, which may reach beyond it.

  Outside, the image is mirrored; the mask is VOID and there are no instances.

  Args:
    starts: row and column of the first pixel, below 0 as well.
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


class Cached(collections.abc.Sequence):
  """Keeps what another sequence returns in memory, up to a number of bytes."""

  def __init__(self, source, max_bytes):
    self._source, self._free, self._kept = source, max_bytes, {}

  def __len__(self):
    return len(self._source)

  def __getitem__(self, i):
    example = self._kept.get(i)
    if example is None:
      example = self._source[i]
      size = sum(x.nbytes for x in example.values() if isinstance(x, np.ndarray))
      # Threads may both count an example; the budget then errs on the small side.
      if size <= self._free:
        self._free -= size
        self._kept[i] = example
    return example


@dataclasses.dataclass(frozen=True)
class Mapped(collections.abc.Sequence):
  """`function(element)` of each element of another sequence."""

  source: collections.abc.Sequence
  function: Any

  def __len__(self):
    return len(self.source)

  def __getitem__(self, i):
    return self.function(self.source[i])


def train_batches(
  source,
  *,
  size,
  fit,
  batch_size,
  seed,
  margin=0,
  instances=False,
  process=(0, 1),
  num_threads=2,
  cache_mb=0,
):
  """Endless shuffled batches of this process; the iterator has `get_state` and `set_state`.

  Every pass over the data is shuffled anew. `index` is the position in the shuffled stream of all
  processes, from which the randomness of an example is derived: slicing comes last, so any number
  of processes sees the same examples with the same draws.

  Args:
    source: as `datasets.load` returns it.
    size: height and width of the canvas.
    fit: "resize" squeezes every image into it; "crop" takes a random window of the image as it is.
    batch_size: of all processes together.
    margin: of the network, px: so much of the canvas on each side is context without logits, and
      may lie outside of the image.
    instances: adds them, from the connected components of the mask if the source has none.
    process: (number of this process, number of processes).
    num_threads: that decode in advance.  cache_mb: what decoded examples may take in memory.
  Returns:
    grain iterator of {"image": u8[b,S,S,D], "mask": u8[b,S,S], "index": i32[b]} and, if asked for,
    "instances", i32[b,S,S]
  """
  if fit not in FITS:
    raise UserError(f"unknown `fit` {fit!r}; there are {', '.join(FITS)}")
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


def eval_examples(source, *, process=(0, 1), num_threads=2):
  """Every example of this process once, in order, at its native size.

  The shares of the processes are disjoint and together are the whole source.
  """
  number, count = process
  data = grain.MapDataset.source(source).slice(slice(number, len(source), count))
  options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=4 * num_threads)
  return iter(data.to_iter_dataset(options))
