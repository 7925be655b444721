"""Packs the network of a run into one folder that stands alone, to share it; `packed` reads it."""

import dataclasses
import math
import os
import pathlib
import re
import shlex
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from jaxseg import (
  UserError,
  __version__,
  build,
  checkpoint_files,
  models,
  packed,
  parallel,
  public,
  schema,
  settings,
  workdirs,
)
from jaxseg.evaluation import check_evaluation
from jaxseg.metrics import CLASS_SCORES
from jaxseg.model_card import Facts, repository, write_card
from jaxseg.notebook import warn
from jaxseg.packed import CARD, CONFIG, NAMES, PICTURE, SCORES, WEIGHTS
from jaxseg.platforms import usual_rules
from jaxseg.printing import say
from jaxseg.segmenter import load_run

NEEDED = {"miou", "num_images", *CLASS_SCORES}  # of evaluation.json
OPTIONS = ("predict.", "crf.", "train.precision")  # of predictions
SPEED = ("data.num_threads", "data.num_workers", "data.cache_mb")  # nothing else depends on them
PLACE = re.compile(r"[/\\~]|\.\.|\w:[/\\]|\w+://", re.ASCII)  # how a path on a machine begins


@workdirs.with_home("workdir", "output")
@usual_rules()
def pack(
  workdir: str | pathlib.Path, output: str | pathlib.Path, *, picture: bool = False
) -> None:
  """Writes the best checkpoint of a run, and all that is known of it, as a folder to share.

  The folder holds weights, config, scores and a model card, and no path of this machine. Process 0
  writes it; one's own packed folder is replaced.

  Args:
    workdir: of a run, or of one of its checkpoints; see `load`.  output: folder.
    picture: with the sheet of predictions, which shows images of the data.
  Raises:
    UserError: nothing trained there; the folder holds something else; no picture.
  """
  if packed.is_packed(workdir) or public.is_published(workdir):
    raise UserError(f"{workdir} is no run of your own: pack the work directory of one")
  segmenter = load_run(workdir, {})
  if not parallel.is_main():
    return
  root, step = workdirs.run_of(workdir), segmenter.step
  values = shareable(settings.config_values(segmenter.config))
  scores = scores_of(root, step, segmenter.config, workdir)
  num_evaluations = _num_evaluations(root, scores)
  if scores:
    scores["split"] = _without_place(scores["split"])
  files = {SCORES: workdirs.to_json(scores)} if scores else {}
  if picture:
    files[PICTURE] = _picture(root, step)
  declared = settings.declared_keys()
  facts = Facts(
    pathlib.Path(output).resolve().name,
    values,
    {name: x for name, x in values.items() if name not in declared or x != declared[name].default},
    segmenter.info,
    step,
    models.num_parameters(segmenter.variables),
    _num_images(root, step),
    scores,
    num_evaluations,
    _own_parts(values),
    PICTURE if picture else "",
  )
  files[CARD] = write_card(facts).encode()
  files[WEIGHTS] = _weights(segmenter.variables)
  about = {
    "format": packed.FORMAT,
    "version": packed.VERSION,
    "written_by": __version__,
    "step": step,
    "info": dataclasses.asdict(segmenter.info),
    "config": schema.to_config(values).to_dict(),
    "own_keys": [name for name in values if name not in declared],
    "sha256": {name: packed.digest(files[name]) for name in (WEIGHTS, CARD)},
  }
  write(output, {CONFIG: workdirs.to_json(about), **files})
  size = sum(map(len, files.values())) / 2**20
  say(f"{output}: {size:.1f} MiB, step {step}; see {output}/{CARD}, and set the licence there")
  say(f"to share it: hf upload {repository(facts.name)} {shlex.quote(str(output))}")


def shareable(values: Mapping[str, Any]) -> dict[str, Any]:
  """{config key: value} without what only this machine has: of paths, the last name is left.

  Names of classes and the like, which are no paths, stay as they are.
  """
  declared = settings.declared_keys()
  is_file = bool(values["data.data_dir"]) or os.path.exists(values["data.source"])
  is_file &= values["data.name"] != "tfds"  # whose names have a slash, too
  places = {"model.pretrained", "model.init_from"} | ({"data.source"} if is_file else set())

  def strip(name, value):
    if isinstance(value, tuple) and name not in declared:
      return tuple(strip(name, x) for x in value)
    if not isinstance(value, str):
      return value
    return pathlib.PureWindowsPath(value).name if name in places else _without_place(value)

  found = {name: strip(name, value) for name, value in values.items()}
  if values["model.init_from"].startswith("hf:"):
    found["model.init_from"] = values["model.init_from"]
  machine = [name for name in declared if name.startswith("parallel.")]
  return found | {name: declared[name].default for name in ("data.data_dir", *machine)}


def _without_place(text):
  """The last name of a path on this machine; other texts as they are."""
  return pathlib.PureWindowsPath(text).name if PLACE.match(text) else text


