"""The time that devices wait between the programs of training steps, from a jax.profiler trace.

python experiments/on_device/gaps.py --pets=DIR
python experiments/on_device/gaps.py --trace=WORKDIR/profile [--steps_per_call=N]

The first takes traces of the steps of `measure.py` and writes gaps.json; DIR is
config.data.data_dir of configs/unet_pets.py. The second reads the trace of a run of
config.train.profile_steps, on whatever device it ran; N is config.train.steps_per_call of that run,
whose calls must all have N steps. Both print

  calls    runs of the program that takes most of the time
  step_ms  from the start of one call to that of the next, divided by N
  gap_ms   of that, between the end of a call and the start of the next, divided by N
  share    gap_ms / step_ms
"""

import argparse
import collections
import json
import pathlib
import sys
import tempfile

import jax
import numpy as np

from configs import unet_pets
from jaxseg import UserError

NUM_STEPS = 24


def runs_of_programs(profile):
  """{device: {program: [(start, end) of each run, ns]}} of a `jax.profiler.ProfileData`.

  TPUs and GPUs have planes of their own, with a line of programs. On the CPU, threads have a line,
  whose events say to which run of which program they belong.
  """
  planes = [plane for plane in profile.planes if plane.name.startswith("/device:")]
  found = collections.defaultdict(lambda: collections.defaultdict(list))
  for plane in planes:
    for line in plane.lines:
      for event in line.events if line.name == "XLA Modules" else ():
        span = event.start_ns, event.start_ns + event.duration_ns
        found[plane.name][event.name.split("(")[0]].append(span)
  if found:
    return found
  programs, spans = {}, {}
  for plane in planes or profile.planes:
    for event in (event for line in plane.lines for event in line.events):
      stats = dict(event.stats)
      if "run_id" not in stats:
        continue
      run = f"{plane.name} {stats.get('device_ordinal', 0)}", stats["run_id"]
      start, end = spans.get(run, (np.inf, 0))
      spans[run] = min(start, event.start_ns), max(end, event.start_ns + event.duration_ns)
      if "hlo_module" in stats:
        programs[run] = stats["hlo_module"]
  for (device, number), program in programs.items():
    found[device][program].append(spans[device, number])
  return found


def gaps(profile, steps_per_call=1):
  """{"calls", "step_ms", "gap_ms", "share"} of the program that takes most of the time.

  Gaps are from the end of one of its runs to the start of the next; means per step, over devices.
  """
  rows = []
  for programs in runs_of_programs(profile).values():
    runs = max(programs.values(), key=lambda spans: sum(end - start for start, end in spans))
    starts, ends = np.array(sorted(runs)).T
    if len(runs) > 1:
      wait = np.maximum(starts[1:] - ends[:-1], 0).sum()
      rows.append((len(runs), starts[-1] - starts[0], wait))
  if not rows:
    raise SystemExit("the trace has no two runs of a program")
  calls, wall, wait = np.sum(rows, axis=0)
  per_step = 1e6 * (calls - len(rows)) * steps_per_call
  return {
    "calls": int(calls) // len(rows),
    "step_ms": round(wall / per_step, 3),
    "gap_ms": round(wait / per_step, 3),
    "share": round(wait / wall, 4),
  }


def read_trace(folder):
  """The newest trace in a folder."""
  files = sorted(pathlib.Path(folder).rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
  if not files:
    raise SystemExit(f"no *.xplane.pb in {folder}")
  return jax.profiler.ProfileData.from_file(str(files[-1]))


def trace(steps):
  """`gaps` of some steps."""
  options = jax.profiler.ProfileOptions()
  options.python_tracer_level = 0  # which would slow down the host
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder, profiler_options=options):
      steps.seconds(NUM_STEPS)
    return gaps(read_trace(folder), steps.config.train.steps_per_call)


def main():
  form = argparse.RawDescriptionHelpFormatter
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
  source = parser.add_mutually_exclusive_group(required=True)
  source.add_argument("--pets", metavar="DIR")
  source.add_argument("--trace", metavar="FOLDER")
  parser.add_argument("--steps_per_call", type=int, default=1, metavar="N", help="default: 1")
  folders = parser.parse_args()
  if folders.trace:
    print(json.dumps(gaps(read_trace(folders.trace), folders.steps_per_call)))
    return
  import measure  # beside this file, where Python looks when this is the program

  config = unet_pets.get_config()
  config.update_from_flattened_dict({**measure.NARROW, "data.data_dir": folders.pets})
  results = {}
  try:
    variants = measure.start_variants(config)
  except UserError as error:
    sys.exit(f"--pets={folders.pets}: {error}")
  for name, steps in variants.items():
    results[name] = trace(steps)
    print(json.dumps({name: results[name]}), flush=True)
  pathlib.Path(__file__).with_name("gaps.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
  main()
