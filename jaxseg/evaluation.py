"""Scores of a network on a whole split, at the native size of every mask."""

import itertools
import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxseg import VOID, UserError
from jaxseg.calibration import bins_of, calibration_error
from jaxseg.data.datasets import connected_components
from jaxseg.data.source_checks import check_labels
from jaxseg.extremes import Extremes
from jaxseg.instance_metrics import instance_scores
from jaxseg.metrics import (
  CLASS_SCORES,
  MIN_PROB,
  bootstrap_intervals,
  boundary_f1,
  class_pixels,
  confusion_matrix,
  scores,
)
from jaxseg.parallel import rows_of_processes, sum_over_processes
from jaxseg.per_image import PerImage, single_scores
from jaxseg.predict import most_likely
from jaxseg.printing import printable
from jaxseg.surface_distances import surface_scores
from jaxseg.tally import NUM_BINS, Tally
from jaxseg.together import agreed, json_from_all

INSTANCE_SCORES = ("v_rand", "v_info", "warping_error")
LISTS = ("confusion", "reliability")  # of the result, not for the eye
BOUNDARY_TOLERANCE = 0.0075  # of the image's diagonal, as in the SegNet paper


def score(
  predict: Callable,
  examples: Iterable[Mapping[str, Any]],
  classes: Sequence[str],
  *,
  instances: bool = False,
  boundaries: bool = False,
  surface_tolerance: float | None = None,
  sample_at: Collection[int] = (),
  extremes: Extremes | None = None,
) -> tuple[dict[str, Any], list[tuple[np.ndarray, np.ndarray, np.ndarray]], PerImage]:
  """Runs every example once and scores the predictions.

  Args:
    predict: function of examples that yields (example, `Tally` or f32[H,W,C] probabilities); see
      `tally.for_scores`.
    examples: this process' share, dicts of "image" and "mask"; see `input_pipeline`.
    classes: names.
    instances: adds the means over images of INSTANCE_SCORES, see `instance_metrics`; the true
      instances are the example's, if it has any, or the connected components of its mask.
    boundaries: adds the mean over images of "boundary_f1", see `metrics`.
    surface_tolerance: px; adds the means over images of "hd95", "nsd", see `surface_distances`.
    sample_at: positions of the examples to return with their predictions.
    extremes: is given every image.
  Returns:
    ({"loss", "pixel_accuracy", "mean_accuracy", "miou", "fw_iou", "ece": float, CLASS_SCORES:
    {class: float or None}, NAME_interval: [low, high] of each score that is one number, and
    "iou_interval": {class: [low, high] or None}, from two images on, "num_images": int,
    "confusion": C lists of C int, "reliability": see `Tally.bins`}, the same in all processes; the
    loss is the mean cross-entropy per pixel; [(image u8[H,W,D], mask u8[H,W], prediction u8[H,W])]
    of this process; PerImage of all processes)
  Raises:
    UserError: a probability that is not finite, no pixel with a label, or a label of a mask that is
      no class; in all processes, as is one that `examples` raises.
  """
  names = ["loss"]  # scores that are means over pixels or images
  names += INSTANCE_SCORES if instances else ()
  names += ("boundary_f1",) if boundaries else ()
  names += () if surface_tolerance is None else ("hd95", "nsd")
  confusion = np.zeros((len(classes), len(classes)), np.int64)
  rows, samples, images = [], [], []  # a row holds what is summed over images
  with agreed():
    for i, (example, found) in enumerate(predict(checked(examples, len(classes)))):
      mask = example["mask"]
      if not isinstance(found, Tally):
        found = tally_probs(mask, found)
      confusion += found.counts
      pixels = class_pixels(found.counts)
      labels = found.labels() if len(names) > 1 or i in sample_at else None
      values = score_instances(example, labels) if instances else []
      if boundaries:
        values.append(boundary_f1(mask, labels, BOUNDARY_TOLERANCE * math.hypot(*mask.shape)))
      if surface_tolerance is not None:
        values += surface_scores(mask, labels, surface_tolerance)
      rows.append(np.concatenate([[found.loss], values, *pixels, found.bins.ravel()]))
      images.append(str(example.get("name", i)))
      if extremes:
        extremes.add(scores(*pixels)["miou"], example, found)
      if i in sample_at:
        samples.append((example["image"], mask, labels))
  cuts = np.cumsum([len(names), 3 * len(classes), 3 * NUM_BINS])
  rows = np.array(rows, np.float64).reshape(-1, cuts[-1])
  rows, confusion = rows_of_processes(rows), sum_over_processes(confusion)
  dealt = itertools.zip_longest(*json_from_all(images))  # round robin
  images = [name for part in dealt for name in part if name is not None]
  num_bad = np.isnan(rows[:, 0]).sum()
  if num_bad:
    raise UserError(
      f"the network's output is not finite for {num_bad} of {len(rows)} images; train again with "
      "a lower `learning_rate`"
    )
  if not confusion.any():
    raise UserError(
      f"no pixel of the {len(rows)} images has a label; correct `eval_split` or the masks"
    )
  values, pixels, bins, _ = np.split(rows, cuts, axis=-1)
  pixels = pixels.reshape(-1, 3, len(classes)).astype(np.int64)
  own = dict(zip(names, values.T, strict=True))
  with np.errstate(invalid="ignore"):  # 0 / 0
    own["loss"] = own["loss"] / pixels[:, 1].sum(-1)
  table = PerImage(images, tuple(classes), pixels, own)

  def scores_of(total):
    sums, bins = np.split(total, [-3 * NUM_BINS], axis=-1)
    ece = calibration_error(bins.reshape(*bins.shape[:-1], NUM_BINS, 3))
    return table.totals(sums) | {"ece": ece}

  sums = np.concatenate([table.sums(), bins], axis=-1)
  result = {name: readable(value, classes) for name, value in scores_of(sums.sum(0)).items()}
  intervals = bootstrap_intervals(sums, lambda total: single_scores(scores_of(total), classes))
  result |= {f"{name}_interval": x for name, x in intervals.items() if isinstance(name, str)}
  if intervals:
    result["iou_interval"] = {name: intervals.get(("iou", name)) for name in classes}
  bins = bins.sum(0).reshape(NUM_BINS, 3).tolist()
  result |= {"num_images": len(rows), "confusion": confusion.tolist(), "reliability": bins}
  return result, samples, table


