"""--mode=report: the page of a run's latest evaluation, or of what differs between several."""

import dataclasses
import json
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxseg import (
  UserError,
  build,
  checkpoint,
  faults,
  packed,
  parallel,
  per_image,
  predictors,
  results,
  schema,
  seed_scores,
  seeds,
  settings,
  workdirs,
)
from jaxseg.comparison import write_comparison
from jaxseg.data.decode import DatasetInfo
from jaxseg.data.encoded import read_as_trained
from jaxseg.data.folder import default_palette
from jaxseg.differences import Run, changed_most, compare
from jaxseg.evaluation import check_evaluation, tally_probs
from jaxseg.extremes import draw_panels, ends
from jaxseg.metrics import class_pixels
from jaxseg.platforms import usual_rules
from jaxseg.report_page import Evaluation
from jaxseg.segmenter import load_run
from jaxseg.tally import Tally, for_scores

Place = str | pathlib.Path
# Keys that say where data are and how they are read; and those of data sets of one's own.
READING = ("data.data_dir", "data.source", "data.images", "data.masks", "data.split_file",
           "data.num_threads", "data.num_workers", "data.cache_mb", "eval.batch_size",
           "predict.tile")  # fmt: skip


@workdirs.with_home("places", "output")
@usual_rules()
def report(
  places: Place | Sequence[Place],
  *,
  output: Place = "",
  overrides: Mapping[str, Any] | None = None,
) -> pathlib.Path:
  """Writes a page about the latest evaluation of a run, or about what differs between several.

  Nothing is evaluated again: scores are those of evaluation.json and per_image.csv. Pictures are
  predicted anew, if the checkpoint and the data are there; if not, the page says so.

  Of a work directory with several seeds, the page has their means and spreads; without `output`,
  seeds.json is made anew, too.

  Args:
    places: work directory, or several; the first is what the others are compared with.
    output: folder of the page; "" is plots/ of the first run.
    overrides: keys that differ from the runs' configs and do not change predictions: where the data
      are, {"data.data_dir": FOLDER}, and how fast they are read.
  Returns:
    path of the page, report.html or comparison.html
  Raises:
    UserError: a run that was not evaluated, or that does not compare with the first.
  """
  overrides = dict(overrides or {})
  declared = settings.declared_keys()
  free = {*READING, *(name for name in overrides if name.startswith("parallel."))}
  free |= {name for name in overrides if name.startswith("data.") and name not in declared}
  if other := overrides.keys() - free:
    raise UserError(f"config.{min(other)} does not change what a report shows: evaluate with it")
  places = [places] if isinstance(places, str | pathlib.Path) else list(places)
  if not places or not all(str(place).strip() for place in places):
    raise UserError(f"{','.join(map(str, places))!r} names no run: give work directories, as A,B")
  for place in places:
    packed.check_is_none(place, "give the run that it was packed from")
    if (run := workdirs.run_of(place)) != pathlib.Path(place):
      raise UserError(f"{place} is a checkpoint: give its run, {run}; its latest evaluation counts")
  same = len({pathlib.Path(place).resolve() for place in places}) < len(places)
  if same:
    raise UserError("a run is named twice: leave it out once")
  folder = pathlib.Path(output or pathlib.Path(places[0]) / "plots")
  flag = "--output" if output else "--workdir"
  if len(places) == 1 and (found := seeds.of_run(places[0])):
    info = read_evaluation(next(iter(found.values()))).info
    if folder.resolve() in {(path / "plots").resolve() for path in found.values()}:
      raise UserError(f"{folder} has the report of one seed: give another --output")
    workdirs.make_folder(folder, flag)
    if parallel.is_main():
      seed_scores.write(places[0], found, info.palette, output)
    return folder / "report.html"
  names = unique_names(places)
  first, *others = runs = [
    dataclasses.replace(read_evaluation(place), name=name)
    for place, name in zip(places, names, strict=True)
  ]
  if not others and (results.is_of_other_network(places[0]) or not settings.read_run(places[0])):
    page = pathlib.Path(places[0]) / "plots" / "report.html"
    raise UserError(f"{places[0]} holds no run, but what an evaluation wrote: its page is {page}")
  if not others:
    worst, best = ends(first.images.of_images()["miou"])
    panels, notes = _panels(places[0], first, [*worst, *best], overrides)
    evaluation = Evaluation(first.result, first.images, shown=panels)
    workdirs.make_folder(folder, flag)
    return results.write_page(
      places[0], first.about, first.info, evaluation, first.config, folder, notes
    )
  differences = [compare(first, run) for run in others]
  workdirs.make_folder(folder, flag)
  shown, notes = [], []
  if len({run.config.predict.temperature or 1.0 for run in runs}) > 1:
    notes.append("The runs have different temperatures (predict.temperature; --mode=calibrate), "
                 "which change cross-entropy and calibration error.")  # fmt: skip
  for place, run, difference in zip(places[1:], others, differences, strict=True):
    pictures, problems = _pairs(places[0], first, place, run, difference, overrides)
    shown.append(pictures)
    notes += problems
  path = folder / "comparison.html"
  if parallel.is_main():
    write_comparison(path, runs, differences, shown, list(dict.fromkeys(notes)))
  return path


