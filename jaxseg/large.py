"""Label maps of images that do not fit into memory: window by window, from disk to disk."""

import contextlib
import errno
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorstore
import tifffile
from PIL import Image

from jaxseg.data.decode import DatasetInfo, to_picture
from jaxseg.data.windows import ZARR, WindowedImage
from jaxseg.marks import MARK, write_png
from jaxseg.predict import Predictor, most_likely, no_progress
from jaxseg.visualize import MAX_OVERLAY, full_palette, overlay

TILE = 512  # px, side of the tiles of a label map
ABOUT = "jaxseg.json"  # in the folder of a label map in Zarr
BLOCK = 64  # rows of the image that are read at once for the overlay


def mark_of_large(path: pathlib.Path) -> str:
  """The mark of a label map that `predict_large` wrote; "none" of others, "" of no file."""
  if not path.exists():
    return ""
  try:
    if path.suffix == ZARR:
      return json.loads((path / ABOUT).read_text())[MARK]
    with tifffile.TiffFile(path) as tif:
      name, _, mark = tif.pages.first.description.partition(" ")
    return mark if name == MARK else "none"
  except (OSError, ValueError, KeyError, TypeError, tifffile.TiffFileError):
    return "none"


def predict_large(
  predictor: Predictor,
  variables: Any,
  image: WindowedImage,
  path: pathlib.Path,
  info: DatasetInfo,
  mark: str,
  *,
  overlay_path: pathlib.Path | None = None,
  process: tuple[int, int] = (0, 1),
  agreed: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
  say: Callable[[str], None] = lambda text: None,
  progress: Callable = no_progress,
) -> bool:
  """Writes the label map of an image as a tiled, deflated BigTIFF with its palette, or as Zarr.

  Rows of windows are written as they are done, into the hidden folder .NAME.partial beside `path`.
  The same call after a stop goes on with the next row; other data, options or weights start anew.
  The georeference is that of the image.

  Args:
    predictor: with tiles, see `make_predictor`.
    path: *.tif or *.zarr; it appears when it is whole.
    info: of the training data.
    mark: of the network and its options; the description of the TIFF is "jaxseg MARK".
    overlay_path: of a PNG of the subsampled image tinted by class, see `visualize.overlay`.
    process: (number, count) of processes that share the rows; the first writes the file.
    agreed: makes a `with` block that fails in all of them if in one, see `together.agreed`.
    say: takes a line about the rows that an earlier start has done.
    progress: called like `tqdm`, with the windows, and with rows as the file is written.
  Returns:
    whether a stopped start was continued, in the first process.
  """
  height, width, _ = image.shape
  rows, _ = predictor.spans((height, width))
  about = {"mark": mark, "image": image.stamp, "rows": [row.keep.stop for row in rows]}
  folder, continued = path.with_name(f".{path.name}.partial"), False
  number, count = process
  with agreed():
    if number == 0:
      continued = _make_rows(folder, about, height * width)
  with contextlib.ExitStack() as stack:
    with agreed():
      store = stack.enter_context(_Rows(folder))
      share = range(number, len(rows), count)
      if done := continued and sum(map(store.is_done, range(len(rows)))):
        say(f"{path}: {done} of {len(rows)} rows of windows were done by an earlier start")
      _predict_rows(predictor, variables, image, store, rows, share, progress)
    if number == 0:
      write = _write_zarr if path.suffix == ZARR else _write_tiff
      if overlay_path:
        _write_overlay(overlay_path, store, image, info, mark)
      write(path, store, image, info.palette, mark, progress)
  if number == 0:
    shutil.rmtree(folder)
  return continued


def _predict_rows(predictor, variables, image, store, rows, share, progress):
  """Predicts those of the rows of windows with numbers in `share` that are not done."""
  width, numbers = image.shape[1], {row.keep.start: i for i, row in enumerate(rows)}
  todo = [i for i in share if not store.is_done(i)]
  example = {"image": image, "rows": [rows[i] for i in todo]}
  labels = None
  for window, found in predictor.pieces(variables, [example] * bool(todo), most_likely, progress):
    down = window.rows.keep
    if labels is None:
      labels = np.empty((down.stop - down.start, width), np.uint8)
    for (_, across), values in found:
      labels[:, across] = values
    if window.cols.keep.stop == width:
      store.write(numbers[down.start], down.start * width, labels)
      labels = None


