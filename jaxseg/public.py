"""Trained networks that others have published, by name, from a file or from a folder.

torchvision (BSD licence): DeepLabv3 and FCN on ResNets, trained on the images of COCO that show
the classes of VOC 2012. Folders are of segmentation_models.pytorch, see `public_smp`.
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxseg import VOID, UserError, models, public_smp, settings
from jaxseg.build import build_model
from jaxseg.data.decode import DatasetInfo
from jaxseg.data.folder import default_palette
from jaxseg.data.label_spaces import LABEL_SPACES
from jaxseg.models import pretrained
from jaxseg.models.pretrained import Download
from jaxseg.workdirs import has_checkpoint

TORCHVISION = {"model.variant": "torchvision", "model.output_stride": 8, "model.up": "resize",
               "data.fit": "crop"}  # fmt: skip
URL = "https://download.pytorch.org/models/{}_coco-{}.pth"
# {path of our module: layer of the file}
DEEPLAB_HEAD = {
  "aspp/pixel/conv": "classifier.0.convs.0.0",
  "aspp/pixel/norm": "classifier.0.convs.0.1",
  **{f"aspp/atrous{i}/conv": f"classifier.0.convs.{i + 1}.0" for i in range(3)},
  **{f"aspp/atrous{i}/norm": f"classifier.0.convs.{i + 1}.1" for i in range(3)},
  "aspp/image/conv": "classifier.0.convs.4.1",
  "aspp/image/norm": "classifier.0.convs.4.2",
  "aspp/project/conv": "classifier.0.project.0",
  "aspp/project/norm": "classifier.0.project.1",
  "head_conv/conv": "classifier.1",
  "head_conv/norm": "classifier.2",
  "head": "classifier.4",
}
FCN_HEAD = {
  "head_conv/conv": "classifier.0",
  "head_conv/norm": "classifier.1",
  "head": "classifier.4",
}


@dataclasses.dataclass(frozen=True)
class Published:
  """A published network.

  Attributes:
    download: its weight file.
    values: {config key: value} that build it.
    layers: {path of a module of ours: layer of the file}; those of the encoder are "backbone.X".
  """

  download: Download
  values: Mapping[str, Any]
  layers: Mapping[str, str]


def _torchvision(name, encoder, digits):
  is_fcn = name == "fcn"
  own = {"model.name": "deeplabv3", "model.separable": False, "model.dropout": 0.5}
  if is_fcn:
    own = {"model.name": "dilated_fcn", "model.dropout": 0.1}
  download = Download(URL.format(f"{name}_{encoder}", digits), f"sha256:{digits}")
  values = {**TORCHVISION, **own, "model.encoder": encoder}
  return Published(download, values, FCN_HEAD if is_fcn else DEEPLAB_HEAD)


PUBLISHED = {
  "torchvision:deeplabv3_resnet50": _torchvision("deeplabv3", "resnet50", "cd0a2569"),
  "torchvision:deeplabv3_resnet101": _torchvision("deeplabv3", "resnet101", "586e9e4e"),
  "torchvision:fcn_resnet50": _torchvision("fcn", "resnet50", "1167a1af"),
  "torchvision:fcn_resnet101": _torchvision("fcn", "resnet101", "7ecb50ca"),
}


SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")  # of weight files of PyTorch


def is_published(source: str | os.PathLike) -> bool:
  """Whether `read_published` is to read this: a name with a colon, a weight file or its folder."""
  path = pathlib.Path(source)
  if path.is_dir():
    return public_smp.is_smp(path) and not has_checkpoint(path)
  return (":" in os.fspath(source) and not path.exists()) or path.suffix in SUFFIXES


def check_source(source: str | os.PathLike) -> None:
  """Raises UserError for what is neither a published network, its file or folder, nor a run."""
  path = pathlib.Path(source)
  if path.suffix in SUFFIXES and not path.exists():
    raise UserError(f"no weight file {source}; correct the path")
  if os.fspath(source) in PUBLISHED or path.suffix in SUFFIXES or path.is_dir():
    return
  raise UserError(
    f"{source} is no published network, no folder, and no file in {', '.join(SUFFIXES)}; choose "
    f"from {', '.join(PUBLISHED)}"
  )


def read_published(source: str | os.PathLike) -> tuple[ConfigDict, DatasetInfo, Any]:
  """A published network.

  Args:
    source: key of PUBLISHED, whose weight file is downloaded once; the path of a weight file of
      one of these networks; or a folder, see `public_smp`.
  Returns:
    (config, DatasetInfo, variables of numpy arrays)
  Raises:
    UserError: an unknown name, no network connection, or a file of something else.
  """
  check_source(source)
  return _read_folder(source) if pathlib.Path(source).is_dir() else _read_torchvision(source)


def _read_torchvision(source):
  if os.fspath(source) in PUBLISHED:
    published = PUBLISHED[source]
    path = pretrained.fetch(published.download, remedy="give its path in place of the name")
    tensors = pretrained.read_weights(path)
  else:
    path = source
    tensors = pretrained.read_weights(path)
    published = PUBLISHED[_recognise(tensors, path)]
    pretrained.check_published(path, published.download)
  voc = LABEL_SPACES["voc"]
  number = tensors["classifier_4/kernel"].shape[-1]
  info = DatasetInfo(voc.classes, voc.palette, 3)
  if number != len(voc.classes):
    info = _unnamed(number, path)
  leave = {layer for layer in tensors.layers if layer.startswith("aux_classifier_")}
  return _assigned(published.values, info, tensors, published.layers.get, "backbone", leave, path)


def _read_folder(folder):
  values, num_logits = public_smp.read_config(folder)
  path = public_smp.weight_file(folder)
  tensors = pretrained.read_weights(path)
  info = _unnamed(max(num_logits, 2), path)
  if names := public_smp.read_classes(folder, num_logits):
    info = dataclasses.replace(info, classes=names)
  leave = public_smp.unused_layers(tensors.layers)
  names = public_smp.layer_names(values)
  return _assigned(values, info, tensors, names, "encoder", leave, path)


def _unnamed(number, path):
  """The info of a network whose file has no names of its classes."""
  if not 2 <= number <= VOID:
    raise UserError(f"{path}: the network has {number} classes; read are 2 to {VOID}")
  classes = tuple(f"class {i}" for i in range(number))
  return DatasetInfo(classes, default_palette(number), 3)


def has_names(info: DatasetInfo) -> bool:
  """Whether the classes of a published network have names, and not numbers only."""
  return info.classes != tuple(f"class {i}" for i in range(len(info.classes)))


def _recognise(tensors, path):
  """The name of the published network that a file's layers are of."""
  layers = tensors.layers
  if "backbone_layer4_2_conv3" not in layers or "classifier_4/kernel" not in tensors:
    raise UserError(
      f"{path} is of none of the networks {', '.join(PUBLISHED)}; weights of an encoder alone are "
      "for config.model.pretrained, and segmentation_models.pytorch's are read with their "
      "config.json: give the folder of both"
    )
  head = "deeplabv3" if "classifier_0_convs_0_0" in layers else "fcn"
  return f"torchvision:{head}_resnet{101 if 'backbone_layer3_22_conv1' in layers else 50}"


def _assigned(values, info, tensors, name_of, encoder, leave, path):
  """(config, info, variables) of a network whose file calls modules `name_of(path)`.

  Args:
    encoder: what the file calls the encoder, whose layers `name_of` need not know.
  """
  def layer_of(place):
    return name_of(place) or place.replace("encoder/", f"{encoder}.", 1).replace("_", ".")

  config = settings.override(settings.from_run({}), dict(values))
  for key, kernel in tensors.items():  # ours has the image pooling first, the file last
    if key.endswith("_project_0/kernel") and kernel.ndim == 4:
      tensors[key] = np.roll(kernel, kernel.shape[2] // 5, axis=2)
  variables = models.abstract_variables(build_model(config, info), info.channels)
  found = models.assign_by_name(variables, tensors, layer_of, leave=leave, source=path)
  return config, info, found
