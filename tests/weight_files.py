"""Weight files as Keras and PyTorch write them, made without either."""

import math
import struct
import zipfile

import h5py
import numpy as np
import pytest

from jaxseg import UserError


def write_keras_h5(path, tensors, *, suffix=":0", group=None):
  """Weight file in the legacy layout of Keras.

  Args:
    path: where.  tensors: {"layer/weight": array}.
    suffix: what Keras 2 put after each name.  group: "model_weights" as in whole models.
  """
  with h5py.File(path, "w") as file:
    root = file.create_group(group) if group else file
    layers = {}
    for key, tensor in tensors.items():
      layers.setdefault(key.split("/")[0], {})[key + suffix] = tensor
    root.attrs["layer_names"] = np.array([layer.encode() for layer in layers])
    root.attrs["backend"] = b"tensorflow"
    for layer, weights in layers.items():
      layer_group = root.create_group(layer)
      layer_group.attrs["weight_names"] = np.array([name.encode() for name in weights])
      for name, tensor in weights.items():
        layer_group[name] = tensor


def pickled(value):
  """Instructions of a pickle that push text, a number >= 0, a tuple or a state dict's tensor."""
  if isinstance(value, bytes):  # instructions already
    return value
  if isinstance(value, str):
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
  if isinstance(value, int):
    return b"J" + struct.pack("<i", value)
  return b"(" + b"".join(map(pickled, value)) + b"t"


ORDERED_DICT = b"ccollections\nOrderedDict\n)R"
REBUILD_TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"


def pickled_tensor(key, shape, strides, *, offset=0, size=None, kind="FloatStorage"):
  """A tensor on storage `key`, in values; its size is that of a tensor that fills it."""
  size = math.prod(shape) if size is None else size
  storage = pickled(("storage", f"ctorch\n{kind}\n".encode(), key, "cpu", size)) + b"Q"
  arguments = (storage, offset, shape, strides, b"\x89", ORDERED_DICT)
  return REBUILD_TENSOR + pickled(arguments) + b"R"


def pickled_state(tensors, *, start=ORDERED_DICT, end=b""):
  """A whole pickle of {name: instructions}."""
  items = b"".join(pickled(name) + tensor for name, tensor in tensors.items())
  return b"\x80\x02" + start + b"(" + items + b"u" + end + b"."


def write_zip(path, members, compression=zipfile.ZIP_STORED):
  """Members of the archive that torch.save writes: {"data.pkl": bytes, "data/0": bytes, ...}."""
  with zipfile.ZipFile(path, "w", compression) as archive:
    for name, content in members.items():
      archive.writestr(f"archive/{name}", content)


def write_pth(path, tensors):
  """A state dict {name: array} as torch.save writes it since PyTorch 1.6."""
  kinds = {"f4": "FloatStorage", "f2": "HalfStorage", "f8": "DoubleStorage", "i8": "LongStorage"}
  state, members = {}, {"version": b"3\n", "byteorder": b"little"}
  for i, (name, x) in enumerate(tensors.items()):
    x = np.asarray(x, order="C")
    strides = tuple(n // x.itemsize for n in x.strides)
    state[name] = pickled_tensor(str(i), x.shape, strides, kind=kinds[x.dtype.str[1:]])
    members[f"data/{i}"] = x.tobytes()
  write_zip(path, {"data.pkl": pickled_state(state, end=b"}b"), **members})


def error_line(function, *args, **options):
  """The message of the UserError that a call raises: one line, and no long one."""
  with pytest.raises(UserError) as error:
    function(*args, **options)
  message = str(error.value)
  assert "\n" not in message and len(message) < 500, message
  return message
