"""The scripts of experiments/ find their modules, started from any folder; how a trace is read."""

import json
import pathlib
import re
import runpy
import subprocess
import sys
from types import SimpleNamespace

import command
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import models

ROOT = pathlib.Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "experiments").rglob("*.py"))
FOREIGN = {"peer.py"}  # needs a package that jaxseg does not

LOAD = """
import runpy, sys
for script in sys.argv[1:]:
  runpy.run_path(script, run_name="script")
"""


def test_scripts_load(tmp_path):
  scripts = [str(script) for script in SCRIPTS if script.name not in FOREIGN]
  assert len(scripts) > 5
  # -P: not the working directory, which a script does not search either.
  command = [sys.executable, "-P", "-c", LOAD, *scripts]
  done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr[-2000:]


PLAIN = """
import sys
sys.path += [r"{root}", r"{root}/experiments/accelerators"]
import jax, jax.numpy as jnp, plain, programs
from jax import tree_util
from jaxseg import build
from jaxseg.models.batch_norm import BatchNorm

def network(name):
  config, info = programs.load(name, {{"train.precision": "float32"}})
  model, image = build.build_model(config, info), jnp.zeros((1, 64, 64, info.channels))
  start = lambda: model.init(jax.random.key(0), image, train=False)
  run = lambda variables: model.apply(variables, image, train=False)
  variables = jax.eval_shape(start)
  return str(jax.make_jaxpr(run)(variables)), tree_util.tree_map(lambda x: x.shape, variables)

names = "padded_unet", "mobilenet_unet", "fcn8s_vgg", "deeplab_mobilenet"
def sizes(tree):  # flax.linen nests a norm of its own
  return sorted(tree_util.tree_leaves(tree, is_leaf=lambda x: type(x) is tuple))

ours = [network(name) for name in names]
plain.use()
del BatchNorm.__call__  # none of ours is left
for name, (operations, shapes) in zip(names, ours):
  others, own = network(name)
  # Our convolutions have gradients of their own.
  assert "custom_vjp" in operations and "custom_vjp" not in others, name
  assert sizes(own) == sizes(shapes), name
"""


