"""Trains for the same minutes with jaxseg and with segmentation_models.pytorch, in turn.

python experiments/race/run.py DIR --weights=FILE.h5 --peer-python=PYTHON [--minutes=20]
python experiments/race/run.py --plot     draws race.png from results.json again, prints its tables

DIR is CamVid, as configs/unet_camvid.py says; FILE.h5 is MobileNetV2 of Keras Applications; PYTHON
is that of an environment with the other library. README.md has the protocol.
"""

import argparse
import datetime
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

import numpy as np

from jaxseg import UserError

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
MARGIN = 0.03  # part of the time that our schedule leaves, as it is made from a calibration
LINES, LOGGED, PEER_STEPS = 6, 4, 6  # calibration: lines of LOGGED steps; steps of the other
TOLERANCE = 1e-3  # of the features of both encoders
CONFIG = "--config=configs/deeplabv3plus_camvid_medium.py"
# name: (theirs, flags of ours)
NETWORKS = {
  "U-Net": ("Unet", [
    CONFIG, "--config.model.name=encoder_unet", "--config.model.output_stride=32",
    "--config.predict.output_stride=0", "--config.model.up=transposed",
    "--config.model.widths=(256,128,64,32)",
  ]),
  "DeepLabv3+": ("DeepLabV3Plus", [CONFIG]),
}  # fmt: skip
# name: flags of peer.py
SIDES = {
  "jaxseg": None,
  "smp": ["--recipe=published"],
  "smp, settings of jaxseg": ["--recipe=ours"],
  "the same, without its last layer": ["--recipe=ours", "--without_last"],
}
USUAL = list(SIDES)[:3]
COLOURS = dict(zip(SIDES, ("tab:blue", "tab:orange", "tab:green", "tab:olive"), strict=True))


def layer_names():
  """[(convolution, normalisation)] of MobileNetV2 in their order, as Keras names them."""
  names = [("Conv1", "bn_Conv1")]
  for i in range(17):
    prefix = f"block_{i}" if i else "expanded_conv"
    kinds = ("expand", "depthwise", "project")[not i :]
    names += [(f"{prefix}_{kind}", f"{prefix}_{kind}_BN") for kind in kinds]
  return [*names, ("Conv_1", "Conv_1_bn")]


def convert(weights, data, folder):
  """Writes weights.npz, and features.npz: what our encoder makes of the first image of val."""
  import jax
  from PIL import Image

  from jaxseg.models import mobilenet_v2, pretrained

  tensors, layers = pretrained.read_weights(weights), {}
  for i, (conv, norm) in enumerate(layer_names()):
    layers[f"{i}/kernel"] = tensors.get(f"{conv}/kernel", tensors.get(f"{conv}/depthwise_kernel"))
    for name in ("gamma", "beta", "moving_mean", "moving_variance"):
      layers[f"{i}/{name}"] = tensors[f"{norm}/{name}"]
  np.savez(folder / "weights.npz", **layers)
  path = min((data / "val" / "images").iterdir())
  image = np.asarray(Image.open(path).convert("RGB"))[None]
  encoder = mobilenet_v2.MobileNetV2()
  variables = jax.eval_shape(
    lambda: encoder.init(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32), train=False)
  )
  leave = encoder.unused_layers
  variables = pretrained.assign_weights(variables, tensors, leave=leave, source=weights)
  stages = encoder.apply(variables, np.float32(image / 255), train=False)
  found = {f"stage{i}": np.asarray(stages[name]) for i, name in enumerate(encoder.stages)}
  np.savez(folder / "features.npz", image=image, **found)


def fail(log):
  """Ends the program with the last line that another one wrote."""
  sys.exit(f"failed: {(log.read_text().splitlines() or ['no message'])[-1]}; see {log}")


def peer(python, network, folder, data, *options):
  """The JSON lines that peer.py prints."""
  command = [python, str(HERE / "peer.py"), network, str(data)]
  command += [f"--weights={folder / 'weights.npz'}", f"--began={time.time()}", *options]
  environ = {**os.environ, "PYTHONPATH": str(ROOT)}
  with (folder / "peer.log").open("a") as log:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, env=environ, text=True)
  if done.returncode:
    fail(folder / "peer.log")
  return list(map(json.loads, done.stdout.splitlines()))


def check_features(python, network, folder, data):
  """Ends the program unless both encoders compute the same features from the same weights.

  With an output stride of 16, theirs dilates one layer more, so that the last stage differs.
  """
  (errors,) = peer(python, network, folder, data, f"--check={folder / 'features.npz'}")
  compared = errors if network == "Unet" else errors[:-1]
  print(f"{network}: relative errors of the encoder's stages {compared}")
  if not all(error is not None and error < TOLERANCE for error in compared):
    sys.exit(f"the encoders of {network} differ: the race would not be fair")


