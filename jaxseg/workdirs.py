"""The files of a work directory other than checkpoints: config, metrics, calibration."""

import collections.abc
import contextlib
import functools
import inspect
import json
import math
import os
import pathlib
import uuid
from typing import Any

from jaxseg import UserError
from jaxseg.notebook import warn
from jaxseg.os_errors import check_is_damage
from jaxseg.schema import flatten

CALIBRATION, RECALIBRATE = "calibration.json", "delete it, and calibrate again"


def with_home(*names: str) -> collections.abc.Callable:
  """A decorator: of these arguments, ~ at the start of a path is the home folder, as in shells."""

  def expand(value):
    if isinstance(value, list | tuple):
      return [expand(x) for x in value]
    is_path = isinstance(value, str | pathlib.Path) and str(value).startswith("~")
    return type(value)(os.path.expanduser(value)) if is_path else value

  def decorate(function):
    parameters = inspect.signature(function)

    @functools.wraps(function)
    def call(*args, **kwargs):
      given = parameters.bind(*args, **kwargs)
      given.arguments |= {x: expand(given.arguments[x]) for x in names if x in given.arguments}
      return function(*given.args, **given.kwargs)

    return call

  return decorate


def saved_config(workdir: str | pathlib.Path) -> dict | None:
  """The nested dict of a work directory's config.json, None if there is none.

  Raises:
    UserError: it is damaged.
  """
  path = pathlib.Path(workdir) / "config.json"
  if not path.exists():
    return None
  try:
    saved = json.loads(path.read_text("utf-8"))
    if not {"model.name", "data.name"} <= {*flatten(saved)}:
      raise ValueError("it is of another program")
    return saved
  except (ValueError, AttributeError, OSError, RecursionError) as error:
    check_is_damage(error, path)
    raise UserError(f"{path} is not a config ({error}); use another --workdir") from error


def has_checkpoint(workdir: str | pathlib.Path) -> bool:
  """Whether a run has saved anything from which it would resume."""
  folder = pathlib.Path(workdir) / "checkpoints"
  return folder.is_dir() and any(path.name.isdecimal() for path in folder.iterdir())


def check_config(
  workdir: str | pathlib.Path,
  saved: collections.abc.Mapping,
  current: collections.abc.Mapping,
  scopes: collections.abc.Mapping[str, str],
  *,
  network: bool = False,
) -> None:
  """Raises UserError if a config contradicts that of the run in a work directory.

  Args:
    workdir: its name in the error.
    saved, current: {"a.b": value} of the run and of now.
    scopes: {"a.b": scope}, see `schema.SCOPES`; a key without one counts as "experiment".
    network: compare only the keys of scope "network", else all but those of scope "free".
  """
  names = [
    name
    for name in dict.fromkeys((*current, *saved))
    if (scopes.get(name) == "network" if network else scopes.get(name) != "free")
  ]
  differing = [name for name in names if saved.get(name) != current.get(name)]
  if differing:
    name, more = differing[0], ""
    if len(differing) > 1:
      verb = "differ" if differing[2:] else "differs"
      more = f" (and {', '.join(differing[1:4])}{' ...' if len(differing) > 4 else ''} {verb}, too)"
    what = "network was trained with" if network else "run was started with"
    raise UserError(
      f"{workdir}: its {what} config.{name}={saved.get(name)!r}, not {current.get(name)!r}{more}; "
      "leave the key as it was, or use another --workdir"
    )


def run_of(path: str | pathlib.Path) -> pathlib.Path:
  """The work directory of a checkpoint, WORKDIR/checkpoints/STEP; any other path as it is."""
  path = pathlib.Path(path)
  is_step = path.name.isdecimal() and path.parent.name == "checkpoints"
  return path.parents[1] if is_step else path


def make_folder(path: str | pathlib.Path, flag: str) -> None:
  """Creates a folder unless it exists; if that fails, raises a UserError that names the flag."""
  try:
    pathlib.Path(path).mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f"cannot write to {path} ({error.strerror}); correct {flag}") from error


def write_json(path: str | pathlib.Path, value: Any) -> None:
  """Writes a file as `write_file` does."""
  write_file(path, to_json(value))


def to_json(value: Any) -> bytes:
  """The content of a file of `write_json`."""
  return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


def write_file(path: str | pathlib.Path, content: bytes) -> None:
  """Writes a file atomically: it is never incomplete, even if the process dies."""
  path = pathlib.Path(path)
  write_files(path.parent, {path.name: content})


