"""VGG-16 (Simonyan and Zisserman 2015) as an encoder; layers are named as in Keras Applications."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxseg import ops
from jaxseg.models.layers import Conv3x3, block, repeat_rgb
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


class VGG16(nn.Module):
  """f32[B,H,W,D] in [0, 1] -> named stages {name: [B,ceil(H/s),ceil(W/s),C]}, s = 2, 4, ..., 32.

  Attributes:
    pad: zeros around the normalised image, px; FCN's paper has 99 (and one more as every 3x3
      convolution has it).
    remat: keep only the stages for the gradient, see `layers.block`.
  """

  pad: int = 0
  remat: bool = False
  axis_name: str | None = None  # of a batch normalisation; there is none
  dtype: Any = jnp.float32

  stride = 32
  receptive_radius = 90  # px: the sum of (k - 1) / 2 times the stride over all layers
  stages = tuple(f"block{i}_pool" for i in range(1, 6))
  imagenet = IMAGENET
  classifier = ("fc1", "fc2")  # which FCN has as convolutions
  unused_layers = ("predictions",)
  rgb = (2, 1, 0)  # inputs of the weight file's first convolution

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> dict[str, jax.Array]:
    if image.shape[-1] in (1, 3):
      x = 255.0 * image[..., ::-1] - jnp.array(MEAN, jnp.float32)
    else:  # each channel as if it were red, green or blue in turn
      x = 255.0 * image - jnp.array(repeat_rgb(MEAN[::-1], image.shape[-1]), jnp.float32)
    x = jnp.pad(x, ((0, 0), (self.pad, self.pad), (self.pad, self.pad), (0, 0)))

    def convs_and_pool(x, i, num_convs, features):
      for j in range(1, num_convs + 1):
        # Grey values deviate by about 60: random weights start as behind an image of unit variance.
        gain = 1 / 60 if i == j == 1 else 1.0
        x = Conv3x3(features, gain=gain, dtype=self.dtype, name=f"block{i}_conv{j}")(x)
        x = nn.relu(x)
      # As Caffe, a window that hangs over the edge counts; behind a ReLU, zeros change nothing.
      x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
      return ops.max_pool_2x2(x)

    stages = {}
    for i, row in enumerate(BLOCKS, start=1):
      stages[f"block{i}_pool"] = x = block(self, convs_and_pool, x, i, *row)
    return stages
