"""ResNet-18, 34, 50 and 101 (He et al. 2016) as encoders; layers are named as in torchvision.

Of "layer3.0.conv1" the dots become underscores. Bottleneck blocks (50, 101) stride in their 3x3
convolution (v1.5), not in the first 1x1 as in the paper: so the public weights were trained.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxseg import convolution, ops
from jaxseg.models.batch_norm import BatchNorm
from jaxseg.models.layers import (
  Conv1x1,
  StemConv,
  block,
  place_strides,
  standardize,
)
from jaxseg.models.pretrained import Download

# Of layer1 to layer4, table 1 of the paper.
NUM_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
# Of the 3x3 convolutions; outputs of bottleneck blocks have four times as many channels.
WIDTHS = (64, 128, 256, 512)

# torchvision's first weights (IMAGENET1K_V1); a file's name begins its SHA-256.
IMAGENET = {
  18: Download("https://download.pytorch.org/models/resnet18-f37072fd.pth", "sha256:f37072fd"),
  34: Download("https://download.pytorch.org/models/resnet34-b627a593.pth", "sha256:b627a593"),
  50: Download("https://download.pytorch.org/models/resnet50-0676ba61.pth", "sha256:0676ba61"),
  101: Download("https://download.pytorch.org/models/resnet101-63fe2227.pth", "sha256:63fe2227"),
}


class ResNet(nn.Module):
  """f32[B,H,W,D] in [0, 1] -> named stages {name: [B,ceil(H/s),ceil(W/s),C]}.

  With the same weights, the coarsest stage of output stride s holds that of 32: every (32/s)-th
  value each way from the first on, for any size, because all padding is symmetric (not so in
  `variant` "smp").

  Attributes:
    depth: 18 or 34 of basic blocks, two 3x3 convolutions each; 50 or 101 of bottleneck blocks.
    output_stride: 8, 16 or 32, the largest; see `layers.place_strides`.
    variant: "smp" is as in segmentation_models.pytorch, where a stage without its stride is dilated
      from its first convolution on.
    remat: keep only the outputs of the blocks for the gradient, see `layers.block`.
  """

  depth: int = 50
  output_stride: int = 32
  variant: str = "paper"
  remat: bool = False
  axis_name: str | None = None
  dtype: Any = jnp.float32

  # From fine to coarse: strides 2, 4, 8, 16, 32 (at most output_stride) with 64, 256, 512, 1024,
  # 2048 channels; of basic blocks 64, 64, 128, 256, 512.
  stages = ("stem", "layer1", "layer2", "layer3", "layer4")
  lean = -1  # all padding is symmetric
  classifier = ()  # fully connected layers that a network may have as convolutions
  unused_layers = ("fc",)

  @property
  def stride(self) -> int:
    return self.output_stride

  @property
  def receptive_radius(self) -> int:
    """px: the sum of (k - 1) / 2 times the stride over all layers."""
    # The first 3x3 convolution of layer2, 3 and 4 still sees the stride before it, but for one that
    # is dilated at once.
    blocks = zip(NUM_BLOCKS[self.depth], (4, 8, 16, 32), strict=True)
    convs, is_smp = 2 if self.is_basic else 1, self.variant == "smp"
    before = sum(x for x in (4, 8, 16) if 2 * x <= self.output_stride or not is_smp)
    return 3 + 2 + convs * sum(num * stride for num, stride in blocks) - before

  @property
  def is_basic(self) -> bool:
    """Whether its blocks are basic, not bottlenecks."""
    return self.depth < 50

  @property
  def imagenet(self) -> Download:
    return IMAGENET[self.depth]

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> dict[str, jax.Array]:
    def norm(x, name, **options):
      options |= {"epsilon": 1e-5, "dtype": self.dtype}
      return BatchNorm(train, self.axis_name, name=name, **options)(x)[0]

    def conv(x, features, size, stride, dilation, name):
      if size == 1:
        x = x[:, ::stride, ::stride]
        return Conv1x1(features, use_bias=False, dtype=self.dtype, name=name)(x)
      return nn.Conv(
        features,
        (size, size),
        stride,
        padding=dilation * (size // 2),
        kernel_dilation=dilation,
        conv_general_dilated=convolution.conv,
        use_bias=False,
        kernel_init=nn.initializers.he_normal(),
        dtype=self.dtype,
        name=name,
      )(x)

    def bottleneck(x, width, stride, dilation, name):
      y = nn.relu(norm(conv(x, width, 1, 1, 1, f"{name}_conv1"), f"{name}_bn1"))
      y = nn.relu(norm(conv(y, width, 3, stride, dilation, f"{name}_conv2"), f"{name}_bn2"))
      # A zero scale starts the block as its shortcut (Goyal et al. 2017, section 5.1).
      y = conv(y, 4 * width, 1, 1, 1, f"{name}_conv3")
      y = norm(y, f"{name}_bn3", scale_init=nn.initializers.zeros)
      if name.endswith("_0"):
        x = conv(x, 4 * width, 1, stride, 1, f"{name}_downsample_0")
        x = norm(x, f"{name}_downsample_1")
      return nn.relu(x + y)

    def basic(x, width, stride, dilation, _, second_dilation, name):
      y = nn.relu(norm(conv(x, width, 3, stride, dilation, f"{name}_conv1"), f"{name}_bn1"))
      y = conv(y, width, 3, 1, second_dilation, f"{name}_conv2")
      y = norm(y, f"{name}_bn2", scale_init=nn.initializers.zeros)
      if name.endswith("_0") and width > WIDTHS[0]:
        x = conv(x, width, 1, stride, 1, f"{name}_downsample_0")
        x = norm(x, f"{name}_downsample_1")
      return nn.relu(x + y)

    x = standardize(image).astype(self.dtype)

    def stem(x):
      return nn.relu(norm(StemConv(64, self.dtype, name="conv1")(x), "bn1", on_pairs=True))

    x = block(self, stem, x)
    stages = {"stem": x}
    x = block(self, ops.max_pool_3x3, x)
    kind, convs = (basic, 2) if self.is_basic else (bottleneck, 1)  # of 3x3 in a block
    strides = [2, 2]  # conv1 and the pooling
    for i, num in enumerate(NUM_BLOCKS[self.depth]):
      strides += [2 if i else 1] + [1] * (convs * num - 1)
    placed = iter(place_strides(strides, self.output_stride, self.variant == "smp")[2:])
    for i, (num, width) in enumerate(zip(NUM_BLOCKS[self.depth], WIDTHS, strict=True), start=1):
      for j in range(num):
        numbers = [number for _ in range(convs) for number in next(placed)]
        x = block(self, kind, x, width, *numbers, f"layer{i}_{j}")
      stages[f"layer{i}"] = x
    return stages
