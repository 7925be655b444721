"""Dense CRF of Kraehenbuehl and Koltun (2011): labels that follow the image's edges."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from jax import lax

from jaxseg import UserError
from jaxseg.metrics import MIN_PROB

PAIRS = 1 << 24  # pairs of pixels whose kernel the exact path holds at once: 64 MiB
BLOCK = 1 << 17  # pixels that enter the lattice at once
# The lattice is finer than that of Adams et al. (2010) by this factor and blurred twice, with a
# rim of empty vertices around the occupied ones: a third of the error in the marginals.
REFINEMENT = 1.2
REACH = 5  # sigmas at which the fast path cuts the spatial kernel off; there it is 4e-6


def dense_crf(
  probs: np.ndarray | jax.Array,
  image: np.ndarray | jax.Array,
  *,
  num_iterations: int = 10,
  spatial_weight: float = 3.0,
  spatial_sigma: float = 3.0,
  bilateral_weight: float = 10.0,
  bilateral_sigma: float = 80.0,
  color_sigma: float = 13.0,
  exact: bool = False,
) -> np.ndarray | jax.Array:
  """Marginals of a CRF that connects all pairs of pixels, by mean field (algorithm 1).

  The energy is -log(probs) per pixel and, for each pair of pixels with different labels,

    spatial_weight * exp(-|p_i - p_j|^2 / (2 spatial_sigma^2))
    + bilateral_weight * exp(-|p_i - p_j|^2 / (2 bilateral_sigma^2)
                             - |I_i - I_j|^2 / (2 color_sigma^2))

  with positions p and colours I. In pydensecrf: addPairwiseGaussian(sxy=spatial_sigma,
  compat=spatial_weight) and addPairwiseBilateral(sxy=bilateral_sigma, srgb=color_sigma,
  compat=bilateral_weight). As there, and unlike in the paper, each kernel k is divided by
  sqrt(d_i d_j) with d_i = sum_j k_ij, so that weights do not depend on the image's size, and a
  pixel is its own neighbour: k_ii = 1 is part of all sums. All pixels are updated at once.

  Args:
    probs: f32[H,W,C]; 0 and 1 are allowed.  image: u8 or f32[H,W,D], in 8-bit steps.
    num_iterations: 0 returns probs.
    spatial_weight, bilateral_weight: >= 0.  spatial_sigma, bilateral_sigma: px.
    color_sigma: 8-bit steps.
    exact: all pairs in JAX, under `jit` and `vmap` too: time grows with the square of the number of
      pixels, memory does not. Otherwise NumPy on the host, in time linear in the number of pixels,
      with the bilateral kernel on a permutohedral lattice; `experiments/crf` has its errors.
  Returns:
    f32[H,W,C]; a NumPy array unless `exact`.
  Raises:
    UserError: without `exact`, sigmas that are too small for the keys of the lattice.
  """
  spatial, bilateral = (spatial_weight, spatial_sigma), (bilateral_sigma, color_sigma)
  find = _exact_mean_field if exact else _lattice_mean_field
  return find(probs, image, num_iterations, *spatial, bilateral_weight, *bilateral)


@jax.jit
def _exact_mean_field(
  probs,
  image,
  num_iterations,
  spatial_weight,
  spatial_sigma,
  bilateral_weight,
  bilateral_sigma,
  color_sigma,
):
  h, w, num_classes = probs.shape
  rows, cols = (_gaussian_matrix(length, spatial_sigma) for length in (h, w))
  points = jnp.stack(jnp.meshgrid(jnp.arange(h), jnp.arange(w), indexing="ij"), axis=-1)
  points = jnp.concatenate([points / bilateral_sigma, image / color_sigma], axis=-1)
  points = points.reshape(h * w, -1)
  norm = lax.rsqrt(_all_pairs(points, jnp.ones((h * w, 1))))
  log_probs = jnp.log(jnp.maximum(probs, MIN_PROB))

  def update(_, q):
    near = jnp.einsum("ij,jlc,kl->ikc", rows, q, cols, precision=lax.Precision.HIGHEST)
    similar = norm * _all_pairs(points, norm * q.reshape(h * w, num_classes))
    similar = similar.reshape(q.shape)
    return jax.nn.softmax(log_probs + spatial_weight * near + bilateral_weight * similar)

  return lax.fori_loop(0, num_iterations, update, jnp.asarray(probs, jnp.float32))


def _gaussian_matrix(length, sigma):
  """The spatial kernel along an axis, normalised as in `dense_crf`: it is separable."""
  place = jnp.arange(length)
  kernel = jnp.exp(-0.5 * ((place[:, None] - place) / sigma) ** 2)
  norm = lax.rsqrt(kernel.sum(1))
  return norm[:, None] * kernel * norm


def _all_pairs(points, x):
  """sum_j exp(-|points_i - points_j|^2 / 2) x_j.  f32[N,d], f32[N,C] -> f32[N,C]"""

  def one(point):
    square = sum((points[:, axis] - point[axis]) ** 2 for axis in range(len(point)))
    return jnp.matmul(jnp.exp(-0.5 * square), x, precision=lax.Precision.HIGHEST)

  return lax.map(one, points, batch_size=max(1, min(len(points), PAIRS // len(points))))


def _lattice_mean_field(
  probs,
  image,
  num_iterations,
  spatial_weight,
  spatial_sigma,
  bilateral_weight,
  bilateral_sigma,
  color_sigma,
):
  probs = np.asarray(probs, np.float32)
  h, w, num_classes = probs.shape
  kernels = []
  if num_iterations and spatial_weight:
    kernels.append(_separable_filter(h, w, spatial_sigma, spatial_weight))
  if num_iterations and bilateral_weight:
    points = np.empty((h, w, 2 + image.shape[-1]), np.float32)
    points[..., 0] = np.arange(h)[:, None] / bilateral_sigma
    points[..., 1] = np.arange(w) / bilateral_sigma
    points[..., 2:] = np.asarray(image) / np.float32(color_sigma)
    kernels.append(_lattice_filter(points.reshape(h * w, -1), bilateral_weight))
  q, log_probs = probs, np.log(np.maximum(probs, MIN_PROB))
  for _ in range(num_iterations):
    q = _softmax(sum((kernel(q) for kernel in kernels), log_probs))
  return q


def _softmax(logits):
  """f32[H,W,C] -> f32[H,W,C]; not by NumPy's reductions, which are slow along a short axis."""
  powers = logits - functools.reduce(np.maximum, np.moveaxis(logits, -1, 0))[..., None]
  np.exp(powers, out=powers)
  powers /= (powers @ np.ones(powers.shape[-1], np.float32))[..., None]
  return powers


