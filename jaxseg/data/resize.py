"""Images in another size or number type."""

import numpy as np
from PIL import Image


def convert(image: np.ndarray, dtype: str) -> np.ndarray:
  """An image of one full range -> that of another type; floats are in [0, 1]; rounds."""
  x = image.astype(np.float64)
  x = x if image.dtype.kind == "f" else x / np.iinfo(image.dtype).max
  full = 1.0 if dtype == "float32" else np.iinfo(dtype).max
  x = full * np.clip(x, 0, 1)
  return (x if dtype == "float32" else np.round(x)).astype(dtype)


def resize_image(image: np.ndarray, size: int) -> np.ndarray:
  """[H,W,D] -> [size,size,D] of the same type, antialiased; the aspect ratio is not kept."""
  if image.shape[:2] == (size, size):
    return image
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
    for shape in ((size, picture.height), (size, size)):
      picture = picture.resize(shape, Image.Resampling.BILINEAR)
    resized.append(np.asarray(picture))
  if len(resized) == 1:
    result = resized[0].reshape(size, size, channels)
  else:
    result = np.stack(resized, axis=-1)
  return result if result.dtype == image.dtype else np.round(result).astype(image.dtype)
