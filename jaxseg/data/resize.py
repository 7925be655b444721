"""Images in another size or number type."""

import numpy as np
from PIL import Image


def convert(image: np.ndarray, dtype: str, *, is_full_range: bool = True) -> np.ndarray:
  """An image in another type: rounded, and cut off at its ends.

  Args:
    is_full_range: white of one type, 1 of floats, becomes that of the other; else values stay.
  """
  x = image.astype(np.float64)
  if is_full_range:
    x = x if image.dtype.kind == "f" else x / np.iinfo(image.dtype).max
    x = np.clip(x, 0, 1) * (1.0 if dtype == "float32" else np.iinfo(dtype).max)
  if dtype != "float32":
    x = np.clip(np.round(x), 0, np.iinfo(dtype).max)
  return x.astype(dtype)


def resize_image(
  image: np.ndarray, size: int, extent: tuple[float, float] | None = None
) -> np.ndarray:
  """[H,W,D] -> [size,size,D] of the same type, antialiased; the aspect ratio is not kept.

  Args:
    extent: (height, width) of what is resized, from the first pixel on, in pixels and parts of
      them; None for all of the image.
  """
  if image.shape[:2] == (size, size) and extent is None:
    return image
  height, width = extent or image.shape[:2]
  channels = image.shape[-1]
  if image.dtype == np.uint8 and channels in (1, 3):
    parts = [image.squeeze(-1) if channels == 1 else image]
  else:  # Pillow resizes other types channel by channel
    parts = [image[..., i] for i in range(channels)]
    parts = [p if p.dtype == np.uint8 else p.astype(np.float32) for p in parts]
  resized = []
  for part in parts:
    picture = Image.fromarray(np.ascontiguousarray(part))
    # Each axis is rounded: in one call, the result would depend on which axis Pillow's version
    # resizes first.
    for shape, box in (
      ((size, picture.height), (0, 0, width, picture.height)),
      ((size, size), (0, 0, size, height)),
    ):
      picture = picture.resize(shape, Image.Resampling.BILINEAR, box)
    resized.append(np.asarray(picture))
  if len(resized) == 1:
    result = resized[0].reshape(size, size, channels)
  else:
    result = np.stack(resized, axis=-1)
  return result if result.dtype == image.dtype else np.round(result).astype(image.dtype)
