"""Array operations against loops, Keras, XLA's own convolution, and jax.image."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import scipy.ndimage
from absl.testing import parameterized
from jax.test_util import check_grads
from reference import normal, pull_both

from jaxseg import depthwise, ops, up_convolution


class Values(chex.TestCase):
  """Every operation gives what its loop gives, compiled or not."""

  @chex.variants(with_jit=True, without_jit=True)
  def test_max_pool_2x2(self):
    x = normal(2, 6, 4, 3) - 5.0  # below zero: padding with zeros anywhere would show
    chex.assert_trees_all_equal(
      self.variant(ops.max_pool_2x2)(x), reference.max_pool_2x2(x).astype(np.float32)
    )

  @chex.variants(with_jit=True, without_jit=True)
  def test_max_pool_3x3(self):
    for h, w in (6, 5), (7, 4), (1, 2):
      x = normal(2, h, w, 3) - 5.0  # below zero: padding with zeros anywhere would show
      chex.assert_trees_all_equal(
        self.variant(ops.max_pool_3x3)(x), reference.max_pool_3x3(x).astype(np.float32)
      )

  @chex.variants(with_jit=True, without_jit=True)
  def test_pad_to_multiple(self):
    pad = self.variant(ops.pad_to_multiple, static_argnums=1)
    for h, w, multiple in (33, 57, 16), (1, 1, 32), (20, 50, 32), (32, 16, 16), (5, 7, 1):
      x = normal(1, h, w, 2)
      chex.assert_trees_all_equal(pad(x, multiple), reference.mirror_pad(x, multiple))


def test_max_pool_refuses_odd_sizes():
  for h, w in (5, 4), (4, 5):
    with pytest.raises(ValueError, match=f"even.*{h}x{w}"):
      ops.max_pool_2x2(jnp.zeros((1, h, w, 1)))


def test_max_pool_gradient():
  """All to the largest; a tie is halved by each pairwise maximum, as the docstring says."""
  windows = {
    ((1, 2), (3, 4)): ((0, 0), (0, 1)),
    ((4, 2), (3, 1)): ((1, 0), (0, 0)),
    ((5, 1), (5, 2)): ((0.5, 0), (0.5, 0)),  # a tie inside of the left column
    ((5, 5), (1, 2)): ((0.5, 0.5), (0, 0)),  # a tie between the columns
    ((5, 5), (5, 2)): ((0.25, 0.5), (0.25, 0)),
    ((0, 0), (0, 0)): ((0.25, 0.25), (0.25, 0.25)),
  }
  for window, expected in windows.items():
    x = jnp.array(window, jnp.float32)[None, :, :, None]
    gradient = jax.grad(lambda x: 3 * ops.max_pool_2x2(x).sum())(x)
    np.testing.assert_array_equal(gradient[0, :, :, 0], 3 * np.array(expected))


def test_max_pool_gradient_of_ties_adds_up():
  x = np.random.default_rng(0).integers(0, 3, (2, 8, 8, 3)).astype(np.float32)
  gradient = np.asarray(jax.grad(lambda x: ops.max_pool_2x2(x).sum())(x))
  np.testing.assert_array_equal(gradient.reshape(2, 4, 2, 4, 2, 3).sum((2, 4)), 1.0)
  largest = reference.max_pool_2x2(x).repeat(2, 1).repeat(2, 2)
  assert (gradient[x < largest] == 0).all() and (gradient[x == largest] > 0).all()


def test_max_pool_3x3_gradient():
  """All to the largest; a tie is shared, and nothing is lost to the padding."""
  rng = np.random.default_rng(0)
  x = rng.permutation(2 * 7 * 6).reshape(2, 7, 6, 1).astype(np.float32)
  gradient = np.asarray(jax.grad(lambda x: ops.max_pool_3x3(x).sum())(x))
  pooled = reference.max_pool_3x3(x).ravel()
  expected = [(pooled == value).sum() for value in x.ravel()]  # all values differ
  np.testing.assert_array_equal(gradient.ravel(), expected)
  ties = jax.grad(lambda x: ops.max_pool_3x3(x).sum())(jnp.zeros((1, 8, 8, 2)))
  assert ties.sum() == 2 * 4 * 4 and (np.asarray(ties)[:, :7, :7] > 0).all()


@pytest.mark.parametrize("size", [(8, 8), (6, 4), (5, 7), (8, 10)])
def test_center_crop_is_a_slice(size):
  """Values and gradient, bit for bit, whether or not the crop is of pairs of pixels."""
  x, g = normal(2, 10, 12, 3), normal(2, *size, 3, seed=1)
  top, left = (10 - size[0]) // 2, (12 - size[1]) // 2

  def plain(x):
    return x[:, top : top + size[0], left : left + size[1]]

  ours, theirs = jax.jit(lambda x: pull_both(lambda x: ops.center_crop(x, size), plain, (x,), g))(x)
  chex.assert_trees_all_equal(ours, theirs)
  crop = lambda x: ops.center_crop(x, size)  # noqa: E731
  check_grads(jax.jit(crop), (x,), order=1, atol=1e-2, rtol=1e-2)


def test_operations_keep_bfloat16():
  """A silent change to float32 would cost what the type was chosen for."""

  def types(op, *shapes):
    args = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes]

    def pulled(*args):
      y, pull = jax.vjp(op, *args)
      return y, pull(y)

    return {x.dtype for x in jax.tree.leaves(jax.eval_shape(pulled, *args))}

  image = (1, 4, 4, 2)
  assert types(ops.max_pool_2x2, image) == {jnp.dtype(jnp.bfloat16)}
  assert types(ops.max_pool_3x3, image) == {jnp.dtype(jnp.bfloat16)}
  assert types(depthwise.depthwise_conv, image, (3, 3, 2)) == {jnp.dtype(jnp.bfloat16)}
  up_conv_2x2 = functools.partial(up_convolution.up_conv, stride=2)
  assert types(up_conv_2x2, image, (2, 2, 2, 3)) == {jnp.dtype(jnp.bfloat16)}
  assert types(lambda x, k: up_convolution.up_conv_3x3([x], k), image, (3, 3, 2, 3)) == {
    jnp.dtype(jnp.bfloat16)
  }


class SamplingMatrix(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  def test_interpolates_and_repeats_the_edge(self):
    positions = np.random.default_rng(0).uniform(-4, 13, 50).astype(np.float32)
    matrix = self.variant(ops.sampling_matrix, static_argnums=1)(positions, 10)
    row = normal(10)
    # np.interp takes the edge outside, too.
    chex.assert_trees_all_close(matrix @ row, np.interp(positions, np.arange(10), row), atol=1e-5)

  @chex.variants(with_jit=True, without_jit=True)
  def test_rows_sum_to_one(self):
    positions = np.linspace(-30, 40, 71)
    for width in 0.1, 1.0, 2.7, 50.0:
      matrix = self.variant(ops.sampling_matrix, static_argnums=1)(positions, 10, width)
      assert matrix.shape == (71, 10) and (matrix >= 0).all()
      chex.assert_trees_all_close(matrix.sum(1), np.ones(71), atol=1e-6)


def test_sampling_matrix_at_pixels_is_the_identity():
  for width in 0.3, 1.0:
    matrix = ops.sampling_matrix(jnp.arange(8.0), 8, width)
    np.testing.assert_array_equal(matrix, np.eye(8))


@pytest.mark.parametrize("n, size", [(4, 16), (5, 16), (16, 5), (7, 7)])
def test_sampling_matrix_resizes_like_jax_image(n, size):
  """Antialiased linear resizing is the triangle as wide as the step."""
  step = size / n
  positions = (np.arange(n) + 0.5) * step - 0.5
  column = normal(size, 1)
  expected = jax.image.resize(column, (n, 1), "linear", antialias=True)
  chex.assert_trees_all_close(
    ops.sampling_matrix(positions, size, step) @ column, expected, atol=1e-5
  )


@pytest.mark.parametrize("dtype, atol", [(jnp.float32, 1e-5), (jnp.bfloat16, 0.05)])
@pytest.mark.parametrize(
  "old, new", [((4, 5), (8, 10)), ((3, 7), (33, 9)), ((1, 6), (4, 6)), ((16, 9), (5, 4))]
)
def test_resize_is_that_of_jax(old, new, dtype, atol):
  x = normal(2, *old, 3).astype(dtype)
  found = ops.resize(x, new)
  assert found.dtype == dtype
  expected = jax.image.resize(x.astype(jnp.float32), (2, *new, 3), "bilinear")
  chex.assert_trees_all_close(found.astype(jnp.float32), expected, atol=atol)


@pytest.mark.parametrize("old, new", [(4, 16), (5, 10), (1, 3), (7, 7)])
def test_resize_by_corners(old, new):
  """NumPy's interpolation between the first and the last pixel."""
  x = np.random.default_rng(0).normal(size=(1, old, 2, 3)).astype(np.float32)
  places = np.linspace(0, old - 1, new)
  columns = x.transpose(2, 3, 0, 1).reshape(-1, old)
  expected = np.stack([np.interp(places, np.arange(old), column) for column in columns])
  found = ops.resize(x, (new, 2), corners=True)
  np.testing.assert_allclose(found[0].reshape(new, -1).T, expected, atol=1e-6)


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_double_nearest(more):
  """Pixel floor(i n / N) of n for i of N."""
  x = np.random.default_rng(0).normal(size=(2, 5, 3, 2))
  rows, cols = (np.arange(2 * n + more) * n // (2 * n + more) for n in (5, 3))
  found = ops.double_nearest(x, (len(rows), len(cols)))
  np.testing.assert_array_equal(found, x[:, rows][:, :, cols].astype(found.dtype))


def test_shrinking_does_not_alias():
  """Stripes of one pixel, taken at every fourth, turn grey instead of black or white."""
  stripes = np.arange(64) % 2.0
  positions = 4 * np.arange(2, 14) + 0.5
  grey = ops.sampling_matrix(positions, 64, 4.0) @ stripes
  chex.assert_trees_all_close(grey, np.full(12, 0.5), atol=1e-5)
  offset = 4.0 * np.arange(2, 14)
  np.testing.assert_array_equal(ops.sampling_matrix(offset, 64) @ stripes, 0.0)  # the alias
  assert abs(ops.sampling_matrix(offset, 64, 4.0) @ stripes - 0.5).max() < 0.07


class CubicMatrix(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  @parameterized.parameters(1, 2, 9)
  def test_interpolates_as_keys(self, size):
    """Inside, at the edges and beyond; rows sum to 1 everywhere."""
    positions = np.concatenate([np.linspace(-4, size + 4, 50), np.arange(-3, size + 3)])
    matrix = self.variant(ops.cubic_matrix, static_argnums=1)(positions.astype(np.float32), size)
    row = normal(size)
    expected = [reference.cubic(row, p) for p in positions]
    chex.assert_trees_all_close(matrix @ row, np.array(expected), atol=1e-5)
    chex.assert_trees_all_close(matrix.sum(1), np.ones(len(positions)), atol=1e-6)


def test_cubic_matrix_is_exact_at_pixels_and_for_parabolas():
  """a = -1/2 is the one value of order three (Keys 1981, section III)."""
  matrix = jax.jit(ops.cubic_matrix, static_argnums=1)
  np.testing.assert_array_equal(matrix(jnp.arange(8.0), 8), np.eye(8))
  positions = np.linspace(1, 6, 31)  # all four taps inside
  for power in 0, 1, 2:
    y = np.asarray(matrix(positions, 8)) @ np.arange(8.0) ** power
    chex.assert_trees_all_close(y, positions**power, atol=1e-4)


@pytest.mark.parametrize("size", [1, 2, 7])
def test_mirror(size):
  """The symmetric padding of numpy, which goes back and forth, linear between pixels."""
  pad = 3 * size + 1
  path = np.pad(np.arange(size), pad, "symmetric")
  places = np.arange(-pad, size + pad)
  np.testing.assert_array_equal(ops.mirror(places.astype(np.float32), size), path)
  between = np.linspace(-pad, size + pad - 1, 97)
  expected = np.interp(between, places, path)
  chex.assert_trees_all_close(ops.mirror(between, size), expected, atol=1e-5)


class SampleBilinear(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  @parameterized.parameters((5, 7), (1, 4), (1, 1))
  def test_equals_scipy(self, h, w):
    """Inside, outside, and on the pixels of the edges."""
    image, rng = normal(h, w, 3), np.random.default_rng(1)
    rows, cols = rng.uniform(-3, h + 2, (9, 8)), rng.uniform(-3, w + 2, (9, 8))
    rows[0], cols[:, 0] = h - 1, w - 1
    rows[1], cols[:, 1] = 0, 0
    y = self.variant(ops.sample_bilinear)(image, rows.astype("f4"), cols.astype("f4"))
    channels = [
      scipy.ndimage.map_coordinates(
        image[..., d].astype(float), (rows, cols), order=1, mode="nearest"
      )
      for d in range(3)
    ]
    chex.assert_trees_all_close(y, np.stack(channels, -1), atol=1e-5)


@pytest.mark.parametrize("block", [1, 2, 3])
def test_space_to_depth(block):
  """Channels in the order of the pixels of a block, row by row."""
  x = normal(2, 6, 12, 4)
  pixels = [x[:, i::block, j::block] for i in range(block) for j in range(block)]
  np.testing.assert_array_equal(ops.space_to_depth(x, block), np.concatenate(pixels, -1))


def test_center_crop():
  x = np.arange(2 * 6 * 9).reshape(2, 6, 9)
  np.testing.assert_array_equal(ops.center_crop(x, (2, 9)), x[:, 2:4])
  np.testing.assert_array_equal(ops.center_crop(x[..., None], (6, 1)), x[:, :, 4:5, None])
  # An odd pixel more goes at the lower and right edge.
  np.testing.assert_array_equal(ops.center_crop(x, (3, 6)), x[:, 1:4, 1:7])


def test_relu():
  x, g = normal(3, 40), normal(3, 40, seed=1)
  x[0, :9] = 0
  y, pull = jax.vjp(ops.relu, jnp.float32(x))
  np.testing.assert_array_equal(y, np.maximum(np.float32(x), 0))
  np.testing.assert_array_equal(pull(jnp.float32(g))[0], np.where(x > 0, np.float32(g), 0))


def test_gradient_of_relu_keeps_the_result_alone():
  y, pull = jax.vjp(ops.relu, -jnp.ones(5))
  assert y.sum() == 0 and all(x.sum() == 0 for x in jax.tree.leaves(pull))


def test_max_pool_gradients_by_hand():
  """Those of the platforms are what JAX derives, ties included."""
  with jax.enable_x64(True):
    x = np.round(normal(2, 6, 8, 5).astype(float) * 1.5)
    g = normal(2, 3, 4, 5, seed=1).astype(float)
    assert (x[:, ::2, ::2] == x[:, ::2, 1::2]).mean() > 0.1
    expected = jax.vjp(ops._max_of_slices, x)[1](g)
    for gradient in (ops._max_pool_gradient, ops._max_pool_gradient_by_rows):
      chex.assert_trees_all_close(gradient((x,), g), expected, rtol=1e-14)
