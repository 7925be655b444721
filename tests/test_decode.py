"""Stored samples -> images of any number of channels and depth, and errors that name the file."""

import dataclasses
import json

import imagecodecs
import numpy as np
import pytest
from encoders import encode, tiff
from PIL import Image
from tiny import error_of

from jaxseg import ops
from jaxseg.data.decode import (
  DatasetInfo,
  ImageFormat,
  check_format,
  decode_image,
  to_picture,
)

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
GREY = RGB[..., 0]
ALPHA = np.linspace(0, 255, 35).astype(np.uint8).reshape(5, 7)
LUMA = np.array([0.299, 0.587, 0.114])  # grey of a colour, ITU-R 601-2
DEEP = RNG.integers(0, 65536, (5, 7, 3), dtype=np.uint16)
BANDS = RNG.integers(0, 65536, (5, 7, 12), dtype=np.uint16)


def decode(data, channels=3, notes=None, **options):
  return decode_image(data, "x.png", ImageFormat(channels, **options), notes=notes)


def palette_image():
  """Labels 0..3 as indices of a palette in which no colour is the index."""
  image = Image.fromarray((np.arange(35) % 4).astype(np.uint8).reshape(5, 7))
  image.putpalette([9, 99, 200, 70, 60, 50, 255, 1, 2, 40, 200, 90] + [0] * 756)
  return image


def three(grey):
  return np.repeat(grey[..., None], 3, axis=-1)


IMAGES = {
  "RGB": (encode(RGB), RGB),
  "L": (encode(GREY), three(GREY)),
  "LA": (encode(Image.fromarray(np.dstack([GREY, ALPHA]))), three(GREY)),
  "RGBA": (encode(np.dstack([RGB, ALPHA])), RGB),
  "P": (encode(palette_image()), np.asarray(palette_image().convert("RGB"))),
  "1": (encode(Image.fromarray(GREY > 99)), three(np.where(GREY > 99, 255, 0))),
  "BMP": (encode(RGB, "BMP"), RGB),
  "TIFF": (encode(RGB, "TIFF"), RGB),
  "min is white": (tiff(GREY, photometric="miniswhite"), three(255 - GREY)),
  "white of 16 bits": (tiff(DEEP[..., 0], photometric="miniswhite"), three(65535 - DEEP[..., 0])),
  "deep": (tiff(DEEP, photometric="rgb"), DEEP),
  "deep planes": (tiff(np.moveaxis(DEEP, -1, 0), photometric="rgb", planarconfig=2), DEEP),
  "deep png": (imagecodecs.png_encode(DEEP), DEEP),
  "deep grey": (encode(DEEP[..., 0]), three(DEEP[..., 0])),
  "int32": (encode(DEEP[..., 0].astype(np.int32), "TIFF"), three(DEEP[..., 0])),
}


@pytest.mark.parametrize("name", IMAGES)
def test_lossless_images(name):
  data, expected = IMAGES[name]
  colour = decode(data)
  assert colour.dtype == (np.uint16 if expected.max() > 255 else np.uint8)
  np.testing.assert_array_equal(colour, expected)
  grey = decode(data, 1)
  assert (grey.shape, grey.dtype) == ((5, 7, 1), colour.dtype)
  np.testing.assert_allclose(grey[..., 0], expected @ LUMA, atol=1)


def test_grey_of_colours_is_pillows():
  expected = np.asarray(Image.fromarray(RGB).convert("L"))
  np.testing.assert_array_equal(decode(encode(RGB), 1)[..., 0], expected)
  wide = tiff(RGB.astype(np.uint16) * 257, photometric="rgb")
  np.testing.assert_allclose(decode(wide, 1)[..., 0] / 257, expected, atol=0.51)
  floats = tiff(RGB.astype(np.float32), photometric="rgb")
  found = decode(floats, 1, value_range=(0, 255))
  np.testing.assert_allclose(found[..., 0], RGB @ LUMA, rtol=1e-4)


