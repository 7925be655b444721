"""Names and layouts of PyTorch's tensors as those of Keras, which `assign_weights` takes."""

import os
import re
from collections.abc import Mapping, Sequence

import numpy as np

from jaxseg import UserError

# Of names in files of torch.nn.DataParallel and of torch.compile.
PREFIXES = ("module.", "_orig_mod.")
OF_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean",
           "running_var": "moving_variance"}  # fmt: skip
# What PyTorch calls the weights that Flax calls so.
TORCH_NAMES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


class Tensors(dict):
  """{"layer/weight": array} in Keras' names, which knows those of the file.

  Attributes:
    names: {"layer/weight": the tensor's name in the file}.  layers: {"layer": its name there}.
  """

  def __init__(self) -> None:
    super().__init__()
    self.names: dict[str, str] = {}
    self.layers: dict[str, str] = {}

  def title(self, layer: str, weight: str) -> str:
    """What the file would call a layer's weight, by its name in Flax, if it had it."""
    dotted = self.layers.get(layer) or re.sub(r"_(?=\d)|(?<=\d)_", ".", layer)
    return f"{dotted}.{TORCH_NAMES.get(weight, weight)}"


def torch_shape(shape: Sequence[int]) -> tuple[int, ...]:
  """The shape in PyTorch of a kernel that has this one in Keras or Flax."""
  if len(shape) == 3:  # depthwise
    return (shape[2], 1, *shape[:2])
  return (*shape[:1:-1], *shape[:2]) if len(shape) == 4 else tuple(shape[::-1])


def to_keras(tensors: Mapping[str, np.ndarray], source: str | os.PathLike) -> Tensors:
  """Renames and transposes what `models.pretrained.assign_weights` then takes.

  "layer1.0.conv1.weight" [D,C,k,k] -> "layer1_0_conv1/kernel" [k,k,C,D], depthwise [C,1,k,k] ->
  [k,k,C,1]; "bn1.weight", bias, running_mean and running_var -> "bn1/gamma", beta and so on, f32.
  `num_batches_tracked`, a counter, is left out, and so is a prefix of PREFIXES that all names have.
  """
  start = ""
  for prefix in 2 * PREFIXES:  # in any order
    if tensors and all(name.startswith(start + prefix) for name in tensors):
      start += prefix
  normalised = {key.rpartition(".")[0] for key in tensors if key.endswith(".running_mean")}
  result = Tensors()
  for key, tensor in tensors.items():
    layer, _, name = key.rpartition(".")
    if name == "num_batches_tracked":
      continue
    if layer in normalised:
      name = OF_NORM.get(name, name)
    elif name == "weight":
      name = "kernel"
      if tensor.ndim == 4:
        tensor = tensor.transpose((2, 3, 0, 1) if tensor.shape[1] == 1 else (2, 3, 1, 0))
      elif tensor.ndim == 2:
        tensor = tensor.T
    if tensor.dtype.kind != "f" and tensor.dtype.name != "bfloat16":
      raise UserError(f"{source} is of another network: {key} is of type {tensor.dtype}")
    plain = layer.removeprefix(start).replace(".", "_")
    new = f"{plain}/{name}"
    if new in result:
      raise UserError(f"{source}: two tensors would both be {new[:80]}, one of them {key[:80]}")
    result[new] = tensor.astype(np.float32, copy=False)
    result.names[new], result.layers[plain] = key, layer
  return result
