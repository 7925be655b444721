"""The networks by name: `build` one, `init` its variables, and add your own to the tables.

Two lines give a network:

  model = models.build("unet", num_classes=2)
  variables = models.init(model, channels=1)

A network of your own is `MODELS["mine"] = builder`, an encoder `ENCODERS["mine"] = constructor`,
in any file that is imported first, such as your config. `interface` says what both have to offer.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn

from jaxseg import UserError
from jaxseg.models.cost import num_parameters, summary
from jaxseg.models.deeplab import SMP_RATES, DeepLab
from jaxseg.models.encoders import (
  ENCODERS as ENCODERS,
)
from jaxseg.models.encoders import (
  OUTPUT_STRIDES as OUTPUT_STRIDES,
)
from jaxseg.models.encoders import (
  PRECISIONS as PRECISIONS,
)
from jaxseg.models.encoders import (
  UPS as UPS,
)
from jaxseg.models.encoders import (
  check_complete,
  common_fields,
  look_up,
  make_encoder,
)
from jaxseg.models.fcn import FCN
from jaxseg.models.interface import Network
from jaxseg.models.unet import EncoderUNet, UNet
from jaxseg.models.variables import (
  abstract_variables,
  assign_by_name,
  check_input,
  init,
  load_encoder,
  take_matching,
)
from jaxseg.models.vgg import VGG16

__all__ = ["build", "options_of", "init", "summary", "num_parameters", "num_logits", "check_input"]
__all__ += ["abstract_variables", "at_output_stride", "load_encoder", "take_matching"]
__all__ += ["assign_by_name"]

STEM_STRIDES = (1, 2)
PADDINGS = ("same", "valid")
HEADS = ("softmax", "sigmoid")
VARIANTS = ("paper", "torchvision", "smp")
FCN_PAD = 99  # and one more by the first convolution: the 100 px of the paper


def build(name: str, num_classes: int, **options: Any) -> nn.Module:
  """A network by its name.

  Args:
    name: key of MODELS.
    num_classes: channels of the logits, see `num_logits`.
    options: those of the builder, see `options_of`. All built-in networks take
      widths: channels of the levels, () for the published ones.
      dropout: rate, 0 to below 1.  up: one of UPS.
      precision: key of PRECISIONS, the type of activations; parameters are float32.
      remat: compute activations again for the gradient instead of keeping them; `layers.block`.
      axis_name: the mapped axis under `pmap`, else None.
    and those with an encoder
      encoder: key of ENCODERS, or a module as `interface.Encoder` describes, taken as it is.
      freeze_encoder: it gets no gradient, and its batch statistics do not change.
      freeze_norm: only its batch statistics do not change.
  Returns:
    a module as `interface.Network` describes: `apply(variables, image f32[B,H,W,D], train=)` ->
    logits f32[B,h,w,num_classes]; h, w = H, W but for valid convolutions.
  Raises:
    UserError: an unknown name, option or value, or options that do not fit together.
  """
  builder = look_up(MODELS, name, "network")
  known = options_of(name)
  for option in options:
    if option not in known:
      raise UserError(f"{name} has no option {option!r}; it has {', '.join(known)}")
  model = builder(num_classes, **options)
  check_complete(model, Network, f"the network {name!r}")
  return model


def options_of(name: str) -> dict[str, Any]:
  """{option: default} of a network, from its builder's signature.

  What `functools.partial` has fixed is not an option.

  Raises:
    UserError: an unknown name.
  """
  builder = look_up(MODELS, name, "network")
  fixed = builder.keywords if isinstance(builder, functools.partial) else {}
  _, *parameters = inspect.signature(builder).parameters.values()
  return {x.name: x.default for x in parameters if x.name not in fixed}


def num_logits(head: str, classes: Sequence[str]) -> int:
  """Channels of a head: one per class, or a single one, of the second of two, for "sigmoid".

  Raises:
    UserError: an unknown head, or a sigmoid with other than two classes.
  """
  if look_up(HEADS, head, "head") == "softmax":
    return len(classes)
  if len(classes) != 2:
    raise UserError(
      f"`head` 'sigmoid' is for two classes; set it to 'softmax' for {', '.join(classes)}"
    )
  return 1


def at_output_stride(model: nn.Module, output_stride: int) -> nn.Module:
  """The network with the same parameters whose encoder has another output stride.

  Raises:
    UserError: the network has no such form, or the output stride is none of OUTPUT_STRIDES.
  """
  look_up(OUTPUT_STRIDES, output_stride, "output_stride")
  if not hasattr(model, "at_output_stride"):
    raise UserError(
      f"`output_stride` {output_stride} is for DeepLab; {type(model).__name__} has only the one it "
      "was trained with"
    )
  return model.at_output_stride(output_stride)


# The builders: `(num_classes, **options with defaults) -> module`.


def build_unet(
  num_classes: int,
  *,
  widths: Sequence[int] = (),
  stem_stride: int = 1,
  padding: str = "same",
  norm: bool = True,
  dropout: float = 0.0,
  up: str = "transposed",
  precision: str = "float32",
  remat: bool = False,
  axis_name: str | None = None,
) -> UNet:
  """U-Net (Ronneberger et al. 2015); see `UNet` for the options, and `build`.

  Raises:
    UserError: an unknown value, or valid convolutions with interpolation.
  """
  look_up(STEM_STRIDES, stem_stride, "stem_stride")
  look_up(PADDINGS, padding, "padding")
  common = common_fields(widths, dropout, up, precision, remat, axis_name)
  if padding == "valid" and up != "transposed":
    raise UserError("`padding` 'valid' needs `up` 'transposed' in unet: interpolation pads")
  return UNet(num_classes, stem_stride=stem_stride, padding=padding, norm=norm, **common)


def build_encoder_unet(
  num_classes: int,
  *,
  encoder: str | nn.Module = "mobilenet_v2",
  widths: Sequence[int] = (),
  variant: str = "paper",
  norm: bool = True,
  freeze_encoder: bool = False,
  freeze_norm: bool = False,
  dropout: float = 0.0,
  up: str = "transposed",
  precision: str = "float32",
  remat: bool = False,
  axis_name: str | None = None,
) -> EncoderUNet:
  """U-Net decoder on an encoder; see `EncoderUNet` for the options, and `build`.

  `variant` "smp" is the one of segmentation_models.pytorch, encoder included.

  Raises:
    UserError: an unknown value, or options that only "smp" has.
  """
  look_up(VARIANTS, variant, "variant")
  common = common_fields(widths, dropout, up, precision, remat, axis_name)
  frozen = {"freeze_encoder": freeze_encoder, "freeze_norm": freeze_norm}
  if variant == "torchvision":
    raise UserError("`variant` torchvision is for deeplabv3 and dilated_fcn; use paper or smp")
  if variant == "smp" and up != "resize":
    raise UserError(f"`variant` smp needs `up` 'resize', not {up!r}")
  if variant == "paper":
    if not norm:
      raise UserError("`norm` False needs `variant` smp in encoder_unet; set it to True")
    return EncoderUNet(num_classes, make_encoder(encoder, common), **frozen, **common)
  encoder = make_encoder(encoder, common, by="encoder_unet", variant=variant)
  common = {"widths": (256, 128, 64, 32, 16), **common}
  smp = {"smp": True, "norm": norm, "center": isinstance(encoder, VGG16)}
  return EncoderUNet(num_classes, encoder, **smp, **frozen, **common)


def build_fcn(
  num_classes: int,
  *,
  final_stride: int,
  encoder: str | nn.Module = "mobilenet_v2",
  widths: Sequence[int] = (),
  padding: str = "same",
  freeze_encoder: bool = False,
  freeze_norm: bool = False,
  dropout: float = 0.0,
  up: str = "transposed",
  precision: str = "float32",
  remat: bool = False,
  axis_name: str | None = None,
) -> FCN:
  """FCN (Long et al. 2015); see `FCN` for the options, and `build`.

  Raises:
    UserError: an unknown value, or padding "valid" on an encoder that cannot pad its image.
  """
  look_up(PADDINGS, padding, "padding")
  common = common_fields(widths, dropout, up, precision, remat, axis_name)
  needed = {"pad": FCN_PAD} if padding == "valid" else {}
  encoder = make_encoder(encoder, common, needed, "padding 'valid'")
  frozen = {"freeze_encoder": freeze_encoder, "freeze_norm": freeze_norm}
  return FCN(num_classes, encoder, final_stride, padding=padding, **frozen, **common)


def build_deeplab(
  num_classes: int,
  *,
  decoder: bool,
  aspp: bool,
  encoder: str | nn.Module = "mobilenet_v2",
  output_stride: int = 16,
  widths: Sequence[int] = (),
  separable: bool = True,
  rates: Sequence[int] = (),
  variant: str = "paper",
  freeze_encoder: bool = False,
  freeze_norm: bool = False,
  dropout: float = 0.0,
  up: str = "resize",
  precision: str = "float32",
  remat: bool = False,
  axis_name: str | None = None,
) -> DeepLab:
  """DeepLabv3 and v3+ (Chen et al. 2017, 2018), and the FCN on a dilated encoder without ASPP.

  See `DeepLab` for the options, and `build`. `variant` "torchvision" is as the networks published
  there: a 3x3 convolution before that of the logits, and images are not enlarged to the stride.
  "smp" is as in segmentation_models.pytorch, encoder included.

  Raises:
    UserError: an unknown value, or an encoder without that output stride.
  """
  look_up(VARIANTS, variant, "variant")
  if variant != "paper" and up != "resize":
    raise UserError(f"`variant` {variant} needs `up` 'resize', not {up!r}")
  if variant == "smp" and not aspp:
    raise UserError("`variant` smp is for encoder_unet, deeplabv3 and deeplabv3plus")
  if len(rates) not in (0, 3):
    raise UserError(f"`rates` is {tuple(rates)}, but has to be three, or ()")
  look_up(OUTPUT_STRIDES, output_stride, "output_stride")
  common = common_fields(widths, dropout, up, precision, remat, axis_name)
  needed = {"output_stride": output_stride}
  encoder = make_encoder(encoder, common, needed, "deeplab", variant)
  frozen = {"freeze_encoder": freeze_encoder, "freeze_norm": freeze_norm}
  if not aspp:
    common = {"widths": (512, 48), **common}  # the latter is of the decoder, which it has not
  if variant == "torchvision":
    common |= {"head_conv": True, "exact": True, "epsilon": 1e-5}
  if variant == "smp":
    smp_rates = tuple(rate * output_stride // 16 for rate in SMP_RATES)  # which are of the map
    common |= {"head_conv": not decoder, "smp": True, "epsilon": 1e-5, "rates": smp_rates}
  if rates:
    common["rates"] = tuple(rates)
  return DeepLab(
    num_classes, encoder, decoder=decoder, aspp=aspp, separable=separable, **frozen, **common
  )


MODELS: dict[str, Callable[..., nn.Module]] = {
  "unet": build_unet,
  "encoder_unet": build_encoder_unet,
  "fcn32s": functools.partial(build_fcn, final_stride=32),
  "fcn16s": functools.partial(build_fcn, final_stride=16),
  "fcn8s": functools.partial(build_fcn, final_stride=8),
  "dilated_fcn": functools.partial(
    build_deeplab, decoder=False, aspp=False, separable=False, rates=()
  ),
  "deeplabv3": functools.partial(build_deeplab, decoder=False, aspp=True),
  "deeplabv3plus": functools.partial(build_deeplab, decoder=True, aspp=True),
}
