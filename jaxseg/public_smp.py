"""Networks that segmentation_models.pytorch (MIT licence) has saved by `save_pretrained`.

A folder, or a repository of the Hugging Face Hub, with config.json and model.safetensors.
"""

import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxseg import VOID, UserError, workdirs

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
ENCODERS = ("resnet18", "resnet34", "resnet50", "resnet101", "mobilenet_v2", "vgg16")
# What a field is that is not in config.json, by class.
COMMON = {"encoder_name": "resnet34", "encoder_depth": 5, "encoder_weights": None, "in_channels": 3,
          "classes": 1, "activation": None, "aux_params": None}  # fmt: skip
DEEPLAB = {**COMMON, "decoder_channels": 256, "decoder_atrous_rates": [12, 24, 36],
           "decoder_aspp_dropout": 0.5}  # fmt: skip
FIELDS = {
  "Unet": {**COMMON, "decoder_use_norm": "batchnorm", "decoder_channels": [256, 128, 64, 32, 16],
           "decoder_attention_type": None, "decoder_interpolation": "nearest"},
  "DeepLabV3": {**DEEPLAB, "encoder_output_stride": 8, "decoder_aspp_separable": False,
                "upsampling": None},
  "DeepLabV3Plus": {**DEEPLAB, "encoder_output_stride": 16, "decoder_aspp_separable": True,
                    "upsampling": 4},
}  # fmt: skip
# The values that are read; of all other fields, any.
READ = {
  "encoder_name": ENCODERS,
  "encoder_depth": (5,),
  "in_channels": (3,),
  "decoder_attention_type": (None,),
  "decoder_interpolation": ("nearest",),
  "decoder_use_norm": ("batchnorm", {"type": "batchnorm"}, True, "identity", False),
  "encoder_output_stride": (8, 16),
  "decoder_aspp_separable": (True, False),
}
PARTS = {"conv": "0", "norm": "1"}


def is_smp(folder: str | os.PathLike) -> bool:
  """Whether a folder is of `save_pretrained`, and not of a run."""
  config = pathlib.Path(folder) / "config.json"
  has_weights = any(config.with_name(name).is_file() for name in WEIGHTS)
  return config.is_file() and (has_weights or b'"_model_class"' in config.read_bytes())


def weight_file(folder: str | os.PathLike) -> pathlib.Path:
  """The weight file in a folder of `is_smp`; UserError if it is missing."""
  for path in (pathlib.Path(folder) / name for name in WEIGHTS):
    if path.is_file():
      return path
  raise UserError(f"{folder} lacks {WEIGHTS[0]}: copy it beside config.json")


def read_config(folder: str | os.PathLike) -> tuple[dict[str, Any], int]:
  """({config key: value} of our network, number of classes) of a folder's config.json.

  Raises:
    UserError: damaged, or a field has a value that changes the network into one that we lack.
  """
  path = pathlib.Path(folder) / "config.json"
  found = workdirs.read_json(path, "save the model again by save_pretrained()")
  kind = found.get("_model_class")
  if not isinstance(kind, str) or kind not in FIELDS:
    raise UserError(f"{path}: _model_class is {kind!r}; read are {', '.join(FIELDS)}")
  found = {name: value for name, value in found.items() if not name.startswith("_")}
  if "decoder_use_batchnorm" in found:  # the name before smp 0.4
    found["decoder_use_norm"] = found.pop("decoder_use_batchnorm")
  for name in found:
    if name not in FIELDS[kind]:
      raise UserError(f"{path}: {name} is not read; {kind} has {', '.join(FIELDS[kind])}")
  values = {**FIELDS[kind], **found}
  read = READ | _depending(kind, values)
  for name, value in values.items():
    if name in read and value not in read[name]:
      names = ", ".join(map(json.dumps, read[name]))
      raise UserError(f"{path}: {name} is {json.dumps(value)}, which is not read; read: {names}")
  if type(values["classes"]) is not int or not 1 <= values["classes"] <= VOID:
    raise UserError(f"{path}: classes is {values['classes']!r}, but has to be from 1 to {VOID}")
  return (_unet if kind == "Unet" else _deeplab)(kind, values, path), values["classes"]


def _depending(kind, values):
  """Values that are read because of others."""
  stride = values.get("encoder_output_stride")
  # Probabilities are ours to make: of one class by the sigmoid, else by softmax.
  ours = ("sigmoid",) if values["classes"] == 1 else ("softmax2d", "softmax")
  allowed = {"activation": (None, "identity", *ours)}
  if kind != "Unet":
    allowed["encoder_name"] = tuple(name for name in ENCODERS if name != "vgg16")
    allowed["upsampling"] = (4,) if kind == "DeepLabV3Plus" else (None, stride)
  return allowed


