"""What evaluates a trained network and sums up one; see `prediction` and `exporting`."""

import collections.abc
import dataclasses
import functools
import pathlib
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxseg import (
  UserError,
  build,
  faults,
  models,
  packed,
  parallel,
  predictors,
  public,
  results,
  settings,
  workdirs,
)
from jaxseg.data import datasets
from jaxseg.data.decode import DatasetInfo, to_picture
from jaxseg.data.encoded import read_as_trained
from jaxseg.data.input_pipeline import eval_examples
from jaxseg.data.levels import depth_notes
from jaxseg.data.source_checks import with_checks
from jaxseg.evaluation import check_classes, score, trained_on
from jaxseg.extremes import Extremes, draw_panels, ends
from jaxseg.notebook import progress, warn
from jaxseg.platforms import usual_rules
from jaxseg.predict import no_progress
from jaxseg.report_page import Evaluation
from jaxseg.segmenter import load_run
from jaxseg.tally import for_scores
from jaxseg.together import agreed


def evaluate_split(
  predict: collections.abc.Callable,
  source: collections.abc.Sequence,
  info: DatasetInfo,
  config: ConfigDict,
  bar: collections.abc.Callable = no_progress,
) -> Evaluation:
  """Evaluates this process' share of a source; see `evaluation.score`.  bar: see `tqdm`"""
  process = number, count = parallel.this_process()
  share = len(range(number, len(source), count))
  wanted = min(config.eval.num_samples, share)
  extremes = Extremes(functools.partial(draw_panels, info=info))
  result, samples, images = score(
    predict,
    bar(
      eval_examples(source, process=process, num_threads=config.data.num_threads),
      total=share, desc="evaluating", unit="image", leave=False,
    ),
    info.classes,
    instances=config.eval.instances,
    boundaries=config.eval.boundary_f1,
    surface_tolerance=config.eval.surface_tolerance if config.eval.surface_distances else None,
    sample_at={i * share // wanted for i in range(wanted)},
    extremes=extremes,
  )
  samples = [(to_picture(image, info), *labels) for image, *labels in samples]
  shown = extremes.of_all({i for part in ends(images.of_images()["miou"]) for i in part})
  return Evaluation(result, images, samples, shown)


@workdirs.with_home("workdir", "output")
@usual_rules()
def evaluate(
  workdir: str | pathlib.Path,
  overrides: collections.abc.Mapping[str, Any] | None = None,
  *,
  config: ConfigDict | None = None,
  output: str | pathlib.Path | None = None,
) -> dict:
  """`each_seed.evaluate` of one run, of one of its checkpoints, or of a published network."""
  if config is None and public.is_published(workdir) and "data.name" not in (overrides or {}):
    public.check_source(workdir)
    raise UserError(f"{workdir} knows no data: pass `config`, whose config.data is scored")
  segmenter = load_run(workdir, overrides or {}, config)
  if output:
    with agreed(output):
      _check_output(output, workdir)
  is_public = public.is_published(workdir)
  is_run = not is_public and not packed.is_packed(workdir)
  saved = None if is_public else parallel.on_main(settings.read_saved, workdir)
  own = saved and settings.from_run(saved)
  if is_run and own and (text := trained_on(segmenter.config.data, own.data)):
    warn(f"{text}: its scores are too good")
  with settings.config_errors():
    config = segmenter.config
    info = segmenter.info
    if config.data.num_folds and "data.eval_split" in (overrides or {}):
      raise UserError(build.unused_split(config))
    with agreed():
      found, source = build.open_split(config, "eval", value_range=info.value_range)
      if not public.has_names(info) and len(found.classes) == len(info.classes):
        info = dataclasses.replace(info, classes=found.classes, palette=found.palette)
      check_classes(found.classes, info.classes)
      if found.channels != info.channels:
        raise UserError(
          f"the images of the {config.data.eval_split} split have {found.channels} "
          f"channel{'s' * (found.channels > 1)}, but this network takes {info.channels}: correct "
          "config.data"
        )
      source = with_checks(source, found)
      first = source[0]["image"] if len(source) else np.zeros(1, np.uint8)
      for note in depth_notes(first.dtype, first.max(initial=0), info):
        warn(f"the first image of the {build.eval_name(config)} split: {note}")
    with read_as_trained(info.channels, info.value_range):
      predict = predictors.build_predictor(config, segmenter.model, info)
      predict = for_scores(predict, segmenter.variables)
      evaluation = evaluate_split(predict, source, info, config, progress)
  split, step = build.eval_name(config), segmenter.step
  folder = output or (workdirs.run_of(workdir) if is_run else None)
  if not folder and not is_public:
    warn(f"{workdir} is packed and stays as it is: its evaluation.json does not have these scores")
  changed = settings.changed(config, own) if own else {}
  noted = ("data.", "predict.", "crf.", "train.precision")
  noted += ("eval.surface_tolerance",) if config.eval.surface_distances else ()
  if not is_run:
    changed.pop("data.data_dir", None)  # a packed network knows none
  overrides = {k: x for k, x in changed.items() if k.startswith(noted)}
  if parallel.is_main() and folder:
    line = results.about(split, step, evaluation.result["num_images"], config, overrides)
    with faults.by_the_way(f"the scores are not in {output or 'the work directory'}"):
      results.write(folder, split, step or 0, info, evaluation, overrides)
      if output and not workdirs.has_checkpoint(output):
        results.write_origin(output, step, config, info)
      results.write_page(folder, line, info, evaluation, config)
  given = {"overrides": overrides} if overrides else {}
  return {"split": split, "step": step, **given, **evaluation.result}


def _check_output(folder, workdir):
  """Raises UserError for a folder that is not for the scores of this evaluation."""
  packed.check_is_none(folder, "give another --output")
  place, own = pathlib.Path(folder).resolve(), workdirs.run_of(workdir).resolve()
  for run in (place, *place.parents):
    if (run / "config.json").is_file() and (run == place or workdirs.has_checkpoint(run)):
      if run != own or place.is_relative_to(run / "checkpoints"):
        raise UserError(f"{folder} is part of the run {run}, which stays as it is: give another "
                        "--output")  # fmt: skip
      break
  workdirs.make_folder(folder, "--output")


@usual_rules()
def summarize(config: ConfigDict) -> str:
  """A table of a network's modules with their parameters, and its cost on this machine's devices.

  The cost is the operations and memory of one image's forward pass as XLA counts them, see
  `models.summary`.
  """
  with settings.config_errors():
    data = {key: value for key, value in config.data.items() if key != "name"}
    info = datasets.describe(config.data.name, config.data.train_split, **data)
    model, size = build.build_model(config, info), config.data.image_size
    models.check_input(model, info.channels, size)
    variables = models.abstract_variables(model, info.channels)
    cost = models.summary(model, variables, info.channels, size)
  rows = [(name, models.num_parameters({"params": x})) for name, x in variables["params"].items()]
  width = max(len(name) for name, _ in rows)
  lines = [f"{name:{width}} {number:13,}" for name, number in rows]
  memory = cost["memory_bytes"]
  needed = f"{memory / 2**20:.1f} MiB" if memory else "unknown on this device"
  return "\n".join([
    *lines,
    "",
    build.network_line(config, model, info, cost),
    f"memory of that pass: {needed} (of prediction; a training step needs more)",
  ])  # fmt: skip
