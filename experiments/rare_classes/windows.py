"""Prints how often the training windows of each variant hold the rare classes, as Markdown.

python experiments/rare_classes/windows.py DIR   (DIR of the data; 1,600 windows each, a minute)
"""

import argparse

import numpy as np

from configs import deeplabv3plus_camvid_small
from jaxseg import VOID, build

RARE = ("pole", "sign", "pedestrian", "bicyclist")
BATCHES = 200  # of 8 windows


def count(data_dir, class_crops):
  """(percent of the labelled pixels, percent of the windows) with each of RARE, and with any."""
  config = deeplabv3plus_camvid_small.get_config()
  config.data.data_dir = data_dir
  config.data.class_crops, config.data.crop_classes = class_crops, RARE if class_crops else ()
  info, source = build.open_split(config, "train")
  batches = build.build_batches(config, info, source, 0)
  masks = np.concatenate([next(batches)["mask"] for _ in range(BATCHES)])
  found = np.stack([masks == info.classes.index(name) for name in RARE])
  pixels = found.sum((1, 2, 3)) / (masks != VOID).sum()
  windows = found.any((2, 3))
  return (
    100 * np.array([*pixels, pixels.sum()]),
    100 * np.array([*windows.mean(1), windows.any(0).mean()]),
  )


def main():
  form = argparse.RawDescriptionHelpFormatter
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
  parser.add_argument("data_dir")
  data_dir = parser.parse_args().data_dir
  columns = [column for share in (0.0, 0.33) for column in count(data_dir, share)]
  print("| | plain: pixels | windows | rare crops: pixels | windows |\n|---|---|---|---|---|")
  for name, *row in zip((*RARE, "any of these"), *columns, strict=True):
    print(f"| {name} | " + " | ".join(f"{x:.2f}%" if x < 10 else f"{x:.0f}%" for x in row) + " |")


if __name__ == "__main__":
  main()
