"""PyTorch weight files -> tensors by name, without PyTorch and without running what they contain.

A `.pth` file is a zip archive of raw arrays and a pickle that says which tensor is where.
Unpickling calls whatever functions the file names, so the pickle is not unpickled but read:
`_interpret` knows the few instructions that a dict of tensors is made of, calls nothing, and
refuses the rest.
"""

import dataclasses
import math
import os
import pickletools
import zipfile

import numpy as np

from jaxseg import UserError
from jaxseg.models.safetensors_files import damaged, read_tensors
from jaxseg.models.tensor_names import to_keras

DTYPES = {
  "DoubleStorage": "<f8",
  "FloatStorage": "<f4",
  "HalfStorage": "<f2",
  "BFloat16Storage": "<u2",  # the upper half of a float32
  "LongStorage": "<i8",  # of counters
}


def read_safetensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Tensors of a .safetensors file, in the names and layouts of Keras; see `to_keras`.

  Raises:
    UserError: damaged, or another kind of file.
  """
  return to_keras(read_tensors(path), path)


def read_pth(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Tensors of a state dict in a zip file of `torch.save` (PyTorch 1.6 or newer).

  In the names and layouts of Keras; see `to_keras`.

  Raises:
    UserError: damaged, in the format before 1.6, or with anything else than tensors by name.
  """
  if not zipfile.is_zipfile(path):
    raise UserError(
      f"{path}: damaged, or not a zip file as PyTorch writes since 1.6: load it there and save its "
      "state_dict() as .safetensors"
    )
  try:
    with zipfile.ZipFile(path) as archive:
      return to_keras(_read_archive(archive, path), path)
  except UserError:  # which is a ValueError, but says what is wrong
    raise
  # What zipfile and pickletools raise depends on where the file is damaged.
  except (
    *(zipfile.BadZipFile, OSError, EOFError, RuntimeError, NotImplementedError, OverflowError),
    *(AttributeError, IndexError, KeyError, TypeError, ValueError),
  ) as error:
    raise damaged(path, error) from error


@dataclasses.dataclass(frozen=True)
class _Name:
  """What a pickle names as module and attribute; never looked up."""

  name: str


@dataclasses.dataclass(frozen=True)
class _Storage:
  """A raw array in the archive: its key and type, and how many elements the pickle says it has."""

  key: str
  kind: str
  size: int


@dataclasses.dataclass(frozen=True)
class _Tensor:
  storage: _Storage
  offset: int
  shape: tuple
  strides: tuple


def _read_archive(archive, path):
  infos = archive.infolist()
  names = [info.filename for info in infos if info.filename.endswith("/data.pkl")]
  if len(names) != 1:
    raise UserError(f"{path} is a zip file, but not of PyTorch weights: no data.pkl")
  # torch.save neither compresses nor overlaps, so nothing can be larger than the file itself.
  start = archive.start_dir
  if any(i.compress_type != zipfile.ZIP_STORED for i in infos) or (
    sum(info.file_size for info in infos) > start
  ):
    raise UserError(f"{path} is a zip file, but not of torch.save: save the model's state_dict()")
  root = names[0].removesuffix("data.pkl")
  if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
    raise UserError(f"{path} was written on a big-endian machine; save it as .safetensors")
  state = _interpret(archive.read(names[0]), path)
  if type(state) is not dict or not all(type(x) is _Tensor for x in state.values()):
    remedy = "save the model's state_dict() alone, as by torch.save(checkpoint['model'], FILE)"
    raise UserError(f"{path} is not a dict of tensors by name: {remedy}")
  total = sum(math.prod(x.shape) for x in state.values())
  if total > start:  # an element has a byte or more, and tensors of one network share none
    raise UserError(f"{path}: damaged, its tensors have {total} values, more than the file")
  contents = {
    key: archive.read(f"{root}data/{key}") for key in {x.storage.key for x in state.values()}
  }
  return {name: _view(x, contents[x.storage.key], path) for name, x in state.items()}


def _view(tensor, content, path):
  """The array of a tensor, after a check that it lies within its storage."""
  storage = tensor.storage
  array = np.frombuffer(content, DTYPES[storage.kind])
  spans = zip(tensor.shape, tensor.strides, strict=True)
  last = tensor.offset + sum((size - 1) * stride for size, stride in spans)
  if array.size != storage.size or (math.prod(tensor.shape) and last >= array.size):
    raise UserError(f"{path}: damaged, storage {storage.key[:20]} has {array.size} values")
  strides = [stride * array.itemsize for stride in tensor.strides]
  view = np.lib.stride_tricks.as_strided(array[tensor.offset :], tensor.shape, strides)
  if storage.kind == "BFloat16Storage":
    return (view.astype(np.uint32) << 16).view(np.float32)
  return view


