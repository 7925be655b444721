"""Scores of the seeds of a run: their mean, and their standard deviation (of a sample, n - 1)."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import numpy as np

from jaxseg import UserError, results, settings, workdirs
from jaxseg.evaluation import check_evaluation
from jaxseg.metrics import CLASS_SCORES
from jaxseg.printing import printable, say
from jaxseg.seeds_page import scores_of, write_seeds_page

SUMMARY = "seeds.json"
TEMPERATURE, FITTED = "predict.temperature", "of each seed"  # by --mode=calibrate
EACH_FITTED = "each with the temperature of its calibration"


def spread(values: Sequence[float | None]) -> dict[str, Any]:
  """{"mean", "std", "values"} of a score; None where a value is None, as of a class that is absent.

  Args:
    values: one for each of at least two seeds.
  """
  if None in values:
    return {"mean": None, "std": None, "values": list(values)}
  mean, std = float(np.mean(values)), float(np.std(values, ddof=1))
  return {"mean": mean, "std": std, "values": list(values)}


def summarize(
  folders: Mapping[int, str | pathlib.Path], found: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
  """The scores of several seeds.

  Args:
    folders: {seed: its work directory}.
    found: results of `modes.evaluate`, one for each; those in the evaluation.json of each if empty.
  Returns:
    {"split", "num_images", "seeds": [seed], "steps": [its checkpoint], "options": {config key:
    value} that differ from the runs', score: see `spread`, or {class: that}}
  Raises:
    UserError: an evaluation.json is missing, damaged, or of another split, number of images or
      options.
  """
  paths = [pathlib.Path(folder) / "evaluation.json" for folder in folders.values()]
  found = found or [_read_evaluation(path) for path in paths]
  options = [_options(one) for one in found]
  used = [x.get(TEMPERATURE) for x in options]
  fitted = [_fitted(one, path.parent) for one, path in zip(found, paths, strict=True)]
  if None not in fitted and used == fitted:
    options = [{**x, TEMPERATURE: FITTED} for x in options]
  elif len({*used}) > 1:
    check_calibrated(folders)
    if None not in fitted:
      run = paths[0].parent.parent
      raise UserError(
        f"scores in {run} are of before the calibration: --mode=evaluate --workdir={run}"
      )
  for i in range(1, len(found)):
    _check_same(*((found[j], options[j], paths[j]) for j in (0, i)))
  scores = {}
  for name, value in found[0].items():
    values = [one.get(name) for one in found]
    if value is None or isinstance(value, float):
      scores[name] = spread(values)
    elif name in CLASS_SCORES:
      scores[name] = {key: spread([one[key] for one in values]) for key in value}
  return {
    "split": found[0]["split"],
    "num_images": found[0]["num_images"],
    "seeds": list(folders),
    "steps": [one["step"] for one in found],
    "options": options[0],
    **scores,
  }


def _read_evaluation(path):
  remedy = f"--mode=evaluate --workdir={path.parent}"
  one = workdirs.read_json(path, f"make it anew with {remedy}")
  if one is None:
    raise UserError(f"{path} is missing; make it with {remedy}")
  check_evaluation(one, path, f"make it anew with {remedy}")
  return one


def check_calibrated(folders: Mapping[int, str | pathlib.Path]) -> None:
  """Raises UserError if some of the seeds are calibrated, but not all.  folders: {seed: its own}"""
  places = list(map(pathlib.Path, folders.values()))
  others = [place for place in places if not workdirs.read_calibrations(place)]
  if 0 < len(others) < len(places):
    names = ", ".join(place.name for place in others)
    raise UserError(
      f"seeds are calibrated, but not {names}: --mode=calibrate, then --mode=evaluate, both with "
      f"--workdir={places[0].parent}"
    )


def _check_same(a, b):
  """Raises UserError, with the remedy, if (result, options, path) of two do not go together."""
  (first, others, _), (one, own, path) = a, b
  remedy = f"make all anew with --mode=evaluate --workdir={path.parent.parent}"
  if (split := first["split"]) != one["split"]:
    raise UserError(
      f"{path} is of the split {one['split']!r}, but that of another seed of {split!r}; {remedy}"
    )
  if (number := first["num_images"]) != one["num_images"]:
    raise UserError(
      f"{path} is of {one['num_images']:,} images, but that of another seed of {number:,}; {remedy}"
    )
  if others != own:
    others, own = (_listed(x) for x in (others, own))
    raise UserError(
      f"{path} was made with other options ({own}) than that of another seed ({others}); {remedy}"
    )


def _options(result):
  """The noted keys that may change a score: not how data are read."""
  keys = settings.declared_keys()
  return {
    name: value
    for name, value in result.get("overrides", {}).items()
    if not (name.startswith("data.") and name in keys and keys[name].scope == "free")
  }


def _fitted(result, folder):
  """The temperature of the calibration of its checkpoint, if there is one."""
  return workdirs.read_calibrations(folder).get(str(result["step"]), {}).get("temperature")


def _listed(options):
  return ", ".join(f"{name}={value}" for name, value in options.items()) or "none"


def table(summary: Mapping[str, Any]) -> str:
  """A `summarize` as text: mean ± standard deviation, and the value of each seed."""
  rows = []
  for name, value in scores_of(summary).items():
    parts = value if name in CLASS_SCORES else {"": value}
    rows += [(f"{name} {part}".strip(), x) for part, x in parts.items()]
  width = max(len(printable(name)) for name, _ in rows)
  heads = "".join(f"{f'seed {seed}':>10}" for seed in summary["seeds"])
  lines = [f"{summary['split']:{width}}  {'mean ± std':18}{heads}"]
  for name, x in summary["options"].items():
    lines.append(EACH_FITTED if x == FITTED else f"with {name}={printable(str(x))}")
  if len({*summary["steps"]}) > 1:
    steps = "".join(f"{step:>10}" for step in summary["steps"])
    lines.append(f"{'step':{width}}  {'':18}{steps}")
  for name, one in rows:
    mean = "-" if one["mean"] is None else f"{one['mean']:.4f} ± {one['std']:.4f}"
    values = "".join(f"{'-' if x is None else format(x, '.4f'):>10}" for x in one["values"])
    lines.append(f"{printable(name):{width}}  {mean:18}{values}")
  return "\n".join(lines)


def say_table(summary: Mapping[str, Any], file: TextIO | None = None) -> None:
  """Prints a `table`, by default on standard output."""
  for line in table(summary).split("\n"):
    say(line, file)


def write(
  workdir: str | pathlib.Path,
  folders: Mapping[int, str | pathlib.Path],
  palette: Sequence[Sequence[int]],
  output: str | pathlib.Path = "",
  summary: Mapping[str, Any] | None = None,
) -> None:
  """Writes seeds.json, see `summarize`, into the work directory that holds those of the seeds, and
  plots/report.html.

  Args:
    palette: see `write_seeds_page`.  output: folder for the page alone, without seeds.json.
    summary: instead of a `summarize` of what the seeds' folders hold.
  """
  workdir, summary = pathlib.Path(workdir), summary or summarize(folders)
  if not output:
    workdirs.write_json(workdir / SUMMARY, summary)
  page = pathlib.Path(output or workdir / "plots") / "report.html"
  config, number = settings.read_run(workdir), summary["num_images"]
  options = {name: x for name, x in summary["options"].items() if x != FITTED}
  about = results.about(summary["split"], None, number, config, options)
  if options != summary["options"]:
    about += f", {EACH_FITTED}"
  write_seeds_page(page, workdir.absolute().name, about, summary, folders, palette)


def read(workdir: str | pathlib.Path) -> dict[str, Any]:
  """What `write` has written."""
  return {"options": {}, **json.loads((pathlib.Path(workdir) / SUMMARY).read_text())}
