"""Xception-65, modified and aligned, as an encoder (Chen et al. 2018, DeepLabv3+, figure 4).

Layers are named as in timm, with underscores for dots.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxseg.convolution import conv
from jaxseg.models.batch_norm import BatchNorm
from jaxseg.models.layers import Conv1x1, DepthwiseConv, block, place_strides

# (channels of the three separable convolutions, stride of the third) of each block: entry flow,
# middle flow, exit flow.
BLOCKS = (
  ((128, 128, 128), 2),
  ((256, 256, 256), 2),
  ((728, 728, 728), 2),
  *[((728, 728, 728), 1)] * 16,
  ((728, 1024, 1024), 2),
  ((1536, 1536, 2048), 1),
)


class Xception65(nn.Module):
  """f32[B,H,W,D] in [0, 1] -> named stages {name: [B,ceil(H/s),ceil(W/s),C]}.

  Each `blocks_K_conv2` is the input of the strided convolution that halves the size, before its
  ReLU; that of block 1 is DeepLabv3+'s low-level feature.

  A block is ReLU and separable convolution three times over, with a normalisation behind each
  depthwise and each pointwise half, as in the authors' released code, on whose weights this can
  start; the paper's text has a ReLU behind each depthwise half as well. The last block, without a
  shortcut, has its ReLUs behind both halves instead.

  With the same weights, the coarsest stage of output stride s holds that of 32: every (32/s)-th
  value each way from the first on, for any size, because all padding is symmetric.

  Attributes:
    output_stride: 8, 16 or 32, the largest; see `layers.place_strides`.
    remat: keep only the outputs of the blocks for the gradient, see `layers.block`.
  """

  output_stride: int = 32
  remat: bool = False
  axis_name: str | None = None
  dtype: Any = jnp.float32

  # px: the sum of (k - 1) / 2 times the stride over all layers. Stem 1 + 2,
  # then three convolutions a block, all at the stride of its input.
  receptive_radius = 3 + 3 * (2 + 4 + 8 + 16 * 16 + 16 + 32)
  # From fine to coarse: strides 2, 4, 8, 16, 32 (at most output_stride) with 128, 256, 728, 1024,
  # 2048 channels.
  stages = ("blocks_0_conv2", "blocks_1_conv2", "blocks_2_conv2", "blocks_19_conv2", "blocks_20")
  imagenet = None
  lean = -1  # all padding is symmetric
  classifier = ()  # fully connected layers that a network may have as convolutions
  unused_layers = ("head_fc",)

  @property
  def stride(self) -> int:
    return self.output_stride

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> dict[str, jax.Array]:
    def norm(x, name):
      return BatchNorm(train, self.axis_name, dtype=self.dtype, name=name)(x)[0]

    def pointwise(x, features, name):
      return Conv1x1(features, use_bias=False, dtype=self.dtype, name=name)(x)

    def separable(x, features, stride, dilation, act, name):
      (x,) = DepthwiseConv(stride, dilation, "symmetric", self.dtype, name=f"{name}_conv_dw")(x)
      x = act(norm(x, f"{name}_bn_dw"))
      return act(norm(pointwise(x, features, f"{name}_conv_pw"), f"{name}_bn_pw"))

    def stem(x):
      for i, (features, stride) in enumerate(((32, 2), (64, 1))):
        init = nn.initializers.he_normal()
        options = {"use_bias": False, "kernel_init": init, "dtype": self.dtype}
        options["conv_general_dilated"] = conv
        x = nn.Conv(features, (3, 3), stride, padding=1, name=f"stem_{i}_conv", **options)(x)
        x = nn.relu(norm(x, f"stem_{i}_bn"))
      return x

    def xception_block(x, i, stride, dilation):
      block_input, last, stages = x, i == len(BLOCKS) - 1, {}
      widths = BLOCKS[i][0]
      for j, width in enumerate(widths, start=1):
        where = (stride if j == 3 else 1, dilation)
        name = f"blocks_{i}_stack_conv{j}"
        if last:
          x = separable(x, width, *where, nn.relu, name)
        else:
          x = separable(nn.relu(x), width, *where, lambda x: x, name)
        stages[f"blocks_{i}_conv{j}"] = x
      if BLOCKS[i][1] > 1:
        shortcut = pointwise(
          block_input[:, ::stride, ::stride], widths[-1], f"blocks_{i}_shortcut_conv"
        )
        x += norm(shortcut, f"blocks_{i}_shortcut_bn")
      elif not last:
        x += block_input
      return x, {name: stages[name] for name in self.stages if name in stages}

    # The public weights were trained on images in [-1, 1].
    x = block(self, stem, (2.0 * image - 1.0).astype(self.dtype))
    stages = {}
    _, *placed = place_strides((2, *(stride for _, stride in BLOCKS)), self.output_stride)
    for i, (stride, dilation) in enumerate(placed):
      x, found = block(self, xception_block, x, i, stride, dilation)
      stages |= found
    stages[f"blocks_{len(BLOCKS) - 1}"] = x
    return stages
