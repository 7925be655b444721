"""Cross-entropy by hand, by loop and by its invariants; VOID is free."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from jax.test_util import check_grads

from jaxseg import VOID
from jaxseg.losses import (
  class_logits,
  class_weight_map,
  cross_entropy,
  weighted_cross_entropy,
)

# (logits, label, -log softmax of the label, worked out by hand)
HAND = (
  ((0.0, 0.0, 0.0), 1, math.log(3)),
  ((math.log(2), 0.0, 0.0), 0, math.log(2)),  # softmax 1/2, 1/4, 1/4
  ((math.log(2), 0.0, 0.0), 2, math.log(4)),
  ((5.0 + math.log(8), 5.0, 5.0), 1, math.log(10)),  # a common shift changes nothing
  ((0.0, 1000.0, 0.0), 0, 1000.0),  # exp(1000) is infinite
  ((0.0, 1000.0, 0.0), 1, 0.0),
  ((3.0, -7.0, 1000.0), VOID, 0.0),
)


def example(seed=0, void=0.3):
  """Random logits f32[3,5,7,4] and mask u8[3,5,7] with VOID of this share."""
  rng = np.random.default_rng(seed)
  mask = rng.integers(0, 4, (3, 5, 7)).astype(np.uint8)
  mask[rng.random(mask.shape) < void] = VOID
  return rng.normal(0, 3, (*mask.shape, 4)).astype(np.float32), mask


class Values(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  def test_by_hand(self):
    logits, labels, expected = (np.array(column) for column in zip(*HAND, strict=True))
    ce = self.variant(cross_entropy)(logits.astype(np.float32), labels.astype(np.uint8))
    chex.assert_trees_all_close(ce, expected, rtol=1e-6, atol=1e-6)
    assert ce[-1] == 0.0

  @chex.variants(with_jit=True, without_jit=True)
  def test_equals_loop(self):
    logits, mask = example()
    ce = self.variant(cross_entropy)(logits, mask)
    chex.assert_trees_all_close(ce, reference.cross_entropy(logits, mask), atol=1e-5)

  @chex.variants(with_jit=True, without_jit=True)
  def test_weighted_sums(self):
    logits, mask = example()
    weight = np.random.default_rng(1).uniform(0, 5, mask.shape).astype(np.float32)
    sums = self.variant(weighted_cross_entropy)(logits, mask, weight)
    pixels = [place for place in np.ndindex(*mask.shape) if mask[place] != VOID]
    ce = reference.cross_entropy(logits, mask)
    expected = sum(weight[p] * ce[p] for p in pixels), sum(weight[p] for p in pixels)
    chex.assert_trees_all_close(sums, expected, rtol=1e-5)

  @chex.variants(with_jit=True, without_jit=True)
  def test_class_weights(self):
    mask = np.array([[0, 2, VOID], [1, 1, 2]], np.uint8)
    weights = np.array([0.5, 3.0, 0.0], np.float32)
    weight_map = self.variant(class_weight_map)(mask, weights)
    np.testing.assert_array_equal(weight_map, [[0.5, 0.0, 0.0], [3.0, 3.0, 0.0]])


def mean_loss(logits, mask, weight):
  loss_sum, weight_sum = weighted_cross_entropy(logits, mask, weight)
  return loss_sum / weight_sum


def test_void_has_no_loss_and_no_gradient():
  logits, mask = example()
  logits[mask == VOID] *= 1e4  # whatever the network says there
  ones = np.ones(mask.shape, np.float32)
  gradient = np.asarray(jax.jit(jax.grad(mean_loss))(logits, mask, ones))
  assert (np.asarray(cross_entropy(logits, mask))[mask == VOID] == 0).all()
  assert (gradient[mask == VOID] == 0).all()
  assert (gradient[mask != VOID] != 0).all()


def test_loss_with_void_is_the_loss_on_the_kept_pixels():
  logits, mask = example()
  weight = np.random.default_rng(1).uniform(0.5, 5, mask.shape).astype(np.float32)
  kept = mask != VOID
  value = jax.jit(jax.value_and_grad(mean_loss))
  loss, gradient = value(logits, mask, weight)
  kept_loss, kept_gradient = value(logits[kept], mask[kept], weight[kept])
  chex.assert_trees_all_close(loss, kept_loss, rtol=1e-6)
  chex.assert_trees_all_close(np.asarray(gradient)[kept], kept_gradient, rtol=1e-5, atol=1e-8)


def test_all_void():
  logits, mask = example(void=2.0)
  assert (mask == VOID).all()

  def sums(logits):
    return weighted_cross_entropy(logits, mask, jnp.full(mask.shape, jnp.inf))

  (loss_sum, weight_sum), gradient = jax.jit(jax.value_and_grad(sums, has_aux=True))(logits)
  assert loss_sum == 0.0 and weight_sum == 0.0
  np.testing.assert_array_equal(gradient, 0.0)


def test_weight_counts_like_repeated_pixels():
  logits, mask = example(void=0.2)
  weight = np.random.default_rng(1).integers(0, 4, mask.shape)
  repeated = [np.repeat(x.reshape(mask.size, -1), weight.ravel(), 0) for x in (logits, mask)]
  loss = jax.jit(mean_loss)(logits, mask, weight.astype(np.float32))
  once = jax.jit(mean_loss)(repeated[0], repeated[1][:, 0], np.ones(weight.sum(), np.float32))
  chex.assert_trees_all_close(loss, once, rtol=1e-5)


def test_gradient():
  """Softmax minus one-hot over the number of pixels, and finite differences."""
  logits, mask = example(void=0.0)
  ones = np.ones(mask.shape, np.float32)
  shares = np.exp(logits.astype(float))
  shares /= shares.sum(-1, keepdims=True)
  expected = (shares - np.eye(4)[mask]) / mask.size
  gradient = jax.jit(jax.grad(mean_loss))(logits, mask, ones)
  chex.assert_trees_all_close(gradient, expected, atol=1e-7)

  logits, mask = example()
  total = jax.jit(lambda x: cross_entropy(x, mask[0, 0]).sum())
  check_grads(total, (logits[0, 0],), order=1, atol=1e-2, rtol=1e-2)


# The head of one logit. Logits, labels, and log(1 + e^-z) of label 1 or log(1 + e^z) of label 0.
SIGMOID = (
  (0.0, 1, math.log(2)),
  (math.log(3), 1, math.log(4 / 3)),  # sigmoid 3/4
  (math.log(3), 0, math.log(4)),
  (-math.log(3), 0, math.log(4 / 3)),
  (1000.0, 1, 0.0),
  (1000.0, 0, 1000.0),  # exp(1000) is infinite
  (-1000.0, 1, 1000.0),
  (5.0, VOID, 0.0),
)


@jax.jit
def binary_loss(z, mask):
  return cross_entropy(class_logits(z[..., None]), mask)


def test_sigmoid_head_by_hand():
  z, mask, expected = (np.array(column) for column in zip(*SIGMOID, strict=True))
  z, mask = z.astype(np.float32), mask.astype(np.uint8)
  with np.errstate(over="ignore"):
    sigmoid = 1 / (1 + np.exp(-z))
  probs = jax.jit(lambda z: jax.nn.softmax(class_logits(z[:, None])))(z)
  chex.assert_trees_all_close(probs, np.stack([1 - sigmoid, sigmoid], -1), atol=1e-6)
  chex.assert_trees_all_close(binary_loss(z, mask), expected, rtol=1e-6, atol=1e-6)
  gradient = jax.grad(lambda z: binary_loss(z, mask).sum())(z)
  expected = np.where(mask == VOID, 0, sigmoid - (mask == 1))
  chex.assert_trees_all_close(gradient, expected, atol=1e-6)
  assert gradient[-1] == 0
  check_grads(lambda z: binary_loss(z, mask[:4]), (z[:4],), order=1, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_other_heads_pass_through(num_classes):
  logits = np.ones((2, 5, num_classes), np.float32)
  np.testing.assert_array_equal(class_logits(logits), logits)
