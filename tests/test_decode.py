"""Decoding of every kind of file, and errors that name it."""

import io
import pickle
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image
from tiny import error_of

from jaxseg import UserError
from jaxseg.data.decode import decode_image, resize_image
from jaxseg.data.encoded import Encoded
from jaxseg.data.files import describe_file, num_pages
from jaxseg.data.labels import LabelMap

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
GREY = RGB[..., 0]
ALPHA = np.linspace(0, 255, 35).astype(np.uint8).reshape(5, 7)
LUMA = np.array([0.299, 0.587, 0.114])  # grey of a colour, ITU-R 601-2


def encode(image, kind="PNG", **options):
  buffer = io.BytesIO()
  image = image if isinstance(image, Image.Image) else Image.fromarray(image)
  image.save(buffer, kind, **options)
  return buffer.getvalue()


def palette_image():
  """Labels 0..3 as indices of a palette in which no colour is the index."""
  labels = (np.arange(35) % 4).astype(np.uint8).reshape(5, 7)
  image = Image.fromarray(labels)
  image.putpalette([200, 10, 30, 40, 250, 60, 70, 80, 9, 100, 110, 120])
  return image, labels


def palette_colours():
  image, labels = palette_image()
  return np.array(image.getpalette()[:12], np.uint8).reshape(4, 3)[labels]


def png(array, *, bits, colour, size=None):
  """A PNG of a kind that Pillow does not write; colour: 2 RGB, 4 grey and alpha."""

  def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

  width, height = size or array.shape[1::-1]
  rows = b"".join(b"\0" + row.astype(f">u{bits // 8}").tobytes() for row in array)
  header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
  chunks = (b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
  return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in chunks)


def tiff_of_planes(rgb):
  """A TIFF that holds red, green and blue, u16[H,W,3], one after the other."""
  size, (height, width) = rgb[..., 0].size * 2, rgb.shape[:2]
  values = {256: [width], 257: [height], 258: [16] * 3, 259: [1], 262: [2], 277: [3], 284: [2],
            273: [200 + size * i for i in range(3)], 278: [height], 279: [size] * 3}  # fmt: skip
  entries, extra = b"", b""
  for tag, numbers in sorted(values.items()):
    packed = struct.pack(f"<{len(numbers)}H", *numbers)
    if len(packed) > 4:
      extra, packed = extra + packed, struct.pack("<I", 150 + len(extra))
    entries += struct.pack("<HHI", tag, 3, len(numbers)) + packed.ljust(4, b"\0")
  head = struct.pack("<2sHIH", b"II", 42, 8, len(values)) + entries
  planes = np.moveaxis(rgb, -1, 0).astype("<u2").tobytes()
  return (head.ljust(150, b"\0") + extra).ljust(200, b"\0") + planes


def pages(*arrays, **options):
  first, *rest = [Image.fromarray(array) for array in arrays]
  return encode(first, "TIFF", save_all=True, append_images=rest, **options)


def three(grey):
  return np.repeat(grey[..., None], 3, axis=-1)


IMAGES = {
  "RGB": (encode(RGB), RGB),
  "L": (encode(GREY), three(GREY)),
  "LA": (encode(Image.fromarray(np.dstack([GREY, ALPHA]))), three(GREY)),
  "RGBA": (encode(np.dstack([RGB, ALPHA])), RGB),
  "P": (encode(palette_image()[0]), palette_colours()),
  "1": (encode(Image.fromarray(GREY > 99)), three(np.where(GREY > 99, 255, 0))),
  # 16 bits: the high byte counts. The low one is not 0, so that scaling from 65535 shows.
  "I;16": (encode((GREY.astype(np.uint16) << 8) + 77), three(GREY)),
  "I;16B": (
    encode(Image.frombytes("I;16B", (7, 5), (GREY * 256.0 + 77).astype(">u2").tobytes()), "TIFF"),
    three(GREY),
  ),
  "I": (encode((GREY.astype(np.int32) << 8) + 77, "TIFF"), three(GREY)),
  "BMP": (encode(RGB, "BMP"), RGB),
  "TIFF": (encode(RGB, "TIFF"), RGB),
}


