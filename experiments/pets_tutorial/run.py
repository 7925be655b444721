"""Trains configs/unet_pets.py with several seeds and collects scores, times and memory.

python experiments/pets_tutorial/run.py --data_dir=DIR --pretrained=FILE.h5|imagenet
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).parent
KERAS = {"pixel_accuracy": 0.8755, "miou": 0.6971}  # README.md says how this was measured


def train(workdir, seed, data_dir, pretrained):
  """One run of the command line; returns its scores, seconds and memory."""
  command = [
    *(sys.executable, "-m", "jaxseg.main", "--config=configs/unet_pets.py"),
    *(f"--workdir={workdir}", f"--config.seed={seed}", "--config.train.batch_size=16"),
    *(f"--config.data.data_dir={data_dir}", f"--config.model.pretrained={pretrained}"),
  ]
  start = time.time()
  process = subprocess.Popen(command, cwd=HERE.parents[1])
  _, status, usage = os.wait4(process.pid, 0)
  if status:
    sys.exit(f"failed: {' '.join(command)}")
  evaluation = json.loads((workdir / "evaluation.json").read_text())
  row = {key: evaluation[key] for key in ("pixel_accuracy", "miou", "iou")}
  return row | {"wall_seconds": time.time() - start, "peak_gib": usage.ru_maxrss / 2**20}


def draw(runs, path):
  """Mean IoU on the test images over the epochs, a line per run."""
  import matplotlib.pyplot as plt

  figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
  colours = {"pretrained, frozen": "tab:blue", "from scratch": "tab:orange"}
  for row, workdir in runs:
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    points = [(x["epoch"], x["miou"]) for x in lines if "miou" in x]
    colour, label = colours[row["encoder"]], row["encoder"] if row["seed"] == 0 else None
    axis.plot(*zip(*points, strict=True), "o-", color=colour, label=label, alpha=0.8)
  axis.axhline(KERAS["miou"], color="black", ls="--", label="Keras, pretrained, epoch 20")
  axis.set(xlabel="epoch", ylabel="mean IoU, 298 test images")
  axis.grid(alpha=0.3)
  axis.legend()
  figure.savefig(path, dpi=110)


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--data_dir", required=True)
  parser.add_argument("--pretrained", required=True)
  parser.add_argument("--runs", default="runs/pets_tutorial", type=pathlib.Path)
  parser.add_argument("--seeds", default=3, type=int, help="of the pretrained network")
  parser.add_argument("--scratch_seeds", default=1, type=int)
  options = parser.parse_args()
  results = HERE / "results.json"
  rows = json.loads(results.read_text()) if results.exists() else []
  runs = []
  for pretrained, num_seeds in ((options.pretrained, options.seeds), ("", options.scratch_seeds)):
    for seed in range(num_seeds):
      workdir = options.runs.absolute() / f"{'pretrained' if pretrained else 'scratch'}_{seed}"
      encoder = "pretrained, frozen" if pretrained else "from scratch"
      row = next((r for r in rows if (r["encoder"], r["seed"]) == (encoder, seed)), None)
      if row is None:
        row = {"encoder": encoder, "seed": seed}
        row |= train(workdir, seed, options.data_dir, pretrained)
        rows.append(row)
        results.write_text(json.dumps(rows, indent=2) + "\n")
      runs.append((row, workdir))
  draw(runs, HERE / "miou.png")


if __name__ == "__main__":
  main()
