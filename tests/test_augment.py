"""What augmentation may change, and that image and mask stay together."""

import functools

import chex
import jax
import numpy as np
import pytest

from jaxseg import VOID
from jaxseg.augment import Augmentation, augment

EVERYTHING = Augmentation(flip=True, scale=(0.6, 1.7), brightness=0.1, contrast=(0.8, 1.25))


def keys(num):
  data = np.random.default_rng(num).integers(0, 2**32, (num, 2), np.uint32)
  return jax.random.wrap_key_data(data, impl="threefry2x32")


@functools.cache
def mapped(config, shared_example=True):
  """Compiled augment over keys, of one example for all or one each."""
  axes = (0, None, None) if shared_example else (0, 0, 0)
  return jax.jit(jax.vmap(lambda key, image, mask: augment(key, image, mask, config), axes))


def noise(h, w, d=3, seed=0):
  """An image as it comes from bytes, f32 in [0, 1], and a mask with four labels and VOID."""
  rng = np.random.default_rng(seed)
  image = rng.integers(0, 256, (h, w, d)).astype(np.float32) / np.float32(255)
  labels = np.array([0, 1, 2, 3, VOID], np.uint8)
  return image, rng.choice(labels, (h, w))


def quadrants(h, w):
  """Labels 0..3 by the half a pixel lies in; the image shows 2 x the row's half + the column's.

  Returns:
    f32[h,w,2] of 0 and 1, u8[h,w].
  """
  lower, right = np.mgrid[:h, :w]
  lower, right = (lower >= 0.4 * h), (right >= 0.6 * w)
  return np.stack([lower, right], -1).astype(np.float32), (2 * lower + right).astype(np.uint8)