@pytest.mark.parametrize("bits", [1, 2, 4, 12])
def test_few_bits_reach_the_full_range(bits):
  """A white of 15 is white; with a value_range, the stored values count."""
  array = (np.arange(35) % (1 << bits)).astype(np.uint16 if bits > 8 else np.uint8).reshape(5, 7)
  array[0, 0] = full = (1 << bits) - 1
  data = tiff(array, bitspersample=bits) if bits > 8 else tiff(array * 1, bitspersample=8)
  if bits == 12:
    data = imagecodecs.jpeg2k_encode(array, level=0, bitspersample=12)
  elif bits < 8:
    data = b"P5 7 5 %d\n" % full + array.tobytes()
  top = 65535 if bits > 8 else 255
  np.testing.assert_array_equal(decode(data, 1)[..., 0], np.round(array * (top / full)))
  np.testing.assert_array_equal(decode(data, 1, value_range=(0, full))[..., 0], array)


@pytest.mark.parametrize("full", [1000, 65535])
def test_deep_portable_grey_maps(full):
  array = np.linspace(0, full, 35).astype(np.uint16).reshape(5, 7)
  found = decode(b"P5 7 5 %d\n" % full + array.astype(">u2").tobytes(), 1)
  assert found.dtype == np.uint16
  np.testing.assert_array_equal(found[..., 0], np.round(array * (65535 / full)))


def test_any_number_of_channels():
  twelve = tiff(BANDS, photometric="minisblack", planarconfig="contig")
  np.testing.assert_array_equal(decode(twelve, 12), BANDS)
  np.testing.assert_array_equal(decode(twelve, 3, bands=(3, 2, 1)), BANDS[..., [3, 2, 1]])
  np.testing.assert_array_equal(decode(twelve, 1, bands=(11,)), BANDS[..., 11:])
  rgbx = tiff(BANDS[..., :4], photometric="rgb", extrasamples=["unspecified"])
  np.testing.assert_array_equal(decode(rgbx, 4), BANDS[..., :4])
  rgba = encode(np.dstack([RGB, ALPHA]))
  np.testing.assert_array_equal(decode(rgba, 4), np.dstack([RGB, ALPHA]))
  cmyk = Image.fromarray(RGB).convert("CMYK")
  np.testing.assert_array_equal(decode(encode(cmyk, "TIFF"), 4), np.asarray(cmyk))


@pytest.mark.parametrize(
  "data, channels, note",
  [
    (tiff(BANDS, photometric="minisblack", planarconfig="contig"), 3, "3 of 12 bands are used"),
    (tiff(BANDS, photometric="minisblack", planarconfig="contig"), 1, "1 of 12 bands are used"),
    (tiff(BANDS, photometric="minisblack", planarconfig="contig"), 4, "4 of 12 bands are used"),
    (tiff(BANDS[..., :4], photometric="rgb", extrasamples=[0]), 3,
     "3 of 4 bands are used: set `channels`=4"),
    (tiff(BANDS[..., :4], photometric="rgb", extrasamples=[0]), 1, "3 of 4 bands are used"),
    (encode(np.dstack([RGB, ALPHA])), 3, "transparency (alpha) is not used"),
    (encode(Image.fromarray(np.dstack([GREY, ALPHA]))), 1, "transparency (alpha) is not used"),
    (encode(RGB, transparency=(0, 0, 0)), 3, "transparency (alpha) is not used"),
    (encode(Image.fromarray(GREY).convert("P"), "GIF", transparency=int(GREY[0, 0])), 3,
     "transparency (alpha) is not used"),
    (encode(RGB), 2, "2 of 3 bands are used: set `channels`=3"),
    (encode(palette_image(), transparency=b"\xff\0"), 3, "transparency (alpha) is not used"),
  ],
)  # fmt: skip
def test_what_is_not_used_is_named(data, channels, note):
  notes = []
  assert decode(data, channels, notes).shape == (5, 7, channels)
  assert len(notes) == 1 and notes[0].startswith(note)


def test_nothing_is_noted_where_all_is_used():
  for data, channels in ((encode(RGB), 3), (encode(RGB), 1), (encode(GREY), 3),
                         (encode(np.dstack([RGB, ALPHA])), 4),
                         (encode(palette_image(), transparency=b"\xff\xff"), 3)):  # fmt: skip
    notes = []
    decode(data, channels, notes)
    assert notes == []


