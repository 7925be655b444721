"""Decodes images and label maps with Pillow: any format, depth and page."""

import contextlib
import dataclasses
import io
import pathlib
import re
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from jaxseg import VOID, UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")
BITS_PER_SAMPLE = 258  # tag of a TIFF
CHANNELS = {"1": "grey", "L": "grey", "I": "grey", "F": "grey", "P": "palette"}  # others: by letter
MANY = 20  # this many more values than classes: interpolation or instance ids, not labels
BITS = {"1": 1, "I": 32, "F": 32}  # of Pillow's modes; else 8, unless the file says otherwise

Path = str | PathLike

# Slides exceed Pillow's default. Without a limit, a damaged header can use up all memory.
Image.MAX_IMAGE_PIXELS = 1 << 30  # a warning; twice as many are an error


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
  """What models, plots and predictions need to know of a data set; checkpoints store it.

  Attributes:
    classes: names, in the order of the labels.
    palette: an (R, G, B) of 0..255 per class.
    channels: of the images; 1 grey, 3 RGB.
    value_range: see `decode_image`.
  """

  classes: tuple[str, ...]
  palette: tuple[tuple[int, int, int], ...]
  channels: int
  value_range: tuple[float, ...] = ()


def decode_image(
  data: bytes | Path,
  name: str,
  channels: int,
  *,
  page: int = 0,
  value_range: Sequence[float] = (),
) -> np.ndarray:
  """Any image that Pillow reads -> u8[H,W,channels].

  Grey becomes RGB and back, and alpha is dropped.

  Args:
    data: encoded bytes or a path.  name: in errors.  channels: 1 or 3.
    page: of a file of several.
    value_range: stored values (low, high) that become 0 and 255, the rest linearly and clipped;
      () for the full range of 8 or 16 bits.
  Raises:
    UserError: it cannot be decoded, or needs a value_range.
  """
  image = _open(data, name, page, exact=bool(value_range))
  with _decoding(name):
    if image.mode[0] not in "IF":
      image = image.convert("RGB" if channels == 3 else "L")
    array = np.asarray(image)
  if value_range:
    low, high = value_range
    array = ((array.astype(np.float32) - low) * (255 / (high - low))).clip(0, 255).round()
    array = np.nan_to_num(array).astype(np.uint8)
  elif array.dtype != np.uint8:
    if array.dtype.kind == "f" or array.min() < 0 or array.max() > 0xFFFF:
      raise UserError(
        f"{name}: pixel values from {array.min()} to {array.max()} are not 8- or 16-bit integers: "
        "set `value_range` to the values of black and white"
      )
    array = (array >> 8).astype(np.uint8)
  return array if array.ndim == 3 else np.repeat(array[..., None], channels, axis=-1)


def decode_mask(
  data: bytes | Path, name: str, labels: Mapping[int, int], *, page: int = 0
) -> np.ndarray:
  """An encoded label map -> u8[H,W] of classes.

  Args:
    data: encoded bytes or a path.  name: in errors.  page: of a file of several.
    labels: {stored value: class or VOID}; a stored 255 is VOID unless it is listed.
  Raises:
    UserError: it cannot be decoded, has colours, or holds a value that is not in `labels`.
  """
  stored, file_format = read_mask(data, name, page=page)
  values = np.unique(stored)
  fault = mask_fault(values.tolist(), labels, file_format)
  if fault:
    raise UserError(f"{name}: {fault}")
  known = {VOID: VOID, **labels}
  table = np.array([known[value] for value in values.tolist()], np.uint8)
  return table[np.searchsorted(values, stored)]


def read_mask(data: bytes | Path, name: str, *, page: int = 0) -> tuple[np.ndarray, str]:
  """An encoded label map -> (values as stored, [H,W] of any number type; format of the file).

  Raises:
    UserError: it cannot be decoded, or has colours.
  """
  image = _open(data, name, page, exact=True)
  # A GIF writer may renumber the palette: there the colour is the label, elsewhere the index.
  array = np.asarray(image.convert("RGB") if image.format == "GIF" else image)
  if array.dtype == bool:  # 1 bit
    array = array.astype(np.uint8)
  if array.ndim == 3:
    colours = array[..., :-1] if image.mode[-1] in "Aa" else array
    if (colours != colours[..., :1]).any():
      raise UserError(
        f"{name}: a mask needs one label per pixel, but this has {array.shape[-1]} channels of "
        "different colours: save it as grey values"
      )
    array = colours[..., 0]
  return array, image.format


def mask_fault(values: Sequence[int], labels: Mapping[int, int], file_format: str) -> str:
  """The problem with the values of one or more masks, and its remedy; "" if there is none.

  Args:
    values: sorted list.  labels: see `decode_mask`.  file_format: of the mask.
  """
  known = {VOID: VOID, **labels}
  wrong = [value for value in values if value not in known]
  if wrong:
    more = f" (and {few(wrong[1:])})" if wrong[1:] else ""
    remedy = _remedy(wrong[0], values, labels, file_format)
    return f"label {wrong[0]}{more} is not a class; known values are {sorted(known)}; {remedy}"
  if VOID in values and VOID not in labels and set(values) <= {0, VOID} and set(labels) == {0, 1}:
    # Class 1 would count as void: training would raise no error, and learn nothing.
    return (
      f"holds {' and '.join(map(str, values))}, but no 1: set `mask_values`=(0,{VOID}) if {VOID} "
      f"is a class, or `void_values`=({VOID},) if it is void"
    )
  return ""


