"""What a step of three seeds costs an accelerator that is not there, as its compiler estimates.

python experiments/seeds/compile.py [--target=tpu:v5e:2x2] [--config=NAME ...]

Needs the package libtpu (pip install 'jax[tpu]'), but no TPU. Replaces these programs' rows of
compiled.json. Each program has a process of its own.
"""

import argparse
import json
import pathlib
import runpy
import subprocess
import sys
import time

FOLDER = pathlib.Path(__file__).resolve().parent
ACCELERATORS = FOLDER.parent / "accelerators"
NUM_SEEDS = 3


def compile_here(name, way, target):
  """{"Mcycles" or facts of a GPU program, "temp_MiB", "compile_s"} of one program."""
  other = runpy.run_path(str(ACCELERATORS / "compile.py"))
  other["prepare"]()
  sys.path[:0] = [str(FOLDER.parents[1]), str(ACCELERATORS), str(FOLDER)]
  import hlo
  import jax
  import jax.numpy as jnp
  import programs
  import ways

  config, info = programs.load(name, {})
  step, first = ways.make_step(config, info)
  shape = jax.ShapeDtypeStruct
  image = shape((config.train.batch_size, *[config.data.image_size] * 2, info.channels), jnp.uint8)
  batch = {"image": image, "mask": shape(image.shape[:3], jnp.uint8)}
  batch["index"] = shape(image.shape[:1], jnp.int32)
  arguments = jax.eval_shape(lambda: first(0)), batch, jax.eval_shape(lambda: jax.random.key(0))
  if way != "one":
    arguments = jax.tree.map(lambda x: shape((NUM_SEEDS, *x.shape), x.dtype), arguments)
  program = ways.make_way(way, step, NUM_SEEDS, other["find_devices"](target)[0])
  start = time.time()
  compiled = program.lower(*arguments).compile()
  text = compiled.as_text()
  row = {"compile_s": round(time.time() - start, 1)}
  row["temp_MiB"] = round(compiled.memory_analysis().temp_size_in_bytes / 2**20)
  if target.startswith("cuda"):
    import cuda

    return row | cuda.facts(text)
  costs = hlo.costs(text)
  row["Mcycles"] = round(sum(cost[0] for cost in costs) / 1e6, 2)
  row["Mcycles_of_loops_counted_once"] = round(sum(c[0] for c in costs if not c[-1]) / 1e6, 2)
  return row


def main():
  form = argparse.RawDescriptionHelpFormatter
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
  parser.add_argument("--config", action="append", metavar="NAME", help="default: unet_cells")
  parser.add_argument("--target", default="tpu:v5e:2x2", help="or cuda:h100")
  parser.add_argument("--way", action="append", help="default: all of ways.py")
  parser.add_argument("--out", default=FOLDER / "compiled.json", type=pathlib.Path)
  parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
  args = parser.parse_args()
  names, ways = args.config or ["unet_cells"], args.way or ["one", "loop", "written out", "vmap"]
  if args.here:
    print(json.dumps(compile_here(names[0], ways[0], args.target)))
    return
  for name in names:
    for way in ways:
      command = [sys.executable, __file__, "--here", f"--config={name}", f"--way={way}"]
      done = subprocess.run([*command, f"--target={args.target}"], capture_output=True, text=True)
      about = {"target": args.target, "config": name, "way": way}
      found = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None
      row = about | (found or {"fails": done.stderr.strip().splitlines()[-1][:300]})
      print(json.dumps(row), flush=True)
      rows = json.loads(args.out.read_text()) if args.out.exists() else []
      rows = [x for x in rows if any(x[key] != about[key] for key in about)]
      args.out.write_text("[\n" + ",\n".join(map(json.dumps, [*rows, row])) + "\n]\n")


if __name__ == "__main__":
  main()
