"""The files of a work directory other than checkpoints: config, metrics, evaluation."""

import json
import os
import pathlib

from jaxseg import UserError

# May differ between the run that made a work directory and the one that goes on with it: where
# data lie, how fast and on what it runs, what it reports.
FREE_KEYS = (
  "data.data_dir",
  "data.num_threads",
  "data.cache_mb",
  "train.parallel",
  "train.patience",
  "train.eval_every_epochs",
  "train.checkpoint_every_epochs",
  "train.log_every_steps",
  "eval.batch_size",
  "eval.num_samples",
  "eval.instances",
  "eval.boundary_f1",
  "predict.output_stride",
  "predict.tile",
  "predict.scales",
  "predict.symmetries",
  "crf.num_iterations",
  "crf.spatial_weight",
  "crf.spatial_sigma",
  "crf.bilateral_weight",
  "crf.bilateral_sigma",
  "crf.color_sigma",
  "crf.exact",
  "export.output",
  "export.onnx_size",
  "export.num_images",
  "parallel.coordinator",
  "parallel.num_processes",
  "parallel.process_id",
)
# Only these have to agree for a trained network to be scored or used.
MODEL_KEYS = ("data.name", "data.image_size", "data.fit", "model.name", "model.encoder",
              "model.output_stride", "model.widths", "model.patch", "model.padding", "model.head",
              "model.norm", "model.separable", "model.up", "data.value_range")  # fmt: skip


def flatten(config, prefix=""):
  """Nested dict -> {"a.b": value}; tuples become lists at every depth, as in JSON."""
  flat = {}
  for key, value in config.items():
    if isinstance(value, dict):
      flat |= flatten(value, f"{prefix}{key}.")
    else:
      flat[prefix + key] = _lists(value)
  return flat


def _lists(value):
  return [_lists(x) for x in value] if isinstance(value, tuple | list) else value


def check_config(workdir, config, *, keys=None):
  """Raises UserError if the work directory belongs to another config.

  Args:
    workdir: a directory; fine if it has no config.json yet.
    config: nested dict.  keys: dotted keys to compare; None = all but FREE_KEYS.
  """
  path = pathlib.Path(workdir) / "config.json"
  if not path.exists():
    return
  try:
    saved, current = flatten(json.loads(path.read_text())), flatten(config)
  except (ValueError, AttributeError) as error:
    raise UserError(f"{path} is not a config ({error}); use another --workdir") from error
  names = keys or [key for key in sorted(saved | current) if key not in FREE_KEYS]
  differing = [key for key in names if saved.get(key) != current.get(key)]
  if differing:
    key = differing[0]
    more = f" (and {len(differing) - 1} more keys)" if len(differing) > 1 else ""
    raise UserError(
      f"{workdir} belongs to another config: there {key} is {saved.get(key)!r}, here "
      f"{current.get(key)!r}{more}; use another --workdir, or delete it"
    )


def make_folder(path, flag):
  """Makes a folder unless it is there; raises UserError, naming the flag, if that fails."""
  try:
    pathlib.Path(path).mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f"cannot write to {path} ({error.strerror}); correct {flag}") from error


def write_json(path, value):
  """Writes a file that is whole or not there, even if the process dies."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(path.name + ".tmp")
  temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")
  os.replace(temporary, path)


def append_metrics(workdir, line):
  """Adds one object to metrics.jsonl."""
  with open(pathlib.Path(workdir) / "metrics.jsonl", "a") as file:
    file.write(json.dumps(line, allow_nan=False) + "\n")


def read_metrics(workdir):
  """List of the objects in metrics.jsonl; a last line that was cut short is left out."""
  path = pathlib.Path(workdir) / "metrics.jsonl"
  lines = path.read_text().splitlines(keepends=True) if path.exists() else []
  return [json.loads(line) for line in lines if line.endswith("\n")]


def forget_metrics_after(workdir, step):
  """Drops what a killed run had logged beyond the checkpoint from which it goes on."""
  kept = [line for line in read_metrics(workdir) if line["step"] <= step]
  path = pathlib.Path(workdir) / "metrics.jsonl"
  temporary = path.with_name(path.name + ".tmp")
  temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
  os.replace(temporary, path)
