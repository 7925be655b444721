"""What files declare and hold, against the arrays and pictures that were written."""

import io
import json
import os
import pathlib
import struct
import subprocess
import sys
import warnings
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from encoders import encode, tiff
from PIL import Image, ImageOps
from tiny import error_of

from jaxseg.data import files
from jaxseg.data.files import inspect, num_pages, read_raster

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (48, 64, 3), dtype=np.uint8)
GREY = RGB[..., 0]
SMOOTH = np.stack([4 * np.mgrid[:48, :64][1], 5 * np.mgrid[:48, :64][0], np.full((48, 64), 90)], -1)
SMOOTH = SMOOTH.astype(np.uint8)


def stored(data, **options):
  return read_raster(data, "x", **options).samples


@pytest.fixture
def no_imagecodecs(monkeypatch):
  """As if imagecodecs were not installed."""
  import tifffile._imagecodecs as fallback

  monkeypatch.setattr(tifffile.tifffile, "imagecodecs", fallback)
  monkeypatch.setattr(fallback, "__name__", "imagecodecs", raising=False)
  monkeypatch.setitem(sys.modules, "imagecodecs", None)
  for table in (tifffile.TIFF.DECOMPRESSORS, tifffile.TIFF.UNPREDICTORS):
    monkeypatch.setattr(table, "_codecs", {})


NUMBERS = ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"]


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("dtype", NUMBERS)
def test_number_types_of_tiff(dtype, byteorder):
  array = (RNG.normal(0, 1, (5, 7)) * 40).astype(dtype)
  found = read_raster(tiff(array, byteorder=byteorder), "x")
  assert found.samples.dtype == np.dtype(dtype) and found.samples.dtype.isnative
  np.testing.assert_array_equal(found.samples[..., 0], array)
  maximum = {"u1": 255, "u2": 65535}.get(dtype)
  assert found.header.maximum == maximum and found.header.names == ("grey",)


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("count", [2, 3, 4, 12])
@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
def test_bands_of_tiff(count, planar, compression):
  array = RNG.integers(0, 65536, (5, 7, count), dtype=np.uint16)
  options = {"photometric": "rgb", "extrasamples": ["unspecified"] * (count - 3)}
  if count < 3:
    options = {"photometric": "minisblack", "extrasamples": ["unspecified"]}
  if count == 12:
    options = {"photometric": "minisblack", "extrasamples": ["unspecified"] * 11}
  given = np.moveaxis(array, -1, 0) if planar == "separate" else array
  data = tiff(given, planarconfig=planar, compression=compression, **options)
  found = read_raster(data, "x")
  np.testing.assert_array_equal(found.samples, array)
  expected = {2: ("band",) * 2, 3: tuple("RGB"), 4: (*"RGB", "band"), 12: ("band",) * 12}[count]
  assert found.header.names == expected


def test_alpha_is_told_from_a_band():
  array = RNG.integers(0, 256, (5, 7, 4), dtype=np.uint8)
  for kind, name in (("unassalpha", "A"), ("assocalpha", "A"), ("unspecified", "band")):
    header = inspect(tiff(array, photometric="rgb", extrasamples=[kind]), "x")
    assert header.names == (*"RGB", name)
  assert inspect(encode(array), "x").names == tuple("RGBA")
  grey = tiff(array[..., :2], photometric="minisblack", extrasamples=["unassalpha"])
  assert inspect(grey, "x").names == ("grey", "A")


KINDS = {
  "lzw": (RGB, {"compression": "tiff_lzw"}),
  "deflate": (RGB, {"compression": "tiff_adobe_deflate"}),
  "packbits": (GREY, {"compression": "packbits"}),
  "deep lzw": (GREY.astype(np.uint16) * 200, {"compression": "tiff_lzw"}),
  "group 4": (GREY > 99, {"compression": "group4"}),
  "bilevel": (GREY > 99, {}),
  "RGBA lzw": (np.dstack([RGB, GREY]), {"compression": "tiff_lzw"}),
}


@pytest.mark.parametrize("name", KINDS)
def test_codecs(name):
  array, options = KINDS[name]
  data = encode(array, "TIFF", **options)
  np.testing.assert_array_equal(stored(data).squeeze(), array)


@pytest.mark.usefixtures("no_imagecodecs")
@pytest.mark.parametrize("name", KINDS)
def test_codecs_without_imagecodecs(name):
  test_codecs(name)


