"""Measures on one GPU or TPU, a section at a time; results stay whatever happens to the next one.

python experiments/gpu/run.py [--out=DIR] [--torch=PYTHON] [--only=NAME ...] [--missing]
                              [--quick] [--tpu]
python experiments/gpu/run.py --compile=cuda:h100     compiles instead, where there is no GPU
python experiments/gpu/run.py --table [--out=DIR]     prints DIR/results.json as rows of Markdown

Each section has a process and a time limit of its own. DIR/results.json is written after each, and
keeps what it has of other sections. NAME is a section (paper_unet-bfloat16) or the first part of
its name: paper_unet is that network in all precisions, torch all of PyTorch. DIR/compiled keeps
what XLA compiled, so that a section that ran out of time gets further in the next run; the section
"training" compiles each time. The exit status is 1 if a section failed.
"""

import argparse
import importlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TOTAL = 720  # s, of all sections
SAME = ("program", "precision", "batch", "size")  # of rows that compare
LEFT_OUT = "left out"
TPU_FACTOR = 2  # its compiler takes longer than those of a GPU: of all limits
# name: (script, what follows, limit in s), the most important first
SECTIONS = {
  "matmul": ("sections.py", ["matmul"], 60),
  "paper_unet-bfloat16": ("sections.py", ["train", "paper_unet", "bfloat16"], 120),
  "torch-paper_unet": ("peer.py", ["paper_unet"], 150),
  "deeplab_resnet-bfloat16": ("sections.py", ["train", "deeplab_resnet", "bfloat16"], 90),
  "mobilenet_unet-bfloat16": ("sections.py", ["train", "mobilenet_unet", "bfloat16"], 90),
  "torch-deeplab_resnet": ("peer.py", ["deeplab_resnet"], 120),
  "torch-mobilenet_unet": ("peer.py", ["mobilenet_unet"], 120),
  "unet_isbi": ("sections.py", ["train", "unet_isbi", "bfloat16"], 90),
  "border_weight": ("sections.py", ["border_weight"], 40),
  "crf": ("sections.py", ["crf"], 60),
  "training": ("sections.py", ["training"], 120),
  "input": ("sections.py", ["input"], 40),
  "on_device": ("sections.py", ["on_device"], 90),
  "deeplab_mobilenet-bfloat16": ("sections.py", ["train", "deeplab_mobilenet", "bfloat16"], 90),
  "padded_unet-bfloat16": ("sections.py", ["train", "padded_unet", "bfloat16"], 60),
  "fcn8s_vgg-bfloat16": ("sections.py", ["train", "fcn8s_vgg", "bfloat16"], 90),
  "torch-deeplab_mobilenet": ("peer.py", ["deeplab_mobilenet"], 120),
  "torch-padded_unet": ("peer.py", ["padded_unet"], 60),
  "torch-fcn8s_vgg": ("peer.py", ["fcn8s_vgg"], 120),
  "paper_unet-float32": ("sections.py", ["train", "paper_unet", "float32"], 120),
  "deeplab_resnet-float32": ("sections.py", ["train", "deeplab_resnet", "float32"], 90),
  "mobilenet_unet-float32": ("sections.py", ["train", "mobilenet_unet", "float32"], 90),
  "deeplab_mobilenet-float32": ("sections.py", ["train", "deeplab_mobilenet", "float32"], 90),
  "padded_unet-float32": ("sections.py", ["train", "padded_unet", "float32"], 60),
  "fcn8s_vgg-float32": ("sections.py", ["train", "fcn8s_vgg", "float32"], 90),
}
# One chip of several, for each process.
ONE_CHIP = {
  "TPU_VISIBLE_CHIPS": "0", "TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1", "TPU_PROCESS_BOUNDS": "1,1,1"
}  # fmt: skip


def section(name, out, *, python, quick, limit):
  """{"rows": what it printed, "seconds", "error" if there was one} of one section."""
  script, arguments, _ = SECTIONS[name]
  command = [python, str(HERE / script), *arguments, *["--quick"] * quick]
  log, errors = (out / f"{name}.{suffix}" for suffix in ("jsonl", "log"))
  start, found = time.time(), {}
  with log.open("w") as stdout, errors.open("w") as stderr:
    try:
      gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]  # one of several
      environ = {**os.environ, **ONE_CHIP, "CUDA_VISIBLE_DEVICES": gpu, "PYTHONPATH": str(ROOT)}
      # Each training begins with an empty cache: its time is with compilation.
      compiled = str(out.resolve() / "compiled")
      if name == "training":
        compiled += ".training"
        shutil.rmtree(compiled, ignore_errors=True)
      environ |= {"PYTHONUNBUFFERED": "1", "JAX_COMPILATION_CACHE_DIR": compiled,
                  "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2"}  # fmt: skip
      done = subprocess.run(command, stdout=stdout, stderr=stderr, timeout=limit, env=environ)
    except subprocess.TimeoutExpired:
      found["error"] = f"not done within {limit:.0f} s (--limit gives more); see {errors}"
    else:
      if done.returncode:
        last = errors.read_text().strip().splitlines()[-1:]
        found["error"] = f"exit status {done.returncode}: {' '.join(last)}; see {errors}"
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
        theirs[tuple(map(row.get, SAME))] = row["images_per_second"]
  for found in results.values():
    for row in found["rows"]:
      if row.get("by") == "jaxseg" and (rate := row.get("images_per_second")):
        if peak := peaks.get(row["precision"]):
          row["share_of_matmul"] = row["tflop_per_image"] * rate / peak
        if other := theirs.get(tuple(map(row.get, SAME))):
          row["times_torch"] = rate / other


