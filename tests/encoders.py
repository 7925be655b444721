"""Arrays and pictures, as the bytes of files; and what is read of these."""

import io

import numpy as np
import tifffile
from PIL import Image

from jaxseg.data.files import read_raster

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (48, 64, 3), dtype=np.uint8)
GREY = RGB[..., 0]
DEEP = RNG.integers(0, 65536, (5, 7, 3), dtype=np.uint16)
SMOOTH = np.stack([4 * np.mgrid[:48, :64][1], 5 * np.mgrid[:48, :64][0], np.full((48, 64), 90)], -1)
SMOOTH = SMOOTH.astype(np.uint8)


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


def stored(data, **options):
  """The samples of a file."""
  return read_raster(data, "x", **options).samples
