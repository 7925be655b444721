"""Three seeds in one program against three runs one after the other, on this machine.

python experiments/seeds/run.py [--part=steps|whole] [--config=NAME] [-- --config.KEY=VALUE ...]

Replaces what results.json has of the part. Needs a quiet machine.
"""

import argparse
import importlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np

FOLDER = pathlib.Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
sys.path[:0] = [str(ROOT), str(FOLDER)]
NUM_SEEDS = 3


def measure_steps(name, values, rounds, num_steps):
  """{way: seconds for a step of each of the seeds, "first_s": of the first, with compilation}"""
  from ways import WAYS, make_step, make_way

  from jaxseg import build, settings

  config = importlib.import_module(f"configs.{name}").get_config()
  config = settings.override(config, settings.parse_overrides(config, values))
  info, source = build.open_split(config, "train")
  margin = build.build_model(config, info).margin
  batch = dict(next(build.build_batches(config, info, source, margin)))
  step, first = make_step(config, info)
  several = lambda tree: jax.tree.map(lambda x: jnp.stack([x] * NUM_SEEDS), tree)  # noqa: E731
  runs, rows = {}, {}
  for way in WAYS:
    program = make_way(way, step, NUM_SEEDS, jax.devices()[0])
    arguments = first(0), batch, jax.random.key(0)
    state, *rest = arguments if way == "one" else several(arguments)
    start = time.perf_counter()
    state = jax.block_until_ready(program(state, *rest)[0])
    rows[way] = {"first_s": time.perf_counter() - start, "seconds": []}
    runs[way] = [program, state, rest]
  for _ in range(rounds):
    for way, run in runs.items():
      start = time.perf_counter()
      for _ in range(num_steps * (NUM_SEEDS if way == "one" else 1)):
        run[1], _ = run[0](run[1], *run[2])
      jax.block_until_ready(run[1])
      rows[way]["seconds"].append((time.perf_counter() - start) / num_steps)
  medians = {way: float(np.median(row.pop("seconds"))) for way, row in rows.items()}
  return {way: {**row, "step_s": medians[way]} for way, row in rows.items()}


def measure_whole(name, flags):
  """{"one after the other", "together": {"first_s", "again_s"}}: seconds of whole processes.

  Both ways start without compiled programs, and find these the second time.
  """
  rows = {}
  ways = {
    "one after the other": [[f"--config.seed={seed}"] for seed in range(NUM_SEEDS)],
    "together": [[f"--config.train.num_seeds={NUM_SEEDS}"]],
  }
  for way, commands in ways.items():
    with tempfile.TemporaryDirectory() as cache:
      seconds = [run_commands(name, commands, flags, cache) for _ in range(2)]
    rows[way] = dict(zip(("first_s", "again_s"), seconds, strict=True))
    print(way, rows[way], flush=True)
  return rows


def run_commands(name, commands, flags, cache):
  start = time.perf_counter()
  for command in commands:
    with tempfile.TemporaryDirectory() as workdir:
      base = [sys.executable, "-m", "jaxseg.main", f"--config=configs/{name}.py"]
      environ = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache}
      subprocess.run(
        [*base, f"--workdir={workdir}/run", *command, *flags], cwd=ROOT, env=environ, check=True
      )
  return time.perf_counter() - start


def main():
  form = argparse.RawDescriptionHelpFormatter
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
  parser.add_argument("--part", choices=("steps", "whole"), help="default: both")
  parser.add_argument("--config", default="unet_cells", metavar="NAME")
  parser.add_argument("--rounds", default=5, type=int, help="of steps; default: 5")
  parser.add_argument("--num_steps", default=4, type=int, help="in a round; default: 4")
  parser.add_argument("--out", default=FOLDER / "results.json", type=pathlib.Path)
  end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
  options, flags = parser.parse_args(sys.argv[1:end]), sys.argv[end + 1 :]
  results = json.loads(options.out.read_text()) if options.out.exists() else {}
  about = {"config": options.config, "flags": flags, "num_seeds": NUM_SEEDS}
  if options.part != "whole":
    values = dict(flag.removeprefix("--config.").split("=", 1) for flag in flags)
    found = measure_steps(options.config, values, options.rounds, options.num_steps)
    results["steps"] = {**about, "device": jax.devices()[0].device_kind, "ways": found}
  if options.part != "steps":
    results["whole"] = {**about, "ways": measure_whole(options.config, flags)}
  options.out.write_text(json.dumps(results, indent=2) + "\n")
  print(json.dumps(results, indent=2))


if __name__ == "__main__":
  main()
