"""Reads the files of a checkpoint and verifies them: what is returned is what was saved."""

import contextlib
import hashlib
import json
import os
import pathlib
import sys
import textwrap
import time
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxseg import UserError
from jaxseg.os_errors import check_is_damage

ARRAYS, JSON = ("variables", "optimizer"), ("data", "meta", "metrics")
CHECKSUMS = "checksums"  # the part with the SHA-256 of each other part; older checkpoints have none
PROCESSES = ocp.options.MultiprocessingOptions(  # only process 0 reads and writes checkpoints
  active_processes={0}, barrier_sync_key_prefix="main"
)

Path = str | pathlib.Path


class DamagedError(UserError):
  """A part of a checkpoint is missing, cannot be read, or is not what was saved."""


def folder_of(workdir: Path, step: int | str = "") -> pathlib.Path:
  """The folder of a checkpoint, or that of all checkpoints of a work directory."""
  return pathlib.Path(workdir).absolute() / "checkpoints" / str(step)


def list_steps(workdir: Path) -> list[int]:
  """The steps that have a checkpoint, in order; what is still being saved is not among them."""
  folder = folder_of(workdir)
  names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
  return sorted(int(name) for name in names if name.isdecimal())


def checksum(part: str, value: Any) -> str:
  """SHA-256 of a part: of the names, types, shapes and bytes of its arrays, or of its JSON."""
  if part not in ARRAYS:
    value = json.loads(json.dumps(value))  # keys are strings, and tuples lists, once it is read
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
  found = hashlib.sha256()
  for name, array in sorted(_named(value).items()):
    found.update(f"{name} {array.dtype} {array.shape}\n".encode())
    found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
  return found.hexdigest()


def read(workdir: Path, step: int, *parts: str) -> dict[str, Any]:
  """Parts of a checkpoint, compared with their checksums.

  Args:
    parts: of ARRAYS and JSON.
  Returns:
    {part: nested dicts of numpy arrays, or what was JSON}, without "metrics" if there are none
  Raises:
    DamagedError: why it cannot be used.
  """
  folder, sums = folder_of(workdir, step), None
  if not folder.is_dir() or not any(folder.iterdir()):
    raise DamagedError("its folder is empty")
  if (folder / CHECKSUMS).exists():
    sums = _read_json(folder, CHECKSUMS)
  found = {}
  for part in parts:
    if part == "metrics" and not (folder / part).exists() and part not in (sums or ()):
      continue  # it was not evaluated
    found[part] = _read_arrays(folder, part) if part in ARRAYS else _read_json(folder, part)
    if sums is not None and sums.get(part) != checksum(part, found[part]):
      raise DamagedError(f"{part} differs from its checksum")
  return found


def is_sound(workdir: Path, step: int) -> bool:
  """Whether a checkpoint can be read, and is what was saved."""
  with contextlib.suppress(DamagedError):
    return bool(read(workdir, step, *ARRAYS, *JSON))
  return False


def fit(
  found: Any, target: Any, where: str, remedy: str = "use another --workdir"
) -> Any:
  """Arrays in the structure of `target`.

  Args:
    found: nested dicts of arrays.  target: of arrays or their shapes.
    where: they come from, and what to do then, in errors.
  Raises:
    UserError: a name or a shape differs, as after a change in the code of a network.
  """
  arrays, wanted = _named(found), _named(target)
  for name in sorted(arrays.keys() ^ wanted.keys()):
    fault = "has no" if name in wanted else "has a surplus"
    raise UserError(f"{where} {fault} {name}: it is of another network; {remedy}")
  for name, x in wanted.items():
    if arrays[name].shape != x.shape:
      raise UserError(
        f"{where}: {name} is {arrays[name].shape}, not {x.shape}: it is of another network; "
        f"{remedy}"
      )
  return jax.tree_util.tree_map_with_path(
    lambda path, x: arrays[_name(path)].astype(x.dtype, copy=False), target
  )


def _name(path):
  return jax.tree_util.keystr(path, simple=True, separator="/")


def _named(tree) -> Mapping[str, Any]:
  """{"params/head/bias": array}"""
  return {_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def _read_json(folder, part):
  path = folder / part / ("metrics" if part == "metrics" else "metadata")
  try:
    value = json.loads(path.read_bytes())
  except FileNotFoundError as error:
    raise DamagedError(f"{part} is missing") from error
  except (OSError, ValueError, RecursionError) as error:
    check_is_damage(error, folder)
    raise DamagedError(f"{part} cannot be read") from error
  if part != "data" and not isinstance(value, dict):
    raise DamagedError(f"{part} cannot be read")
  return value


def _read_arrays(folder, part):
  if not (folder / part).is_dir():
    raise DamagedError(f"{part} is missing")
  with _quiet():
    try:
      with contextlib.suppress(FileNotFoundError):  # Orbax takes any error for this one
        os.stat(folder / part / "_METADATA")
      with ocp.StandardCheckpointer(multiprocessing_options=PROCESSES) as checkpointer:
        return jax.tree.map(np.asarray, checkpointer.restore(folder / part))
    except MemoryError:
      raise
    except Exception as error:  # damaged files raise nearly anything
      found = error
    time.sleep(0.2)  # for the other arrays, which are being read
  check_is_damage(found, folder)
  raise DamagedError(f"{part} cannot be read: {_fault(found)}")


def _fault(error):
  fault = getattr(error, "strerror", "") or next(iter(str(error).splitlines()), "")
  return textwrap.shorten(fault or type(error).__name__, 60, placeholder=" ...")


@contextlib.contextmanager
def _quiet():
  """Silences what Python says of reads that Orbax gives up after an error."""
  hook = sys.unraisablehook
  sys.unraisablehook = lambda *_: None
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore", RuntimeWarning)
      yield
  finally:
    sys.unraisablehook = hook
