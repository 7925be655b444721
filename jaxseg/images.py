"""Any image that a user has in Python -> the u8[H,W,channels] that a network reads."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from jaxseg import UserError
from jaxseg.data.decode import decode_image
from jaxseg.data.files import num_pages

TAKEN = "[H,W], [H,W,1], [H,W,3], [H,W,4] (RGBA) and batches [B,H,W,C]"
SLACK = 1e-6  # of [0, 1]: resizing in float32 leaves values such as 1.0000001


def to_images(
  image: Any, channels: int, value_range: Sequence[float] = ()
) -> tuple[list[np.ndarray], str]:
  """Lists the images in what a user passes, each as `decode_image` would give it.

  Grey becomes RGB and RGB grey as in Pillow, and alpha is dropped. An array whose file Pillow reads
  gives what the path gives; the exceptions are palette and CMYK files, whose arrays do not say so.

  Args:
    image: one of
      - an array (NumPy, JAX, anything with __array__) [H,W], [H,W,1], [H,W,3] or [H,W,4]; bool,
        uint8, uint16, of which the high byte counts, or float in [0, 1];
      - a batch [B,H,W,C] of these;
      - the path of an image file, or of a TIFF of several pages;
      - a PIL image;
      - a list or tuple of single images, which may mix all of the above.
    channels: 1 or 3.
    value_range: values (low, high) that become 0 and 255, for any number type; see `decode_image`.
  Returns:
    (list of u8[H,W,channels], "image" | "batch" | "list"). The pages of a TIFF are a "list". The
    arrays may share memory with `image`.
  Raises:
    UserError: the type, shape or values cannot be taken, or a file cannot be decoded.
  """
  if isinstance(image, (list, tuple)):
    names = [f"image {i} of the list" for i in range(len(image))]
    return [_single(x, channels, value_range, n) for x, n in zip(image, names, strict=True)], "list"
  if isinstance(image, (str, os.PathLike)):
    count = _count_pages(image)
    pages = [_decode(image, channels, value_range, page, count) for page in range(count)]
    return pages, "image" if count == 1 else "list"
  if not isinstance(image, Image.Image):
    image = _array(image, "image")
    if image.ndim == 4:
      names = [f"image {i} of the batch" for i in range(len(image))]
      return [
        _to_u8(x, channels, value_range, n) for x, n in zip(image, names, strict=True)
      ], "batch"
  return [_single(image, channels, value_range, "image")], "image"


def _single(image, channels, value_range, name):
  """One image of any type but a batch -> u8[H,W,channels]."""
  if isinstance(image, (str, os.PathLike)):
    if (count := _count_pages(image)) > 1:
      raise UserError(f"{image}: has {count} pages; pass its path alone, not in a list")
    return _decode(image, channels, value_range, 0, 1)
  if isinstance(image, Image.Image):
    array = _pixels(image, channels, name)
  else:
    array = _array(image, name)
    if array.ndim == 4:
      raise UserError(
        f"{name}: a batch of shape {_shape(array)}; pass it alone, a list takes single images"
      )
  return _to_u8(array, channels, value_range, name)


def _count_pages(path):
  """Number of images in a file; raises UserError if there is no such file."""
  if os.path.isdir(path):
    raise UserError(f"{path} is a folder; pass a list of its files, or use jaxseg.predict_folder")
  if not os.path.exists(path):
    raise UserError(f"no file {path}; correct the path of the image")
  return num_pages(path)


def _decode(path, channels, value_range, page, count):
  name = f"{path} page {page + 1}" if count > 1 else str(path)
  return decode_image(path, name, channels, page=page, value_range=value_range)


def _pixels(image, channels, name):
  """A PIL image as the array that `decode_image` goes on from."""
  if not image.width or not image.height:
    raise UserError(f"{name}: has no pixels, its size is {image.width} x {image.height}")
  try:
    if image.mode[0] not in "IF":
      return np.asarray(image.convert("RGB" if channels == 3 else "L"))
    array = np.asarray(image)
  except (OSError, SyntaxError, ValueError) as error:  # Pillow reads the pixels of a file only now
    raise UserError(f"{name}: cannot be decoded ({error})") from error
  is_16_bit = image.mode == "I" and 0 <= array.min() and array.max() <= 0xFFFF
  return array.astype(np.uint16) if is_16_bit else array


def _array(image, name):
  """Anything with __array__ as an array [H,W], [H,W,C] or [B,H,W,C]; UserError for all else."""
  if not hasattr(image, "__array__"):
    kind = type(image).__name__
    raise UserError(f"{name}: of type {kind}; pass an array, a path, a PIL image or a list of them")
  array = np.asarray(image)
  _check_shape(array, name)
  return array


def _shape(array):
  return f"[{','.join(map(str, array.shape))}]"


def _check_shape(array, name):
  """Raises UserError unless [H,W], [H,W,C] or [B,H,W,C] with a C of 1, 3 or 4."""
  fault = ""
  if array.ndim not in (2, 3, 4) or (array.ndim > 2 and array.shape[-1] not in (1, 3, 4)):
    fault = f"taken are {TAKEN}"
    if array.ndim in (3, 4) and array.shape[-3] in (1, 3, 4):
      fault += "; if the channels come first, move them to the end with np.moveaxis(image, -3, -1)"
    elif array.ndim == 3 and array.shape[-1] > 4:
      fault += "; a batch of grey images is image[..., None]"
  elif 0 in array.shape:
    fault = "there is nothing in it"
  if fault:
    raise UserError(f"{name}: shape {_shape(array)}; {fault}")


def _to_u8(array, channels, value_range, name):
  """[H,W], [H,W,1], [H,W,3] or [H,W,4] of any number type -> u8[H,W,channels]."""
  if array.ndim == 3:
    array = array[..., 0] if array.shape[-1] == 1 else array[..., :3]
  if array.dtype == bool:
    array = array.astype(np.uint8) * np.uint8(255)
  if array.dtype == np.uint8:  # the order of decode_image: first the channels, then the values
    array = _to_channels(array, channels)
  return _to_channels(_scale(array, value_range, name), channels)


def _scale(array, value_range, name):
  """Any number type -> u8 of the same shape."""
  kind, size = array.dtype.kind, array.dtype.itemsize
  if kind not in "uif":
    raise UserError(f"{name}: {array.dtype} is no type of pixels; pass uint8, uint16 or float")
  if value_range:
    low, high = value_range
    scaled = ((array.astype(np.float32) - low) * (255 / (high - low))).clip(0, 255).round()
    return np.nan_to_num(scaled).astype(np.uint8)  # NaN is black, as in files
  if (kind, size) == ("u", 1):
    return array
  if (kind, size) == ("u", 2):
    return (array >> 8).astype(np.uint8)
  if kind != "f":
    raise UserError(
      f"{name}: the full range of {array.dtype} is unknown; convert it to uint8 or uint16, or set "
      "value_range to the values of black and white"
    )
  if np.isnan(array).any():
    raise UserError(f"{name}: holds NaN; replace it, for example with np.nan_to_num(image)")
  low, high = array.min(), array.max()
  if low < -SLACK or high > 1 + SLACK:
    raise UserError(
      f"{name}: {array.dtype} values from {low:g} to {high:g} are not in [0, 1]; rescale them, "
      "convert 0 to 255 to uint8, or set value_range to the values of black and white"
    )
  return (array.astype(np.float32) * 255).round().clip(0, 255).astype(np.uint8)


def _to_channels(array, channels):
  """u8[H,W], u8[H,W,3] or u8[H,W,channels] -> u8[H,W,channels], as Pillow converts."""
  if array.ndim == 3 and array.shape[-1] != channels:
    array = np.asarray(Image.fromarray(array).convert("L"))
  return array if array.ndim == 3 else np.repeat(array[..., None], channels, axis=-1)