@pytest.mark.usefixtures("no_imagecodecs")
def test_codecs_that_need_imagecodecs():
  message = error_of(stored, LZW)
  assert "LZW" in message and "pip install -e '.[formats]'" in message
  message = error_of(stored, PNG_16)
  assert "PNG of 16 bits a colour" in message and "'.[formats]'" in message


DEEP = RNG.integers(0, 65536, (5, 7, 3), dtype=np.uint16)
LZW = tiff(DEEP, photometric="rgb", compression="lzw")
PNG_16 = imagecodecs.png_encode(DEEP)


def test_jpeg_in_tiff():
  data = encode(SMOOTH, "TIFF", compression="jpeg", quality=95)
  with Image.open(io.BytesIO(data)) as picture:
    expected = np.asarray(picture.convert("RGB")).astype(int)
  found = stored(data).astype(int)
  assert np.abs(found - expected).max() <= 3 and np.abs(found - SMOOTH).mean() < 4


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_orientation(kind, orientation):
  exif = Image.Exif()
  exif[0x0112] = orientation
  options = {"lossless": True} if kind == "WEBP" else {}
  data = encode(SMOOTH, kind, exif=exif, **options)
  with Image.open(io.BytesIO(data)) as picture:
    expected = np.asarray(ImageOps.exif_transpose(picture))
    sensor = SMOOTH if kind == "TIFF" else np.asarray(picture)  # Pillow turns TIFFs itself
  np.testing.assert_array_equal(stored(data), expected)
  np.testing.assert_array_equal(stored(data, orient=False), sensor)
  assert inspect(data, "x").orientation == orientation


@pytest.mark.usefixtures("no_imagecodecs")
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_a_codec_that_pillow_reads(orientation):
  exif = Image.Exif()
  exif[0x0112] = orientation
  data = encode(SMOOTH, "TIFF", exif=exif, compression="tiff_lzw")
  np.testing.assert_array_equal(stored(data, orient=False), SMOOTH)
  np.testing.assert_array_equal(stored(data), np.asarray(Image.open(io.BytesIO(data))))


def test_orientation_at_the_end_of_a_png():
  """Where it may stand, but costs a decoder the whole file to find."""
  exif = Image.Exif()
  exif[0x0112] = 6
  head, last = encode(SMOOTH)[:-12], encode(SMOOTH)[-12:]
  data = exif.tobytes().removeprefix(b"Exif\0\0")
  chunk = struct.pack(">I", len(data)) + b"eXIf" + data
  late = head + chunk + struct.pack(">I", zlib.crc32(b"eXIf" + data)) + last
  np.testing.assert_array_equal(stored(late), np.rot90(SMOOTH, -1))
  np.testing.assert_array_equal(stored(late, orient=False), SMOOTH)


def test_an_unknown_orientation_is_upright():
  exif = Image.Exif()
  exif[0x0112] = 9
  assert inspect(encode(GREY, exif=exif), "x").orientation == 1


def pyramid(path, *, flag=True):
  with tifffile.TiffWriter(path) as writer:
    writer.write(RGB, photometric="rgb", metadata=None)
    for step, kind in ((2, 1), (4, 1), (1, 4)):
      level = np.ascontiguousarray(GREY[::step, ::step] > 99 if kind == 4 else RGB[::step, ::step])
      photometric = "minisblack" if kind == 4 else "rgb"
      writer.write(level, subfiletype=kind * flag, photometric=photometric, metadata=None)


def test_overviews_and_masks_are_no_images(tmp_path):
  pyramid(tmp_path / "a.tif")
  assert num_pages(tmp_path / "a.tif") == 1
  np.testing.assert_array_equal(stored(tmp_path / "a.tif"), RGB)
  notes = inspect(tmp_path / "a.tif", "x").notes
  assert notes == ("2 pages of reduced resolution not read as images",
                   "1 mask of transparency not read as images")  # fmt: skip
  assert "there is no page 2" in error_of(stored, tmp_path / "a.tif", page=1)
  pyramid(tmp_path / "b.tif", flag=False)
  assert num_pages(tmp_path / "b.tif") == 4  # nothing says that they are not