def has_accelerator():
  """Whether JAX has other devices than CPUs; in a process of its own, as it would keep them."""
  code = "import jax; print(jax.default_backend())"
  environ = {**os.environ, **ONE_CHIP}
  command = [sys.executable, "-c", code]
  done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environ)
  if done.returncode:
    sys.exit("JAX does not start here: see above")
  return done.stdout.strip() not in ("", "cpu")


def is_better(found, before):
  """Whether a result takes the place of an earlier one: what was measured is kept."""
  if not (is_missing(found) and before):
    return True
  new, old = (sum("note" not in row for row in one["rows"]) for one in (found, before))
  is_tried = not found.get("error", "").startswith(LEFT_OUT)
  return is_missing(before) and (new > old or (new == old and is_tried))


def is_missing(found):
  """Whether a section was not measured as a whole; PyTorch may not have been installed."""
  return "error" in found or not any("note" not in row for row in found["rows"])


def print_table(results):
  """Markdown: a table of the trained networks, and one of all else."""
  heads = ("network", "precision", "batch", "images/s", "of the matmul peak", "times PyTorch", "on")
  print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
  rows = [row for found in results.values() for row in found["rows"]]
  if not any(row.get("by") == "jaxseg" for row in rows):
    print("no network was measured yet", file=sys.stderr)
  for found in results.values():
    for row in found["rows"]:
      if "images_per_second" in row:
        share, times = (row.get(name) for name in ("share_of_matmul", "times_torch"))
        name = row["program"] + (", PyTorch" if row["by"] == "torch" else "")
        cells = [name, row["precision"], row["batch"], f"{row['images_per_second']:.4g}"]
        cells += [f"{share:.0%}" if share else "-", f"{times:.2f}" if times else "-", row["device"]]
        print(f"| {' | '.join(map(str, cells))} |")
  print("\n| section | figures |\n|---|---|")
  for name, found in results.items():
    for row in found["rows"]:
      if "by" not in row:
        texts = (f"{k} {x:.4g}" if isinstance(x, float) else f"{k} {x}" for k, x in row.items())
        print(f"| {name} | {', '.join(texts)} |")


def choose(names, parser):
  """The sections that --only names, in their order; all without it."""
  chosen = set()
  for name in names:
    found = {x for x in SECTIONS if x == name or x.startswith(f"{name}-")}
    if not found:
      parser.error(f"--only={name}: no such section; choose from {', '.join(SECTIONS)}")
    chosen |= found
  return [name for name in SECTIONS if name in chosen or not names]


def earlier_results(path, quick, parser):
  """What a results.json holds; it may not mix networks that are narrow with those that are not."""
  results = json.loads(path.read_text()) if path.exists() else {}
  if any(found.get("quick", False) != quick for found in results.values()):
    kind = "without --quick" if quick else "of --quick"
    parser.error(f"{path} has results {kind}: give another --out")
  return results


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
  form = argparse.RawDescriptionHelpFormatter
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=form, epilog=f"sections: {', '.join(SECTIONS)}"
  )
  out, text = HERE / "results", "default: experiments/gpu/results"
  parser.add_argument("--out", type=pathlib.Path, default=out, metavar="DIR", help=text)
  parser.add_argument("--torch", default=sys.executable, help="Python of PyTorch, if another")
  text = "section, as often as needed; default: all"
  parser.add_argument("--only", action="append", default=[], metavar="NAME", help=text)
  parser.add_argument("--quick", action="store_true", help="narrow networks; runs on a CPU, too")
  text = "only sections that DIR has no figures of, or an error"
  parser.add_argument("--missing", action="store_true", help=text)
  text = "s, of each section; default: its own, 40 to 150 s, on a TPU twice as much"
  parser.add_argument("--limit", type=float, metavar="SECONDS", help=text)
  text = "leaves PyTorch out; sections may take twice as long"
  parser.add_argument("--tpu", action="store_true", help=text)
  parser.add_argument("--table", action="store_true", help="prints what was measured")
  parser.add_argument("--compile", default="", metavar="TARGET")
  args = parser.parse_args()
  if args.compile:
    compile_all(args.compile)
  names, path = choose(args.only, parser), args.out / "results.json"
  if args.table:
    if not path.exists():
      parser.error(f"no {path}: run without --table first")
    print_table(json.loads(path.read_text()))
    return
  results = earlier_results(path, args.quick, parser)
  if args.tpu:
    names = [name for name in names if SECTIONS[name][0] != "peer.py"]
  if args.missing:
    names = [name for name in names if is_missing(results.get(name, {"rows": []}))]
    if not names:
      print("nothing is missing; --table prints the results")
  if names and not args.quick and not has_accelerator():
    parser.error("JAX finds no GPU or TPU here: --quick runs narrow networks on a CPU")
  args.out.mkdir(parents=True, exist_ok=True)
  end, failed = time.time() + TOTAL, False
  for name in names:
    script, _, limit = SECTIONS[name]
    python = args.torch if script == "peer.py" else sys.executable
    left = end - time.time()
    if left < 5:
      found = {"rows": [], "seconds": 0, "error": f"{LEFT_OUT}: {TOTAL} s are over"}
    else:
      limit = min(args.limit or limit * (TPU_FACTOR if args.tpu else 1), left)
      found = section(name, args.out, python=python, quick=args.quick, limit=limit)
    if is_better(found, results.get(name)):
      results[name] = found | ({"quick": True} if args.quick else {})
    add_ratios(results)
    path.write_text(json.dumps(results, indent=2) + "\n")
    print(name, json.dumps(found), flush=True)
    failed |= "error" in found
  sys.exit(failed)


if __name__ == "__main__":
  main()
