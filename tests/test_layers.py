"""Building blocks against loops, and the statistics of what they draw."""

import math

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from jax import lax
from reference import normal

from jaxseg.models import layers


def shapes(module, *args):
  """Shapes of a module's parameters."""
  variables = jax.eval_shape(module.init, jax.random.key(0), *args)
  return jax.tree.map(lambda x: x.shape, variables["params"])


def apply(module, params, *args):
  return jax.jit(module.apply)({"params": params}, *args)


@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("channels", [(4,), (3, 1, 2)])
def test_conv_3x3(channels, padding, use_bias):
  """One convolution of the concatenation; "valid" is the interior."""
  parts = [normal(2, 5, 6, c, seed=c) for c in channels]
  module = layers.Conv3x3(7, padding, use_bias=use_bias)
  params = {"kernel": normal(3, 3, sum(channels), 7)}
  if use_bias:
    params["bias"] = normal(7, seed=9)
  assert shapes(module, *parts) == jax.tree.map(np.shape, params)
  expected = reference.conv(np.concatenate(parts, -1), params["kernel"]) + params.get("bias", 0.0)
  if padding == "valid":
    expected = expected[:, 1:-1, 1:-1]
  y = apply(module, params, *parts)
  chex.assert_trees_all_close(y, expected, atol=1e-5)
  whole = lax.conv_general_dilated(
    np.concatenate(parts, -1), params["kernel"], (1, 1), padding.upper(),
    dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest",
  )  # fmt: skip
  chex.assert_trees_all_close(y, whole + params.get("bias", 0.0), atol=1e-5)


def test_conv_1x1():
  x, module = normal(2, 3, 5, 4), layers.Conv1x1(6)
  assert shapes(module, x) == {"kernel": (1, 1, 4, 6), "bias": (6,)}
  params = {"kernel": normal(1, 1, 4, 6, seed=1), "bias": normal(6, seed=2)}
  expected = reference.conv(x, params["kernel"]) + params["bias"]
  for parts in ([x], [x[..., :3], x[..., 3:]]):
    chex.assert_trees_all_close(apply(module, params, *parts), expected, atol=1e-5)
  assert shapes(layers.Conv1x1(6, use_bias=False), x) == {"kernel": (1, 1, 4, 6)}


def test_place_strides():
  """Five layers that halve, and one that does not, at DeepLab's output strides."""
  strides = (2, 2, 2, 1, 2, 2)
  places = {
    32: [(2, 1), (2, 1), (2, 1), (1, 1), (2, 1), (2, 1)],
    16: [(2, 1), (2, 1), (2, 1), (1, 1), (2, 1), (1, 1)],
    # The layer that loses its stride still sees neighbours, those behind it every second value.
    8: [(2, 1), (2, 1), (2, 1), (1, 1), (1, 1), (1, 2)],
  }
  for output_stride, expected in places.items():
    assert layers.place_strides(strides, output_stride) == expected
  assert layers.place_strides((2, 2, 1, 1), 2) == [(2, 1), (1, 1), (1, 2), (1, 2)]
  # As segmentation_models.pytorch: the dilation of a stage is its stride by the output stride.
  assert layers.place_strides(strides, 8, at_once=True) == [*places[8][:4], (1, 2), (1, 4)]


@pytest.mark.parametrize(
  "form", [(1,), (2,), (1, 3), (2, 2, "symmetric")], ids=lambda form: "-".join(map(str, form))
)
def test_depthwise_conv(form):
  x, kernel = normal(2, 7, 6, 4), normal(3, 3, 4, seed=1)
  module = layers.DepthwiseConv(*form)
  assert shapes(module, x) == {"kernel": (3, 3, 4)}
  expected = reference.depthwise_conv(x, kernel, *form)
  for parts in ([x], [x[..., :3], x[..., 3:]]):
    found = apply(module, {"kernel": kernel}, *parts)
    assert len(found) == len(parts)
    chex.assert_trees_all_close(np.concatenate(found, -1), expected, atol=1e-5)


def test_up_conv_2x2():
  x, module = normal(2, 3, 5, 4), layers.UpConv2x2(6)
  assert shapes(module, x) == {"kernel": (2, 2, 4, 6), "bias": (6,)}
  params = {"kernel": normal(2, 2, 4, 6, seed=1), "bias": normal(6, seed=2)}
  expected = reference.up_conv(x, params["kernel"]) + params["bias"]
  chex.assert_trees_all_close(apply(module, params, x), expected, atol=1e-5)


def test_transposed_convolution_of_the_course():
  """A 1x1 kernel of 1, stride 2, bias 1: the kernel that is 1 at [0, 0] and 0 elsewhere."""
  x = np.float32([[1, 2], [3, 4]])[None, :, :, None]
  expected = [[2, 1, 3, 1], [1, 1, 1, 1], [4, 1, 5, 1], [1, 1, 1, 1]]
  kernel, bias = np.zeros((2, 2, 1, 1), np.float32), np.ones(1, np.float32)
  kernel[0, 0] = 1
  y = apply(layers.UpConv2x2(1), {"kernel": kernel, "bias": bias}, x)
  np.testing.assert_array_equal(y[0, :, :, 0], expected)
  params = {"kernel": np.ones((1, 1, 1, 1), np.float32), "bias": bias}
  y = apply(nn.ConvTranspose(1, (1, 1), strides=(2, 2)), params, x)
  np.testing.assert_array_equal(y[0, :, :, 0], expected)


