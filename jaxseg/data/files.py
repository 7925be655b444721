"""Opens image files: what their headers declare, and their stored pixels."""

import contextlib
import io
import pathlib
import re
from collections.abc import Iterator, Sequence
from os import PathLike

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
