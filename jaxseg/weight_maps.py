"""The weights of U-Net's loss: class balance, and the border weight from exact distances to the
two nearest cells, inside a jitted step."""

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

FAR = 1e6  # px, farther than any cell of any image
NO_CELL = 0


def two_nearest(instances: jax.Array, radius: int) -> tuple[jax.Array, jax.Array]:
  """Distances of every pixel to the nearest and the second nearest cell.

  The distance transform is separable, and so is this pair: first along the columns, then a window
  along the rows collects the candidates.

  Args:
    instances: i32[H,W], 0 = background, one id per cell; ids may have gaps.
    radius: px; a distance is exact if it is at most this.
  Returns:
    f32[H,W], f32[H,W] Euclidean distances between pixel centres, px; the first is 0 inside cells.
    A value above `radius` says only that there is no such cell within the radius.
  """
  forms = two_nearest_by_windows, two_nearest_by_scans
  windows, scans = (functools.partial(form, radius=radius) for form in forms)
  return lax.platform_dependent(instances, cuda=windows, default=scans)


def two_nearest_by_scans(instances: jax.Array, radius: int) -> tuple[jax.Array, jax.Array]:
  """`two_nearest`, by two scans along the columns for the nearest cells above and below."""
  start = (jnp.where(instances == NO_CELL, FAR, 0.0), instances)

  def next_row(carry, row):
    distance1, id1, distance2, id2 = carry
    carry = _insert((distance1 + 1, id1, distance2 + 1, id2), *row)
    return carry, carry

  nothing = _nothing(instances.shape[1:], FAR)
  _, above = lax.scan(next_row, nothing, start)
  _, below = lax.scan(next_row, nothing, start, reverse=True)
  distance1, id1, distance2, id2 = _insert(_insert(above, *below[:2]), *below[2:])
  # From here on squares, which add up along the other axis.
  best = _widen([(distance1**2, id1), (distance2**2, id2)], 1, radius, unroll=1)
  return jnp.sqrt(best[0]), jnp.sqrt(best[2])


def two_nearest_by_windows(instances: jax.Array, radius: int) -> tuple[jax.Array, jax.Array]:
  """`two_nearest`, by windows along both axes.

  On a GPU each row of a scan would be a kernel that has next to nothing to do. A kernel takes
  several offsets of the window, so that the candidates go less often through memory.
  """
  start = (jnp.where(instances == NO_CELL, FAR**2, 0.0), instances)
  square1, id1, square2, id2 = _widen([start], 0, radius, unroll=10)
  best = _widen([(square1, id1), (square2, id2)], 1, radius, unroll=10)
  return jnp.sqrt(best[0]), jnp.sqrt(best[2])


def _widen(candidates, axis, radius, unroll):
  """The two nearest of the candidates up to `radius` px away along an axis.

  Args:
    candidates: (squared distance f32[H,W], id i32[H,W]), one or two of them.
    unroll: offsets to a turn of the loop; the window grows to a multiple of it.
  """
  shape = candidates[0][0].shape
  num = 2 * radius + 1
  num += -num % unroll
  pads = [(0, 0), (0, 0)]
  pads[axis] = (radius, num - 1 - radius)
  padded = [
    (jnp.pad(square, pads, constant_values=FAR**2), jnp.pad(cell, pads))
    for square, cell in candidates
  ]

  def next_offset(i, best):
    across = jnp.float32((i - radius) ** 2)
    for candidate in padded:
      square, cell = (lax.dynamic_slice_in_dim(x, i, shape[axis], axis) for x in candidate)
      best = _insert(best, square + across, cell)
    return best

  return lax.fori_loop(0, num, next_offset, _nothing(shape, FAR**2), unroll=unroll)


def _nothing(shape, far):
  distance, no_cell = jnp.full(shape, far, jnp.float32), jnp.zeros(shape, jnp.int32)
  return distance, no_cell, distance, no_cell


def _insert(best, distance, cell):
  """(distance, id) of the two nearest cells, of different ids, with one more candidate."""
  distance1, id1, distance2, id2 = best
  closer, same = distance < distance1, cell == id1
  # The farther of the candidate and the old first competes for second place, unless both are the
  # same cell.
  loser = jnp.where(closer, distance1, distance)
  second = (loser < distance2) & ~same
  return (
    jnp.minimum(distance, distance1),
    jnp.where(closer, cell, id1),
    jnp.where(second, loser, distance2),
    jnp.where(second, jnp.where(closer, id1, cell), id2),
  )


def border_weight(instances: jax.Array, *, w0: float = 10.0, sigma: float = 5.0) -> jax.Array:
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
  radius = min(int(5.68 * sigma) + 1, sum(instances.shape))  # no distance is larger
  nearest, second = two_nearest(instances, radius)
  weight = w0 * jnp.exp(-jnp.square(nearest + second) / (2 * sigma**2))
  return jnp.where((instances == NO_CELL) & (second <= radius), weight, 0.0)


def count_classes(masks: Iterable[np.ndarray], classes: Sequence[str]) -> dict[str, Any]:
  """Where each class occurs: its pixels, those of all images that have it, and these images.

  VOID pixels are in no number.

  Args:
    masks: u8[H,W] each.  classes: names.
  Returns:
    {"pixels": {class: int}, "pixels_of_their_images": {class: int}, "examples": {class: numbers
    of the masks that have it, list of int}, "num_examples": int}
  """
  pixels, of_images = np.zeros((2, len(classes)), np.int64)
  examples: list[list[int]] = [[] for _ in classes]
  num_examples = 0
  for mask in masks:
    counts = np.bincount(mask.ravel(), minlength=256)[: len(classes)]
    pixels += counts
    of_images += np.where(counts > 0, counts.sum(), 0)
    for label in np.flatnonzero(counts):
      examples[label].append(num_examples)
    num_examples += 1
  found = {
    "pixels": pixels.tolist(),
    "pixels_of_their_images": of_images.tolist(),
    "examples": examples,
  }
  by_name = {name: dict(zip(classes, x, strict=True)) for name, x in found.items()}
  return {**by_name, "num_examples": num_examples}


def inverse_frequency(
  pixels: Sequence[int], pixels_of_their_images: Sequence[int] | None = None
) -> np.ndarray:
  """w_c of U-Net's equation 2: inverse to the frequency of a class; its mean over pixels is 1.

  Args:
    pixels: int[C], of each class in the training data.  pixels_of_their_images: not used.
  Returns:
    f64[C]; 1 for a class that does not occur.
  """
  pixels = np.asarray(pixels, np.float64)
  present = pixels > 0
  weights = np.ones(len(pixels))
  weights[present] = pixels.sum() / (present.sum() * pixels[present])
  return weights


def median_frequency(pixels: Sequence[int], pixels_of_their_images: Sequence[int]) -> np.ndarray:
  """Median of all frequencies / frequency of the class, each within the images that have the class.

  Eigen and Fergus (2015), section 6.3.2, as SegNet takes it.

  Args:
    pixels, pixels_of_their_images: int[C], see `count_classes`.
  Returns:
    f64[C]; 1 for a class that does not occur.
  """
  present = np.asarray(pixels) > 0
  frequency = np.divide(pixels, pixels_of_their_images, out=np.ones(len(present)), where=present)
  return np.where(present, np.median(frequency[present]) / frequency, 1.0)


CLASS_BALANCES = {"inverse_frequency": inverse_frequency, "median_frequency": median_frequency}
