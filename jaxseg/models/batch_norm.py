"""Batch normalisation (Ioffe and Szegedy 2015)."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.convolution import pixel_pairs

FEW = 8  # values of a channel, too few to normalise by their own mean and variance


class BatchNorm(nn.Module):
  """Batch normalisation of a channel concatenation that is never made, part by part.

  [B,H,W,C_i], ... -> list of the same. Parameters and running statistics are those of the
  concatenation. Statistics are over the global batch: under `jit` with a sharded batch by
  themselves, under `pmap` through `axis_name`.

  Fewer than `FEW` values a channel, as image pooling leaves of a small batch, are normalised by the
  running statistics in training as in use, without a gradient through these; the variance is then
  around the running mean. By itself a single value would always become `bias`, and the running
  variance 0.

  Attributes:
    momentum: 0.9, because with 0.99 the running statistics of a run of a few hundred steps still
      remember their start, and a network trained from scratch fails at test time.
    on_pairs: works on pairs of pixels, if the width is even: 64 channels fill half of a TPU's
      vectors.
  """

  train: bool
  axis_name: str | None = None
  momentum: float = 0.9
  epsilon: float = 1e-3
  scale_init: nn.initializers.Initializer = nn.initializers.ones
  on_pairs: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, *parts: jax.Array) -> list[jax.Array]:
    widths, shapes = [part.shape[-1] for part in parts], [part.shape for part in parts]
    scale = self.param("scale", self.scale_init, (sum(widths),))
    bias = self.param("bias", nn.initializers.zeros, (sum(widths),))
    running_mean = self.variable("batch_stats", "mean", jnp.zeros, (sum(widths),))
    running_var = self.variable("batch_stats", "var", jnp.ones, (sum(widths),))
    mean, var = running_mean.value, running_var.value
    if self.on_pairs and all(isinstance(n, int) and n % 2 == 0 for _, _, n, _ in shapes):
      parts = [pixel_pairs(part) for part in parts]
    if self.train:
      moments = [_moments(*x) for x in zip(parts, widths, strict=True)]
      mean, square = (jnp.concatenate(x) for x in zip(*moments, strict=True))
      count = math.prod(shapes[0][:3])
      if self.axis_name and not self.is_initializing():
        mean, square = jax.lax.pmean(jnp.stack([mean, square]), self.axis_name)
        count *= jax.lax.axis_size(self.axis_name)
      var = square - jnp.square(mean)
      if count < FEW:
        var += jnp.square(mean - running_mean.value)
      var = jnp.maximum(0.0, var)
      if not self.is_initializing():
        for old, new in ((running_mean, mean), (running_var, var)):
          old.value = self.momentum * old.value + (1 - self.momentum) * new
      if count < FEW:
        mean, var = (jax.lax.stop_gradient(x.value) for x in (running_mean, running_var))
    cuts = np.cumsum(widths)[:-1]
    factor = jax.lax.rsqrt(var + self.epsilon) * scale
    mean, factor, bias = (jnp.split(x, cuts) for x in (mean, factor, bias))
    results = []
    for part, shape, *numbers in zip(parts, shapes, mean, factor, bias, strict=True):
      center, by, plus = (jnp.tile(x, part.shape[-1] // len(x)) for x in numbers)
      results.append(((part - center) * by + plus).astype(self.dtype).reshape(shape))
    return results


def _moments(x, width):
  """Means of values and of squares, f32[width] each; x may have several pixels as channels."""
  x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  return [y.mean((0, 1, 2)).reshape(-1, width).mean(0) for y in (x, jnp.square(x))]
