"""Curves of training, as matplotlib figures made without pyplot."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxseg.printing import printable


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


def draw_seeds(metrics: Mapping[int, Sequence[Mapping[str, Any]]]) -> Figure:
  """The loss of training, and mean IoU, over epochs, with a line for each seed.

  Args:
    metrics: {seed: lines of metrics.jsonl}.
  """
  figure = Figure(figsize=(9, 3.5), layout="constrained")
  left, right = figure.subplots(1, 2)
  for seed, lines in metrics.items():
    for axis, name, chosen in (
      (left, "loss", [x for x in lines if x["split"] == "train"]),
      (right, "miou", [x for x in lines if x.get("miou") is not None]),
    ):
      marker = "o" if axis is right or len(chosen) == 1 else None
      points = [x["epoch"] for x in chosen], [x[name] for x in chosen]
      axis.plot(*points, marker=marker, markersize=4, label=f"seed {seed}")
  left.set(xlabel="epoch", ylabel="loss of training")
  use_log_scale(left)
  right.set(xlabel="epoch", ylabel="mean IoU")
  for axis in (left, right):
    axis.set_xlim(0)
    axis.grid(alpha=0.3, which="both")
    axis.legend()
  return figure


def use_log_scale(axis: Axes) -> None:
  """Makes the y axis of what is drawn logarithmic, with plain numbers that do not overlap."""
  axis.set_yscale("log")
  axis.yaxis.set_major_formatter("{x:g}")
  low, high = axis.get_ylim()
  unlabelled = "79" if high > 5 * low else ""  # 0.7 and 0.9 would overlap their neighbours
  axis.yaxis.set_minor_formatter(lambda x, _: "" if f"{x:e}"[0] in unlabelled else f"{x:g}")