def few(values: Sequence, limit: int = 10) -> str:
  """The first values as text: "1, 2, 3, ... (40 values)"."""
  more = f", ... ({len(values)} values)" if len(values) > limit else ""
  return ", ".join(map(str, values[:limit])) + more


def _remedy(value, values, labels, file_format):
  """The remedy for a value that is not a class, in a mask that holds `values`."""
  num_classes = len(set(labels.values()) - {VOID})
  if file_format == "JPEG":
    return "JPEG changes labels: save masks as PNG"
  if len(values) > num_classes + MANY:
    return "so many values suggest interpolation or instance ids: save one value per class"
  if len(values) == num_classes == 2:
    a, b = values
    return f"if {a} and {b} are the classes, set `mask_values`=({a},{b})"
  if values[0] > 0 and max(set(values) - {VOID}) == num_classes:
    numbers = ",".join(str(i + 1) for i in range(num_classes))
    return f"if the classes count from 1, set `mask_values`=({numbers})"
  return f"if it is void, set `void_values`=({value},); if it is a class, set `mask_values`"


def num_pages(path: Path) -> int:
  """Number of images in a file, without decoding; 1 for all but TIFF.

  Raises:
    UserError: it is damaged.
  """
  if pathlib.Path(path).suffix.lower() not in (".tif", ".tiff"):
    return 1
  with _decoding(path), Image.open(path) as image:
    return getattr(image, "n_frames", 1)  # absent if the file is of another format


def describe_file(data: bytes | Path, name: str) -> str:
  """Format, channels and depth from the header of a file, as in "PNG grey 16 bit".

  Raises:
    UserError: it is damaged.
  """
  with _decoding(name), Image.open(_file(data)) as image:
    bands = "".join(image.getbands())
    stored = re.findall(r";(\d+)", str([tile.args for tile in image.tile]))  # "I;16B", "P;4"
    tagged = getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, ())
    bits = max(map(int, [*stored, *tagged]), default=BITS.get(image.mode, 8))
    return f"{image.format} {CHANNELS.get(bands, bands)} {bits} bit"


def resize_image(image: np.ndarray, size: int) -> np.ndarray:
  """u8[H,W,D] -> u8[size,size,D], antialiased; the aspect ratio is not kept."""
  if image.shape[:2] == (size, size):
    return image
  picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
  # Each axis is rounded: in one call, the result would depend on which axis Pillow's version
  # resizes first.
  for shape in ((size, picture.height), (size, size)):
    picture = picture.resize(shape, Image.Resampling.BILINEAR)
  return np.asarray(picture).reshape(size, size, image.shape[-1])


@contextlib.contextmanager
def _decoding(name):
  try:
    yield
  except UnidentifiedImageError as error:  # its text has the address of an object
    raise UserError(f"{name}: cannot be decoded (not an image that Pillow reads)") from error
  except Exception as error:  # damaged files raise nearly anything in Pillow
    reason = (str(error) or type(error).__name__).splitlines()[0]
    raise UserError(f"{name}: cannot be decoded ({reason})") from error


def _file(data):
  return io.BytesIO(data) if isinstance(data, bytes) else data


def _open(data, name, page, exact):
  """A loaded page.  exact: whether all bits of a colour matter."""
  with _decoding(name), Image.open(_file(data)) as image:
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
class Encoded(Sequence):
  """Decodes the records of another sequence.

  Attributes:
    records: {"image": bytes or path, "mask": the same, "name": str} and, where needed, "page": int
      of both files and "where": str, the name in errors.
    channels, value_range: see `decode_image`.  labels: see `decode_mask`.
  """

  records: Sequence[Mapping[str, Any]]
  channels: int
  labels: Mapping[int, int]
  value_range: Sequence[float] = ()

  def __len__(self) -> int:
    return len(self.records)

  def __getitem__(self, i: int) -> dict[str, Any]:
    record = self.records[i]
    where, page = place(record)
    image = decode_image(
      record["image"], where, self.channels, page=page, value_range=self.value_range
    )
    mask = decode_mask(record["mask"], f"mask of {where}", self.labels, page=page)
    if fault := size_fault(image, mask):
      raise UserError(f"{where}: {fault}")
    return {"image": image, "mask": mask, "name": record["name"]}


def place(record: Mapping[str, Any]) -> tuple[str, int]:
  """(name in errors, page) of a record of `Encoded`."""
  return record.get("where", record["name"]), record.get("page", 0)


def size_fault(image: np.ndarray, mask: np.ndarray) -> str:
  """The problem if an image [H,W,D] and its mask [h,w] differ in size; "" if they do not."""
  sizes = ["x".join(map(str, x.shape[1::-1])) for x in (image, mask)]
  if sizes[0] == sizes[1]:
    return ""
  return f"the image is {sizes[0]} px, but its mask is {sizes[1]} px: make them the same size"
