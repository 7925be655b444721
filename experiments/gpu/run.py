"""Measures on one GPU, a section at a time; results stay whatever happens to the next section.

python experiments/gpu/run.py [--out=DIR] [--torch=PYTHON] [--only=SECTION] [--quick]
python experiments/gpu/run.py --compile=cuda:h100     compiles instead, where there is no GPU

Each section has a process and a time limit of its own. DIR/results.json is written after each.
"""

import argparse
import importlib
import json
import os
import pathlib
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TOTAL = 720  # s, of all sections
# name: (script, what follows, limit in s), the most important first
SECTIONS = {
  "matmul": ("sections.py", ["matmul"], 60),
  "paper_unet bfloat16": ("sections.py", ["train", "paper_unet", "bfloat16"], 120),
  "torch paper_unet": ("peer.py", ["paper_unet"], 150),
  "deeplab_resnet bfloat16": ("sections.py", ["train", "deeplab_resnet", "bfloat16"], 90),
  "mobilenet_unet bfloat16": ("sections.py", ["train", "mobilenet_unet", "bfloat16"], 90),
  "torch deeplab_resnet": ("peer.py", ["deeplab_resnet"], 120),
  "torch mobilenet_unet": ("peer.py", ["mobilenet_unet"], 120),
  "unet_isbi": ("sections.py", ["train", "unet_isbi", "bfloat16"], 90),
  "border_weight": ("sections.py", ["border_weight"], 40),
  "crf": ("sections.py", ["crf"], 60),
  "on_device": ("sections.py", ["on_device"], 90),
  "paper_unet float32": ("sections.py", ["train", "paper_unet", "float32"], 120),
  "deeplab_resnet float32": ("sections.py", ["train", "deeplab_resnet", "float32"], 90),
  "mobilenet_unet float32": ("sections.py", ["train", "mobilenet_unet", "float32"], 90),
}


def section(name, out, *, python, quick, limit):
  """{"rows": what it printed, "seconds", "error" if there was one} of one section."""
  script, arguments, _ = SECTIONS[name]
  command = [python, str(HERE / script), *arguments, *["--quick"] * quick]
  log, errors = (out / f"{name.replace(' ', '_')}.{suffix}" for suffix in ("jsonl", "log"))
  start, found = time.time(), {}
  with log.open("w") as stdout, errors.open("w") as stderr:
    try:
      gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]  # one of several
      environ = {**os.environ, "CUDA_VISIBLE_DEVICES": gpu, "PYTHONPATH": str(ROOT)}
      environ["PYTHONUNBUFFERED"] = "1"
      done = subprocess.run(command, stdout=stdout, stderr=stderr, timeout=limit, env=environ)
    except subprocess.TimeoutExpired:
      found["error"] = f"not done within {limit:.0f} s"
    else:
      if done.returncode:
        last = errors.read_text().strip().splitlines()[-1:]
        found["error"] = f"exit status {done.returncode}: {' '.join(last)}"
  rows = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
  return {"rows": rows, "seconds": round(time.time() - start, 1), **found}


def add_ratios(results):
  """Share of the measured matmul peak, and images/s as a multiple of those of PyTorch."""
  peaks, theirs = {}, {}
  for found in results.values():
    for row in found["rows"]:
      if "matmul_tflops" in row:
        peaks[row["precision"]] = row["matmul_tflops"]
      if row.get("by") == "torch" and "images_per_second" in row:
        theirs[row["program"], row["precision"], row["batch"]] = row["images_per_second"]
  for found in results.values():
    for row in found["rows"]:
      if row.get("by") == "jaxseg" and (rate := row.get("images_per_second")):
        if peak := peaks.get(row["precision"]):
          row["share_of_matmul"] = row["tflop_per_image"] * rate / peak
        if other := theirs.get((row["program"], row["precision"], row["batch"])):
          row["times_torch"] = rate / other


def compile_all(target):
  """Compiles what the sections run: see experiments/accelerators."""
  folder = ROOT / "experiments" / "accelerators"
  sys.path[:0] = [str(folder), str(HERE)]
  compiling, programs = (importlib.import_module(name) for name in ("compile", "programs_of_gpu"))
  failed = False
  for name, what, values in programs.all_programs():
    texts = [f"{key}={json.dumps(value)}" for key, value in values.items()]
    row = compiling.compile_apart(name, what, target, values=texts)
    print(json.dumps(row), flush=True)
    failed |= row["compiles"] is not True
  sys.exit(failed)


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--out", type=pathlib.Path, default=HERE / "results", metavar="DIR")
  parser.add_argument("--torch", default=sys.executable, help="Python of PyTorch, if another")
  parser.add_argument("--only", action="append", choices=list(SECTIONS), help="default: all")
  parser.add_argument("--quick", action="store_true", help="narrow networks; runs on a CPU, too")
  parser.add_argument("--compile", default="", metavar="TARGET")
  args = parser.parse_args()
  if args.compile:
    compile_all(args.compile)
  args.out.mkdir(parents=True, exist_ok=True)
  end, results = time.time() + TOTAL, {}
  for name in args.only or SECTIONS:
    script, _, limit = SECTIONS[name]
    python = args.torch if script == "peer.py" else sys.executable
    left = end - time.time()
    if left < 5:
      results[name] = {"rows": [], "seconds": 0, "error": f"left out: {TOTAL} s are over"}
    else:
      limit = min(limit, left)
      results[name] = section(name, args.out, python=python, quick=args.quick, limit=limit)
    add_ratios(results)
    (args.out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    print(name, json.dumps(results[name]), flush=True)


if __name__ == "__main__":
  main()
