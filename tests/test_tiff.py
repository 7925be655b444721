"""What TIFFs declare and hold: numbers, bands, codecs, axes and pages, against what was written."""

import io
import struct
import sys

import imagecodecs
import numpy as np
import pytest
import tifffile
from encoders import DEEP, GREY, RGB, RNG, SMOOTH, encode, stored, tiff
from PIL import Image
from tiny import error_of

from jaxseg.data import tiff as tiff_files
from jaxseg.data.files import inspect, num_pages, read_raster


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


LZW = tiff(DEEP, photometric="rgb", compression="lzw")
PNG_16 = imagecodecs.png_encode(DEEP)


@pytest.mark.usefixtures("no_imagecodecs")
def test_codecs_that_need_imagecodecs():
  message = error_of(stored, LZW)
  assert "LZW" in message and "pip install -e '.[formats]'" in message
  message = error_of(stored, PNG_16)
  assert "PNG of 16 bits a colour" in message and "'.[formats]'" in message


def test_jpeg_in_tiff():
  data = encode(SMOOTH, "TIFF", compression="jpeg", quality=95)
  with Image.open(io.BytesIO(data)) as picture:
    expected = np.asarray(picture.convert("RGB")).astype(int)
  found = stored(data).astype(int)
  assert np.abs(found - expected).max() <= 3 and np.abs(found - SMOOTH).mean() < 4


@pytest.mark.usefixtures("no_imagecodecs")
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_a_codec_that_pillow_reads(orientation):
  exif = Image.Exif()
  exif[0x0112] = orientation
  data = encode(SMOOTH, "TIFF", exif=exif, compression="tiff_lzw")
  np.testing.assert_array_equal(stored(data, orient=False), SMOOTH)
  np.testing.assert_array_equal(stored(data), np.asarray(Image.open(io.BytesIO(data))))


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


def test_a_file_that_is_replaced_while_it_is_open(tmp_path, monkeypatch):
  """The pages of the one are not taken for those of the other."""
  path, other, opened = tmp_path / "a.tif", tmp_path / "b.tif", tiff_files._open
  for name, count in (path, 3), (other, 9):
    name.write_bytes(tiff(RNG.integers(0, 9, (count, 5, 7), np.uint8), photometric="minisblack"))

  def open_and_replace(data):
    tif = opened(data)
    other.replace(path)
    return tif

  with monkeypatch.context() as patch:
    patch.setattr(tiff_files, "_open", open_and_replace)
    assert num_pages(path) == 3
  assert num_pages(path) == 9


def test_a_changed_file_is_listed_anew(tmp_path):
  path = tmp_path / "a.tif"
  path.write_bytes(tiff(RNG.integers(0, 9, (3, 5, 7), np.uint8), photometric="minisblack"))
  assert num_pages(path) == 3
  path.write_bytes(tiff(RNG.integers(0, 9, (2, 5, 7), np.uint8), photometric="minisblack"))
  assert num_pages(path) == 2


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


def test_planes_in_another_order_than_in_the_file():
  """As OME metadata may declare them."""
  planes = RNG.integers(0, 256, (2, 5, 7), np.uint8)
  order = "".join(f'<TiffData FirstC="{1 - i}" IFD="{i}" PlaneCount="1"/>' for i in (0, 1))
  text = (
    '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
    '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="7" '
    'SizeY="5" SizeC="2" SizeZ="1" SizeT="1"><Channel ID="Channel:0:0" SamplesPerPixel="1"/>'
    f'<Channel ID="Channel:0:1" SamplesPerPixel="1"/>{order}</Pixels></Image></OME>'
  )
  file = io.BytesIO()
  with tifffile.TiffWriter(file) as writer:
    for i, plane in enumerate(planes):
      writer.write(plane, photometric="minisblack", metadata=None, description="" if i else text)
  found = stored(file.getvalue())
  np.testing.assert_array_equal(found, np.moveaxis(planes[::-1], 0, -1))
  lost = file.getvalue().replace(b'FirstC="1" IFD="0"', b'FirstC="0" IFD="0"')
  assert "its OME metadata have a plane that is not in the file" in error_of(stored, lost)
  single = tiff(planes[0], photometric="minisblack", metadata=None, description=text)
  found = read_raster(single, "x")  # one page of two, as split by another program
  np.testing.assert_array_equal(found.samples, planes[0, ..., None])
  assert found.header.notes == ("its OME metadata declare 2 planes, of which 1 is read",)


def test_pages_of_bytes_are_named(tmp_path):
  """As of a data set, whose records say nothing of pages; those of a file are counted before."""
  pages = tiff(RNG.integers(0, 256, (3, 5, 7), np.uint8), photometric="minisblack")
  assert read_raster(pages, "x").header.notes == ("3 pages, of which only the first is read",)
  (tmp_path / "a.tif").write_bytes(pages)
  assert read_raster(tmp_path / "a.tif", "x").header.notes == ()
  assert read_raster(pages, "x", page=1).header.notes == ()


def test_an_imagej_stack_is_read_plane_by_plane(monkeypatch):
  """All planes lie behind one page, as in stacks of more than 4 GB."""
  planes = RNG.integers(0, 60000, (6, 5, 7), dtype=np.uint16)
  file = io.BytesIO()
  text = "ImageJ=1.11a\nimages=6\nslices=6\n"
  with tifffile.TiffWriter(file, byteorder=">") as writer:
    writer.write(planes[0], photometric="minisblack", metadata=None, description=text)
  data = file.getvalue() + planes[1:].astype(">u2").tobytes()
  series = tifffile.tifffile.TiffPageSeries
  monkeypatch.setattr(series, "asarray", lambda *_, **__: pytest.fail("reads the whole stack"))
  for page, expected in enumerate(planes):
    np.testing.assert_array_equal(stored(data, page=page)[..., 0], expected)
  assert "there is no page 6" in error_of(stored, data[:-1], page=5)  # it is cut


def test_a_colour_map_of_8_bits():
  """Some writers store 0 to 255 where the standard has 16 bits."""
  array = RNG.integers(0, 4, (5, 7), np.uint8)
  colors = np.zeros((3, 256), np.uint16)
  colors[:, :4] = [[0, 200, 0, 9], [0, 0, 150, 8], [0, 0, 0, 7]]
  for shift in (0, 8):
    found = read_raster(tiff(array, photometric="palette", colormap=colors << shift), "x")
    np.testing.assert_array_equal(found.palette[:4], colors[:, :4].T)
