"""MobileNetV2 (Sandler et al. 2018) as an encoder; layers are named as in Keras Applications."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxseg.convolution import conv
from jaxseg.models.batch_norm import BatchNorm
from jaxseg.models.layers import Conv1x1, DepthwiseConv, block, place_strides
from jaxseg.models.pretrained import Download

# (expansion, output channels, stride) of each block, table 2 of the paper at width 1.
BLOCKS = (
  (1, 16, 1),
  *((6, 24, 2), (6, 24, 1)),
  *((6, 32, 2), (6, 32, 1), (6, 32, 1)),
  *((6, 64, 2), (6, 64, 1), (6, 64, 1), (6, 64, 1)),
  *((6, 96, 1), (6, 96, 1), (6, 96, 1)),
  *((6, 160, 2), (6, 160, 1), (6, 160, 1)),
  (6, 320, 1),
)

# ImageNet weights of Keras Applications, width 1, 224x224, with the classifier: the variant whose
# hash is on record with several projects.
IMAGENET = Download(
  "https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v2/"
  "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224.h5",
  "sha256:3e195a2857356cfc092cbbb460beb2a5bce279015d7792598b8d3d9e451902e3",
)


class MobileNetV2(nn.Module):
  """f32[B,H,W,3] in [0, 1] -> named stages {name: [B,ceil(H/s),ceil(W/s),C]}.

  Each `block_K_expand_relu` is the expanded, still unstrided input of the block that halves the
  size; `block_16_project` is that layer's output before its normalisation, as the TensorFlow
  segmentation tutorial taps it. `train` lets batch statistics follow the data.

  With the same weights, the coarsest stage of output stride s holds that of 32: every (32/s)-th
  value each way. Padding is TensorFlow's, so of sizes 32k + 1 (513) these begin with the first; of
  sizes 32k, whose windows begin on the first pixel, with the (32/s - 1)-th.

  Attributes:
    output_stride: 8, 16 or 32, the largest; see `layers.place_strides`.
    remat: keep only the outputs of the blocks for the gradient, see `layers.block`.
  """

  output_stride: int = 32
  remat: bool = False
  axis_name: str | None = None
  dtype: Any = jnp.float32

  receptive_radius = 245  # px: the sum of (k - 1) / 2 times the stride over all layers
  # From fine to coarse: strides 2, 4, 8, 16, 32 (at most output_stride) with 96, 144, 192, 576, 320
  # channels.
  stages = (
    "block_1_expand_relu",
    "block_3_expand_relu",
    "block_6_expand_relu",
    "block_13_expand_relu",
    "block_16_project",
  )
  imagenet = IMAGENET
  classifier = ()  # fully connected layers that a network may have as convolutions
  # What follows block_16_project in the classifier; no stage needs it.
  unused_layers = ("block_16_project_BN", "Conv_1", "Conv_1_bn", "predictions")

  @property
  def stride(self) -> int:
    return self.output_stride

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> dict[str, jax.Array]:
    common = {"use_bias": False, "dtype": self.dtype}
    # Adam turns small kernels faster, and a normalisation follows each: Glorot's scale, not He's.
    pointwise = functools.partial(Conv1x1, kernel_init=nn.initializers.glorot_uniform(), **common)

    def norm(x, name, **options):
      return BatchNorm(train, self.axis_name, dtype=self.dtype, name=name, **options)(x)[0]

    def stem(x):
      x = nn.Conv(32, (3, 3), 2, name="Conv1", conv_general_dilated=conv, **common)(x)
      return nn.relu6(norm(x, "bn_Conv1"))

    def bottleneck(x, i, stride, dilation):
      expansion, features, block_stride = BLOCKS[i]
      prefix = f"block_{i}" if i else "expanded_conv"
      block_input, stages = x, {}
      if i:
        x = pointwise(expansion * x.shape[-1], name=f"{prefix}_expand")(x)
        x = nn.relu6(norm(x, f"{prefix}_expand_BN"))
        stages[f"{prefix}_expand_relu"] = x
      (x,) = DepthwiseConv(stride, dilation, dtype=self.dtype, name=f"{prefix}_depthwise")(x)
      x = nn.relu6(norm(x, f"{prefix}_depthwise_BN"))
      x = pointwise(features, name=f"{prefix}_project")(x)
      stages[f"{prefix}_project"] = x
      if i == len(BLOCKS) - 1:
        x = None  # only the stage is needed
      elif block_stride == 1 and block_input.shape[-1] == features:
        # A zero scale starts the block as the identity (Goyal et al. 2017, section 5.1).
        x = block_input + norm(x, f"{prefix}_project_BN", scale_init=nn.initializers.zeros)
      else:
        x = norm(x, f"{prefix}_project_BN")
      return x, {name: stages[name] for name in self.stages if name in stages}

    # The public weights were trained on images in [-1, 1].
    x = block(self, stem, (2.0 * image - 1.0).astype(self.dtype))
    stages = {}
    (_, *placed) = place_strides((2, *(stride for _, _, stride in BLOCKS)), self.output_stride)
    for i, (stride, dilation) in enumerate(placed):
      x, found = block(self, bottleneck, x, i, stride, dilation)
      stages |= found
    return stages
