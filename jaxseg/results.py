"""The files of an evaluation in a work directory."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from ml_collections import ConfigDict

from jaxseg import UserError, packed, parallel, per_image, settings, workdirs
from jaxseg.charts import draw_curves
from jaxseg.data.decode import DatasetInfo
from jaxseg.html_page import ink
from jaxseg.report_page import Evaluation, write_report
from jaxseg.visualize import plot_confusion, prediction_sheet

ORIGIN = "origin.json"


def numbers(result: Mapping[str, Any]) -> dict[str, Any]:
  """Of a result, what curves show: neither intervals nor lists."""
  return {
    name: value
    for name, value in result.items()
    if not isinstance(value, list) and not name.endswith("_interval")
  }


def write(
  workdir: str | pathlib.Path,
  split: str,
  step: int,
  info: DatasetInfo,
  evaluation: Evaluation,
  overrides: Mapping[str, Any] | None = None,
) -> pathlib.Path | None:
  """Writes evaluation.json, per_image.csv, the confusion matrix, and the sheet of samples if any.

  Args:
    overrides: {config key: value} that differ from those of the run.
  Returns:
    the path of the sheet, or None.
  """
  workdir, result = pathlib.Path(workdir), evaluation.result
  head = {"split": split, "step": step, **({"overrides": overrides} if overrides else {})}
  workdirs.write_json(workdir / "evaluation.json", {**head, **result})
  per_image.write(workdir / "per_image.csv", evaluation.images)
  plots = workdir / "plots"
  title = f"step {step}: mean IoU {result['miou']:.3f}, {split}"
  plot_confusion(plots / "confusion.png", result["confusion"], info.classes, title)
  if not evaluation.samples:
    return None
  sheet = plots / f"predictions_{step:06d}.png"
  prediction_sheet(sheet, evaluation.samples, info.classes, info.palette, title)
  return sheet


def write_origin(
  folder: str | pathlib.Path, step: int | None, config: ConfigDict, info: DatasetInfo
) -> None:
  """Notes in a folder of results, which has no run, what was evaluated; see `read_origin`."""
  found = {"step": step, "config": config.to_dict(), "info": dataclasses.asdict(info)}
  workdirs.write_json(pathlib.Path(folder) / ORIGIN, found)


def is_of_other_network(folder: str | pathlib.Path) -> bool:
  """Whether a folder holds what an evaluation of a network from elsewhere wrote, and no run."""
  return (pathlib.Path(folder) / ORIGIN).is_file() and not workdirs.has_checkpoint(folder)


def read_origin(
  folder: str | pathlib.Path, remedy: str
) -> tuple[int | None, ConfigDict, DatasetInfo] | None:
  """What `write_origin` noted; None if there is nothing.

  Raises:
    UserError: it is damaged; names the remedy.
  """
  path = pathlib.Path(folder) / ORIGIN
  found = workdirs.read_json(path, remedy)
  if found is None:
    return None
  info, step, config = (found.get(name) for name in ("info", "step", "config"))
  is_step = step is None or (type(step) is int and step >= 0)
  if not is_step or not isinstance(config, dict) or packed.wrong_entries(info):
    raise UserError(f"{path} is damaged: {remedy}")
  try:
    config = settings.from_run(config)
    settings.check_own_values(config)
  except UserError as error:
    raise UserError(f"{path} is damaged ({error}): {remedy}") from error
  return step, config, DatasetInfo(**info)


def about(
  split: str, step: int | None, num_images: int, config: ConfigDict, overrides: Mapping[str, Any]
) -> str:
  """What was evaluated, in a line.  config: of the evaluation; overrides: see `write`.

  Args:
    step: None for a network that was trained elsewhere.
  """
  model, after = config.model, "" if step is None else f" after step {step:,}"
  on = f" on {model.encoder}" if model.encoder else ""
  given = "".join(f", {name}={value!r}" for name, value in overrides.items())
  return (
    f"{model.name}{on}{after}, evaluated on {num_images:,} images of "
    f"{config.data.name} {split}{given}"
  )


def write_page(
  workdir: str | pathlib.Path,
  line: str,
  info: DatasetInfo,
  evaluation: Evaluation,
  config: ConfigDict,
  folder: str | pathlib.Path | None = None,
  notes: Sequence[str] = (),
  drawn: Figure | None = None,
) -> pathlib.Path:
  """Writes report.html, in the first process; returns its path.

  Args:
    line: of `about`.  config: of the evaluation.
    folder: for the page; None is plots/ of the work directory.  notes: further lines.
    drawn: the curves, if they have been drawn.
  """
  workdir = pathlib.Path(workdir)
  path = pathlib.Path(folder or workdir / "plots") / "report.html"
  if drawn is None and (metrics := workdirs.read_metrics(workdir)):
    with ink():
      drawn = draw_curves(metrics)
  title, recipe = workdir.absolute().name, settings.changed(config)
  if parallel.is_main():
    write_report(path, title, [line, *notes], evaluation, info, drawn, recipe)
  return path
