"""Draws crf.png: image, truth, the network's labels, and those behind a dense CRF.

python experiments/crf/picture.py WORKDIR POSITION [POSITION ...] [--NAME=VALUE ...]

Positions are of the evaluation split, NAME and VALUE of config.crf.
"""

import json
import pathlib
import sys

import numpy as np
from PIL import Image

import jaxseg
from jaxseg import VOID, build
from jaxseg.crf import dense_crf
from jaxseg.visualize import colour_labels

HERE = pathlib.Path(__file__).parent


def main():
  if len(sys.argv) < 3:
    sys.exit(__doc__)
  workdir, *rest = sys.argv[1:]
  positions = [int(x) for x in rest if not x.startswith("--")]
  options = dict(x[2:].split("=") for x in rest if x.startswith("--"))
  segmenter = jaxseg.load(workdir)
  _, source = build.open_split(segmenter.config, "eval")
  rows = []
  for example, probs in segmenter.predict(source[i] for i in positions):
    image, mask = example["image"], example["mask"]
    refined = dense_crf(probs, image, **{name: json.loads(x) for name, x in options.items()})
    labels = [mask, *(x.argmax(-1).astype(np.uint8) for x in (probs, refined))]
    labels = [np.where(mask == VOID, VOID, x).astype(np.uint8) for x in labels]
    pictures = [image, *(colour_labels(x, segmenter.palette) for x in labels)]
    rows.append(np.concatenate(pictures, axis=1))
  Image.fromarray(np.concatenate(rows)).save(HERE / "crf.png")


if __name__ == "__main__":
  main()
