"""Stored samples -> the images that networks read: [H,W,channels] of uint8, uint16 or float32."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxseg import UserError
from jaxseg.data.colours import cmyk_to_rgb, rgb_to_grey
from jaxseg.data.files import read_raster
from jaxseg.data.raster import UNNAMED, Path, Raster, in_memory
from jaxseg.schema import tuples

COLOURS = (1, 3, 4)  # channels of grey, RGB and RGBA
FEW = 16  # a side of an image is longer than this; most have not as many channels
DTYPES = ("uint8", "uint16", "float32")
MOST = 1e38  # of a value_range; NaN and infinity are beyond, too
EXACT = 1 << 24  # whole numbers up to here are exact in float32


@dataclasses.dataclass(frozen=True)
class ImageFormat:
  """How the images of a data set are read.

  Attributes:
    channels: number of them. Grey becomes RGB and back; of more samples the first are taken.
    bands: numbers of the samples that are the channels, from 0; () = see above.
    value_range: stored values of black and white, (low, high) or a pair for each channel; () = the
      full range of the type.
    dtype: "uint8", "uint16" or "float32", to which images are converted without a loss; "" = the
      type of each file.
    orient: turns images upright as their EXIF orientation says.
    pages: see `files.read_raster`.
  """

  channels: int
  bands: tuple[int, ...] = ()
  value_range: tuple = ()
  dtype: str = ""
  orient: bool = True
  pages: str = "auto"


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
  """What models, plots and predictions need to know of a data set; checkpoints store it.

  Attributes:
    classes: names, in the order of the labels.
    palette: an (R, G, B) of 0..255 per class.
    channels, bands, value_range, orient, pages: see `ImageFormat`.
    dtype: of the images: uint8, uint16 or float32.
    clip: whether values beyond `value_range` are cut off.
    display_bands: channels that pictures show as red, green and blue; () = the first three.
  """

  classes: tuple[str, ...]
  palette: tuple[tuple[int, int, int], ...]
  channels: int
  value_range: tuple = ()
  bands: tuple[int, ...] = ()
  dtype: str = "uint8"
  orient: bool = True
  pages: str = "auto"
  clip: bool = True
  display_bands: tuple[int, ...] = ()

  def __post_init__(self):
    for name in ("classes", "palette", "value_range", "bands", "display_bands"):
      object.__setattr__(self, name, tuples(getattr(self, name)))  # lists, of what was JSON

  def image_format(self, dtype: str = "") -> ImageFormat:
    """How to read an image for a network that was trained on this data set."""
    return ImageFormat(
      self.channels, self.bands, self.value_range, dtype, self.orient, self.pages
    )


def decode_image(
  data: bytes | Path,
  name: str,
  fmt: ImageFormat,
  *,
  page: int = 0,
  notes: list[str] | None = None,
) -> np.ndarray:
  """One image of a file -> u8, u16 or f32 [H,W,channels].

  Args:
    data: encoded bytes or a path.  name: in errors.  page: of a file of several images.
    notes: list that collects what is not used of the file, in words that follow "FILE: ".
  Raises:
    UserError: it cannot be decoded, lacks channels, or needs a value_range.
  """
  raster = read_raster(data, name, page=page, pages=fmt.pages, orient=fmt.orient)
  notes = [] if notes is None else notes
  notes += raster.header.notes
  with in_memory(name):
    return to_image(raster, name, fmt, notes)


def to_image(raster: Raster, name: str, fmt: ImageFormat, notes: list[str]) -> np.ndarray:
  """A raster -> u8, u16 or f32 [H,W,channels]; see `decode_image`."""
  array, missing = to_channels(raster, name, fmt, notes)
  low, high = black_and_white(fmt.value_range, array.dtype)
  if array.dtype.kind == "f" and np.isinf(array).any():
    array = np.where(np.isinf(array), np.where(array > 0, high, low), array).astype(np.float32)
  if missing is not None and missing.any():
    notes.append("pixels of no data are filled with black")
    black = low if array.dtype.kind == "f" else np.clip(low, 0, np.iinfo(array.dtype).max)
    array = np.where(missing, black.astype(array.dtype), array)
  return _cast(array, name, fmt)


def is_channels_first(shape: Sequence[int], fmt: ImageFormat) -> bool:
  """Whether what should be [H,W,C] is rather [C,H,W], where nothing tells what the axes are."""
  height, width, count = shape
  wanted = max(fmt.bands) + 1 if fmt.bands else fmt.channels
  known = {wanted} if fmt.bands else {*COLOURS, wanted}
  is_few = wanted <= height <= FEW < min(width, count)
  is_known = not fmt.bands and height in known and (height > 1 or count > FEW)
  return count not in known and (is_few or is_known)


def black_and_white(value_range: Sequence, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
  """Stored values that become 0 and 1, f64[] or f64[D]; see `ImageFormat.value_range`."""
  full = 1 if dtype.kind == "f" else np.iinfo(dtype).max
  low, high = np.array(value_range or (0, full), np.float64).T
  return low, high


def to_channels(
  raster: Raster, name: str, fmt: ImageFormat, notes: list[str]
) -> tuple[np.ndarray, np.ndarray | None]:
  """The channels of a raster in stored units, and where there are no data.

  Returns:
    (u8, u16 or f32 [H,W,channels], bool[H,W,channels] or None)
  Raises:
    UserError: too few samples, or values of which the full range is unknown.
  """
  header = raster.header
  if header.format in ("NPY", UNNAMED) and is_channels_first(header.shape, fmt):
    raise UserError(
      f"{name}: of shape {list(header.shape)}, its channels seem to come first: move them to the "
      "end, as with np.moveaxis(image, 0, -1)"
    )
  samples, names = raster.samples, header.names
  if raster.palette is not None and not len(raster.palette):
    raise UserError(f"{name}: its palette has no colours")
  if raster.palette is not None:
    samples, names = raster.palette[np.minimum(samples[..., 0], len(raster.palette) - 1)], "RGB"
  elif not fmt.value_range:
    samples = _full_range(samples, raster.header, name)
  if raster.header.names[0] == "white":
    if raster.header.maximum is None:
      raise UserError(
        f"{name}: grey whose 0 is white has no black among {samples.dtype} values: save it so that "
        "0 is black"
      )
    maximum = raster.header.maximum if fmt.value_range else np.iinfo(samples.dtype).max
    samples = (maximum - samples.astype(np.int64)).astype(samples.dtype)
  missing = None
  if samples.dtype.kind == "f" and np.isnan(samples).any():
    missing = np.isnan(samples)
  if (nodata := raster.header.nodata) is not None and raster.palette is None:
    is_nodata = raster.samples == nodata
    missing = is_nodata if missing is None else missing | is_nodata
  if samples.dtype not in (np.uint8, np.uint16, np.float32):
    if samples.dtype.kind in "ui" and samples.itemsize > 2 and np.abs(samples).max() > EXACT:
      notes.append(f"{samples.dtype} values beyond {EXACT:,} are rounded to float32")
    finite = np.isfinite(samples)
    with np.errstate(over="ignore"):
      samples = samples.astype(np.float32)
    if (np.isfinite(samples) != finite).any():
      notes.append("values beyond the range of float32 become black or white")
  chosen = _choose(tuple(names), samples, name, fmt, notes)
  if missing is not None:
    missing = _choose(tuple(names), missing, name, fmt, [])
  return chosen, missing


def _full_range(samples, header, name):
  """Samples stretched to the full range of 8 or 16 bits, where that is known."""
  if samples.dtype.kind in "ui" and header.maximum is None:
    known = samples[samples != header.nodata]
    low, high = (int(known.min()), int(known.max())) if known.size else (0, 0)
    if samples.dtype == np.int32 and header.format != "NPY" and 0 <= low <= high <= 0xFFFF:
      return samples.astype(np.uint16)  # 16 bits in Pillow's 32
    raise UserError(f"{name}: {samples.dtype} values from {low} to {high} have no full range: set "
                    "`value_range` to the values of black and white")  # fmt: skip
  if samples.dtype.kind == "f":
    if header.format == "array":  # in [0, 1], see `images.to_images`
      return samples
    known = samples[np.isfinite(samples) & (samples != header.nodata)]
    low, high = (known.min(), known.max()) if known.size else (0, 0)
    raise UserError(
      f"{name}: {samples.dtype} values from {low:g} to {high:g} have no full range: set "
      "`value_range` to the values of black and white, or `normalization` to percentiles"
    )
  if header.maximum in (None, full := np.iinfo(samples.dtype).max):
    return samples
  levels = np.minimum(np.arange(full + 1), header.maximum) * (full / header.maximum)
  return np.round(levels).astype(samples.dtype)[samples]


def _choose(names, samples, name, fmt, notes):
  """The channels that `fmt` asks for, of samples or of a mask of them."""
  count, wanted = len(names), fmt.channels
  if fmt.bands:
    if max(fmt.bands) >= count:
      text = f"has {count} bands, but `bands` is {tuple(fmt.bands)}: use 0 to {count - 1}"
      raise UserError(f"{name}: {text}")
    return samples[..., list(fmt.bands)]
  if count == wanted:
    if names[0] == "C":
      notes.append("the four inks of CMYK are the channels")
    return samples
  if wanted > count and not (wanted == 3 and names[0] in ("grey", "white")):
    text = f"has {count} bands, but `channels` is {wanted}: set `channels`={count}"
    raise UserError(f"{name}: {text}")
  colours = {"C": 4, "R": 3, "grey": 1, "white": 1}.get(names[0], 0)
  if wanted > 3 or (wanted == 2 and colours) or (not colours and wanted < count):
    notes.append(f"{wanted} of {count} bands are used: set `channels`={count}, or `bands`")
    return samples[..., :wanted]
  rest = names[colours:]
  if "A" in rest:
    notes.append("transparency (alpha) is not used")
  if num_bands := rest.count("band"):
    text = f"{colours} of {colours + num_bands} bands are used: set `channels`={count}, or `bands`"
    notes.append(text)
  samples = samples[..., :colours]
  if colours == 4:
    samples = cmyk_to_rgb(samples)
  if samples.shape[-1] == wanted:
    return samples
  if wanted == 3:
    return np.repeat(samples, 3, axis=-1)
  return rgb_to_grey(samples)


def _cast(array, name, fmt):
  """Converts an image to fmt.dtype, if that loses nothing."""
  dtype = np.dtype(fmt.dtype or array.dtype)
  if array.dtype == dtype:
    return array
  if dtype == np.uint8 or array.dtype == np.float32:
    raise UserError(
      f"{name}: has {array.dtype} values, but this data set is read as {dtype}, like the files "
      f"that were looked at first: set `dtype`={array.dtype}"
    )
  if fmt.value_range:
    return array.astype(dtype)
  if dtype == np.uint16:
    return array.astype(np.uint16) * np.uint16(257)  # 255 -> 65535
  return array.astype(np.float32) / np.float32(np.iinfo(array.dtype).max)


def to_picture(image: np.ndarray, info: DatasetInfo) -> np.ndarray:
  """What pictures show of an image: u8[H,W,1], or u8[H,W,3] of three chosen channels.

  Black and white are those of the network; of standardised images, 2 standard deviations from the
  mean.
  """
  channels = image.shape[-1]
  bands = info.display_bands or range(3 if channels >= 3 else 1)
  if len(bands) != channels or list(bands) != list(range(channels)):
    image = image[..., list(bands)]
  if image.dtype == np.uint8 and not info.value_range:
    return image
  low, high = black_and_white(info.value_range, image.dtype)
  low, high = (x[list(bands)] if x.ndim else x for x in (low, high))
  x = (image - low) / (high - low)
  x = x if info.clip else (x + 2) / 4
  return (255 * np.clip(np.nan_to_num(x), 0, 1)).round().astype(np.uint8)


def _is_range(pair):
  """Whether a pair of numbers is a range in float32, as the device has it."""
  if not isinstance(pair, tuple | list) or len(pair) != 2:
    return False
  if any(isinstance(v, bool) or not isinstance(v, int | float) or not abs(v) <= MOST for v in pair):
    return False
  low, high = np.float32(pair[0]), np.float32(pair[1])
  return bool(low < high) and bool(high - low > np.finfo(np.float32).tiny)


def check_palette(palette: Sequence, classes: Sequence[str]) -> None:
  """Raises UserError unless a palette is () or has an (R, G, B) of 0..255 for each class."""
  if len(palette) not in (0, len(classes)):
    raise UserError(
      f"`palette` has {len(palette)} entries for {len(classes)} classes: give one for each"
    )
  if not all(len(c) == 3 and all(v in range(256) for v in c) for c in palette):
    raise UserError(f"`palette`={palette}: use (R,G,B) of whole numbers from 0 to 255")


def check_format(
  channels: int, value_range: Sequence, bands: Sequence[int], display_bands: Sequence[int]
) -> None:
  """Raises UserError for an image format that contradicts itself; see `ImageFormat`."""
  if channels < 1:
    raise UserError(f"`channels` is {channels}: use 1 (grey), 3 (RGB) or the number of bands")
  is_flat = not any(isinstance(value, tuple | list) for value in value_range)
  pairs = [value_range] if is_flat else list(value_range)
  if value_range and not all(map(_is_range, pairs)):
    raise UserError(
      f"`value_range`={value_range}: use (low,high) with low < high, or a pair for each channel"
    )
  if not is_flat and len(pairs) != channels:
    text = f"`value_range` has {len(pairs)} pairs: give one for each of {channels} channels"
    raise UserError(text)
  if bands and (len(bands) != channels or min(bands) < 0):
    raise UserError(f"`bands`={tuple(bands)}: give `channels`={channels} numbers, 0 or more")
  if display_bands and (len(display_bands) not in (1, 3) or not all(
      0 <= band < channels for band in display_bands)):  # fmt: skip
    raise UserError(
      f"`display_bands`={tuple(display_bands)}: give 1 or 3 numbers from 0 to {channels - 1}"
    )

