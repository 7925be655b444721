"""What differs between evaluations of two runs, on the images that both have."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxseg import UserError
from jaxseg.data.decode import DatasetInfo
from jaxseg.metrics import bootstrap_intervals
from jaxseg.per_image import PerImage, single_scores
from jaxseg.report_page import title_of

MIN_IMAGES = 8  # for intervals, which say too much of fewer
NUM_CHANGED = 6  # images in pictures, of those that got better and of those that got worse
LOWER_IS_BETTER = ("loss", "warping_error", "hd95")


@dataclasses.dataclass(frozen=True)
class Run:
  """A run's latest evaluation.

  Attributes:
    name: to show.  about: see `results.about`.
    result: of evaluation.json.  images: of per_image.csv.  info: of the network.
    config: of the evaluation.
  """

  name: str
  about: str
  result: Mapping[str, Any]
  images: PerImage
  info: DatasetInfo
  config: ConfigDict


@dataclasses.dataclass(frozen=True)
class Difference:
  """A second run against a first one, on the images that both have.

  Attributes:
    first, second: their tables, with the same images in the same order.
    rows: (of the first, of the second), numbers of these images in the tables of the runs.
    scores: {name, or ("iou", class): (first, second, difference, [low, high] or None)}; intervals
      are 95% bootstrap intervals of the difference, of images drawn for both at once. There are
      none of fewer than MIN_IMAGES.
    notes: what makes them less comparable.
  """

  first: PerImage
  second: PerImage
  rows: tuple[list[int], list[int]]
  scores: Mapping[Any, tuple]
  notes: Sequence[str]

  def gains(self) -> np.ndarray:
    """Mean IoU of each image, second minus first; NaN where one has none.  f64[N]"""
    first, second = (x.of_images()["miou"] for x in (self.first, self.second))
    return second - first


def compare(first: Run, second: Run) -> Difference:
  """Raises UserError if the runs have other classes, or no image in common."""
  if tuple(first.images.classes) != tuple(second.images.classes):
    raise UserError(
      f"{first.name} and {second.name} have other classes ({', '.join(first.images.classes)}; "
      f"{', '.join(second.images.classes)}): compare runs of the same classes"
    )
  keys = [_occurrences(run.images.names) for run in (first, second)]
  places = {key: i for i, key in enumerate(keys[1])}
  pairs = [(i, places[key]) for i, key in enumerate(keys[0]) if key in places]
  if not pairs:
    raise UserError(
      f"{first.name} ({first.result['split']}) and {second.name} ({second.result['split']}) were "
      "evaluated on no image of the same name: evaluate both on the same split"
    )
  rows = tuple(map(list, zip(*pairs, strict=True)))
  one, two = (_taken(run.images, part) for run, part in zip((first, second), rows, strict=True))
  notes = [
    f"{alone:,} images are in {run.name} alone and left out here."
    for run in (first, second)
    if (alone := len(run.images.names) - len(pairs))
  ]
  if changed := int((one.pixels[:, 1] != two.pixels[:, 1]).any(axis=-1).sum()):
    notes.append(
      f"The truth of {changed:,} of these images is not the same in both runs: their scores do not "
      "compare."
    )
  shared = [name for name in one.scores if name in two.scores]
  for run, own, other in (first, one, two), (second, two, one):
    if alone := [title_of(name) for name in own.scores if name not in other.scores]:
      notes.append(f"{', '.join(alone)} is in {run.name} alone and left out here.")
  tolerances = [run.config.eval.surface_tolerance for run in (first, second)]
  if "nsd" in shared and tolerances[0] != tolerances[1]:
    shared.remove("nsd")
    notes.append(
      f"{title_of('nsd')} is left out: its tolerance is {tolerances[0]:g} px in {first.name} and "
      f"{tolerances[1]:g} px in {second.name}."
    )
  one, two = (
    dataclasses.replace(x, scores={name: x.scores[name] for name in shared}) for x in (one, two)
  )
  return Difference(one, two, rows, _differences(one, two), notes)


def _occurrences(names):
  """[(name, how often it came before)]"""
  seen = collections.Counter()
  keys = []
  for name in names:
    keys.append((name, seen[name]))
    seen[name] += 1
  return keys


def _taken(images, rows):
  scores = {name: x[rows] for name, x in images.scores.items()}
  names = [images.names[i] for i in rows]
  return dataclasses.replace(images, names=names, pixels=images.pixels[rows], scores=scores)


def _differences(first, second):
  """`Difference.scores`."""

  def both(sums):
    return [_flat(x, part) for x, part in zip((first, second), np.split(sums, 2, -1), strict=True)]

  def gains(sums):
    one, two = both(sums)
    return {name: two[name] - one[name] for name in one}

  sums = np.concatenate([first.sums(), second.sums()], axis=-1)
  intervals = bootstrap_intervals(sums, gains) if len(sums) >= MIN_IMAGES else {}
  one, two = both(sums.sum(0))
  return {name: (one[name], two[name], two[name] - one[name], intervals.get(name)) for name in one}


def _flat(images, sums):
  return single_scores(images.totals(sums), images.classes)


def verdict(name: str, interval: Sequence[float] | None) -> str:
  """ "better" or "worse" if the whole interval of a difference is on one side of 0, else ""."""
  if interval is None or interval[0] <= 0 <= interval[1]:
    return ""
  return "better" if (interval[0] > 0) != (name in LOWER_IS_BETTER) else "worse"


def changed_most(gains: np.ndarray) -> tuple[list[int], list[int]]:
  """Numbers of the images that gained most, the most first, and of those that lost most."""
  order = [int(i) for i in np.argsort(gains, kind="stable") if np.isfinite(gains[i])]
  lost = [i for i in order[:NUM_CHANGED] if gains[i] < 0]
  return [i for i in order[: -NUM_CHANGED - 1 : -1] if gains[i] > 0], lost