def watch(command, workdir, until=None):
  """[(seconds since the start, line of metrics.jsonl)] of a run of jaxseg, as they are written.

  Args:
    until: number of lines after which the run is killed.
  """
  # As if nothing had been compiled before.
  environ = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(workdir.with_suffix(".compiled"))}
  file, lines, begin = workdir / "metrics.jsonl", [], time.time()
  with workdir.with_suffix(".log").open("w") as log:
    process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=log, stderr=log)
    try:
      ended = False
      while not ended and (until is None or len(lines) < until):
        time.sleep(0.05)
        ended = process.poll() is not None  # before the last look into the file
        text = file.read_text() if file.exists() else ""
        seconds, whole = time.time() - begin, text[: text.rfind("\n") + 1]
        lines += [(seconds, json.loads(line)) for line in whole.splitlines()[len(lines) :]]
    finally:
      process.kill()
      status = process.wait()
  if ended and status:
    fail(workdir.with_suffix(".log"))
  return lines


def without_evaluations(lines):
  """{"series": [[seconds of training, mean IoU]], "evaluation_seconds"} of what `watch` returns.

  The line before that of an evaluation is written when its last step is done.
  """
  series, evaluated = [], 0.0
  for (before, _), (after, line) in zip(lines, lines[1:], strict=False):
    if "miou" in line:
      series.append([before - evaluated, line["miou"]])
      evaluated += after - before
  return {"series": series, "evaluation_seconds": evaluated}


def ours(flags, folder, name, data, weights, minutes, evaluations):
  """A row of results.json. First a short run tells how many steps fit into the time."""

  def command(workdir, **keys):
    keys = {
      "data.data_dir": data, "model.pretrained": weights, "eval.boundary_f1": False, **keys
    }  # fmt: skip
    start = [sys.executable, "-m", "jaxseg.main", f"--workdir={workdir}", *flags]
    return start + [f"--config.{key}={value}" for key, value in keys.items()]

  def run(suffix, until=None, **periods):
    workdir = folder / f"{name}_{suffix}"
    return watch(command(workdir, **periods), workdir, until)

  periods = ("num_epochs", "eval_every_epochs", "checkpoint_every_epochs")
  never = {f"train.{name}": 1e6 for name in periods}
  lines = run("calibration", LINES, **never, **{"train.log_every_steps": LOGGED})
  times = [seconds for seconds, _ in lines]
  step = statistics.median(np.diff(times)) / LOGGED
  start_up = times[0] - LOGGED * step
  epoch = lines[-1][1]["step"] / lines[-1][1]["epoch"]  # steps
  period = int((60 * minutes * (1 - MARGIN) - start_up) / step / evaluations)
  if period < 1:
    sys.exit(f"{start_up:.0f} s to start, {step:.1f} s a step: --minutes={minutes:g} are too few")
  print(f"  {step:.3f} s a step, start-up {start_up:.1f} s: {evaluations} x {period} steps")
  ends = {"train.num_epochs": evaluations * period / epoch}
  lines = run("race", **{**never, **ends, "train.eval_every_epochs": period / epoch})
  return {"steps": lines[-1][1]["step"], **without_evaluations(lines)}


def theirs(python, network, flags, folder, data, minutes, evaluations):
  """A row of results.json. First two short runs tell how many workers are faster."""
  start, speeds = (python, network, folder, data, *flags), {}
  for workers in (1, 2):
    short = f"--steps={PEER_STEPS}", "--evaluations=0", f"--workers={workers}"
    speeds[workers] = peer(*start, *short)[-1]["steps_per_second"]
  print(f"  steps per second by workers: {speeds}")
  workers = max(speeds, key=speeds.get)
  lengths = f"--minutes={minutes}", f"--evaluations={evaluations}", f"--workers={workers}"
  *lines, total = peer(*start, *lengths)
  series = [[line["seconds"], line["miou"]] for line in lines]
  kept = {key: total[key] for key in ("steps", "evaluation_seconds")}
  return {**kept, "series": series, "workers": workers}


