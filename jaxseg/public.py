"""Trained networks that others have published, by name, from a file or from a folder.

Names and files are torchvision's, see `public_torchvision`; folders are of
segmentation_models.pytorch, see `public_smp`.
"""

import dataclasses
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxseg import VOID, UserError, models, packed, public_smp, settings
from jaxseg.build import build_model
from jaxseg.data.decode import DatasetInfo
from jaxseg.data.folder import default_palette
from jaxseg.data.label_spaces import LABEL_SPACES
from jaxseg.models import pretrained
from jaxseg.notebook import warn
from jaxseg.public_torchvision import PUBLISHED, recognise
from jaxseg.workdirs import has_checkpoint

SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")  # of weight files of PyTorch
NAME = re.compile(r"[A-Za-z_]{2,}:[\w-]+")  # no path, such as runs/10:30 or C:\runs


def is_published(source: str | os.PathLike) -> bool:
  """Whether `read_published` is to read this: a name with a colon, a weight file or its folder."""
  if packed.is_packed(source):
    return False
  path = pathlib.Path(source)
  if path.is_dir():
    return public_smp.is_smp(path) and not has_checkpoint(path)
  is_name = NAME.fullmatch(os.fspath(source)) and not path.exists()
  return bool(is_name) or path.suffix in SUFFIXES


def check_source(source: str | os.PathLike) -> None:
  """Raises UserError for what is neither a published network, its file or folder, nor a run."""
  path = pathlib.Path(source)
  if path.suffix in SUFFIXES and not path.exists():
    raise UserError(f"no weight file {source}; correct the path")
  is_run = has_checkpoint(path) or path.parent.name == "checkpoints"
  is_run = is_run or any(path.glob("seed_*/checkpoints"))  # of several
  if path.is_dir() and not is_run and not is_published(path):
    raise UserError(
      f"{source} is the folder of no trained run, and of no network: it lacks config.json and "
      f"{public_smp.WEIGHTS[0]}; correct the path"
    )
  if os.fspath(source) in PUBLISHED or path.suffix in SUFFIXES or path.is_dir():
    return
  if path.suffix == ".stablehlo":
    raise UserError(f"{source} is an exported file: jaxseg.load reads it, and the command does not")
  raise UserError(
    f"{source} is no published network, no folder, and no file in {', '.join(SUFFIXES)}; choose "
    f"from {', '.join(PUBLISHED)}"
  )


def check_is_none(workdir: str | os.PathLike, remedy: str) -> None:
  """Raises UserError if a work directory to write into is a published network.

  A folder may be called like a name or a weight file as long as there is none.
  """
  if is_published(workdir) and (os.path.exists(workdir) or os.fspath(workdir) in PUBLISHED):
    raise UserError(f"{workdir} is a published network, which stays as it is: {remedy}")


def read_config(source: str | os.PathLike) -> ConfigDict | None:
  """The config of a published network; None for what is none."""
  return read_published(source)[0] if is_published(source) else None


def check_use(source: str, mode: str, has_config: bool, output: str) -> None:
  """Raises UserError for flags of the command that do not go with --model=SOURCE."""
  check_source(source)
  if not is_published(source):
    return
  if mode == "evaluate" and not has_config:
    raise UserError(f"{source} knows no data: add --config=FILE, whose config.data is scored")
  if mode != "evaluate" and has_config:
    raise UserError(f"{source} is a whole network: leave --config out of --mode={mode}")
  if mode == "export" and not output:
    raise UserError("--mode=export of a published network needs --output=DIR")


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
    published = PUBLISHED[os.fspath(source)]
    path = pretrained.fetch(published.download, remedy="give its path in place of the name")
    tensors = pretrained.read_weights(path)
  else:
    path = source
    tensors = pretrained.read_weights(path)
    published = PUBLISHED[recognise(tensors, path)]
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


def with_data(
  source: str | os.PathLike,
  saved: ConfigDict,
  config: ConfigDict | None,
  overrides: Mapping[str, Any],
) -> ConfigDict:
  """The config by which a published network is used: its own, with the data of another.

  Args:
    source: its name in errors.  saved: of `read_published`.
    config: of the data, or None; its network, precision and data.fit do not count.
    overrides: {key: value} that differ.
  Raises:
    UserError: a value that the network does not have.
  """
  own = network_values(saved)
  if config is not None:
    settings.check(config)
    kept = {"data.fit": saved.data.fit, "train.precision": saved.train.precision}
    saved = settings.override(config, own | kept)
  config = settings.override(saved, overrides)
  values = settings.config_values(config)
  for key, value in {**own, "data.channels": 3, "data.normalization": "range"}.items():
    if values[key] != value:
      remedy = "leave it out" if key in overrides else f"add --config.{key}={value}"
      raise UserError(
        f"config.{key} is {values[key]!r}, but {source} is a network of {value!r}: {remedy}"
      )
  for key in "model.pretrained", "model.init_from":
    if overrides.get(key):
      warn(f"config.{key} is not used: all weights are those of {source}")
  return config


def network_values(config: ConfigDict) -> dict[str, Any]:
  """{key: value} of config.model that make the network."""
  values, keys = settings.config_values(config), settings.declared_keys()
  network = (x for x, key in keys.items() if x.startswith("model.") and key.scope == "network")
  return {key: values[key] for key in network}


def with_names(info: DatasetInfo, config: ConfigDict, source: str | os.PathLike) -> DatasetInfo:
  """The info of a published network, for images as config.data describes them.

  Classes without names get those of config.data.classes.
  """
  data = config.data
  if data.classes and tuple(data.classes) != info.classes:
    if has_names(info) or len(data.classes) != len(info.classes):
      raise UserError(
        f"config.data.classes is {tuple(data.classes)}, but {source} has the {len(info.classes)} "
        f"classes {', '.join(info.classes)}: use data of these, or leave the key out"
      )
    info = dataclasses.replace(info, classes=tuple(data.classes))
  return dataclasses.replace(
    info,
    dtype=data.dtype or info.dtype,
    value_range=data.value_range,
    bands=data.bands,
    orient=data.exif_orientation,
    pages=data.pages,
  )


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
