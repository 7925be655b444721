"""Decodes images into the arrays that networks read."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from PIL import Image

from jaxseg import UserError
from jaxseg.data.files import Path, decoding, open_image


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
  """What models, plots and predictions need to know of a data set; checkpoints store it.

  Attributes:
    classes: names, in the order of the labels.
    palette: an (R, G, B) of 0..255 per class.
    channels: of the images; 1 grey, 3 RGB.
    value_range: see `decode_image`.
  """

  classes: tuple[str, ...]
  palette: tuple[tuple[int, int, int], ...]
  channels: int
  value_range: tuple[float, ...] = ()


def decode_image(
  data: bytes | Path,
  name: str,
  channels: int,
  *,
  page: int = 0,
  value_range: Sequence[float] = (),
) -> np.ndarray:
  """Any image that Pillow reads -> u8[H,W,channels].

  Grey becomes RGB and back, and alpha is dropped.

  Args:
    data: encoded bytes or a path.  name: in errors.  channels: 1 or 3.
    page: of a file of several.
    value_range: stored values (low, high) that become 0 and 255, the rest linearly and clipped;
      () for the full range of 8 or 16 bits.
  Raises:
    UserError: it cannot be decoded, or needs a value_range.
  """
  image = open_image(data, name, page, exact=bool(value_range))
  with decoding(name):
    if image.mode[0] not in "IF":
      image = image.convert("RGB" if channels == 3 else "L")
    array = np.asarray(image)
  if value_range:
    low, high = value_range
    array = ((array.astype(np.float32) - low) * (255 / (high - low))).clip(0, 255).round()
    array = np.nan_to_num(array).astype(np.uint8)
  elif array.dtype != np.uint8:
    if array.dtype.kind == "f" or array.min() < 0 or array.max() > 0xFFFF:
      raise UserError(
        f"{name}: pixel values from {array.min()} to {array.max()} are not 8- or 16-bit integers: "
        "set `value_range` to the values of black and white"
      )
    array = (array >> 8).astype(np.uint8)
  return array if array.ndim == 3 else np.repeat(array[..., None], channels, axis=-1)


def resize_image(image: np.ndarray, size: int) -> np.ndarray:
  """u8[H,W,D] -> u8[size,size,D], antialiased; the aspect ratio is not kept."""
  if image.shape[:2] == (size, size):
    return image
  picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
  # Each axis is rounded: in one call, the result would depend on which axis Pillow's version
  # resizes first.
  for shape in ((size, picture.height), (size, size)):
    picture = picture.resize(shape, Image.Resampling.BILINEAR)
  return np.asarray(picture).reshape(size, size, image.shape[-1])