def check_classes(data: Sequence[str], network: Sequence[str]) -> None:
  """Raises UserError unless the evaluation data have the classes of the network."""
  if tuple(data) != tuple(network):
    raise UserError(
      f"the evaluation data have the {len(data)} classes {', '.join(data)}, but the network was "
      f"trained on {', '.join(network)}: correct `classes`"
    )


def check_evaluation(found: Mapping[str, Any], path: object, remedy: str) -> None:
  """Raises UserError unless this, read from evaluation.json, is what an evaluation writes.

  Args:
    found: {"split", "step", "overrides" or not} and the result of `score`; an earlier version may
      lack some of its entries.  path: in the error, with the remedy.
  """
  classes = list(found["iou"]) if isinstance(found.get("iou"), dict) else []
  counts = found.get("confusion")
  square = [(type(row) is list and len(row)) for row in counts] if type(counts) is list else []

  def is_number(x):
    return type(x) is int and abs(x) < 2**53 or type(x) is float and math.isfinite(x)

  def is_pair(x):
    return type(x) is list and len(x) == 2 and all(map(is_number, x))

  def fits(name, x):
    if name in ("split", "overrides"):
      return isinstance(x, str if name == "split" else dict)
    if name in ("step", "num_images"):
      return type(x) is int and x >= (name == "num_images")
    if name in (*CLASS_SCORES, "iou_interval"):
      is_one = is_pair if name == "iou_interval" else is_number
      of_classes = isinstance(x, dict) and list(x) == classes
      return of_classes and all(y is None or is_one(y) for y in x.values())
    if name == "confusion":
      return square == [len(classes)] * len(classes) and all(
        type(n) is int and 0 <= n < 2**53 for row in x for n in row
      )
    if name == "reliability":
      return type(x) is list and len(x) == NUM_BINS and all(
        type(row) is list and len(row) == 3 and all(is_number(n) and n >= 0 for n in row)
        for row in x
      )
    if name.endswith("_interval"):
      return is_pair(x)
    return x is None or is_number(x)

  needed = ("split", "step", "num_images", "miou", "confusion", *CLASS_SCORES)
  wrong = [name for name in needed if name not in found]
  wrong += [name for name, x in found.items() if not fits(name, x)]
  if classes and not wrong:
    of_pixels = scores(*class_pixels(np.array(found["confusion"])))
    wrong += [
      name
      for name, x in of_pixels.items()
      if name in found and not _same(found[name], readable(x, classes))
    ]
  if wrong or not classes:
    what = wrong[0] if wrong else "iou"
    raise UserError(f"{path} is damaged ({what[:80]} is missing or wrong): {remedy}")


