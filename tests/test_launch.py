"""launch.sh adds the extra `pets` for the runs that need it and for no other."""

import importlib
import json
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[1]
NAMES = sorted(file.stem for file in (ROOT / "configs").glob("[!_]*.py"))


def needs_pets(*flags):
  """The exit status of the shell function, as a bool."""
  program = """
set -euo pipefail
eval "$(sed -n '/^needs_pets()/,/^}/p' launch.sh)"
needs_pets "$@"
"""
  done = subprocess.run(["bash", "-c", program, "-", *flags], cwd=ROOT, capture_output=True)
  assert done.returncode in (0, 1) and not done.stderr, done.stderr
  return done.returncode == 0


@pytest.mark.parametrize("name", NAMES)
def test_configs(name):
  config = importlib.import_module(f"configs.{name}").get_config()
  flags = (f"--config=configs/{name}.py", "--workdir=runs/not_yet")
  assert needs_pets(*flags) == (config.data.name == "oxford_iiit_pet")


def test_flag():
  assert needs_pets("--config=configs/unet_cells.py", "--config.data.name=oxford_iiit_pet")
  assert not needs_pets("--help")


@pytest.mark.parametrize("name", ["cells", "oxford_iiit_pet"])
def test_work_directory(name, tmp_path):
  (tmp_path / "config.json").write_text(json.dumps({"data": {"name": name}}, indent=2))
  assert needs_pets("--mode=evaluate", f"--workdir={tmp_path}") == (name == "oxford_iiit_pet")


def test_config_of_the_users_own(tmp_path):
  file = tmp_path / "mine.py"
  file.write_text("from configs import default, deeplabv3plus_pets  # two steps away\n")
  assert needs_pets(f"--config={file}")
  file.write_text("from configs.unet_pets import get_config\n")
  assert needs_pets(f"--config={file}")
  file.write_text("from configs import default, unet_cells\n")
  assert not needs_pets(f"--config={file}")
