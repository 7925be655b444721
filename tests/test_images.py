"""What users pass as an image, against decode_image and arithmetic that is written out."""

import io

import imagecodecs
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tiny import error_of

from jaxseg import DataWarning, UserError, images
from jaxseg.data.decode import ImageFormat, decode_image

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
GREY = RGB[..., 0]
ALPHA = np.linspace(0, 255, 35).astype(np.uint8).reshape(5, 7)
DEEP = (GREY.astype(np.uint16) << 8) + ALPHA  # 16 bits: GREY is the high byte
# ITU-R 601-2 in the integers that Pillow uses.
LUMA = ((RGB.astype(int) * (19595, 38470, 7471)).sum(-1) + 0x8000 >> 16).astype(np.uint8)
RGB16 = RGB.astype(np.uint16) << 8 | 77
LUMA16 = ((RGB16.astype(int) * (19595, 38470, 7471)).sum(-1) + 0x8000 >> 16).astype(np.uint16)
RGB_FLOAT = RGB.astype(np.float32) / 255
WEIGHTS = np.float32([0.299, 0.587, 0.114])


def to_images(image, channels, value_range=(), **options):
  return images.to_images(image, ImageFormat(channels, value_range=value_range, **options))


def grey(array, channels):
  return np.repeat(array[..., None], channels, axis=-1)


EXPECTED = {
  "rgb": (RGB, {3: RGB, 1: LUMA[..., None]}),
  "rgba": (np.dstack([RGB, ALPHA]), {3: RGB, 1: LUMA[..., None]}),
  "grey": (GREY, {c: grey(GREY, c) for c in (1, 3)}),
  "grey with an axis": (GREY[..., None], {c: grey(GREY, c) for c in (1, 3)}),
  "bool": (GREY > 99, {c: grey(np.uint8(255) * (GREY > 99), c) for c in (1, 3)}),
  "uint16": (DEEP, {c: grey(DEEP, c) for c in (1, 3)}),
  "big-endian": (DEEP.astype(">u2"), {c: grey(DEEP, c) for c in (1, 3)}),
  "uint16 rgb": (RGB16, {3: RGB16, 1: LUMA16[..., None]}),
  "float32": (RGB_FLOAT, {3: RGB_FLOAT, 1: (RGB_FLOAT @ WEIGHTS)[..., None]}),
  "float64": (GREY / 255, {c: grey((GREY / 255).astype(np.float32), c) for c in (1, 3)}),
}


def test_masked_arrays():
  """What lies under a mask means nothing."""
  array = np.ma.array(RGB, mask=np.zeros(RGB.shape, bool))
  np.testing.assert_array_equal(to_images(array, 3)[0][0], RGB)
  array[0, 0] = np.ma.masked
  for given in array, [array], array[None]:
    assert "has masked pixels; fill them, as with image.filled(0)" in error_of(to_images, given, 3)


def test_a_palette_without_colours():
  assert "its palette has no colours" in error_of(to_images, Image.new("P", (4, 3)), 3)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", EXPECTED)
def test_arrays(name, channels):
  array, expected = EXPECTED[name]
  for given in (array, np.asfortranarray(array)):
    (image,), kind = to_images(given, channels)
    assert (kind, image.dtype) == ("image", expected[channels].dtype)
    np.testing.assert_allclose(image, expected[channels], rtol=1e-4)
  (image,), _ = to_images(jnp.asarray(array.astype(array.dtype.newbyteorder("="))), channels)
  np.testing.assert_allclose(image, expected[channels], rtol=1e-4)


def test_floats_are_kept():
  levels = np.arange(256).reshape(16, 16) / 255
  for dtype in (np.float16, np.float32, np.float64):
    (image,), _ = to_images(levels.astype(dtype), 1)
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image[..., 0], levels.astype(dtype).astype(np.float32))
  (image,), _ = to_images(np.float32([[-1e-7, 1.0000001]]), 1)  # as resizing leaves them
  assert image.ravel().tolist() == [0, 1]


def test_value_range():
  """(100, 300): stored values stay, and the network takes 100 for black; NaN is black."""
  values = [[0, 100, 200, 300, 4000]]
  for dtype in (np.uint16, np.int32, np.float32, np.float64):
    (image,), _ = to_images(np.array(values, dtype), 1, (100, 300))
    assert image.dtype == (np.uint16 if dtype == np.uint16 else np.float32)
    np.testing.assert_array_equal(image[..., 0], values)
  (image,), _ = to_images(np.array([[np.nan, np.inf, -np.inf]]), 1, (100, 300))
  assert image.ravel().tolist() == [100, 300, 100]


