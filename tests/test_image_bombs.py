"""Image files that become far more than they are, or whose pixels are not those that were saved."""

import base64
import json
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import tifffile
from encoders import encode, npy, stored, tiff
from PIL import Image

from jaxseg import UserError
from jaxseg.data import raster
from jaxseg.data.decode import ImageFormat, decode_image
from jaxseg.data.files import read_raster
from jaxseg.data.labels import label_map
from jaxseg.data.masks import decode_mask

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, (20, 30)).astype(np.uint8)


def error_of(function, *args):
  with pytest.raises(UserError) as error:
    function(*args)
  assert "\n" not in str(error.value)
  return str(error.value)


@pytest.mark.parametrize("kind", ["group4", "WEBP", "strips"])
def test_far_more_than_the_file(tmp_path, kind):
  path = tmp_path / "a.tif"
  if kind == "group4":
    Image.new("1", (17600, 17600)).save(path, compression="group4")
  elif kind == "WEBP":
    Image.new("RGB", (8000, 8000)).save(path, "WEBP", lossless=True)
  else:  # all strips lie at the same place
    tifffile.imwrite(path, np.zeros((2600, 40000), np.uint8), compression="zlib", rowsperstrip=1300)
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tif:
      tags = tif.pages[0].tags
      places = [tags[name].valueoffset for name in ("ImageLength", "RowsPerStrip")]
    for place in places:
      data[place : place + 4] = struct.pack("<I", 50_000)
    path.write_bytes(data)
  assert path.stat().st_size < 120_000
  assert "no picture is that empty" in error_of(read_raster, path, str(path))


def test_remedy_of_empty_pictures(tmp_path):
  Image.new("1", (9000, 9000)).save(tmp_path / "a.tif", compression="group4")
  assert "save such a one uncompressed" in error_of(read_raster, tmp_path / "a.tif", "x")
  with Image.open(tmp_path / "a.tif") as image:
    image.save(tmp_path / "b.tif", compression=None)
  assert stored(tmp_path / "b.tif").shape == (9000, 9000, 1)


def test_more_than_the_memory(monkeypatch):
  """A picture of 100 MB, where 150 MB are free: it is needed twice."""
  data = encode(np.zeros((10_000, 10_000), np.uint8))
  monkeypatch.setattr(raster, "free_host_bytes", lambda: 150e6)
  assert "need 0.2 GiB of memory, but 0.1 are free" in error_of(stored, data)


def test_lack_of_memory_is_one_line(monkeypatch):
  def fail(*args):
    raise MemoryError("Unable to allocate 9 TiB")

  monkeypatch.setattr("jaxseg.data.decode.to_image", fail)
  message = error_of(decode_image, encode(LABELS), "a.png", ImageFormat(3))
  assert message.startswith("a.png: too large for the memory")


@pytest.mark.parametrize("place", ["bytes", "file"])
def test_npy_larger_than_its_file(tmp_path, place):
  data = npy(np.zeros((4, 4), np.float32))
  data = data.replace(b"(4, 4), }      ", b"(90000, 9000),}")
  (tmp_path / "a.npy").write_bytes(data)
  assert "cannot be decoded" in error_of(stored, data if place == "bytes" else tmp_path / "a.npy")


@pytest.mark.parametrize("shape", [(16, 16), (1, 4000), (60, 60)])
def test_flipped_bits_of_png(shape):
  """Whatever bit flips behind the header: the labels that were saved, or an error."""
  labels = RNG.integers(0, 3, shape).astype(np.uint8)
  data, refused = encode(labels), 0
  for _ in range(300):
    bad = bytearray(data)
    bad[RNG.integers(33, len(bad))] ^= 1 << RNG.integers(8)
    try:
      np.testing.assert_array_equal(stored(bytes(bad))[..., 0], labels)
    except UserError:
      refused += 1
  assert refused > 270


def test_png_without_its_end():
  data = encode(LABELS)
  for end in (1, 8, 12):
    assert "truncated" in error_of(stored, data[:-end])
  np.testing.assert_array_equal(stored(data + b"what is behind it")[..., 0], LABELS)


def test_flipped_bits_of_a_labelme_mask(tmp_path):
  path, data = tmp_path / "a.json", bytearray(encode(np.uint8(LABELS > 0) * 255))
  shape = {"label": "a", "shape_type": "mask", "points": [[0, 0], [29, 19]]}
  document = {"imageHeight": 20, "imageWidth": 30, "shapes": [shape]}

  def read():
    shape["mask"] = base64.b64encode(data).decode()
    path.write_text(json.dumps(document))
    return decode_mask(path, str(path), label_map(("_background_", "a")))

  np.testing.assert_array_equal(read(), LABELS > 0)
  data[data.index(b"IDAT") + 20] ^= 4
  assert "check sum" in error_of(read)


