"""How many examples a core reads: decoding, fitting to the canvas, batching.

python experiments/reading/measure.py --pets=DIR --camvid=DIR

DIR is config.data.data_dir of configs/unet_pets.py and configs/unet_camvid.py. Writes results.json:
examples per second of CPU time, of one thread, the best of three passes over 300 examples.
"""

import argparse
import json
import pathlib
import time

from configs import deeplabv3plus_camvid_small, unet_pets
from jaxseg import build
from jaxseg.data.input_pipeline import train_batches

BATCH, NUM_BATCHES = 10, 30


def rate(config, cache_mb):
  """Examples per second of CPU time."""
  _, source = build.open_split(config, "train")
  best = 0.0
  options = {"size": config.data.image_size, "fit": config.data.fit, "seed": 0, "num_threads": 0}
  batches = train_batches(source, batch_size=BATCH, cache_mb=cache_mb, **options)
  passes = 3
  if cache_mb:  # fill it first
    for _ in range(len(source) // BATCH + 1):
      next(batches)
  for _ in range(passes):
    start = time.process_time()
    for _ in range(NUM_BATCHES):
      next(batches)
    best = max(best, BATCH * NUM_BATCHES / (time.process_time() - start))
  return round(best, 1)


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--pets", required=True)
  parser.add_argument("--camvid", required=True)
  folders = parser.parse_args()
  pets, camvid = unet_pets.get_config(), deeplabv3plus_camvid_small.get_config()
  pets.data.data_dir, camvid.data.data_dir = folders.pets, folders.camvid
  camvid.data.image_size = 352
  results = {
    "pets, resized to 128": rate(pets, 0),
    "camvid, windows of 352": rate(camvid, 0),
    "camvid, windows of 352, cached": rate(camvid, 1024),
  }
  print(json.dumps(results, indent=2))
  pathlib.Path(__file__).with_name("results.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
  main()