# Instructions that push their own argument, and constants.
_PUSH = {"BINUNICODE", "SHORT_BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MARK = object()


def _interpret(pickle, path):
  """What a pickle of a state dict describes: dicts, tuples, constants, `_Tensor`s, `_Name`s.

  Nothing in it is imported, constructed or called. Keys of dicts must be text: hashing nested
  tuples could take for ever.

  Raises:
    UserError: an instruction or a function that is not needed for a dict of tensors.
    IndexError, KeyError, TypeError, ValueError: damaged.
  """
  stack, memo = [], {}

  def pop_to_mark():
    at = max(i for i, x in enumerate(stack) if x is _MARK)
    items = stack[at + 1 :]
    del stack[at:]
    return items

  def set_items(items):
    for key, value in zip(items[::2], items[1::2], strict=True):
      if type(key) is not str or not key.isprintable() or type(stack[-1]) is not dict:
        raise ValueError("a dict with other keys than names")
      stack[-1][key] = value

  for opcode, argument, _ in pickletools.genops(pickle):
    name = opcode.name
    if name in ("PROTO", "FRAME"):
      continue
    elif name in _PUSH:
      stack.append(argument)
    elif name in _CONSTANTS:
      stack.append(_CONSTANTS[name])
    elif name == "EMPTY_DICT":
      stack.append({})
    elif name == "MARK":
      stack.append(_MARK)
    elif name == "TUPLE":
      stack.append(tuple(pop_to_mark()))
    elif name in _TUPLES:
      items = stack[-_TUPLES[name] :]
      del stack[-_TUPLES[name] :]
      stack.append(tuple(items))
    elif name in ("BINPUT", "LONG_BINPUT"):
      memo[argument] = stack[-1]
    elif name == "MEMOIZE":
      memo[len(memo)] = stack[-1]
    elif name in ("BINGET", "LONG_BINGET"):
      stack.append(memo[argument])
    elif name == "GLOBAL":
      stack.append(_Name(argument))
    elif name == "STACK_GLOBAL":
      attribute, module = stack.pop(), stack.pop()
      if type(module) is not str or type(attribute) is not str:
        raise ValueError("a name that is no text")
      stack.append(_Name(f"{module} {attribute}"))
    elif name == "BINPERSID":
      stack.append(_storage(stack.pop(), path))
    elif name == "REDUCE":
      arguments, function = stack.pop(), stack.pop()
      stack.append(_describe(function, arguments, path))
    elif name == "SETITEM":
      value, key = stack.pop(), stack.pop()
      set_items([key, value])
    elif name == "SETITEMS":
      set_items(pop_to_mark())
    elif name == "BUILD":
      stack.pop()  # attributes of the dict, its _metadata: not needed
      if type(stack[-1]) is not dict:
        raise _refused(path, "sets attributes of an object")
    elif name == "STOP":
      return stack.pop()
    else:
      raise _refused(path, f"has the instruction {name}")
  raise ValueError("no end")


def _refused(path, what):
  return UserError(
    f"{path} is more than a dict of tensors and was not read: its pickle {what[:100]}; save the "
    "model's state_dict() alone, or as .safetensors"
  )


def _describe(function, arguments, path):
  """What the call of a function would make, for the three that state dicts are made with."""
  if type(function) is not _Name or type(arguments) is not tuple:
    raise ValueError("a call of no function")
  if function.name == "collections OrderedDict" and not arguments:
    return {}
  if function.name == "torch._utils _rebuild_tensor_v2":
    storage, offset, shape, strides, *_ = arguments
    numbers = (offset, *shape, *strides)
    if not all(type(n) is int and 0 <= n < 2**48 for n in numbers) or len(numbers) > 11:
      raise ValueError("a tensor of negative size, or of more than five axes")
    if type(storage) is not _Storage or len(shape) != len(strides):
      raise ValueError("a tensor without storage or strides")
    return _Tensor(storage, offset, shape, strides)
  if function.name == "torch._utils _rebuild_parameter" and type(arguments[0]) is _Tensor:
    return arguments[0]
  raise _refused(path, f"calls {function.name.replace(' ', '.', 1)!r}")


def _storage(identity, path):
  """The storage of ("storage", type, key, place, number of elements)."""
  tag, kind, key, _, size = identity
  name = kind.name.removeprefix("torch ") if type(kind) is _Name else ""
  if tag != "storage" or name not in DTYPES or type(key) is not str or type(size) is not int:
    raise _refused(path, f"refers to {name or 'something'!r}, not to a storage of numbers")
  return _Storage(key, name, size)