@pytest.mark.parametrize("mode", IMAGES)
def test_lossless_images(mode):
  data, expected = IMAGES[mode]
  assert Image.open(io.BytesIO(data)).mode == (mode if mode not in ("BMP", "TIFF") else "RGB")
  colour = decode_image(data, "x.png", 3)
  assert (colour.shape, colour.dtype) == ((5, 7, 3), np.uint8)
  np.testing.assert_array_equal(colour, expected)
  grey = decode_image(data, "x.png", 1)
  assert (grey.shape, grey.dtype) == ((5, 7, 1), np.uint8)
  luma = expected @ LUMA
  np.testing.assert_allclose(grey[..., 0], luma, atol=1)


STEPS = np.array([[0, 50, 100, 101, 200, 300]])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
@pytest.mark.parametrize("channels", [1, 3])
def test_value_range(dtype, channels):
  stored = np.minimum(STEPS, 255).astype(dtype)
  image = decode_image(encode(stored, "TIFF"), "x", channels, value_range=(50, 200))
  # (v - 50) * 255 / 150, clipped
  np.testing.assert_array_equal(
    image, np.repeat([[[0], [0], [85], [87], [255], [255]]], channels, -1)
  )
  assert image.dtype == np.uint8


def test_value_range_of_colours_and_of_extremes():
  image = decode_image(encode(RGB), "x", 3, value_range=(50, 200))
  np.testing.assert_allclose(image, np.clip((RGB - 50.0) * 255 / 150, 0, 255), atol=0.5001)
  stored = np.array([[-np.inf, np.nan, -1e30, -7, 0, 1, 1e30, np.inf]], np.float32)
  image = decode_image(encode(stored, "TIFF"), "x", 1, value_range=(-7, 1))
  np.testing.assert_array_equal(image[0, :, 0], [0, 0, 0, 0, 223, 255, 255, 255])


@pytest.mark.parametrize("stored", [[[0.0, 0.5]], [[-1, 5]], [[0, 65536]]])
def test_values_that_need_a_range(stored):
  array = np.array(stored, np.float32 if stored[0][1] == 0.5 else np.int32)
  message = error_of(decode_image, encode(array, "TIFF"), "a.tif", 1)
  assert message.startswith("a.tif: ") and "`value_range`" in message
  assert str(array.max()) in message


DEEP = (RGB.astype(np.uint16) << 8) + 77


def test_colours_of_16_bits():
  """Pillow keeps the high bytes, which is right for full-range images and for nothing else."""
  data = png(DEEP, bits=16, colour=2)
  np.testing.assert_array_equal(decode_image(data, "x.png", 3), RGB)
  assert "16 bits" in error_of(decode_image, data, "x.png", 3, value_range=(0, 4095))
  with Image.open(io.BytesIO(tiff_of_planes(DEEP))) as image:
    assert image.mode == "RGB"  # so Pillow claims; its pixels are bytes of red
  assert "cannot be decoded" in error_of(decode_image, tiff_of_planes(DEEP), "x.tif", 3)


@pytest.mark.parametrize("options", [{}, {"compression": "tiff_deflate"}])
def test_pages(tmp_path, options):
  volume = np.random.default_rng(2).integers(0, 60000, (3, 5, 7), dtype=np.uint16)
  (tmp_path / "v.TIF").write_bytes(pages(*volume, **options))
  (tmp_path / "a.gif").write_bytes(encode(GREY, "GIF", save_all=True, append_images=[
    Image.fromarray(GREY.T)]))  # fmt: skip
  assert num_pages(tmp_path / "v.TIF") == 3
  assert num_pages(tmp_path / "a.gif") == 1  # only volumes have pages
  (tmp_path / "jpeg.tif").write_bytes(encode(RGB, "JPEG"))
  assert num_pages(tmp_path / "jpeg.tif") == 1
  for page, slice_ in enumerate(volume):
    for data in (tmp_path / "v.TIF", pages(*volume, **options)):
      image = decode_image(data, "v", 1, page=page)
      np.testing.assert_array_equal(image[..., 0], slice_ >> 8)
  assert error_of(decode_image, tmp_path / "v.TIF", "v.tif", 1, page=3).startswith("v.tif: ")
  (tmp_path / "bad.tif").write_bytes(b"II*\0")
  assert "bad.tif: cannot be decoded" in error_of(num_pages, tmp_path / "bad.tif")


