"""VGG-16 (Simonyan and Zisserman 2015) as an encoder; layers are named as in Keras Applications.

Or, as `variant` "smp", as in torchvision, whose network segmentation_models.pytorch has.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxseg import ops
from jaxseg.models.layers import Conv3x3, block, repeat_rgb, standardize
from jaxseg.models.pretrained import Download

# (convolutions, channels) of each block, configuration D in table 1 of the paper.
BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
MEAN = (103.939, 116.779, 123.68)  # of ImageNet's blue, green and red, in steps of 8 bits

# With the classifier; MD5 is what Keras publishes.
IMAGENET = Download(
  "https://storage.googleapis.com/tensorflow/keras-applications/vgg16/"
  "vgg16_weights_tf_dim_ordering_tf_kernels.h5",
  "md5:64373286793e3c8b2b4e3219cbf3544b",
)
# torchvision's first weights (IMAGENET1K_V1); the file's name begins its SHA-256.
TORCH_IMAGENET = Download("https://download.pytorch.org/models/vgg16-397923af.pth",
                          "sha256:397923af")  # fmt: skip
# Of torchvision's `features`, the number of the first convolution of each block.
TORCH_STARTS = (0, 5, 10, 17, 24)


class VGG16(nn.Module):
  """f32[B,H,W,D] in [0, 1] -> named stages {name: [B,ceil(H/s),ceil(W/s),C]}, s = 2, 4, ..., 32.

  Attributes:
    pad: zeros around the normalised image, px; FCN's paper has 99 (and one more as every 3x3
      convolution has it).
    variant: "smp" is as in segmentation_models.pytorch, on torchvision's weights: stages are taken
      before the poolings of strides 4, 8, 16 and 32, and behind the last; these leave out an odd
      row or column.
    remat: keep only the stages for the gradient, see `layers.block`.
  """

  pad: int = 0
  variant: str = "paper"
  remat: bool = False
  axis_name: str | None = None  # of a batch normalisation; there is none
  dtype: Any = jnp.float32

  stride = 32
  receptive_radius = 90  # px: the sum of (k - 1) / 2 times the stride over all layers

  @property
  def is_torch(self) -> bool:
    """Whether it is torchvision's network."""
    return self.variant == "smp"

  @property
  def stages(self) -> Sequence[str]:
    pools = tuple(f"block{i}_pool" for i in range(1, 6))
    return (*(f"block{i}" for i in range(2, 6)), "block5_pool") if self.is_torch else pools

  @property
  def imagenet(self) -> Download:
    return TORCH_IMAGENET if self.is_torch else IMAGENET

  @property
  def classifier(self) -> Sequence[str]:
    return () if self.is_torch else ("fc1", "fc2")  # which FCN has as convolutions

  @property
  def unused_layers(self) -> Sequence[str]:
    of_torch = ("classifier_0", "classifier_3", "classifier_6")
    return of_torch if self.is_torch else ("predictions",)

  @property
  def rgb(self) -> Sequence[int]:
    """Inputs of the weight file's first convolution that are red, green and blue."""
    return (0, 1, 2) if self.is_torch else (2, 1, 0)

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> dict[str, jax.Array]:
    if self.is_torch:
      x = standardize(image)
    elif image.shape[-1] in (1, 3):
      x = 255.0 * image[..., ::-1] - jnp.array(MEAN, jnp.float32)
    else:  # each channel as if it were red, green or blue in turn
      x = 255.0 * image - jnp.array(repeat_rgb(MEAN[::-1], image.shape[-1]), jnp.float32)
    x = jnp.pad(x, ((0, 0), (self.pad, self.pad), (self.pad, self.pad), (0, 0)))

    def convs_and_pool(x, i, num_convs, features):
      for j in range(1, num_convs + 1):
        # Grey values deviate by about 60: random weights start as behind an image of unit variance.
        gain = 1 / 60 if i == j == 1 and not self.is_torch else 1.0
        place = TORCH_STARTS[i - 1] + 2 * (j - 1)  # a ReLU behind each
        name = f"features_{place}" if self.is_torch else f"block{i}_conv{j}"
        x = nn.relu(Conv3x3(features, gain=gain, dtype=self.dtype, name=name)(x))
      h, w = x.shape[1:3]
      if self.is_torch:
        pooled = ops.max_pool_2x2(x[:, : h - h % 2, : w - w % 2])
        return {f"block{i}": x, f"block{i}_pool": pooled}
      # As Caffe, a window that hangs over the edge counts; behind a ReLU, zeros change nothing.
      x = jnp.pad(x, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)))
      return {f"block{i}_pool": ops.max_pool_2x2(x)}

    stages = {}
    for i, row in enumerate(BLOCKS, start=1):
      stages |= block(self, convs_and_pool, x, i, *row)
      x = stages[f"block{i}_pool"]
    return {name: stages[name] for name in self.stages}
