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
  summary: Mapping[str, Any],
  folders: Mapping[int, str | os.PathLike],
  palette: Sequence[Sequence[int]],
) -> None:
  """Writes the page, which links those of the seeds.

  Args:
    summary: of `seed_scores.summarize`.  folders: {seed: its work directory}.
    palette: an (R, G, B) of 0..255 per class.
  """
  steps = ", ".join(f"{step:,}" for step in dict.fromkeys(summary["steps"]))
  about = (
    f"Seeds {', '.join(map(str, folders))}, step {steps}, evaluated on {summary['split']}. ± is "
    "the standard deviation over the seeds (n - 1)."
  )
  sections = {
    "Scores": _scores(summary),
    "Classes": _classes(summary, palette),
    "Curves": _curves(folders),
    "Seeds": _links(pathlib.Path(path).absolute().parent, folders),
  }
  write_sections(path, title, [about], sections)


def _scores(summary):
  rows = (
    [escape(title_of(name)), *_cells(name, value)]
    for name, value in summary.items()
    if isinstance(value, Mapping) and name not in CLASS_SCORES
  )
  yield from table(["score", *_heads(summary)], rows, "Scores of the seeds")


def _classes(summary, palette):
  colors = dict(zip(summary["iou"], palette, strict=True))
  rows = (
    [class_name(name, colors[name]), *_cells("iou", value)]
    for name, value in summary["iou"].items()
  )
  yield from table(["class: IoU", *_heads(summary)], rows, "IoU of classes")


def _heads(summary):
  return ["mean", "±", *(f"seed {seed}" for seed in summary["seeds"])]


def _cells(name, value):
  return [number(name, x) for x in (value["mean"], value["std"], *value["values"])]


def _curves(folders):
  metrics = {seed: workdirs.read_metrics(folder) for seed, folder in folders.items()}
  if any(metrics.values()):
    with ink():
      yield drawing(draw_seeds(metrics), "Loss and mean IoU over the epochs, by seed")


def _links(start, folders):
  yield "<ul>"
  for seed, folder in folders.items():
    report = pathlib.Path(folder).absolute() / "plots" / "report.html"
    text = f"seed {seed}: {escape(report.parent.parent.name)}"
    if report.exists():
      address = urllib.parse.quote(pathlib.Path(os.path.relpath(report, start)).as_posix())
      text = f'<a href="{escape(address)}">{text}</a>, report with its worst images'
    yield f"<li>{text}</li>"
  yield "</ul>"
