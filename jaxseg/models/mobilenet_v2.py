"""MobileNetV2 (Sandler et al. 2018) as an encoder; layers are named as in Keras Applications.

Or, as `variant` "smp", as in torchvision, whose network segmentation_models.pytorch has.
"""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxseg.convolution import conv
from jaxseg.models.batch_norm import BatchNorm
from jaxseg.models.layers import Conv1x1, DepthwiseConv, block, place_strides, standardize
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
# torchvision's first weights (IMAGENET1K_V1); the file's name begins its SHA-256.
TORCH_IMAGENET = Download(
  "https://download.pytorch.org/models/mobilenet_v2-b0353104.pth", "sha256:b0353104"
)
KERAS_STAGES = (
  "block_1_expand_relu",
  "block_3_expand_relu",
  "block_6_expand_relu",
  "block_13_expand_relu",
  "block_16_project",
)
TORCH_STAGES = ("features_1", "features_3", "features_6", "features_13", "features_18")


class MobileNetV2(nn.Module):
  """f32[B,H,W,D] in [0, 1] -> named stages {name: [B,ceil(H/s),ceil(W/s),C]}.

  Each `block_K_expand_relu` is the expanded, still unstrided input of the block that halves the
  size; `block_16_project` is that layer's output before its normalisation, as the TensorFlow
  segmentation tutorial taps it. `train` lets batch statistics follow the data.

  With the same weights, the coarsest stage of output stride s holds that of 32: every (32/s)-th
  value each way. Padding is TensorFlow's, so of sizes 32k + 1 (513) these begin with the first; of
  sizes 32k, whose windows begin on the first pixel, with the (32/s - 1)-th.

  Attributes:
    output_stride: 8, 16 or 32, the largest; see `layers.place_strides`.
    variant: "smp" is as in segmentation_models.pytorch, on torchvision's weights: padding is
      symmetric, stages are outputs of blocks (16, 24, 32 and 96 channels) and of the last 1x1
      convolution (1280), and a stage without its stride is dilated from its first layer on.
    remat: keep only the outputs of the blocks for the gradient, see `layers.block`.
  """

  output_stride: int = 32
  variant: str = "paper"
  remat: bool = False
  axis_name: str | None = None
  dtype: Any = jnp.float32

  classifier = ()  # fully connected layers that a network may have as convolutions

  @property
  def is_torch(self) -> bool:
    """Whether it is torchvision's network."""
    return self.variant == "smp"

  @property
  def lean(self) -> int:
    """Images are mirrored up to even sizes, of which TensorFlow pads the end alone."""
    return -1 if self.is_torch else 1

  @property
  def receptive_radius(self) -> int:
    """px: the sum of (k - 1) / 2 times the stride over all layers."""
    # As "smp", a layer that loses its stride is dilated itself.
    return 245 + sum(x for x in (8, 16) if 2 * x > self.output_stride and self.is_torch)

  @property
  def stages(self) -> Sequence[str]:
    # From fine to coarse: strides 2, 4, 8, 16, 32 (at most output_stride); of Keras' with 96, 144,
    # 192, 576, 320 channels.
    return TORCH_STAGES if self.is_torch else KERAS_STAGES

  @property
  def imagenet(self) -> Download:
    return TORCH_IMAGENET if self.is_torch else IMAGENET

  @property
  def unused_layers(self) -> Sequence[str]:
    # Of Keras', what follows block_16_project in the classifier; no stage needs it.
    of_keras = ("block_16_project_BN", "Conv_1", "Conv_1_bn", "predictions")
    return ("classifier_1",) if self.is_torch else of_keras

  @property
  def stride(self) -> int:
    return self.output_stride

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> dict[str, jax.Array]:
    common = {"use_bias": False, "dtype": self.dtype}
    # Adam turns small kernels faster, and a normalisation follows each: Glorot's scale, not He's.
    pointwise = functools.partial(Conv1x1, kernel_init=nn.initializers.glorot_uniform(), **common)

    epsilon, padding = (1e-5, "symmetric") if self.is_torch else (1e-3, "same")
    stem_names = ("features_0_0", "features_0_1") if self.is_torch else ("Conv1", "bn_Conv1")

    def norm(x, name, **options):
      options |= {"epsilon": epsilon, "dtype": self.dtype}
      return BatchNorm(train, self.axis_name, name=name, **options)(x)[0]

    def stem(x):
      pads = 1 if self.is_torch else "SAME"
      options = {"padding": pads, "conv_general_dilated": conv, **common}
      x = nn.Conv(32, (3, 3), 2, name=stem_names[0], **options)(x)
      return nn.relu6(norm(x, stem_names[1]))

    def bottleneck(x, i, stride, dilation):
      expansion, features, block_stride = BLOCKS[i]
      names = (_torch_names if self.is_torch else _keras_names)(i)
      block_input, stages = x, {}
      if i:
        x = pointwise(expansion * x.shape[-1], name=names["expand"])(x)
        x = nn.relu6(norm(x, names["expand_BN"]))
        stages[f"block_{i}_expand_relu"] = x
      conv = DepthwiseConv(stride, dilation, padding, self.dtype, name=names["depthwise"])
      x = nn.relu6(norm(*conv(x), names["depthwise_BN"]))
      x = pointwise(features, name=names["project"])(x)
      stages[f"block_{i}_project"] = x
      if i == len(BLOCKS) - 1 and not self.is_torch:
        x = None  # only the stage is needed
      elif block_stride == 1 and block_input.shape[-1] == features:
        # A zero scale starts the block as the identity (Goyal et al. 2017, section 5.1).
        x = block_input + norm(x, names["project_BN"], scale_init=nn.initializers.zeros)
      else:
        x = norm(x, names["project_BN"])
      stages[f"features_{i + 1}"] = x
      return x, {name: stages[name] for name in self.stages if name in stages}

    def last(x):
      return nn.relu6(norm(pointwise(1280, name="features_18_0")(x), "features_18_1"))

    # Keras' weights were trained on images in [-1, 1].
    x = standardize(image) if self.is_torch else 2.0 * image - 1.0
    x = block(self, stem, x.astype(self.dtype))
    stages, strides = {}, (2, *(stride for _, _, stride in BLOCKS))
    (_, *placed) = place_strides(strides, self.output_stride, at_once=self.is_torch)
    for i, (stride, dilation) in enumerate(placed):
      x, found = block(self, bottleneck, x, i, stride, dilation)
      stages |= found
    if self.is_torch:
      stages["features_18"] = block(self, last, x)
    return stages


PARTS = ("expand", "expand_BN", "depthwise", "depthwise_BN", "project", "project_BN")


def _keras_names(i):
  """{part: layer} of block i."""
  return {part: f"block_{i}_{part}" if i else f"expanded_conv_{part}" for part in PARTS}


def _torch_names(i):
  """{part: layer} of block i; the first one does not expand."""
  layers = ("0_0", "0_1", "1_0", "1_1", "2", "3") if i else ("0_0", "0_1", "1", "2")
  parts = PARTS if i else PARTS[2:]
  return {x: f"features_{i + 1}_conv_{layer}" for x, layer in zip(parts, layers, strict=True)}
