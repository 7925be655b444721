"""Seconds of --mode=predict with one process on one core, and with two on two cores.

python experiments/processes/run.py WORKDIR [--num_files=200] [--size=512] [--folder=DIR]
"""

import argparse
import filecmp
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
from PIL import Image

ROOT = pathlib.Path(__file__).parents[2]
XLA_FLAGS = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


def predict(workdir, source, output, num_processes):
  """Seconds from the start of the processes to the end of the last."""
  environ = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": XLA_FLAGS, "JAX_PLATFORMS": "cpu"}
  for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    environ[name] = "1"
  if num_processes > 1:
    environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
    environ["WORLD_SIZE"] = str(num_processes)
  command = [sys.executable, "-m", "jaxseg.main", "--mode=predict", f"--workdir={workdir}",
             f"--input={source}", f"--output={output}"]  # fmt: skip
  start = time.time()
  processes = [
    subprocess.Popen(
      ["taskset", "-c", str(rank), *command],
      env={**environ, "RANK": str(rank)},
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
    )
    for rank in range(num_processes)
  ]
  for process in processes:
    if process.wait():
      sys.exit("a process failed; start it by hand to see why")
  return time.time() - start


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("workdir", type=pathlib.Path, help="of a run")
  parser.add_argument("--num_files", type=int, default=200)
  parser.add_argument("--size", type=int, default=512, help="px")
  parser.add_argument("--folder", default=None, help="for images and outputs")
  args = parser.parse_args()
  with tempfile.TemporaryDirectory(dir=args.folder) as folder:
    folder = pathlib.Path(folder)
    (folder / "in").mkdir()
    rng = np.random.default_rng(0)
    for i in range(args.num_files):
      coarse = rng.integers(0, 256, (16, 16), dtype=np.uint8)
      Image.fromarray(coarse).resize(2 * (args.size,)).save(folder / "in" / f"{i:06}.png")
    # Compiles; the programs stay in the cache.
    (folder / "few").mkdir()
    for file in sorted((folder / "in").iterdir())[:32]:
      os.link(file, folder / "few" / file.name)
    workdir = args.workdir.resolve()
    few = [predict(workdir, folder / "few", folder / f"few{n}", n) for n in (1, 2)]
    seconds = [predict(workdir, folder / "in", folder / f"out{n}", n) for n in (1, 2)]
    files = [path.relative_to(folder / "out1") for path in (folder / "out1").rglob("*.png")]
    same = all(filecmp.cmp(folder / "out1" / x, folder / "out2" / x, shallow=False) for x in files)
    one, two = seconds
    print(
      f"{args.num_files} files of {args.size} px: one process {one:.1f} s, two {two:.1f} s "
      f"({two / one:.2f} of it); 32 files: {few[0]:.1f} s, {few[1]:.1f} s; {len(files)} outputs, "
      f"{'identical' if same else 'DIFFERENT'}"
    )


if __name__ == "__main__":
  main()