def scores_of(
  root: pathlib.Path, step: int, config: ConfigDict, place: str | pathlib.Path
) -> dict[str, Any] | None:
  """The scores of a checkpoint with a config, and "split" and "step"; None without.

  They are those of evaluation.json, with intervals, unless it is of another checkpoint or was made
  with other options: then those that were saved with the checkpoint.

  Args:
    root: work directory.  place: it, or the checkpoint's folder, for the remedy.
  """
  split, run = build.eval_name(config), settings.read_run(root)
  path, remedy = root / "evaluation.json", "delete it, and evaluate again"
  latest = workdirs.read_json(path, remedy) or {}
  if latest:
    check_evaluation(latest, path, remedy)
  saved = checkpoint_files.read(root, step, "metrics").get("metrics")
  overrides = latest.pop("overrides", {})
  others = [x for x in overrides if x.startswith("data.") and x not in SPEED]
  own, theirs = (
    {name: x for name, x in options.items() if name.startswith(OPTIONS)}
    for options in (settings.changed(config, run), overrides)
  )
  is_same = (latest.get("step"), latest.get("split"), theirs) == (step, split, own)
  if saved is None and others:  # moved, or other data
    is_same &= latest["num_images"] == _num_images(root, step).get("eval")
  if is_same and latest.keys() >= NEEDED:
    # The version before did not note its options.
    if saved is None or math.isclose(latest["miou"], saved["miou"], abs_tol=1e-4):
      return latest
  found = "scores of training, without intervals" if saved else "no scores"
  warn(
    f"{root}/evaluation.json is of another checkpoint than {step}, or of other options than the "
    f"run's: the card has {found}; for intervals, run python -m jaxseg.main --mode=evaluate "
    f"--workdir={shlex.quote(str(place))}, then pack again"
  )
  if not saved:
    return None
  of_probs = ("loss", "ece") if own else ()  # at another temperature
  return {"split": split, "step": step} | {k: x for k, x in saved.items() if k not in of_probs}


def write(folder: str | pathlib.Path, files: Mapping[str, bytes]) -> None:
  """Writes a packed network; until it is complete, config.json does not fit the weights.

  Args:
    files: {name: content}.
  Raises:
    UserError: the folder holds something else, or a model card that was edited.
  """
  folder = pathlib.Path(folder)
  workdirs.make_folder(folder, "--output")
  temporary = {name: folder / f"{name}.tmp" for name in NAMES}
  left = {path.name for path in temporary.values()}  # of a time when it was stopped
  if any(path.name not in left for path in folder.iterdir()):
    _check_own(folder)
  for name, content in files.items():
    temporary[name].write_bytes(content)
  for name in NAMES:
    if name in files:
      os.replace(temporary[name], folder / name)
    else:
      (folder / name).unlink(missing_ok=True)
      temporary[name].unlink(missing_ok=True)


def _check_own(folder):
  try:
    known = packed.read_config(folder)["sha256"].get(CARD)
  except UserError as error:
    text = f"{folder} holds something else; give an --output that is new or empty"
    raise UserError(text) from error
  card = folder / CARD
  # If it was stopped, the new card may not be in its place yet.
  sums = [packed.digest(x.read_bytes()) for x in (card, folder / f"{CARD}.tmp") if x.is_file()]
  if card.is_file() and known not in sums:
    raise UserError(f"{card} was edited after packing; move it away, or give another --output")


def _weights(variables):
  import safetensors.numpy

  tensors = flatten_dict(jax.tree.map(np.asarray, variables), sep="/")
  for name, x in tensors.items():
    if not np.isfinite(x).all():
      raise UserError(f"{name} holds values that are not finite: pack another checkpoint")
  return safetensors.numpy.save(tensors, metadata={"format": "flax"})


def _picture(root, step):
  path = root / "plots" / f"predictions_{step:06d}.png"
  if not path.is_file():
    raise UserError(
      f"no {path}: run --mode=evaluate --workdir={root} with config.eval.num_samples above 0, or "
      "leave out --picture"
    )
  return path.read_bytes()


def _own_parts(values):
  """Names of the network and the encoder, of those that are not part of jaxseg."""
  parts = {values["model.name"]: models.MODELS, values["model.encoder"]: models.ENCODERS}
  makers = {name: table[name] for name, table in parts.items() if name}
  modules = {name: getattr(x, "func", x).__module__ for name, x in makers.items()}
  return [name for name, module in modules.items() if module.partition(".")[0] != "jaxseg"]


def _num_images(root, step):
  data = checkpoint_files.read(root, step, "data")["data"]
  examples = data.get("examples") or {} if isinstance(data, dict) else {}
  return {role: x["num_examples"] for role, x in examples.items() if "num_examples" in x}


def _num_evaluations(root, scores):
  lines = workdirs.read_metrics(root)
  return sum("miou" in line and line["split"] == scores["split"] for line in lines if scores)
