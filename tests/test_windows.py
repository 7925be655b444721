"""Images that are read by windows: the pixels of the whole image, from any TIFF or Zarr."""

import json
import os
from concurrent import futures
from unittest import mock

import numpy as np
import pytest
import tifffile
from tiny import error_of

from jaxseg.data import raster, windows
from jaxseg.data.decode import ImageFormat, decode_image
from jaxseg.data.windows import open_windows, windows_of

RGB = np.random.default_rng(0).integers(0, 256, (150, 170, 3), np.uint8)
PLANES = np.moveaxis(RGB, -1, 0)
WIDE = RGB.astype(np.uint16) * 200
TIFFS = {
  "one strip": (RGB, {"photometric": "rgb"}),
  "strips of 7 rows": (WIDE, {"photometric": "rgb", "rowsperstrip": 7}),
  "big-endian": (WIDE, {"photometric": "rgb", "byteorder": ">"}),
  "deflated strips": (
    RGB, {"photometric": "rgb", "compression": "zlib", "rowsperstrip": 16, "predictor": True}
  ),
  "deflated tiles": (RGB, {"photometric": "rgb", "compression": "zlib", "tile": (32, 48)}),
  "plain tiles": (RGB, {"photometric": "rgb", "tile": (64, 16)}),
  "tiled planes": (PLANES, {"photometric": "rgb", "planarconfig": "separate", "tile": (64, 64)}),
  "planes": (PLANES, {"photometric": "rgb", "planarconfig": "separate"}),
  "grey": (RGB[..., 0], {"tile": (64, 64)}),
  "bits": (RGB[..., 0] > 100, {}),
  "palette": (
    RGB[..., 0],
    {"photometric": "palette", "colormap": WIDE.reshape(3, -1)[:, :256], "tile": (64, 64)},
  ),
}  # fmt: skip


def write(path, array, byteorder=None, **options):
  with tifffile.TiffWriter(path, byteorder=byteorder) as tif:
    tif.write(array, **options)
  return path


