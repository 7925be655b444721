"""Operations on values against colorsys, Pillow and SciPy, and how `augment` draws them."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import tiny
from tiny import error_of
from views import EVERYTHING, ids, noise, views

from jaxseg import VOID, build, photometric
from jaxseg.augment import Augmentation, augment, check_channels

FULL = {
  "hue": 0.5,
  "saturation": (0.2, 3.0),
  "gray": 0.5,
  "gamma": (0.5, 2.0),
  "blur": 2.0,
  "noise": 0.2,
  "cutout": 0.5,
}
NEUTRAL = {name: getattr(Augmentation(), name) for name in FULL}


def pale(h, w, seed=0):
  """Colours far from the border of the RGB cube: no operation clips them."""
  return np.random.default_rng(seed).uniform(0.42, 0.58, (h, w, 3)).astype(np.float32)


@pytest.mark.parametrize("turn", [0.0, 0.1, -0.25, 0.5, 1 / 3])
def test_hue_rotates_as_colorsys_converts(turn):
  for image in pale(9, 7), noise(9, 7)[0]:
    found = np.clip(photometric.apply_matrix(photometric.hue_matrix(turn), image), 0, 1)
    np.testing.assert_allclose(found, reference.turn_hue(image, turn), atol=1e-5)
  np.testing.assert_allclose(photometric.hue_matrix(1.0), np.eye(3), atol=1e-6)


def test_hue_turns_add_and_keep_greys():
  a, b, both = (np.asarray(photometric.hue_matrix(turn)) for turn in (0.1, 0.25, 0.35))
  np.testing.assert_allclose(a @ b, both, atol=1e-5)
  np.testing.assert_allclose(a @ np.ones(3), np.ones(3), atol=1e-6)
  blue = np.asarray(photometric.hue_matrix(1 / 3)) @ [1, 0, 0]
  assert blue.argmax() == 2
  assert (np.asarray(photometric.hue_matrix(1 / 3)) @ [0, 0, 1]).argmax() == 1


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0, 1.8])
def test_saturation_equals_pillow(factor):
  image = noise(9, 7)[0]
  found = np.clip(photometric.apply_matrix(photometric.saturation_matrix(factor), image), 0, 1)
  # Pillow rounds its grey, and then the result.
  tolerance = (0.5 * abs(1 - factor) + 1.01) / 255
  np.testing.assert_allclose(found, reference.saturate(image, factor), atol=tolerance)
  if factor == 0:
    np.testing.assert_allclose(found, reference.grey(image), atol=0.51 / 255)
    np.testing.assert_array_equal(found, found[..., :1].repeat(3, -1))
  if factor == 1:
    np.testing.assert_array_equal(found, image)


@pytest.mark.parametrize("shape", [(16, 16, 1), (17, 40, 4), (24, 16, 12)])
@pytest.mark.parametrize("sigma", [0.0, 0.3, 1.7, 8.0])
def test_blur_equals_scipy(shape, sigma):
  image = noise(*shape)[0]
  found = photometric.gaussian_blur(image, sigma)
  np.testing.assert_allclose(found, reference.gaussian_blur(image, sigma), atol=2e-5)
  if sigma == 0:
    np.testing.assert_array_equal(found, image)


def test_gamma():
  image = noise(9, 7, 5)[0]
  for exponent in (0.5, 1.0, 2.2):
    found = photometric.gamma(image, exponent, 0.0, 1.0)
    np.testing.assert_allclose(found, image.astype(float) ** exponent, atol=1e-6)
  wide = 3 * image - 1  # from -1 to 2
  found = photometric.gamma(wide, 2.0, -1.0, 2.0)
  np.testing.assert_allclose(found, 3 * image.astype(float) ** 2 - 1, atol=1e-5)


@pytest.mark.parametrize("side, centre", [(4, (5, 5)), (3, (0, 8)), (7, (8, 0)), (1, (3, 4))])
def test_cutout_equals_its_twin(side, centre):
  image, mask = noise(9, 11, 4)
  hidden = photometric.square(jnp.array(centre), side, (9, 11))
  expected, labels = reference.cut_out(image, mask, centre, side)
  np.testing.assert_allclose(photometric.fill(image, hidden), expected, atol=1e-6)
  np.testing.assert_array_equal(np.where(hidden, VOID, mask), labels)


@pytest.mark.parametrize(
  "channels", [3, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 4, 12))]
)
@pytest.mark.parametrize("name", FULL)
def test_each_alone(name, channels):
  """It changes the image, within the range; the mask and the instances stay but for cutout."""
  image, mask = noise(20, 20, channels)
  config = Augmentation(**{name: FULL[name]})
  if channels != 3 and name in ("hue", "saturation", "gray"):
    message = error_of(augment, jax.random.key(0), image, {"mask": mask}, config)
    assert f"`{name}` is {FULL[name]}" in message and f"have {channels} channel" in message
    assert f"set it to {NEUTRAL[name]}" in message
    return
  images, masks, labels = views(config, 30, image, mask, instances=ids(20, 20))
  changed = (images != image).any((1, 2, 3))
  assert changed.mean() > (0.2 if name == "gray" else 0.9)
  assert images.dtype == np.float32 and images.min() >= 0 and images.max() <= 1
  assert np.isfinite(images).all()
  np.testing.assert_array_equal(labels["instances"], np.tile(ids(20, 20), (30, 1, 1)))
  if name == "cutout":
    assert (masks[masks != mask] == VOID).all() and (masks != mask).any()
  else:
    np.testing.assert_array_equal(masks, np.tile(mask, (30, 1, 1)))


def test_values_beyond_the_unit_range_are_kept():
  """The range is that of the image that came in, if it is wider than [0, 1]."""
  image, mask = noise(20, 20)
  wide = 6 * image - 3
  names = ("gamma", "blur", "noise", "cutout")
  config = Augmentation(brightness=1.0, contrast=(0.5, 2.0), **{name: FULL[name] for name in names})
  images, _, _ = views(config, 30, wide, mask)
  low, high = wide.min(), wide.max()
  assert images.min() >= low and images.max() <= high and np.isfinite(images).all()
  assert images.min() < 0.9 * low and images.max() > 0.9 * high
  still, _, _ = views(Augmentation(), 1, wide, mask)
  np.testing.assert_array_equal(still[0], wide)


def test_others_leave_the_draws_as_they_were():
  """New draws come from keys of their own."""
  image, mask = noise(24, 24)
  _, masks, labels = views(EVERYTHING, 20, image, mask, instances=ids(24, 24))
  some = {name: value for name, value in FULL.items() if name != "cutout"}
  config = dataclasses.replace(EVERYTHING, **some)
  _, with_masks, with_labels = views(config, 20, image, mask, instances=ids(24, 24))
  np.testing.assert_array_equal(masks, with_masks)
  np.testing.assert_array_equal(labels["instances"], with_labels["instances"])


def test_hue_saturation_and_grey_are_drawn_as_declared():
  """Solved for in the colours of each view."""
  image, num = pale(12, 12), 600
  y, i, q = np.tensordot(image.astype(float), photometric.YIQ, (2, 1)).transpose(2, 0, 1)
  images, _, _ = views(Augmentation(hue=0.2), num, image, np.zeros((12, 12), np.uint8))
  new = np.tensordot(images.astype(float), photometric.YIQ, (3, 1))
  np.testing.assert_allclose(new[..., 0], np.tile(y, (num, 1, 1)), atol=1e-5)
  ratio = ((new[..., 1] + 1j * new[..., 2]) * np.conj(i + 1j * q)).sum((1, 2))
  check_uniform(np.angle(ratio) / (2 * math.pi), -0.2, 0.2)

  grey = image.astype(float) @ photometric.LUMA
  config = Augmentation(saturation=(0.5, 1.5), gray=0.25)
  images, _, _ = views(config, num, image, np.zeros((12, 12), np.uint8))
  chroma = image - grey[..., None]
  factor = ((images - grey[..., None]) * chroma).sum((1, 2, 3)) / (chroma**2).sum()
  is_grey = abs(factor) < 1e-4
  assert abs(is_grey.mean() - 0.25) < 4 * math.sqrt(0.25 * 0.75 / num)
  check_uniform(factor[~is_grey], 0.5, 1.5)
  expected = grey[..., None] + factor[:, None, None, None] * chroma
  np.testing.assert_allclose(images, expected, atol=1e-5)


def check_uniform(values, low, high):
  """Bounds, and the share below each quarter within four standard deviations."""
  assert low - 1e-4 <= values.min() and values.max() <= high + 1e-4
  for share in (0.25, 0.5, 0.75):
    below = (values < low + share * (high - low)).mean()
    assert abs(below - share) < 4 * math.sqrt(share * (1 - share) / len(values))


def test_gamma_blur_and_noise_are_drawn_as_declared():
  num, mask = 600, np.zeros((32, 32), np.uint8)
  image = np.full((32, 32, 1), 0.5, np.float32)
  images, _, _ = views(Augmentation(gamma=(0.5, 2.0)), num, image, mask)
  check_uniform(np.log2(-np.log2(images[:, 0, 0, 0])), -1.0, 1.0)
  images, _, _ = views(Augmentation(noise=0.1), num, image, mask)
  std = images.std((1, 2, 3))
  assert std.max() < 0.11 and abs(std.mean() - 0.05) < 4 * 0.1 / math.sqrt(12 * num)
  largest = (images - image)[std.argmax()] / std.max()
  assert abs((abs(largest) < 1).mean() - math.erf(0.5**0.5)) < 0.06  # normal
  middle = images[:, :, 5:25].reshape(num, -1)
  assert abs(np.corrcoef(middle[:, :9].T) - np.eye(9)).max() < 4.5 / math.sqrt(num)
  # A step of 0 to 1 has variance sigma^2 about its middle.
  step = np.zeros((32, 32, 1), np.float32)
  step[:, 16:] = 1.0
  images, masks, _ = views(Augmentation(blur=2.5), num, step, mask)
  slope = np.diff(images[:, 16, :, 0].astype(float), axis=1)
  sigma = np.sqrt(np.maximum((slope * (np.arange(31) - 15) ** 2).sum(1), 0))
  # The slope is a Gaussian; sampled at pixels, its variance is sigma^2 unless sigma is small.
  check_uniform(sigma[sigma > 0.8], 0.8, 2.5)
  assert abs((sigma > 1.25).mean() - 0.5) < 4 * 0.5 / math.sqrt(num)


def test_cutout_is_drawn_everywhere():
  """Every pixel is the centre alike, so the square covers side^2 / (H W) but for the edges."""
  size, side, num = 16, 5, 2000
  image, mask = noise(size, size)
  mask[mask == VOID] = 0
  images, masks, _ = views(Augmentation(cutout=side / size), num, image, mask)
  hidden = masks == VOID
  np.testing.assert_array_equal(images[~hidden], np.tile(image, (num, 1, 1, 1))[~hidden])
  np.testing.assert_allclose(images[hidden], np.tile(image.mean((0, 1)), (hidden.sum(), 1)), 1e-5)
  # Along an axis, this many of the 16 centres reach a pixel.
  reach = [sum(abs(centre - pixel) <= side // 2 for centre in range(size)) for pixel in range(size)]
  expected = np.outer(reach, reach) / size**2
  spread = np.sqrt(expected * (1 - expected) / num)
  assert (abs(hidden.mean(0) - expected) < 4.5 * spread).all()


def test_colours_need_rgb_at_the_door():
  for channels in (1, 4):
    check_channels(Augmentation(blur=2.0, noise=0.1, gamma=(0.5, 2.0), cutout=0.3), channels)
    assert "`gray` is 0.1" in error_of(check_channels, Augmentation(gray=0.1), channels)
  check_channels(Augmentation(hue=0.1, saturation=(0.5, 1.5), gray=0.1), 3)


@pytest.mark.usefixtures("photos")
def test_blur_is_at_most_half_of_the_image():
  config = tiny.make_config(1, augment__blur=16.5)
  assert "config.augment.blur is 16.5, but has to be from 0 to 16" in error_of(
    build.check_training, config
  )
  build.check_training(tiny.make_config(1, augment__blur=16.0))
