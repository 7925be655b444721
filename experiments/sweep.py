"""Trains the variants of an experiment with several seeds and collects scores, times and memory.

python experiments/sweep.py experiments/unet_isbi --seeds=3 -- --config.data.data_dir=DIR

EXPERIMENT/variants.json holds {name: ["--config=FILE", flag, ...]}. Flags after -- go to all of
them, before their own. Runs that EXPERIMENT/results.json has are not repeated; remove one from it,
and its folder from runs/, to measure it again. EXPERIMENT/logs/ gets the loss and the scores of
each run over its steps.
"""

import argparse
import datetime
import importlib.metadata
import itertools
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
LOGGED = ("split", "step", "epoch", "loss", "learning_rate", "images_per_second", "miou",
          "pixel_accuracy")  # fmt: skip


def surroundings():
  """What a time depends on."""
  commit = None
  if shutil.which("git"):
    command = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(command, cwd=ROOT, capture_output=True).stdout.decode().strip() or None
  return {
    "date": datetime.date.today().isoformat(),
    "commit": commit,
    "jax": importlib.metadata.version("jax"),
    "cpus": os.cpu_count(),
  }


def busy_seconds():
  """What all programs have used of the CPUs since the machine started; None if it is unknown."""
  try:
    user, nice, system = map(int, pathlib.Path("/proc/stat").read_text().split()[1:4])
  except OSError:
    return None
  return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def keep_log(workdir, path):
  """Copies what LOGGED names of a run's metrics.jsonl."""
  lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
  kept = ({name: line[name] for name in LOGGED if name in line} for line in lines)
  path.parent.mkdir(exist_ok=True)
  path.write_text("".join(json.dumps(line) + "\n" for line in kept))


def train(workdir, flags):
  """One run of the command line; returns its evaluation, seconds and memory."""
  command = [sys.executable, "-m", "jaxseg.main", f"--workdir={workdir}", *flags]
  start, busy = time.time(), busy_seconds()
  process = subprocess.Popen(command, cwd=ROOT)
  _, status, usage = os.wait4(process.pid, 0)
  if status:
    sys.exit(f"failed: {' '.join(command)}")
  found = {"wall_seconds": time.time() - start, "peak_gib": usage.ru_maxrss / 2**20}
  if busy is not None:  # what others did meanwhile, in CPUs: of a quiet machine, hardly above 0
    others = busy_seconds() - busy - usage.ru_utime - usage.ru_stime
    found["cpus_of_others"] = round(others / found["wall_seconds"], 2)
  return json.loads((workdir / "evaluation.json").read_text()) | found


def flat_scores(row):
  """{"miou": ..., "dice cell": ...} of an evaluation."""
  for name, value in row.items():
    if isinstance(value, dict) and not name.endswith(("_interval", "overrides", "measured")):
      yield from ((f"{name} {key}", x) for key, x in value.items() if x is not None)
    elif isinstance(value, float):
      yield name, value


def print_table(rows):
  """Mean and standard deviation over the seeds of each variant."""
  for variant in dict.fromkeys(row["variant"] for row in rows):
    runs = [dict(flat_scores(row)) for row in rows if row["variant"] == variant]
    print(f"\n{variant}, {len(runs)} seed{'s' * (len(runs) > 1)}")
    for name in dict.fromkeys(name for run in runs for name in run):
      values = [run[name] for run in runs if name in run]
      spread = f" ± {np.std(values, ddof=1):.2g}" if len(values) > 1 else ""
      some = f" ({len(values)} of {len(runs)})" if len(values) < len(runs) else ""
      print(f"  {name:24} {np.mean(values):.5g}{spread}{some}")


def main():
  usage = "sweep.py EXPERIMENT [--seeds=N] [--variants NAME ...] [-- FLAG ...]"
  form = argparse.RawDescriptionHelpFormatter
  parser = argparse.ArgumentParser(usage=usage, description=__doc__, formatter_class=form)
  parser.add_argument("experiment", type=pathlib.Path, metavar="EXPERIMENT", help="its folder")
  parser.add_argument("--seeds", default=3, type=int, metavar="N", help="default: 3")
  parser.add_argument("--variants", nargs="*", metavar="NAME", help="default: all")
  end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
  options, common_flags = parser.parse_args(sys.argv[1:end]), sys.argv[end + 1 :]
  file = options.experiment / "variants.json"
  if not file.is_file():
    known = sorted(path.parent.name for path in (ROOT / "experiments").glob("*/variants.json"))
    parser.error(f"no {file}; folders of experiments/ that have one: {', '.join(known)}")
  variants = json.loads(file.read_text())
  wanted = options.variants or list(variants)
  if unknown := [name for name in wanted if name not in variants]:
    parser.error(f"{file} has no {unknown[0]!r}, but {', '.join(variants)}")
  results = options.experiment / "results.json"
  rows = json.loads(results.read_text()) if results.exists() else []
  done = {(row["variant"], row["seed"]) for row in rows}
  if stored := len(done.intersection(itertools.product(wanted, range(options.seeds)))):
    print(f"read from {results}, not repeated: {stored} run{'s' * (stored > 1)}", flush=True)
  for seed in range(options.seeds):
    for variant in wanted:
      if (variant, seed) not in done:
        name = f"{variant.replace(' ', '_')}_{seed}"
        workdir = ROOT / "runs" / options.experiment.name / name
        if workdir.exists():  # the time of a run that goes on would be too short
          sys.exit(f"{workdir} is there, but not in {results}: remove it to train anew")
        config, *own = variants[variant]
        measured = surroundings()
        result = train(workdir, [config, f"--config.seed={seed}", *common_flags, *own])
        rows.append({"variant": variant, "seed": seed, "measured": measured, **result})
        results.write_text(json.dumps(rows, indent=2) + "\n")
        keep_log(workdir, options.experiment / "logs" / f"{name}.jsonl")
  print_table(rows)


if __name__ == "__main__":
  main()
