"""Weight files -> variables of a Flax module, strictly: nothing is guessed and nothing skipped."""

import dataclasses
import errno
import hashlib
import os
import pathlib
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from jaxseg import UserError
from jaxseg.models.keras_files import read_keras_h5
from jaxseg.models.tensor_names import Tensors, torch_shape
from jaxseg.models.torch_files import read_pth, read_safetensors
from jaxseg.printing import say

# Keras' names of a layer's weights: collection and name in Flax.
KERAS_NAMES = {
  "kernel": ("params", "kernel"),
  "bias": ("params", "bias"),
  "depthwise_kernel": ("params", "kernel"),
  "gamma": ("params", "scale"),
  "beta": ("params", "bias"),
  "moving_mean": ("batch_stats", "mean"),
  "moving_variance": ("batch_stats", "var"),
}


# Errors of the cache's disk, not of the network connection.
OF_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO, errno.EMFILE)


@dataclasses.dataclass(frozen=True)
class Download:
  """A weight file on the internet: where it is, and its hash as ALGORITHM:HEXADECIMAL.

  The first digits of the hash will do, where no more of it is published.
  """

  url: str
  hash: str


def has_hash(path: str | os.PathLike, download: Download) -> bool:
  """Whether a file is the one that was published."""
  algorithm, digits = download.hash.split(":")
  with open(path, "rb") as file:
    return hashlib.file_digest(file, algorithm).hexdigest().startswith(digits)


def check_published(path: str | os.PathLike, download: Download) -> None:
  """Raises UserError for a file that has the name of the published one, but not its content."""
  path, name = pathlib.Path(path), download.url.rsplit("/", 1)[1]
  if path.name == name and path.is_file() and not has_hash(path, download):
    raise UserError(
      f"{path} is damaged: it is not the file at {download.url}; download it again, or rename it "
      "if it is to be another one"
    )


def fetch(
  download: Download,
  cache_dir: str | os.PathLike | None = None,
  remedy: str = "give the path of a weight file as `pretrained`",
) -> str:
  """Path of a downloaded file, from the user's cache after the first time.

  Args:
    remedy: another one, in the error, than to put the file there.
  Raises:
    UserError: no network, or the file is not the one that was published.
  """
  import pooch  # here: networks work without it

  folder = pathlib.Path(cache_dir or pooch.os_cache("jaxseg"))
  file_name = download.url.rsplit("/", 1)[1]
  path = folder / file_name
  try:
    if not path.is_file() or not has_hash(path, download):
      if path.is_file():
        path.unlink()
        say(f"{path} was damaged, or not the file that is published: deleted", sys.stderr)
      say(f"downloading {download.url} to {folder}", sys.stderr)
      pooch.get_logger().setLevel("WARNING")  # it says to pass it a hash, but knows whole ones only
      pooch.retrieve(download.url, None, file_name, folder, progressbar=True)
      if not has_hash(path, download):
        path.unlink()
        raise ValueError("another hash than published")
    return str(path)
  except (OSError, ValueError) as error:  # requests' errors are OSErrors; ValueError is the hash
    if isinstance(error, OSError) and error.errno in OF_DISK:
      raise
    raise UserError(
      f"could not download {download.url} ({type(error).__name__}: no network, or a changed file): "
      f"copy it to {folder}, or {remedy}"
    ) from error


def read_weights(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Tensors of a weight file, of the kind that its suffix says.

  Returns:
    {"layer/weight": f32 np.ndarray} in the names and layouts of Keras, e.g. "Conv1/kernel".
  Raises:
    UserError: missing, damaged, or of an unknown kind.
  """
  if not pathlib.Path(path).is_file():
    raise UserError(f"no weight file {path}: `pretrained` is 'imagenet' or the path of one")
  suffix = pathlib.Path(path).suffix
  if suffix not in READERS:
    raise UserError(f"{path}: the suffix of a weight file is one of {', '.join(READERS)}")
  return READERS[suffix](path)


def assign_weights(
  variables: Mapping[str, Any],
  tensors: Mapping[str, np.ndarray],
  *,
  leave: Collection[str],
  source: str | os.PathLike,
  rgb: Sequence[int] = (0, 1, 2),
) -> dict[str, Any]:
  """Puts tensors into a module whose submodules are named like the layers.

  The matrix of a fully connected layer becomes a convolution that covers its whole input: Keras
  flattens images as [H,W,C].

  The kernel of a convolution of RGB images fits any other number of channels N: it is summed over
  its inputs for N = 1, else repeated in turn and multiplied by 3 / N (as timm does).

  Args:
    variables: {"params": {layer: {weight: array}}, "batch_stats": ...}, arrays or their shapes.
    tensors: what `read_weights` returns.
    leave: layers of the file that the module does not have.  source: what errors call the file.
    rgb: inputs of the file's kernels of RGB images that are red, green and blue.
  Returns:
    variables of the same structure, f32 numpy arrays.
  Raises:
    UserError: a tensor is left over, missing, of another shape or not finite.
  """
  result = {collection: {layer: {} for layer in tree} for collection, tree in variables.items()}
  of_torch = isinstance(tensors, Tensors)
  for key, tensor in tensors.items():
    layer, name = key.rsplit("/", 1)
    if layer in leave:
      continue
    key = tensors.names[key] if of_torch else key  # for errors, which name what the file has
    collection, weight = KERAS_NAMES.get(name, ("", ""))
    target = variables.get(collection, {}).get(layer, {}).get(weight)
    if target is None:
      raise UserError(f"{source} is of another network: {key} has no place in this one")
    if len(target.shape) == 3 and tensor.shape[3:] == (1,):  # depthwise, one output per channel
      tensor = tensor[..., 0]
    if of_torch and tensor.shape[3:] == (1,) and target.shape[2:] == (1, tensor.shape[2]):
      tensor = tensor.transpose(0, 1, 3, 2)  # of grey images, no depthwise one
    if tensor.ndim == 2 and len(target.shape) == 4:
      h, w, c, d = target.shape
      tensor = tensor.reshape(target.shape) if tensor.shape == (h * w * c, d) else tensor
    if tensor.ndim == len(target.shape) == 4 and tensor.shape[2] == 3 != target.shape[2]:
      tensor = for_channels(tensor, target.shape[2], rgb)
    if tensor.shape != target.shape:
      found, needed = tensor.shape, target.shape
      if of_torch:
        found, needed = torch_shape(found), torch_shape(needed)
      raise UserError(f"{source} is of another network: {key} is {found}, this one has {needed}")
    if not np.isfinite(tensor).all():
      raise UserError(f"{source}: damaged, {key} holds values that are not finite")
    result[collection][layer][weight] = np.asarray(tensor, np.float32)
  for collection, tree in variables.items():
    for layer, weights in tree.items():
      for weight in weights.keys() - result[collection][layer].keys():
        name = tensors.title(layer, weight) if of_torch else f"{weight} of {layer}"
        raise UserError(f"{source} is of another network: it lacks {name}")
  return result


def for_channels(kernel: np.ndarray, channels: int, rgb: Sequence[int]) -> np.ndarray:
  """The kernel of a convolution of RGB images, f32[h,w,3,D], for N channels: f32[h,w,N,D]."""
  if channels == 1:
    return kernel.sum(2, keepdims=True)
  chosen = [rgb[i % 3] for i in range(channels)]
  return kernel[:, :, chosen] * np.float32(3 / channels)


READERS = {
  ".h5": read_keras_h5,
  ".safetensors": read_safetensors,
  ".pth": read_pth,
  ".pt": read_pth,
  ".bin": read_pth,  # pytorch_model.bin
}
