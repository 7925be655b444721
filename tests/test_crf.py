"""Dense CRF: both paths against arithmetic by hand, a twin over all pairs, and each other."""

import functools
import math

import jax
import numpy as np
import pytest
import reference

from jaxseg import UserError
from jaxseg.crf import dense_crf

PATHS = pytest.mark.parametrize("exact", [True, False], ids=["exact", "lattice"])
SPATIAL = {"bilateral_weight": 0.0}


def example(h, w, num_classes=3, channels=3, seed=0):
  """(probs f32[H,W,C], image u8[H,W,D]): coloured regions with noise, and guesses at them."""
  rng = np.random.default_rng(seed)
  y, x = np.mgrid[:h, :w]
  regions = ((x * 3 // w) + (y * 2 // h)) % num_classes
  image = rng.integers(0, 256, (num_classes, channels))[regions]
  image = np.clip(image + rng.normal(0, 8, image.shape), 0, 255).astype(np.uint8)
  logits = 1.5 * np.eye(num_classes)[regions] + rng.normal(0, 1, (h, w, num_classes))
  powers = np.exp(logits)
  return (powers / powers.sum(-1, keepdims=True)).astype(np.float32), image


@PATHS
def test_two_pixels_by_hand(exact):
  probs = np.array([[[0.9, 0.1], [0.4, 0.6]]], np.float32)
  image = np.array([[[10, 0, 0], [10, 4, 3]]], np.uint8)
  near = math.exp(-1 / (2 * 2**2))
  similar = math.exp(-1 / (2 * 3**2) - 5**2 / (2 * 6**2))

  def message(kernel, mine, other):  # both pixels have the degree 1 + kernel
    return (mine + kernel * other) / (1 + kernel)

  def first(mine, other):
    cost = 1.5 * message(near, mine, other) + 0.7 * message(similar, mine, other)
    return mine * math.exp(cost)

  expected = []
  for i in (0, 1):
    powers = [first(float(probs[0, i, c]), float(probs[0, 1 - i, c])) for c in (0, 1)]
    expected.append([x / sum(powers) for x in powers])
  options = {"spatial_weight": 1.5, "spatial_sigma": 2, "bilateral_weight": 0.7}
  options |= {"bilateral_sigma": 3, "color_sigma": 6, "num_iterations": 1, "exact": exact}
  tolerance = 1e-6 if exact else 0.02
  np.testing.assert_allclose(dense_crf(probs, image, **options)[0], expected, atol=tolerance)


@PATHS
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(12, 10), (1, 23), (23, 1), (1, 1)])
def test_twin(shape, channels, exact):
  probs, image = example(*shape, channels=channels)
  spatial, bilateral = (1.0, 1.5), (3.0, 8.0, 13.0)  # weak: no marginal saturates
  names = ("spatial_weight", "spatial_sigma", "bilateral_weight", "bilateral_sigma", "color_sigma")
  options = dict(zip(names, (*spatial, *bilateral), strict=True))
  for num_iterations in (1, 10) if exact else (1,):
    expected = reference.dense_crf(probs, image, num_iterations, spatial, bilateral)
    result = dense_crf(probs, image, num_iterations=num_iterations, exact=exact, **options)
    assert (result.shape, result.dtype) == (probs.shape, np.float32)
    error = np.abs(result - expected)
    assert error.max() < (1e-5 if exact else 0.02) and error.mean() < 2e-3


def test_lattice_is_close_to_exact():
  probs, image = example(48, 64, num_classes=5)
  a, b = (dense_crf(probs, image, bilateral_weight=3.0, exact=exact) for exact in (True, False))
  error = np.abs(a - b)
  assert error.max() < 0.05 and error.mean() < 1e-3


@PATHS
def test_image_of_one_color_has_a_spatial_kernel_only(exact):
  probs, image = example(30, 40)
  image[:] = 77
  bilateral = {"spatial_weight": 0.0, "bilateral_weight": 3.0, "bilateral_sigma": 6.0}
  spatial = {"spatial_weight": 3.0, "spatial_sigma": 6.0, **SPATIAL}
  a, b = (dense_crf(probs, image, exact=exact, **options) for options in (bilateral, spatial))
  np.testing.assert_allclose(a, b, atol=1e-4 if exact else 0.05)
  assert np.abs(a - b).mean() < 5e-3
  # It smooths: neighbours get alike.
  assert np.abs(np.diff(b, axis=1)).mean() < np.abs(np.diff(probs, axis=1)).mean()


