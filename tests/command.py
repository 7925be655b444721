"""The real command in processes of its own, and what it leaves behind."""

import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
# Programs that run for seconds are compiled fast rather than well.
FUSED = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
FUSED += " --xla_cpu_parallel_codegen_split_count=1"
FAST = FUSED
if importlib.metadata.version("jaxlib").startswith("0.10."):
  # The fusion emitters take two thirds of the time; jaxlib 0.12 cannot do without them.
  FAST += " --xla_cpu_use_fusion_emitters=false"


def start(
  config, workdir, values, *more, num_devices=1, flags=FAST, start_new_session=False, **environ
):
  """Starts `python -m jaxseg.main`.

  Args:
    config: name of a file in configs/, or a pathlib.Path; None for that of the run.  workdir: path.
    values: {key of the config: value}.  more: arguments.  flags: of XLA.
    start_new_session: as in subprocess.Popen.
    environ: more environment variables. (conftest.py sets some that count.)
  Returns:
    subprocess.Popen with stdout (and stderr in it) as text.
  """
  file = config if isinstance(config, pathlib.Path) else f"configs/{config}.py"
  arguments = [f"--workdir={workdir}", *([f"--config={file}"] if config else [])]
  arguments += [*(f"--config.{key}={value}" for key, value in values.items()), *more]
  devices = f"--xla_force_host_platform_device_count={num_devices}"
  return subprocess.Popen(
    [sys.executable, "-m", "jaxseg.main", *arguments],
    cwd=ROOT,
    env={**os.environ, "XLA_FLAGS": f"{flags} {devices}", **environ},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    start_new_session=start_new_session,
  )


def finish(*processes, status=0, timeout=600):
  """Waits for processes; raises AssertionError with their output if one ends otherwise."""
  try:
    outputs = [process.communicate(timeout=timeout)[0] for process in processes]
  finally:
    for process in processes:
      process.kill()
  found = [process.returncode for process in processes]
  assert found == [status] * len(processes), (found, *(text[-3000:] for text in outputs))


def read_checkpoint(workdir, step):
  """Everything in a checkpoint as nested dicts of numpy arrays."""
  import orbax.checkpoint as ocp  # Not above: conftest.py imports this file before it sets up JAX.

  from jaxseg import checkpoint

  args = {"variables": ocp.args.StandardRestore(), "optimizer": ocp.args.StandardRestore()}
  with checkpoint.open_manager(workdir, read_only=True) as manager:
    return dict(manager.restore(step, args=ocp.args.Composite(**args, data=ocp.args.JsonRestore())))


def read_json(text):
  """As another program reads it: NaN and the like are no JSON."""

  def refuse(word):
    raise AssertionError(f"{word} is no JSON")

  return json.loads(text, parse_constant=refuse)


def read_lines(workdir, split, *left_out):
  """Objects of metrics.jsonl of one split."""
  lines = [read_json(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  return [
    {k: v for k, v in line.items() if k not in left_out} for line in lines if line["split"] == split
  ]


def checkpoints(workdir):
  """The steps that have one."""
  return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())
