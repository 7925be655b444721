"""How many examples a core reads: decoding, fitting to the canvas, batching.

python experiments/reading/measure.py --pets=DIR --camvid=DIR

DIR is config.data.data_dir of configs/unet_pets.py and configs/unet_camvid.py. Writes results.json:
the best of three passes over 300 examples; per second of CPU time of one thread, and per second
with two threads or two worker processes. Also how far data.fast_jpeg changes images, in grey levels
of 8 bits.
"""

import argparse
import contextlib
import json
import pathlib
import time

import numpy as np

from configs import deeplabv3plus_camvid_small, unet_pets
from jaxseg import build
from jaxseg.data.input_pipeline import fit_example, train_batches, with_fast_jpeg

BATCH, NUM_BATCHES, PASSES = 10, 30, 3
READERS = {  # how: (clock, options of `train_batches`)
  "one core": (time.process_time, {"num_threads": 0}),
  "two threads": (time.perf_counter, {"num_threads": 2}),
  "two workers": (time.perf_counter, {"num_threads": 1, "num_workers": 2}),
}


def rate(source, fit, size, cache_mb, clock, options):
  """Examples per second of a clock."""
  batches = train_batches(
    source, size=size, fit=fit, seed=0, batch_size=BATCH, cache_mb=cache_mb, **options
  )
  # A worker sees only some of the examples in each pass.
  num_first = 10 * len(source) // BATCH if cache_mb else NUM_BATCHES
  best = 0.0
  with contextlib.closing(batches):
    for _ in range(num_first):
      next(batches)
    for _ in range(PASSES):
      start = clock()
      for _ in range(NUM_BATCHES):
        next(batches)
      best = max(best, BATCH * NUM_BATCHES / (clock() - start))
  return round(best, 1)


def differences(source, size):
  """How far `with_fast_jpeg` changes the images that it changes at all, once they are resized."""
  fast, means, largest = with_fast_jpeg(source, size), [], 0
  for i in range(len(source)):
    images = [fit_example(x[i], size, "resize")["image"].astype(int) for x in (source, fast)]
    difference = np.abs(images[0] - images[1])
    if difference.any():
      means.append(difference.mean())
      largest = max(largest, int(difference.max()))
  return {
    "images": len(means),
    "of": len(source),
    "mean": round(float(np.mean(means)), 3),
    "mean of the image that changes most": round(float(np.max(means)), 3),
    "largest": largest,
  }


def main():
  form = argparse.RawDescriptionHelpFormatter
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
  parser.add_argument("--pets", required=True)
  parser.add_argument("--camvid", required=True)
  parser.add_argument("--only", default="", help="a part of the name of a row; writes nothing")
  folders = parser.parse_args()
  pets, camvid = unet_pets.get_config(), deeplabv3plus_camvid_small.get_config()
  pets.data.data_dir, camvid.data.data_dir = folders.pets, folders.camvid
  pets, camvid = (build.open_split(config, "train")[1] for config in (pets, camvid))
  rows = {
    "pets, resized to 128": (pets, "resize", 128, 0),
    "pets, resized to 128, fast_jpeg": (with_fast_jpeg(pets, 128), "resize", 128, 0),
    "camvid, windows of 352": (camvid, "crop", 352, 0),
    "camvid, windows of 352, cached": (camvid, "crop", 352, 1024),
  }
  results = {
    name: {how: rate(*row, *reader) for how, reader in READERS.items()}
    for name, row in rows.items()
    if folders.only in name
  }
  print(json.dumps(results, indent=2))
  if folders.only:
    return
  results["fast_jpeg changes"] = {
    f"pets, resized to {size}": differences(pets, size) for size in (64, 128)
  }
  print(json.dumps(results["fast_jpeg changes"], indent=2))
  pathlib.Path(__file__).with_name("results.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
  main()
