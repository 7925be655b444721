"""Draws miou.png: mean IoU on the test images over the epochs, a line per run of the U-Net.

python experiments/pets_tutorial/curve.py
"""

import json
import pathlib

import matplotlib.pyplot as plt

HERE = pathlib.Path(__file__).parent
RUNS = HERE.parents[1] / "runs/pets_tutorial"
KERAS_MIOU = 0.6971  # README.md says how this was measured
COLOURS = {"pretrained, frozen": "tab:blue", "from scratch": "tab:orange"}


def main():
  figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
  for row in json.loads((HERE / "results.json").read_text()):
    variant, seed = row["variant"], row["seed"]
    if variant not in COLOURS:
      continue
    path = RUNS / f"{variant.replace(' ', '_')}_{seed}" / "metrics.jsonl"
    lines = map(json.loads, path.read_text().splitlines())
    points = [(x["epoch"], x["miou"]) for x in lines if "miou" in x]
    label = None if seed else variant
    axis.plot(*zip(*points, strict=True), "o-", color=COLOURS[variant], label=label, alpha=0.8)
  axis.axhline(KERAS_MIOU, color="black", ls="--", label="Keras, pretrained, epoch 20")
  axis.set(xlabel="epoch", ylabel="mean IoU, 298 test images")
  axis.grid(alpha=0.3)
  axis.legend()
  figure.savefig(HERE / "miou.png", dpi=110)


if __name__ == "__main__":
  main()
