"""Colours to other colours, in 8 or 16 bits, floats or bool."""

import numpy as np
from PIL import Image

LUMA = (19595, 38470, 7471)  # ITU-R 601-2 in units of 2^-16, as in Pillow


def cmyk_to_rgb(samples: np.ndarray) -> np.ndarray:
  """[H,W,4] -> [H,W,3] of the same type; bool means that it is set in any."""
  if samples.dtype == bool:
    return samples.any(-1, keepdims=True).repeat(3, -1)
  if samples.dtype == np.uint8:
    return np.asarray(Image.fromarray(samples, "CMYK").convert("RGB"))
  full = 1.0 if samples.dtype.kind == "f" else np.iinfo(samples.dtype).max
  rgb = (full - samples[..., :3]) * ((full - samples[..., 3:]) / full)
  return np.round(rgb).astype(samples.dtype) if full > 1 else rgb.astype(samples.dtype)


def rgb_to_grey(samples: np.ndarray) -> np.ndarray:
  """[H,W,3] -> [H,W,1] of the same type by ITU-R 601-2, rounded as in Pillow."""
  if samples.dtype == bool:
    return samples.any(-1, keepdims=True)
  if samples.dtype == np.uint8:
    return np.asarray(Image.fromarray(samples).convert("L"))[..., None]
  if samples.dtype.kind == "f":
    return (samples @ (np.array(LUMA, np.float32) / 65536))[..., None]
  grey = (samples.astype(np.uint64) * np.array(LUMA, np.uint64)).sum(-1, keepdims=True)
  return ((grey + 0x8000) >> 16).astype(samples.dtype)
