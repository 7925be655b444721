"""Arrays that are no images as they are: channels that come first, and masked pixels."""

import numpy as np
import pytest
from test_windows import RGB
from test_zarr_files import write_zarr
from tiny import error_of

from jaxseg.data.decode import ImageFormat, decode_image
from jaxseg.data.windows import open_windows, windows_of
from jaxseg.images import to_images


def test_channels_that_come_first(tmp_path):
  """Of files that do not say so, and of arrays."""
  first = RGB.transpose(2, 0, 1)
  write_zarr(tmp_path / "a.zarr", first, "zarr3")
  np.save(tmp_path / "a.npy", first)
  words = "of shape [3, 150, 170], its channels seem to come first"
  assert words in error_of(open_windows, tmp_path / "a.zarr", ImageFormat(3))
  assert words in error_of(decode_image, tmp_path / "a.npy", "a.npy", ImageFormat(3))
  words = "image: shape [3,150,170]; taken are [H,W], [H,W,1], [H,W,3], [H,W,4]; if the channels"
  assert words in error_of(windows_of, first, "image", ImageFormat(3))
  bands = ImageFormat(2, bands=(4, 1))
  five = np.zeros((5, 150, 170), np.uint8)
  assert "image: shape [5,150,170]; taken" in error_of(windows_of, five, "image", bands)
  write_zarr(tmp_path / "b.zarr", five, "zarr3")
  for fmt in bands, ImageFormat(3), ImageFormat(1):
    assert "seem to come first" in error_of(open_windows, tmp_path / "b.zarr", fmt)
  write_zarr(tmp_path / "c.zarr", np.zeros((5, 20, 170), np.uint8), "zarr3")
  assert open_windows(tmp_path / "c.zarr", ImageFormat(170)).shape == (5, 20, 170)
  write_zarr(tmp_path / "d.zarr", np.zeros((1, 170, 5), np.uint8), "zarr3")
  assert open_windows(tmp_path / "d.zarr", ImageFormat(3)).shape == (1, 170, 3)  # one row
  np.save(tmp_path / "b.npy", RGB[:3])  # three rows
  assert decode_image(tmp_path / "b.npy", "b.npy", ImageFormat(3)).shape == (3, 170, 3)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_four_channels_are_the_same_in_a_file_and_an_array(channels, tmp_path):
  four = np.concatenate([RGB, RGB[::-1, :, :1]], axis=-1)
  np.save(tmp_path / "a.npy", four)
  found = decode_image(tmp_path / "a.npy", "a.npy", ImageFormat(channels))
  (expected,), _ = to_images(four, ImageFormat(channels))
  np.testing.assert_array_equal(found, expected)
  assert found.shape == (150, 170, channels) and np.ptp(found) > 0


def test_two_channels_are_not_grey_and_alpha(tmp_path):
  """But two bands, of which nobody knows which to take, as in masks of classes and instances."""
  np.save(tmp_path / "a.npy", RGB[..., :2])
  write_zarr(tmp_path / "a.zarr", RGB[..., :2], "zarr3")
  message = error_of(decode_image, tmp_path / "a.npy", "a.npy", ImageFormat(3))
  assert "2 bands" in message and "2 bands" in error_of(
    open_windows, tmp_path / "a.zarr", ImageFormat(3)
  )


def test_numbers_of_an_unknown_range(tmp_path):
  for dtype in (np.int16, np.int32, np.uint32, np.int64):
    np.save(tmp_path / "a.npy", RGB.astype(dtype))
    message = error_of(decode_image, tmp_path / "a.npy", "a.npy", ImageFormat(3))
    assert f"{np.dtype(dtype)} values from 0 to 255 have no full range" in message


def test_masked_pixels_are_no_pixels():
  array = np.ma.array(RGB, mask=np.zeros(RGB.shape, bool))
  np.testing.assert_array_equal(windows_of(array, "image", ImageFormat(3)).whole(), RGB)
  array[2, 3, 1] = np.ma.masked
  image = windows_of(array, "image", ImageFormat(3))
  assert "image: has masked pixels; fill them" in error_of(image.whole)
