"""Transposed convolutions: their forms against each other, XLA's own, Keras, and loops."""

import functools

import chex
import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
import reference
from jax import lax
from jax.test_util import check_grads
from reference import normal, pull_both

from jaxseg import up_convolution

up_conv_2x2 = functools.partial(up_convolution.up_conv, stride=2)


class Values(chex.TestCase):
  """Transposed convolutions give what their loops give, compiled or not."""

  @chex.variants(with_jit=True, without_jit=True)
  def test_up_conv_2x2(self):
    x, kernel = normal(2, 3, 5, 4), normal(2, 2, 4, 6, seed=1)
    y = self.variant(up_conv_2x2)(x, kernel)
    chex.assert_trees_all_close(y, reference.up_conv(x, kernel), atol=1e-5)

  @chex.variants(with_jit=True, without_jit=True)
  def test_up_conv_3x3(self):
    for h, w in (3, 5), (1, 1):
      parts, kernel = (normal(2, h, w, 4), normal(2, h, w, 3, seed=1)), normal(3, 3, 7, 5, seed=2)
      expected = reference.up_conv(np.concatenate(parts, -1), kernel)
      up_conv_3x3 = self.variant(up_convolution.up_conv_3x3)
      chex.assert_trees_all_close(up_conv_3x3(parts, kernel), expected, atol=1e-5)
      whole = [np.concatenate(parts, -1)]
      chex.assert_trees_all_close(up_conv_3x3(whole, kernel), expected, atol=1e-5)


def keras_up_conv(x, kernel, *, strides=2, **options):
  size, _, _, features = kernel.shape
  layer = keras.layers.Conv2DTranspose(
    features,
    size,
    strides=strides,
    use_bias=False,
    kernel_initializer=lambda shape, dtype: kernel.transpose(0, 1, 3, 2),  # (k, k, out, in)
    **options,
  )
  return np.asarray(layer(x))


def test_up_conv_3x3_equals_keras():
  x, kernel = normal(2, 5, 4, 6), normal(3, 3, 6, 7, seed=1)
  expected = keras_up_conv(x, kernel, padding="same")
  parts = (x[..., :1], x[..., 1:4], x[..., 4:])
  found = jax.jit(up_convolution.up_conv_3x3)(parts, kernel)
  chex.assert_trees_all_close(found, expected, atol=1e-5)


@pytest.mark.parametrize("size, stride", [(2, 2), (8, 8), (4, 2), (16, 8), (9, 3)])
def test_up_conv_equals_keras(size, stride):
  x, kernel = normal(2, 5, 4, 6), normal(size, size, 6, 7, seed=1)
  y = jax.jit(up_convolution.up_conv, static_argnums=2)(x, kernel, stride)
  expected = keras_up_conv(x, kernel, strides=stride)
  chex.assert_trees_all_close(y, expected, atol=1e-5)


def test_up_conv_refuses_a_kernel_that_is_no_multiple_of_the_stride():
  with pytest.raises(ValueError, match="3 px.*stride 2"):
    up_convolution.up_conv(normal(1, 2, 2, 3), normal(3, 3, 3, 2), 2)


def test_up_conv_3x3_refuses_another_number_of_channels():
  parts = (jnp.zeros((1, 2, 2, 3)), jnp.zeros((1, 2, 2, 4)))
  with pytest.raises(ValueError, match=r"8 channels.*\[3, 4\]"):
    up_convolution.up_conv_3x3(parts, jnp.zeros((3, 3, 8, 2)))


def test_up_conv_gradients():
  check = functools.partial(check_grads, order=1, modes=["rev"], atol=1e-2, rtol=1e-2)
  parts, kernel = (normal(2, 3, 2, 2), normal(2, 3, 2, 1, seed=1)), normal(3, 3, 3, 2, seed=2)
  check(jax.jit(up_convolution.up_conv_3x3), (parts, kernel))
  x, kernel = normal(2, 3, 2, 3), normal(4, 4, 3, 2, seed=1)
  check(jax.jit(up_conv_2x2), (x, kernel))