def plot(rows, path):
  """Mean IoU over minutes of training, a panel a network."""
  import matplotlib

  matplotlib.use("Agg")
  import matplotlib.pyplot as plt

  networks = [name for name in NETWORKS if any(row["network"] == name for row in rows)]
  size = {"figsize": (4.5 * len(networks), 3.6), "layout": "constrained", "squeeze": False}
  figure, (axes,) = plt.subplots(1, len(networks), sharey=True, **size)
  for axis, network in zip(axes, networks, strict=True):
    for row in rows:
      if row["network"] == network:
        points = [(seconds / 60, miou) for seconds, miou in row["series"]]
        axis.plot(*zip(*points, strict=True), "o-", color=COLOURS[row["side"]], label=row["side"])
    axis.set(title=f"{network} on MobileNetV2", xlabel="minutes of training", xlim=(0, None))
    axis.grid(alpha=0.3)
    axis.legend()
  axes[0].set(ylabel="mean IoU, CamVid val", ylim=(0, None))
  figure.savefig(path, dpi=110)


def print_tables(rows):
  """Mean IoU at whole minutes, on straight lines between the scores, as Markdown."""
  for network in NETWORKS:
    runs = [row for row in rows if row["network"] == network]
    minutes = range(2, 2 + max((int(row["minutes"]) for row in runs), default=0), 2)
    print(f"\n| {network} | steps | {' | '.join(f'{n} min' for n in minutes)} | last |")
    print("|---" * (3 + len(minutes)) + "|")
    for row in runs:
      seconds, miou = zip(*row["series"], strict=True)
      at = np.interp([60 * n for n in minutes], seconds, miou, left=np.nan, right=np.nan)
      cells = ["-" if x != x else f"{x:.3f}" for x in at]
      last = f"{miou[-1]:.3f} at {seconds[-1] / 60:.1f} min"
      print(f"| {row['side']} | {row['steps']} | {' | '.join(cells)} | {last} |")


def main():
  usage = "run.py DIR --weights=FILE.h5 --peer-python=PYTHON [--minutes=20] | run.py --plot"
  form = argparse.RawDescriptionHelpFormatter
  parser = argparse.ArgumentParser(usage=usage, description=__doc__, formatter_class=form)
  parser.add_argument("data", nargs="?", type=pathlib.Path, metavar="DIR")
  parser.add_argument("--weights", type=pathlib.Path, metavar="FILE.h5")
  parser.add_argument("--peer-python", metavar="PYTHON")
  parser.add_argument("--minutes", default=20.0, type=float, help="of each run; default: 20")
  parser.add_argument("--evaluations", default=10, type=int, help="of each run; default: 10")
  parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
  parser.add_argument("--sides", nargs="+", choices=SIDES, default=USUAL)
  parser.add_argument("--out", default=HERE, type=pathlib.Path, help="folder of the results")
  parser.add_argument("--plot", action="store_true", help="of results that are there")
  args = parser.parse_args()
  sys.stdout.reconfigure(line_buffering=True)
  results = args.out / "results.json"
  rows = json.loads(results.read_text()) if results.exists() else []
  if args.plot:
    if not rows:
      parser.error(f"no results in {results} yet")
    plot(rows, args.out / "race.png")
    print_tables(rows)
    return
  if not (args.data and args.weights and args.peer_python):
    parser.error("DIR, --weights and --peer-python are needed")
  if not (args.data / "val" / "images").is_dir():
    parser.error(f"no val/images in {args.data}: DIR is laid out as configs/unet_camvid.py says")
  if not args.weights.is_file():
    parser.error(f"--weights: no file {args.weights}")
  if not shutil.which(args.peer_python):
    parser.error(f"--peer-python: no program {args.peer_python}")
  folder = ROOT / "runs" / "race" / datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
  folder.mkdir(parents=True)
  args.out.mkdir(parents=True, exist_ok=True)
  print(f"logs: {folder}")
  data, weights = args.data.resolve(), args.weights.resolve()
  try:
    convert(weights, data, folder)
  except UserError as error:
    sys.exit(f"{error}")
  for network in args.networks:
    their_name, flags = NETWORKS[network]
    check_features(args.peer_python, their_name, folder, data)
    lengths = args.minutes, args.evaluations
    for side in args.sides:
      print(f"{network}, {side}")
      if side != "jaxseg":
        found = theirs(args.peer_python, their_name, SIDES[side], folder, data, *lengths)
      else:
        found = ours(flags, folder, their_name, data, weights, *lengths)
      row = {"network": network, "side": side, "minutes": args.minutes, **found}
      rows = [x for x in rows if (x["network"], x["side"]) != (network, side)] + [row]
      rows.sort(key=lambda x: (list(NETWORKS).index(x["network"]), list(SIDES).index(x["side"])))
      results.write_text(json.dumps(rows, indent=2) + "\n")
      plot(rows, args.out / "race.png")
      print(f"  {found['steps']} steps, mean IoU {found['series'][-1][1]:.4f}")


if __name__ == "__main__":
  main()
