"""Opens image files: what their headers declare, and their stored pixels."""

import contextlib
import dataclasses
import io
import math
import pathlib
import re
from collections.abc import Iterator, Sequence
from os import PathLike

import numpy as np
import tifffile
from PIL import Image, UnidentifiedImageError

from jaxseg import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")
BITS_PER_SAMPLE = 258  # tag of a TIFF
CHANNELS = {"1": "grey", "L": "grey", "I": "grey", "F": "grey", "P": "palette"}  # others: by letter
BITS = {"1": 1, "I": 32, "F": 32}  # of Pillow's modes; else 8, unless the file says otherwise

Path = str | PathLike

# Slides exceed Pillow's default. Without a limit, a damaged header can use up all memory.
Image.MAX_IMAGE_PIXELS = 1 << 30  # a warning; twice as many are an error


def few(values: Sequence, limit: int = 10) -> str:
  """The first values as text: "1, 2, 3, ... (40 values)"."""
  more = f", ... ({len(values)} values)" if len(values) > limit else ""
  return ", ".join(map(str, values[:limit])) + more


def num_pages(path: Path) -> int:
  """Number of images in a file, without decoding; 1 for all but TIFF.

  Raises:
    UserError: it is damaged.
  """
  if pathlib.Path(path).suffix.lower() not in (".tif", ".tiff"):
    return 1
  with decoding(path), Image.open(path) as image:
    return getattr(image, "n_frames", 1)  # absent if the file is of another format


def describe_file(data: bytes | Path, name: str) -> str:
  """Format, channels and depth from the header of a file, as in "PNG grey 16 bit".

  Raises:
    UserError: it is damaged.
  """
  with decoding(name), Image.open(as_file(data)) as image:
    bands = "".join(image.getbands())
    stored = re.findall(r";(\d+)", str([tile.args for tile in image.tile]))  # "I;16B", "P;4"
    tagged = getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, ())
    bits = max(map(int, [*stored, *tagged]), default=BITS.get(image.mode, 8))
    return f"{image.format} {CHANNELS.get(bands, bands)} {bits} bit"


@contextlib.contextmanager
def decoding(name: str | Path) -> Iterator[None]:
  """Turns whatever a decoder raises into a UserError that names the file."""
  try:
    yield
  except UnidentifiedImageError as error:  # its text has the address of an object
    raise UserError(f"{name}: cannot be decoded (not an image that Pillow reads)") from error
  except Exception as error:  # damaged files raise nearly anything in Pillow
    reason = (str(error) or type(error).__name__).splitlines()[0]
    raise UserError(f"{name}: cannot be decoded ({reason})") from error


def as_file(data: bytes | Path) -> io.BytesIO | Path:
  """What Pillow opens."""
  return io.BytesIO(data) if isinstance(data, bytes) else data


def open_image(data: bytes | Path, name: str, page: int, exact: bool) -> Image.Image:
  """A loaded page.  exact: whether all bits of a colour matter."""
  with decoding(name), Image.open(as_file(data)) as image:
    if page:
      image.seek(page)
    is_deep = max(getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (8,))) > 8
    is_halved = any(";16" in str(tile.args) for tile in image.tile)
    image.load()
  if image.mode[0] not in "IF":
    if is_halved and exact:
      raise UserError(
        f"{name}: has 16 bits per colour, of which Pillow reads 8: save it as grey or with 8 bits"
      )
    if is_deep and not is_halved:  # uncompressed planes, where Pillow takes each byte for a pixel
      raise UserError(f"{name}: cannot be decoded (16-bit colour planes): save it as PNG")
  return image


@dataclasses.dataclass(frozen=True)
class Raster:
  """Stub, to be replaced: the samples of a page as they are stored."""

  samples: np.ndarray  # [H,W,S]
  names: tuple[str, ...]  # of the S samples: "grey", "index", "R", "G", "B", "A", "extra" ...
  palette: np.ndarray | None  # u8[n,3]
  nodata: float | None
  format: str
  bits: int


def read_raster(data: bytes | Path, name: str, *, page: int = 0, orient: bool = True) -> Raster:
  """Stub, to be replaced: reads TIFF by tifffile, all else by Pillow."""
  with decoding(name):
    head = data[:4] if isinstance(data, bytes) else pathlib.Path(data).open("rb").read(4)
    if head in (b"II*\0", b"MM\0*"):
      with tifffile.TiffFile(as_file(data)) as tiff:
        part = tiff.pages[page]
        if math.prod(part.shape) > 1 << 30:
          raise ValueError("too large")
        samples = part.asarray()
        samples = samples.astype(samples.dtype.newbyteorder("="))
        if part.planarconfig == 2 and samples.ndim == 3:
          samples = np.moveaxis(samples, 0, -1)
        samples = samples.reshape(*samples.shape[:2], -1)
        names = {2: ("R", "G", "B"), 3: ("index",), 5: tuple("CMYK")}.get(
          part.photometric, ("grey",)
        )
        alpha = ["A" if x in (1, 2) else "extra" for x in part.extrasamples]
        names = (*names, *alpha, *["extra"] * 99)[: samples.shape[-1]]
        palette = None if part.colormap is None else (part.colormap.T >> 8).astype(np.uint8)
        samples = samples.astype(np.uint8) if samples.dtype == bool else samples
        # Not part.nodata, which refuses the lowest float32 that GDAL writes.
        nodata = float(part.tags[42113].value) if 42113 in part.tags else None
        return Raster(samples, names, palette, nodata, "TIFF", part.bitspersample)
  image = open_image(data, name, page, exact=True)
  palette = None
  if image.mode == "P":
    colors = image.getpalette("RGB") or []
    palette = np.array(colors, np.uint8).reshape(-1, 3)
  names = {"P": ("index",), "L": ("grey",), "1": ("grey",), "LA": ("grey", "A"),
           "CMYK": tuple("CMYK"), "RGBA": tuple("RGBA"), "RGB": tuple("RGB")}  # fmt: skip
  samples = np.asarray(image)
  samples = samples.astype(np.uint8) if samples.dtype == bool else samples
  samples = samples.reshape(*samples.shape[:2], -1)
  return Raster(samples, names.get(image.mode, ("grey",)), palette, None, image.format, 8)
