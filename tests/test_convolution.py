"""Convolutions: their forms for platforms against each other, XLA's own, Keras, and loops."""

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

from jaxseg import convolution, platforms


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_conv_3x3_on_pairs_of_pixels(padding):
  """The form for TPUs has the values and the gradients of XLA's own convolution, in float64."""
  with jax.enable_x64(True):
    x, kernel = normal(2, 7, 8, 5).astype(float), normal(3, 3, 5, 6, seed=1).astype(float)
    h, w = (7, 8) if padding == "same" else (5, 6)
    forms = convolution.conv_3x3_on_pairs, convolution.conv_3x3
    forms = (functools.partial(form, padding=padding) for form in forms)
    ours, theirs = pull_both(*forms, (x, kernel), normal(2, h, w, 6, seed=2).astype(float))
    chex.assert_trees_all_close(ours, theirs, rtol=1e-12, atol=1e-12)
  found = convolution.conv_3x3_on_pairs(*(jnp.float32(a) for a in (x, kernel)), padding)
  expected = reference.conv(x, kernel)
  if padding == "valid":
    expected = expected[:, 1:-1, 1:-1]
  chex.assert_trees_all_close(found, np.float32(expected), atol=1e-5)


def test_conv_3x3_takes_the_form_of_the_platform():
  def shapes(platform, width=8, channels=64):
    args = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((1, 8, width, 64), (3, 3, 64, channels))]
    lowered = jax.jit(convolution.conv_3x3).trace(*args).lower(lowering_platforms=(platform,))
    return [line for line in lowered.as_text().splitlines() if "stablehlo.convolution" in line]

  pairs = "tensor<1x8x4x128xf32>"
  assert pairs in shapes("tpu")[0] and pairs not in shapes("cpu")[0]
  assert len(shapes("tpu")) == len(shapes("cpu")) == 1
  for other in shapes("tpu", width=7), shapes("tpu", channels=65):
    assert "128xf32" not in other[0]


def test_plain_forms_know_no_platform():
  args = jnp.ones((1, 8, 8, 64)), jnp.ones((3, 3, 64, 64))
  assert "platform_index" in str(jax.make_jaxpr(convolution.conv_3x3)(*args))
  with platforms.plain_forms():
    plain = str(jax.make_jaxpr(lambda *args: convolution.conv_3x3(*args))(*args))
    jax.jvp(lambda *args: convolution.conv_3x3(*args), args, args)
  assert "platform_index" not in plain and "conv_general_dilated" in plain


def test_kernels_on_pairs_are_not_rounded():
  """Neither they nor their gradients pass a product of the TPU's default precision."""
  args = jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 4, 5))
  pull = lambda *args: jax.vjp(lambda k: convolution.conv_3x3(args[0], k), args[1])  # noqa: E731
  step = jax.jit(lambda *args: (y := pull(*args))[1](y[0]))
  lowered = step.trace(*args).lower(lowering_platforms=("tpu",)).as_text()
  products = [line for line in lowered.splitlines() if "dot_general" in line]
  assert len(products) >= 2 and all("HIGHEST, HIGHEST" in line for line in products)


def test_gradients_of_gradients_and_batches_of_kernels():
  args = normal(2, 4, 6, 3), normal(3, 3, 3, 2, seed=1)

  def slope(conv, x, kernel):
    def total(kernel):
      return jnp.sum(jnp.sin(conv(x, kernel, "same")))

    return jax.grad(lambda kernel: jnp.sum(jnp.cos(jax.grad(total)(kernel))))(kernel)

  kernels = jnp.stack([args[1], 2 * args[1]])
  found, expected = (
    jax.vmap(functools.partial(slope, conv), (None, 0))(args[0], kernels)
    for conv in (convolution.conv_3x3, convolution.conv_3x3_plain)
  )
  chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-4)