def _separable_filter(h, w, sigma, weight):
  """weight times the spatial kernel, see `dense_crf`, as a function f32[H,W,C] -> f32[H,W,C]."""
  rows, cols = _gaussian_blocks(h, sigma, weight), _gaussian_blocks(w, sigma, 1.0)

  def apply(x):
    x = _multiply(rows, x.reshape(h, -1)).reshape(h, w, -1).swapaxes(0, 1)
    return _multiply(cols, x.reshape(w, -1)).reshape(w, h, -1).swapaxes(0, 1)

  return apply


def _gaussian_blocks(length, sigma, weight):
  """`_gaussian_matrix` as [(rows, columns, f32[...])], without entries near 0."""
  place, reach = np.arange(length), math.ceil(min(REACH * sigma, length))
  kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
  norm = np.convolve(np.ones(length), kernel)[reach : reach + length] ** -0.5
  blocks = []
  for start in range(0, length, 4 * reach):
    rows, cols = slice(start, start + 4 * reach), slice(max(0, start - reach), start + 5 * reach)
    kernel = np.exp(-0.5 * ((place[rows, None] - place[cols]) / sigma) ** 2)
    block = weight * norm[rows, None] * kernel * norm[cols]
    blocks.append((rows, cols, block.astype(np.float32)))
  return blocks


def _multiply(blocks, x):
  """A matrix in blocks times f32[N,D]."""
  out = np.empty_like(x)
  for rows, cols, block in blocks:
    np.matmul(block, x[cols], out=out[rows])
  return out