@PATHS
def test_labels_follow_the_edges_of_the_image(exact):
  """A coarse, noisy guess gets the outline of a disk."""
  y, x = np.mgrid[:40, :40]
  disk = (y - 20) ** 2 + (x - 17) ** 2 < 11**2
  rng = np.random.default_rng(0)
  image = np.where(disk[..., None], (200, 40, 40), (60, 90, 60)) + rng.normal(0, 4, (40, 40, 3))
  coarse = np.kron(disk[::8, ::8], np.ones((8, 8))) > 0
  logits = (2.0 * coarse - 1) + rng.normal(0, 0.5, coarse.shape)
  probs = 1 / (1 + np.exp(np.stack([logits, -logits], -1)))
  assert (probs.argmax(-1) != disk).mean() > 0.05
  labels = dense_crf(probs.astype(np.float32), image, exact=exact).argmax(-1)
  np.testing.assert_array_equal(labels, disk)


def test_a_spatial_kernel_wider_than_the_image():
  """Every pixel has the same neighbours, at once however wide it is."""
  probs, image = example(9, 11)
  found = dense_crf(probs, image, spatial_sigma=1e9, bilateral_weight=0.0, num_iterations=1)
  expected = dense_crf(
    probs, image, spatial_sigma=1e4, bilateral_weight=0.0, num_iterations=1, exact=True
  )
  np.testing.assert_allclose(found, expected, atol=1e-4)


@PATHS
def test_zero_weights_and_zero_iterations_change_nothing(exact):
  probs, image = example(9, 11)
  for options in ({"spatial_weight": 0.0, **SPATIAL}, {"num_iterations": 0}):
    result = dense_crf(probs, image, exact=exact, **options)
    np.testing.assert_allclose(result, probs, atol=1e-6)


@PATHS
def test_classes_are_alike(exact):
  probs, image = example(16, 20, num_classes=4)
  order = [2, 0, 3, 1]
  result = dense_crf(probs, image, exact=exact)
  permuted = dense_crf(probs[..., order], image, exact=exact)
  np.testing.assert_allclose(permuted, result[..., order], atol=1e-5)


@PATHS
@pytest.mark.parametrize("turn", [np.fliplr, np.flipud, lambda x: x.swapaxes(0, 1)])
def test_a_turned_image_has_turned_marginals(turn, exact):
  probs, image = example(16, 20)
  result = dense_crf(probs, image, exact=exact)
  turned = dense_crf(turn(probs), turn(image), exact=exact)
  # The lattice lies otherwise in the image, and its error with it.
  np.testing.assert_allclose(turned, turn(result), atol=1e-5 if exact else 0.02)


@PATHS
def test_certain_probabilities(exact):
  probs, image = example(16, 20)
  certain = np.eye(3, dtype=np.float32)[probs.argmax(-1)]
  result = dense_crf(certain, image, exact=exact)
  assert np.isfinite(result).all()
  np.testing.assert_array_equal(np.argmax(result, -1), certain.argmax(-1))
  for given in (probs, certain):
    result = dense_crf(given, image, exact=exact, spatial_weight=200.0)
    np.testing.assert_allclose(result.sum(-1), 1, atol=1e-5)
    assert np.min(result) >= 0


def test_exact_under_jit_and_vmap():
  probs, images = map(np.stack, zip(*(example(8, 9, seed=seed) for seed in (0, 1)), strict=True))
  one = functools.partial(dense_crf, exact=True)
  expected = [one(p, i) for p, i in zip(probs, images, strict=True)]
  np.testing.assert_allclose(jax.jit(jax.vmap(one))(probs, images), expected, atol=1e-6)


def test_exact_in_blocks(monkeypatch):
  probs, image = example(15, 11)
  whole = dense_crf(probs, image, exact=True)
  monkeypatch.setattr("jaxseg.crf.PAIRS", 1000)  # 6 of 165 pixels at once, and 3 in the end
  jax.clear_caches()
  np.testing.assert_allclose(dense_crf(probs, image, exact=True), whole, atol=1e-6)
  jax.clear_caches()


def test_blocks_of_the_lattice(monkeypatch):
  probs, image = example(15, 11)
  whole = dense_crf(probs, image)
  monkeypatch.setattr("jaxseg.crf.BLOCK", 7)
  np.testing.assert_allclose(dense_crf(probs, image), whole, atol=1e-6)


def test_sigmas_that_are_too_small_for_the_lattice():
  probs, image = example(15, 11)
  with pytest.raises(UserError, match="^`bilateral_sigma` or `color_sigma`") as error:
    dense_crf(probs, image, color_sigma=1e-3, bilateral_sigma=1e-3)
  assert "\n" not in str(error.value)
