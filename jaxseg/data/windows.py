"""Images that are read window by window, because they do not fit into memory: TIFF and Zarr."""

import collections
import itertools
import operator
import os
import pathlib
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tifffile

from jaxseg import UserError
from jaxseg.data import raster
from jaxseg.data.arrays import check_shape, unmasked
from jaxseg.data.decode import FEW, ImageFormat, is_channels_first, to_image
from jaxseg.data.files import TIFF_SUFFIXES, inspect
from jaxseg.data.fingerprints import chunks_digest
from jaxseg.data.raster import LARGE, Header, Path, Raster, check_size, decoding
from jaxseg.data.tiff import open_image
from jaxseg.data.zarr_files import CACHE, MAX_TILE, ZARR, open_zarr

MAX_PIXELS = 1 << 40
# GeoTIFF: scale, tie points, transformation, directory of keys, and their numbers and texts.
GEOREFERENCE = (33550, 33922, 34264, 34735, 34736, 34737)
JPEG = (6, 7, 34892, 33007)  # compressions whose tiles need the page's tables


class WindowedImage:
  """An image [H,W,channels] of which only the pixels that are asked for are read.

  Attributes:
    header: what the file declares.  shape: (H, W, channels).
    notes: what is not used of it, in words that follow "FILE: "; windows may add to them.
    georeference: the GeoTIFF tags of a TIFF, as `tifffile.TiffWriter.write` takes `extratags`.
    stamp: JSON-able; of another file, or of one that was changed, another.
    dtype: of windows.  brightest: the largest value of those that have been read.
  """

  def __init__(
    self,
    header: Header,
    read: Callable[[slice, slice], np.ndarray],
    name: str,
    fmt: ImageFormat,
    palette: np.ndarray | None = None,
    georeference: Sequence[tuple] = (),
    stamp: Sequence[int] = (),
  ):
    if 0 in header.shape:
      raise UserError(f"{name}: {header.shape[0]} x {header.shape[1]} px, it has no pixels")
    self.header, self.notes = header, []
    self.georeference, self.stamp = georeference, [*header.shape, *stamp]
    self._read, self._name, self._fmt, self._palette = read, name, fmt, palette
    self.dtype, self.brightest = None, 0
    if fmt.orient and header.orientation != 1:
      raise UserError(f"{name}: is turned by a tag, and too large to be turned: save it upright")
    is_large = header.shape[0] * header.shape[1] > LARGE
    if is_large and header.dtype.kind in "ui" and header.maximum is None and not fmt.value_range:
      # Whether values of 32 bits fit 16 shows at the end alone.
      raise UserError(f"{name}: the full range of {header.dtype} is unknown: set `value_range` to "
                      "the values of black and white")  # fmt: skip
    self.shape = (*header.shape[:2], self.read(slice(0, 1), slice(0, 1)).shape[2])

  def read(self, rows: slice, cols: slice) -> np.ndarray:
    """A window as the network reads images: u8, u16 or f32 [h,w,channels]."""
    with decoding(self._name):
      samples = self._read(rows, cols)
    notes = list(self.header.notes)
    image = to_image(Raster(self.header, samples, self._palette), self._name, self._fmt, notes)
    self.notes += [note for note in notes if note not in self.notes]
    self.dtype, self.brightest = image.dtype, max(self.brightest, image.max(initial=0))
    return image

  def whole(self) -> np.ndarray:
    """All of it: u8, u16 or f32 [H,W,channels]."""
    with decoding(self._name):
      check_size(self.header.shape, self.header.bits, None)
      raster.check_memory(self.header.shape, self.header.bits)
    return self.read(slice(0, self.shape[0]), slice(0, self.shape[1]))

  def __getitem__(self, places: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Pixels at rows i64[h,1] and columns i64[1,w] in any order, see `numpy.ix_`: [h,w,channels]"""
    rows, cols = (np.ravel(place) for place in places)
    top, left = rows.min(), cols.min()
    box = self.read(slice(top, rows.max() + 1), slice(left, cols.max() + 1))
    return box[np.ix_(rows - top, cols - left)]


def open_windows(path: Path, fmt: ImageFormat, *, page: int = 0) -> WindowedImage:
  """A TIFF, or a folder *.zarr (Zarr 2 or 3, OME-Zarr), to read by windows.

  Args:
    fmt: how the network reads images.  page: number of the image in a TIFF of several.
  Raises:
    UserError: it cannot be read by windows; the remedy says what to save it as.
  """
  name = os.fspath(path)
  if not os.path.exists(path):
    raise UserError(f"no file {name}; correct the path of the image")
  with decoding(name):
    if pathlib.Path(path).is_dir():
      header, read, folder = open_zarr(pathlib.Path(path))
      return WindowedImage(header, read, name, fmt, stamp=[chunks_digest(folder)])
    try:
      tif, header, pages, palette = open_image(path, fmt.pages, page)
    except tifffile.TiffFileError as error:
      raise UserError(f"{name}: only TIFF and Zarr are read by windows ({error})") from error
    tags = [pages[0].tags[code] for code in GEOREFERENCE if code in pages[0].tags]
    tags = [(tag.code, tag.dtype, tag.count, tag.value, True) for tag in tags]
    read, stat = _TiffReader(tif, pages, name).read, os.fstat(tif.filehandle.fileno())
    check_size(header.shape, header.bits, stat.st_size, MAX_PIXELS)
    stamp = page, stat.st_size, stat.st_mtime_ns
    return WindowedImage(header, read, name, fmt, palette, tags, stamp)


def is_large(path: Path, fmt: ImageFormat, *, page: int = 0) -> bool:
  """Whether an image is to be read by windows: a TIFF or a folder *.zarr of more than LARGE px."""
  with decoding(os.fspath(path)):
    if os.fspath(path).endswith(ZARR):
      height, width, _ = open_zarr(pathlib.Path(path))[0].shape
    elif os.fspath(path).lower().endswith(TIFF_SUFFIXES):
      height, width, _ = inspect(path, os.fspath(path), page=page, pages=fmt.pages).shape
    else:
      return False
  return height * width > LARGE


def windows_of(array: Any, name: str, fmt: ImageFormat) -> WindowedImage:
  """Something with shape and dtype [H,W] or [H,W,C] of which `array[rows, cols]` reads a part.

  numpy.memmap, zarr.Array, h5py.Dataset and dask.array.Array are such. Floats are in [0, 1], unless
  `fmt` has a value range.
  """
  try:
    shape, dtype = tuple(map(operator.index, array.shape)), np.dtype(array.dtype)
  except (AttributeError, TypeError) as error:
    text = f"{name}: {type(array).__name__} has no `shape` and `dtype` of an image"
    raise UserError(f"{text}: give an array, or the path of a TIFF or Zarr") from error
  if len(shape) not in (2, 3) or dtype.kind not in "buif":
    raise UserError(f"{name}: {dtype} of shape {shape} is no image [H,W] or [H,W,C]")
  if len(shape) < 3 or is_channels_first(shape, fmt) or shape[2] > FEW and not fmt.bands:
    check_shape(shape, fmt, name, batches=False)
  if not fmt.value_range and (dtype.kind == "i" or dtype.kind == "u" and dtype.itemsize > 2):
    raise UserError(f"{name}: the full range of {dtype} is unknown: give it as uint8 or uint16")
  num_axes, shape = len(shape), (*shape, 1)[:3]

  def read(rows, cols):
    pixels = unmasked(array[rows, cols], name)
    wanted = (rows.stop - rows.start, cols.stop - cols.start, *shape[2:num_axes])
    if pixels.shape != wanted or pixels.dtype.newbyteorder("=") != dtype.newbyteorder("="):
      found = f"{pixels.dtype}{list(pixels.shape)}"
      raise UserError(f"{name}: [rows, columns] gives {found} instead of {dtype}{list(wanted)}")
    pixels = pixels.reshape(*wanted[:2], shape[2])
    if dtype.kind == "f" and not fmt.value_range:
      pixels = raster.unit_floats(pixels, name)
    return pixels.astype(np.uint8 if dtype.kind == "b" else dtype.newbyteorder("="), copy=False)

  return WindowedImage(raster.array_header("array", shape, dtype), read, name, fmt)


class _TiffReader:
  """Reads windows of the pages that are the channels of an image; threads may share it."""

  def __init__(self, tif, pages, name):
    self._file, self._pages = tif.filehandle, pages
    self._tiles, self._bytes = collections.OrderedDict(), 0
    self._lock = threading.Lock()  # of the tiles, and of the place in the file
    for page in pages:
      height, width = _tile_size(page)
      samples = 1 if page.axes == "SYX" else page.samplesperpixel
      if not _is_plain(page) and height * width * samples * page.dtype.itemsize > MAX_TILE:
        raise UserError(
          f"{name}: has tiles or strips of {width:,} x {height:,} px, too large to decode one: "
          "save it with tiles, for example by gdal_translate -co TILED=YES"
        )

  def read(self, rows, cols):
    with self._lock:
      planes = [self._plane(number, rows, cols) for number in range(len(self._pages))]
    return planes[0] if len(planes) == 1 else np.concatenate(planes, axis=-1)

  def _plane(self, number, rows, cols):
    page = self._pages[number]
    is_planar = page.axes == "SYX"
    sizes = dict(zip(page.axes, page.shape, strict=True))
    shape = (rows.stop - rows.start, cols.stop - cols.start, sizes.get("S", 1))
    out = np.empty(shape, page.dtype.newbyteorder("="))
    if _is_plain(page):
      self._copy_rows(page, rows, cols, out)
      return out
    height, width = _tile_size(page)
    grid = -(-sizes["Y"] // height), -(-sizes["X"] // width)
    down = range(rows.start // height, -(-rows.stop // height))
    across = range(cols.start // width, -(-cols.stop // width))
    for plane, i, j in itertools.product(range(shape[2] if is_planar else 1), down, across):
      tile = self._tile(number, page, (plane * grid[0] + i) * grid[1] + j)
      y, in_y = _overlap(rows, i * height, height)
      x, in_x = _overlap(cols, j * width, width)
      channels = slice(plane, plane + 1) if is_planar else slice(None)
      out[y, x, channels] = tile[in_y, in_x]
    return out.astype(np.uint8) if out.dtype == bool else out

  def _copy_rows(self, page, rows, cols, out):
    """From samples that lie in the file as in the image."""
    line = out.shape[1] * out.shape[2] * page.dtype.itemsize
    width, order = page.shape[1] * out.shape[2], page.parent.byteorder
    for i in range(len(out)):
      start = (rows.start + i) * width + cols.start * out.shape[2]
      self._file.seek(page.dataoffsets[0] + start * page.dtype.itemsize)
      data = self._file.read(line)
      if len(data) < line:
        raise ValueError("the file is truncated")
      out[i] = np.frombuffer(data, page.dtype.newbyteorder(order)).reshape(out.shape[1:])

  def _tile(self, number, page, index):
    """A decoded tile or strip [h,w,S], from the cache if it was read lately."""
    key = number, index
    if key in self._tiles:
      self._tiles.move_to_end(key)
      return self._tiles[key]
    offset, size = page.dataoffsets[index], page.databytecounts[index]
    if offset + size > self._file.size:
      raise ValueError(f"the file is truncated: {offset + size - self._file.size:,} bytes missing")
    data = None
    if size:
      self._file.seek(offset)
      data = self._file.read(size)
    tables = {}
    if page.compression in JPEG:
      tables = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}
    tile, _, shape = page.decode(data, index, _fullsize=page.is_tiled, **tables)
    if tile is None:  # sparse: a tile of no data
      tile = np.full(shape, page.nodata, page.dtype)
    tile = tile[0].astype(page.dtype.newbyteorder("="), copy=False)
    self._tiles[key], self._bytes = tile, self._bytes + tile.nbytes
    while self._bytes > CACHE:
      self._bytes -= self._tiles.popitem(last=False)[1].nbytes
    return tile


def _overlap(window, start, length):
  """Where a tile lies in a window along an axis, and the part of it: two slices."""
  first, last = max(window.start, start), min(window.stop, start + length)
  return slice(first - window.start, last - window.start), slice(first - start, last - start)


def _tile_size(page):
  """(height, width) of tiles or strips, px."""
  if page.is_tiled:
    return page.tilelength, page.tilewidth
  return min(page.rowsperstrip or page.imagelength, page.imagelength), page.imagewidth


def _is_plain(page):
  """Whether a page's samples lie in the file as in the image."""
  is_whole = page.dtype.kind in "uif" and page.bitspersample == 8 * page.dtype.itemsize
  return page.is_contiguous and page.axes != "SYX" and is_whole
