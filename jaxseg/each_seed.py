"""`evaluate` and `calibrate`: of a run, or of each seed of a run of several."""

import json
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from jaxseg import (
  UserError,
  modes,
  parallel,
  reports,
  seed_scores,
  seeds,
  settings,
  temperature,
  workdirs,
)
from jaxseg.printing import say


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
  if not (folders := _folders(workdir)):
    return modes.evaluate(workdir, overrides, config=config, output=output)
  if output:
    raise UserError(
      f"{workdir} holds the runs of several seeds, which keep their own scores: leave out "
      f"--output, or evaluate one, as {next(iter(folders.values()))}"
    )
  for seed, folder in folders.items():
    modes.evaluate(folder, overrides, config=_config_of(config, seed))
  reports.report(workdir)
  return parallel.on_main(seed_scores.read, workdir)


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
  if not (folders := _folders(workdir)):
    return temperature.calibrate(workdir, overrides, config=config)
  return {
    seed: temperature.calibrate(folder, overrides, config=_config_of(config, seed))
    for seed, folder in folders.items()
  }


def _folders(workdir):
  """{seed: its work directory}; {} if this is not a run of several seeds."""
  found = parallel.on_main(lambda: [[x, str(path)] for x, path in seeds.of_run(workdir).items()])
  return {seed: pathlib.Path(path) for seed, path in found}


def _config_of(config, seed):
  """The config of one seed from that of all; None if there is none."""
  return config and settings.override(config, {"seed": seed, "train.num_seeds": 1})


def print_scores(result: dict) -> None:
  """The result of `evaluate` as JSON on standard output, and as a table on standard error."""
  if "seeds" not in result:
    modes.print_scores(result)
  elif parallel.is_main():
    print(json.dumps(result, indent=2))
    for line in seed_scores.table(result).split("\n"):
      say(line, sys.stderr)


def describe(found: dict) -> list[str]:
  """The result of `calibrate` in lines."""
  if "temperature" in found:
    return temperature.describe(found)
  return [f"seed {seed}: {line}" for seed, x in found.items() for line in temperature.describe(x)]
