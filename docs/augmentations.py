"""Draws augmentations.png: the augmentations of values, one a row, on a picture that is drawn here.

python docs/augmentations.py
"""

import pathlib

import jax
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image, ImageDraw

from jaxseg import VOID
from jaxseg.augment import Augmentation, augment

HEIGHT, WIDTH, COLUMNS, FINE = 96, 144, 6, 4  # px, px, views a row, supersampling
PALETTE = np.array([(110, 170, 230), (90, 150, 70), (190, 60, 50), (240, 200, 60), (90, 60, 140)])
ROWS = {
  "hue=0.5": Augmentation(hue=0.5),
  "saturation=(0,3)": Augmentation(saturation=(0.0, 3.0)),
  "gray=0.5": Augmentation(gray=0.5),
  "gamma=(0.3,3)": Augmentation(gamma=(0.3, 3.0)),
  "blur=4": Augmentation(blur=4.0),
  "noise=0.3": Augmentation(noise=0.3),
  "cutout=0.4": Augmentation(cutout=0.4),
}
TOGETHER = Augmentation(hue=0.1, saturation=(0.5, 1.5), gray=0.2, gamma=(0.7, 1.5), blur=1.5,
                        noise=0.1, cutout=0.3)  # fmt: skip


def scene():
  """A house between trees, with its label map.  -> f32[H,W,3], u8[H,W]"""
  picture = Image.new("L", (WIDTH * FINE, HEIGHT * FINE), 0)  # sky
  draw = ImageDraw.Draw(picture)

  def polygon(label, *points):
    draw.polygon([(FINE * x, FINE * y) for x, y in points], fill=label)

  def disc(label, x, y, radius):
    box = [FINE * v for v in (x - radius, y - radius, x + radius, y + radius)]
    draw.ellipse(box, fill=label)

  polygon(1, (0, 70), (50, 60), (144, 74), (144, 96), (0, 96))
  polygon(2, (52, 42), (100, 42), (100, 80), (52, 80))
  polygon(4, (46, 42), (76, 22), (106, 42))
  disc(3, 122, 20, 9)
  for x, y, radius in (18, 46, 14), (30, 56, 10), (126, 58, 11):
    disc(1, x, y, radius)
    polygon(4, (x - 2, y + radius - 2), (x + 2, y + radius - 2), (x + 2, 78), (x - 2, 78))
  for x in (58, 84):
    polygon(3, (x, 50), (x + 10, 50), (x + 10, 60), (x, 60))
  labels = np.asarray(picture)
  texture = np.random.default_rng(0).normal(0, 4, (HEIGHT, WIDTH, 1))
  fine = PALETTE[labels].reshape(HEIGHT, FINE, WIDTH, FINE, 3).mean((1, 3))
  shade = np.linspace(15, -15, HEIGHT)[:, None, None]
  image = (fine + texture + shade).clip(0, 255) / 255
  return image.astype(np.float32), labels[FINE // 2 :: FINE, FINE // 2 :: FINE]


def main():
  image, mask = scene()
  keys = jax.random.split(jax.random.key(1), COLUMNS)
  rows = {"as it is, and its mask": [image, PALETTE[mask] / 255]}
  for label, config in {**ROWS, "all, weaker": TOGETHER}.items():
    views, labels = jax.vmap(augment, (0, None, None, None))(keys, image, {"mask": mask}, config)
    rows[label] = list(np.asarray(views))
    if label.startswith("cutout"):
      masks = np.asarray(labels["mask"])
      shown = np.where((masks == VOID)[..., None], 0, PALETTE[np.where(masks == VOID, 0, masks)])
      rows["its mask, VOID black"] = list(shown / 255)
  figure, axes = plt.subplots(len(rows), COLUMNS, figsize=(11, 1.06 * len(rows)))
  for line, (label, pictures) in zip(axes, rows.items(), strict=True):
    for axis in line:
      axis.axis("off")
    for axis, picture in zip(line, pictures, strict=False):
      axis.imshow(picture, vmin=0, vmax=1, interpolation="nearest")
    line[0].text(-0.06, 0.5, label, transform=line[0].transAxes, ha="right", va="center")
  figure.subplots_adjust(0.16, 0.005, 0.995, 0.995, 0.03, 0.04)
  figure.savefig(pathlib.Path(__file__).with_suffix(".png"), dpi=80)


if __name__ == "__main__":
  main()