def boxes(height, width, count=10):
  rng = np.random.default_rng(1)
  for _ in range(count):
    (top, bottom), (left, right) = (np.sort(rng.integers(0, n, 2)) for n in (height, width))
    yield slice(int(top), int(bottom) + 1), slice(int(left), int(right) + 1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", TIFFS)
def test_windows_of_a_tiff(kind, channels, tmp_path):
  array, options = TIFFS[kind]
  path, fmt = write(tmp_path / "a.tif", array, **options), ImageFormat(channels)
  whole, image = decode_image(path, "a", fmt), open_windows(path, fmt)
  assert image.shape == whole.shape
  for box in boxes(*whole.shape[:2]):
    found = image.read(*box)
    assert found.dtype == whole.dtype
    np.testing.assert_array_equal(found, whole[box])


def test_threads_share_an_image(tmp_path, monkeypatch):
  """There is one place in the file."""
  monkeypatch.setattr(windows, "CACHE", 0)
  path = write(tmp_path / "a.tif", RGB, photometric="rgb", tile=(16, 16), compression="zlib")
  image = open_windows(path, ImageFormat(3))
  with futures.ThreadPoolExecutor(4) as pool:
    found = list(pool.map(lambda box: image.read(*box), boxes(150, 170, 100)))
  for box, pixels in zip(boxes(150, 170, 100), found, strict=True):
    np.testing.assert_array_equal(pixels, RGB[box])


def test_mirrored_places(tmp_path):
  path = write(tmp_path / "a.tif", RGB, photometric="rgb", tile=(32, 32))
  places = np.ix_([3, 2, 1, 0, 0, 1, 149], [169, 5, 5])
  np.testing.assert_array_equal(open_windows(path, ImageFormat(3))[places], RGB[places])


def test_channels_on_pages(tmp_path):
  path = write(tmp_path / "a.tif", PLANES, photometric="minisblack", tile=(64, 64), metadata=None)
  image = open_windows(path, ImageFormat(3, pages="channels"))
  np.testing.assert_array_equal(image.read(slice(9, 99), slice(60, 70)), RGB[9:99, 60:70])


def test_missing_tiles_are_empty(tmp_path):
  """A sparse TIFF, as GDAL writes it, has tiles of no bytes."""
  path = write(tmp_path / "a.tif", RGB, photometric="rgb", tile=(64, 64), compression="zlib")
  with tifffile.TiffFile(path, mode="r+b") as tif:
    sizes = list(tif.pages[0].databytecounts)
    tif.pages[0].tags["TileByteCounts"].overwrite([0, *sizes[1:]])
  expected = RGB.copy()
  expected[:64, :64] = 0
  image = open_windows(path, ImageFormat(3))
  np.testing.assert_array_equal(image.read(slice(0, 150), slice(0, 170)), expected)


def test_damaged_and_unfit_files(tmp_path, monkeypatch):
  fmt, path = ImageFormat(3), tmp_path / "a.tif"
  whole = write(path, RGB, photometric="rgb", tile=(64, 64), compression="zlib").read_bytes()
  (tmp_path / "short.tif").write_bytes(whole[: len(whole) // 2])
  (tmp_path / "a.png").write_bytes(b"\x89PNG")
  (tmp_path / "b.zarr").mkdir()

  def read(path):
    return open_windows(path, fmt).read(slice(0, 150), slice(0, 170))

  for name in ("short.tif", "a.png", "b.zarr"):
    assert str(tmp_path / name) in error_of(read, tmp_path / name)
  write(path, RGB, photometric="rgb", extratags=[(274, "H", 1, 6, True)])
  assert "save it upright" in error_of(open_windows, path, fmt)
  monkeypatch.setattr(windows, "MAX_TILE", 50_000)
  write(path, RGB, photometric="rgb", compression="zlib", rowsperstrip=150)
  assert "gdal_translate -co TILED=YES" in error_of(open_windows, path, fmt)


def test_cache_is_bounded(tmp_path, monkeypatch):
  """Every tile is decoded once where the cache has room for a row of them; the first was before."""
  path = write(tmp_path / "a.tif", RGB, photometric="rgb", tile=(16, 16), compression="zlib")
  monkeypatch.setattr(windows, "CACHE", 12 * 16 * 16 * 3)
  image = open_windows(path, ImageFormat(3))
  reader = image._read.__self__
  file = mock.Mock(wraps=reader._file, size=reader._file.size)
  monkeypatch.setattr(reader, "_file", file)
  for top in range(0, 150, 8):
    image.read(slice(top, min(top + 8, 150)), slice(0, 170))
  assert file.read.call_count == 10 * 11 - 1
  assert reader._bytes <= windows.CACHE


def test_stamp_tells_files_apart(tmp_path):
  path = write(tmp_path / "a.tif", RGB, photometric="rgb")
  first = open_windows(path, ImageFormat(3)).stamp
  assert open_windows(path, ImageFormat(3)).stamp == first == json.loads(json.dumps(first))
  os.utime(path, ns=(1, 1))
  assert open_windows(path, ImageFormat(3)).stamp != first


class Lying:
  """An array of RGB's shape and type that gives something else."""

  shape, dtype = RGB.shape, RGB.dtype

  def __init__(self, change):
    self.change = change

  def __getitem__(self, places):
    return RGB[places] if places[0].stop == 1 else self.change(RGB[places])


@pytest.mark.parametrize(
  ("array", "text"),
  [
    (None, "NoneType has no `shape` and `dtype` of an image: give an array, or the path"),
    ([[1, 2]], "list has no `shape`"),
    (mock.Mock(shape=(None, 3), dtype="u1"), "Mock has no `shape`"),
    (mock.Mock(shape=(3, 3), dtype="banana"), "Mock has no `shape`"),
    (np.zeros((0, 5), np.uint8), "shape [0,5]; there is nothing in it"),
    (np.zeros((2, 2, 3, 3), np.uint8), "is no image [H,W] or [H,W,C]"),
    (np.full((9, 5, 3), 200.0, np.float32), "values from 200 to 200 are not in [0, 1]"),
    (np.zeros((9, 5, 3), np.int32), "the full range of int32 is unknown: give it as uint8"),
    (Lying(lambda x: x[:-1]), "gives uint8[8, 5, 3] instead of uint8[9, 5, 3]"),
    (Lying(lambda x: x.astype(np.float32)), "gives float32[9, 5, 3] instead of uint8[9, 5, 3]"),
    (Lying(lambda x: x.astype("O") / 0), "cannot be decoded (division by zero)"),
  ],
  ids=range(11),
)
def test_arrays_that_lie(array, text):
  def read():
    windows_of(array, "image", ImageFormat(3)).read(slice(0, 9), slice(0, 5))

  message = error_of(read)
  assert message.startswith("image: ") and text in message


def test_arrays_of_another_byte_order():
  image = windows_of(WIDE.astype(">u2"), "image", ImageFormat(3))
  np.testing.assert_array_equal(image.whole(), WIDE)


def test_what_does_not_fit_in_memory_is_not_read_whole(monkeypatch):
  monkeypatch.setattr(raster, "free_host_bytes", lambda: 1 << 20)
  monkeypatch.setattr(raster, "SMALL", 1 << 20)
  image = windows_of(np.zeros((1000, 1000, 3), np.uint8), "image", ImageFormat(3))
  assert image.read(slice(0, 9), slice(0, 5)).shape == (9, 5, 3)
  assert "need 0.0 GiB of memory" in error_of(image.whole)
