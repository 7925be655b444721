"""What an image file declares, and its stored samples."""

import contextlib
import dataclasses
import re
import zlib
from collections.abc import Iterator
from os import PathLike

import numpy as np
from PIL import UnidentifiedImageError

from jaxseg import UserError
from jaxseg.data.memory import free_host_bytes

SLACK = 1e-6  # of [0, 1]: resizing in float32 leaves values such as 1.0000001
MAX_PIXELS = 1 << 31  # of an image; more are an error before anything is allocated
LARGE = 1 << 27  # px, beyond which an image is read by windows
# Samples to bytes of a file. Deflate reaches 1,032, and 8,256 with one bit a sample; other methods
# make more of blank pictures alone, or of bombs.
MAX_RATIO = 10_000
UNNAMED = "Zarr without names of its axes"  # a format
SMALL = 1 << 26  # bytes that are decoded whatever the ratio

Path = str | PathLike


@dataclasses.dataclass(frozen=True)
class Header:
  """What a file says about one of its images, before its pixels are read.

  Attributes:
    format: "PNG", "TIFF", ...
    shape: (H, W, samples), as stored.
    dtype: type of the samples as they are read; 1 to 7 bits are uint8, 9 to 15 bits uint16.
    names: meaning of each sample: "grey", "white" (grey whose 0 is white), "index" (of a palette),
      "R", "G", "B", "C", "M", "Y", "K", "A" (alpha), "band".
    bits: of a sample, as stored.
    maximum: sample of full brightness; None for floats, signed numbers and more than 16 bits.
    orientation: EXIF orientation, 1 (upright) to 8.
    nodata: sample that stands for no data, or None.
    notes: what is not read of the file, in words that follow "FILE: ".
  """

  format: str
  shape: tuple[int, int, int]
  dtype: np.dtype
  names: tuple[str, ...]
  bits: int
  maximum: int | None = None
  orientation: int = 1
  nodata: float | None = None
  notes: tuple[str, ...] = ()

  @property
  def text(self) -> str:
    """Format, samples and depth, as in "PNG grey 16 bit"."""
    kinds = {("index",): "palette", ("white",): "grey", ("grey", "A"): "LA"}
    if len(set(self.names)) == 1 and len(self.names) > 1:
      names = f"{len(self.names)} bands"
    elif "band" in self.names:
      colours = tuple(n for n in self.names if n != "band")
      names = f"{''.join(colours)} + {len(self.names) - len(colours)} bands"
    else:
      names = kinds.get(self.names, "".join(self.names))
    return f"{self.format} {names} {self.depth}"

  @property
  def depth(self) -> str:
    """Bits and type of a sample, as in "32 bit float"."""
    kind = {"f": " float", "i": " signed"}.get(self.dtype.kind, "")
    return f"{self.bits} bit{kind}"


@dataclasses.dataclass(frozen=True)
class Raster:
  """One image of a file as stored.

  Attributes:
    header: see `Header`.
    samples: [H,W,S] in native byte order, turned upright if that was asked for.
    palette: u8[n,3], the colours of "index"; else None.
    full_size: (H, W) of the image, turned alike, if `samples` are a smaller version; else None.
  """

  header: Header
  samples: np.ndarray
  palette: np.ndarray | None = None
  full_size: tuple[int, int] | None = None

  @property
  def size(self) -> tuple[int, int]:
    """(H, W) of the image."""
    return self.full_size or self.samples.shape[:2]


def upright(samples: np.ndarray, orientation: int) -> np.ndarray:
  """Turns an image [H,W,...] as its EXIF orientation says (EXIF 2.3, tag 274)."""
  if orientation in (5, 6, 7, 8):
    samples = samples.swapaxes(0, 1)
  rows = -1 if orientation in (3, 4, 7, 8) else 1
  cols = -1 if orientation in (2, 3, 6, 7) else 1
  return samples[::rows, ::cols]


def array_header(kind: str, shape: tuple[int, int, int], dtype: np.dtype) -> Header:
  """The Header of samples that say no more than their shape and type.

  Args:
    kind: `Header.format`.
  """
  count, bits = shape[2], 1 if dtype.kind == "b" else 8 * dtype.itemsize
  names = {1: ("grey",), 3: tuple("RGB"), 4: tuple("RGBA")}
  maximum = (1 << bits) - 1 if dtype.kind in "bu" and bits <= 16 else None
  dtype = np.dtype(np.uint8) if dtype.kind == "b" else dtype.newbyteorder("=")
  return Header(kind, shape, dtype, names.get(count, ("band",) * count), bits, maximum)


