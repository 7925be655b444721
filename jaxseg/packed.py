"""Reads packed networks: folders with weights, config and classes, as `packing` writes them.

The weights are {"params/head/kernel": array}: paths of Flax, with a / between the names.
"""

import hashlib
import json
import math
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict

from jaxseg import UserError, __version__, hub
from jaxseg.models.safetensors_files import read_tensors

CONFIG, WEIGHTS = "config.json", "model.safetensors"
CARD, SCORES, PICTURE = "README.md", "evaluation.json", "predictions.png"
NAMES = (CONFIG, CARD, SCORES, PICTURE, WEIGHTS)  # as they are written
FORMAT, VERSION = "jaxseg", 1
REMEDY = "copy or download the folder again"
MAX_CONFIG = 1 << 22  # bytes
MAX_DEPTH = 32  # modules in each other

Path = str | os.PathLike


def find(source: Path) -> Path:
  """The folder of a network on the Hub, downloaded once; other paths as they are.

  Raises:
    UserError: see `hub.download`; the repository holds something else.
  """
  if not hub.is_name(source):
    return source
  source = os.fspath(source)
  folder = hub.download(source, NAMES)
  if not is_packed(folder):
    name, _, revision = source[len(hub.PREFIX) :].partition("@")
    name += f" --revision={revision}" if revision else ""
    raise UserError(
      f"{source} is no network that jaxseg has packed: correct the name; one of "
      f"segmentation_models.pytorch is read from a folder: hf download {name} --local-dir=DIR, "
      "then --model=DIR"
    )
  return folder


def is_packed(source: Path) -> bool:
  """Whether this is a packed network, or what is left of one; on the Hub, it is taken for one."""
  folder = pathlib.Path(source)
  if hub.is_name(source) or not (folder / CONFIG).is_file():
    return hub.is_name(source) or (folder / WEIGHTS).is_file()
  try:
    return _load(folder / CONFIG).get("format") == FORMAT
  except UserError:  # of a run or of a packed network
    return (folder / WEIGHTS).is_file()


def check_is_none(workdir: Path, remedy: str) -> None:
  """Raises UserError if a work directory to write into is a packed network."""
  if is_packed(workdir):
    raise UserError(f"{workdir} is a packed network, which stays as it is: {remedy}")


def read(folder: Path, *parts: str) -> tuple[int | None, dict[str, Any]]:
  """(step, {part: its value}) as `checkpoint.load_best` has it.

  Args:
    parts: "meta", {"config": nested dict, "info": dict}; "variables", of numpy arrays.
  Raises:
    UserError: a file is missing, damaged, or of a newer version.
  """
  about = read_config(folder)
  found = {"meta": {"config": about["config"], "info": about["info"]}}
  if "variables" in parts:
    found["variables"] = _read_weights(pathlib.Path(folder) / WEIGHTS, about["sha256"][WEIGHTS])
  return about["step"], {part: found[part] for part in parts}


def read_config(folder: Path) -> dict[str, Any]:
  """The checked content of a packed network's config.json; see `packing.pack`."""
  path = pathlib.Path(folder) / CONFIG
  if not path.is_file():
    raise UserError(f"{path} is missing: {REMEDY}")
  about = _load(path)
  version = about.get("version")
  if type(version) is int and version > VERSION:
    raise UserError(f"{path} is of format {version}, and this is jaxseg {__version__}, which reads "
                    f"up to {VERSION}: use {_writer(about)}")  # fmt: skip
  wrong = [name for name, fits in ABOUT.items() if not fits(about.get(name))]
  if not wrong:
    if unknown := about["info"].keys() - INFO.keys():
      raise UserError(f"{path} has the entry info.{min(unknown)[:80]}, which jaxseg "
                      f"{__version__} does not know: use {_writer(about)}")  # fmt: skip
    wrong = [f"info.{name}" for name in wrong_entries(about["info"])]
  if wrong:
    raise UserError(f"{path} is damaged ({wrong[0]} is missing or wrong): {REMEDY}")
  return about


def wrong_entries(info: Any) -> list[str]:
  """Names of the entries of a `DatasetInfo` that are missing or wrong in what a file holds."""
  if not _is_dict(info):
    return list(REQUIRED)
  return [name for name in REQUIRED if name not in info] + [
    name for name in info if name not in INFO or not _fits(name, info)
  ]


def check_keys(folder: Path, unknown: list[str]) -> None:
  """Raises UserError for a config key that neither jaxseg nor the run's user has declared.

  Args:
    unknown: names in the config of a packed network that jaxseg does not declare.
  """
  about = read_config(folder)
  if newer := [name for name in unknown if name not in about["own_keys"]]:
    raise UserError(f"{pathlib.Path(folder) / CONFIG} has the key config.{newer[0][:80]}, which "
                    f"jaxseg {__version__} does not know: use {_writer(about)}")  # fmt: skip