def test_up_conv_3x3_gradient_equals_that_of_the_concatenation():
  parts, kernel = (normal(2, 3, 4, 4), normal(2, 3, 4, 3, seed=1)), normal(3, 3, 7, 5, seed=2)
  g = normal(2, 6, 8, 5, seed=3)

  def transposed(parts, kernel):
    # XLA's is a convolution of the image with zeros in between: the kernel the other way round.
    return lax.conv_transpose(
      jnp.concatenate(parts, -1), kernel[::-1, ::-1], (2, 2), ((2, 1), (2, 1)),
      dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest",
    )  # fmt: skip

  ours, theirs = jax.jit(lambda *args: pull_both(up_convolution.up_conv_3x3, transposed, args, g))(
    parts, kernel
  )
  chex.assert_trees_all_close(ours, theirs, atol=1e-4)


def test_up_conv_3x3_with_a_part_without_gradient():
  """The others' gradients stay as they are, its own is zero and its product is not computed."""
  parts, kernel = (normal(1, 3, 3, 2), normal(1, 3, 3, 4, seed=1)), normal(3, 3, 6, 2, seed=2)

  def total(parts, kernel, stop):
    first, second = parts
    second = lax.stop_gradient(second) if stop else second
    return (up_convolution.up_conv_3x3((first, second), kernel) ** 2).sum()

  gradient = jax.jit(jax.grad(total, (0, 1)), static_argnums=2)

  def products(stop):
    return gradient.lower(parts, kernel, stop).compile().as_text().count(" dot(")

  (first, second), dk = gradient(parts, kernel, True)
  (full_first, full_second), full_dk = gradient(parts, kernel, False)
  chex.assert_trees_all_close((first, dk), (full_first, full_dk), rtol=1e-5)
  assert not second.any() and full_second.any()
  # Per part: one product forward, one for the kernel's gradient, one for its own.
  assert (products(False), products(True)) == (6, 5)


@pytest.mark.parametrize(
  "size, stride",
  [(2, 2), (4, 2), pytest.param(16, 8, marks=pytest.mark.slow), (9, 3),
   pytest.param(32, 16, marks=pytest.mark.slow)],
)  # fmt: skip
def test_transposed_conv_equals_blocks(size, stride):
  """The form of `up_conv` for TPUs: values and gradients, in float64."""
  with jax.enable_x64(True):
    x, kernel = normal(2, 5, 4, 6).astype(float), normal(size, size, 6, 7, seed=1).astype(float)
    transposed = functools.partial(up_convolution.transposed_conv, strides=(stride, stride))
    by_blocks = functools.partial(up_convolution.up_conv_by_blocks, stride=stride)
    h, w = ((n - 1) * stride + size for n in (5, 4))
    g = normal(2, h, w, 7, seed=2).astype(float)
    ours, theirs = pull_both(transposed, by_blocks, (x, kernel), g)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-12, atol=1e-12)
    for group in [n for n in range(2, min(stride, 8) + 1) if stride % n == 0]:
      to_groups = functools.partial(up_convolution.up_conv_to_groups, stride=stride, group=group)
      ours, theirs = pull_both(to_groups, by_blocks, (x, kernel), g)
      chex.assert_trees_all_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
def test_up_conv_3x3_by_parts_equals_taps():
  """The form of `up_conv_3x3` for TPUs: values and gradients, in float64."""
  with jax.enable_x64(True):
    parts = [normal(2, 3, 4, c, seed=c).astype(float) for c in (4, 1, 3)]
    kernel, g = (normal(*s, seed=5).astype(float) for s in ((3, 3, 8, 5), (2, 6, 8, 5)))
    forms = up_convolution.up_conv_3x3_by_parts, up_convolution.up_conv_3x3_by_taps
    ours, theirs = pull_both(*forms, (parts, kernel), g)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-12, atol=1e-12)
