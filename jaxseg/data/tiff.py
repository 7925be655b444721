"""TIFF: what the samples of its images mean, and their pixels; see `tiff_pages` for the pages."""

import dataclasses
import io
import logging
import os

import numpy as np
import tifffile
from PIL import Image

from jaxseg import UserError
from jaxseg.data import tiff_pages
from jaxseg.data.raster import Header, Path, Raster, check_memory, check_size, upright

ORIENTATION, GDAL_NODATA = 274, 42113  # tags
SAMPLES = {0: "white", 1: "grey", 2: "RGB", 3: "index", 4: "grey", 5: "CMYK", 6: "RGB"}
ALPHA = (1, 2)  # of ExtraSamples

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what matters is an error or a note


def inspect_tiff(data: bytes | Path, pages: str, index: int) -> tuple[Header, int]:
  """(Header of image `index`, number of images).  pages: see `files.read_raster`."""
  with _open(data) as tif:
    images, notes = tiff_pages.images(tif, data, pages)
    return _header(tif, _take(images, index), notes), len(images)


def read_tiff(data: bytes | Path, pages: str, index: int) -> Raster:
  """Image `index` as stored, not turned."""
  with _open(data) as tif:
    images, notes = tiff_pages.images(tif, data, pages)
    image = _take(images, index)
    if isinstance(data, bytes) and len(images) > 1 and not index:  # nobody has counted them
      notes = [*notes, f"{len(images)} pages, of which only the first is read"]
    header = _header(tif, image, notes)
    check_size(header.shape, header.bits, tif.filehandle.size)
    check_memory(header.shape, header.bits)
    if header.dtype.kind not in "uif":
      raise ValueError(f"samples of type {header.dtype}")
    planes = [_plane(tif, data, number) for number in image]
    samples = planes[0] if len(planes) == 1 else np.concatenate(planes, axis=-1)
    header = _noting_empty_blocks(header, [_page(tif, number) for number in image])
    return Raster(header, samples, _palette(_page(tif, image[0]), header))


def open_image(
  path: Path, pages: str, index: int
) -> tuple[tifffile.TiffFile, Header, list[tifffile.TiffPage], np.ndarray | None]:
  """(open file, Header, pages of image `index`, u8[n,3] palette or None), no pixels.

  Raises:
    UserError: planes without pages of their own, as ImageJ stores large stacks.
  """
  tif = _open(path)
  images, notes = tiff_pages.images(tif, path, pages)
  image = _take(images, index)
  if min(image) < 0:
    raise UserError("planes of an ImageJ stack are not read by windows: save each as a TIFF")
  header = _header(tif, image, notes)
  found = [_page(tif, number) for number in image]
  found = [page if isinstance(page, tifffile.TiffPage) else page.aspage() for page in found]
  return tif, _noting_empty_blocks(header, found), found, _palette(found[0], header)


def _palette(page, header):
  if header.names != ("index",) or page.colormap is None:
    return None
  colors = np.asarray(page.colormap).T
  # 16 bits by the standard; some writers store 8.
  return (colors >> 8 if colors.max(initial=0) > 255 else colors).astype(np.uint8)


def _noting_empty_blocks(header, pages):
  if not (empty := sum(size == 0 for page in pages for size in page.databytecounts)):
    return header
  note = f"{tiff_pages.plural(empty, 'empty block')} (SPARSE_OK of GDAL) read as 0 or no data"
  return dataclasses.replace(header, notes=(*header.notes, note))


def _open(data):
  file = io.BytesIO(data) if isinstance(data, bytes) else os.fspath(data)
  return tifffile.TiffFile(file, _multifile=False)  # an OME-TIFF may name others: not read


def _take(images, index):
  if not 0 <= index < len(images):
    raise ValueError(f"there is no page {index + 1}: it has {len(images)}")
  return images[index]


def _page(tif, number):
  return tif.pages[max(number, 0)]


def _header(tif, image, notes):
  """The Header of an image, from its first page; the others have to agree with it."""
  page = _page(tif, image[0])
  if not isinstance(page, tifffile.TiffPage):
    page = page.aspage()
  if page.dtype is None or set(page.axes) - set("YXS"):
    raise ValueError(f"pages of axes {page.axes or '?'} are not images")
  for number in image[1:]:
    other = _page(tif, number)
    if (other.shape, other.dtype) != (page.shape, page.dtype):
      raise ValueError(f"page {number + 1} has another size or type than page {image[0] + 1}")
  sizes = dict(zip(page.axes, page.shape, strict=True))
  per_page = sizes.get("S", 1)
  kind = getattr(page.photometric, "name", str(page.photometric))
  is_jpeg = "JPEG" in getattr(page.compression, "name", "")
  if kind in ("CIELAB", "ICCLAB", "ITULAB") or (kind == "YCBCR" and not is_jpeg):
    raise UserError(f"colours of {kind} are not converted: save it as RGB")
  names = _names(page, per_page) if len(image) == 1 else ("band",) * (per_page * len(image))
  dtype = np.dtype(np.uint8) if page.dtype == bool else page.dtype.newbyteorder("=")
  bits = max(page.bitspersample) if isinstance(page.bitspersample, tuple) else page.bitspersample
  is_whole = dtype.kind == "u" and bits <= 16
  tags = page.tags
  orientation = tags[ORIENTATION].value if ORIENTATION in tags else 1
  return Header(
    "TIFF",
    (sizes["Y"], sizes["X"], per_page * len(image)),
    dtype,
    names,
    bits,
    (1 << bits) - 1 if is_whole else None,
    orientation if orientation in range(1, 9) else 1,
    _nodata(tags, dtype),
    tuple(notes),
  )