def test_any_number_of_channels():
  bands = np.random.default_rng(1).integers(0, 65536, (5, 7, 12), dtype=np.uint16)
  np.testing.assert_array_equal(to_images(bands, 12)[0], [bands])
  np.testing.assert_array_equal(to_images(bands[None], 12)[0], [bands])
  np.testing.assert_array_equal(to_images(np.dstack([RGB, ALPHA]), 4)[0], [np.dstack([RGB, ALPHA])])
  np.testing.assert_array_equal(to_images(bands, 3, bands=(3, 2, 11))[0], [bands[..., [3, 2, 11]]])
  for shape in ((5, 7), (5, 7, 3)):
    assert "[H,W,12]" in error_of(to_images, np.zeros(shape, np.uint8), 12)


FILES = {
  "rgb.png": (Image.fromarray(RGB), {}),
  "rgba.png": (Image.fromarray(np.dstack([RGB, ALPHA])), {}),
  "grey.png": (Image.fromarray(GREY), {}),
  "bool.png": (Image.fromarray(GREY > 99), {}),
  "deep.png": (Image.fromarray(DEEP), {}),
  "deep.tif": (Image.fromarray(DEEP), {}),
  "photo.jpg": (Image.fromarray(RGB), {"quality": 90}),
  "float.tif": (Image.fromarray(DEEP.astype(np.float32)), {}),
  "no_data.tif": (Image.fromarray(np.where(DEEP > 5e4, np.nan, DEEP).astype(np.float32)), {}),
  "int.tif": (Image.fromarray(DEEP.astype(np.int32)), {}),
}
OTHER_FILES = {  # of which the array does not say all
  "palette.png": (Image.fromarray(RGB).quantize(20), {}),
  "grey_alpha.png": (Image.fromarray(np.dstack([GREY, ALPHA]), "LA"), {}),
  "cmyk.tif": (Image.fromarray(RGB).convert("CMYK"), {}),
}
ALL_FILES = FILES | OTHER_FILES