def check_size(
  shape: tuple[int, ...], bits: int, num_bytes: int | None, most: int = MAX_PIXELS
) -> None:
  """Raises ValueError for an image that is too large, or larger than its file can hold.

  Args:
    shape: (H, W, samples).  bits: of a sample.  num_bytes: of the file, if known.
    most: px of an image.
  """
  height, width, samples = shape
  text = f"{width:,} x {height:,} px of {samples} x {bits} bits"
  if not height * width * samples:
    raise ValueError(f"no pixels: {text}")
  if height * width > most:
    raise ValueError(f"{text} exceeds the limit of {most:,} px")
  size = height * width * samples * max(1, bits // 8)
  if num_bytes is not None and size > max(SMALL, MAX_RATIO * num_bytes):
    raise ValueError(
      f"{text} in {num_bytes:,} bytes: no picture is that empty; save such a one uncompressed"
    )


def check_memory(shape: tuple[int, ...], bits: int) -> None:
  """Raises ValueError for an image (H, W, samples) that does not fit in memory when decoded."""
  height, width, samples = shape
  needed = 2 * height * width * samples * max(1, bits // 8)  # of the decoder, and the result
  if needed > SMALL and (free := free_host_bytes()) < needed:
    raise ValueError(
      f"{width:,} x {height:,} px of {samples} x {bits} bits need {needed / 2**30:.1f} GiB of "
      f"memory, but {free / 2**30:.1f} are free: cut it into parts"
    )


def check_png(data: bytes) -> None:
  """Raises ValueError unless a PNG is whole and the check sums of its chunks are right.

  Pillow does not look at those of the pixels (ISO 15948, 5.3: length, type, data, CRC).
  """
  view, at = memoryview(data), 8
  while True:
    size, kind = int.from_bytes(view[at : at + 4], "big"), bytes(view[at + 4 : at + 8])
    end = at + 8 + size
    if end + 4 > len(view):
      raise ValueError("the file is truncated: its last chunk is missing")
    if kind[:1].isupper() and zlib.crc32(view[at + 4 : end]) != int.from_bytes(
      view[end : end + 4], "big"
    ):
      raise ValueError(f"the check sum of chunk {kind!r} is wrong: the file is damaged")
    if kind == b"IEND":
      return
    at = end + 4


def check_jpeg2000(data: bytes) -> None:
  """Raises ValueError for a JPEG 2000 file that ends too soon; Pillow may fill it up.

  A JP2 file is a list of boxes (ISO 15444-1, annex I), a codestream ends with a marker (annex A).
  """
  at, end = 0, len(data)
  while data[:2] != b"\xff\x4f" and 0 < end - at:
    size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
    if size == 1:
      size = int.from_bytes(data[at + 8 : at + 16], "big")
    if kind == b"jp2c":
      end = at + size if size else end
      break
    if size < 8:
      raise ValueError("its list of boxes is damaged")
    at += size
  if end > len(data) or data[end - 2 : end] != b"\xff\xd9":
    raise ValueError("the file is truncated: its codestream has no end")


@contextlib.contextmanager
def in_memory(name: str | Path) -> Iterator[None]:
  """Turns a lack of memory into a UserError that names the file."""
  try:
    yield
  except MemoryError as error:
    raise UserError(f"{name}: too large for the memory ({error}): cut it into parts") from error


@contextlib.contextmanager
def decoding(name: str | Path) -> Iterator[None]:
  """Turns whatever a decoder raises into a UserError that names the file."""
  try:
    yield
  except UserError:
    raise
  except UnidentifiedImageError as error:  # its text has the address of an object
    raise UserError(f"{name}: cannot be decoded (not an image that Pillow reads)") from error
  except Exception as error:  # damaged files raise nearly anything
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    reason = re.sub(r" object at 0x\w+| \[tensorstore_spec=.*", "", reason)
    raise UserError(f"{name}: cannot be decoded ({reason})") from error


def unit_floats(array: np.ndarray, name: str) -> np.ndarray:
  """Floats in [0, 1] as float32; raises UserError for others."""
  check_unit_floats(array, name)
  return array.astype(np.float32).clip(0.0, 1.0)


def check_unit_floats(array: np.ndarray, name: str) -> None:
  """Raises UserError for NaN, and for values that are not in [0, 1]."""
  if np.isnan(array).any():
    raise UserError(f"{name}: holds NaN; replace it, for example with np.nan_to_num(image)")
  low, high = array.min(), array.max()
  if low < -SLACK or high > 1 + SLACK:
    raise UserError(
      f"{name}: {array.dtype} values from {low:g} to {high:g} are not in [0, 1]; rescale them, or "
      "convert 0 to 255 to uint8"
    )


def jpeg2000_bits(start: bytes) -> int | None:
  """Bits of a component, from the SIZ segment of a codestream (ISO 15444-1, A.5.1)."""
  at = start.find(b"\xff\x4f\xff\x51")
  return (start[at + 42] & 127) + 1 if at >= 0 else None