@pytest.mark.parametrize("channels, options, words", [
  (4, {}, "x.png: has 3 bands, but `channels` is 4: set `channels`=3"),
  (1, {"bands": (3,)}, "x.png: has 3 bands, but `bands` is (3,): use 0 to 2"),
])  # fmt: skip
def test_too_few_bands(channels, options, words):
  assert words in error_of(decode, encode(RGB), channels, **options)


def network(image, **options):
  return np.asarray(ops.normalize(image, **options))


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "i1", "i2", "i8", "f2", "f4", "f8"])
@pytest.mark.parametrize("channels", [1, 3])
def test_value_range(dtype, channels):
  stored = np.array([[0, 50, 100, 101, 125]]).astype(dtype)
  image = decode(tiff(stored), channels, value_range=(50, 110))
  assert image.dtype == {"u1": "u1", "u2": "u2"}.get(dtype, "f4")
  expected = [0, 0, 50 / 60, 51 / 60, 1]
  found = network(image, value_range=(50, 110))
  np.testing.assert_allclose(found, np.repeat(np.array([expected])[..., None], channels, -1),
                             atol=1e-6)  # fmt: skip


def test_a_range_for_each_channel():
  image = np.array([[[0, 10, 5000]], [[5, 20, 6000]]], np.uint16)
  pairs = ((0, 10), (0, 20), (4000, 6000))
  found = network(image, value_range=pairs)
  np.testing.assert_allclose(found, [[[0, 0.5, 0.5]], [[0.5, 1, 1]]], atol=1e-6)
  found = network(image, value_range=((5, 6), (20, 30), (5000, 6000)), clip=False)
  np.testing.assert_allclose(found, [[[-5, -1, 0]], [[0, 0, 1]]], atol=1e-6)


def test_the_full_range():
  for dtype, top in (("uint8", 255), ("uint16", 65535)):
    values = np.array([0, 1, top], dtype)
    np.testing.assert_allclose(network(values), [0, 1 / top, 1], rtol=1e-6)
  floats = np.array([0, 0.25, 1], np.float32)
  np.testing.assert_array_equal(network(floats), floats)


def test_extremes_and_no_data():
  stored = np.array([[-np.inf, np.nan, -1e30, -7, 0, 1, 1e30, np.inf]], np.float32)
  notes = []
  image = decode(tiff(stored), 1, notes, value_range=(-7, 1))
  assert np.isfinite(image).all() and notes == ["pixels of no data are filled with black"]
  found = network(image[0, :, 0], value_range=(-7, 1))
  np.testing.assert_allclose(found, [0, 0, 0, 0, 7 / 8, 1, 1, 1], atol=1e-6)
  declared = [(42113, 2, 0, "-9999", True)]
  image = decode(tiff(np.float32([[-9999, 300]]), extratags=declared), 1, value_range=(200, 400))
  np.testing.assert_array_equal(image.ravel(), [200, 300])
  declared = [(42113, 2, 0, "7", True)]
  for value_range, black in (((), 0), ((3, 9), 3)):
    data = tiff(np.uint16([[7, 300]]), extratags=declared)
    image = decode(data, 1, value_range=value_range)
    np.testing.assert_array_equal(image.ravel(), [black, 300])
  pairs = ((1, 2), (3, 4), (5, 6))
  image = decode(tiff(np.full((1, 2, 3), np.nan, np.float32), photometric="rgb"),
                 value_range=pairs)  # fmt: skip
  np.testing.assert_array_equal(image[0, 0], [1, 3, 5])


@pytest.mark.parametrize("stored", [[[0.0, 0.5]], [[-1, 5]], [[0, 65536]]])
def test_values_that_need_a_range(stored):
  array = np.array(stored, np.float32 if stored[0][1] == 0.5 else np.int32)
  message = error_of(decode, tiff(array), 1)
  assert message.startswith("x.png: ") and "`value_range`" in message
  assert str(array.max()) in message
  for value_range in ((0, 1), (-1, 70000)):  # the remedy
    assert decode(tiff(array), 1, value_range=value_range).dtype == np.float32


