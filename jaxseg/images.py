"""Any image that a user has in Python -> the array [H,W,channels] that a network reads."""

import os
from typing import Any

import numpy as np
from PIL import Image

from jaxseg import UserError
from jaxseg.data.arrays import check_shape, in_words, unmasked
from jaxseg.data.decode import ImageFormat, decode_image, to_image
from jaxseg.data.encoded import Notes
from jaxseg.data.files import num_pages, picture_raster
from jaxseg.data.raster import Raster, array_header, unit_floats
from jaxseg.data.windows import ZARR, open_windows


def to_images(
  image: Any, fmt: ImageFormat, notes: Notes | None = None
) -> tuple[list[np.ndarray], str]:
  """Lists the images in what a user passes, each as `decode_image` would give it.

  Grey becomes RGB and RGB grey as in files, and alpha is dropped unless it is a channel. An array
  gives what its file gives; palette and CMYK files, whose arrays do not say so, are exceptions.

  Args:
    image: one of
      - an array (NumPy, JAX, anything with __array__) [H,W], [H,W,1], [H,W,3], [H,W,4] or
        [H,W,fmt.channels]; bool, uint8, uint16 or float in [0, 1];
      - a batch [B,H,W,C] of these;
      - the path of an image file, of a TIFF of several images, or of a folder *.zarr;
      - a PIL image;
      - a list or tuple of single images, which may mix all of the above.
    fmt: how the network reads images; with a value_range, arrays may have any number type.
    notes: warns of what is not used of the images.
  Returns:
    (list of [H,W,channels], "image" | "batch" | "list"). The images of a TIFF are a "list". The
    arrays may share memory with `image`.
  Raises:
    UserError: the type, shape or values cannot be taken, or a file cannot be decoded.
  """
  notes = notes or Notes(is_trained=True)
  if isinstance(image, (list, tuple)):
    return [_single(x, fmt, f"image {i} of the list", notes) for i, x in enumerate(image)], "list"
  if isinstance(image, (str, os.PathLike)):
    count = _count_pages(image, fmt)
    pages = [_decode(image, fmt, page, count, notes) for page in range(count)]
    return pages, "image" if count == 1 else "list"
  if not isinstance(image, Image.Image):
    image = _array(image, fmt, "image")
    if image.ndim == 4:
      batch = [
        _from_array(x, fmt, f"image {i} of the batch", notes) for i, x in enumerate(image)
      ]
      return batch, "batch"
  return [_single(image, fmt, "image", notes)], "image"


def _single(image, fmt, name, notes):
  """One image of any type but a batch -> [H,W,channels]."""
  if isinstance(image, (str, os.PathLike)):
    if (count := _count_pages(image, fmt)) > 1:
      raise UserError(f"{image}: has {count} pages; pass its path alone, not in a list")
    return _decode(image, fmt, 0, 1, notes)
  if isinstance(image, Image.Image):
    if not image.width or not image.height:
      raise UserError(f"{name}: has no pixels, its size is {image.width} x {image.height}")
    return _convert(picture_raster(image, name, fmt.orient), name, fmt, notes)
  array = _array(image, fmt, name)
  if array.ndim == 4:
    raise UserError(
      f"{name}: a batch of shape {in_words(array.shape)}; pass it alone, a list takes single images"
    )
  return _from_array(array, fmt, name, notes)


def _count_pages(path, fmt):
  """Number of images in a file; raises UserError if there is no such file."""
  if os.path.isdir(path):
    if os.fspath(path).rstrip("/").endswith(ZARR):
      return 1
    raise UserError(f"{path} is a folder; pass a list of its files, or use jaxseg.predict_folder")
  if not os.path.exists(path):
    raise UserError(f"no file {path}; correct the path of the image")
  return num_pages(path, fmt.pages, any_suffix=True)


def _decode(path, fmt, page, count, notes):
  name, found = f"{path} page {page + 1}" if count > 1 else str(path), []
  if os.path.isdir(path):  # Zarr
    windowed = open_windows(path, fmt)
    image, found = windowed.whole(), windowed.notes
  else:
    image = decode_image(path, name, fmt, page=page, notes=found)
  notes.warn(name, found)
  return image


def _convert(raster, name, fmt, notes):
  found = list(raster.header.notes)
  image = to_image(raster, name, fmt, found)
  notes.warn(name, found)
  return image


def _array(image, fmt, name):
  """Anything with __array__ as an array [H,W], [H,W,C] or [B,H,W,C]; UserError for all else."""
  if not hasattr(image, "__array__"):
    kind = type(image).__name__
    raise UserError(f"{name}: of type {kind}; pass an array, a path, a PIL image or a list of them")
  array = unmasked(image, name)
  check_shape(array.shape, fmt, name)
  return array


def _from_array(array, fmt, name, notes):
  """[H,W] or [H,W,C] of any number type -> [H,W,channels]."""
  array = array if array.ndim == 3 else array[..., None]
  kind, size = array.dtype.kind, array.dtype.itemsize
  if kind not in "buif":
    raise UserError(f"{name}: {array.dtype} is no type of pixels; pass uint8, uint16 or float")
  if kind == "f" and not fmt.value_range:
    array = unit_floats(array, name)
  elif not fmt.value_range and (kind == "i" or size > 2):
    raise UserError(
      f"{name}: the full range of {array.dtype} is unknown; convert it to uint8 or uint16"
    )
  header = array_header("array", array.shape, array.dtype)
  return _convert(Raster(header, array.astype(header.dtype, copy=False)), name, fmt, notes)
