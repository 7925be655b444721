"""Images in another size or number type, against arithmetic and 8 bits."""

import numpy as np
import pytest

from jaxseg.data.resize import convert, resize_image

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)


def test_conversion_of_values():
  """They stay, but for those that the type does not have."""
  values = np.array([[-3.0, 0.4, 254.6, 300.0, 1e9]])
  found = convert(values, "uint8", is_full_range=False)
  assert found.dtype == np.uint8 and found.tolist() == [[0, 0, 255, 255, 255]]
  assert convert(np.uint8([7, 255]), "uint16", is_full_range=False).tolist() == [7, 255]
  assert convert(np.uint16([300]), "float32", is_full_range=False).tolist() == [300]


def test_conversion_of_a_full_range():
  assert convert(np.uint16([0, 257, 65535]), "uint8").tolist() == [0, 1, 255]
  assert convert(np.uint8([0, 1, 255]), "uint16").tolist() == [0, 257, 65535]
  assert convert(np.float32([-1, 0.5, 2]), "uint8").tolist() == [0, 128, 255]
  assert convert(np.uint8([0, 51]), "float32").tolist() == [0, pytest.approx(0.2)]


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


def test_resizing_of_a_part_that_ends_within_a_pixel():
  """Of a ramp, each pixel shows what is in its middle."""
  y, x = np.mgrid[:40, :32]
  ramp = np.stack([7 * x, 6 * y, 3 * x + 2 * y], -1).astype(np.uint8)
  found = resize_image(ramp, 8, (38.5, 30.25))[1:-1, 1:-1]
  middle = np.arange(8)[1:-1] + 0.5
  y, x = np.meshgrid(middle * 38.5 / 8 - 0.5, middle * 30.25 / 8 - 0.5, indexing="ij")
  np.testing.assert_allclose(found, np.stack([7 * x, 6 * y, 3 * x + 2 * y], -1), atol=1.01)
  square = ramp[:32]
  np.testing.assert_array_equal(resize_image(square, 8, (32, 32)), resize_image(square, 8))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [2, 4, 12])
def test_resizing_of_many_channels_and_of_depth(dtype, channels):
  """Channel by channel as 8 bits, only finer."""
  image = RNG.integers(0, 256, (40, 30, channels), dtype=np.uint8)
  parts = [resize_image(image[..., i : i + 1], 14) for i in range(channels)]
  expected = np.concatenate(parts, axis=-1)
  factor = {"uint8": 1, "uint16": 200, "float32": 0.01}[dtype]
  found = resize_image((image * np.float64(factor)).astype(dtype), 14)
  assert (found.shape, found.dtype) == ((14, 14, channels), np.dtype(dtype))
  np.testing.assert_allclose(found / factor, expected, atol=1.01 if dtype != "uint8" else 0)