def test_large_numbers_are_rounded_by_name():
  notes = []
  decode(tiff(np.array([[0, (1 << 24) + 1]], np.uint32)), 1, notes, value_range=(0, 1 << 25))
  assert notes == ["uint32 values beyond 16,777,216 are rounded to float32"]
  notes = []
  found = decode(tiff(np.array([[0, 1e300, -1e300, np.inf]])), 1, notes, value_range=(0, 8))
  assert found.ravel().tolist() == [0, 8, 0, 8]
  assert notes == ["values beyond the range of float32 become black or white"]


def test_the_type_of_a_data_set():
  eight, sixteen = encode(RGB), tiff(DEEP, photometric="rgb")
  np.testing.assert_array_equal(decode(eight, dtype="uint16"), RGB.astype(np.uint16) * 257)
  np.testing.assert_array_equal(decode(eight, dtype="uint16", value_range=(0, 9)), RGB)
  np.testing.assert_allclose(decode(sixteen, dtype="float32"), DEEP / 65535, rtol=1e-6)
  np.testing.assert_array_equal(decode(sixteen, dtype="float32", value_range=(0, 9)), DEEP)
  message = error_of(decode, sixteen, dtype="uint8")
  assert message.startswith("x.png: has uint16 values") and "`dtype`=uint16" in message
  message = error_of(decode, tiff(np.float32(GREY)), 1, dtype="uint16", value_range=(0, 9))
  assert "`dtype`=float32" in message


def test_no_data_are_as_dark_as_the_type_allows():
  """Black below the range of the type: 0, and not what wraps around to white."""
  data = tiff(np.uint8([[0, 5], [7, 9]]), extratags=[(42113, 2, 0, "5", True)])
  image = decode(data, 1, value_range=(-10, 20))
  np.testing.assert_array_equal(image[..., 0], [[0, 0], [7, 9]])
  image = decode(data, 1, value_range=(300, 400))
  np.testing.assert_array_equal(image[..., 0], [[0, 255], [7, 9]])


def test_no_data_are_not_in_the_range_that_a_message_names():
  declared = [(42113, 2, 0, "-9999", True)]
  for dtype in (np.float32, np.int32):
    data = tiff(np.array([[-9999, 3], [-5, 70]], dtype), extratags=declared)
    assert "values from -5 to 70" in error_of(decode, data, 1)


@pytest.mark.parametrize("dtype", [np.uint32, np.float32, np.int16])
def test_white_at_0_needs_a_type_with_a_full_range(dtype):
  data = tiff(np.array([[0, 5]], dtype), photometric="miniswhite")
  assert "0 is black" in error_of(decode, data, 1, value_range=(0, 99))


def test_colours_that_nobody_converts():
  """tifffile gives luma and chroma as they are stored; JPEG alone is converted."""
  data = tiff(RGB, photometric="ycbcr", subsampling=(1, 1))
  assert "YCBCR are not converted" in error_of(decode, data)
  assert "CIELAB are not converted" in error_of(decode, tiff(RGB, photometric="cielab"))
  notes = []
  decode(encode(Image.fromarray(RGB).convert("CMYK"), "TIFF"), 4, notes)
  assert notes == ["the four inks of CMYK are the channels"]


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg(mode):
  y, x = np.mgrid[:48, :64]
  smooth = np.stack([4 * x, 5 * y, 2 * x + 2 * y], -1).astype(np.uint8)
  data = encode(Image.fromarray(smooth).convert(mode), "JPEG", quality=95, subsampling=0)
  luma = smooth @ LUMA
  expected = three(luma) if mode == "L" else smooth.astype(float)
  # A file that is read as the negative of its colours would be 100 off.
  assert np.abs(decode(data) - expected).mean() < 4
  assert np.abs(decode(data, 1)[..., 0] - luma).mean() < 4


