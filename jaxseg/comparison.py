"""What differs between evaluations of several runs on the same images: one page of HTML."""

import os
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from jaxseg.differences import MIN_IMAGES, Difference, Run, changed_most, verdict
from jaxseg.html_page import Budget, class_name, drawing, escape, figures, ink
from jaxseg.report_page import MAX_ROWS, legend, number, panels, table, title_of, write_sections
from jaxseg.schema import flatten


def write_comparison(
  path: str | os.PathLike,
  runs: Sequence[Run],
  differences: Sequence[Difference],
  shown: Sequence[Mapping[int, Mapping[str, bytes]]],
  notes: Sequence[str] = (),
) -> None:
  """Writes the page.

  Args:
    runs: the first is what the others are compared with.
    differences: of `compare`, one for each of the others.
    shown: for each of these, {image of `changed_most`: {panel: JPEG file}}.
    notes: lines about the pictures.
  """
  first, *others = runs
  title = " against ".join([", ".join(run.name for run in others), first.name])
  sections = {"Runs": _runs(runs)}
  budget, colors = Budget(), dict(zip(first.info.classes, first.info.palette, strict=True))
  for run, difference, pictures in zip(others, differences, shown, strict=True):
    at = f" of {run.name}" if len(others) > 1 else ""
    better, worse = changed_most(difference.gains())
    sections |= {
      f"Scores{at}": _scores(first, run, difference),
      f"Classes{at}": _classes(first, run, difference, colors),
      f"Images{at}": _images(first, run, difference),
      f"Better images{at}": _pictures(better, difference, pictures, colors, budget),
      f"Worse images{at}": _pictures(worse, difference, pictures, colors, budget),
    }
  sections["Configs"] = _configs(runs)
  about = [f"{run.name}: {run.about}." for run in runs]
  write_sections(path, title, [*about, *notes], sections)


def _runs(runs):
  names = [name for name in ("miou", "pixel_accuracy", "ece") if name in runs[0].result]
  rows = []
  for run in runs:
    cells = [escape(run.name), f"{run.result['num_images']:,}"]
    for name in names:
      interval = run.result.get(f"{name}_interval")
      sure = f" ({' to '.join(number(name, x) for x in interval)})" if interval else ""
      cells.append(f"{number(name, run.result.get(name))}{sure}")
    rows.append(cells)
  yield from table(["run", "images", *map(title_of, names)], rows, "Runs")


def _scores(first, run, difference):
  for note in difference.notes:
    yield f'<p class="warning"><span class="tag">Note:</span> {escape(note)}</p>'
  names = [name for name in difference.scores if isinstance(name, str)]
  yield f"<p>On {len(difference.first.names):,} images that both have.</p>"
  rows = ([escape(title_of(n)), *_cells(n, difference.scores[n])] for n in names)
  yield from table(_heads("score", first, run), rows, "Differences of scores")
  if len(difference.first.names) < MIN_IMAGES:
    yield f'<p class="warning">Of fewer than {MIN_IMAGES} images there is no verdict.</p>'
  yield (
    '<p class="dim">Images are drawn for both runs at once (paired bootstrap). Better and worse '
    "are said where the whole interval is on one side of 0; of many classes, one in twenty is so "
    "by chance. Whether another seed of training would change this is not in the intervals.</p>"
  )


def _heads(what, first, run):
  return [what, first.name, run.name, "difference", "95% interval", "verdict"]


def _cells(name, values):
  kind = name if isinstance(name, str) else name[0]
  one, two, gain, interval = values
  texts = [number(kind, float(one)), number(kind, float(two)), _signed(gain)]
  word = verdict(kind, interval)
  between = f"{_signed(interval[0])} to {_signed(interval[1])}" if interval else "-"
  return [*texts, between, f'<span class="{word}">{word}</span>' if word else "-"]


def _signed(x):
  return "-" if x != x else f"{x:+.4f}"


def _classes(first, run, difference, colors):
  rows = (
    [class_name(name, colors[name]), *_cells(("iou", name), difference.scores["iou", name])]
    for name in difference.first.classes
  )
  yield from table(_heads("class: IoU", first, run), rows, "Differences of classes")


def _images(first, run, difference):
  gains = difference.gains()
  better, worse = int((gains > 0).sum()), int((gains < 0).sum())
  yield (
    f"<p>Mean IoU of the image: {better:,} better, {worse:,} worse, "
    f"{int((gains == 0).sum()):,} the same.</p>"
  )
  if better or worse:
    with ink():
      label = f"Gain in mean IoU of each image, {first.name} to {run.name}"
      yield drawing(draw_gains(gains[np.isfinite(gains)]), label)
  one, two = (x.of_images()["miou"] for x in (difference.first, difference.second))
  order = np.argsort(-np.abs(np.nan_to_num(gains)), kind="stable")[:MAX_ROWS]
  if len(order) < len(gains):
    yield f"<p>The {len(order):,} that changed most, of {len(gains):,}.</p>"
  rows = (
    [
      escape(difference.first.names[i]), number("miou", one[i]), number("miou", two[i]),
      _signed(gains[i]),
    ]
    for i in order
  )  # fmt: skip
  heads = ["image: mean IoU", first.name, run.name, "difference"]
  yield from table(heads, rows, "Differences of images")


def draw_gains(gains: np.ndarray) -> Figure:
  """Bars of the differences of images, sorted.  f64[N]"""
  figure = Figure(figsize=(8, 2.6), layout="constrained")
  axis = figure.subplots()
  gains = np.sort(gains)
  x = np.arange(len(gains))
  for some, color in ((gains < 0, "#d62728"), (gains >= 0, "#2ca02c")):
    axis.bar(x[some], gains[some], width=1.0, color=color)
  axis.axhline(0, color="gray", linewidth=0.8)
  axis.set(xlabel="images, sorted", ylabel="gain in mean IoU", xticks=[])
  axis.grid(alpha=0.3, axis="y")
  return figure


def _pictures(numbers, difference, shown, colors, budget):
  numbers = [i for i in numbers if i in shown]
  if numbers:
    yield legend(difference.first, numbers, colors)
  images, gains = difference.first, difference.gains()
  before, after = (x.of_images()["miou"] for x in (difference.first, difference.second))
  yield from figures(
    panels(
      shown[i],
      images.names[i],
      f"mean IoU {before[i]:.3f} to {after[i]:.3f} ({_signed(gains[i])})",
      budget,
    )
    for i in numbers
  )


def _configs(runs):
  configs = [flatten(run.config.to_dict()) for run in runs]
  keys = [
    key
    for key in dict.fromkeys(key for config in configs for key in config)
    if len({repr(config.get(key)) for config in configs}) > 1
  ]
  if not keys:
    yield "<p>All have the same config.</p>"
    return
  rows = (
    [f"<code>{escape(x)}</code>" for x in (key, *(config.get(key, "-") for config in configs))]
    for key in keys
  )
  heads = ["key", *(run.name for run in runs)]
  yield from table(heads, rows, "Keys that differ", num_texts=len(heads))