def unique_names(places: Sequence[Place]) -> list[str]:
  """Names of folders: the last part of each path, and as many before it as make them differ."""
  parts = [pathlib.Path(place).absolute().parts for place in places]
  for number in range(1, max(map(len, parts)) + 1):
    names = ["/".join(x[-number:]) for x in parts]
    if len(set(names)) == len(names):
      break
  return names


def read_evaluation(place: Place) -> Run:
  """The latest evaluation of a work directory, whose checkpoint may be gone, or of a folder that
  `each_seed.evaluate` has written its results to.

  Raises:
    UserError: there is none, it is damaged, or of a version without per_image.csv.
  """
  place = pathlib.Path(place)
  is_origin = results.is_of_other_network(place)
  config = None if is_origin else settings.read_run(place)
  remedy = f"evaluate again: --mode=evaluate --workdir={place}"
  if is_origin:
    remedy = f"evaluate again: --mode=evaluate --model=... --output={place}"
  path = place / "evaluation.json"
  result = workdirs.read_json(path, remedy)
  if result is None and not place.is_dir():
    raise UserError(f"no folder {place}: correct the work directory")
  if result is None and (seeds := sorted(place.glob("seed_*/evaluation.json"))):
    raise UserError(f"{place} holds the runs of several seeds: give one, as {seeds[0].parent}")
  if result is None:
    raise UserError(f"{place} has no evaluation.json; {remedy}")
  check_evaluation(result, path, remedy)
  step, info = result["step"], None
  if config is None and (origin := results.read_origin(place, remedy)):
    step, config, info = origin
  if config is not None and info is None:
    settings.check_saved(config, place)
  config = config or settings.from_run({})
  if info is None or tuple(info.classes) != tuple(result["iou"]):
    info = _info(place, config, tuple(result["iou"]))
  images = per_image.read(place / "per_image.csv", info.classes, remedy)
  if images is None:
    raise UserError(f"{place} has no per_image.csv; {remedy}")
  counts = class_pixels(np.array(result["confusion"], np.int64))
  if not np.array_equal(counts, images.pixels.sum(0)):
    raise UserError(f"{path} and per_image.csv are of different evaluations; {remedy}")
  overrides, values = result.get("overrides", {}), settings.config_values(config)
  newer = {k for k in overrides if re.fullmatch(r"data\.\w+", k) and k not in values}
  config = schema.to_config(values | {name: overrides[name] for name in newer})
  config = settings.override(config, {k: x for k, x in overrides.items() if k not in newer})
  about = results.about(result["split"], step, result["num_images"], config, overrides)
  return Run(place.absolute().name, about, result, images, info, config)