class Defaults(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  def test_nothing_changes(self):
    """Bit for bit, so that a network can be compared with and without."""
    image, mask = noise(33, 7)
    result = self.variant(augment, static_argnums=3)(keys(1)[0], image, mask, Augmentation())
    chex.assert_trees_all_equal(result, (image, mask))


@pytest.mark.parametrize(
  "config",
  [
    Augmentation(flip=True, scale=(0.4, 0.9)),
    Augmentation(flip=True, scale=(1.1, 3.0)),
  ],
  ids=["shrink", "grow"],
)
def test_image_and_mask_stay_together(config):
  """The augmented image, read as labels again, is the augmented mask."""
  image, mask = quadrants(40, 48)
  images, masks = map(np.asarray, mapped(config)(keys(40), image, mask))
  seen = 2 * (images[..., 0] > 0.5) + (images[..., 1] > 0.5)
  # A pixel whose centre falls half-way between two source pixels may go either way.
  clear = (abs(images - 0.5) > 1e-3).all(-1) & (masks != VOID)
  assert clear[masks != VOID].mean() > 0.9
  np.testing.assert_array_equal(masks[clear], seen[clear])
  assert len({m.tobytes() for m in masks}) > 1


def test_flip_mirrors_every_other_example():
  image, mask = noise(6, 5)
  images, masks = map(np.asarray, mapped(Augmentation(flip=True))(keys(2000), image, mask))
  flipped = np.array([(m == mask[:, ::-1]).all() for m in masks])
  for results, original in (images, image), (masks, mask):
    expected = [original[:, ::-1] if f else original for f in flipped]
    np.testing.assert_array_equal(results, expected)
  # Four standard deviations of a fair coin: 4 * sqrt(2000) / 2 = 89.
  assert abs(flipped.sum() - 1000) < 89


def test_zoom_out_leaves_a_void_border_and_no_content_out():
  """At zoom 1/2 exactly the 8 x 10 middle pixels of every second row and column remain."""
  image, mask = noise(16, 20)
  mask[mask == VOID] = 0
  config = Augmentation(scale=(0.5, 0.5))
  masks = np.asarray(mapped(config)(keys(100), image, mask)[1])
  first_rows = set()
  for result in masks:
    rows, cols = ((result != VOID).any(axis) for axis in (1, 0))
    assert (rows.sum(), cols.sum()) == (8, 10)
    np.testing.assert_array_equal(result != VOID, rows[:, None] & cols)
    first_rows.add(int(rows.argmax()))
    inside = result[rows][:, cols]
    # Every label comes from the 2x2 source pixels that became one.
    sources = mask.reshape(8, 2, 10, 2).transpose(0, 2, 1, 3).reshape(8, 10, 4)
    assert (inside[..., None] == sources).any(-1).all()
  assert first_rows >= {0, 4, 8}  # anywhere, both edges included


def test_zoom_in_leaves_no_void_and_crops_anywhere():
  """At zoom 2 the rows shown are the middle of a half, wherever that lies."""
  ramp = np.linspace(0, 1, 33, dtype=np.float32)
  image = np.stack(np.meshgrid(ramp, ramp, indexing="ij"), -1)
  mask = np.ones((33, 33), np.uint8)
  config = Augmentation(scale=(2.0, 2.0))
  images, masks = map(np.asarray, mapped(config)(keys(200), image, mask))
  np.testing.assert_array_equal(masks, 1)
  for axis in 0, 1:
    ramps = images[..., axis].mean(axis=2 - axis)
    steps = np.diff(ramps, axis=1)[:, 2:-2]
    np.testing.assert_allclose(steps, 1 / 64, atol=1e-5)
    # The window is half the image; its middle lies uniformly in the middle half.
    middles = ramps[:, 16]
    assert middles.min() < 0.28 and middles.max() > 0.72 and abs(middles.mean() - 0.5) < 0.05


def test_zoom_is_drawn_log_uniformly():
  """From 1/2 to 2: half of the draws shrink. (Uniformly it would be a third.)"""
  image, mask = np.zeros((64, 64, 1), np.float32), np.zeros((64, 64), np.uint8)
  masks = np.asarray(mapped(Augmentation(scale=(0.5, 2.0)))(keys(600), image, mask)[1])
  side = np.sqrt((masks != VOID).sum((1, 2)))
  assert side.min() < 34 and abs((side < 63).mean() - 0.49) < 0.08
  # A quarter of them shrink below 2^-1/2.
  assert abs((side < 64 * 0.5**0.5).mean() - 0.25) < 0.07


def test_labels_are_never_invented():
  for seed in range(3):
    image, mask = noise(24, 20, seed=seed)
    mask[mask == 2] = 3
    masks = np.asarray(mapped(EVERYTHING)(keys(20), image, mask)[1])
    assert set(np.unique(masks)) <= {0, 1, 3, VOID}


def test_images_stay_in_range_and_types():
  image, mask = noise(24, 20)
  images, masks = mapped(Augmentation(brightness=1.0, contrast=(0.0, 9.0)))(keys(20), image, mask)
  chex.assert_type([images, masks], [np.float32, np.uint8])
  assert images.min() == 0.0 and images.max() == 1.0


def test_brightness_and_contrast():
  """image' = (image - mean) * factor + mean + shift, one factor and one shift an image."""
  rng = np.random.default_rng(0)
  image = rng.uniform(0.4, 0.6, (16, 16, 3)).astype(np.float32)  # far from 0 and 1: no clipping
  mask = np.zeros((16, 16), np.uint8)
  config = Augmentation(brightness=0.2, contrast=(0.5, 1.5))
  images, masks = map(np.asarray, mapped(config)(keys(400), image, mask))
  np.testing.assert_array_equal(masks, 0)
  shift = images.mean((1, 2, 3)) - image.mean()
  factor = images.std((1, 2, 3)) / image.std()
  expected = (image - image.mean()) * factor[:, None, None, None] + image.mean()
  np.testing.assert_allclose(images, expected + shift[:, None, None, None], atol=1e-5)
  # Uniform draws: bounds reached, means in the middle (4 standard deviations).
  for values, low, high in (shift, -0.2, 0.2), (factor, 0.5, 1.5):
    assert low - 1e-5 <= values.min() < low + 0.02 * (high - low)
    assert high + 1e-5 >= values.max() > high - 0.02 * (high - low)
    assert abs(values.mean() - (low + high) / 2) < 4 * (high - low) / np.sqrt(12 * 400)
  assert abs(np.corrcoef(shift, factor)[0, 1]) < 4 / np.sqrt(400)


def test_key_decides():
  """Same key, same view, whatever else is in the batch; another key, another view."""
  (a, a_mask), (b, b_mask) = noise(24, 20), noise(24, 20, seed=1)
  first, second = keys(2)
  run = mapped(EVERYTHING, shared_example=False)
  stack = functools.partial(jax.tree.map, lambda *x: np.stack(x))
  alone = run(first[None], a[None], a_mask[None])
  pair = run(jax.numpy.stack([second, first]), *stack((b, b_mask), (a, a_mask)))
  chex.assert_trees_all_close(alone, jax.tree.map(lambda x: x[1:], pair), atol=1e-6)
  other = run(second[None], a[None], a_mask[None])
  assert (other[0] != alone[0]).any() and (other[1] != alone[1]).any()


def test_vmap_changes_nothing():
  image, mask = noise(12, 16)
  images, masks = mapped(EVERYTHING)(keys(3), image, mask)
  one = jax.jit(augment, static_argnums=3)(keys(3)[1], image, mask, EVERYTHING)
  chex.assert_trees_all_close(one, (images[1], masks[1]), atol=1e-5)
