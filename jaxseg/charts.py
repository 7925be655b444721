"""Curves of training, as matplotlib figures made without pyplot."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxseg.printing import printable

MAX_SEEDS = 8  # in colours of their own


def plain(name: str) -> str:
  """A name as matplotlib takes it: what is between two $ is no formula."""
  return printable(name).replace("$", r"\$")


def draw_curves(metrics: Sequence[dict]) -> Figure:
  """The loss, and pixel accuracy with mean IoU, over epochs; parts of a loss are dashed.

  Args:
    metrics: lines of metrics.jsonl.
  """
  figure = Figure(figsize=(9, 3.5), layout="constrained")
  left, right = figure.subplots(1, 2)
  series = {
    split: [line for line in metrics if line["split"] == split]
    for split in dict.fromkeys(line["split"] for line in metrics)
  }
  for split, lines in series.items():
    epochs, is_train = [x["epoch"] for x in lines], split == "train"
    split = plain(split)
    style = {"label": split} if is_train else {"label": f"cross-entropy, {split}", "marker": "o"}
    if len(lines) == 1:  # no line
      style["marker"] = "o"
    left.plot(epochs, [x["loss"] for x in lines], **style)
    for name in (name for name in lines[0] if name.startswith("loss/")):
      label = f"{name[5:].replace('_', '-')}, {split}"
      left.plot(epochs, [x.get(name, np.nan) for x in lines], "--", linewidth=1, label=label)
    for name, label in (("pixel_accuracy", "pixel accuracy"), ("miou", "mean IoU")):
      points = [(x["epoch"], x[name]) for x in lines if name in x]
      if points:
        right.plot(*zip(*points, strict=True), marker="o", label=f"{label}, {split}")
  left.set(xlabel="epoch", ylabel="loss")
  use_log_scale(left)
  right.set(xlabel="epoch", ylim=(None, 1.0))
  for axis in (left, right):
    axis.set_xlim(0)
    axis.grid(alpha=0.3, which="both")
    if axis.lines:
      axis.legend()
  return figure


def draw_seeds(metrics: Mapping[int, Sequence[Mapping[str, Any]]], name: str, label: str) -> Figure:
  """The loss of training, or a score of evaluations, over epochs, with a line for each seed.

  Args:
    metrics: {seed: lines of metrics.jsonl}.  name: "loss", or of a score.  label: in words.
  """
  figure, is_loss = Figure(figsize=(5, 3.5), layout="constrained"), name == "loss"
  axis = figure.subplots()
  many = {"color": "tab:blue", "alpha": 0.5, "linewidth": 0.8} if len(metrics) > MAX_SEEDS else {}
  for seed, lines in metrics.items():
    chosen = [
      x for x in lines if x.get(name) is not None and (x["split"] == "train" or not is_loss)
    ]
    marker = None if is_loss and len(chosen) > 1 else "o"
    points = [x["epoch"] for x in chosen], [x[name] for x in chosen]
    axis.plot(*points, marker=marker, markersize=4, label=f"seed {seed}", **many)
  axis.set(xlabel="epoch", ylabel=label)
  if is_loss:
    use_log_scale(axis)
  axis.set_xlim(0)
  axis.grid(alpha=0.3, which="both")
  if not many:
    axis.legend()
  return figure


def use_log_scale(axis: Axes) -> None:
  """Makes the y axis of what is drawn logarithmic, with plain numbers that do not overlap."""
  if axis.dataLim.ymax <= 0:  # a logarithm shows none of these values
    return
  axis.set_yscale("log")
  axis.yaxis.set_major_formatter("{x:g}")
  low, high = axis.get_ylim()
  unlabelled = "79" if high > 5 * low else ""  # 0.7 and 0.9 would overlap their neighbours
  axis.yaxis.set_minor_formatter(lambda x, _: "" if f"{x:e}"[0] in unlabelled else f"{x:g}")
