"""Draws what networks trained without and with the border weight make of the same cells.

python experiments/border_weight/picture.py

It needs the work directories of "off" and "on", seed 0, in runs/border_weight: remove their rows
from results.json and run sweep.py, which leaves them there.
"""

import json
import pathlib

import matplotlib.pyplot as plt
import numpy as np

import jaxseg
from configs import unet_cells
from jaxseg import build
from jaxseg.data.datasets import connected_components
from jaxseg.visualize import colour_instances

HERE = pathlib.Path(__file__).parent
RUNS = HERE.parents[1] / "runs/border_weight"
IMAGES = (0, 5, 9)


def main():
  config = unet_cells.get_config()
  _, source = build.open_split(config, "eval")
  examples = [source[i] for i in IMAGES]
  columns = {
    "input": [np.broadcast_to(x["image"], (*x["mask"].shape, 3)) for x in examples],
    "true cells": [colour_instances(x["instances"]) for x in examples],
  }
  for variant in ("off", "on"):
    segmenter = jaxseg.load(RUNS / f"{variant}_0")
    score = json.loads((RUNS / f"{variant}_0" / "evaluation.json").read_text())["v_rand"]
    columns[f"border weight {variant}, V_rand {score:.2f}"] = [
      colour_instances(connected_components(probs.argmax(-1).astype(np.uint8)))
      for _, probs in segmenter.predict(examples)
    ]
  figure, axes = plt.subplots(len(IMAGES), 4, figsize=(10, 7.8), layout="constrained")
  for column, (title, pictures) in zip(axes.T, columns.items(), strict=True):
    column[0].set_title(title, fontsize=10)
    for axis, picture in zip(column, pictures, strict=True):
      axis.imshow(picture, interpolation="nearest")
      axis.set(xticks=[], yticks=[])
  figure.savefig(HERE / "cells.png", dpi=90)


if __name__ == "__main__":
  main()