def test_conv_3x3_gradients():
  for padding in ("same", "valid"):
    conv = functools.partial(convolution.conv_3x3, padding=padding)
    args = normal(1, 4, 6, 2), normal(3, 3, 2, 3, seed=1)
    check_grads(jax.jit(conv), args, order=1, modes=["rev"], atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("channels", [1, 3])
def test_stem_conv_on_blocks(channels):
  """The form for TPUs has the values and the gradients of XLA's own convolution, in float64."""
  with jax.enable_x64(True):
    x, kernel = (normal(*s).astype(float) for s in ((2, 6, 12, channels), (7, 7, channels, 5)))
    forms = convolution.stem_conv_on_blocks, convolution.stem_conv_plain
    ours, theirs = pull_both(*forms, (x, kernel), normal(2, 3, 6, 5, seed=2).astype(float))
    chex.assert_trees_all_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_stem_conv():
  """A tap at a time, at sizes that divide and that do not."""
  for h, w in (8, 8), (7, 5), (4, 6):
    x, kernel = normal(1, h, w, 2), normal(7, 7, 2, 3, seed=1)
    padded = np.pad(x, ((0, 0), (3, 3), (3, 3), (0, 0))).astype(float)
    expected = sum(
      padded[:, i : i + h : 2, j : j + w : 2] @ kernel[i, j] for i, j in np.ndindex(7, 7)
    )
    found = jax.jit(convolution.stem_conv)(x, kernel)
    chex.assert_trees_all_close(found, np.float32(expected), atol=1e-4)


up_conv_2x2 = functools.partial(convolution.up_conv, stride=2)


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
      up_conv_3x3 = self.variant(convolution.up_conv_3x3)
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
  chex.assert_trees_all_close(jax.jit(convolution.up_conv_3x3)(parts, kernel), expected, atol=1e-5)


@pytest.mark.parametrize("size, stride", [(2, 2), (8, 8), (4, 2), (16, 8), (9, 3)])
def test_up_conv_equals_keras(size, stride):
  x, kernel = normal(2, 5, 4, 6), normal(size, size, 6, 7, seed=1)
  y = jax.jit(convolution.up_conv, static_argnums=2)(x, kernel, stride)
  expected = keras_up_conv(x, kernel, strides=stride)
  chex.assert_trees_all_close(y, expected, atol=1e-5)


def test_up_conv_refuses_a_kernel_that_is_no_multiple_of_the_stride():
  with pytest.raises(ValueError, match="3 px.*stride 2"):
    convolution.up_conv(normal(1, 2, 2, 3), normal(3, 3, 3, 2), 2)


def test_up_conv_3x3_refuses_another_number_of_channels():
  parts = (jnp.zeros((1, 2, 2, 3)), jnp.zeros((1, 2, 2, 4)))
  with pytest.raises(ValueError, match=r"8 channels.*\[3, 4\]"):
    convolution.up_conv_3x3(parts, jnp.zeros((3, 3, 8, 2)))


def test_up_conv_gradients():
  check = functools.partial(check_grads, order=1, modes=["rev"], atol=1e-2, rtol=1e-2)
  parts, kernel = (normal(2, 3, 2, 2), normal(2, 3, 2, 1, seed=1)), normal(3, 3, 3, 2, seed=2)
  check(jax.jit(convolution.up_conv_3x3), (parts, kernel))
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

  ours, theirs = jax.jit(lambda *args: pull_both(convolution.up_conv_3x3, transposed, args, g))(
    parts, kernel
  )
  chex.assert_trees_all_close(ours, theirs, atol=1e-4)


def test_up_conv_3x3_with_a_part_without_gradient():
  """The others' gradients stay as they are, its own is zero and its product is not computed."""
  parts, kernel = (normal(1, 3, 3, 2), normal(1, 3, 3, 4, seed=1)), normal(3, 3, 6, 2, seed=2)

  def total(parts, kernel, stop):
    first, second = parts
    second = lax.stop_gradient(second) if stop else second
    return (convolution.up_conv_3x3((first, second), kernel) ** 2).sum()

  gradient = jax.jit(jax.grad(total, (0, 1)), static_argnums=2)

  def products(stop):
    return gradient.lower(parts, kernel, stop).compile().as_text().count(" dot(")

  (first, second), dk = gradient(parts, kernel, True)
  (full_first, full_second), full_dk = gradient(parts, kernel, False)
  chex.assert_trees_all_close((first, dk), (full_first, full_dk), rtol=1e-5)
  assert not second.any() and full_second.any()
  # Per part: one product forward, one for the kernel's gradient, one for its own.
  assert (products(False), products(True)) == (6, 5)


@pytest.mark.parametrize("size, stride", [(2, 2), (4, 2), (16, 8), (9, 3)])
def test_transposed_conv_equals_blocks(size, stride):
  """The form of `up_conv` for TPUs: values and gradients, in float64."""
  with jax.enable_x64(True):
    x, kernel = normal(2, 5, 4, 6).astype(float), normal(size, size, 6, 7, seed=1).astype(float)
    forms = convolution.transposed_conv, convolution.up_conv_by_blocks
    h, w = ((n - 1) * stride + size for n in (5, 4))
    g = normal(2, h, w, 7, seed=2).astype(float)
    forms = (functools.partial(form, stride=stride) for form in forms)
    ours, theirs = pull_both(*forms, (x, kernel), g)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_up_conv_3x3_by_parts_equals_taps():
  """The form of `up_conv_3x3` for TPUs: values and gradients, in float64."""
  with jax.enable_x64(True):
    parts = [normal(2, 3, 4, c, seed=c).astype(float) for c in (4, 1, 3)]
    kernel, g = (normal(*s, seed=5).astype(float) for s in ((3, 3, 8, 5), (2, 6, 8, 5)))
    forms = convolution.up_conv_3x3_by_parts, convolution.up_conv_3x3_by_taps
    ours, theirs = pull_both(*forms, (parts, kernel), g)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-12, atol=1e-12)