def _common(values):
  return {
    "model.encoder": values["encoder_name"],
    "model.variant": "smp",
    "model.up": "resize",
    "model.head": "sigmoid" if values["classes"] == 1 else "softmax",
    "data.fit": "crop",
  }


def _unet(kind, values, path):
  return {
    **_common(values),
    "model.name": "encoder_unet",
    "model.widths": tuple(_whole_numbers(values, "decoder_channels", 5, path)),
    "model.norm": values["decoder_use_norm"] not in (False, "identity"),
  }


def _deeplab(kind, values, path):
  rates = _whole_numbers(values, "decoder_atrous_rates", 3, path)
  stride = values["encoder_output_stride"]
  if any(rate * stride % 16 for rate in rates):
    raise UserError(f"{path}: decoder_atrous_rates is {rates}; read are even ones at stride 8")
  (width,) = _whole_numbers({"decoder_channels": [values["decoder_channels"]]},
                            "decoder_channels", 1, path)  # fmt: skip
  return {
    **_common(values),
    "model.name": kind.lower(),
    "model.output_stride": stride,
    "model.widths": (width, 48),
    "model.rates": tuple(rate * stride // 16 for rate in rates),
    "model.separable": values["decoder_aspp_separable"],
    "model.dropout": values["decoder_aspp_dropout"],
  }


def _whole_numbers(values, name, count, path):
  found = values[name]
  if type(found) is not list or len(found) != count or any(
    type(n) is not int or n < 1 for n in found
  ):
    raise UserError(f"{path}: {name} is {json.dumps(found)}, but has to be {count} whole numbers")
  return found


def read_classes(folder: str | os.PathLike, num_logits: int) -> tuple[str, ...] | None:
  """Names of the classes in a folder's classes.json, {"classes": [...]}; None without that file.

  Args:
    num_logits: of the network; a single one is of the second of two classes.
  """
  path = pathlib.Path(folder) / "classes.json"
  found = workdirs.read_json(path, "it is to be {\"classes\": [names]}")
  if found is None:
    return None
  names, number = found.get("classes"), max(num_logits, 2)
  if type(names) is not list or len({*map(str, names)}) != number or len(names) != number:
    raise UserError(f"{path}: classes has to be {number} names in a list, in the order of labels")
  return tuple(map(str, names))


def layer_names(values: Mapping[str, Any]) -> Callable[[str], str | None]:
  """Function from the path of a module of ours to the layer of the file.

  It gives None for those of the encoder.

  Args:
    values: of `read_config`.
  """
  if values["model.name"] == "encoder_unet":
    return _unet_layer
  separable = values["model.separable"]
  plus = values["model.name"] == "deeplabv3plus"
  table = {"head": "segmentation_head.0", **_aspp(separable, "decoder.aspp" + ".0" * plus)}
  if plus:
    table |= _separable("decoder0", "decoder.aspp.1", "decoder.aspp.2")
    table |= _separable("decoder1", "decoder.block2.0", "decoder.block2.1")
    table |= {f"low_level/{part}": f"decoder.block1.{i}" for part, i in PARTS.items()}
  else:
    table |= {"head_conv/conv": "decoder.conv", "head_conv/norm": "decoder.bn"}
  return table.get


def _aspp(separable, start):
  table = {f"aspp/pixel/{part}": f"{start}.convs.0.{i}" for part, i in PARTS.items()}
  table |= {f"aspp/image/{part}": f"{start}.convs.4.{int(i) + 1}" for part, i in PARTS.items()}
  table |= {f"aspp/project/{part}": f"{start}.project.{i}" for part, i in PARTS.items()}
  for k in range(3):
    place, conv, norm = f"aspp/atrous{k}", *(f"{start}.convs.{k + 1}.{i}" for i in (0, 1))
    table |= _separable(place, conv, norm)
    table |= {} if separable else {f"{place}/conv": conv}
  return table


def _separable(place, conv, norm):
  names = {"depthwise": f"{conv}.0", "pointwise": f"{conv}.1", "norm": norm}
  return {f"{place}/{part}": name for part, name in names.items()}


def _unet_layer(place):
  module, _, part = place.partition("/")
  if module.startswith("up"):
    up, _, conv = module.partition("_")
    return f"decoder.blocks.{up[2:]}.{conv}.{PARTS[part]}"
  if module.startswith("center"):
    return f"decoder.center.{int(module[-1]) - 1}.{PARTS[part]}"
  return "segmentation_head.0" if module == "head" else None


def unused_layers(layers: Sequence[str]) -> set[str]:
  """Those of a second head, for the class of the whole image."""
  return {layer for layer in layers if layer.startswith("classification_head_")}
