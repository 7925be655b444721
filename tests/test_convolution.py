"""Convolutions: their forms for platforms against each other, XLA's own, and loops."""

import contextlib
import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from jax.test_util import check_grads
from reference import normal, pull_both

from jaxseg import convolution, platforms


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_conv_3x3_on_pairs_of_pixels(padding):
  """The form for TPUs has the values and the gradients of XLA's own convolution, in float64."""
  with jax.enable_x64(True):
    x, kernel = normal(2, 7, 8, 5).astype(float), normal(3, 3, 5, 6, seed=1).astype(float)
    h, w = (7, 8) if padding == "same" else (5, 6)
    edges = ((1, 1),) * 2 if padding == "same" else ((0, 0),) * 2
    pairs = functools.partial(convolution.conv_3x3_on_pairs, padding=edges)
    plain = functools.partial(convolution.conv_3x3, padding=padding)
    ours, theirs = pull_both(pairs, plain, (x, kernel), normal(2, h, w, 6, seed=2).astype(float))
    chex.assert_trees_all_close(ours, theirs, rtol=1e-12, atol=1e-12)
  found = pairs(*(jnp.float32(a) for a in (x, kernel)))
  expected = reference.conv(x, kernel)
  if padding == "valid":
    expected = expected[:, 1:-1, 1:-1]
  chex.assert_trees_all_close(found, np.float32(expected), atol=1e-5)


def test_forms_of_conv_1x1():
  """Pairs of pixels and gradients one channel at a time, in float64; one product, in float32."""
  with jax.enable_x64(True):
    x, kernel, g = (normal(*s).astype(float) for s in ((2, 3, 6, 7), (7, 3), (2, 3, 6, 3)))
    forms = convolution.conv_1x1_on_pairs, convolution.conv_1x1_by_product
    ours, theirs = pull_both(*forms, (x, kernel), g)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-12, atol=1e-12)
    chex.assert_trees_all_close(ours[0], x @ kernel, rtol=1e-12)
    gradients = convolution._narrow_gradients((x, kernel), g)
    chex.assert_trees_all_close(gradients, ours[1], rtol=1e-12, atol=1e-12)
  args = normal(1, 3, 3, 8), normal(8, 2, seed=1)
  found = jax.jit(convolution.conv_1x1)(*args)
  chex.assert_trees_all_close(found, args[0] @ args[1], rtol=1e-5, atol=1e-5)
  check_grads(jax.jit(convolution.conv_1x1), args, order=1, modes=["rev"], atol=1e-2, rtol=1e-2)


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
      return jnp.sum(jnp.sin(conv(x, kernel)))

    return jax.grad(lambda kernel: jnp.sum(jnp.cos(jax.grad(total)(kernel))))(kernel)

  kernels = jnp.stack([args[1], 2 * args[1]])
  found, expected = (
    jax.vmap(functools.partial(slope, conv), (None, 0))(args[0], kernels)
    for conv in (convolution.conv_3x3, convolution.conv_plain)
  )
  chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-4)

@pytest.mark.parametrize(
  "size, strides, padding, dilation",
  [
    (3, (1, 1), "SAME", 1),
    (3, (1, 1), "VALID", 1),
    (3, (1, 1), "SAME", 2),
    (3, (2, 2), "SAME", 1),
    (3, (2, 1), [(1, 1), (0, 2)], 1),
    (7, (2, 2), [(3, 3), (3, 3)], 1),
    (3, (2, 3), "VALID", 2),
  ],
)
def test_conv_is_that_of_jax(size, strides, padding, dilation):
  """With its gradients as in loops, in float64."""
  with jax.enable_x64(True), platforms.in_loop():
    args = normal(2, 9, 8, 5).astype(float), normal(size, size, 5, 6, seed=1).astype(float)
    more = {"rhs_dilation": (dilation, dilation)}

    def ours(x, kernel):
      return convolution.conv(x, kernel, strides, padding, **more)

    def theirs(x, kernel):
      numbers = ("NHWC", "HWIO", "NHWC")
      return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=numbers, **more
      )

    shape = jax.eval_shape(theirs, *args).shape
    found, expected = pull_both(ours, theirs, args, normal(*shape, seed=2).astype(float))
    chex.assert_trees_all_close(found, expected, rtol=1e-12, atol=1e-12)
  with pytest.raises(AssertionError):
    convolution.conv(*args, strides, padding, feature_group_count=5)


@pytest.mark.parametrize("channels, dilation", [(8, 1), (65, 1), (8, 2)])
def test_in_loops_on_cpus_convolutions_are_in_the_order_of_the_forward_pass(channels, dilation):
  """Elsewhere, as JAX differentiates them."""

  def orders(platform, loop=True):
    def loss(x, kernel):
      return convolution.conv_3x3(x, kernel, dilation=dilation).sum()

    args = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((1, 8, 8, 8), (3, 3, 8, channels))]
    gradient = jax.jit(jax.value_and_grad(loss, (0, 1)))
    with platforms.in_loop() if loop else contextlib.nullcontext():
      text = gradient.trace(*args).lower(lowering_platforms=(platform,)).as_text()
    found = re.findall(r"dim_numbers = (.*?), window", text)
    return [order.replace(" ", "") for order in found]

  forward = "[b,0,1,f]x[0,1,i,o]->[b,0,1,f]"
  assert len(orders("cpu")) == 3 and set(orders("cpu")) == {forward}
  for found in orders("cuda"), orders("cpu", loop=False):
    assert len(found) == len(set(found)) == 3


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
    forms = convolution.stem_conv_on_blocks, convolution.stem_conv
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


def test_strides_in_a_program_for_any_size():
  shape = jax.export.symbolic_shape("b, h, w", constraints=["b >= 1", "h >= 1", "w >= 1"])
  kernel = jnp.ones((3, 3, 2, 1))
  run = jax.jit(lambda x: convolution.conv(x, kernel, (2, 2)))
  program = jax.export.export(run)(jax.ShapeDtypeStruct((*shape, 2), jnp.float32))
  # "SAME": a window of 5 pixels begins outside, one of 6 on the first; two channels of ones.
  np.testing.assert_array_equal(
    program.call(jnp.ones((1, 5, 6, 2)))[0, :, :, 0], [[12, 12, 8], [18, 18, 12], [12, 12, 8]]
  )
