"""The report of several seeds of one config: means, spreads and curves on one page of HTML."""

import os
import pathlib
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

from jaxseg import workdirs
from jaxseg.charts import draw_seeds
from jaxseg.html_page import class_name, drawing, escape, ink
from jaxseg.metrics import CLASS_SCORES
from jaxseg.report_page import number, table, title_of, write_sections


def write_seeds_page(
  path: str | os.PathLike,
  title: str,
  about: str,
  summary: Mapping[str, Any],
  folders: Mapping[int, str | os.PathLike],
  palette: Sequence[Sequence[int]],
) -> None:
  """Writes the page, which links those of the seeds.

  Args:
    title, about: of what: a headline and a line below it.
    summary: of `seed_scores.summarize`.  folders: {seed: its work directory}.
    palette: an (R, G, B) of 0..255 per class.
  """
  lines = [
    f"{len(folders)} seeds of {about}.",
    "std: the standard deviation over the seeds (n - 1).",
  ]
  sections = {
    "Scores": _scores(summary),
    "Classes": _classes(summary, palette),
    "Curves": _curves(folders),
    "Seeds": _links(pathlib.Path(path).absolute().parent, folders),
  }
  write_sections(path, title, lines, sections)


def scores_of(summary: Mapping[str, Any]) -> dict[str, Any]:
  """The scores of a `seed_scores.summarize`, without what they are of."""
  return {k: x for k, x in summary.items() if isinstance(x, Mapping) and k != "options"}


def _scores(summary):
  steps = ["step", "-", "-", *(f"{step:,}" for step in summary["steps"])]
  rows = (
    [escape(title_of(name)), *_cells(name, value)]
    for name, value in scores_of(summary).items()
    if name not in CLASS_SCORES
  )
  rows = [*rows, steps]
  yield from table(["score", *_heads(summary)], rows, "Scores of the seeds")


def _classes(summary, palette):
  colors = dict(zip(summary["iou"], palette, strict=True))
  rows = (
    [class_name(name, colors[name]), *_cells("iou", value)]
    for name, value in summary["iou"].items()
  )
  yield from table(["class: IoU", *_heads(summary)], rows, "IoU of classes")


def _heads(summary):
  return ["mean", "std", *(f"seed {seed}" for seed in summary["seeds"])]


def _cells(name, value):
  return [number(name, x) for x in (value["mean"], value["std"], *value["values"])]


def _curves(folders):
  metrics = {seed: workdirs.read_metrics(folder) for seed, folder in folders.items()}
  if any(metrics.values()):
    yield '<p class="dim">During training, with the options of the runs.</p>'
    yield '<div class="figures">'
    with ink():
      for name, label in (("loss", "loss of training"), ("miou", "mean IoU")):
        yield drawing(draw_seeds(metrics, name, label), f"{label} over the epochs, by seed")
    yield "</div>"


def _links(start, folders):
  yield "<ul>"
  for seed, folder in folders.items():
    report = pathlib.Path(folder).absolute() / "plots" / "report.html"
    text = f"seed {seed}"
    if report.exists():
      address = urllib.parse.quote(pathlib.Path(os.path.relpath(report, start)).as_posix())
      text = f'<a href="{escape(address)}">{text}</a>: its report, with its worst images'
    yield f"<li>{text}</li>"
  yield "</ul>"
