"""Decoding, errors that name the file, and every data set by name."""

import io

import numpy as np
import pytest
from PIL import Image

from jaxseg import VOID, UserError
from jaxseg.data import datasets
from jaxseg.data.datasets import decode_image, decode_mask, resize_image

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


def three(grey):
  return np.repeat(grey[..., None], 3, axis=-1)


def error_of(function, *arguments):
  with pytest.raises(UserError) as error:
    function(*arguments)
  message = str(error.value)
  assert "\n" not in message and " object at 0x" not in message
  return message


IMAGES = {
  "RGB": (encode(RGB), RGB),
  "L": (encode(GREY), three(GREY)),
  "LA": (encode(Image.fromarray(np.dstack([GREY, ALPHA]))), three(GREY)),
  "RGBA": (encode(np.dstack([RGB, ALPHA])), RGB),
  "P": (encode(palette_image()[0]), palette_colours()),
  "1": (encode(Image.fromarray(GREY > 99)), three(np.where(GREY > 99, 255, 0))),
  # 16 bits: the high byte counts. The low one is not 0, so that scaling from 65535 shows.
  "I;16": (encode((GREY.astype(np.uint16) << 8) + 77), three(GREY)),
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
    for function, last in ((decode_image, 3), (decode_mask, {0: 0})):
      assert error_of(function, data, "b.jpg", last) == "b.jpg: cannot be decoded (not an image)"


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


def test_mask_of_a_palette_keeps_its_indices():
  image, labels = palette_image()
  mask = decode_mask(encode(image), "m.png", {i: i for i in range(4)})
  assert mask.dtype == np.uint8
  np.testing.assert_array_equal(mask, labels)


def test_mask_labels_are_mapped_and_void_stays():
  stored = np.array([[1, 2, 3], [255, 3, 1]], np.uint8)
  expected = [[0, 1, 2], [VOID, 2, 0]]
  np.testing.assert_array_equal(decode_mask(encode(stored), "m", {1: 0, 2: 1, 3: 2}), expected)
  wide = encode(stored.astype(np.uint16))
  np.testing.assert_array_equal(decode_mask(wide, "m", {1: 0, 2: 1, 3: 2}), expected)


def test_mask_of_one_bit():
  stored = np.array([[True, False], [False, True]])
  mask = decode_mask(encode(Image.fromarray(stored)), "m", {0: 0, 1: 1})
  assert mask.dtype == np.uint8
  np.testing.assert_array_equal(mask, [[1, 0], [0, 1]])


def test_mask_in_colour():
  message = error_of(decode_mask, encode(RGB), "camvid/m1.png", {0: 0})
  assert "camvid/m1.png" in message and "3 channels" in message


@pytest.mark.parametrize("dtype, value", [(np.uint8, 4), (np.uint8, 254), (np.uint16, 258)])
def test_label_that_is_no_class(dtype, value):
  stored = np.array([[1, 2], [value, 3]], dtype)
  message = error_of(decode_mask, encode(stored), "mask of a.jpg", {1: 0, 2: 1, 3: 2})
  assert message.startswith("mask of a.jpg: ") and f"label {value} " in message
  assert "[1, 2, 3]" in message


def test_image_and_mask_of_different_sizes():
  records = [
    {"image": encode(RGB), "mask": encode(np.zeros(shape, np.uint8)), "name": "a.jpg"}
    for shape in ((5, 7), (6, 9))
  ]
  source = datasets.Encoded(records, 3, {0: 0})
  example = source[0]
  assert set(example) == {"image", "mask", "name"} and example["name"] == "a.jpg"
  np.testing.assert_array_equal(example["image"], RGB)
  message = error_of(source.__getitem__, 1)
  assert "a.jpg" in message and "7x5" in message and "9x6" in message  # width x height


def test_damage_of_image_or_mask_is_told_apart():
  good = {"image": encode(RGB), "mask": encode(np.zeros((5, 7), np.uint8)), "name": "a.jpg"}
  records = [{**good, "image": b""}, {**good, "mask": b""}]
  source = datasets.Encoded(records, 3, {0: 0})
  assert error_of(source.__getitem__, 0).startswith("a.jpg: ")
  assert error_of(source.__getitem__, 1).startswith("mask of a.jpg: ")


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


@pytest.mark.parametrize("size", [16, 33, 64])
def test_cells(size):
  info, source = datasets.load("cells", "test", image_size=size)
  _, again = datasets.load("cells", "test", image_size=size)
  assert len(source) == 64
  for i in (0, 63):
    first, second = source[i], again[i]
    assert first["image"].shape == (size, size, info.channels)
    assert first["mask"].shape == first["instances"].shape == (size, size)
    assert set(np.unique(first["mask"])) <= set(range(len(info.classes)))
    for name in ("image", "mask", "instances"):
      np.testing.assert_array_equal(first[name], second[name])
  with pytest.raises(IndexError):
    source[64]


def test_cells_differ_by_index_split_and_seed():
  sources = [
    datasets.load("cells", split, image_size=32, seed=seed)[1]
    for split, seed in (("train", 0), ("test", 0), ("train", 1))
  ]
  drawn = [source[i]["image"].tobytes() for source in sources for i in range(3)]
  assert len(set(drawn)) == 9


def test_cells_too_small():
  message = error_of(lambda: datasets.load("cells", "train", image_size=15))
  assert "config.data.image_size" in message and "15" in message and "16" in message


def test_unknown_data_set_split_and_folder(tmp_path):
  message = error_of(lambda: datasets.load("cels", "train"))
  assert "'cels'" in message and all(name in message for name in datasets.DATASETS)
  message = error_of(lambda: datasets.load("cells", "val"))
  assert "'val'" in message and "train" in message and "test" in message
  for name in datasets.DATASETS:
    message = error_of(lambda n=name: datasets.load(n, "train", data_dir=str(tmp_path / "typo")))
    assert str(tmp_path / "typo") in message and "config.data.data_dir" in message


# Of every data set: splits with their number of examples, and how many to look at.
ROWS = {
  "cells": ({"train": 512, "test": 64}, 4),
  "oxford_iiit_pet": ({"train": 300, "test": 298, "train[:90%]": 270}, 12),
}


@pytest.mark.parametrize("name", datasets.DATASETS)
def test_every_data_set(name, request):
  assert name in ROWS, f"give {name} a row of this test"
  splits, num_looked_at = ROWS[name]
  folder = "" if name == "cells" else str(request.getfixturevalue("data_dir") / "tfds")
  for split, count in splits.items():
    info, source = datasets.load(name, split, data_dir=folder, image_size=32)
    assert len(source) == count
    assert info.channels in (1, 3)
    assert len(info.classes) == len(set(info.classes)) == len(info.palette)
    assert len(set(info.palette)) == len(info.palette)
    assert (255, 255, 255) not in info.palette  # white is VOID on the sheets
    seen, names = set(), set()
    for i in range(0, count, count // num_looked_at):
      example = source[i]
      image, mask = example["image"], example["mask"]
      assert (image.dtype, mask.dtype) == (np.uint8, np.uint8)
      assert image.shape == (*mask.shape, info.channels)
      seen |= set(np.unique(mask))
      names.add(example["name"])
    assert seen - {VOID} == set(range(len(info.classes)))
    assert len(names) == len(range(0, count, count // num_looked_at))


def test_pets_equal_an_independent_decode(data_dir):
  """The records by TFDS's own features and its own decoders."""
  import tensorflow_datasets as tfds

  builder = tfds.builder("oxford_iiit_pet", data_dir=data_dir / "tfds", file_format="array_record")
  expected = builder.as_data_source("train")
  _, source = datasets.load("oxford_iiit_pet", "train", data_dir=str(data_dir / "tfds"))
  for i in (0, 299):
    example = source[i]
    np.testing.assert_array_equal(example["mask"], expected[i]["segmentation_mask"][..., 0] - 1)
    np.testing.assert_array_equal(example["image"], expected[i]["image"])
    assert example["name"] == expected[i]["file_name"].decode()
