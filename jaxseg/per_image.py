"""Scores of each image of an evaluation, as a table in a file."""

import csv
import dataclasses
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxseg import UserError, workdirs
from jaxseg.metrics import CLASS_SCORES, scores
from jaxseg.os_errors import check_is_damage

COUNTS = ("right", "true", "predicted")  # pixels of each class, as in docs/metrics.md


def single_scores(found: Mapping[Any, np.ndarray], classes: Sequence[str]) -> dict:
  """Scores whose last axis is that of classes as one for each: {..., ("iou", class): f64[...]}.

  Of the scores of classes, only the IoU.
  """
  iou = zip(classes, np.moveaxis(found["iou"], -1, 0), strict=True)
  single = {name: x for name, x in found.items() if name not in CLASS_SCORES}
  return single | {("iou", name): x for name, x in iou}


@dataclasses.dataclass(frozen=True)
class PerImage:
  """What an evaluation found for each of N images, in the order of the split.

  Attributes:
    names: of the images.  classes: names of the C classes.
    pixels: i64[N,3,C], for each class the pixels that are right, true and predicted.
    scores: {name: f64[N]}, NaN where an image has none: "loss", the mean cross-entropy per pixel,
      and what else was asked for.
  """

  names: Sequence[str]
  classes: Sequence[str]
  pixels: np.ndarray
  scores: dict[str, np.ndarray]

  def of_images(self) -> dict[str, np.ndarray]:
    """{"pixels", "pixel_accuracy", "miou", names of `scores`: f64[N]}; NaN where there is none.

    The mean IoU of an image is over the classes in its truth or prediction.
    """
    found = scores(*np.moveaxis(self.pixels, 1, 0))
    first = {name: found[name] for name in ("pixel_accuracy", "miou")}
    return {"pixels": self.pixels[:, 1].sum(-1), **first, **self.scores}

  def sums(self) -> np.ndarray:
    """What adds up over images: f64[N,2S+3C], for `totals`."""
    values = np.stack(list(self.scores.values()), axis=-1)
    weights = np.isfinite(values).astype(np.float64)
    weights[:, list(self.scores).index("loss")] *= self.pixels[:, 1].sum(-1)
    pixels = self.pixels.reshape(len(self.pixels), -1)
    return np.concatenate([np.nan_to_num(values) * weights, weights, pixels], axis=-1)

  def totals(self, sums: np.ndarray) -> dict[str, np.ndarray]:
    """Scores of a data set from the sum of `sums` over its images.

    Args:
      sums: f64[...,2S+3C]
    Returns:
      {names of `scores`: f64[...], the loss as mean over pixels, others as means over images that
      have one; and those of `metrics.scores`}
    """
    cuts = np.cumsum([len(self.scores)] * 2 + [len(self.classes)] * 2)
    parts, weights, *pixels = np.split(sums, cuts, axis=-1)
    with np.errstate(invalid="ignore"):  # 0 / 0
      means = np.moveaxis(parts / weights, -1, 0)
    return dict(zip(self.scores, means, strict=True)) | scores(*pixels)

  def iou(self) -> np.ndarray:
    """f64[N,C]; NaN for a class that is neither in truth nor prediction."""
    return scores(*np.moveaxis(self.pixels, 1, 0))["iou"]


def write(path: str | os.PathLike, table: PerImage) -> None:
  """Writes CSV, atomically: a row an image; an empty cell where an image has no such score.

  Columns are "image", the scores of `PerImage.of_images`, "iou CLASS", and then the pixels "right
  CLASS", "true CLASS", "predicted CLASS", from which all scores of pixels follow.
  """
  values = table.of_images()
  counts = [f"{kind} {name}" for kind in COUNTS for name in table.classes]
  text = io.StringIO(newline="")
  rows = csv.writer(text)  # CRLF, as RFC 4180 has it: else "\r" in a name would not be quoted
  rows.writerow(["image", *values, *(f"iou {name}" for name in table.classes), *counts])
  numbers = np.column_stack([*values.values(), table.iou()])
  for name, row, pixels in zip(table.names, numbers.tolist(), table.pixels, strict=True):
    cells = ["" if x != x else f"{x:.9g}" for x in row]
    rows.writerow([name, *cells, *pixels.ravel().tolist()])
  workdirs.write_file(path, text.getvalue().encode("utf-8", "surrogateescape"))


def read(path: str | os.PathLike, classes: Sequence[str], remedy: str) -> PerImage | None:
  """The table of `write`; None if there is no file.

  Args:
    classes: of the run, which name columns.
  Raises:
    UserError: it is damaged; names the remedy.
  """
  try:
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
      head, *rows = csv.reader(file)
    counts = [f"{kind} {name}" for kind in COUNTS for name in classes]
    first = len(head) - len(counts)
    if head[first:] != counts or head[:1] != ["image"] or any(len(x) != len(head) for x in rows):
      raise ValueError("other columns than its evaluation writes")
    pixels = np.array([row[first:] for row in rows], np.int64)
    pixels = pixels.reshape(-1, len(COUNTS), len(classes))
    if (pixels < 0).any():
      raise ValueError("a negative number of pixels")
    values = np.array([[x or "nan" for x in row[1:first]] for row in rows], np.float64)
    table = PerImage([row[0] for row in rows], tuple(classes), pixels, {})
    fixed = list(table.of_images())
    own = head[1 + len(fixed) : first - len(classes)]
    ious = [f"iou {name}" for name in classes]
    if head[1:first] != [*fixed, *own, *ious] or "loss" not in own or not rows:
      raise ValueError("other columns than its evaluation writes, or no row")
    return dataclasses.replace(
      table, scores={name: values[:, head.index(name) - 1] for name in own}
    )
  except FileNotFoundError:
    return None
  except (OSError, ValueError, IndexError, OverflowError, csv.Error) as error:
    check_is_damage(error, path)
    raise UserError(f"{path} is damaged ({error}): {remedy}") from error
