"""`evaluate` and `calibrate`: of a run, or of each seed of a run of several."""

import json
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from jaxseg import (
  UserError,
  faults,
  modes,
  parallel,
  reports,
  seed_scores,
  seeds,
  settings,
  temperature,
  workdirs,
)
from jaxseg.evaluation import LISTS, score_table
from jaxseg.printing import say
from jaxseg.together import agreed


@workdirs.with_home("workdir", "output")
def evaluate(
  workdir: str | pathlib.Path,
  overrides: Mapping[str, Any] | None = None,
  *,
  config: ConfigDict | None = None,
  output: str | pathlib.Path | None = None,
) -> dict:
  """Scores the best checkpoint of a run on the evaluation split of its config.

  Writes evaluation.json, a sheet of predictions and the confusion matrix into the work directory,
  unless it is a packed network; if that cannot be written, a DataWarning says so. Of a run of
  several seeds (`train.num_seeds`), each is scored, and seeds.json and plots/report.html of all are
  made anew.

  Args:
    workdir: of the run, or of one of its checkpoints; or a published network, see
      `segmenter.load`, with a config of the data.
    overrides: keys that differ from the run's config: {"predict.tta": "flip"}.
    config: to use instead of the run's; its network has to be the same.
    output: another folder for the files. Without it, those of a published network are not written.
      Not for several seeds.
  Returns:
    the scores, see `evaluation.score`, with "split", "step", and "overrides", {key: value} that
    differ from the run's, if there are any; of several seeds, see `seed_scores.summarize`
  Raises:
    UserError: nothing trained there, no data, or a key that contradicts the network.
  """
  if not (folders := _folders(workdir, overrides)):
    return modes.evaluate(workdir, overrides, config=config, output=output)
  if output:
    raise UserError(
      f"{workdir} holds the runs of several seeds, which keep their own scores: leave out "
      f"--output, or evaluate one, as {next(iter(folders.values()))}"
    )
  if "predict.temperature" not in (overrides or {}):
    with agreed():
      if parallel.is_main():
        seed_scores.check_calibrated(folders)
  found = [
    modes.evaluate(folder, _overrides_of(seed, overrides), config=config)
    for seed, folder in folders.items()
  ]
  with agreed():
    summary = _summarize(workdir, folders, found) if parallel.is_main() else None
  return parallel.json_from_main(summary)


@workdirs.with_home("workdir")
def calibrate(
  workdir: str | pathlib.Path,
  overrides: Mapping[str, Any] | None = None,
  *,
  config: ConfigDict | None = None,
) -> dict:
  """Fits the temperature of the best checkpoint on the evaluation split (Guo et al. 2017).

  calibration.json holds it, and whatever reads that checkpoint uses it: probabilities change,
  labels do not. Scores are those of before until `evaluate` makes them anew.

  Args:
    workdir, overrides, config: see `evaluate`.  The folder of a checkpoint is calibrated for
      itself; the file is written into that of its run.
  Returns:
    {"temperature", "split", "step", "num_images", "num_pixels", "before", "after": {"loss",
    "ece"}}; "after" is measured on images that its temperature was not fitted on: two halves, each
    with the temperature of the other. Without "after" for a single image. Of several seeds, {seed:
    that}.
  Raises:
    UserError: see `evaluate`.
  """
  if not (folders := _folders(workdir, overrides)):
    return temperature.calibrate(workdir, overrides, config=config)
  return {
    seed: temperature.calibrate(folder, _overrides_of(seed, overrides), config=config)
    for seed, folder in folders.items()
  }


def _folders(workdir, overrides):
  """{seed: its work directory}; {} if this is not a run of several seeds."""
  with agreed():
    found = seeds.of_run(workdir) if parallel.is_main() else {}
    for name, value in ("seed", min(found, default=0)), ("train.num_seeds", len(found)):
      if found and (given := (overrides or {}).get(name, value)) != value:
        numbers, one = ", ".join(map(str, found)), next(iter(found.values()))
        raise UserError(f"config.{name} is {given}, but {workdir} holds the seeds {numbers}: leave "
                        f"it out, or give the work directory of one, as {one}")  # fmt: skip
    for seed, folder in found.items():
      own = settings.read_run(folder) if workdirs.has_checkpoint(folder) else None
      if own is None or own.seed != seed:
        fault = f"is the run of seed {own.seed}" if own else "has no checkpoint"
        raise UserError(f"{folder} {fault}: restore that of seed {seed} from a copy, or give the "
                        "work directory of one seed")  # fmt: skip
  found = parallel.json_from_main([[seed, str(folder)] for seed, folder in found.items()])
  return {seed: pathlib.Path(folder) for seed, folder in found}


def _overrides_of(seed, overrides):
  return {**(overrides or {}), "seed": seed, "train.num_seeds": 1}


def _summarize(workdir, folders, found):
  """Writes the summary of several results of `modes.evaluate`, and returns it."""
  summary = seed_scores.summarize(folders, json.loads(json.dumps(found)))
  with faults.by_the_way(f"{seed_scores.SUMMARY} and the page of all seeds are those of before"):
    palette = reports.read_evaluation(next(iter(folders.values()))).info.palette
    seed_scores.write(workdir, folders, palette, summary=summary)
  return summary


def print_scores(result: dict) -> None:
  """The result of `evaluate` as JSON on standard output, and as a table on standard error."""
  if not parallel.is_main():
    return
  print(json.dumps({k: v for k, v in result.items() if k not in LISTS}, indent=2))
  if "seeds" in result:
    seed_scores.say_table(result, sys.stderr)
    return
  head = ("split", "step", "overrides")
  table = score_table({k: v for k, v in result.items() if k not in head})
  given = "".join(f", {name}={x!r}" for name, x in result.get("overrides", {}).items())
  step = "" if result["step"] is None else f", step {result['step']}"
  for line in (f"split {result['split']}{step}{given}", "", *table.split("\n")):
    say(line, sys.stderr)


def describe(found: dict) -> list[str]:
  """The result of `calibrate` in lines."""
  if "temperature" in found:
    return temperature.describe(found)
  return [f"seed {seed}: {line}" for seed, x in found.items() for line in temperature.describe(x)]
