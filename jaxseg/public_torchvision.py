"""torchvision's (BSD licence) DeepLabv3 and FCN on ResNets: what they are and how to build them.

They were trained on the images of COCO that show the classes of VOC 2012.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxseg import UserError
from jaxseg.models.pretrained import Download
from jaxseg.models.tensor_names import Tensors

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


def recognise(tensors: Tensors, path: str | os.PathLike) -> str:
  """The name of the published network that a file's layers are of.

  Raises:
    UserError: they are of none.
  """
  layers = tensors.layers
  head = tensors.get("classifier_4/kernel")
  if "backbone_layer4_2_conv3" not in layers or np.ndim(head) != 4:
    raise UserError(
      f"{path} is of none of the networks {', '.join(PUBLISHED)}; weights of an encoder alone are "
      "for config.model.pretrained, and segmentation_models.pytorch's are read with their "
      "config.json: give the folder of both"
    )
  head = "deeplabv3" if "classifier_0_convs_0_0" in layers else "fcn"
  return f"torchvision:{head}_resnet{101 if 'backbone_layer3_22_conv1' in layers else 50}"
