"""Draws NAME.jpg of trained runs: five images of the last evaluation, from the best to the worst.

python experiments/gallery/make.py pets=WORKDIR camvid=WORKDIR ...

The five stand at the start, the quarters and the end of the order by mean IoU: nobody chose them.
"""

import io
import pathlib
import sys

import matplotlib
import numpy as np
from PIL import Image

import jaxseg
from jaxseg import build, extremes, per_image

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = pathlib.Path(__file__).parent
PLACES = {"best": 1.0, "upper quartile": 0.75, "median": 0.5, "lower quartile": 0.25, "worst": 0.0}
PANELS = extremes.PANELS[:4]


def draw(workdir, path):
  """Input, truth, prediction and errors of the five images."""
  segmenter = jaxseg.load(workdir)
  info, source = build.open_split(segmenter.config, "eval")
  table = per_image.read(pathlib.Path(workdir) / "per_image.csv", info.classes, "evaluate again")
  miou = table.of_images()["miou"]
  order = [int(i) for i in np.argsort(miou, kind="stable") if np.isfinite(miou[i])]
  chosen = [order[round(place * (len(order) - 1))] for place in PLACES.values()]
  rows = []
  for example, probs in segmenter.predict(source[i] for i in chosen):
    confidence = (255 * probs.max(-1)).round().astype(np.uint8)
    panels = extremes.draw_panels(example, probs.argmax(-1).astype(np.uint8), confidence, info)
    rows.append([Image.open(io.BytesIO(panels[name])) for name in PANELS])
  heights = [pictures[0].height / pictures[0].width for pictures in rows]
  size = (2.1 * len(PANELS), 2.1 * sum(heights) + 0.4)
  options = {"figsize": size, "layout": "constrained", "height_ratios": heights}
  figure, axes = plt.subplots(len(rows), len(PANELS), **options)
  for line, place, i, pictures in zip(axes, PLACES, chosen, rows, strict=True):
    for axis, picture in zip(line, pictures, strict=True):
      axis.imshow(picture)
      axis.set(xticks=[], yticks=[])
    line[0].set_ylabel(f"{place}\n{miou[i]:.3f}", fontsize=8)
  for axis, name in zip(axes[0], PANELS, strict=True):
    axis.set_title(name, fontsize=9)
  figure.savefig(path, dpi=100, pil_kwargs={"quality": 85})
  plt.close(figure)


def main():
  pairs = [argument.partition("=") for argument in sys.argv[1:]]
  if not pairs or not all(name and workdir for name, _, workdir in pairs):
    sys.exit(__doc__)
  for name, _, workdir in pairs:
    draw(workdir, HERE / f"{name}.jpg")


if __name__ == "__main__":
  main()
