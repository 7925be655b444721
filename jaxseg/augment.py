"""Random augmentation of one example on the device; the caller maps it over the batch.

Everything geometric is one sampling of both axes: the image is read by linear interpolation and
the mask by nearest neighbour at the same positions, so that they cannot drift apart.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxseg import VOID
from jaxseg.ops import sampling_matrix


@dataclasses.dataclass(frozen=True)
class Augmentation:
  """What to draw. The defaults change nothing.

  Attributes:
    flip: mirror left-right with probability 1/2.
    scale: (low, high) zoom factor, drawn log-uniformly; above 1 the content grows and a random
      crop of it is taken, below 1 it shrinks, and what lies outside of the image is VOID.
    brightness: largest shift of the grey value, in units of the full range.
    contrast: (low, high) factor on the distance to the image's mean.
  """

  flip: bool = False
  scale: tuple[float, float] = (1.0, 1.0)
  brightness: float = 0.0
  contrast: tuple[float, float] = (1.0, 1.0)


def augment(key, image, mask, config):
  """One random view of an example.

  Args:
    key: of this example alone.  image: f32[H,W,D] in [0, 1].  mask: u8[H,W].
  Returns:
    f32[H,W,D] in [0, 1], u8[H,W]; the same sizes.
  """
  geometry, colour = jax.random.split(key)
  rows, cols, zoom = _draw_window(geometry, mask.shape, config)
  image = _sample_image(image, rows, cols, 1 / zoom)
  return _shift_grey_values(colour, image, config), _sample_mask(mask, rows, cols)


def _draw_window(key, shape, config):
  """Source positions of the output's rows and columns, f32[H] and f32[W] px, and the zoom."""
  flip_key, scale_key, *axis_keys = jax.random.split(key, 4)
  low, high = jnp.log(jnp.array(config.scale))
  zoom = jnp.exp(jax.random.uniform(scale_key, (), minval=low, maxval=high))
  axes = []
  for axis_key, size in zip(axis_keys, shape, strict=True):
    # The window is `size / zoom` long and lies anywhere inside the image, or, when it is longer,
    # anywhere around it.
    start = jax.random.uniform(axis_key) * (size - size / zoom)
    axes.append(start + (jnp.arange(size) + 0.5) / zoom - 0.5)
  rows, cols = axes
  if config.flip:
    cols = jnp.where(jax.random.bernoulli(flip_key), cols[::-1], cols)
  return rows, cols, zoom


def _sample_image(image, rows, cols, step):
  by_row = sampling_matrix(rows, image.shape[0], step)
  by_col = sampling_matrix(cols, image.shape[1], step)
  return jnp.einsum("ih,jw,hwd->ijd", by_row, by_col, image, precision="highest")


def _sample_mask(mask, rows, cols):
  for axis, positions in enumerate((rows, cols)):
    size = mask.shape[axis]
    nearest = jnp.floor(positions + 0.5).astype(jnp.int32)
    inside = jnp.expand_dims((nearest >= 0) & (nearest < size), 1 - axis)
    taken = jnp.take(mask, jnp.clip(nearest, 0, size - 1), axis=axis)
    mask = jnp.where(inside, taken, jnp.uint8(VOID))
  return mask


def _shift_grey_values(key, image, config):
  shift_key, factor_key = jax.random.split(key)
  low, high = config.contrast
  factor = jax.random.uniform(factor_key, (), minval=low, maxval=high)
  shift = config.brightness * jax.random.uniform(shift_key, (), minval=-1.0, maxval=1.0)
  # (image - mean) * factor + mean, in the form that is exact at a factor of 1.
  return jnp.clip(image * factor + image.mean() * (1 - factor) + shift, 0.0, 1.0)