@pytest.mark.slow
def test_networks_with_the_operations_of_flax():
  """All layers of `compile.py --plain` are found and replaced; parameters stay."""
  command = [sys.executable, "-c", PLAIN.format(root=ROOT)]
  done = subprocess.run(command, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr[-2000:]


def sweep(monkeypatch, capsys, *arguments):
  """(exit status or None, standard output, standard error) of experiments/sweep.py."""
  main = runpy.run_path(str(ROOT / "experiments" / "sweep.py"))["main"]
  monkeypatch.setattr(sys, "argv", ["sweep.py", *map(str, arguments)])
  status = None
  try:
    main()
  except SystemExit as end:
    status = end.code
  return status, *capsys.readouterr()


def test_a_sweep_says_what_it_has_from_before(tmp_path, monkeypatch, capsys):
  (tmp_path / "variants.json").write_text(json.dumps({"a": ["--config=x"], "b": ["--config=y"]}))
  rows = [{"variant": "a", "seed": 0, "miou": 0.25}, {"variant": "a", "seed": 1, "miou": 0.75},
          {"variant": "b", "seed": 0, "miou": 0.5}]  # fmt: skip
  (tmp_path / "results.json").write_text(json.dumps(rows))
  status, out, _ = sweep(monkeypatch, capsys, tmp_path, "--seeds=1", "--", "--config.seed=1")
  assert status is None
  assert out.splitlines()[0] == f"read from {tmp_path}/results.json, not repeated: 2 runs"
  assert "\na, 2 seeds\n" in out and "\nb, 1 seed\n" in out and " 0.5 ± " in out


@pytest.mark.slow
def test_a_sweep_keeps_what_it_ran_and_its_log(tmp_path, monkeypatch, capsys):
  values = {"train.num_epochs": 0.02, "data.image_size": 32, "model.widths": "4,8"}
  flags = ["--config=configs/unet_cells.py", *(f"--config.{k}={v}" for k, v in values.items())]
  (tmp_path / "variants.json").write_text(json.dumps({"two words": flags}))
  main = runpy.run_path(str(ROOT / "experiments" / "sweep.py"))["main"]
  monkeypatch.setitem(main.__globals__, "ROOT", tmp_path)
  monkeypatch.setenv("PYTHONPATH", str(ROOT))
  (tmp_path / "configs").symlink_to(ROOT / "configs")
  monkeypatch.setattr(sys, "argv", ["sweep.py", str(tmp_path), "--seeds=1"])
  main()
  (row,) = json.loads((tmp_path / "results.json").read_text())
  assert row["measured"].keys() == {"date", "commit", "jax", "cpus"}
  assert row["measured"]["jax"] == jax.__version__
  assert -0.1 < row["cpus_of_others"] < row["measured"]["cpus"]
  log = (tmp_path / "logs" / "two_words_0.jsonl").read_text().splitlines()
  last = json.loads(log[-1])
  assert (last["step"], last["miou"]) == (row["step"], pytest.approx(row["miou"]))
  assert f"miou {row['miou']:.5g}".split() in map(str.split, capsys.readouterr().out.splitlines())


SWEEPS = [file.parent for file in sorted((ROOT / "experiments").glob("*/variants.json"))]
SWEEPS = [folder for folder in SWEEPS if (folder / "results.json").exists()]


@pytest.mark.parametrize("folder", SWEEPS, ids=lambda folder: folder.name)
def test_tables_of_the_kept_sweeps(folder, monkeypatch, capsys):
  """Also of scores with overrides, and of classes that a run does not have."""
  rows = json.loads((folder / "results.json").read_text())
  status, out, _ = sweep(monkeypatch, capsys, folder, "--seeds=0")
  assert status is None
  for variant in {row["variant"] for row in rows}:
    mean = np.mean([row["miou"] for row in rows if row["variant"] == variant])
    table = out.split(f"\n{variant}, ")[1].split("\n\n")[0]
    assert re.search(rf"  miou +{mean:.5g}( ±|\n)", table), table


@pytest.mark.slow
def test_tuning_of_a_crf(tmp_path):
  values = {"train.num_epochs": 0.02, "data.image_size": 32, "model.widths": "4,8"}
  command.finish(command.start("unet_cells", tmp_path, values))
  script = str(ROOT / "experiments" / "crf" / "tune.py")
  flags = f"--workdir={tmp_path}", "--num_images=2", "--bilateral_weight=2,5"
  done = subprocess.run([sys.executable, script, *flags], capture_output=True, text=True)
  assert done.returncode == 0, done.stderr[-2000:]
  rows = json.loads((tmp_path / "crf.json").read_text())["rows"]
  assert len(rows) == 3 and sum(row["crf"] is None for row in rows) == 1


@pytest.mark.parametrize(
  "arguments, words",
  [
    (["nowhere"], "have one: border_weight, camvid"),
    ([".", "--variants", "c"], "has no 'c', but a"),
  ],
)
def test_mistakes_in_a_sweep(tmp_path, monkeypatch, capsys, arguments, words):
  (tmp_path / "variants.json").write_text('{"a": ["--config=x"]}')
  monkeypatch.chdir(tmp_path)
  status, _, error = sweep(monkeypatch, capsys, *arguments)
  assert status == 2 and words in error and "-- FLAG" in error


def trace(planes):
  """Of {plane: {line: [(name, start ns, duration ns, {stat: value})]}}."""

  def event(name, start, duration, stats):
    return SimpleNamespace(name=name, start_ns=start, duration_ns=duration, stats=stats.items())

  lines = {
    plane: [SimpleNamespace(name=n, events=[event(*x) for x in xs]) for n, xs in lines.items()]
    for plane, lines in planes.items()
  }
  return SimpleNamespace(planes=[SimpleNamespace(name=n, lines=x) for n, x in lines.items()])


def test_gaps_between_steps_in_a_trace():
  """Three runs of 5 ms, 1 and 3 ms apart, and the short one of another program between."""
  gaps = runpy.run_path(str(ROOT / "experiments" / "on_device" / "gaps.py"))["gaps"]
  ms = 1_000_000
  starts = {1: 10 * ms, 2: 16 * ms, 3: 24 * ms}
  ops = [
    ("op", start + i * ms, ms, {"run_id": run, "hlo_module": "jit_step", "hlo_op": f"op{i}"})
    for run, start in starts.items()
    for i in (4, 1, 2, 3, 0)
  ]
  other = [("op", 15 * ms, ms // 2, {"run_id": 9, "hlo_module": "jit_other"})]
  noise = [("H2D Dispatch", 0, 99 * ms, {}), ("launch", 0, ms, {"run_id": 77})]
  expected = {"calls": 3, "step_ms": 7.0, "gap_ms": 2.0, "share": round(4 / 14, 4)}
  cpu = {"/host:CPU": {"thread 1": ops[::2], "thread 2": ops[1::2] + other, "python": noise}}
  assert gaps(trace(cpu)) == expected
  modules = [("jit_step(7)", start, 5 * ms, {}) for start in starts.values()]
  tpu = {"/device:TPU:0": {"XLA Modules": modules, "XLA Ops": [("op", 0, 99 * ms, {})]}, **cpu}
  assert gaps(trace(tpu)) == expected
  per_step = gaps(trace({**tpu, "/device:TPU:1": tpu["/device:TPU:0"]}), 4)
  assert per_step == {**expected, "step_ms": 1.75, "gap_ms": 0.5}


def test_a_race_leaves_out_the_time_of_evaluations():
  count = runpy.run_path(str(ROOT / "experiments" / "race" / "run.py"))["without_evaluations"]
  lines = [(5, {"step": 1}), (9, {"step": 2}), (12, {"step": 2, "miou": 0.25}),
           (20, {"step": 3}), (30, {"step": 4}), (31, {"step": 4, "miou": 0.5})]  # fmt: skip
  assert count(lines) == {"series": [[9, 0.25], [27, 0.5]], "evaluation_seconds": 4}


def test_a_race_names_all_layers_of_the_encoder():
  names = runpy.run_path(str(ROOT / "experiments" / "race" / "run.py"))["layer_names"]()
  model = models.ENCODERS["mobilenet_v2"]()
  shapes = jax.eval_shape(
    lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False)
  )
  found = {name for pair in names for name in pair}
  assert len(names) == 52
  assert set(shapes["params"]) == found - set(model.unused_layers)


@pytest.mark.parametrize(
  "script, remedy",
  [
    ("start_up/run.py", "--config=configs/unet_cells.py"),
    ("on_device/gaps.py", "--pets --trace"),
    ("on_device/measure.py", "--pets=DIR"),
    ("crf/picture.py", "WORKDIR POSITION"),
    ("pets_tutorial/picture.py", "pets=WORKDIR cells=WORKDIR"),
    ("race/run.py", "DIR, --weights and --peer-python are needed"),
  ],
)
def test_scripts_say_what_they_need(script, remedy, monkeypatch, capsys):
  path = ROOT / "experiments" / script
  monkeypatch.syspath_prepend(str(path.parent))
  monkeypatch.setattr(sys, "argv", [script])
  with pytest.raises(SystemExit) as end:
    runpy.run_path(str(path), run_name="__main__")
  assert remedy in f"{end.value.code} {capsys.readouterr().err}"
