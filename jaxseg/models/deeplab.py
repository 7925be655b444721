"""DeepLabv3 (Chen et al. 2017) and DeepLabv3+ (Chen et al. 2018)."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxseg import UserError, ops
from jaxseg.models.conv_norm import ConvNormRelu
from jaxseg.models.layers import Conv1x1, Dropout, UpScore, block, encoder_stages

RATES = (6, 12, 18)  # of the atrous convolutions at output stride 16
SMP_RATES = (12, 24, 36)  # of the map, at any output stride


class ASPP(nn.Module):
  """Atrous spatial pyramid pooling with image pooling (Chen et al. 2017, section 3.3).

  A 1x1 convolution, 3x3 convolutions at `rates` and the mean of the whole map, each normalised,
  side by side into a last 1x1 convolution.  [B,h,w,C] -> [B,h,w,features]
  """

  features: int
  rates: Sequence[int]
  separable: bool = False
  inner_norm: bool = True
  epsilon: float = 1e-3
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    common = {"epsilon": self.epsilon, "axis_name": self.axis_name, "dtype": self.dtype}
    mean = jnp.mean(x, axis=(1, 2), keepdims=True, dtype=jnp.float32).astype(x.dtype)
    mean = ConvNormRelu(self.features, 1, name="image", **common)(mean, train=train)
    branches = [
      # As float32, in which the gradient is summed over the map.
      jnp.broadcast_to(mean.astype(jnp.float32), (*x.shape[:3], self.features)).astype(x.dtype),
      ConvNormRelu(self.features, 1, name="pixel", **common)(x, train=train),
    ]
    for i, rate in enumerate(self.rates):
      options = (self.features, 3, rate, self.separable, self.inner_norm)
      branches.append(ConvNormRelu(*options, name=f"atrous{i}", **common)(x, train=train))
    x = jnp.concatenate(branches, axis=-1)
    return ConvNormRelu(self.features, 1, name="project", **common)(x, train=train)


class DeepLab(nn.Module):
  """DeepLabv3+; DeepLabv3 without `decoder`; without `aspp`, too, a dilated FCN.

  f32[B,H,W,D] in [0, 1] -> f32[B,H,W,num_classes] logits, for any H and W: the image is mirrored
  up to a multiple of the encoder's stride and the logits are cut back.

  With `exact`, nothing is mirrored: the map has ceil(H / stride) rows, and the logits of these are
  enlarged to H, as torchvision's networks do. An encoder whose padding is symmetric takes any size.

  With `smp`, it is that of segmentation_models.pytorch, version 3 or 3+: one convolution of the
  decoder comes before the low-level stage is merged, one behind, both separable; no separable one
  has a normalisation between its halves; enlarging leaves the corner pixels' centres in place.

  Attributes:
    encoder: see `interface.Encoder`; with an `output_stride`, which may change between training and
      use: the rates of the atrous convolutions follow it.
    freeze_encoder, freeze_norm: see `unet.EncoderUNet`.
    widths: channels of ASPP and decoder, and of the reduced low-level stage.
    separable: atrous separable convolutions in ASPP and decoder.
    rates: of the atrous convolutions at output stride 16.
    decoder: merge the stage of stride 4 (2018), or enlarge the logits of ASPP at once (2017).
    aspp: pool at several rates.
    head_conv: a further 3x3 convolution before that of the logits, as in torchvision's networks.
    trained_stride: output stride of training, if it is another one now. The coarse map is then
      enlarged so that each pixel has what it had in training, see `resize_options`.
    epsilon: of the normalisation behind the encoder.
    up: "resize", bilinear, as published; "transposed", learned, of the logits to the image.
    dropout: rate behind ASPP.
    remat: keep only the inputs of ASPP and decoder for the gradient, see `layers.block`.
  """

  num_classes: int
  encoder: nn.Module
  freeze_encoder: bool = False
  freeze_norm: bool = False
  widths: Sequence[int] = (256, 48)
  separable: bool = True
  rates: Sequence[int] = RATES
  decoder: bool = True
  aspp: bool = True
  head_conv: bool = False
  exact: bool = False
  smp: bool = False
  trained_stride: int = 0
  epsilon: float = 1e-3
  up: str = "resize"
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
    # Atrous convolutions look rate * 16 px to each side at any output stride, the decoder's two and
    # the enlargements less than 64 px. The image pooling sees each window for itself.
    radius = self.encoder.receptive_radius + 16 * max(self.rates) * self.aspp + 64
    return radius + -radius % self.stride

  def input_size(self, size: int) -> int:
    return size if self.exact else size + -size % self.stride

  def at_output_stride(self, output_stride: int) -> "DeepLab":
    """The network with the same parameters whose encoder has another output stride.

    Raises:
      UserError: it would need other parameters, or its maps cannot be put where they were.
    """
    trained = self.trained_stride or self.encoder.output_stride
    if output_stride == self.encoder.output_stride:
      return self
    if self.up == "transposed" and not self.decoder:
      raise UserError(
        f"`output_stride` {output_stride} needs another learned upsampling than that of training, "
        f"{trained}: set it to that, or train with `up` resize"
      )
    if self.exact and getattr(self.encoder, "lean", 0) > 0:
      raise UserError(
        f"`output_stride` {output_stride}: this encoder pads odd and even sizes in different ways, "
        f"and this network takes both: set it to that of training, {trained}"
      )
    encoder = self.encoder.clone(output_stride=output_stride)
    return self.clone(encoder=encoder, trained_stride=trained)

  def resize_options(self, size: Sequence[int]) -> dict[str, Any]:
    """Options of `ops.resize` for the coarse map of an image of this size (H, W).

    Enlarging puts a value in the middle of the pixels that it stands for. The windows of the
    encoder have their centres elsewhere (`lean` of `interface.Encoder`), at a distance that grows
    with the output stride. The layers that follow have learned the distance of training.
    """
    trained = self.trained_stride
    factor = trained / self.encoder.output_stride if trained else 1.0
    if factor == 1:
      return {}
    offset = (factor - 1) * (1 + getattr(self.encoder, "lean", 0)) / 2
    coarse = [-(-n // trained) for n in size] if self.exact else (None, None)
    return {"factor": factor, "offset": offset, "coarse": coarse}

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool, keys: jax.Array | None = None) -> jax.Array:
    h, w = image.shape[1:3]
    if not self.exact:
      image = ops.pad_to_multiple(image, self.stride)
    stages = encoder_stages(self, image, train=train)
    if len(self.widths) != 2:
      raise UserError(f"`widths` is {self.widths}, but deeplab has two, of ASPP and the low "
                      "level: give these, or () for its own")  # fmt: skip
    width, low_width = self.widths
    common = {"epsilon": self.epsilon, "axis_name": self.axis_name, "dtype": self.dtype}
    if uneven := [rate for rate in self.rates if rate * 16 % self.encoder.output_stride]:
      raise UserError(
        f"`rates` has {uneven[0]}, at output stride 16; at {self.encoder.output_stride} that is no "
        "whole number: make it even, or `output_stride` 16 or 8"
      )
    rates = [rate * 16 // self.encoder.output_stride for rate in self.rates]

    def aspp(x):
      options = (width, rates, self.separable, not self.smp)
      return ASPP(*options, name="aspp", **common)(x, train=train)

    def low_level(x):
      return ConvNormRelu(low_width, 1, name="low_level", **common)(x, train=train)

    def decoder(i, *parts):
      options = (width, 3, 1, self.separable or self.smp, not self.smp)
      return ConvNormRelu(*options, name=f"decoder{i}", **common)(*parts, train=train)

    def head_conv(x):
      return ConvNormRelu(width, 3, name="head_conv", **common)(x, train=train)

    def dropout(x):
      return Dropout(self.dropout)(x, keys if train else None)

    x = stages[self.encoder.stages[-1]]
    if self.aspp:
      x = dropout(block(self, aspp, x))
    if self.decoder:
      low = block(self, low_level, stages[self.encoder.stages[1]])
      if self.smp:
        x = block(self, decoder, 0, x)
      x = ops.resize(x, low.shape[1:3], corners=self.smp, **self.resize_options(image.shape[1:3]))
      x = block(self, decoder, 1, x, low)
      if not self.smp:
        x = block(self, decoder, 2, x)
    if self.head_conv:
      x = block(self, head_conv, x)
    if not self.aspp:
      x = dropout(x)
    # From weights of 0.01, Adam had not learned rare classes after 200 steps; see experiments/race.
    init = nn.initializers.glorot_uniform()
    x = Conv1x1(self.num_classes, kernel_init=init, dtype=self.dtype, name="head")(x)
    factor = image.shape[1] // x.shape[1]
    if self.up == "transposed":
      x = UpScore(factor, 2 * factor, dtype=self.dtype, name="up")(x)
      x = ops.center_crop(x, image.shape[1:3])
    else:
      options = {} if self.decoder else self.resize_options(image.shape[1:3])
      x = ops.resize(x.astype(jnp.float32), image.shape[1:3], corners=self.smp, **options)
    return x[:, :h, :w].astype(jnp.float32)
