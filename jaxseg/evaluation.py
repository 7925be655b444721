"""Scores of a network on a whole split, at the native size of every mask."""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxseg import VOID, UserError
from jaxseg.data.datasets import connected_components
from jaxseg.instance_metrics import instance_scores
from jaxseg.metrics import bootstrap_intervals, boundary_f1, class_pixels, confusion_matrix, scores
from jaxseg.parallel import rows_of_processes, sum_over_processes
from jaxseg.predict import most_likely
from jaxseg.printing import printable
from jaxseg.tally import Tally
from jaxseg.together import agreed

INSTANCE_SCORES = ("v_rand", "v_info", "warping_error")
CLASS_SCORES = ("iou", "dice", "accuracy")
BOUNDARY_TOLERANCE = 0.0075  # of the image's diagonal, as in the SegNet paper


def score(
  predict: Callable,
  examples: Iterable[Mapping[str, Any]],
  classes: Sequence[str],
  *,
  instances: bool = False,
  boundaries: bool = False,
  sample_at: Collection[int] = (),
) -> tuple[dict[str, Any], list[tuple[np.ndarray, np.ndarray, np.ndarray]]]:
  """Runs every example once and scores the predictions.

  Args:
    predict: function of examples that yields (example, `Tally` or f32[H,W,C] probabilities); see
      `predict.for_scores`.
    examples: this process' share, dicts of "image" and "mask"; see `input_pipeline`.
    classes: names.
    instances: adds the means over images of INSTANCE_SCORES, see `instance_metrics`; the true
      instances are the example's, if it has any, or the connected components of its mask.
    boundaries: adds the mean over images of "boundary_f1", see `metrics`.
    sample_at: positions of the examples to return with their predictions.
  Returns:
    ({"loss", "pixel_accuracy", "mean_accuracy", "miou", "fw_iou": float, CLASS_SCORES: {class:
    float or None}, NAME_interval: [low, high] of each score that is one number, from two images
    on, "num_images": int, "confusion": C lists of C int}, the same in all processes; the loss
    is the mean cross-entropy per pixel; [(image u8[H,W,D], mask u8[H,W], prediction u8[H,W])] of
    this process)
  Raises:
    UserError: a probability that is not finite, no pixel with a label, or a label of a mask that is
      no class; in all processes, as is one that `examples` raises.
  """
  names = ["loss"]  # scores that are means over pixels or images
  names += INSTANCE_SCORES if instances else ()
  names += ("boundary_f1",) if boundaries else ()
  confusion = np.zeros((len(classes), len(classes)), np.int64)
  rows, samples = [], []  # a row holds an image's sums and their divisors
  with agreed():
    for i, (example, found) in enumerate(predict(checked(examples, len(classes)))):
      mask = example["mask"]
      if not isinstance(found, Tally):
        found = tally_probs(mask, found)
      counts = found.counts
      confusion += counts
      labels = found.labels() if instances or boundaries or i in sample_at else None
      values = score_instances(example, labels) if instances else []
      if boundaries:
        values.append(boundary_f1(mask, labels, BOUNDARY_TOLERANCE * math.hypot(*mask.shape)))
      parts = [found.loss, *np.nan_to_num(values)]
      wholes = [counts.sum(), *np.isfinite(values)]
      rows.append(np.concatenate([parts, wholes, *class_pixels(counts)]))
      if i in sample_at:
        samples.append((example["image"], mask, labels))
  cuts = np.cumsum([len(names)] * 2 + [len(classes)] * 3)
  rows = np.array(rows, np.float64).reshape(-1, cuts[-1])
  rows, confusion = rows_of_processes(rows), sum_over_processes(confusion)
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

  def scores_of(sums):
    parts, wholes, *pixels = np.split(sums, cuts[:-1], axis=-1)
    with np.errstate(invalid="ignore"):  # 0 / 0
      means = dict(zip(names, np.moveaxis(parts / wholes, -1, 0), strict=True))
    return means | scores(*pixels)

  result = {name: readable(value, classes) for name, value in scores_of(rows.sum(0)).items()}
  numbers = [name for name in result if name not in CLASS_SCORES]
  intervals = bootstrap_intervals(rows, lambda sums: {n: scores_of(sums)[n] for n in numbers})
  result |= {f"{name}_interval": interval for name, interval in intervals.items()}
  return {**result, "num_images": len(rows), "confusion": confusion.tolist()}, samples


def checked(examples: Iterable[Mapping[str, Any]], num_classes: int) -> Iterator[Mapping]:
  """The examples; raises UserError for a label of a mask that is no class."""
  for example in examples:
    pixels = np.bincount(example["mask"].ravel(), minlength=VOID)
    if wrong := np.flatnonzero(pixels[num_classes:VOID]).tolist():
      label = num_classes + wrong[0]
      raise UserError(f"a mask holds {label}, which is no label of {num_classes} classes")
    yield example


def tally_probs(mask: np.ndarray, probs: np.ndarray) -> Tally:
  """The Tally of one image.  u8[H,W], f32[H,W,C]"""
  labels = most_likely(probs)
  counts = confusion_matrix(mask, labels, probs.shape[-1])
  return Tally(counts, cross_entropy_sum(mask, probs), lambda: labels)


def cross_entropy_sum(mask: np.ndarray, probs: np.ndarray) -> float:
  """Cross-entropy summed over an image's labelled pixels; NaN if a probability is not finite."""
  if not np.isfinite(probs).all():
    return math.nan
  valid = mask != VOID
  truth = np.take_along_axis(probs[valid], mask[valid][:, None], axis=-1)
  return -np.log(np.maximum(truth, 1e-30)).sum(dtype=np.float64)


def score_instances(example: Mapping[str, Any], labels: np.ndarray) -> list[float]:
  """INSTANCE_SCORES of a prediction.  labels: u8[H,W]"""
  mask = example["mask"]
  truth = example["instances"] if "instances" in example else connected_components(mask)
  valid = mask != VOID
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
