"""Compiles training steps and predictions for TPUs and GPUs that are not there.

python experiments/accelerators/compile.py --target=tpu:v5e:2x2 --out=new.json [--config=NAME]

Each program has a process of its own, because a compiler that gives up may end its process.
"""

import argparse
import importlib
import json
import os
import pathlib
import re
import subprocess
import sys
import time

FOLDER = pathlib.Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
# Clock in Hz and matrix products in bfloat16 in FLOP/s of a chip, as published.
CHIPS = {"v4": (1.05e9, 275e12), "v5e": (1.5e9, 197e12), "v5p": (1.75e9, 459e12),
         "v6e": (1.75e9, 918e12)}  # fmt: skip
OPERATIONS = {"flax.linen": "--plain", "Keras": "--keras"}  # in place of ours


def find_devices(target):
  """Devices of a topology, "tpu:v5e:2x2", or one GPU, "cuda:h100"."""
  from jax.experimental import topologies

  platform, name = target.split(":", 1)
  if platform == "cuda":
    gpu = (FOLDER / f"{name}.txtpb").read_text()
    options = {"target_config": gpu, "topology": "1x1x1"}
    return topologies.get_topology_desc(platform="cuda", **options).devices
  return topologies.get_topology_desc(platform=platform, topology_name=name).devices


def prepare():
  """Sets what JAX and the compiler read from the environment when they are imported."""
  os.environ |= {"JAX_PLATFORMS": "cpu", "KERAS_BACKEND": "jax"}
  os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-4"}
  os.environ |= {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}
  os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # no device, no conflict
  # Nothing can be timed without a device, so that the compiler for GPUs must not try.
  os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
  os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_autotune_level=0"


def compile_here(name, what, target, values, hlo_file, operations):
  """The row of one program; see README.md for its columns."""
  prepare()
  sys.path[:0] = [str(ROOT), str(FOLDER)]
  hlo = importlib.import_module("hlo")
  programs = importlib.import_module("keras_peer" if operations == "Keras" else "programs")
  if operations == "flax.linen":
    importlib.import_module("plain").use()
  devices = find_devices(target)
  lowered, facts = programs.lower(name, what, devices, values)
  start = time.time()
  compiled = lowered.compile()
  row = {"devices": len(devices), **facts, "compile_s": time.time() - start}
  text, memory, cost = compiled.as_text(), compiled.memory_analysis(), compiled.cost_analysis()
  if hlo_file:
    pathlib.Path(hlo_file).write_text(text)
  row["temp_GiB"] = memory.temp_size_in_bytes / 2**30
  row["argument_GiB"] = memory.argument_size_in_bytes / 2**30
  if target.startswith("cuda"):
    return row | importlib.import_module("cuda").facts(text)
  row |= {"TFLOP": cost["flops"] / 1e12, "GB": cost["bytes accessed"] / 1e9}
  costs = hlo.costs(text)
  cycles = sum(cost[0] for cost in costs)
  row["Mcycles"] = cycles / 1e6
  if unknown := sum(cost[0] for cost in costs if not cost[-1]):
    row["Mcycles_of_loops_counted_once"] = unknown / 1e6
  clock, peak = CHIPS.get(target.split(":")[1], (None, None))
  if clock:
    seconds = cycles / clock
    row |= {"ms": seconds * 1e3, "share": cost["flops"] / seconds / peak}
    if "model_TFLOP" in row:  # not of the CRF
      row["model_share"] = row["model_TFLOP"] * 1e12 / seconds / peak
  return row


def reason(output):
  """The line of a compiler's last words that says why."""
  lines = [line for line in output.splitlines() if line.strip()]
  marks = ("Check failed", "RESOURCE_EXHAUSTED", "INTERNAL", "UNIMPLEMENTED", "Error")
  telling = [line for mark in marks for line in lines if mark in line] or lines[-1:] or ["no word"]
  return re.sub(r"^[FEWI]\d{4} \S+ +\d+ ", "", telling[0]).strip()[:300]


def compile_apart(name, what, target, *, values=(), timeout=900, hlo_file="", operations=""):
  """The row of one program, compiled by a process of its own; "compiles" is True or why not."""
  row = {"config": name, "what": what, "target": target}
  row |= {"set": list(values)} if values else {}
  row |= {"operations": operations} if operations else {}
  command = [sys.executable, __file__, f"--here={what}", f"--config={name}", f"--target={target}"]
  command += [f"--hlo={hlo_file}", *(f"--set={value}" for value in values)]
  command += [OPERATIONS[operations]] if operations else []
  try:
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
  except subprocess.TimeoutExpired:
    return row | {"compiles": f"no: not within {timeout} s"}
  if done.returncode:
    kind = "aborts" if done.returncode < 0 else "fails"
    return row | {"compiles": f"{kind}: {reason(done.stderr)}"}
  found = json.loads(done.stdout.splitlines()[-1])
  shown = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in found.items()}
  return row | {"compiles": True} | shown


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--config", action="append", metavar="NAME", help="default: all, for hours")
  parser.add_argument("--target", action="append", metavar="tpu:v5e:2x2", help="or cuda:h100")
  parser.add_argument("--what", choices=("step", "predict"), help="default: both")
  parser.add_argument("--out", type=pathlib.Path, help="rows are added, or replaced, there")
  parser.add_argument("--set", action="append", default=[], metavar="KEY=JSON", help="config keys")
  parser.add_argument("--hlo", default="", metavar="FILE", help="keeps the compiled program")
  others = parser.add_mutually_exclusive_group()
  for operations, flag in OPERATIONS.items():
    text = f"{operations} in place of our operations"
    others.add_argument(flag, dest="operations", action="store_const", const=operations, help=text)
  parser.add_argument("--timeout", type=int, default=900, metavar="SECONDS")
  parser.add_argument("--here", help=argparse.SUPPRESS)
  args = parser.parse_args()
  targets = args.target or ["tpu:v5e:2x2"]
  if args.here:
    values = {key: json.loads(text) for key, text in (pair.split("=", 1) for pair in args.set)}
    row = compile_here(args.config[0], args.here, targets[0], values, args.hlo, args.operations)
    print(json.dumps(row))
    return
  names = args.config
  if args.operations == "Keras" and not names:
    parser.error("--keras needs --config; keras_peer.py has the names")
  if not names:
    files = sorted(path.stem for path in (ROOT / "configs").glob("[!_]*.py"))
    names = [file for file in files if file != "default"]
    source = (FOLDER / "programs.py").read_text()
    names += re.findall(r'^  "(\w+)": \(', source.split("NETWORKS = {", 1)[1], re.M)
  for target in targets:
    for name in names:
      for what in [args.what] if args.what else ("step", "predict"):
        options = {"values": args.set, "timeout": args.timeout, "hlo_file": args.hlo}
        options["operations"] = args.operations
        row = compile_apart(name, what, target, **options)
        print(json.dumps(row), flush=True)
        if args.out:
          save(args.out, row)


def save(path, row):
  """Puts a row into a JSON list, in place of the one of the same program and target."""
  rows = json.loads(path.read_text()) if path.exists() else []

  def key(x):
    names = ("target", "config", "what", "set", "operations")
    return [str(x.get(name, "")) for name in names]

  rows = sorted([x for x in rows if key(x) != key(row)] + [row], key=key)
  path.write_text("[\n" + ",\n".join(json.dumps(x) for x in rows) + "\n]\n")


if __name__ == "__main__":
  main()