def _info(place, config, classes):
  """The DatasetInfo of a run, as far as it is known without a checkpoint."""
  try:
    found = checkpoint.best_checkpoint(place)[1]["info"]
    info = None if packed.wrong_entries(found) else DatasetInfo(**found)
  except (UserError, OSError):
    info = None
  if info is None or tuple(info.classes) != classes:
    about = {"classes": classes, "palette": config.data.palette, "channels": config.data.channels}
    if packed.wrong_entries(json.loads(json.dumps(about))):  # as of a file
      about |= {"palette": default_palette(len(classes)), "channels": 3}
    return DatasetInfo(**about)
  return info


def predict_rows(
  place: Place, run: Run, rows: Sequence[int], overrides: Mapping[str, Any]
) -> Iterator[tuple[Mapping[str, Any], np.ndarray, np.ndarray]]:
  """Predicts images of an evaluation again: (example, labels u8[H,W], confidence u8[H,W]).

  Args:
    place: work directory.  rows: numbers of the images.  overrides: see `report`.
  Raises:
    UserError: the checkpoint or the data are not there any more, or are others.
  """
  step = run.result["step"]
  path = pathlib.Path(place) / "checkpoints" / str(step)
  if not path.is_dir():
    if results.is_of_other_network(place) or settings.read_run(place) is None:
      raise UserError(f"{place} holds no network")
    raise UserError(f"checkpoint {step} of {place} is not kept any more")
  noted = {"predict.temperature": run.config.predict.temperature or 1.0}
  with settings.own_entries(True):
    segmenter = load_run(path, {**noted, **overrides}, run.config)
  config, info = segmenter.config, segmenter.info
  with settings.config_errors(), read_as_trained(info.channels, info.value_range):
    _, source = build.open_split(config, "eval", value_range=info.value_range)
    if len(source) != len(run.images.names):
      raise UserError(f"{place} was evaluated on {len(run.images.names)} images, not {len(source)}")
    predictor = predictors.build_predictor(config, segmenter.model, info)
    examples = [source[i] for i in rows]
    if [example["name"] for example in examples] != [run.images.names[i] for i in rows]:
      raise UserError(f"{place} was evaluated on images of other names")
    for example, found in for_scores(predictor, segmenter.variables)(examples):
      found = found if isinstance(found, Tally) else tally_probs(example["mask"], found)
      yield example, found.labels(), found.confidence()


def _panels(place, run, rows, overrides):
  """({row: {panel: JPEG file}}, [why there are none])"""
  try:
    found = predict_rows(place, run, rows, overrides)
    return {row: draw_panels(*parts, run.info) for row, parts in zip(rows, found, strict=True)}, []
  except (UserError, OSError, MemoryError, jax.errors.JaxRuntimeError) as error:
    text = faults.describe(error)
    if not text and not isinstance(error, UserError | OSError):
      raise
    return {}, [f"No pictures: {settings.with_keys(text or str(error))}"]


def _pairs(place, first, other_place, other, difference, overrides):
  """The same of the images that changed most, by their numbers in the difference."""
  numbers = [i for part in changed_most(difference.gains()) for i in part]
  both, notes = [], []
  for where, run, rows in zip(
    (place, other_place), (first, other), difference.rows, strict=True
  ):
    panels, problems = _panels(where, run, [rows[i] for i in numbers], overrides)
    both.append(panels)
    notes += problems
  if notes:
    return {}, notes
  found = {}
  for i in numbers:
    one, two = (panels[rows[i]] for panels, rows in zip(both, difference.rows, strict=True))
    found[i] = {
      "input": one["input"],
      "truth": one["truth"],
      f"prediction, {first.name}": one["prediction"],
      f"prediction, {other.name}": two["prediction"],
      f"errors, {first.name}": one["errors"],
      f"errors, {other.name}": two["errors"],
    }
  return found, notes