def test_inks_of_16_bits():
  """(1 - ink) (1 - black), as in 8 bits."""
  inks = np.array([[[0, 0, 0, 0], [65535, 0, 0, 0], [0, 0, 0, 65535]]], np.uint16)
  found = decode(tiff(inks, photometric="separated"))
  np.testing.assert_array_equal(found, [[[65535] * 3, [0, 65535, 65535], [0] * 3]])


def test_image_from_a_path(tmp_path):
  (tmp_path / "a.png").write_bytes(encode(RGB))
  np.testing.assert_array_equal(decode(tmp_path / "a.png"), RGB)
  assert "x.png" in error_of(decode, tmp_path / "b.png")


INFO = DatasetInfo(("a", "b"), ((0, 0, 0), (9, 9, 9)), 3)


def test_info_that_was_json():
  """As checkpoints store it, and process 0 sends it to the others."""
  info = dataclasses.replace(INFO, value_range=((0, 1), (2, 3), (4, 5)), bands=(2, 1, 0))
  assert DatasetInfo(**json.loads(json.dumps(dataclasses.asdict(info)))) == info


def test_pictures():
  assert to_picture(RGB, INFO) is RGB
  picture = to_picture(DEEP, dataclasses.replace(INFO, dtype="uint16"))
  np.testing.assert_allclose(picture, DEEP / 257, atol=0.501)
  pairs = tuple((100.0 * i, 100.0 * i + 5100) for i in range(12))
  info = dataclasses.replace(INFO, channels=12, value_range=pairs, dtype="uint16")
  chosen = dataclasses.replace(info, display_bands=(7, 0, 11))
  for bands, one in (((0, 1, 2), info), ((7, 0, 11), chosen)):
    values = np.stack([np.clip((BANDS[..., i] - 100.0 * i) / 20, 0, 255) for i in bands], -1)
    np.testing.assert_allclose(to_picture(BANDS, one), values, atol=0.501)
  two = dataclasses.replace(INFO, channels=2)
  np.testing.assert_array_equal(to_picture(RGB[..., :2], two), RGB[..., :1])
  # Standardised: the mean is grey, two deviations are black and white.
  info = dataclasses.replace(INFO, channels=1, value_range=((10.0, 14.0),), clip=False)
  picture = to_picture(np.float32([[[2]], [[10]], [[18]], [[99]]]), info)
  assert picture.ravel().tolist() == [0, 128, 255, 255]


@pytest.mark.parametrize("channels, value_range, bands, display, word", [
  (0, (), (), (), "`channels`"),
  (3, (1,), (), (), "`value_range`"),
  (3, (5, 5), (), (), "`value_range`"),
  (3, ("a", "b"), (), (), "`value_range`"),
  (3, ((0, 1), (0, 1)), (), (), "2 pairs: give one for each of 3 channels"),
  (3, ((0, 255),), (), (), "1 pairs: give one for each of 3 channels"),
  (3, ((0, 1), 2, 3), (), (), "`value_range`"),
  (3, ((0, 1), (0, 1), None), (), (), "`value_range`"),
  (1, ((0, 10**400),), (), (), "`value_range`"),
  (1, ((0, float("inf")),), (), (), "`value_range`"),
  (1, (float("nan"), 1), (), (), "`value_range`"),
  (1, (1e-60, 2e-60), (), (), "`value_range`"),
  (1, (-1.7e308, 1.7e308), (), (), "`value_range`"),
  (1, (1e9, 1e9 + 1), (), (), "`value_range`"),  # the same in float32
  (1, (False, True), (), (), "`value_range`"),
  (2, ((0, 1), (2, 1)), (), (), "`value_range`"),
  (3, (), (0, 1), (), "`bands`"),
  (1, (), (-1,), (), "`bands`"),
  (3, (), (), (0, 1), "`display_bands`"),
  (3, (), (), (0, 1, 3), "`display_bands`"),
])  # fmt: skip
def test_formats_that_contradict_themselves(channels, value_range, bands, display, word):
  assert word in error_of(check_format, channels, value_range, bands, display)
  check_format(2, ((0, 1), (1, 2.5)), (4, 0), (1,))