def _names(page, count):
  """Meaning of the samples of a page."""
  known = SAMPLES.get(int(page.photometric), "grey")
  known = tuple(known) if known in ("RGB", "CMYK") else (known,)
  extra = count - len(known)
  if extra < 0:
    return ("band",) * count
  kinds = [int(kind) for kind in page.extrasamples]
  kinds = [0] * (extra - len(kinds)) + kinds[-extra:] if extra else []
  rest = tuple("A" if kind in ALPHA else "band" for kind in kinds)
  return ("band",) * count if "band" in rest and len(known) == 1 else known + rest


def _nodata(tags, dtype):
  if GDAL_NODATA not in tags:
    return None
  try:
    value = float(str(tags[GDAL_NODATA].value).strip("\0 "))
  except ValueError:
    return None
  with np.errstate(over="ignore"):
    return float(np.float32(value)) if dtype == np.float32 else value


def _plane(tif, data, number):
  """The samples [H,W,S] of a page, or of plane `number` < 0 of an ImageJ file, from the end."""
  page = _page(tif, number)
  if number < 0:
    array = _contiguous_plane(tif, page, number)
  else:
    _check_segments(page, tif.filehandle.size)
    try:
      array = page.asarray(maxworkers=1)
    except ValueError as error:
      if "imagecodecs" not in str(error):
        raise
      array = _by_pillow(data, number, page)
  if array.shape != page.shape:
    raise ValueError(f"pixels of shape {array.shape}, where {page.shape} are declared")
  array = array.astype(np.uint8) if array.dtype == bool else array
  array = array.astype(array.dtype.newbyteorder("="), copy=False)
  if page.axes == "SYX":
    array = np.moveaxis(array, 0, -1)
  return array if array.ndim == 3 else array[..., None]


def _contiguous_plane(tif, page, number):
  """Plane `number` < 0, from the end, of planes that lie in a row behind a single page."""
  series = tif.series[0]
  if series.dataoffset is None:
    return series.asarray(maxworkers=1).reshape(-1, *page.shape)[number]
  tif.filehandle.seek(series.dataoffset + (series.size // page.size + number) * page.nbytes)
  dtype = page.dtype.newbyteorder(tif.byteorder)
  return np.frombuffer(tif.filehandle.read(page.nbytes), dtype).reshape(page.shape)


def _check_segments(page, num_bytes):
  """Raises ValueError if the file ends before the page's data do, or lacks some of them.

  A block without place and size is empty, as GDAL writes with SPARSE_OK, and read as 0 or "no
  data"; one that lacks only one of them is damaged, and tifffile would fill it, too.
  """
  blocks = list(zip(page.dataoffsets, page.databytecounts, strict=True))
  if damaged := sum((start == 0) != (size == 0) for start, size in blocks):
    raise ValueError(f"{damaged} of {len(blocks)} strips or tiles lack their place or their size")
  ends = [start + size for start, size in zip(page.dataoffsets, page.databytecounts, strict=False)]
  if not ends or max(ends) > num_bytes:
    raise ValueError(f"the file is truncated: {max(ends, default=0) - num_bytes:,} bytes missing")


def _by_pillow(data, number, page):
  """Decodes what tifffile cannot without imagecodecs, where Pillow keeps every bit."""
  codec = getattr(page.compression, "name", page.compression)
  missing = UserError(
    f"TIFF of compression {codec} needs imagecodecs: run pip install -e '.[formats]' in the "
    "checkout of jaxseg"
  )
  with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as image:
    image.seek(number)
    if image.mode not in ("1", "L", "P", "RGB", "RGBA", "CMYK", "I;16", "I;16B"):
      raise missing
    array = np.asarray(image)
    turned = page.tags[ORIENTATION].value if ORIENTATION in page.tags else 1
    if turned in range(2, 9):  # which Pillow has applied
      array = upright(array, {6: 8, 8: 6}.get(turned, turned))
  if page.photometric == 0 and image.mode in ("1", "L"):  # which Pillow inverts
    array = ~array
  if array.shape != page.shape or array.dtype.newbyteorder("=") != page.dtype.newbyteorder("="):
    raise missing
  return array
