"""Every family of networks compiles for a TPU; see experiments/accelerators."""

import json
import os
import pathlib
import subprocess

import pytest

SCRIPT = pathlib.Path(__file__).parents[1] / "experiments" / "accelerators" / "compile.py"
PAPER = "model.widths=[8,8,8,8,8]"  # the size and crops of the paper, which once were too much
CASES = {"paper_unet": [PAPER], "padded_unet": ["model.widths=[8,16]"]}
CASES |= dict.fromkeys(("mobilenet_unet", "fcn8s_vgg"), ["data.image_size=64"])
CASES |= dict.fromkeys(("deeplab_resnet", "deeplab_xception"), ["data.image_size=64"])


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_training_step_compiles_for_tpu(name):
  python = os.environ.get("JAXSEG_TPU_PYTHON")
  if not python:
    pytest.skip("JAXSEG_TPU_PYTHON does not name a Python with jax[tpu]: no compiler for TPU")
  options = [f"--set={value}" for value in CASES[name]]
  command = [python, SCRIPT, f"--config={name}", "--what=step", *options]
  done = subprocess.run(command, capture_output=True, text=True)
  row = json.loads(done.stdout)
  assert row["compiles"] is True, row
  assert row["Mcycles"] > 0
