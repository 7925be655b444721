"""Compiled programs are kept on disk by every mode and by the functions of Python."""

import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
import tiny
from command import FAST, ROOT
from PIL import Image

import jaxseg
from jaxseg import parallel

FOLDER, SHORTEST = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"


@pytest.fixture
def settings(tmp_path, monkeypatch):
  """JAX's settings as in a new process whose home is `tmp_path`; as they were, afterwards."""
  before = {name: getattr(jax.config, name) for name in (FOLDER, SHORTEST)}
  monkeypatch.setattr(pathlib.Path, "home", lambda: tmp_path)
  jax.config.update(FOLDER, None)
  jax.config.update(SHORTEST, 1.0)
  yield jax.config
  for name, value in before.items():
    jax.config.update(name, value)


CALLS = {
  "load": lambda: jaxseg.load("nothing"),
  "load exported": lambda: jaxseg.load("nothing.stablehlo"),
  "evaluate": lambda: jaxseg.evaluate("nothing"),
  "predict_folder": lambda: jaxseg.predict_folder("nothing", "photo.png", "out"),
  "train": lambda: jaxseg.train(tiny.make_config(1, train__warmup_epochs=-1.0), "nothing"),
}


@pytest.mark.parametrize("name", CALLS)
def test_python_functions_choose_a_folder(name, settings, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  Image.fromarray(np.zeros((8, 8), np.uint8)).save("photo.png")
  tiny.error_of(CALLS[name])  # nothing is there: chosen before anything is read
  assert getattr(settings, FOLDER) == str(tmp_path / ".cache/jaxseg/xla")
  assert getattr(settings, SHORTEST) == 0.2
  settings.update(FOLDER, "mine")
  settings.update(SHORTEST, 0.0)
  tiny.error_of(CALLS[name])
  assert (getattr(settings, FOLDER), getattr(settings, SHORTEST)) == ("mine", 0.0)


@pytest.mark.parametrize("fault", ("a file", "none", "read-only"))
def test_a_home_that_cannot_be_written(fault, settings, tmp_path, monkeypatch):
  """Nothing is kept, without a warning for each program or an error."""
  home = tmp_path / "home"

  def find():
    if fault == "none":
      raise RuntimeError("Could not determine home directory.")
    return home

  if fault == "a file":
    home.touch()
  elif fault == "read-only":  # but not to root
    (home / ".cache/jaxseg/xla").mkdir(parents=True)
    monkeypatch.setattr(os, "access", lambda path, mode: (path, mode) != (mine, os.W_OK))
    mine = home / ".cache/jaxseg/xla"
  monkeypatch.setattr(pathlib.Path, "home", find)
  parallel.use_compilation_cache()
  assert getattr(settings, FOLDER) is None


def test_the_users_shortest_time_stays(settings):
  settings.update(SHORTEST, 5.0)
  parallel.use_compilation_cache()
  assert getattr(settings, SHORTEST) == 5.0


PROGRAM = """
import jax, jax.numpy as jnp, sys
jax.jit(lambda x: x + 1)(jnp.zeros(3))  # the program has computed something before
import jaxseg
jaxseg.load(sys.argv[1])(sys.argv[2])
"""


@pytest.mark.slow
def test_every_mode_compiles_once(tmp_path):
  """Each is started twice; the second time adds nothing to what is kept."""
  photo, workdir = tmp_path / "photo.png", tmp_path / "run"
  Image.fromarray(np.zeros((48, 40), np.uint8)).save(photo)
  environ = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
  environ |= {"XLA_FLAGS": FAST, "PYTHONPATH": str(ROOT)}
  environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

  def kept(name, *command):
    """Names of the programs that are kept after a command with a home of its own."""
    home = tmp_path / name
    home.mkdir(exist_ok=True)
    command = [sys.executable, *map(str, command)]
    own = environ | {"HOME": str(home)}
    done = subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return {path.name for path in (home / ".cache/jaxseg/xla").glob("*-cache")}

  tiny_cells = ("data.image_size=32", "train.num_epochs=0.02", "train.batch_size=8")
  values = [f"--config.{value}" for value in (*tiny_cells, "model.widths=(4,8)")]
  main = ("-m", "jaxseg.main")
  train = (*main, "--config=configs/unet_cells.py", *values)
  of_run = (*main, f"--workdir={workdir}")
  exported = tmp_path / "exported"
  first = kept("train", *train, f"--workdir={workdir}")
  assert first == kept("train", *train, f"--workdir={workdir}-2") and first
  for name, command in {
    "evaluate": (*of_run, "--mode=evaluate"),
    "predict": (*of_run, "--mode=predict", f"--input={photo}", f"--output={tmp_path / 'out'}"),
    "export": (*of_run, "--mode=export", f"--output={exported}"),
    "summary": (*of_run, "--mode=summary"),
    "check_data": (*train, "--mode=check_data", f"--workdir={tmp_path / 'checked'}"),
    "load": ("-c", PROGRAM, workdir, photo),
    "load_exported": ("-c", PROGRAM, exported / "model.stablehlo", photo),
  }.items():
    first = kept(name, *command)
    assert first and first == kept(name, *command), name
