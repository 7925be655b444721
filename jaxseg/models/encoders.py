"""Encoders by name, and the options that the builders of all networks share."""

import functools
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxseg import UserError
from jaxseg.models.interface import Encoder, lacking
from jaxseg.models.mobilenet_v2 import MobileNetV2
from jaxseg.models.resnet import ResNet
from jaxseg.models.vgg import VGG16
from jaxseg.models.xception import Xception65

# Constructors. `make_encoder` passes those of output_stride, axis_name, dtype, remat, pad and
# variant that they take.
ENCODERS: dict[str, Callable[..., nn.Module]] = {
  "mobilenet_v2": MobileNetV2,
  "vgg16": VGG16,
  "resnet18": functools.partial(ResNet, 18),
  "resnet34": functools.partial(ResNet, 34),
  "resnet50": functools.partial(ResNet, 50),
  "resnet101": functools.partial(ResNet, 101),
  "xception65": Xception65,
}
OUTPUT_STRIDES = (8, 16, 32)
PRECISIONS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
UPS = ("transposed", "resize")


def look_up(table: Collection, key: Any, what: str) -> Any:
  """The entry of a table, or the key itself of what is no dict; UserError if there is none."""
  if key not in table:
    raise UserError(f"unknown {what} {key!r}; choose from {', '.join(map(str, table))}")
  return table[key] if isinstance(table, dict) else key


def common_fields(
  widths: Sequence[int], dropout: float, up: str, precision: str, remat: bool, axis_name: str | None
) -> dict[str, Any]:
  """The fields that all networks have, from the options of `models.build`."""
  if not 0 <= dropout < 1:
    raise UserError(f"`dropout` is {dropout}, but has to be 0 or more and below 1")
  return {
    "dropout": dropout,
    "up": look_up(UPS, up, "up"),
    "remat": remat,
    "axis_name": axis_name,
    "dtype": look_up(PRECISIONS, precision, "precision"),
    **({"widths": tuple(widths)} if widths else {}),
  }


def make_encoder(
  encoder: str | nn.Module,
  common: Mapping[str, Any],
  needed: Mapping[str, Any] | None = None,
  by: str = "",
  variant: str = "paper",
) -> nn.Module:
  """An encoder by its name, or a module of the caller.

  Args:
    common: see `common_fields`.
    needed: {field: value} without which the network does not work.  by: what needs them.
    variant: of the network; encoders have "smp" as their own form, if at all.
  """
  needed = needed or {}
  if isinstance(encoder, nn.Module):
    is_other = variant == "smp" and getattr(encoder, "variant", "") == "paper"
    own = {"variant": variant} if is_other else {}
    for field, value in {**needed, **own}.items():
      if getattr(encoder, field, None) != value:
        give = f"{type(encoder).__name__}({field}={value!r})"
        raise UserError(f"{by} needs `{field}` {value} of its encoder: give {give}")
  else:
    name, constructor = encoder, look_up(ENCODERS, encoder, "encoder")
    takes = inspect.signature(constructor).parameters
    for field in needed:
      if field not in takes:
        fit = [x for x in ENCODERS if field in inspect.signature(ENCODERS[x]).parameters]
        names = " or ".join(fit)
        raise UserError(f"`encoder` {name} has no {field}, which {by} needs; use {names}")
    if common["remat"] and "remat" not in takes:
      raise UserError(f"`encoder` {name} has no field remat; set `remat` to False")
    settings = {field: common[field] for field in ("axis_name", "dtype", "remat")} | needed
    settings |= {"variant": variant} if variant == "smp" else {}
    encoder = constructor(**{field: value for field, value in settings.items() if field in takes})
  check_complete(encoder, Encoder, f"the encoder {type(encoder).__name__}")
  return encoder


def check_complete(value: nn.Module, protocol: type, what: str) -> None:
  """Raises UserError for a module without all that `interface` asks for."""
  names = lacking(value, protocol)
  if names:
    where = f"jaxseg.models.interface.{protocol.__name__}"
    raise UserError(f"{what} lacks {', '.join(names)}; {where} says what they are")