def _lattice_filter(points, weight):
  """weight times exp(-|points_i - points_j|^2 / 2), normalised as in `dense_crf`, on a lattice.

  Permutohedral lattice (Adams et al. 2010): pixels are spread onto the corners of their simplex,
  blurred along the axes of the lattice, and interpolated back, by sparse matrices built once.

  Args:
    points: f32[N,d].
  Returns:
    function f32[...,C] -> f32[...,C], of N rows
  """
  num_points, d = points.shape
  # Interpolating adds (d+1)^2 / 12 of variance each way, a blur (d+1)^2 * 2 side (section 3).
  scale = REFINEMENT * (2 / 3) ** 0.5 * (d + 1)
  side = (2 / 3 * REFINEMENT**2 - 1 / 6) / 4
  base = np.tril(np.ones((d, d + 1))) - np.diag(np.arange(1, d + 1), 1)[:-1]
  base *= scale / np.sqrt(np.arange(1, d + 1) * np.arange(2, d + 2))[:, None]
  points = points - points.min(0)
  # A vertex is one number, in which a step along an axis is a constant difference. The first d
  # coordinates determine the last one.
  ends = points.max(0)[:, None] * base[:, :d]
  low = np.minimum(ends, 0).sum(0) - 4 * (d + 1)
  spans = np.ceil(np.maximum(ends, 0).sum(0) + 4 * (d + 1) - low)
  if np.prod(spans) > 2.0**62:
    raise UserError(
      "`bilateral_sigma` or `color_sigma` is too small for an image of this size; increase it"
    )
  radix = np.cumprod([1, *spans[:-1]]).astype(np.int64)
  steps = radix.sum() - (d + 1) * np.append(radix, 0)  # +1 in all coordinates, -d in one

  parts = [
    _simplex(points[start : start + BLOCK], base.astype(np.float32), steps)
    for start in range(0, num_points, BLOCK)
  ]
  weights = np.concatenate([weights for _, weights in parts])
  parts = [np.unique(corners, return_inverse=True) for corners, _ in parts]
  occupied = np.unique(np.concatenate([keys for keys, _ in parts]))
  rim = [occupied + sign * step for sign, step in itertools.product((1, -1), steps)]
  vertices = np.sort(np.concatenate([occupied, *rim]), kind="stable")  # fast for sorted parts
  vertices = vertices[np.diff(vertices, prepend=vertices[0] - 1) > 0]
  index = [np.searchsorted(vertices, keys).astype(np.int32)[inverse] for keys, inverse in parts]
  index = np.concatenate([x.ravel() for x in index])
  starts = np.arange(0, len(index) + 1, d + 1, dtype=np.int32)
  shape = num_points, len(vertices)
  slicing = sp.csr_array((weights.ravel(), index, starts), shape=shape)

  num = len(vertices)
  one = sp.eye_array(num, dtype=np.float32, format="csr") * np.float32(1 - 2 * side)

  def blur_along(step):
    target = np.minimum(np.searchsorted(vertices, vertices + step), num - 1).astype(np.int32)
    found = vertices[target] == vertices + step
    starts = np.append(np.int32(0), np.cumsum(found, dtype=np.int32))
    values = np.full(starts[-1], side, np.float32)
    forward = sp.csr_array((values, target[found], starts), shape=(num, num))
    return (one + forward + forward.T).tocsr()

  blurs = [blur_along(step) for step in steps]
  blurs += blurs[::-1]  # axes do not commute at the rim; forwards and backwards is symmetric

  def apply(x):
    y = splat @ x.reshape(num_points, -1)
    for blur in blurs:
      y = blur @ y
    return (slicing @ y).reshape(x.shape)

  splat = slicing.T.tocsr()
  degree = apply(np.ones((num_points, 1), np.float32))
  slicing.data = (weights / np.sqrt(degree)).ravel()
  splat = slicing.T.tocsr()
  slicing.data *= np.float32(weight)
  return apply


def _simplex(points, base, steps):
  """The corners of the lattice's simplex around each point, and its barycentric coordinates.

  Adams et al. (2010), section 3: from the first corner, one step along each axis leads around.

  Args:
    points: f32[N,d].  base: f32[d,d+1], to the lattice's hyperplane.  steps: i64[d+1] of keys.
  Returns:
    i64[N,d+1] keys of corners, f32[N,d+1]
  """
  d = points.shape[1]
  lifted = points @ base
  corner = np.rint(lifted / (d + 1))
  order, place = np.argsort(lifted - (d + 1) * corner, axis=1), np.arange(d + 1)
  # The nearest multiples of d+1 need not add up to 0: move those that were rounded most.
  excess = corner.sum(1, keepdims=True).astype(int)
  moved = (place > d + excess).astype(np.float32) - (place < excess)
  np.put_along_axis(corner, order, np.take_along_axis(corner, order, axis=1) + moved, axis=1)
  order = np.take_along_axis(order, (place + excess) % (d + 1), axis=1)
  rest = np.take_along_axis(lifted / (d + 1) - corner, order, axis=1)
  weights = np.diff(rest, axis=1, prepend=rest[:, -1:] - 1)
  first = -corner.astype(np.int64) @ steps  # coordinates add up to 0, and so do the steps
  keys = np.cumsum(steps[order], axis=1) - steps[order] + first[:, None]
  return keys, weights