def write_files(
  folder: str | pathlib.Path, files: collections.abc.Mapping[str, bytes]
) -> None:
  """Writes {name: content} into a folder, each atomically, and none before there is room for all.

  Raises:
    OSError: it names a file.
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  own = uuid.uuid4().hex[:8]  # another process may write the same file
  temporary, name = {name: folder / f"{name}.{own}.tmp" for name in files}, ""
  try:
    for name, content in files.items():
      temporary[name].write_bytes(content)
    for name in files:
      os.replace(temporary[name], folder / name)
  except BaseException as error:
    for path in temporary.values():
      with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
    if isinstance(error, OSError) and error.filename is None:
      error.filename = str(folder / name)
    raise


def read_json(path: str | pathlib.Path, remedy: str) -> Any:
  """The object in a file of `write_json`; None if there is no file.

  Raises:
    UserError: it is damaged; names the remedy.
  """
  path = pathlib.Path(path)
  if not path.exists():
    return None
  try:
    value = json.loads(path.read_text("utf-8"))
  except (ValueError, OSError, RecursionError) as error:
    check_is_damage(error, path)
    raise UserError(f"{path} is damaged ({error}): {remedy}") from error
  if not isinstance(value, dict):
    raise UserError(f"{path} is damaged (no JSON object): {remedy}")
  return value


def read_calibrations(workdir: str | pathlib.Path) -> dict[str, Any]:
  """What calibration.json holds, {step: result of --mode=calibrate}; {} without the file.

  Raises:
    UserError: it is damaged.
  """
  found = read_json(pathlib.Path(workdir) / CALIBRATION, RECALIBRATE) or {}
  return {str(found["step"]): found} if "step" in found else found  # as it was at first


def read_temperature(workdir: str | pathlib.Path, step: int) -> float | None:
  """The temperature that --mode=calibrate found for the checkpoint of a step; None without one.

  Raises:
    UserError: calibration.json is damaged.
  """
  path, remedy = pathlib.Path(workdir) / CALIBRATION, RECALIBRATE
  found = read_calibrations(workdir).get(str(step))
  if found is None:
    return None
  temperature = found.get("temperature") if isinstance(found, dict) else None
  if not isinstance(temperature, float) or not 0 < temperature <= 100:
    raise UserError(f"{path} is damaged (temperature {temperature!r:.60}): {remedy}")
  return temperature


def append_metrics(workdir: str | pathlib.Path, line: collections.abc.Mapping[str, Any]) -> None:
  """Adds one object to metrics.jsonl."""
  with open(pathlib.Path(workdir) / "metrics.jsonl", "a") as file:
    file.write(json.dumps(line, allow_nan=False) + "\n")


def read_metrics(workdir: str | pathlib.Path) -> list[dict[str, Any]]:
  """List of the objects in metrics.jsonl; a last line that was cut short is left out.

  A note names the lines that are damaged; they are left out, too.
  """
  path = pathlib.Path(workdir) / "metrics.jsonl"
  found, damaged = [], []
  for number, line in enumerate(path.read_bytes().split(b"\n")[:-1] if path.exists() else [], 1):
    try:
      found.append(_checked_line(json.loads(line)))
    except (KeyError, OverflowError, RecursionError, TypeError, ValueError):
      damaged.append(str(number))
  if damaged:
    more = f" and {len(damaged) - 10} more" if len(damaged) > 10 else ""
    numbers = ", ".join(damaged[:10]) + more
    plural = "s" if damaged[1:] else ""
    warn(f"{path}: line{plural} {numbers} cannot be read: left out, and dropped when a run resumes")
  return found


def _checked_line(line):
  """A line of metrics; raises KeyError, OverflowError, TypeError or ValueError if it is none."""
  scores = (line[name] for name in ("miou", "pixel_accuracy") if line.get(name) is not None)
  if not math.isfinite(sum(scores, line["step"] + line["epoch"] + line["loss"])):
    raise ValueError("not finite")
  if not isinstance(line["split"], str):
    raise TypeError("no split")
  return line


def forget_metrics_after(workdir: str | pathlib.Path, step: int) -> None:
  """Drops the lines that a killed run logged after the checkpoint from which it resumes."""
  kept = [line for line in read_metrics(workdir) if line["step"] <= step]
  text = "".join(json.dumps(line) + "\n" for line in kept)
  write_file(pathlib.Path(workdir) / "metrics.jsonl", text.encode())
