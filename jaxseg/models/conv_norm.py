"""Convolution, batch normalisation and ReLU, the unit of decoders."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxseg.models.batch_norm import BatchNorm
from jaxseg.models.layers import Conv1x1, Conv3x3, DepthwiseConv


class ConvNormRelu(nn.Module):
  """Convolution of a channel concatenation, batch normalisation, ReLU.

  [B,H,W,C_i], ... -> [B,H,W,features]; the parts are never concatenated.

  Attributes:
    size: 1 or 3.  rate: of the 3x3 convolution, px between its taps.
    separable: a 3x3 is a depthwise convolution, normalisation, ReLU, and a 1x1 (as in DeepLabv3+).
    inner_norm: whether that first normalisation and ReLU are there.
    norm: without it, the convolution has a bias.
  """

  features: int
  size: int = 3
  rate: int = 1
  separable: bool = False
  inner_norm: bool = True
  norm: bool = True
  epsilon: float = 1e-3
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, *parts: jax.Array, train: bool) -> jax.Array:
    def norm(name):
      return BatchNorm(train, self.axis_name, epsilon=self.epsilon, dtype=self.dtype, name=name)

    common = {"use_bias": not self.norm, "dtype": self.dtype}
    if self.size == 1:
      x = Conv1x1(self.features, name="conv", **common)(*parts)
    elif self.separable:
      conv = DepthwiseConv(dilation=self.rate, dtype=self.dtype, name="depthwise")
      parts = conv(*parts)
      if self.inner_norm:
        parts = [nn.relu(part) for part in norm("depthwise_norm")(*parts)]
      x = Conv1x1(self.features, name="pointwise", **common)(*parts)
    else:
      x = Conv3x3(self.features, dilation=self.rate, name="conv", **common)(*parts)
    return nn.relu(norm("norm")(x)[0] if self.norm else x)