@pytest.mark.parametrize(
  "axes, options, images, channels",
  [
    ("CYX", {"imagej": True}, 1, 3),
    ("TZCYX", {"imagej": True}, 8, 3),
    ("ZYX", {"imagej": True}, 3, 1),
    ("TCYX", {"ome": True}, 2, 3),
    ("ZCYX", {"ome": True}, 2, 3),
    ("CZYX", {"ome": True}, 3, 2),
    ("CYX", {}, 1, 3),
    ("ZYX", {}, 3, 1),
  ],
)
def test_axes(axes, options, images, channels):
  sizes = {"T": 2, "Z": 4, "C": 3, "Y": 5, "X": 7}
  shape = [sizes[axis] for axis in axes]
  if axes in ("ZYX", "CZYX", "ZCYX"):
    shape = {"ZYX": [3, 5, 7], "CZYX": [2, 3, 5, 7], "ZCYX": [2, 3, 5, 7]}[axes]
  array = RNG.integers(0, 60000, shape, dtype=np.uint16)
  data = tiff(array, metadata={"axes": axes}, photometric="minisblack", **options)
  moved = np.moveaxis(array, axes.index("C"), -1) if "C" in axes else array[..., None]
  moved = moved.reshape(-1, *moved.shape[-3:])
  assert moved.shape == (images, 5, 7, channels)
  for page, expected in enumerate(moved):
    np.testing.assert_array_equal(stored(data, page=page), expected)
  assert "there is no page" in error_of(stored, data, page=images)
  planes = array.reshape(-1, 5, 7)
  np.testing.assert_array_equal(stored(data, pages="channels"), np.moveaxis(planes, 0, -1))
  for page, expected in enumerate(planes):
    np.testing.assert_array_equal(stored(data, pages="examples", page=page)[..., 0], expected)


def test_pages_that_cannot_be_channels(tmp_path):
  with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
    writer.write(GREY, metadata=None)
    writer.write(np.ascontiguousarray(GREY[::2]), metadata=None)
  message = error_of(stored, tmp_path / "a.tif", pages="channels")
  assert "page 2 has another size" in message


def test_pages_in_a_circle(tmp_path):
  """The last page says that the first follows."""
  data = bytearray(tiff(RNG.integers(0, 9, (2, 5, 7), np.uint8), photometric="minisblack"))
  with tifffile.TiffFile(io.BytesIO(data)) as tif:
    first, second = (page.offset for page in tif.pages)
  count = struct.unpack_from("<H", data, second)[0]
  struct.pack_into("<I", data, second + 2 + 12 * count, first)
  (tmp_path / "a.tif").write_bytes(data)
  assert "circle" in error_of(num_pages, tmp_path / "a.tif")


