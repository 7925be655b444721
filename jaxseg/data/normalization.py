"""Black and white of a data set, measured on its training images."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from jaxseg.data.datasets import Subset
from jaxseg.data.decode import to_channels
from jaxseg.data.encoded import Encoded, place
from jaxseg.data.files import read_raster

NORMALIZATIONS = ("range", "percentiles", "mean_std")
PERCENTILES = 0.5, 99.5  # as nnU-Net clips CT images (Isensee et al. 2021, supplement)
MAX_IMAGES = 256
MAX_VALUES = 1 << 16  # of a channel in an image
MAX_TOTAL = 1 << 26  # of all channels in all images
STORED = (0.0, 1.0)  # stands for a value_range that is not known yet


def measure(
  source: Sequence, mode: str, progress: Callable = lambda iterable, **_: iterable
) -> tuple[tuple[float, float], ...]:
  """The value_range of each channel: (low, high) become 0 and 1.

  Up to MAX_IMAGES images, evenly spread, are read, and up to MAX_VALUES pixels of each, fewer of
  images of many channels (MAX_TOTAL). Pixels of no data do not count.

  Args:
    source: as `datasets.load` returns it, with values as stored.
    mode: "percentiles", the values below which 0.5% and 99.5% of the pixels lie; "mean_std", the
      mean, and the mean plus one standard deviation.
    progress: called like `tqdm`.
  """
  number = min(len(source), MAX_IMAGES)
  values = []
  for i in progress(range(number), desc="black and white", total=number, leave=False):
    values.append(_values(source, i * len(source) // number, number))
  pairs = []
  for parts in zip(*values, strict=True):
    channel = np.concatenate(parts).astype(np.float64)
    if mode == "percentiles":
      low, high = np.percentile(channel, PERCENTILES) if channel.size else (0.0, 1.0)
    else:
      low = channel.mean() if channel.size else 0.0
      high = low + (channel.std() if channel.size else 1.0)
    pairs.append((float(low), float(high if high > low else low + 1)))
  return tuple(pairs)


def _values(source, i, number):
  """Values of each channel of an image, one of `number`, f32[n] each."""
  while isinstance(source, Subset):
    source, i = source.source, source.indices[i]
  missing = None
  if isinstance(source, Encoded):
    record = source.records[i]
    where, page = place(record)
    fmt = dataclasses.replace(source.fmt, value_range=STORED)
    raster = read_raster(record["image"], where, page=page, pages=fmt.pages, orient=fmt.orient)
    image, missing = to_channels(raster, where, fmt, [])
  else:
    image = source[i]["image"]
  most = min(MAX_VALUES, max(1, MAX_TOTAL // (number * image.shape[-1])))
  step = max(1, int(np.ceil(np.sqrt(image[..., 0].size / most))))
  image = image[::step, ::step].astype(np.float32)
  valid = np.isfinite(image)
  if missing is not None:
    valid &= ~missing[::step, ::step]
  return [image[..., c][valid[..., c]] for c in range(image.shape[-1])]
