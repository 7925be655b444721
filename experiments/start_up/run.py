"""Seconds from the start of the command to its first training step, cold and warm.

python experiments/start_up/run.py --config=FILE [--config.KEY=VALUE ...] [--whole]

Cold: an empty compilation cache; warm: the one that the cold start has filled. `--whole` trains
to the end, too, with that cache. Work directories are temporary; results.json keeps what is
printed, by the flags.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from jaxseg.start import asks_for_help

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def start(flags, workdir, cache):
  command = [sys.executable, "-m", "jaxseg.main", *flags, f"--workdir={workdir}"]
  environ = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)}
  log = open(f"{workdir}.log", "w")  # noqa: SIM115
  return subprocess.Popen(command, cwd=ROOT, env=environ, stdout=log, stderr=log)


def lines(workdir):
  path = pathlib.Path(workdir) / "metrics.jsonl"
  return path.read_text().splitlines() if path.exists() else []


def seconds_to_first_step(flags, workdir, cache):
  began = time.perf_counter()
  process = start([*flags, "--config.train.log_every_steps=1"], workdir, cache)
  while not lines(workdir):
    if process.poll() is not None:
      sys.exit(pathlib.Path(f"{workdir}.log").read_text())
    time.sleep(0.02)
  seconds = time.perf_counter() - began
  process.kill()
  process.wait()
  return seconds


def main():
  flags = [flag for flag in sys.argv[1:] if flag != "--whole"]
  if asks_for_help(flags):
    print(__doc__)
    return
  if not any(flag.startswith("--config=") for flag in flags):
    sys.exit("--config is missing; give it, as in --config=configs/unet_cells.py")
  found = {}
  with tempfile.TemporaryDirectory() as folder:
    cache = f"{folder}/cache"
    for name in ("cold", "warm"):
      found[name] = seconds_to_first_step(flags, f"{folder}/{name}", cache)
      print(f"{name}: {found[name]:.1f} s to the first step", flush=True)
    if "--whole" in sys.argv:
      began = time.perf_counter()
      status = start(flags, f"{folder}/whole", cache).wait()
      found["whole"] = time.perf_counter() - began
      scores = [line for line in map(json.loads, lines(f"{folder}/whole")) if "miou" in line]
      if status:
        sys.exit(pathlib.Path(f"{folder}/whole.log").read_text())
      found |= {name: scores[-1][name] for name in ("miou", "pixel_accuracy")}
      print(f"whole: {found['whole']:.1f} s, mean IoU {found['miou']:.4f}")
  # Without the paths of this machine.
  name = " ".join(flag for flag in flags if "=/" not in flag)
  file = HERE / "results.json"
  rows = json.loads(file.read_text()) if file.exists() else {}
  file.write_text(json.dumps({**rows, name: found}, indent=2) + "\n")


if __name__ == "__main__":
  main()
