"""Forms for GPUs against the other forms and NumPy, in float64; which platform takes them."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import normal, pull_both

from jaxseg import convolution, gpu_forms, ops
from jaxseg.models.layers import Conv3x3, UpConv2x2


def doubles(*shape, seed=0):
  return normal(*shape, seed=seed).astype(np.float64)


def check_against_doubles(single, double, args):
  """A function of float32 gives what one of float64 does, to 1e-5."""
  with jax.enable_x64(True):
    expected = jax.tree.map(np.asarray, double(*args))
  found = single(*jax.tree.map(np.float32, args))
  scale = max(np.abs(x).max() for x in jax.tree.leaves(expected))
  chex.assert_trees_all_close(found, jax.tree.map(np.float32, expected), atol=1e-5 * scale)


def test_relu():
  x, g = doubles(3, 40), doubles(3, 40, seed=1)
  x[0, :9] = 0
  y, pull = jax.vjp(gpu_forms.relu, jnp.float32(x))
  np.testing.assert_array_equal(y, np.maximum(np.float32(x), 0))
  np.testing.assert_array_equal(pull(jnp.float32(g))[0], np.where(x > 0, np.float32(g), 0))


def test_gradient_of_relu_keeps_the_result_alone():
  y, pull = jax.vjp(gpu_forms.relu, -jnp.ones(5))
  np.testing.assert_array_equal([x.sum() for x in jax.tree.leaves(pull)], [y.sum()])


def test_max_pool():
  """One pass over the argument has the same gradient, ties included."""
  with jax.enable_x64(True):
    x = np.round(doubles(2, 6, 8, 5) * 1.5)  # many ties
    assert (x[:, ::2, ::2] == x[:, ::2, 1::2]).mean() > 0.1
    g = doubles(2, 3, 4, 5, seed=1)
    y, pull = jax.vjp(ops.max_pool_2x2, x)
    np.testing.assert_array_equal(gpu_forms.max_pool_2x2(x), y)
    found = gpu_forms.max_pool_2x2_gradient(x, g)
    np.testing.assert_allclose(found, pull(g)[0], rtol=1e-14)
    np.testing.assert_allclose(jax.vjp(gpu_forms.max_pool_2x2, x)[1](g)[0], found, rtol=1e-14)


@pytest.mark.parametrize("k", [2, 3])
def test_up_conv(k):
  args = doubles(2, 5, 4, 6), doubles(k, k, 6, 3, seed=1)
  g = doubles(2, 5 * k, 4 * k, 3, seed=2)

  def by_product(x, kernel):
    return ops.up_conv(x, kernel, k)

  with jax.enable_x64(True):
    ours, theirs = pull_both(gpu_forms.up_conv, by_product, args, g)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-12, atol=1e-12)
    expected = np.zeros_like(g)
    for i, j in np.ndindex(k, k):
      expected[:, i::k, j::k] = args[0] @ args[1][i, j]
    found = gpu_forms.up_conv_by_convolution(*args)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
  check_against_doubles(
    gpu_forms.up_conv_gradients,
    lambda x, kernel, g: jax.vjp(by_product, x, kernel)[1](g),
    (*args, g),
  )


def test_narrow_product():
  args = doubles(500, 7), doubles(7, 3, seed=1), doubles(500, 3, seed=2)
  check_against_doubles(gpu_forms.narrow_gradients, lambda x, k, g: (g @ k.T, x.T @ g), args)
  with jax.enable_x64(True):
    ours, theirs = pull_both(gpu_forms.product, jnp.matmul, args[:2], args[2])
    chex.assert_trees_all_close(ours, theirs, rtol=1e-12)


def test_constants_of_a_valid_convolution():
  """The bias of what is convolved may follow as part of the output."""
  skip, x = doubles(1, 10, 12, 3), doubles(1, 5, 6, 4, seed=1)
  up, conv = UpConv2x2(3, dtype=jnp.float64), Conv3x3(5, "valid", dtype=jnp.float64)
  with jax.enable_x64(True):
    variables = up.init(jax.random.key(0), x)
    variables["params"]["bias"] = doubles(3, seed=2)
    params = conv.init(jax.random.key(1), skip, skip)

    def merge(variables, params, apart):
      if not apart:
        return conv.apply(params, skip, up.apply(variables, x))
      y, bias = up.apply(variables, x, bias_apart=True)
      return conv.apply(params, skip, y, constants=(None, bias))

    g = doubles(1, 8, 10, 5, seed=3)
    both = [
      jax.vjp(lambda *a, apart=apart: merge(*a, apart), variables, params)
      for apart in (False, True)
    ]
    chex.assert_trees_all_close(both[0][0], both[1][0], rtol=1e-9)
    chex.assert_trees_all_close(both[0][1](g), both[1][1](g), rtol=1e-9, atol=1e-9)


def lowered(function, *shapes, platform):
  args = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
  return jax.jit(function).trace(*args).lower(lowering_platforms=(platform,)).as_text()


CASES = {
  "up_conv": (gpu_forms.up_conv, [(1, 4, 4, 8), (2, 2, 8, 4)], "stablehlo.convolution", (0, 1)),
  "gradient of max_pool_2x2": (
    jax.grad(lambda x: gpu_forms.max_pool_2x2(x).sum()), [(1, 4, 4, 8)], "reverse", (0, 2)),
  "gradient of product": (
    jax.grad(lambda *a: gpu_forms.product(*a).sum(), 1), [(9, 8), (8, 2)], "dot_general", (1, 0)),
  "in_memory_order": (
    gpu_forms.in_memory_order, [(3, 3, 8, 4)], "optimization_barrier", (0, 1)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_gpu_alone_takes_its_form(name):
  function, shapes, operation, counts = CASES[name]
  found = [lowered(function, *shapes, platform=p).count(operation) for p in ("cpu", "cuda")]
  assert tuple(found) == counts


def test_wide_products_stay_products():
  function = jax.grad(lambda *a: gpu_forms.product(*a).sum(), 1)
  assert "dot_general" in lowered(function, (9, 8), (8, 5), platform="cuda")


def test_plain_forms_know_no_platform():
  with convolution.plain_forms():
    plain = str(
      jax.make_jaxpr(lambda *a: gpu_forms.up_conv(*a))(*map(jnp.ones, ((1, 2, 2, 3), (2, 2, 3, 1))))
    )
  assert "platform_index" not in plain


def test_memory_order_changes_no_value():
  tree = {"kernel": jnp.arange(24.0).reshape(2, 1, 3, 4), "bias": jnp.arange(3.0)}
  chex.assert_trees_all_equal(gpu_forms.in_memory_order(tree), tree)
