"""Arrays and pictures as the bytes of files."""

import io

import numpy as np
import tifffile
from PIL import Image


def encode(picture, kind="PNG", **options):
  """A file that Pillow writes of an array or a picture."""
  buffer = io.BytesIO()
  picture = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
  picture.save(buffer, kind, **options)
  return buffer.getvalue()


def tiff(array, **options):
  """A file that tifffile writes."""
  buffer = io.BytesIO()
  tifffile.imwrite(buffer, array, **options)
  return buffer.getvalue()


def npy(array):
  """A file that NumPy writes."""
  buffer = io.BytesIO()
  np.save(buffer, array)
  return buffer.getvalue()
