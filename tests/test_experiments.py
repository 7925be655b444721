"""The scripts of experiments/ find their modules, started from any folder."""

import pathlib
import subprocess
import sys

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