@pytest.mark.parametrize("value_range", [(), (50, 200), (1000, 60000.0)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ALL_FILES)
def test_path_and_picture_and_array_agree(tmp_path, name, channels, value_range):
  picture, options = ALL_FILES[name]
  path = tmp_path / name
  picture.save(path, **options)
  if name in ("float.tif", "no_data.tif") and not value_range:
    assert "value_range" in error_of(to_images, path, channels)
    assert ("[0, 1]" if name[0] == "f" else "NaN") in error_of(
      to_images, np.asarray(picture), channels
    )
    return
  fmt = ImageFormat(channels, value_range=value_range)
  expected = decode_image(path.read_bytes(), name, fmt)
  array = np.asarray(Image.open(path))
  if name == "int.tif" and not value_range:  # of an array, nobody knows that 65535 is white
    assert "int32" in error_of(to_images, array, channels)
    array = array.astype(np.uint16)
  same = [path, str(path), Image.open(path)] + ([array] if name in FILES else [])
  for given in same:
    (image,), kind = to_images(given, channels, value_range)
    assert (kind, image.dtype) == ("image", expected.dtype)
    np.testing.assert_array_equal(image, expected, err_msg=f"{type(given)}")
  found, kind = to_images(same, channels, value_range)
  assert kind == "list" and len(found) == len(same)
  for image in found:
    np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_batches(channels):
  for name in ("rgb", "rgba", "grey with an axis", "uint16 rgb", "float32"):
    array, expected = EXPECTED[name]
    found, kind = to_images(np.stack([array, array[::-1]]), channels)
    assert kind == "batch"
    np.testing.assert_allclose(found, [expected[channels], expected[channels][::-1]], rtol=1e-4)


def test_lists_mix_types_and_sizes(tmp_path):
  Image.fromarray(RGB).save(tmp_path / "a.png")
  given = [RGB, GREY[:3], tmp_path / "a.png", Image.fromarray(GREY), jnp.asarray(RGB / 255)]
  for container in (list, tuple):
    found, kind = to_images(container(given), 3)
    assert kind == "list"
    for image, expected in zip(found, [RGB, grey(GREY[:3], 3), RGB, grey(GREY, 3), RGB_FLOAT],
                               strict=True):  # fmt: skip
      np.testing.assert_array_equal(image, expected)
  assert to_images([], 3) == ([], "list")


def test_pages_of_a_tiff(tmp_path):
  path = tmp_path / "stack.tif"
  slices = [GREY, GREY[::-1], GREY[:2, :3]]
  first, *rest = (Image.fromarray(x) for x in slices)
  first.save(path, save_all=True, append_images=rest)
  found, kind = to_images(str(path), 1)
  assert kind == "list" and len(found) == 3
  for image, expected in zip(found, slices, strict=True):
    np.testing.assert_array_equal(image[..., 0], expected)
  message = error_of(to_images, [path], 1)
  assert str(path) in message and "3 pages" in message


BAD_SHAPES = [
  *[(), (5,), (5, 7, 2), (3, 20, 30), (2, 3, 20, 30), (2, 5, 7, 9)],
  *[(1, 2, 5, 7, 3), (9, 20, 30), (0, 7, 3), (0, 5, 7, 3)],
]


@pytest.mark.parametrize("shape", BAD_SHAPES)
def test_other_shapes_are_errors(shape):
  message = error_of(to_images, np.zeros(shape, np.uint8), 3)
  assert f"shape [{','.join(map(str, shape))}]" in message
  if 0 not in shape:
    assert "[H,W]" in message and "[B,H,W,C]" in message
  assert ("np.moveaxis(image, -3, -1)" in message) == (shape in [(3, 20, 30), (2, 3, 20, 30)])
  assert ("image[..., None]" in message) == (shape == (9, 20, 30))


def test_the_remedies_work():
  rgb_first, greys = np.moveaxis(RGB, -1, 0), np.stack([GREY] * 5)
  np.testing.assert_array_equal(to_images(np.moveaxis(rgb_first, -3, -1), 3)[0], [RGB])
  np.testing.assert_array_equal(to_images(greys[..., None], 1)[0], greys[..., None])


@pytest.mark.parametrize(
  "image, words",
  [
    (RGB.astype(np.float32), "image: float32 values from 0 to 255 are not in [0, 1]; uint8"),
    (RGB / 127.5 - 1, "image: float64 values from -1 to 1 uint8"),
    (np.array([[0.5, np.nan]]), "image: NaN nan_to_num"),
    (np.array([[0.5, np.inf]]), "image: to inf are not in [0, 1]"),
    (RGB.astype(np.int64), "image: int64 uint8 uint16"),
    (RGB.astype(complex), "image: complex128 uint8"),
    (np.array([["a"]]), "image: <U1 uint8"),
    (None, "image: NoneType array path PIL list"),
    ({"image": RGB}, "image: dict array path PIL list"),
    ([[1, 2], [3, 4]], "image 0 of the list: list array"),
    ([RGB, GREY / 2], "image 1 of the list: float64 [0, 1]"),
    ([RGB, RGB[None]], "image 1 of the list: [1,5,7,3] batch"),
    (np.stack([RGB / 255, RGB / 1.0]), "image 1 of the batch: float64 [0, 1]"),
    ("nowhere.png", "no file nowhere.png"),
    ("nowhere.tif", "no file nowhere.tif"),
    (["nowhere.png"], "no file nowhere.png"),
  ],
)
def test_errors_name_the_value_and_the_remedy(image, words):
  message = error_of(to_images, image, 3)
  start, *rest = words.split(": ")
  assert message.startswith(start)
  assert not [word for part in rest for word in part.split() if word not in message]


def test_errors_of_files(tmp_path):
  assert "predict_folder" in error_of(to_images, tmp_path, 3)
  (tmp_path / "a.png").write_text("no picture")
  assert str(tmp_path / "a.png") in error_of(to_images, tmp_path / "a.png", 3)
  buffer = io.BytesIO()
  Image.fromarray(np.tile(RGB, (20, 20, 1))).save(buffer, "PNG")
  truncated = Image.open(io.BytesIO(buffer.getvalue()[:500]))
  assert "cannot be decoded" in error_of(to_images, truncated, 3)


@pytest.mark.parametrize("mode", ["RGB", "L", "I", "F"])
def test_pictures_without_pixels(mode):
  with pytest.raises(UserError, match="no pixels"):
    to_images(Image.new(mode, (0, 5)), 3)


def test_colours_of_16_bits_from_pillow(tmp_path):
  """Pillow gives 8 of them, however its picture was opened; the file has all."""
  path = tmp_path / "a.png"
  path.write_bytes(imagecodecs.png_encode(RGB16))
  with Image.open(path) as picture, pytest.warns(DataWarning, match="of which Pillow gives 8"):
    (image,), _ = to_images(picture, 3)
  np.testing.assert_array_equal(image, RGB)
  (image,), _ = to_images(path, 3)
  np.testing.assert_array_equal(image, RGB16)


def test_an_array_of_more_bands_than_are_used():
  """As its file would be read."""
  array = np.random.default_rng(0).integers(0, 256, (5, 7, 12), np.uint8)
  (image,), _ = to_images(array, 3, bands=(3, 2, 1))
  np.testing.assert_array_equal(image, array[..., [3, 2, 1]])
