"""Draws predictions.png: test images of trained runs above what the networks make of them.

python experiments/pets_tutorial/picture.py pets=WORKDIR cells=WORKDIR camvid=WORKDIR
"""

import pathlib
import sys

import numpy as np
from PIL import Image

import jaxseg
from jaxseg import build, visualize

SHOWN = {"pets": (12, 77, 251), "cells": (3,), "camvid": (30, 75)}  # positions in the split
TILE = 190  # px


def tiles(workdir, positions):
  """A column, input above overlay, for each position in the run's evaluation split."""
  segmenter = jaxseg.load(workdir)
  _, source = build.open_split(segmenter.config, "eval")
  for example, probs in segmenter.predict(source[i] for i in positions):
    image = np.broadcast_to(example["image"], (*probs.shape[:2], 3))
    labels = probs.argmax(-1).astype(np.uint8)
    yield [square(image), square(visualize.overlay(image, labels, segmenter.palette))]


def square(image):
  """The central square of an image, TILE px wide."""
  side = min(image.shape[:2])
  top, left = ((n - side) // 2 for n in image.shape[:2])
  cut = Image.fromarray(image[top : top + side, left : left + side])
  return np.asarray(cut.resize((TILE, TILE), Image.Resampling.LANCZOS))


def main():
  runs = dict(argument.split("=", 1) for argument in sys.argv[1:] if "=" in argument)
  if list(runs) != list(SHOWN):
    sys.exit(__doc__)
  columns = [column for name, run in runs.items() for column in tiles(run, SHOWN[name])]
  rows = [np.hstack([np.pad(column[i], ((2, 2), (2, 2), (0, 0)), constant_values=255)
                     for column in columns]) for i in (0, 1)]  # fmt: skip
  Image.fromarray(np.vstack(rows)).save(pathlib.Path(__file__).with_name("predictions.png"))


if __name__ == "__main__":
  main()
