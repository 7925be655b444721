"""Label maps of images that do not fit into memory: window by window, from disk to disk."""

import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorstore
import tifffile
from PIL import Image

from jaxseg.data.decode import DatasetInfo, to_picture
from jaxseg.data.windows import WindowedImage
from jaxseg.predict import Predictor, most_likely
from jaxseg.visualize import MAX_OVERLAY, full_palette, overlay

TILE = 512  # px, side of the tiles of a label map
BLOCK = 64  # rows of the image that are read at once for the overlay


def predict_large(
  predictor: Predictor,
  variables: Any,
  image: WindowedImage,
  path: pathlib.Path,
  info: DatasetInfo,
  about: Mapping[str, Any],
  *,
  overlay_path: pathlib.Path | None = None,
  process: tuple[int, int] = (0, 1),
  wait: Callable[[], None] = lambda: None,
  progress: Callable = lambda iterable, **_: iterable,
) -> bool:
  """Writes the label map of an image as a tiled, deflated BigTIFF with its palette, or as Zarr.

  Rows of windows are written as they are done, into the hidden folder .NAME.partial beside `path`.
  The same call after a stop goes on with the next row; other data, options or weights start anew.
  The georeference is that of the image.

  Args:
    predictor: with tiles, see `make_predictor`.
    path: *.tif or *.zarr; it appears when it is whole.
    info: of the training data.
    about: JSON-able; what the labels follow from: the checkpoint and the options.
    overlay_path: of a PNG of the subsampled image tinted by class, see `visualize.overlay`.
    process: (number, count) of processes that share the rows.
    wait: returns when all processes have called it.
    progress: called like `tqdm`, with the windows.
  Returns:
    whether a stopped start was continued.
  """
  height, width, _ = image.shape
  rows, _ = predictor.spans((height, width))
  numbers = {row.keep.start: i for i, row in enumerate(rows)}
  about = {**about, "image": image.stamp, "rows": [row.keep.stop for row in rows]}
  store = _Rows(path.with_name(f".{path.name}.partial"), len(rows))
  number, count = process
  continued = store.prepare(about, height * width) if number == 0 else False
  wait()
  store.open()
  todo = [i for i in range(number, len(rows), count) if not store.is_done(i)]
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
  wait()
  if number == 0:
    write = _write_zarr if path.suffix == ".zarr" else _write_tiff
    write(path, store, image, info.palette)
    if overlay_path:
      _write_overlay(overlay_path, store, image, info)
  wait()
  store.close(remove=number == 0)
  return continued


class _Rows:
  """The rows of windows that are done, in a folder: labels u8[H,W] and a byte a row.

  Processes write to places of their own, so that they need no lock.
  """

  def __init__(self, folder, num_rows):
    self._folder, self._num_rows = folder, num_rows
    self._labels = self._done = None

  def prepare(self, about, num_pixels):
    """Makes the folder, unless it is one of the same prediction; returns whether it is."""
    path = self._folder / "about.json"
    text = json.dumps(about, sort_keys=True)
    if path.is_file() and path.read_text() == text:
      return True
    shutil.rmtree(self._folder, ignore_errors=True)
    self._folder.mkdir(parents=True)
    for name, size in (("labels", num_pixels), ("done", self._num_rows)):
      with (self._folder / name).open("wb") as file:
        file.truncate(size)
    path.with_suffix(".new").write_text(text)
    path.with_suffix(".new").replace(path)  # last, so that the folder is whole
    return False

  def open(self):
    self._labels, self._done = (
      os.open(self._folder / name, os.O_RDWR) for name in ("labels", "done")
    )

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
    data = os.pread(self._labels, (last - first) * width, first * width)
    return np.frombuffer(data, np.uint8).reshape(-1, width)

  def close(self, remove):
    os.close(self._labels)
    os.close(self._done)
    if remove:
      shutil.rmtree(self._folder)


def _write_tiff(path, store, image, palette):
  height, width, _ = image.shape

  def tiles() -> Iterator[np.ndarray]:
    for top in range(0, height, TILE):
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
      metadata=None,
      maxworkers=1,
    )
  os.replace(part, path)


def _write_zarr(path, store, image, palette):
  height, width, _ = image.shape
  part = path.with_name(f".{path.name}.partial.zarr")
  shutil.rmtree(part, ignore_errors=True)
  array = tensorstore.open(
    {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{part}/"}},
    create=True,
    dtype=tensorstore.uint8,
    shape=(height, width),
    chunk_layout=tensorstore.ChunkLayout(chunk_shape=(TILE, TILE)),
    codec=tensorstore.CodecSpec({"driver": "zarr3", "codecs": [{"name": "gzip"}]}),
  ).result()
  for top in range(0, height, TILE):
    bottom = min(top + TILE, height)
    array[top:bottom].write(store.read(top, bottom, width)).result()
  (part / "palette.json").write_text(json.dumps(np.asarray(palette).tolist()))
  shutil.rmtree(path, ignore_errors=True)
  os.replace(part, path)


def _write_overlay(path, store, image, info):
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
  part = path.with_name(f".{path.name}.partial.png")
  Image.fromarray(picture).save(part)
  os.replace(part, path)
