"""Times the border weights of ISBI slices against scipy's distance transforms.

python experiments/border_weight/timing.py --data_dir=DIR
"""

import argparse
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from scipy import ndimage

from jaxseg.weight_maps import border_weight

HERE = pathlib.Path(__file__).parent
W0, SIGMA = 10.0, 5.0
BATCH = 4


def by_scipy(instances):
  """One distance transform an instance, all over the image."""
  ids = range(1, instances.max() + 1)
  distances = np.stack([ndimage.distance_transform_edt(instances != k) for k in ids])
  d1, d2 = np.partition(distances, 1, axis=0)[:2]
  return np.where(instances == 0, W0 * np.exp(-((d1 + d2) ** 2) / (2 * SIGMA**2)), 0)


def best_seconds(function, argument, repeats):
  times = []
  for _ in range(repeats):
    start = time.perf_counter()
    jax.block_until_ready(function(argument))
    times.append(time.perf_counter() - start)
  return min(times)


def main():
  form = argparse.RawDescriptionHelpFormatter
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
  parser.add_argument("--data_dir", required=True, type=pathlib.Path)
  folder = parser.parse_args().data_dir / "masks"
  masks = [np.asarray(Image.open(file)) > 127 for file in sorted(folder.glob("*.png"))]
  slices = [ndimage.label(mask)[0].astype(np.int32) for mask in masks]
  ours = jax.jit(jax.vmap(lambda x: border_weight(x, w0=W0, sigma=SIGMA)))
  worst = 0.0
  for i in range(0, len(slices), BATCH):
    batch = slices[i : i + BATCH]
    for got, instances in zip(ours(jnp.stack(batch)), batch, strict=True):
      worst = max(worst, float(np.abs(got - by_scipy(instances)).max()))
  first = jnp.stack(slices[:1])
  result = {
    "device": jax.devices()[0].device_kind,
    "instances": int(slices[0].max()),
    "num_slices": len(slices),
    "largest_difference": worst,
    "jax_seconds": best_seconds(ours, first, 10),
    "jax_seconds_batch_of_4": best_seconds(ours, jnp.stack(slices[:BATCH]), 10),
    "scipy_seconds": best_seconds(by_scipy, slices[0], 3),
  }
  print(json.dumps(result, indent=2))
  (HERE / "timing.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
  main()
