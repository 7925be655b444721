"""What an encoder and a network have to offer: the contract for your own.

Both are `flax.linen.Module`s whose fields are all their settings. Nothing here has to be inherited
from: a module with these attributes fits.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax

from jaxseg.models.pretrained import Download


class Encoder(Protocol):
  """A classification network without its classifier, as named feature maps of falling resolution.

  Optional fields, which `models.build` sets if the constructor takes them:
    output_stride: the largest stride, 8, 16 or 32; beyond it, convolutions are dilated instead of
      strided. DeepLab needs it.
    pad: zeros around the normalised image, px. The "valid" form of FCN needs it.
    axis_name: the mapped axis under `pmap`, over which batch normalisation averages, or None.
    dtype: of the activations. Parameters are float32.
    remat: its blocks are computed again for the gradient, see `layers.block`.
    variant: its form; "smp" is asked for by networks of segmentation_models.pytorch.
  Optional attributes:
    lean: where the windows of the coarsest stage have their centres in the blocks of pixels that
      its values stand for: 1 on the last pixel, as with TensorFlow's padding of even sizes, -1 on
      the first, as with symmetric padding; 0, in the middle, if it has none. DeepLab needs it to
      predict with another output stride than it was trained with.
    rgb: places of red, green and blue among the input channels of its weight files; (0, 1, 2) if it
      has none. Images of other channels begin with filters made of these.
  """

  @property
  def stages(self) -> Sequence[str]:
    """Names of the feature maps, from fine to coarse, of strides 2, 4, 8, ... px."""
    ...

  @property
  def stride(self) -> int:
    """Stride of the coarsest stage, px. Images are mirrored up to a multiple of it."""
    ...

  @property
  def receptive_radius(self) -> int:
    """How far a value of the coarsest stage looks to each side, px.

    The sum over all layers of (k - 1) / 2 times the stride at the layer's input. Tiles overlap by
    it, so that it must not be too small.
    """
    ...

  @property
  def imagenet(self) -> Download | None:
    """The published weight file that `pretrained="imagenet"` downloads, if there is one."""
    ...

  @property
  def classifier(self) -> Sequence[str]:
    """Fully connected layers in the weight file that a network may have as convolutions (FCN)."""
    ...

  @property
  def unused_layers(self) -> Sequence[str]:
    """Further layers in the weight file that no stage needs."""
    ...

  def __call__(self, image: jax.Array, *, train: bool) -> Mapping[str, jax.Array]:
    """f32[B,H,W,D] in [0, 1] -> {stage: [B,ceil(H/s),ceil(W/s),C]} for every name in `stages`.

    The encoder normalises the image itself. `train` updates the batch statistics. Submodules are
    named like the layers of the weight file; see `pretrained.assign_weights`.
    """
    ...


class Network(Protocol):
  """From images to logits.

  Training, tiled prediction and export ask for nothing else. Optional:
    encoder: an `Encoder`, under whose name its parameters are stored; for pretrained weights.
    at_output_stride(output_stride): the same network, of the same parameters, whose encoder has
      another output stride.
  """

  @property
  def margin(self) -> int:
    """Pixels that unpadded convolutions take off each side of the image; else 0."""
    ...

  @property
  def context(self) -> int:
    """How far into the logits the padding at an edge is felt, px; a multiple of `stride`.

    Tiles overlap by it. 0 if nothing is padded.
    """
    ...

  @property
  def stride(self) -> int:
    """The network commutes with shifts of the image by multiples of it, px."""
    ...

  def input_size(self, size: int) -> int:
    """The smallest height or width that the network takes and that is at least `size`, px."""
    ...

  def __call__(self, image: jax.Array, *, train: bool, keys: jax.Array | None = None) -> jax.Array:
    """f32[B,H,W,D] in [0, 1] -> logits f32[B,H-2*margin,W-2*margin,num_classes].

    Args:
      train: batch statistics are those of the batch, and are updated.
      keys: key[B] of the examples, for dropout; None for no dropout.
    """
    ...


def lacking(value: Any, protocol: type) -> list[str]:
  """Names of the attributes and methods of a protocol in this module that an object lacks."""
  return [
    name
    for name in vars(protocol)
    if (not name.startswith("_") or name == "__call__") and not hasattr(value, name)
  ]