def test_a_changed_file_is_listed_anew(tmp_path):
  path = tmp_path / "a.tif"
  path.write_bytes(tiff(RNG.integers(0, 9, (3, 5, 7), np.uint8), photometric="minisblack"))
  assert num_pages(path) == 3
  path.write_bytes(tiff(RNG.integers(0, 9, (2, 5, 7), np.uint8), photometric="minisblack"))
  assert num_pages(path) == 2


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_png_of_few_bits_keeps_its_values(bits):
  """Pillow stretches grey of 2 and 4 bits to 8."""
  array = (np.arange(35) % (1 << bits)).astype(np.uint8).reshape(5, 7)
  lines = np.pad(array, ((0, 0), (0, -7 % (8 // bits))))
  shifts = np.arange(8 - bits, -1, -bits)
  packed = (lines.reshape(5, -1, 8 // bits) << shifts).sum(-1).astype(np.uint8)
  found = read_raster(png(packed, bits=bits, colour=0, size=(7, 5)), "x")
  np.testing.assert_array_equal(found.samples[..., 0], array)
  assert (found.header.bits, found.header.maximum) == (bits, (1 << bits) - 1)


def png(rows, *, bits, colour, size=None):
  """A PNG of a kind that Pillow does not write; colour: 0 grey, 2 RGB, 4 grey and alpha."""

  def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

  width, height = size or rows.shape[1::-1]
  dtype = ">u2" if bits == 16 else "u1"
  lines = b"".join(b"\0" + row.astype(dtype).tobytes() for row in rows)
  header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
  chunks = (b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")
  return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in chunks)


def test_png_of_16_bits_a_colour():
  found = read_raster(png(DEEP, bits=16, colour=2), "x")
  np.testing.assert_array_equal(found.samples, DEEP)
  assert found.header.text == "PNG RGB 16 bit"
  grey_alpha = read_raster(png(DEEP[..., :2], bits=16, colour=4), "x")
  np.testing.assert_array_equal(grey_alpha.samples, DEEP[..., :2])
  grey = read_raster(png(DEEP[..., 0], bits=16, colour=0), "x")
  np.testing.assert_array_equal(grey.samples[..., 0], DEEP[..., 0])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("count", [1, 3])
def test_jpeg2000(dtype, count):
  array = RNG.integers(0, np.iinfo(dtype).max, (40, 30, count)).astype(dtype).squeeze()
  found = read_raster(imagecodecs.jpeg2k_encode(array, level=0, codecformat="jp2"), "x")
  np.testing.assert_array_equal(found.samples.squeeze(), array)
  assert found.header.bits == 8 * array.itemsize


@pytest.mark.parametrize("maximum", [5, 255, 1000, 65535])
def test_portable_grey_map(maximum):
  array = RNG.integers(0, maximum + 1, (5, 7))
  data = b"P5 7 5 %d\n" % maximum + array.astype(">u2" if maximum > 255 else "u1").tobytes()
  found = read_raster(data, "x")
  np.testing.assert_array_equal(found.samples[..., 0], array)
  assert found.header.maximum == maximum


@pytest.mark.parametrize("dtype", ["bool", "u1", ">u2", "f4", "f8"])
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 12)])
def test_numpy_files(tmp_path, dtype, shape):
  array = (RNG.random(shape) * 9).astype(dtype)
  np.save(tmp_path / "a.npy", array)
  found = read_raster(tmp_path / "a.npy", "x")
  np.testing.assert_array_equal(found.samples, array.reshape(*shape[:2], -1))
  assert found.samples.dtype.isnative


def test_numpy_files_that_are_no_images(tmp_path):
  arrays = {"line": np.zeros(5), "text": np.array([["a"]]), "none": np.zeros((0, 3))}
  for name, array in arrays.items():
    np.save(tmp_path / f"{name}.npy", array)
    assert error_of(stored, tmp_path / f"{name}.npy").startswith("x: cannot be decoded")
  np.save(tmp_path / "objects.npy", np.array([[{}]], object), allow_pickle=True)
  assert "cannot be decoded" in error_of(stored, tmp_path / "objects.npy")


def test_nodata():
  data = tiff(np.float32([[1, -9999], [np.nan, 2]]), extratags=[(42113, 2, 0, "-9999", True)])
  assert inspect(data, "x").nodata == -9999
  data = tiff(np.float32([[1, 2]]), extratags=[(42113, 2, 0, "-3.4e+38", True)])
  assert inspect(data, "x").nodata == np.float32(-3.4e38)
  assert inspect(tiff(GREY), "x").nodata is None


def test_min_is_white_is_named():
  found = read_raster(tiff(GREY, photometric="miniswhite"), "x")
  np.testing.assert_array_equal(found.samples[..., 0], GREY)
  assert found.header.names == ("white",)


@pytest.mark.parametrize("mode", ["P", "PA", "CMYK", "YCbCr", "LAB", "HSV", "RGBX", "La", "RGBa"])
def test_modes_of_pillow(mode):
  picture = Image.fromarray(SMOOTH)
  if mode == "P":
    found = read_raster(encode(picture.quantize(20)), "x")
    colours = found.palette[found.samples[..., 0]]
    np.testing.assert_array_equal(colours, np.asarray(picture.quantize(20).convert("RGB")))
    return
  if mode == "LAB":
    from PIL import ImageCms

    change = ImageCms.buildTransform(
      ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
    )
    picture = ImageCms.applyTransform(picture, change)
  elif mode in ("La", "RGBa"):
    picture = picture.convert({"La": "LA", "RGBa": "RGBA"}[mode]).convert(mode)
  else:
    picture = picture.convert("PA" if mode == "PA" else mode)
  found = files.picture_raster(picture, "x")
  if mode != "LAB":
    target = {"La": "LA", "RGBa": "RGBA", "PA": "RGBA", "CMYK": "CMYK"}.get(mode, "RGB")
    np.testing.assert_array_equal(found.samples, np.asarray(picture.convert(target)))


def test_frames_of_an_animation_are_named(tmp_path):
  pictures = [Image.fromarray(GREY), Image.fromarray(GREY.T[:48, :48]).resize((64, 48))]
  data = encode(pictures[0], "GIF", save_all=True, append_images=pictures[1:])
  assert inspect(data, "x").notes == ("2 frames, of which only the first is read",)
  (tmp_path / "a.gif").write_bytes(data)
  assert num_pages(tmp_path / "a.gif") == 1  # only volumes have pages


def test_the_content_decides_not_the_suffix(tmp_path):
  (tmp_path / "a.png").write_bytes(tiff(GREY))
  (tmp_path / "a.tif").write_bytes(encode(RGB, "JPEG"))
  assert read_raster(tmp_path / "a.png", "x").header.format == "TIFF"
  assert read_raster(tmp_path / "a.tif", "x").header.format == "JPEG"
  notes = [read_raster(tmp_path / name, "x").header.notes for name in ("a.png", "a.tif")]
  assert notes == [("is TIFF, although its name ends in .png",),
                   ("is JPEG, although its name ends in .tif",)]  # fmt: skip
  (tmp_path / "b.JPG").write_bytes(encode(RGB, "JPEG"))
  (tmp_path / "c.unknown").write_bytes(encode(RGB, "JPEG"))
  for path in (tmp_path / "b.JPG", tmp_path / "c.unknown"):
    assert read_raster(path, "x").header.notes == ()
  assert num_pages(tmp_path / "a.tif") == 1


def test_sizes_that_cannot_be(tmp_path):
  Image.new("1", (20000, 20000)).save(tmp_path / "slide.tif", compression="group4")
  with warnings.catch_warnings(action="error"):
    assert num_pages(tmp_path / "slide.tif") == 1
  rows = np.zeros((5, 7, 3), np.uint8)
  assert "exceeds limit" in error_of(stored, png(rows, bits=8, colour=2, size=(70000, 70000)))
  assert "cannot be" in error_of(stored, png(rows, bits=8, colour=2, size=(30000, 30000)))
  big = bytearray(tiff(np.zeros((4, 4), np.uint8)))
  with tifffile.TiffFile(io.BytesIO(big)) as tif:
    places = [tif.pages[0].tags[name].valueoffset for name in ("ImageWidth", "ImageLength")]
  for place in places:
    big[place : place + 2] = struct.pack("<H", 65000)
  assert "65,000 x 65,000 px" in error_of(stored, bytes(big))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "JPEG2000"])
def test_damaged_files_are_named(kind):
  data = encode(RGB, kind)
  for end in (0, 1, 10, len(data) // 2):
    assert error_of(stored, data[:end]).startswith("x: cannot be decoded")


def test_what_is_no_file(tmp_path):
  """A pipe would be waited for."""
  os.mkfifo(tmp_path / "pipe.png")
  for name in ("pipe.png", "."):
    assert "it is no file" in error_of(stored, tmp_path / name)


def test_what_is_no_image():
  for data in (b"", b"no image at all", b"<html>404</html>", bytes(1000)):
    assert error_of(stored, data) == "x: cannot be decoded (not an image that Pillow reads)"


def test_mutated_files():
  """Thousands of damaged images, masks and JSON files: the result, or one line, and soon."""
  file = pathlib.Path(__file__).with_name("mutate.py")
  environ = {**os.environ, "PYTHONPATH": str(file.parents[1])}
  command = [sys.executable, file, "4000"]
  done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environ)
  assert done.returncode == 0, done.stderr[-2000:]
  found = json.loads(done.stdout)
  assert found["wrong"] == []
  assert found["read"] > 800 and found["refused"] > 1500
  assert found["gib"] < 2 and found["longest"] < 10


def test_real_files(data_dir):
  """Every picture of the layouts, as tifffile and Pillow read it."""
  paths = [p for p in sorted((data_dir / "layouts").rglob("*.*")) if p.suffix in files.SUFFIXES]
  assert len(paths) > 25
  for path in paths:
    raster = read_raster(path, str(path))
    if path.suffix == ".tif":
      with tifffile.TiffFile(path) as tif:
        expected = tif.pages[0].asarray()
        assert num_pages(path) == 1
    else:
      expected = np.asarray(Image.open(path))
    np.testing.assert_array_equal(raster.samples.reshape(expected.shape), expected)
  nodata = [inspect(path, "x").nodata for path in paths if path.suffix == ".tif"]
  assert np.float32(-3.4e38) in nodata and any(np.isnan(x) for x in nodata if x is not None)