def _same(x, y):
  """Whether scores are equal to rounding: numbers or None, or those of classes."""
  if isinstance(x, dict):
    return all(_same(x[name], y[name]) for name in x)
  return x is y if None in (x, y) else math.isclose(x, y, abs_tol=1e-6)


def checked(examples: Iterable[Mapping[str, Any]], num_classes: int) -> Iterator[Mapping]:
  """The examples; raises UserError for a label of a mask that is no class."""
  for example in examples:
    check_labels(example, num_classes)
    yield example


def tally_probs(mask: np.ndarray, probs: np.ndarray) -> Tally:
  """The Tally of one image.  u8[H,W], f32[H,W,C]"""
  labels, valid = most_likely(probs), mask != VOID
  counts = confusion_matrix(mask, labels, probs.shape[-1])
  bins = bins_of(probs[valid], mask[valid], NUM_BINS)
  return Tally(
    counts,
    cross_entropy_sum(mask, probs),
    bins,
    labels=lambda: labels,
    confidence=lambda: np.round(255 * np.nan_to_num(probs.max(-1))).astype(np.uint8),
  )


def cross_entropy_sum(mask: np.ndarray, probs: np.ndarray) -> float:
  """Cross-entropy summed over an image's labelled pixels; NaN if a probability is not finite."""
  if not np.isfinite(probs).all():
    return math.nan
  valid = mask != VOID
  truth = np.take_along_axis(probs[valid], mask[valid][:, None], axis=-1)
  return -np.log(np.maximum(truth, MIN_PROB)).sum(dtype=np.float64)


def score_instances(example: Mapping[str, Any], labels: np.ndarray) -> list[float]:
  """INSTANCE_SCORES of a prediction.  labels: u8[H,W]"""
  mask = example["mask"]
  truth = example["instances"] if "instances" in example else connected_components(mask)
  valid = mask != VOID
  if not valid.any():
    return [math.nan] * len(INSTANCE_SCORES)
  found = instance_scores(truth, connected_components(np.where(valid, labels, 0)), valid)
  return [found[name] for name in INSTANCE_SCORES]


def readable(
  value: float | np.ndarray, classes: Sequence[str]
) -> float | dict[str, float | None] | None:
  """A score for JSON: a number or {class: number}, None for NaN."""
  if np.ndim(value):
    return {name: readable(x, ()) for name, x in zip(classes, value, strict=True)}
  return None if np.isnan(value) else float(value)


def score_table(result: Mapping[str, Any]) -> str:
  """The result of `score` as a text table: scores of each class, then those that are one number."""
  pixels = np.sum(result["confusion"], axis=1)
  heads, names = ("IoU", "Dice", "accuracy", "pixels"), [printable(name) for name in result["iou"]]
  width = max(map(len, (*names, "class")))
  lines = [f"{'class':{width}}" + "".join(f"{head:>10}" for head in heads)]
  for name, key, share in zip(names, result["iou"], pixels / pixels.sum(), strict=True):
    values = [result[score][key] for score in CLASS_SCORES]
    cells = ["-" if value is None else f"{value:.4f}" for value in values]
    lines.append(f"{name:{width}}" + "".join(f"{cell:>10}" for cell in [*cells, f"{share:.2%}"]))
  lines.append("")
  for name, value in result.items():
    if isinstance(value, float):
      interval = result.get(f"{name}_interval")
      sure = "  95% interval {:.4f} to {:.4f}".format(*interval) if interval else ""
      lines.append(f"{name:14} {value:.4f}{sure}")
  return "\n".join([*lines, f"{'num_images':14} {result['num_images']}"])


def trained_on(data: ConfigDict, own: ConfigDict) -> str:
  """That a run was trained on what is scored; "" if it was not.

  Args:
    data: config.data of now.  own: that of the run.
  """
  scored = data.train_split if data.num_folds else data.eval_split
  is_own_fold = data.num_folds and (data.num_folds, data.fold) == (own.num_folds, own.fold)
  keys = ("name", "source", "images", "masks", "split_file")
  places = [
    (os.path.abspath(os.path.expanduser(x.data_dir)), *map(x.get, keys)) for x in (data, own)
  ]
  if places[0] != places[1] or scored != own.train_split or is_own_fold:
    return ""
  part = "most of " if own.num_folds and own.num_folds != data.num_folds else ""
  return f"this run was trained on {part}these images"
