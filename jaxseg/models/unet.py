"""U-Net (Ronneberger et al. 2015), and one on a pretrained encoder."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxseg import UserError, ops
from jaxseg.models.batch_norm import BatchNorm
from jaxseg.models.conv_norm import ConvNormRelu
from jaxseg.models.layers import (
  Conv1x1,
  Conv3x3,
  Dropout,
  UpConv2x2,
  UpConv3x3,
  block,
  encoder_stages,
)


class UNet(nn.Module):
  """U-Net, padded or as published.

  f32[B,H,W,D] in [0, 1] -> f32[B,h,w,num_classes] logits.

  Attributes:
    num_classes: 1 makes a sigmoid head, see `losses.class_logits`.
    widths: channels of each level from the top; their number is the number of levels.
    padding: "same", h, w = H, W of any size: the image is mirrored up to a multiple of `stride`
      and the logits are cut back. "valid", the paper's unpadded convolutions with cropped skips:
      h, w = H, W - 2 * `margin`, 572 -> 388 with five levels; see `input_size`.
    dropout: rate at the end of the contracting path, on the two coarsest levels.
    norm: batch normalisation after each 3x3 convolution.
    up: "transposed" for 2x2 transposed convolutions, "resize" for bilinear doubling followed by
      a 1x1 convolution.
    stem_stride: 2 lets the network work at half the resolution, at a quarter of the cost: it sees
      blocks of 2x2 pixels as channels, and the head is a 2x2 transposed convolution. 1 is the
      paper.
    remat: keep only the output of each level for the gradient, see `layers.block`.
  """

  num_classes: int
  widths: Sequence[int] = (64, 128, 256, 512, 1024)
  stem_stride: int = 1
  padding: str = "same"
  dropout: float = 0.0
  norm: bool = False
  up: str = "transposed"
  remat: bool = False
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @property
  def stride(self) -> int:
    """Of the coarsest level: the network commutes with shifts by multiples of it."""
    return self.stem_stride * 2 ** (len(self.widths) - 1)

  @property
  def margin(self) -> int:
    """Pixels that valid convolutions take off each side."""
    # Two convolutions on each level on the way down and on all but the coarsest on the way up,
    # stem_stride * 2^level input pixels each.
    return 6 * self.stride - 4 * self.stem_stride if self.padding == "valid" else 0

  @property
  def context(self) -> int:
    """How far the padding of an edge reaches into padded logits, px; a multiple of `stride`."""
    return 0 if self.padding == "valid" else (6 if self.up == "transposed" else 7) * self.stride

  def input_size(self, size: int) -> int:
    """The smallest height or width that the network takes and that is at least `size`, px."""
    # Valid: every level has to be even when it is pooled, hence stride * n - 4 * stem_stride.
    size = max(size, 2 * self.margin + 1)
    offset = -4 * self.stem_stride if self.padding == "valid" else 0
    return size + (offset - size) % self.stride

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool, keys: jax.Array | None = None) -> jax.Array:
    def double_conv(parts, width, name):
      for i in (1, 2):
        x = Conv3x3(
          width, self.padding, use_bias=not self.norm, dtype=self.dtype, name=f"{name}_conv{i}"
        )(*parts)
        if self.norm:
          norm = BatchNorm(train, self.axis_name, dtype=self.dtype, name=f"{name}_norm{i}")
          (x,) = norm(x)
        parts = [ops.relu(x)]
      return parts[0]

    def drop(x, level):
      if not train or keys is None:
        return x
      level_keys = jax.vmap(lambda key: jax.random.fold_in(key, level))(keys)
      return Dropout(self.dropout)(x, level_keys)

    h, w = image.shape[1:3]
    if self.padding == "same":
      image = ops.pad_to_multiple(image, self.stride)
    else:
      self._check_size(h, w)
    x = (2.0 * image - 1.0).astype(self.dtype)
    if self.stem_stride > 1:
      x = ops.space_to_depth(x, self.stem_stride)
    bottom = len(self.widths) - 1

    def down(x, level):
      if level:
        x = ops.max_pool_2x2(x)
      x = double_conv([x], self.widths[level], f"down{level}")
      return drop(x, level) if level >= bottom - 1 else x

    def merge(x, skip, level):
      width = self.widths[level]
      if self.up == "transposed":
        x = UpConv2x2(width, dtype=self.dtype, name=f"up{level}")(x)
      else:
        x = ops.resize(x, [2 * n for n in x.shape[1:3]])
        x = Conv1x1(width, dtype=self.dtype, name=f"up{level}")(x)
      return double_conv([ops.center_crop(skip, x.shape[1:3]), x], width, f"merge{level}")

    skips = []
    for level in range(bottom + 1):
      x = block(self, down, x, level)
      skips.append(x)
    for level in reversed(range(bottom)):
      x = block(self, merge, x, skips[level], level)
    head = Conv1x1 if self.stem_stride == 1 else UpConv2x2
    x = head(self.num_classes, dtype=self.dtype, name="head")(x)
    if self.padding == "same":
      x = x[:, :h, :w]
    return x.astype(jnp.float32)

  def _check_size(self, *sizes):
    for size in sizes:
      above = self.input_size(size)
      if above != size:
        below = above - self.stride
        names = [below] * (below == self.input_size(below)) + [above]
        raise UserError(
          f"{size} px do not divide in a U-Net of {len(self.widths)} levels with valid "
          f"convolutions; the nearest sizes that do are {' and '.join(map(str, names))}"
        )


class EncoderUNet(nn.Module):
  """U-Net decoder on the named stages of any encoder (the TensorFlow segmentation tutorial).

  f32[B,H,W,D] in [0, 1] -> f32[B,H,W,num_classes] logits, for any H and W: the image is mirrored
  up to a multiple of the encoder's stride and the logits are cut back.

  As `smp`, it is that of segmentation_models.pytorch: an up-block doubles by the nearest neighbour
  and has two convolutions of the result beside the skip; one more, without a skip, ends at the
  image's size; a 3x3 convolution makes logits. Images are mirrored only if a side is below the
  stride.

  Attributes:
    encoder: see `interface.Encoder`.
    freeze_encoder: it gets no gradient and its batch statistics do not change.
    freeze_norm: only its batch statistics do not change.
    widths: channels of the up-blocks from the coarsest; one fewer than there are stages, as many as
      these if `smp`.
    center: as `smp`, two convolutions of the coarsest stage, which it has on VGG.
    norm: as `smp`, normalisation in the up-blocks.
    up: "transposed" or "resize", see `layers.UpConv3x3`.
    dropout: rate on the coarsest stage.
    remat: keep only the inputs of the up-blocks for the gradient, see `layers.block`.
  """

  num_classes: int
  encoder: nn.Module
  freeze_encoder: bool = False
  freeze_norm: bool = False
  widths: Sequence[int] = (512, 256, 128, 64)
  smp: bool = False
  center: bool = False
  norm: bool = True
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
    # The up-blocks look one pixel to each side, on strides 32, 16, ..., 2; if `smp`, two, on
    # strides 16, 8, ..., 1, the centre's two on stride 32, and doubling adds less than 32.
    radius = self.encoder.receptive_radius + (5 if self.smp else 2) * self.stride
    return radius + -radius % self.stride

  def input_size(self, size: int) -> int:
    return max(size, self.stride) if self.smp else size + -size % self.stride

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool, keys: jax.Array | None = None) -> jax.Array:
    h, w = image.shape[1:3]
    is_small = [isinstance(n, int) and n < self.stride for n in (h, w)]
    if not self.smp or any(is_small):
      image = ops.pad_to_multiple(image, self.stride)
    if self.smp and any(is_small):  # the other side stays as it is
      rows, cols = (None if small else n for small, n in zip(is_small, (h, w), strict=True))
      image = image[:, :rows, :cols]
    stages = encoder_stages(self, image, train=train)
    *skips, x = (stages[name] for name in self.encoder.stages)
    if len(skips) + self.smp != len(self.widths):
      raise UserError(
        f"`widths` is {self.widths}, but this encoder needs {len(skips) + self.smp}: one for each "
        f"of its stages{'' if self.smp else ' but the coarsest'}; or give () for its own"
      )
    if self.smp:
      x = Dropout(self.dropout)(x, keys if train else None)
      return self._double_convs(x, skips, image.shape[1:3], train)[:, :h, :w]

    def up(i, *parts):
      init = nn.initializers.normal(0.02)
      x = UpConv3x3(self.widths[i], self.up, kernel_init=init, dtype=self.dtype, name=f"up{i}")(
        *parts
      )
      (x,) = BatchNorm(train, self.axis_name, dtype=self.dtype, name=f"up{i}_norm")(x)
      return nn.relu(x)

    parts = [Dropout(self.dropout)(x, keys if train else None)]
    for i, skip in enumerate(reversed(skips)):
      parts = [block(self, up, i, *parts), skip]
    init = nn.initializers.glorot_uniform()
    x = UpConv3x3(
      self.num_classes, self.up, use_bias=True, kernel_init=init, dtype=self.dtype, name="head"
    )(*parts)
    return x[:, :h, :w].astype(jnp.float32)

  def _double_convs(self, x, skips, size, train):
    """The decoder and head of segmentation_models.pytorch."""

    def convs(name, width, *parts):
      for i in (1, 2):
        options = {"norm": self.norm, "epsilon": 1e-5, "axis_name": self.axis_name}
        conv = ConvNormRelu(width, dtype=self.dtype, name=f"{name}_conv{i}", **options)
        parts = [conv(*parts, train=train)]
      return parts[0]

    def up(i, x, *skip):
      x = ops.double_nearest(x, skip[0].shape[1:3] if skip else size)
      return convs(f"up{i}", self.widths[i], x, *skip)

    if self.center:
      x = block(self, convs, "center", x.shape[-1], x)
    for i, skip in enumerate([*([skip] for skip in reversed(skips)), []]):
      x = block(self, up, i, x, *skip)
    x = Conv3x3(self.num_classes, dtype=self.dtype, name="head")(x)
    return x.astype(jnp.float32)
