"""What files other than TIFFs declare and hold, orientations, and files that are damaged."""

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
from encoders import DEEP, GREY, RGB, RNG, SMOOTH, encode, stored, tiff
from PIL import Image, ImageOps
from tiny import error_of

from jaxseg.data import files
from jaxseg.data.files import inspect, num_pages, read_raster


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
  message = error_of(stored, png(rows, bits=8, colour=2, size=(30000, 30000)))
  assert "no picture is that empty" in message
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


def mutated(*numbers):
  """What tests/mutate.py finds."""
  file = pathlib.Path(__file__).with_name("mutate.py")
  environ = {**os.environ, "PYTHONPATH": str(file.parents[1])}
  command = [sys.executable, file, *map(str, numbers)]
  done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environ)
  assert done.returncode == 0, done.stderr[-2000:]
  found = json.loads(done.stdout)
  assert found["wrong"] == []
  assert found["gib"] < 2 and found["longest"] < 10
  return found


def test_mutated_files():
  """Damaged images, masks, outlines and weights: the right result, or one line, and soon."""
  found = mutated(3000)
  assert found["read"] > 500 and found["refused"] > 1500


@pytest.mark.slow
def test_many_mutated_files():
  """Seeds 100 to 107."""
  found = mutated(2500, 100, 8)
  assert found["read"] + found["refused"] == 20_000 and found["read"] > 3000


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
