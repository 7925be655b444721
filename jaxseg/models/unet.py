"""U-Net: the padded form of Ronneberger et al. (2015), and one on a pretrained encoder."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxseg import ops
from jaxseg.models.layers import Conv1x1, Dropout, UpConv2x2, UpConv3x3, batch_norm


class UNet(nn.Module):
  """U-Net with padded 3x3 convolutions.

  f32[B,H,W,D] in [0, 1] -> f32[B,H,W,num_classes] logits, for any H and W: the image is mirrored
  up to a multiple of 2^(levels-1) and the logits are cut back.

  Attributes:
    widths: channels of each level from the top; their number is the number of levels.
    dropout: rate at the end of the contracting path, on the two coarsest levels.
    norm: batch normalisation after each 3x3 convolution.
    up: "transposed" for 2x2 transposed convolutions, "resize" for bilinear doubling followed by
      a 1x1 convolution.
  """

  num_classes: int
  widths: Sequence[int] = (64, 128, 256, 512, 1024)
  dropout: float = 0.0
  norm: bool = False
  up: str = "transposed"
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image, *, train, keys=None):
    def double_conv(x, width, name):
      for i in (1, 2):
        x = nn.Conv(
          width,
          (3, 3),
          use_bias=not self.norm,
          kernel_init=nn.initializers.he_normal(),
          dtype=self.dtype,
          name=f"{name}_conv{i}",
        )(x)
        if self.norm:
          x = batch_norm(
            f"{name}_norm{i}", train=train, axis_name=self.axis_name, dtype=self.dtype
          )(x)
        x = nn.relu(x)
      return x

    def drop(x, level):
      if not train or keys is None:
        return x
      level_keys = jax.vmap(lambda key: jax.random.fold_in(key, level))(keys)
      return Dropout(self.dropout)(x, level_keys)

    bottom = len(self.widths) - 1
    h, w = image.shape[1:3]
    x = ops.pad_to_multiple(2.0 * image - 1.0, 2**bottom).astype(self.dtype)
    skips = []
    for level, width in enumerate(self.widths):
      x = double_conv(x, width, f"down{level}")
      if level >= bottom - 1:
        x = drop(x, level)
      if level < bottom:
        skips.append(x)
        x = ops.max_pool_2x2(x)
    for level in reversed(range(bottom)):
      width = self.widths[level]
      if self.up == "transposed":
        x = UpConv2x2(width, dtype=self.dtype, name=f"up{level}")(x)
      else:
        b, rows, cols, c = x.shape
        x = jax.image.resize(x, (b, 2 * rows, 2 * cols, c), "bilinear")
        x = Conv1x1(width, dtype=self.dtype, name=f"up{level}")(x)
      x = double_conv(jnp.concatenate([skips[level], x], axis=-1), width, f"merge{level}")
    x = Conv1x1(self.num_classes, dtype=self.dtype, name="head")(x)
    return x[:, :h, :w].astype(jnp.float32)


class EncoderUNet(nn.Module):
  """U-Net decoder on the named stages of any encoder (the TensorFlow segmentation tutorial).

  f32[B,H,W,3] in [0, 1] -> f32[B,H,W,num_classes] logits, for any H and W: the image is mirrored
  up to a multiple of the encoder's stride and the logits are cut back.

  Attributes:
    encoder: module with `stages` (names, from fine to coarse, each of half the size of the one
      before, the first of half the image's) and `stride`.
    freeze_encoder: the encoder gets no gradient and its batch statistics stand still.
    widths: channels of the up-blocks from the coarsest; one fewer than there are stages.
    up: "transposed" or "resize", see `layers.UpConv3x3`.
    dropout: rate on the coarsest stage.
  """

  num_classes: int
  encoder: nn.Module
  freeze_encoder: bool = False
  widths: Sequence[int] = (512, 256, 128, 64)
  up: str = "transposed"
  dropout: float = 0.0
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image, *, train, keys=None):
    h, w = image.shape[1:3]
    image = ops.pad_to_multiple(image, self.encoder.stride)
    stages = self.encoder(image, train=train and not self.freeze_encoder)
    if self.freeze_encoder:
      stages = jax.lax.stop_gradient(stages)
    *skips, x = (stages[name] for name in self.encoder.stages)
    if len(skips) != len(self.widths):
      raise ValueError(f"{len(skips)} skips need as many decoder widths, got {self.widths}")
    parts = [Dropout(self.dropout)(x, keys if train else None)]
    for i, (width, skip) in enumerate(zip(self.widths, reversed(skips), strict=True)):
      init = nn.initializers.normal(0.02)
      x = UpConv3x3(width, self.up, kernel_init=init, dtype=self.dtype, name=f"up{i}")(*parts)
      x = batch_norm(f"up{i}_norm", train=train, axis_name=self.axis_name, dtype=self.dtype)(x)
      parts = [nn.relu(x), skip]
    init = nn.initializers.glorot_uniform()
    x = UpConv3x3(
      self.num_classes, self.up, use_bias=True, kernel_init=init, dtype=self.dtype, name="head"
    )(*parts)
    return x[:, :h, :w].astype(jnp.float32)
