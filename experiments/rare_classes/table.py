"""Prints IoU of the rare classes and mean IoU of every variant in results.json, as Markdown.

python experiments/rare_classes/table.py   (after sweep.py)

A second table has the gain over "plain", each run compared with the plain run of its seed.
"""

import json
import pathlib

import numpy as np

RESULTS = pathlib.Path(__file__).parent / "results.json"
RARE = ("pole", "sign", "pedestrian", "bicyclist")
ROWS = (*RARE, "mean of these four", "mean IoU, 11 classes")


def scores(run):
  """f64[6]: the numbers of ROWS."""
  rare = [run["iou"][name] for name in RARE]
  return np.array([*rare, np.mean(rare), run["miou"]])


def spread(values):
  """Mean and standard deviation over runs."""
  mean = f"{np.mean(values):.3f}"
  return f"{mean} ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else mean


def print_table(title, columns):
  """A row for each of ROWS, a column for each variant.  {variant: f64[runs,6]}"""
  print(f"\n| {title} | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
  for i, row in enumerate(ROWS):
    print(f"| {row} | {' | '.join(spread(runs[:, i]) for runs in columns.values())} |")


def main():
  by_variant = {}
  for run in json.loads(RESULTS.read_text()):
    by_variant.setdefault(run["variant"], {})[run["seed"]] = scores(run)
  columns = {name: np.stack(list(runs.values())) for name, runs in by_variant.items()}
  print_table("IoU on val, mean ± standard deviation", columns)
  plain, gains = by_variant.pop("plain", {}), {}
  for name, runs in by_variant.items():
    if both := sorted(runs.keys() & plain.keys()):
      gains[name] = np.stack([runs[seed] - plain[seed] for seed in both])
  if gains:
    print_table("gain over plain, seed by seed", gains)


if __name__ == "__main__":
  main()