def _make_rows(folder, about, num_pixels):
  """Makes the folder of `_Rows`; returns True if there is one of the same prediction."""
  path, text = folder / "about.json", json.dumps(about, sort_keys=True)
  if path.is_file() and path.read_text() == text:
    return True
  shutil.rmtree(folder, ignore_errors=True)
  folder.mkdir(parents=True)
  for name, size in (("labels", num_pixels), ("done", len(about["rows"]))):
    with (folder / name).open("wb") as file:
      file.truncate(size)
  path.with_suffix(".new").write_text(text)
  path.with_suffix(".new").replace(path)  # last, so that the folder is whole
  return False


class _Rows:
  """The rows of windows that are done, in a folder: labels u8[H,W] and a byte a row.

  Processes write to places of their own, so that they need no lock.
  """

  def __init__(self, folder):
    self._names = folder / "labels", folder / "done"

  def __enter__(self):
    self._labels, self._done = (os.open(name, os.O_RDWR) for name in self._names)
    return self

  def __exit__(self, *_):
    os.close(self._labels)
    os.close(self._done)

  def is_done(self, row):
    return os.pread(self._done, 1, row) == b"\1"

  def write(self, row, offset, labels):
    rest = memoryview(labels).cast("B")
    while rest:
      written = os.pwrite(self._labels, rest, offset)
      offset, rest = offset + written, rest[written:]
    os.fsync(self._labels)
    os.pwrite(self._done, b"\1", row)

  def read(self, first, last, width):
    """Rows of pixels: u8[last-first,width]."""
    rows = np.empty((last - first, width), np.uint8)
    rest, offset = memoryview(rows).cast("B"), first * width
    while rest:
      part = os.pread(self._labels, len(rest), offset)  # 2 GiB at most
      if not part:
        raise OSError(errno.EIO, "shorter than it was", str(self._names[0]))
      rest[: len(part)] = part
      offset, rest = offset + len(part), rest[len(part) :]
    return rows


def _write_tiff(path, store, image, palette, mark, progress):
  height, width, _ = image.shape

  def tiles() -> Iterator[np.ndarray]:
    for top in _rows_of_tiles(height, progress):
      rows = store.read(top, min(top + TILE, height), width)
      rows = np.pad(rows, ((0, TILE - len(rows)), (0, -width % TILE)))
      yield from (rows[:, left : left + TILE] for left in range(0, width, TILE))

  part = path.with_name(f".{path.name}.partial.tif")
  with tifffile.TiffWriter(part, bigtiff=True) as tif:
    tif.write(
      tiles(),
      shape=(height, width),
      dtype=np.uint8,
      tile=(TILE, TILE),
      compression="zlib",
      photometric="palette",
      colormap=full_palette(palette).T.astype(np.uint16) * 257,
      extratags=image.georeference,
      description=f"{MARK} {mark}",
      software="jaxseg",
      metadata=None,
      maxworkers=1,
    )
  os.replace(part, path)


def _write_zarr(path, store, image, palette, mark, progress):
  height, width, _ = image.shape
  part = path.with_name(f".{path.name}.partial.zarr")
  shutil.rmtree(part, ignore_errors=True)
  array = tensorstore.open(
    {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{os.path.abspath(part)}/"}},
    create=True,
    dtype=tensorstore.uint8,
    shape=(height, width),
    chunk_layout=tensorstore.ChunkLayout(chunk_shape=(TILE, TILE)),
    codec=tensorstore.CodecSpec({"driver": "zarr3", "codecs": [{"name": "gzip"}]}),
  ).result()
  for top in _rows_of_tiles(height, progress):
    bottom = min(top + TILE, height)
    array[top:bottom].write(store.read(top, bottom, width)).result()
  about = {MARK: mark, "palette": np.asarray(palette).tolist()}
  (part / ABOUT).write_text(json.dumps(about))
  shutil.rmtree(path, ignore_errors=True)
  os.replace(part, path)


def _rows_of_tiles(height, progress):
  tops = range(0, height, TILE)
  return progress(tops, total=len(tops), unit="row", desc="writing", leave=False)


def _write_overlay(path, store, image, info, mark):
  height, width, _ = image.shape
  step = -(-max(height, width) // MAX_OVERLAY)
  pictures, labels = [], []
  for top in range(0, height, BLOCK):
    lines = range(-(-top // step) * step, min(top + BLOCK, height), step)
    if lines:
      block = image.read(slice(lines[0], lines[-1] + 1), slice(0, width))
      pictures.append(to_picture(block[::step, ::step], info))
      labels += [store.read(line, line + 1, width)[:, ::step] for line in lines]
  picture = overlay(np.concatenate(pictures), np.concatenate(labels), info.palette)
  write_png(path, Image.fromarray(picture), mark)
