"""Operations on the values of one image; `augment` draws their parameters.

Colour operations are 3x3 matrices on (R, G, B), so that several of them cost one product.
"""

import jax
import jax.numpy as jnp
import numpy as np

LUMA = (0.299, 0.587, 0.114)  # weights of R, G, B in ITU-R BT.601

# Y, I, Q of the NTSC standard (FCC 1953, 47 CFR 73.682): I and Q are sums of R - Y and B - Y.
_Y = np.array([0.30, 0.59, 0.11])
_RED, _BLUE = np.eye(3)[[0, 2]] - _Y
YIQ = np.stack([_Y, 0.74 * _RED - 0.27 * _BLUE, 0.48 * _RED + 0.41 * _BLUE])


def hue_matrix(turn: float | jax.Array) -> jax.Array:
  """Rotation of the chroma (I, Q) in the YIQ space; the luma Y stays.

  Args:
    turn: fraction of the full circle; 1/3 makes red mostly blue and blue mostly green.
  Returns:
    f32[3,3], to multiply (R, G, B) columns with
  """
  inverse = np.linalg.inv(YIQ)
  keep, even, odd = np.diag([1.0, 0, 0]), np.diag([0, 1.0, 1]), np.zeros((3, 3))
  odd[1, 2], odd[2, 1] = -1.0, 1.0
  keep, even, odd = (jnp.float32(inverse @ part @ YIQ) for part in (keep, even, odd))
  angle = 2 * jnp.pi * turn
  return keep + jnp.cos(angle) * even + jnp.sin(angle) * odd


def saturation_matrix(factor: float | jax.Array) -> jax.Array:
  """Scales the distance of a colour to the grey of its luma: 0 is grey, 1 changes nothing.

  Returns:
    f32[3,3], to multiply (R, G, B) columns with
  """
  return factor * jnp.eye(3) + (1 - factor) * jnp.float32(np.tile(LUMA, (3, 1)))


def apply_matrix(matrix: jax.Array, image: jax.Array) -> jax.Array:
  """`matrix` times the colour of every pixel.  f32[3,3], f32[H,W,3] -> f32[H,W,3], not clipped"""
  return jnp.einsum("cd,hwd->hwc", matrix, image, precision="highest")


def gamma(
  image: jax.Array, exponent: float | jax.Array, low: float | jax.Array, high: float | jax.Array
) -> jax.Array:
  """low + (high - low) ((image - low) / (high - low))^exponent.

  Args:
    image: f32[H,W,D] in [low, high].  exponent: > 0; above 1 darkens.
  """
  scale = high - low
  return low + scale * ((image - low) / scale) ** exponent


def gaussian_blur(image: jax.Array, sigma: float | jax.Array) -> jax.Array:
  """Convolution with a Gaussian; the image is mirrored at its edges.

  Two matrix products, whose cost does not depend on sigma.

  Args:
    image: f32[H,W,D].  sigma: standard deviation, px, at most half of either side; 0 is exact.
  """
  by_row, by_col = (_blur_matrix(size, sigma) for size in image.shape[:2])
  return jnp.einsum("ih,jw,hwd->ijd", by_row, by_col, image, precision="highest")


def _blur_matrix(size, sigma):
  """f32[size,size]: weights at the distances to all pixels and to their mirror images."""
  to, source = jnp.arange(size)[:, None], jnp.arange(size)
  offsets = [
    distance + 2 * size * k for distance in (to - source, to + source + 1) for k in (-1, 0, 1)
  ]
  weight = sum(jnp.exp(-0.5 * jnp.square(d / jnp.maximum(sigma, 1e-3))) for d in offsets)
  return weight / weight.sum(axis=1, keepdims=True)


def square(centre: jax.Array, side: int, shape: tuple[int, int]) -> jax.Array:
  """The pixels of a square, which may hang over the edges of the image.

  Args:
    centre: i32[2], row and column of a pixel; of an even side, the one after the middle.
    side: px.  shape: (H, W).
  Returns:
    bool[H,W]
  """
  first = centre - side // 2
  rows, cols = (jnp.arange(size) - start for size, start in zip(shape, first, strict=True))
  return ((rows >= 0) & (rows < side))[:, None] & ((cols >= 0) & (cols < side))


def fill(image: jax.Array, hidden: jax.Array) -> jax.Array:
  """Sets pixels to the mean of each channel over the whole image.  f32[H,W,D], bool[H,W] -> same"""
  return jnp.where(hidden[..., None], image.mean(axis=(0, 1)), image)
