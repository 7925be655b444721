"""Reads image files: what they declare, and their stored samples, whatever the format.

TIFF is read by tifffile, `.npy` by NumPy, all else by Pillow; 16-bit colours that Pillow would cut
to 8 bits by imagecodecs. The content of a file decides, not its suffix.
"""

import dataclasses
import io
import pathlib
import re
from collections.abc import Sequence

import numpy as np
from PIL import Image

from jaxseg import UserError
from jaxseg.data import raster
from jaxseg.data.raster import MAX_PIXELS, Header, Path, Raster, check_png, decoding, upright
from jaxseg.data.resize import resize_image

TIFF_SUFFIXES = (".tif", ".tiff")
FORMATS = {  # of files with a suffix
  **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), ("JPEG", "MPO")),
  ".png": ("PNG",),
  ".bmp": ("BMP", "DIB"),
  ".gif": ("GIF",),
  **dict.fromkeys(TIFF_SUFFIXES, ("TIFF",)),
  ".webp": ("WEBP",),
  **dict.fromkeys((".jp2", ".j2k"), ("JPEG2000",)),
  ".avif": ("AVIF",),
  **dict.fromkeys((".pgm", ".ppm"), ("PPM",)),
  ".npy": ("NPY",),
}
SUFFIXES = tuple(FORMATS)
PAGES = ("auto", "examples", "channels")
ORIENTATION = 0x0112  # EXIF tag
# Pillow's modes: samples and bits.
MODES = {"1": (("grey",), 1), "L": (("grey",), 8), "P": (("index",), 8), "LA": (("grey", "A"), 8),
         "RGB": (tuple("RGB"), 8), "RGBA": (tuple("RGBA"), 8), "CMYK": (tuple("CMYK"), 8),
         "I;16": (("grey",), 16), "I;16B": (("grey",), 16), "I": (("grey",), 32),
         "F": (("grey",), 32)}  # fmt: skip
CONVERTED = {"YCbCr": "RGB", "LAB": "RGB", "HSV": "RGB", "PA": "RGBA", "RGBa": "RGBA", "La": "LA",
             "RGBX": "RGB", "I;16L": "I;16", "I;16N": "I;16"}  # fmt: skip