@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
@pytest.mark.parametrize("tag", ["StripByteCounts", "StripOffsets"])
def test_tiff_lacks_a_strip(tmp_path, compression, tag):
  path = tmp_path / "a.tif"
  data = bytearray(tiff(LABELS, compression=compression, rowsperstrip=4))
  path.write_bytes(data)
  with tifffile.TiffFile(path) as tif:
    at = tif.pages[0].tags[tag].valueoffset
    size = {"StripOffsets": 4, "StripByteCounts": 2}[tag]
    data[at : at + size] = bytes(size)
  assert "1 of 5 strips or tiles lack their place or their size" in error_of(stored, bytes(data))


def test_empty_blocks_are_said(tmp_path):
  """SPARSE_OK of GDAL: neither place nor size."""
  path = tmp_path / "a.tif"
  tifffile.imwrite(path, LABELS + 1, compression="zlib", rowsperstrip=4)
  data = bytearray(path.read_bytes())
  with tifffile.TiffFile(path) as tif:
    for tag, size in (("StripByteCounts", 2), ("StripOffsets", 4)):
      at = tif.pages[0].tags[tag].valueoffset
      data[at : at + size] = bytes(size)
  result = read_raster(bytes(data), "x")
  np.testing.assert_array_equal(result.samples[4:, :, 0], LABELS[4:] + 1)
  assert not result.samples[:4].any()
  assert result.header.notes == ("1 empty block (SPARSE_OK of GDAL) read as 0 or no data",)


def test_one_bit_pnm():
  np.testing.assert_array_equal(stored(b"P1\n3 1\n1 0 1\n").ravel(), [0, 1, 0])  # 1 is black


@pytest.mark.parametrize("options", [{"imagej": True}, {"ome": True}], ids=["imagej", "ome"])
def test_cut_list_of_pages(options):
  """tifffile would read the pages that are left."""
  planes = RNG.integers(0, 9, (3, 20, 30)).astype(np.uint16)
  data = tiff(planes, metadata={"axes": "CYX"}, **options)
  np.testing.assert_array_equal(stored(data), np.moveaxis(planes, 0, -1))
  num_refused = 0
  for end in range(len(data) // 4, len(data), 23):
    try:
      np.testing.assert_array_equal(stored(data[:end]), stored(data))  # only padding is lost
    except UserError:
      num_refused += 1
  assert num_refused > 60


def test_cut_tags():
  """Tags that Pillow writes at the end; tifffile would go on without them."""
  data = encode(np.repeat(LABELS[..., None], 3, -1), "TIFF", compression="tiff_lzw")
  for cut in range(1, 12):
    error_of(stored, data[:-cut])


def test_cut_jpeg2000():
  labels = RNG.integers(0, 256, (48, 64, 3)).astype(np.uint8)
  for options in ({}, {"no_jp2": True}):
    data = encode(labels, "JPEG2000", **options)
    np.testing.assert_array_equal(stored(data), labels)
    for end in range(40, len(data)):
      error_of(stored, data[:end])


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_take_little_memory(bits):
  """A sample of few bits becomes a byte, not a float64."""
  labels = RNG.integers(0, 1 << bits, (1000, 1000)).astype(np.uint8)
  data = png(labels, bits)
  tracemalloc.start()
  image = decode_image(data, "x", ImageFormat(1))
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  expected = np.round(labels * (255 / ((1 << bits) - 1)))  # in double precision
  np.testing.assert_array_equal(image[..., 0], expected)
  assert peak < 5 * labels.size


def png(labels, bits):
  """A grey PNG of few bits (ISO 15948, 7.2)."""
  height, width = labels.shape
  spread = (labels[..., None] >> np.arange(bits)[::-1]) & 1
  rows = np.packbits(spread.reshape(height, -1).astype(np.uint8), axis=1)
  rows = np.pad(rows, ((0, 0), (1, 0)))  # filter 0
  chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)),
            (b"IDAT", zlib.compress(rows.tobytes())), (b"IEND", b"")]  # fmt: skip
  parts = [struct.pack(">I", len(x)) + k + x + struct.pack(">I", zlib.crc32(k + x))
           for k, x in chunks]  # fmt: skip
  return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
