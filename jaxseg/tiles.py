"""Overlap-tile (Ronneberger et al. 2015, figure 2): the windows that together cover an image.

A model here is what has `margin`, `context`, `stride` and `input_size`; see
`models.interface.Network`.
"""

import dataclasses
from typing import Any

import numpy as np

from jaxseg import UserError


@dataclasses.dataclass(frozen=True)
class Span:
  """A window along one axis.

  Attributes:
    read: i64[side], the pixels that the network sees, mirrored beyond the image.
    crop: slice of the network's output.  keep: slice of the image that it fills.
  """

  read: np.ndarray
  crop: slice
  keep: slice


def mirror(positions: np.ndarray, length: int) -> np.ndarray:
  """Positions on an axis that is mirrored for ever, as by np.pad(mode="symmetric").  i64[...]"""
  positions = np.asarray(positions) % (2 * length)
  return np.minimum(positions, 2 * length - 1 - positions)


def smallest_side(model: Any) -> int:
  """The side of the smallest window of which something is kept, px."""
  return model.input_size(2 * (model.margin + model.context) + model.stride)


def window_side(tile: int, model: Any) -> int:
  """The largest side of a window that the model takes and that is at most `tile`, px.

  Raises:
    UserError: windows of `tile` px leave nothing to keep.
  """
  smallest = smallest_side(model)
  if tile < smallest:
    raise UserError(
      f"`tile` is {tile} px, but this network needs {smallest} or more; 0 is no tiles"
    )
  return tile - (tile - smallest) % model.stride


def split_axis(length: int, model: Any, *, side: int = 0, multiple: int = 1) -> list[Span]:
  """Covers an axis with windows of one size.

  Tiles equal the whole image: they begin at multiples of the model's stride, no shorter shifts
  commute with its pooling; and no output is kept that sees the padding of an edge, unless the
  whole image has its edge there, too.

  Args:
    length: of the image, px.  model: see above.
    side: of the windows if there are several, from `window_side`; 0 for one window.
    multiple: px, to which the image is enlarged by mirroring before all else.
  Returns:
    list of Span; their `keep` are disjoint and cover the axis in order.
  """
  margin, context, stride = model.margin, model.context, model.stride
  whole = model.input_size(length + -length % multiple + 2 * margin)
  side = min(side or whole, whole)
  output = side - 2 * margin
  end = whole - 2 * margin if context else length
  last = max(end - output, 0)
  last += -last % stride
  advance = (output - 2 * context) // stride * stride
  origins = [0]
  while origins[-1] < last:
    origins.append(min(origins[-1] + advance, last))
  starts = [0] + [origin + context for origin in origins[1:]]
  stops = [min(start, length) for start in starts[1:]] + [length]
  return [
    Span(
      read=mirror(np.arange(origin - margin, origin - margin + side), length),
      crop=slice(start - origin, stop - origin),
      keep=slice(start, stop),
    )
    for origin, start, stop in zip(origins, starts, stops, strict=True)
    if start < stop
  ]
