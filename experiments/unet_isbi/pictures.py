"""Draws what the U-Net paper's loss and augmentation do to one ISBI slice.

python experiments/unet_isbi/pictures.py --data_dir=DIR/isbi2012/train
"""

import argparse
import pathlib

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from jaxseg.augment import Augmentation, augment
from jaxseg.data.datasets import connected_components
from jaxseg.visualize import colour_instances
from jaxseg.weight_maps import border_weight, inverse_frequency

HERE = pathlib.Path(__file__).parent
CROP = np.s_[:256, :256]  # what is shown of a slice


def draw_weight_map(image, mask, path):
  """As figure 3 of the paper: image, cells, weight."""
  instances = connected_components(mask)
  weight = inverse_frequency(np.bincount(mask.ravel()))[mask]
  weight += np.asarray(jax.jit(border_weight)(instances))
  figure, axes = plt.subplots(1, 3, figsize=(10.4, 3.5), layout="constrained")
  axes[0].imshow(image[CROP], cmap="gray")
  axes[1].imshow(colour_instances(instances)[CROP], interpolation="nearest")
  shown = axes[2].imshow(weight[CROP], cmap="jet", vmin=0)
  figure.colorbar(shown, ax=axes[2])
  for axis, title in zip(axes, ("image", "cells", "weight of the loss"), strict=True):
    axis.set(xticks=[], yticks=[], title=title)
  figure.savefig(path, dpi=110)
  plt.close(figure)


def draw_elastic(image, mask, path):
  """A grid, the image and its cells under the same random deformations."""
  size = 384
  lines = np.full((size, size), 1.0, np.float32)
  lines[::24] = lines[:, ::24] = 0.0
  image = image[:size, :size].astype(np.float32) / 255
  labels = {"mask": mask[:size, :size], "instances": connected_components(mask)[:size, :size]}
  rows = (
    ("as it is", Augmentation()),
    ("elastic, 10 px", Augmentation(elastic=10.0)),
    ("elastic and rotated", Augmentation(elastic=10.0, rotation=45.0, shift=20.0)),
  )
  figure, axes = plt.subplots(3, 3, figsize=(8.4, 8.8), layout="constrained")
  for row, (title, config) in zip(axes, rows, strict=True):
    key = jax.random.key(3)
    grid, _ = augment(key, jnp.array(lines)[..., None], labels, config)
    warped, out = augment(key, jnp.array(image)[..., None], labels, config)
    row[0].imshow(grid, cmap="gray")
    row[1].imshow(warped, cmap="gray")
    row[2].imshow(colour_instances(np.asarray(out["instances"])), interpolation="nearest")
    row[0].set_ylabel(title)
    for axis in row:
      axis.set(xticks=[], yticks=[])
  figure.savefig(path, dpi=90)
  plt.close(figure)


def main():
  form = argparse.RawDescriptionHelpFormatter
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
  parser.add_argument("--data_dir", required=True, type=pathlib.Path)
  folder = parser.parse_args().data_dir
  image = np.asarray(Image.open(folder / "images/00.png"))
  mask = (np.asarray(Image.open(folder / "masks/00.png")) > 127).astype(np.uint8)
  draw_weight_map(image, mask, HERE / "weight_map.png")
  draw_elastic(image, mask, HERE / "elastic.png")


if __name__ == "__main__":
  main()