def origin(workdir: Path, step: int | None) -> tuple[str, str]:
  """(where the variables of a network are from, what to do if they do not fit it), for errors."""
  if is_packed(workdir):
    return str(pathlib.Path(workdir) / WEIGHTS), REMEDY
  return f"checkpoint {step} of {workdir}" if step else str(workdir), "use another --workdir"


def digest(content: bytes) -> str:
  """SHA-256 in hexadecimal digits."""
  return hashlib.sha256(content).hexdigest()


def _writer(about):
  name = about.get("written_by")
  return f"jaxseg {name[:20]}, which wrote it" if isinstance(name, str) else "the one that wrote it"


def _load(path):
  try:
    if path.stat().st_size > MAX_CONFIG:
      raise ValueError(f"{path.stat().st_size:,} bytes")
    value = json.loads(path.read_text("utf-8"))
    if not isinstance(value, dict):
      raise ValueError("no JSON object")
    return value
  except (ValueError, RecursionError) as error:
    raise UserError(f"{path} is damaged ({str(error)[:100]}): {REMEDY}") from error


def _read_weights(path, sha256):
  if not path.is_file():
    raise UserError(f"{path} is missing: {REMEDY}")
  with open(path, "rb") as file:
    found = hashlib.file_digest(file, "sha256").hexdigest()
  if found != sha256:
    raise UserError(f"{path} is damaged, or of another network: its SHA-256 is not that in "
                    f"{CONFIG}; {REMEDY}")  # fmt: skip
  tensors = read_tensors(path)
  deep = next((name for name in tensors if name.count("/") > MAX_DEPTH), None)
  if deep is None:
    folders = {"/".join(x[:i]) for x in map(_parts, tensors) for i in range(1, len(x))}
  name = next((name for name in tensors if name in folders), None) if deep is None else deep
  if name is not None:
    raise UserError(f"{path}: {name[:80]} is no path in a network; {REMEDY}")
  for name, x in tensors.items():
    if x.dtype != np.float32:
      raise UserError(f"{path}: {name[:80]} is of type {x.dtype}, not float32; {REMEDY}")
    if not np.isfinite(x).all():
      raise UserError(f"{path}: {name[:80]} holds values that are not finite; {REMEDY}")
  return {"params": {}, "batch_stats": {}, **unflatten_dict(tensors, sep="/")}


def _parts(name):
  return name.split("/")


def _fits(name, info):
  """Whether an entry of `info` is what it has to be; entries on which it depends may be wrong."""
  try:
    return INFO[name](info[name], info)
  except (KeyError, TypeError, OverflowError):
    return False


def _is_int(value, low, high):
  return type(value) is int and low <= value <= high


def _is_list(value, fits):
  return isinstance(value, list) and all(map(fits, value))


def _is_text(value):
  return isinstance(value, str)


def _is_range(value):
  numbers = _is_list(value, lambda x: type(x) in (int, float) and math.isfinite(x))
  return numbers and len(value) == 2 and value[0] < value[1]


def _is_dict(value):
  return isinstance(value, dict)


# {entry: whether a value fits it}
ABOUT: Mapping[str, Callable[[Any], bool]] = {
  "format": lambda x: x == FORMAT,
  "version": lambda x: _is_int(x, 1, VERSION),
  "written_by": _is_text,
  "step": lambda x: x is None or _is_int(x, 0, 2**63),
  "own_keys": lambda x: _is_list(x, _is_text),
  "info": _is_dict,
  "config": _is_dict,
  "sha256": lambda x: _is_dict(x) and _is_text(x.get(WEIGHTS)),
}
# The same of `DatasetInfo`; the second argument has all of them.
REQUIRED = ("classes", "palette", "channels")
INFO: Mapping[str, Callable[[Any, Mapping], bool]] = {
  "classes": lambda x, _: _is_list(x, _is_text) and 0 < len({*x}) == len(x) < 256,
  "palette": lambda x, info: (
    _is_list(x, lambda c: _is_list(c, lambda v: _is_int(v, 0, 255)) and len(c) == 3)
    and len(x) == len(info["classes"])
  ),
  "channels": lambda x, _: _is_int(x, 1, 1024),
  "value_range": lambda x, info: (
    x == [] or _is_range(x) or _is_list(x, _is_range) and len(x) == info["channels"]
  ),
  "bands": lambda x, info: (
    _is_list(x, lambda band: _is_int(band, 0, 65535)) and len(x) in (0, info["channels"])
  ),
  "dtype": lambda x, _: x in ("uint8", "uint16", "float32"),
  "orient": lambda x, _: isinstance(x, bool),
  "pages": lambda x, _: x in ("auto", "channels", "examples"),
  "clip": lambda x, _: isinstance(x, bool),
  "display_bands": lambda x, info: (
    _is_list(x, lambda band: _is_int(band, 0, info["channels"] - 1)) and len(x) in (0, 1, 3)
  ),
}
