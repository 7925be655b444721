"""launch.sh adds the extra for the data of a run: `tfds`, `huggingface` or none."""

import importlib
import json
import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[1]
NAMES = sorted(file.stem for file in (ROOT / "configs").glob("[!_]*.py"))


EXTRAS = {"oxford_iiit_pet": "tfds", "tfds": "tfds", "huggingface": "huggingface", "cells": ""}


def extra(*flags, function="data_extra", **environ):
  """What the shell function prints."""
  program = f"""
set -euo pipefail
eval "$(sed -n '/^{function}()/,/^}}/p' {ROOT}/launch.sh)"
{function} "$@"
"""
  done = subprocess.run(
    ["bash", "-c", program, "-", *flags],
    capture_output=True,
    text=True,
    env={**os.environ, **environ},
  )
  assert done.returncode == 0 and not done.stderr, done.stderr
  return done.stdout.strip()


@pytest.mark.parametrize("name", NAMES)
def test_configs(name):
  config = importlib.import_module(f"configs.{name}").get_config()
  flags = (f"--config=configs/{name}.py", "--workdir=runs/not_yet")
  assert extra(*flags) == EXTRAS.get(config.data.name, "")


@pytest.mark.parametrize("name", EXTRAS)
def test_flag_work_directory_and_file(name, tmp_path):
  assert extra("--config=configs/unet_cells.py", f"--config.data.name={name}") == EXTRAS[name]
  values = {"data": {"name": name, "data_dir": "/data/tfds"}}
  (tmp_path / "config.json").write_text(json.dumps(values, indent=2))
  assert extra("--mode=evaluate", f"--workdir={tmp_path}") == EXTRAS[name]
  file = tmp_path / "mine.py"
  file.write_text(f"config.data.name = '{name}'\n")
  assert extra(f"--config={file}") == EXTRAS[name]


@pytest.mark.parametrize(
  "driver, cards, expected",
  [
    ("580.65.06", "9.0", "cuda"),
    ("590.1", "7.5\\n12.0", "cuda"),
    ("580.65.06", "8.6\\n7.0", "cuda12"),
    ("580.65.06", "6.1", "cuda12"),
    ("580.65.06", "7.0\\n" * 99, "cuda12"),
    ("580.65.06", "[N/A]", "cuda"),
    ("570.86.15", "9.0", "cuda12"),
  ],
)
def test_cuda_for_driver_and_cards(driver, cards, expected, tmp_path, monkeypatch):
  """Volta, 7.0, and what is older have no CUDA 13."""
  smi = tmp_path / "nvidia-smi"
  smi.write_text(f"""#!/usr/bin/env bash
case $1 in
  --query-gpu=driver_version) printf '{driver}\\n' ;;
  --query-gpu=compute_cap) printf '{cards}\\n' ;;
esac
""")
  smi.chmod(0o755)
  path = f"{tmp_path}:{os.environ['PATH']}"
  monkeypatch.delenv("JAXSEG_EXTRAS", raising=False)
  monkeypatch.chdir(tmp_path)  # no .venv that has CUDA already
  assert extra(function="accelerator", PATH=path) == expected


def test_other_flags():
  assert extra("--help") == ""
  assert extra("--config=configs/unet_cells.py", "--config.data.data_dir=/data/tfds") == ""


def test_config_that_imports(tmp_path):
  file = tmp_path / "mine.py"
  file.write_text("from configs import default, deeplabv3plus_pets  # two steps away\n")
  assert extra(f"--config={file}") == "tfds"
  file.write_text("from configs.unet_pets import get_config\n")
  assert extra(f"--config={file}") == "tfds"
  file.write_text("from configs import default, unet_cells\n")
  assert extra(f"--config={file}") == ""
