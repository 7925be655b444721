"""Keras' HDF5 weight files -> tensors by name, out of that file alone and no larger than it is."""

import os
import re

import numpy as np

from jaxseg import UserError

# Keras 3: a layer's weights by their numbers, by its class.
ORDERS = {
  "conv2d": ("kernel", "bias"),
  "depthwise_conv2d": ("kernel", "bias"),
  "dense": ("kernel", "bias"),
  "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
}


def read_keras_h5(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Tensors of a Keras HDF5 weight file: of Keras Applications, or of Keras 3 (.weights.h5).

  HDF5 can name other files, repeat an array under many names, and declare arrays that the file
  does not hold. Keras uses none of this, and none of it is followed.

  Args:
    path: file of `save_weights`, or of a whole model saved as .h5.
  Returns:
    {"layer/weight": f32 np.ndarray}, e.g. "Conv1/kernel"; ":0" is taken off the names.
  Raises:
    UserError: damaged, another kind of file, or an array that is not stored as Keras does.
  """
  import h5py  # here: networks work without it

  left, tensors = os.path.getsize(path), {}
  try:
    with h5py.File(path, "r") as file:
      is_keras_3 = "layer_names" not in file.attrs and "layers" in file
      for layer, weight, dataset in (_of_keras_3 if is_keras_3 else _legacy)(file, path):
        key = f"{layer}/{weight}"
        if key in tensors:
          raise UserError(f"{path}: its layer {layer} has two weights {key}")
        _check_stored(dataset, f"{path}: {key}")
        left -= dataset.id.get_storage_size()
        if left < 0:
          raise UserError(f"{path}: damaged, its weights are larger than the file")
        tensors[key] = np.asarray(dataset, np.float32)
  except UserError:  # which is a ValueError, but says what is wrong
    raise
  # What h5py raises depends on where the file is damaged; ValueError includes bad UTF-8.
  except (OSError, LookupError, RuntimeError, TypeError, ValueError, AttributeError) as error:
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    raise UserError(
      f"{path}: damaged, or not an HDF5 file ({reason}); download it again"
    ) from error
  return tensors


def _legacy(file, path):
  """(layer, weight, dataset) of each weight in a file of before Keras 3, or of a whole model."""
  is_model = "layer_names" not in file.attrs and "model_weights" in file
  root = _item(file, "model_weights", path) if is_model else file
  if "layer_names" not in root.attrs:
    raise UserError(f"{path} is HDF5, but not a Keras weight file")
  for layer in map(_text, root.attrs["layer_names"]):
    group = _item(root, layer, path)
    for weight in map(_text, group.attrs["weight_names"]):
      yield layer, weight.removesuffix(":0").rsplit("/", 1)[-1], _item(group, weight, path)


def _of_keras_3(file, path, seen=None):
  """The same of a .weights.h5, where layers are "layers/CLASS_NUMBER/vars" and weights "0", "1" ...

  The attribute `name` of vars has the layer's name. A model within the model has layers of its own.
  """
  import h5py

  layers, seen = _item(file, "layers", path), set() if seen is None else seen
  if (address := h5py.h5o.get_info(layers.id).addr) in seen:
    raise ValueError("a group that occurs twice")
  seen.add(address)
  for place in layers:
    group = _item(layers, place, path)
    if "layers" in group:
      yield from _of_keras_3(group, path, seen)
    weights = _item(group, "vars", path)
    kind, layer = re.sub(r"_\d+$", "", place), weights.attrs.get("name")
    if not len(weights):
      continue
    if layer is None:
      raise UserError(
        f"{path}: its layers have no names, as an older Keras 3 wrote it: load the weights there, "
        "and save the whole model as .h5"
      )
    names = ORDERS.get(kind, ())
    if len(weights) > len(names) or (kind == "batch_normalization" and len(weights) < len(names)):
      raise UserError(f"{path}: {_text(layer)} is a {kind} of {len(weights)} weights: not read")
    for i, name in enumerate(names[: len(weights)]):
      dataset = _item(weights, str(i), path)
      if "dtype" in dataset.attrs:
        raise UserError(f"{path}: {_text(layer)} is of type {_text(dataset.attrs['dtype'])}: "
                        "save it as float32")  # fmt: skip
      yield _text(layer), name, dataset


def _item(group, name, path):
  """What `name` is within a group, by hard links alone: the others can lead to other files."""
  import h5py

  for part in filter(None, name.split("/")):
    if not isinstance(group.get(part, getlink=True), h5py.HardLink | None):
      raise UserError(
        f"{path}: {name} is a link to elsewhere, which is not followed: save the weights into one "
        "file by Keras' save_weights()"
      )
    group = group[part]
  return group


def _check_stored(dataset, where):
  """Raises UserError unless an array lies in the file as Keras writes it: as it is, and whole."""
  import h5py

  if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "fiu":
    raise UserError(f"{where} is no array of numbers")
  plist = dataset.id.get_create_plist()
  if plist.get_external_count() or plist.get_layout() == h5py.h5d.VIRTUAL:
    raise UserError(
      f"{where} is stored outside of the file, which is not followed: save the weights into one "
      "file by Keras' save_weights()"
    )
  if plist.get_layout() == h5py.h5d.CHUNKED:
    raise UserError(
      f"{where} is stored in chunks, which can become far larger than the file: save the weights "
      "by Keras' save_weights(), which does not compress them"
    )
  if dataset.id.get_storage_size() != dataset.nbytes:
    raise UserError(
      f"{where} is declared with {dataset.nbytes:,} bytes, but the file holds "
      f"{dataset.id.get_storage_size():,} of it: download it again"
    )


def _text(name):
  return name.decode() if isinstance(name, bytes) else str(name)
