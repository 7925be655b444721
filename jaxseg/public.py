"""Trained networks that others have published, by name or from a file.

torchvision (BSD licence): DeepLabv3 and FCN on ResNets, trained on the images of COCO that show
the classes of VOC 2012.
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from jaxseg import UserError, models, settings
from jaxseg.build import build_model
from jaxseg.data.decode import DatasetInfo
from jaxseg.data.label_spaces import LABEL_SPACES
from jaxseg.models import pretrained
from jaxseg.models.pretrained import Download

TORCHVISION = {"model.variant": "torchvision", "model.output_stride": 8, "model.up": "resize",
               "data.fit": "crop"}  # fmt: skip
URL = "https://download.pytorch.org/models/{}_coco-{}.pth"
# {layer of the file: path of our module}
DEEPLAB_HEAD = {
  "classifier_0_convs_0_0": "aspp/pixel/conv",
  "classifier_0_convs_0_1": "aspp/pixel/norm",
  **{f"classifier_0_convs_{i + 1}_0": f"aspp/atrous{i}/conv" for i in range(3)},
  **{f"classifier_0_convs_{i + 1}_1": f"aspp/atrous{i}/norm" for i in range(3)},
  "classifier_0_convs_4_1": "aspp/image/conv",
  "classifier_0_convs_4_2": "aspp/image/norm",
  "classifier_0_project_0": "aspp/project/conv",
  "classifier_0_project_1": "aspp/project/norm",
  "classifier_1": "head_conv/conv",
  "classifier_2": "head_conv/norm",
  "classifier_4": "head",
}
FCN_HEAD = {
  "classifier_0": "head_conv/conv",
  "classifier_1": "head_conv/norm",
  "classifier_4": "head",
}


@dataclasses.dataclass(frozen=True)
class Published:
  """A published network.

  Attributes:
    download: its weight file.
    values: {config key: value} that build it.
    layers: {layer of the file: path of ours}; those of the encoder begin with "backbone_".
    unused: how layers begin that only its training needed.
  """

  download: Download
  values: Mapping[str, Any]
  layers: Mapping[str, str]
  unused: str = "aux_classifier_"


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
  """Whether `read_published` is to read this: a name with a colon, or a weight file."""
  path = pathlib.Path(source)
  return (":" in os.fspath(source) and not path.exists()) or path.suffix in SUFFIXES


def check_source(source: str | os.PathLike) -> None:
  """Raises UserError for what is neither the name of a published network nor a weight file."""
  if os.fspath(source) in PUBLISHED or pathlib.Path(source).suffix in SUFFIXES:
    if os.fspath(source) not in PUBLISHED and not pathlib.Path(source).is_file():
      raise UserError(f"no weight file {source}; correct the path")
    return
  raise UserError(
    f"{source} is no published network and no file in {', '.join(SUFFIXES)}; choose from "
    f"{', '.join(PUBLISHED)}"
  )


def read_published(source: str | os.PathLike) -> tuple[ConfigDict, DatasetInfo, Any]:
  """A published network.

  Args:
    source: key of PUBLISHED, whose weight file is downloaded once; or the path of a weight file of
      one of these networks.
  Returns:
    (config, DatasetInfo, variables of numpy arrays)
  Raises:
    UserError: an unknown name, no network connection, or a file of something else.
  """
  check_source(source)
  if os.fspath(source) in PUBLISHED:
    published = PUBLISHED[source]
    path = pretrained.fetch(published.download, remedy="give its path in place of the name")
    tensors = pretrained.read_weights(path)
  else:
    path = source
    tensors = pretrained.read_weights(path)
    published = PUBLISHED[_recognise(tensors, path)]
    pretrained.check_published(path, published.download)
  config = settings.override(settings.from_run({}), dict(published.values))
  voc = LABEL_SPACES["voc"]
  info = DatasetInfo(voc.classes, voc.palette, 3)
  variables = models.abstract_variables(build_model(config, info), info.channels)
  kernel = tensors.get(project := "classifier_0_project_0/kernel")
  if kernel is not None and kernel.ndim == 4:  # ours has the image pooling first, the file last
    tensors[project] = np.roll(kernel, kernel.shape[2] // 5, axis=2)
  return config, info, _assigned(variables, tensors, published, path)


def _recognise(tensors, path):
  """The name of the published network that a file's layers are of."""
  layers = {key.split("/")[0] for key in tensors}
  if "backbone_layer4_2_conv3" not in layers or "classifier_4" not in layers:
    raise UserError(
      f"{path} is of none of the networks {', '.join(PUBLISHED)}; weights of an encoder alone are "
      "for config.model.pretrained"
    )
  head = "deeplabv3" if "classifier_0_convs_0_0" in layers else "fcn"
  return f"torchvision:{head}_resnet{101 if 'backbone_layer3_22_conv1' in layers else 50}"


def _assigned(variables, tensors, published, path):
  """The variables of a network from the tensors of its file."""
  names, places = {place: layer for layer, place in published.layers.items()}, {}
  flat = {}  # as `assign_weights` takes them: {collection: {layer: {weight: array}}}
  for (collection, *parts, weight), x in flatten_dict(variables).items():
    place = "/".join(parts)
    layer = names.get(place, "backbone_" + place.removeprefix("encoder/"))
    places[layer] = parts
    flat.setdefault(collection, {}).setdefault(layer, {})[weight] = x
  leave = {key.split("/")[0] for key in tensors if key.startswith(published.unused)}
  found = pretrained.assign_weights(flat, tensors, leave=leave, source=path)
  return unflatten_dict({
    (collection, *places[layer], weight): x
    for collection, layers in found.items()
    for layer, weights in layers.items()
    for weight, x in weights.items()
  })  # fmt: skip