@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize("mode", ["transposed", "resize"])
def test_up_conv_3x3(mode, use_bias):
  parts = normal(2, 3, 5, 4), normal(2, 3, 5, 2, seed=1)
  module = layers.UpConv3x3(5, mode, use_bias=use_bias)
  params = {"kernel": normal(3, 3, 6, 5, seed=2)}
  if use_bias:
    params["bias"] = normal(5, seed=3)
  assert shapes(module, *parts) == jax.tree.map(np.shape, params)
  x = np.concatenate(parts, -1)
  if mode == "transposed":
    expected = reference.up_conv(x, params["kernel"])
  else:  # every pixel twice in both directions, then a plain convolution
    expected = reference.conv(np.kron(x, np.ones((1, 2, 2, 1))), params["kernel"])
  y = apply(module, params, *parts)
  chex.assert_trees_all_close(y, expected + params.get("bias", 0.0), atol=1e-5)


def test_initial_scales():
  """He et al. 2015: variance 2 / fan-in, the inputs that one output sums; biases are 0."""
  x = jnp.zeros((1, 4, 4, 256))
  expected = {
    layers.Conv3x3(64): 2 / (9 * 256),
    layers.Conv1x1(64): 2 / 256,
    layers.UpConv2x2(64): 2 / 256,  # windows do not overlap: one pixel
    layers.UpConv3x3(64, use_bias=True): 2 / (9 * 256),
    # Keras' Glorot on its kernel (3, 3, C, 1): fan-in 9 C, fan-out 9; see the comment there.
    layers.DepthwiseConv(): 2 / (9 * 256 + 9),
  }
  for module, variance in expected.items():
    params = jax.jit(module.init)(jax.random.key(0), x)["params"]
    # 2304 draws and more: 5% is over three standard deviations.
    assert np.std(params["kernel"]) == pytest.approx(math.sqrt(variance), rel=0.05), module
    assert not np.any(params.get("bias", 0.0))
  # Of several parts, the fan-in counts all channels.
  parts = x[..., :192], x[..., 192:]
  kernel = jax.jit(layers.Conv3x3(64).init)(jax.random.key(0), *parts)["params"]["kernel"]
  assert np.std(kernel) == pytest.approx(math.sqrt(2 / (9 * 256)), rel=0.02)


@pytest.mark.parametrize(
  "module",
  [
    layers.Conv3x3(3, dtype=jnp.bfloat16),
    layers.Conv1x1(3, dtype=jnp.bfloat16),
    layers.DepthwiseConv(dtype=jnp.bfloat16),
    layers.UpConv2x2(3, dtype=jnp.bfloat16),
    layers.UpConv3x3(3, use_bias=True, dtype=jnp.bfloat16),
    layers.UpConv3x3(3, "resize", use_bias=True, dtype=jnp.bfloat16),
  ],
  ids=lambda module: type(module).__name__ + getattr(module, "mode", ""),
)
def test_bfloat16_activations_float32_parameters(module):
  x = jnp.zeros((1, 4, 4, 2))
  y, variables = jax.eval_shape(lambda: module.init_with_output(jax.random.key(0), x))
  assert [part.dtype for part in jax.tree.leaves(y)] == [jnp.bfloat16]
  assert {p.dtype for p in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


def dropout(x, keys, rate=0.25):
  return np.asarray(jax.jit(layers.Dropout(rate).apply)({}, x, keys))


def test_dropout_follows_the_example():
  """The same example and key drop the same, whatever the place and the size of the batch."""
  x, keys = normal(5, 4, 3, 2), jax.random.split(jax.random.key(0), 5)
  whole = dropout(x, keys)
  order = np.array([3, 0, 4])
  np.testing.assert_array_equal(dropout(x[order], keys[order]), whole[order])
  np.testing.assert_array_equal(dropout(x[2:3], keys[2:3]), whole[2:3])
  dropped = (whole == 0).reshape(5, -1)
  assert len({row.tobytes() for row in dropped}) == 5  # every key its own


def test_dropout_keeps_the_expected_value():
  """A share of `rate` becomes 0, independently; the others grow by 1 / (1 - rate)."""
  x = np.full((20, 8, 8, 16), 3.0, np.float32)
  y = dropout(x, jax.random.split(jax.random.key(1), 20))
  np.testing.assert_allclose(np.unique(y), [0.0, 4.0], rtol=1e-6)
  # 20480 draws with probability 1/4: standard deviation 0.003.
  assert (y == 0).mean() == pytest.approx(0.25, abs=0.012)
  assert y.mean() == pytest.approx(3.0, abs=0.05)
  for axis in range(4):  # no rows, columns or channels that drop together
    assert np.ptp((y == 0).mean(tuple({0, 1, 2, 3} - {axis}))) < 0.15


def test_no_dropout():
  x = normal(2, 4, 3, 2)
  np.testing.assert_array_equal(layers.Dropout(0.5).apply({}, x, None), x)
  keys = jax.random.split(jax.random.key(0), 2)
  np.testing.assert_array_equal(layers.Dropout(0.0).apply({}, x, keys), x)