def test_large_pictures_and_sizes_that_cannot_be(tmp_path):
  Image.new("1", (20000, 20000)).save(tmp_path / "slide.tif", compression="group4")
  with warnings.catch_warnings(action="error"):
    assert num_pages(tmp_path / "slide.tif") == 1  # opening is where Pillow checks the size
  message = error_of(decode_image, png(RGB, bits=8, colour=2, size=(70000, 70000)), "x.png", 3)
  assert message.startswith("x.png: ") and "exceeds limit" in message


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg(mode):
  y, x = np.mgrid[:48, :64]
  smooth = np.stack([4 * x, 5 * y, 2 * x + 2 * y], -1).astype(np.uint8)
  data = encode(Image.fromarray(smooth).convert(mode), "JPEG", quality=95, subsampling=0)
  assert Image.open(io.BytesIO(data)).mode == mode
  luma = smooth @ LUMA
  expected = three(luma) if mode == "L" else smooth.astype(float)
  # A file that is read as the negative of its colours would be 100 off.
  assert np.abs(decode_image(data, "x.jpg", 3) - expected).mean() < 4
  assert np.abs(decode_image(data, "x.jpg", 1)[..., 0] - luma).mean() < 4


def test_image_from_a_path(tmp_path):
  (tmp_path / "a.png").write_bytes(encode(RGB))
  np.testing.assert_array_equal(decode_image(tmp_path / "a.png", "a.png", 3), RGB)
  assert "b.png" in error_of(decode_image, tmp_path / "b.png", "b.png", 3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
def test_damaged_images_name_the_file(kind):
  data = encode(RGB, kind)
  for end in (0, 1, 10, len(data) // 2):
    message = error_of(decode_image, data[:end], f"pets/a.{kind}", 3)
    assert message.startswith(f"pets/a.{kind}: cannot be decoded")


def test_what_is_no_image_names_the_file():
  for data in (b"", b"no image at all", b"<html>404</html>", bytes(1000)):
    assert error_of(decode_image, data, "b.jpg", 3) == (
      "b.jpg: cannot be decoded (not an image that Pillow reads)"
    )


def test_bytes_that_flipped_never_show_a_traceback():
  rng = np.random.default_rng(1)
  for kind in ("PNG", "JPEG", "GIF"):
    data = np.frombuffer(encode(RGB, kind), np.uint8)
    failed = 0
    for _ in range(150):
      damaged = data.copy()
      damaged[rng.integers(len(data), size=3)] = rng.integers(256, size=3)
      try:
        decode_image(damaged.tobytes(), "a.png", 3)
      except UserError as error:
        assert str(error).startswith("a.png: ")
        failed += 1
    assert failed > 20


@pytest.mark.parametrize(
  "array, mode, file_format, options, expected",
  [
    (RGB, "RGB", "PNG", {}, "PNG RGB 8 bit"),
    (RGB, "RGBA", "PNG", {}, "PNG RGBA 8 bit"),
    (RGB, "L", "JPEG", {}, "JPEG grey 8 bit"),
    (RGB, "CMYK", "JPEG", {}, "JPEG CMYK 8 bit"),
    (RGB, "P", "BMP", {}, "BMP palette 8 bit"),
    (RGB, "1", "PNG", {}, "PNG grey 1 bit"),
    (RGB, "1", "TIFF", {}, "TIFF grey 1 bit"),
    (RGB[..., 0].astype(np.uint16), None, "PNG", {}, "PNG grey 16 bit"),
    (RGB[..., 0].astype(np.uint16), None, "TIFF", {"compression": "tiff_lzw"}, "TIFF grey 16 bit"),
    (RGB[..., 0].astype(np.int32), None, "TIFF", {}, "TIFF grey 32 bit"),
    (RGB[..., 0].astype(np.float32), None, "TIFF", {}, "TIFF grey 32 bit"),
  ],
)
def test_description_of_a_file(tmp_path, array, mode, file_format, options, expected):
  picture = Image.fromarray(array)
  picture = picture.convert(mode) if mode else picture
  picture.save(tmp_path / "x", file_format, **options)
  assert describe_file(tmp_path / "x", "x") == expected
  assert describe_file((tmp_path / "x").read_bytes(), "x") == expected


def test_description_of_16_bit_colours_and_of_damage():
  rows = np.zeros((2, 3), np.uint16)
  assert describe_file(png(rows, bits=16, colour=0), "x") == "PNG grey 16 bit"
  deep = png(np.zeros((2, 9), np.uint16), bits=16, colour=2)
  assert describe_file(deep, "x") == "PNG RGB 16 bit"
  assert error_of(describe_file, b"no image", "x.png").startswith("x.png: cannot be decoded")


def test_image_and_mask_of_different_sizes():
  records = [
    {"image": encode(RGB), "mask": encode(np.zeros(shape, np.uint8)), "name": "a.jpg"}
    for shape in ((5, 7), (6, 9))
  ]
  source = Encoded(records, 3, LabelMap({0: 0}))
  example = source[0]
  assert set(example) == {"image", "mask", "name"} and example["name"] == "a.jpg"
  np.testing.assert_array_equal(example["image"], RGB)
  message = error_of(source.__getitem__, 1)
  assert "a.jpg" in message and "7x5" in message and "9x6" in message  # width x height


def test_damage_of_image_or_mask_is_told_apart():
  good = {"image": encode(RGB), "mask": encode(np.zeros((5, 7), np.uint8)), "name": "a.jpg"}
  records = [{**good, "image": b""}, {**good, "mask": b""}]
  source = Encoded(records, 3, LabelMap({0: 0}))
  assert error_of(source.__getitem__, 0).startswith("a.jpg: ")
  assert error_of(source.__getitem__, 1).startswith("mask of a.jpg: ")


def test_records_of_pages():
  volume = np.random.default_rng(3).integers(0, 4096, (2, 5, 7), dtype=np.uint16)
  image, mask = pages(*volume), pages(*(volume % 2).astype(np.uint8))
  records = [
    {"image": image, "mask": mask, "page": page, "name": f"v {page}", "where": f"dir/v {page}"}
    for page in range(3)
  ]
  source = pickle.loads(pickle.dumps(Encoded(records, 1, LabelMap({0: 0, 1: 1}), (0, 4095))))
  for page in range(2):
    example = source[page]
    assert example["name"] == f"v {page}"
    np.testing.assert_allclose(example["image"][..., 0], volume[page] / 4095 * 255, atol=0.501)
    np.testing.assert_array_equal(example["mask"], volume[page] % 2)
  assert error_of(source.__getitem__, 2).startswith("dir/v 2: ")


@pytest.mark.parametrize("channels", [1, 3])
def test_resize_image(channels):
  image = RGB[..., :channels]
  # Areas of 2x2 equal pixels: enlarging four times and shrinking four times gives it back.
  large = np.kron(image, np.ones((4, 4, 1), np.uint8))
  square = np.pad(large, ((0, 8), (0, 0), (0, 0)), mode="edge")
  small = resize_image(square, 14)
  assert (small.shape, small.dtype) == ((14, 14, channels), np.uint8)
  assert resize_image(small, 14) is small
  # Antialiased: every pixel of a fine checkerboard counts, so that grey is left.
  board = np.indices((64, 64)).sum(0).astype(np.uint8) % 2 * 255
  board = np.repeat(board[..., None], channels, axis=-1)
  np.testing.assert_allclose(resize_image(board, 8)[1:-1, 1:-1], 127.5, atol=4)
  # A ramp stays in place: its centre of gravity does not move by half a pixel.
  ramp = np.repeat(np.tile(np.arange(0, 256, 4, np.uint8), (64, 1))[..., None], channels, -1)
  expected = 4 * (4 * np.arange(16) + 1.5)
  np.testing.assert_allclose(resize_image(ramp, 16)[8, 2:-2, 0], expected[2:-2], atol=1)
