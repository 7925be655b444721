"""--mode=calibrate: the temperature at which probabilities are right as often as they say."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxseg import (
  VOID,
  UserError,
  build,
  packed,
  parallel,
  predictors,
  public,
  settings,
  workdirs,
)
from jaxseg.calibration import at_temperature, bins_of, calibration_error, fit_temperature
from jaxseg.data.encoded import read_as_trained
from jaxseg.data.input_pipeline import eval_examples
from jaxseg.evaluation import check_classes, checked, trained_on
from jaxseg.metrics import MIN_PROB
from jaxseg.notebook import progress, warn
from jaxseg.platforms import usual_rules
from jaxseg.segmenter import load_run
from jaxseg.tally import NUM_BINS

MAX_PIXELS = 4096  # of an image
MAX_VALUES = 2**25  # probabilities of all images


@workdirs.with_home("workdir")
@usual_rules()
def calibrate(
  workdir: str | pathlib.Path,
  overrides: Mapping[str, Any] | None = None,
  *,
  config: ConfigDict | None = None,
) -> dict[str, Any]:
  """`each_seed.calibrate` of one run, or of one of its checkpoints.

  The temperature is the one of least cross-entropy on up to MAX_PIXELS labelled pixels of each
  image, drawn at random; fewer if all together had more than MAX_VALUES probabilities. With several
  processes, the first one does it all.
  """
  packed.check_is_none(workdir, "calibrate the run, then pack it")
  public.check_is_none(workdir, "train from it by `init_from` and calibrate that run")
  saved = parallel.on_main(settings.read_saved, workdir)
  own = saved and settings.from_run(saved)
  if own is not None and own.predict.temperature:
    raise UserError(f"the config of {workdir} sets predict.temperature={own.predict.temperature}, "
                    "which comes before what would be found: train with 0")  # fmt: skip
  if (overrides or {}).get("predict.temperature"):
    raise UserError("config.predict.temperature is what calibrate finds: leave it out")
  overrides = {**(overrides or {}), "predict.temperature": 1.0}
  segmenter = load_run(workdir, overrides, config)
  config = segmenter.config
  changed = settings.changed(config, own).keys() - {"predict.temperature", "predict.tile"}
  others = ("predict.", "crf.", "train.precision")
  if other := [name for name in changed if name.startswith(others)]:
    raise UserError(f"a temperature is for the run's own predictions: leave config.{min(other)} as "
                    "it was")  # fmt: skip
  if config.data.num_folds and "data.eval_split" in overrides:
    raise UserError(build.unused_split(config))
  if own is not None and (text := trained_on(config.data, own.data)):
    warn(f"{text}: its temperature is too low")
  found = parallel.on_main(_fit, config, segmenter)
  found |= {"split": build.eval_name(config), "step": segmenter.step}
  if parallel.is_main():
    root = workdirs.run_of(workdir)
    others = workdirs.read_calibrations(root)
    workdirs.write_json(root / workdirs.CALIBRATION, {**others, str(segmenter.step): found})
  return found


def _fit(config, segmenter):
  info, rng = segmenter.info, np.random.default_rng(0)
  images, labels = [], []
  with settings.config_errors(), read_as_trained(info.channels, info.value_range):
    found, source = build.open_split(config, "eval", value_range=info.value_range)
    check_classes(found.classes, info.classes)
    if not len(source):
      raise UserError("there is no image to calibrate on; correct `eval_split`")
    predict = predictors.build_predictor(config, segmenter.model, info)
    most = min(MAX_PIXELS, max(1, MAX_VALUES // (len(source) * len(info.classes))))
    examples = eval_examples(source, num_threads=config.data.num_threads)
    predictions = predict(segmenter.variables, checked(examples, len(info.classes)))
    for example, probs in progress(predictions, total=len(source), desc="predicting", leave=False):
      chosen = np.flatnonzero(example["mask"] != VOID)
      if len(chosen) > most:
        chosen = rng.choice(chosen, most, replace=False)
      if len(chosen):
        probs = probs.reshape(-1, probs.shape[-1])[chosen]
        if not np.isfinite(probs).all():
          raise UserError("the network's output is not finite: calibrate another checkpoint")
        images.append(np.log(np.maximum(probs, MIN_PROB)))
        labels.append(example["mask"].ravel()[chosen])
    if not images:
      raise UserError("no pixel of the images has a label; correct `eval_split` or the masks")
  halves = [
    (np.concatenate(images[i::2]), np.concatenate(labels[i::2])) for i in range(min(2, len(images)))
  ]
  everything = tuple(np.concatenate(parts) for parts in zip(*halves, strict=True))
  result = {
    "temperature": round(fit_temperature(*everything), 4),
    "num_images": len(images),
    "num_pixels": len(everything[1]),
    "before": scores(*everything),
  }
  if len(halves) == 2:
    crossed = zip(halves, reversed(halves), strict=True)
    fitted = [at_temperature(x, fit_temperature(*other)) for (x, _), other in crossed]
    result["after"] = scores(np.concatenate(fitted), everything[1])
  return result


def scores(log_probs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
  """{"loss": mean cross-entropy, "ece"} of some pixels.  f32[N,C], [N]"""
  loss = -log_probs[np.arange(len(labels)), labels].mean(dtype=np.float64)
  ece = calibration_error(bins_of(np.exp(log_probs), labels, NUM_BINS))
  return {"loss": float(loss), "ece": float(ece)}


def describe(found: Mapping[str, Any]) -> list[str]:
  """The result of `calibrate` in lines."""
  lines = [
    f"temperature {found['temperature']:.4f}, fitted on {found['num_pixels']:,} pixels of "
    f"{found['num_images']:,} images of {found['split']}, step {found['step']}"
  ]
  if not 0.051 < found["temperature"] < 19.9:
    lines.append("it is at the end of what is tried: the network or its data may be wrong")
  for name in ("before", "after"):
    if name in found:
      loss, ece = found[name]["loss"], found[name]["ece"]
      lines.append(f"{name:6} cross-entropy {loss:.4f}, calibration error (ECE) {ece:.4f}")
  if "after" in found:
    lines[-1] += " (on images that were not used for their temperature)"
  return lines
