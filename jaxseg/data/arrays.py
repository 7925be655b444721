"""Checks of arrays that are images: their shape, and that no pixel is masked."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxseg import UserError
from jaxseg.data.decode import COLOURS, ImageFormat, is_channels_first


def unmasked(image: Any, name: str) -> np.ndarray:
  """The array of anything with __array__; UserError if some pixels of a masked array are masked."""
  if np.ma.is_masked(image):
    raise UserError(f"{name}: has masked pixels; fill them, as with image.filled(0)")
  return np.asarray(image)


def in_words(shape: Sequence[int]) -> str:
  """[1,2,3]"""
  return f"[{','.join(map(str, shape))}]"


def check_shape(shape: Sequence[int], fmt: ImageFormat, name: str, *, batches: bool = True) -> None:
  """Raises UserError unless it is [H,W], [H,W,C] or [B,H,W,C] with a C that can be taken.

  Args:
    batches: whether [B,H,W,C] is taken.
  """
  counts = {*COLOURS} if fmt.channels in (1, 3) else {fmt.channels}
  counts |= {max(fmt.bands) + 1} if fmt.bands else set()
  fault, num_axes = "", len(shape)
  given = 1 if num_axes == 2 else shape[-1] if num_axes in (3, 3 + batches) else None
  if fmt.bands and given is not None and max(fmt.bands) < given <= 1024:
    counts |= {given}
  is_first = num_axes in (3, 4) and is_channels_first(shape[-3:], fmt)
  if given not in counts or is_first:
    kinds = ["[H,W]"] * (1 in counts) + [f"[H,W,{count}]" for count in sorted(counts)]
    fault = f"taken are {', '.join(kinds)}" + " and batches [B,H,W,C]" * batches
    if num_axes in (3, 4) and shape[-3] in counts or is_first and (fmt.bands or not batches):
      fault += "; if the channels come first, move them to the end with np.moveaxis(image, -3, -1)"
    elif num_axes == 3 and shape[-1] > 4 and batches:
      fault += "; a batch of grey images is image[..., None]"
  elif 0 in shape:
    fault = "there is nothing in it"
  if fault:
    raise UserError(f"{name}: shape {in_words(shape)}; {fault}")
