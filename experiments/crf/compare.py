"""Errors and times of both paths of the dense CRF, beside pydensecrf2.

python experiments/crf/compare.py --camvid=DIR --peer=PYTHON

DIR holds images/ and masks/; PYTHON is one that has pydensecrf2. Guesses are made from the masks:
shrunk to 40 x 30 px, with noise, enlarged, as a network with a coarse output would give. Writes
results.json anew.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile
import time

import numpy as np
from PIL import Image

from jaxseg.crf import dense_crf

HERE = pathlib.Path(__file__).parent
NUM_CLASSES = 12
SIZES = ((120, 90), (240, 180), (480, 360))  # width, height
MAX_EXACT = 120 * 90  # px


def make_case(folder, number, size, noise):
  """(probs f32[H,W,12], image u8[H,W,3]) of an image of CamVid."""
  image, mask = (
    Image.open(sorted((folder / part).iterdir())[number]) for part in ("images", "masks")
  )
  image = np.asarray(image.convert("RGB").resize(size, Image.Resampling.BILINEAR))
  mask = np.asarray(mask.resize(size, Image.Resampling.NEAREST))
  rng = np.random.default_rng(number)
  logits = []
  for label in range(NUM_CLASSES):
    share = Image.fromarray((mask == label).astype(np.float32)).resize((40, 30), Image.BOX)
    coarse = 7 * np.asarray(share) + rng.normal(0, noise, (30, 40))
    coarse = Image.fromarray(coarse.astype(np.float32))
    logits.append(np.asarray(coarse.resize(size, Image.Resampling.BICUBIC)))
  powers = np.exp(np.stack(logits, -1))
  return powers / powers.sum(-1, keepdims=True), image


def compare(a, b):
  """How far marginals are apart, in figures for the table."""
  error = np.abs(a - b)
  return {
    "labels agree": (a.argmax(-1) == b.argmax(-1)).mean(),
    "mean": error.mean(),
    "99%": np.percentile(error, 99),
    "max": error.max(),
  } | {f"pixels > {bound}": (error.max(-1) > bound).mean() for bound in (0.01, 0.1)}


def main():
  form = argparse.RawDescriptionHelpFormatter
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
  parser.add_argument("--camvid", required=True, type=pathlib.Path)
  parser.add_argument("--peer", required=True, help="a Python that has pydensecrf2")
  parser.add_argument("--num_images", default=4, type=int)
  options = parser.parse_args()
  cases = {
    f"{size[0]} x {size[1]}, noise {noise}, {number}": make_case(
      options.camvid, 20 * number, size, noise
    )
    for size in SIZES
    for noise in (1.0, 2.0)
    for number in range(options.num_images)
  }
  rows = []
  with tempfile.TemporaryDirectory() as folder:
    for name, (probs, image) in cases.items():
      np.savez(pathlib.Path(folder, name), probs=probs, image=image)
    subprocess.run([options.peer, HERE / "peer.py", folder], check=True)
    for name, (probs, image) in cases.items():
      peer = np.load(pathlib.Path(folder, f"{name}.peer.npz"))
      seconds = []
      for _ in range(5):
        start = time.perf_counter()
        lattice = dense_crf(probs, image)
        seconds.append(time.perf_counter() - start)
      row = {"case": name, "seconds": min(seconds), "peer seconds": float(peer["seconds"])}
      row["changed"] = (lattice.argmax(-1) != probs.argmax(-1)).mean()
      row["lattice - peer"] = compare(lattice, peer["marginals"])
      if image.shape[0] * image.shape[1] <= MAX_EXACT:
        exact = np.asarray(dense_crf(probs, image, exact=True))
        row["lattice - exact"] = compare(lattice, exact)
        row["peer - exact"] = compare(peer["marginals"], exact)
        # Colours as they may have been before they were rounded to 8 bits.
        noise = np.random.default_rng(0).uniform(-0.5, 0.5, image.shape).astype(np.float32)
        unrounded = np.asarray(dense_crf(probs, image + noise, exact=True))
        row["unrounded - exact"] = compare(unrounded, exact)
      rows.append(row)
      print(json.dumps(row, default=float), flush=True)
  (HERE / "results.json").write_text(json.dumps(rows, indent=2, default=float) + "\n")


if __name__ == "__main__":
  main()