NPY, PNG = b"\x93NUMPY", b"\x89PNG\r\n\x1a\n"
JPEG2000 = (b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  \r\n\x87\n")
TRANSPARENCY = "transparency (alpha) is not used"
# Pillow's default is less than a slide. More is a warning, twice as many pixels are an error.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2


def few(values: Sequence, limit: int = 10) -> str:
  """The first values as text: "1, 2, 3, ... (40 values)"."""
  more = f", ... ({len(values)} values)" if len(values) > limit else ""
  return ", ".join(map(str, values[:limit])) + more


def num_pages(path: Path, pages: str = "auto", *, any_suffix: bool = False) -> int:
  """Number of images in a file, without decoding; 1 for all but TIFF.

  Args:
    pages: see `read_raster`.  any_suffix: opens all files, to look whether they are TIFF.
  Raises:
    UserError: it is damaged.
  """
  if not (any_suffix or str(path).lower().endswith(TIFF_SUFFIXES)):
    return 1
  with decoding(path):
    if not _is_tiff(_start(path)):  # of another format, or none at all
      inspect(path, str(path))
      return 1
    from jaxseg.data.tiff import inspect_tiff

    return inspect_tiff(path, pages, 0)[1]


def inspect(data: bytes | Path, name: str, *, page: int = 0, pages: str = "auto") -> Header:
  """What a file declares about one of its images; see `read_raster`."""
  with decoding(name):
    start = _start(data)
    if _is_tiff(start):
      from jaxseg.data.tiff import inspect_tiff

      return inspect_tiff(data, pages, page)[0]
    if start.startswith(NPY):
      return _npy_header(_load_npy(data))
    with Image.open(_as_file(data)) as image:
      return _header(image, start, _num_bytes(data))


def read_raster(
  data: bytes | Path,
  name: str,
  *,
  page: int = 0,
  pages: str = "auto",
  orient: bool = True,
  shrink_to: int = 0,
) -> Raster:
  """One image of a file as it is stored.

  Args:
    data: encoded bytes or a path.  name: in errors.
    page: number of the image in a TIFF of several. Overviews and transparency masks do not count.
    pages: "channels", all pages of a TIFF are channels of one image; "examples", each page is an
      image; "auto", what the ImageJ or OME metadata call channels are channels, other pages images.
    orient: turns the image upright as its EXIF orientation says.
    shrink_to: > 0: a JPEG that is at least twice as high and as wide is decoded at a half, a
      quarter or an eighth of its scale, and resized to this height and width, px.
  Returns:
    Raster
  Raises:
    UserError: it cannot be decoded, or needs imagecodecs.
  """
  with decoding(name):
    start = _start(data)
    if _is_tiff(start):
      from jaxseg.data.tiff import read_tiff

      found = read_tiff(data, pages, page)
    elif page:
      raise ValueError(f"there is no page {page + 1}")
    elif start.startswith(NPY):
      array = _load_npy(data)
      header = _npy_header(array)
      found = Raster(header, array.reshape(header.shape).astype(header.dtype))
    else:
      found = _read_by_pillow(data, start, shrink_to)
  if suspect := _suffix_note(data, found.header.format):
    header = dataclasses.replace(found.header, notes=(suspect, *found.header.notes))
    found = dataclasses.replace(found, header=header)
  return _turned(found) if orient else found


def _suffix_note(data, file_format):
  """What is wrong with a file's suffix; "" if it fits."""
  suffix = "" if isinstance(data, bytes) else pathlib.Path(data).suffix.lower()
  is_wrong = file_format not in FORMATS.get(suffix, (file_format,))
  return f"is {file_format}, although its name ends in {suffix}" if is_wrong else ""


def _start(data):
  if isinstance(data, bytes):
    return data[:4096]
  if pathlib.Path(data).exists() and not pathlib.Path(data).is_file():
    raise ValueError("it is no file")  # to open a pipe would wait for ever
  with open(data, "rb") as file:
    return file.read(4096)


def _is_tiff(start):
  # tifffile takes a moment to import; most data sets need none of it.
  return start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def _as_file(data):
  return io.BytesIO(data) if isinstance(data, bytes) else data


def _num_bytes(data):
  return len(data) if isinstance(data, bytes) else pathlib.Path(data).stat().st_size


def _load_npy(data):
  if isinstance(data, bytes):
    return np.load(io.BytesIO(data), allow_pickle=False)
  return np.load(data, mmap_mode="r", allow_pickle=False)


def _npy_header(array):
  if array.ndim not in (2, 3) or array.dtype.kind not in "buif":
    shape = ",".join(map(str, array.shape))
    raise ValueError(f"an array {array.dtype}[{shape}] is no image [H,W] or [H,W,channels]")
  shape = array.shape if array.ndim == 3 else (*array.shape, 1)
  raster.check_size(shape, 8 * array.itemsize, None)
  return raster.array_header("NPY", shape, array.dtype)


def _header(image, start, num_bytes):
  """The Header of an open Pillow image that has not been loaded."""
  notes, stored = [], str([tile.args for tile in getattr(image, "tile", ())])
  mode = CONVERTED.get(image.mode, image.mode)
  if image.mode in ("YCbCr", "LAB", "HSV"):
    notes.append(f"{image.mode} converted to RGB")
  if mode not in MODES:
    raise ValueError(f"Pillow's mode {image.mode} is unknown here")
  names, bits = MODES["LA" if "LA;16" in stored else mode]  # which Pillow opens as RGBA
  declared = max(map(int, re.findall(r";(\d+)", stored)), default=bits)  # "RGB;16B", "L;4"
  kind = image.format
  if kind == "BMP" and declared > 8:  # "BGR;15": 5 bits a colour
    declared = bits
  if kind == "JPEG2000":
    declared = raster.jpeg2000_bits(start) or bits
  elif kind == "AVIF" and (at := start.find(b"pixi")) > 0:
    declared = start[at + 9]
  maximum = (1 << declared) - 1 if declared <= 16 else None
  if kind == "PNG" and mode == "I":  # older versions of Pillow
    names, declared, maximum = ("grey",), 16, 65535
  if kind == "PPM" and image.mode != "1" and (found := re.findall(r", (\d+)\)", stored)):
    maximum = int(found[-1])
    declared = maximum.bit_length()
  if mode == "F" or (mode == "I" and kind not in ("PNG", "PPM")):
    dtype = np.dtype(np.int32 if mode == "I" else np.float32)
    declared, maximum = (declared, maximum) if kind == "PPM" else (32, None)
  else:
    dtype = np.dtype(np.uint8 if declared <= 8 else np.uint16)
  if (count := getattr(image, "n_frames", 1)) > 1:
    notes.append(f"{count} frames, of which only the first is read")
  opacity = image.info.get("transparency")  # a colour; or bytes, one for each of a palette
  if opacity is not None and not (isinstance(opacity, bytes) and min(opacity, default=255) == 255):
    notes.append(TRANSPARENCY)
  shape = (image.height, image.width, len(names))
  raster.check_size(shape, declared, num_bytes)
  # The method of PNG files would decode the whole image, to find Exif data at its end.
  orientation = Image.Image.getexif(image).get(ORIENTATION, 1)
  if orientation not in range(1, 9):
    orientation = 1
  return Header(kind, shape, dtype, names, declared, maximum, orientation, None, tuple(notes))


def picture_raster(image: Image.Image, name: str, orient: bool = True) -> Raster:
  """A PIL image as a raster, as if it had been read from its file.

  Raises:
    UserError: its pixels cannot be read.
  """
  with decoding(name):
    header = _header(image, b"", None)
    if header.bits > 8 and len(header.names) > 1:
      note = f"{header.bits} bits a colour, of which Pillow gives 8: pass the path of the file"
      header = dataclasses.replace(
        header, dtype=np.dtype(np.uint8), bits=8, maximum=255, notes=(*header.notes, note)
      )
    found = _loaded(image, header)
  return _turned(found) if orient else found


def _turned(found):
  """A raster turned upright."""
  if found.header.orientation == 1:
    return found
  samples = np.ascontiguousarray(upright(found.samples, found.header.orientation))
  full_size = found.full_size
  if full_size and found.header.orientation > 4:
    full_size = full_size[::-1]
  return dataclasses.replace(found, samples=samples, full_size=full_size)


def _read_by_pillow(data, start, shrink_to):
  if start.startswith(PNG):
    data = data if isinstance(data, bytes) else pathlib.Path(data).read_bytes()
    check_png(data)
  elif start.startswith(JPEG2000):
    data = data if isinstance(data, bytes) else pathlib.Path(data).read_bytes()
    raster.check_jpeg2000(data)
  with Image.open(_as_file(data)) as image:
    header = _header(image, start, _num_bytes(data))
    if shrink_to and image.format in ("JPEG", "MPO"):
      # Only so many of the frequencies are decoded that each side keeps `shrink_to` px or more.
      _, (_, _, width, height) = image.draft(None, (shrink_to, shrink_to))
      if image.size != header.shape[1::-1]:
        samples = resize_image(_loaded(image, header).samples, shrink_to, (height, width))
        return Raster(header, samples, full_size=header.shape[:2])
    if header.bits > 8 and len(header.names) > 1:
      return Raster(header, _by_imagecodecs(data, header))
    return _loaded(image, header)


def _loaded(image, header):
  """The Raster of a Pillow image."""
  raster.check_memory((image.height, image.width, len(header.names)), header.bits)
  image.load()
  if header.format == "PNG" and (late := image.info.get("exif")):
    exif = Image.Exif()
    exif.load(late)
    if (orientation := exif.get(ORIENTATION)) in range(1, 9):
      header = dataclasses.replace(header, orientation=orientation)
  if image.mode in CONVERTED:
    image = image.convert(CONVERTED[image.mode])
  samples = np.asarray(image)
  if samples.dtype == bool:
    samples = samples.astype(np.uint8)
  if image.mode == "L" and header.bits < 8 or header.format == "PPM" and image.mode != "1":
    # Pillow stretches few grey levels to 8 or 16 bits; the stored value is a label, or a measure.
    full = 65535 if samples.dtype == np.int32 else 255
    if header.maximum != full:
      levels = np.round(np.arange(full + 1) * (header.maximum / full))
      samples = levels.astype(header.dtype)[samples]
  if header.format == "JPEG2000":  # shifted up to 8 or 16 bits
    samples = samples >> (8 * samples.itemsize - header.bits)
  samples = samples.astype(header.dtype, copy=False)
  palette = None
  if header.names == ("index",):
    palette = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
  return Raster(header, samples.reshape(*samples.shape[:2], len(header.names)), palette)


def _by_imagecodecs(data, header):
  """Samples of more than 8 bits a colour, of which Pillow would read 8."""
  try:
    import imagecodecs
  except ModuleNotFoundError as error:
    raise UserError(
      f"{header.format} of {header.bits} bits a colour needs imagecodecs: run pip install -e "
      "'.[formats]' in the checkout of jaxseg, or save it as TIFF"
    ) from error
  decoders = {"PNG": imagecodecs.png_decode, "JPEG2000": imagecodecs.jpeg2k_decode,
              "AVIF": imagecodecs.avif_decode}  # fmt: skip
  if header.format not in decoders:
    raise UserError(f"{header.format} of {header.bits} bits a colour is not read: save it as TIFF")
  raster.check_memory(header.shape, header.bits)
  encoded = data if isinstance(data, bytes) else pathlib.Path(data).read_bytes()
  samples = decoders[header.format](encoded)
  if samples.shape != header.shape:
    raise ValueError(f"pixels of shape {samples.shape}, where {header.shape} are declared")
  return samples.astype(header.dtype, copy=False)
