"""From a source to batches for one process, by Grain."""

import collections.abc
import dataclasses
import sys
from typing import Any

import grain
import numpy as np
from PIL import Image

from jaxseg import VOID, UserError
from jaxseg.data.datasets import resize_image

FITS = ("resize", "crop")


def resize_example(example, size):
  """Squeezes an example into size x size, image antialiased and mask to the nearest pixel."""
  image, mask = example["image"], example["mask"]
  if mask.shape == (size, size):
    return {"image": image, "mask": mask}
  nearest = Image.fromarray(mask).resize((size, size), Image.Resampling.NEAREST)
  return {"image": resize_image(image, size), "mask": np.asarray(nearest)}


def crop_example(example, rng, size):
  """A random size x size window; what the image does not fill is black and VOID."""
  image, mask = example["image"], example["mask"]
  window = tuple(
    slice(start, start + size)
    for start in (int(rng.integers(max(n - size, 0) + 1)) for n in mask.shape)
  )
  image, mask = image[window], mask[window]
  pads = [(0, size - n) for n in mask.shape]
  image = np.pad(image, [*pads, (0, 0)])
  return {"image": image, "mask": np.pad(mask, pads, constant_values=VOID)}


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
  source, *, size, fit, batch_size, seed, process=(0, 1), num_threads=2, cache_mb=0
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
    process: (number of this process, number of processes).
    num_threads: that decode in advance.  cache_mb: what decoded examples may take in memory.
  Returns:
    grain iterator of {"image": u8[b,S,S,D], "mask": u8[b,S,S], "index": i32[b]}
  """
  if fit not in FITS:
    raise UserError(f"unknown config.data.fit {fit!r}; there are {', '.join(FITS)}")
  number, count = process
  if fit == "resize":
    source = Mapped(source, lambda example: resize_example(example, size))
  data = grain.MapDataset.source(Cached(source, cache_mb << 20)).shuffle(seed=seed).repeat()
  if fit == "crop":
    data = data.random_map(lambda example, rng: crop_example(example, rng, size), seed=seed)
  data = data.map_with_index(lambda i, example: {**example, "index": np.int32(i)})
  data = data.slice(slice(number, sys.maxsize, count)).batch(batch_size // count)
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
