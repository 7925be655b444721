"""Files of safetensors: a header of JSON, then raw arrays."""

import json
import os
from typing import Any

import numpy as np

from jaxseg import UserError

MAX_HEADER = 1 << 24  # bytes; a tensor needs about 100, and JSON takes many times that in memory


def read_tensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """The tensors of a .safetensors file by name.

  Raises:
    UserError: damaged, or another kind of file.
  """
  import safetensors.numpy  # here: networks work without it

  try:
    _check_header(path)
    return safetensors.numpy.load_file(path)
  except UserError:
    raise
  except (
    *(safetensors.SafetensorError, OSError, KeyError, TypeError, ValueError),
    *(AttributeError, RecursionError),
  ) as error:
    raise damaged(path, error) from error


def _check_header(path):
  """Raises UserError for types that NumPy does not have, and ValueError for names that repeat.

  All else, such as sizes and places, safetensors checks before it reads a tensor.
  """
  with open(path, "rb") as file:
    num_bytes = int.from_bytes(file.read(8), "little")
    if num_bytes > os.path.getsize(path):
      raise ValueError("its header is longer than the file")
    if num_bytes > MAX_HEADER:
      raise ValueError(f"its header has {num_bytes:,} bytes, more than any network needs")
    header = json.loads(file.read(num_bytes), object_pairs_hook=_unique)
  for name, tensor in header.items():
    if name != "__metadata__" and str(tensor["dtype"]).startswith(("F8_", "F6_", "F4")):
      raise UserError(
        f"{path}: {name[:80]} is of type {tensor['dtype'][:20]}, which is not read: convert it to "
        "float16 or float32"
      )


def _unique(pairs):
  """A dict of pairs; ValueError if a name occurs twice, of which readers would drop one."""
  if len(found := dict(pairs)) < len(pairs):
    raise ValueError("a name occurs twice in its header")
  return found


def damaged(path: str | os.PathLike, error: Any) -> UserError:
  """The error for a weight file that could not be read, with the reason."""
  reason = next(iter(str(error).splitlines()), "")[:100] or type(error).__name__
  return UserError(f"{path}: damaged, or not a file of PyTorch weights ({reason})")
