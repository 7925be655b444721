"""The weights of U-Net's loss: class balance, and the border weight from exact distances to the
two nearest cells, inside a jitted step."""

import jax.numpy as jnp
import numpy as np
from jax import lax

FAR = 1e6  # px, farther than any cell of any image
NO_CELL = 0


def two_nearest(instances, radius):
  """Distances of every pixel to the nearest and the second nearest cell.

  The distance transform is separable, and so is this pair: along the columns two scans carry the
  two nearest distinct cells above and below; along the rows a window collects the candidates.

  Args:
    instances: i32[H,W], 0 = background, one id per cell; ids may have gaps.
    radius: px; a distance is exact if it is at most this.
  Returns:
    f32[H,W], f32[H,W] Euclidean distances between pixel centres, px; the first is 0 inside cells.
    A value above `radius` says only that there is no such cell within the radius.
  """
  height, width = instances.shape
  start = (jnp.where(instances == NO_CELL, FAR, 0.0), instances)

  def next_row(carry, row):
    distance1, id1, distance2, id2 = carry
    carry = _insert((distance1 + 1, id1, distance2 + 1, id2), *row)
    return carry, carry

  nothing = _nothing((width,), FAR)
  _, above = lax.scan(next_row, nothing, start)
  _, below = lax.scan(next_row, nothing, start, reverse=True)
  distance1, id1, distance2, id2 = _insert(_insert(above, *below[:2]), *below[2:])

  # From here on squares, which add up along the other axis.
  columns = [
    jnp.pad(x, ((0, 0), (radius, radius)), constant_values=fill)
    for x, fill in ((distance1**2, FAR**2), (id1, NO_CELL), (distance2**2, FAR**2), (id2, NO_CELL))
  ]

  def next_offset(i, best):
    square1, id1, square2, id2 = (lax.dynamic_slice_in_dim(x, i, width, axis=1) for x in columns)
    across = jnp.float32((i - radius) ** 2)
    return _insert(_insert(best, square1 + across, id1), square2 + across, id2)

  best = lax.fori_loop(0, 2 * radius + 1, next_offset, _nothing((height, width), FAR**2))
  return jnp.sqrt(best[0]), jnp.sqrt(best[2])


def _nothing(shape, far):
  distance, no_cell = jnp.full(shape, far, jnp.float32), jnp.zeros(shape, jnp.int32)
  return distance, no_cell, distance, no_cell


def _insert(best, distance, cell):
  """(distance, id) of the two nearest cells, of different ids, with one more candidate."""
  distance1, id1, distance2, id2 = best
  closer, same = distance < distance1, cell == id1
  # Whichever of candidate and old first is farther competes for the second place, unless both
  # are the same cell.
  loser = jnp.where(closer, distance1, distance)
  second = (loser < distance2) & ~same
  return (
    jnp.minimum(distance, distance1),
    jnp.where(closer, cell, id1),
    jnp.where(second, loser, distance2),
    jnp.where(second, jnp.where(closer, id1, cell), id2),
  )


def border_weight(instances, *, w0=10.0, sigma=5.0):
  """Extra loss weight on the background squeezed between two cells (U-Net, equation 2).

  w0 exp(-(d1 + d2)^2 / (2 sigma^2)), with d1 and d2 the distances to the two nearest cells. It is
  cut where it falls below w0 * 1e-7.

  Args:
    instances: i32[H,W], 0 = background, one id per cell.
    w0: peak weight.  sigma: fall-off, px.
  Returns:
    f32[H,W] >= 0; zero inside cells, and everywhere if there are fewer than two.
  """
  # d1 >= 1 on the background, and beyond d1 + d2 = 5.68 sigma the exponential is below 1e-7.
  radius = int(5.68 * sigma) + 1
  nearest, second = two_nearest(instances, radius)
  weight = w0 * jnp.exp(-jnp.square(nearest + second) / (2 * sigma**2))
  return jnp.where((instances == NO_CELL) & (second <= radius), weight, 0.0)


def balanced_class_weights(counts):
  """w_c of U-Net's equation 2: inverse to the frequency of a class, 1 in the mean over pixels.

  Args:
    counts: int[C], pixels of each class in the training data.
  Returns:
    f64[C]; 1 for a class that does not occur.
  """
  counts = np.asarray(counts, np.float64)
  present = counts > 0
  frequency = counts[present] / counts.sum()
  weights = np.ones(len(counts))
  weights[present] = 1 / (present.sum() * frequency)
  return weights
