"""Fully convolutional networks (Long, Shelhamer and Darrell 2015)."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxseg import UserError, ops
from jaxseg.convolution import conv
from jaxseg.models.layers import Conv1x1, Dropout, UpScore, add_bias, block, encoder_stages

# With 100 px of padding: where in the scores of a stage (cells, by stride) and in the enlarged map
# (px, by its last stride) the part begins that belongs to the map from below and to the image.
SKIP_CROPS = {16: 5, 8: 9}
IMAGE_CROPS = {32: 19, 16: 27, 8: 31}


class Conv7x7(nn.Module):
  """7x7 convolution with bias.  [B,H,W,C] -> [B,h,w,features]; `padding` as in `layers.Conv3x3`."""

  features: int
  padding: str = "same"
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape = (7, 7, x.shape[-1], self.features)
    kernel = self.param("kernel", nn.initializers.he_normal(), shape).astype(self.dtype)
    y = conv(x.astype(self.dtype), kernel, padding=self.padding.upper())
    return add_bias(y, self.param("bias", nn.initializers.zeros, (self.features,)))


class FCN(nn.Module):
  """FCN-32s, 16s or 8s.  f32[B,H,W,D] in [0, 1] -> f32[B,H,W,num_classes] logits, any H and W.

  The classifier's fully connected layers `fc1` (fc6 in the paper) and `fc2` (fc7) are
  convolutions, a 1x1 convolution gives scores, and transposed convolutions enlarge them; on the
  way, scores of finer stages are added.

  Attributes:
    encoder: see `interface.Encoder`; with stages of strides 2, 4, ..., 32.
    freeze_encoder, freeze_norm: see `unet.EncoderUNet`.
    final_stride: 32, 16 or 8, of the last enlargement: the smaller, the more stages are added.
    widths: channels of fc1 (7x7) and fc2 (1x1); () leaves both out.
    padding: "same", as it is taught: every map keeps its size, the image is mirrored up to a
      multiple of `stride`, and the last enlargement's kernel is as large as its stride. "valid",
      as published: the encoder sees 100 px of zeros around the image, fc1 is not padded, kernels
      are twice their stride, and crops align the maps.
    up: "transposed", learned kernels; "resize", bilinear interpolation that stays as it is.
    dropout: rate behind fc1 and fc2.
    remat: keep only the inputs of fc1 and fc2 for the gradient, see `layers.block`.
  """

  num_classes: int
  encoder: nn.Module
  final_stride: int = 8
  freeze_encoder: bool = False
  freeze_norm: bool = False
  widths: Sequence[int] = (4096, 4096)
  padding: str = "same"
  up: str = "transposed"
  dropout: float = 0.0
  remat: bool = False
  axis_name: str | None = None
  dtype: Any = jnp.float32

  # What `interface.Network` asks for.
  margin = 0

  @property
  def stride(self) -> int:
    return self.encoder.stride

  @property
  def context(self) -> int:
    # fc1 looks three cells of the coarsest map to each side, all enlargements less than two.
    radius = self.encoder.receptive_radius + (5 if self.widths else 2) * self.stride
    return radius + -radius % self.stride

  def input_size(self, size: int) -> int:
    return size + -size % self.stride

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool, keys: jax.Array | None = None) -> jax.Array:
    valid, (h, w) = self.padding == "valid", image.shape[1:3]
    if valid and not self.widths:
      raise UserError("`padding` valid needs `widths`: its crops are those of a map behind fc1")
    if not valid:
      image = ops.pad_to_multiple(image, self.stride)
    stages = encoder_stages(self, image, train=train)

    def score(x, name):
      # Zeros (as published): an added stage does not disturb at first what is there.
      init = nn.initializers.zeros
      return Conv1x1(self.num_classes, kernel_init=init, dtype=self.dtype, name=name)(x)

    def enlarge(x, factor, size, name):
      if self.up == "resize" and not valid:
        return ops.resize(x, [factor * n for n in x.shape[1:3]])
      y = UpScore(factor, size, self.up == "transposed", self.dtype, name=name)(x)
      return y if valid else ops.center_crop(y, [factor * n for n in x.shape[1:3]])

    def fully_connected(x, i):
      width = self.widths[i - 1]
      layer = {"dtype": self.dtype, "name": f"fc{i}"}
      if i == 1:
        x = Conv7x7(width, self.padding, **layer)(x)
      else:
        x = Conv1x1(width, **layer)(x)
      layer_keys = None
      if train and keys is not None:
        layer_keys = jax.vmap(lambda key: jax.random.fold_in(key, i))(keys)
      return Dropout(self.dropout)(nn.relu(x), layer_keys)

    x = stages[self.encoder.stages[-1]]
    for i in range(1, len(self.widths) + 1):
      x = block(self, fully_connected, x, i)
    x, stride = score(x, "score"), self.stride
    for stage in self.encoder.stages[-2::-1]:
      if stride == self.final_stride:
        break
      x, stride = enlarge(x, 2, 4, f"up_{stride}"), stride // 2
      skip = score(stages[stage], f"score_{stride}")
      top = SKIP_CROPS[stride] if valid else 0
      x = x + skip[:, top : top + x.shape[1], top : top + x.shape[2]]
    x = enlarge(x, stride, 2 * stride if valid else stride, f"up_{stride}_to_1")
    top = IMAGE_CROPS[stride] if valid else 0
    return x[:, top : top + h, top : top + w].astype(jnp.float32)
