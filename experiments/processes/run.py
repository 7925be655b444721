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


def predict(workdir, sources, outputs, are_joined):
  """Seconds from the start of the processes, one for each input, to the end of the last."""
  environ = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": XLA_FLAGS, "JAX_PLATFORMS": "cpu"}
  for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    environ[name] = "1"
  if are_joined:
    environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
    environ["WORLD_SIZE"] = str(len(sources))
  command = [sys.executable, "-m", "jaxseg.main", "--mode=predict", f"--workdir={workdir}"]
  start = time.time()
  processes = [
    subprocess.Popen(
      ["taskset", "-c", str(rank), *command, f"--input={source}", f"--output={output}"],
      env={**environ, "RANK": str(rank)},
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
    )
    for rank, (source, output) in enumerate(zip(sources, outputs, strict=True))
  ]
  for process in processes:
    if process.wait():
      sys.exit("a process failed; start it by hand to see why")
  return time.time() - start


def make_images(folder, number, size):
  """The folder "in" of images, and links to 32 of them, and to each half of them."""
  (folder / "in").mkdir()
  rng = np.random.default_rng(0)
  for i in range(number):
    coarse = rng.integers(0, 256, (16, 16), dtype=np.uint8)
    Image.fromarray(coarse).resize((size, size)).save(folder / "in" / f"{i:06}.png")
  files = sorted((folder / "in").iterdir())
  for name, part in {"few": files[:32], "half0": files[::2], "half1": files[1::2]}.items():
    (folder / name).mkdir()
    for file in part:
      os.link(file, folder / name / file.name)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("workdir", type=pathlib.Path, help="of a run")
  parser.add_argument("--num_files", type=int, default=200)
  parser.add_argument("--size", type=int, default=512, help="px")
  parser.add_argument("--folder", default=None, help="for images and outputs")
  args = parser.parse_args()
  with tempfile.TemporaryDirectory(dir=args.folder) as folder:
    folder = pathlib.Path(folder)
    make_images(folder, args.num_files, args.size)

    def seconds(*sources, output, are_joined=False):
      outputs = [folder / (output if are_joined else f"{output}{i}") for i in range(len(sources))]
      return predict(
        args.workdir.resolve(), [folder / x for x in sources], outputs, are_joined
      )

    seconds("few", output="compiled")  # the programs stay in the cache
    one = seconds("in", output="one")
    two = seconds("in", "in", output="two", are_joined=True)
    few = seconds("few", output="few"), seconds("few", "few", output="few_by_two", are_joined=True)
    half = seconds("half0", output="by_one")
    apart = seconds("half0", "half1", output="apart")
    files = [path.relative_to(folder / "one0") for path in (folder / "one0").rglob("*.png")]
    same = all(filecmp.cmp(folder / "one0" / x, folder / "two" / x, shallow=False) for x in files)
  print(
    f"{args.num_files} files of {args.size} px: one process {one:.1f} s, two {two:.1f} s "
    f"({two / one:.2f} of it); {len(files)} outputs, {'identical' if same else 'DIFFERENT'}\n"
    f"32 files: {few[0]:.1f} s, {few[1]:.1f} s\n"
    f"half of the files: one process {half:.1f} s; two that know nothing of each other, a half "
    f"each: {apart:.1f} s"
  )


if __name__ == "__main__":
  main()
