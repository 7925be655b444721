"""Every family of networks compiles for TPU and H100; how programs for GPUs are read."""

import importlib.util
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


def compiled(name, target, variable):
  """The row of a training step, by the Python that an environment variable names."""
  python = os.environ.get(variable)
  if not python:
    pytest.skip(f"{variable} does not name a Python with the compiler for {target}")
  options = [f"--set={value}" for value in CASES[name]]
  command = [python, SCRIPT, f"--config={name}", "--what=step", f"--target={target}", *options]
  row = json.loads(subprocess.run(command, capture_output=True, text=True).stdout)
  assert row["compiles"] is True, row
  return row


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_training_step_compiles_for_tpu(name):
  assert compiled(name, "tpu:v5e:2x2", "JAXSEG_TPU_PYTHON")["Mcycles"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_training_step_compiles_for_an_h100(name):
  row = compiled(name, "cuda:h100", "JAXSEG_CUDA_PYTHON")
  assert row["kernels"] > row["cudnn_calls"] > 0
  assert row["TFLOP"] > 0 and row["GB"] > row["GB_outside_cudnn"] > 0


PROGRAM = """
HloModule step

%body (p: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %p = (s32[], f32[4,8]{1,0}) parameter(0)
  %x = f32[4,8]{1,0} get-tuple-element(%p), index=1
  %y = f32[4,8]{1,0} add(%x, %x)
  %i = s32[] get-tuple-element(%p), index=0
  ROOT %out = (s32[], f32[4,8]{1,0}) tuple(%i, %y)
}

%cut (a: f32[100,8], b: s32[]) -> f32[4,8] {
  %a = f32[100,8]{1,0} parameter(0)
  %b = s32[] parameter(1)
  ROOT %slice = f32[4,8]{1,0} dynamic-slice(%a, %b, %b), dynamic_slice_sizes={4,8}
}

%turn (c: bf16[2,3]) -> bf16[3,2] {
  %c = bf16[2,3]{1,0} parameter(0)
  ROOT %t = bf16[3,2]{1,0} transpose(%c), dimensions={1,0}
}

ENTRY %main (big: f32[100,8], n: s32[], m: bf16[2,3], image: bf16[2,9,9,4], kernel: bf16[5,3,3,4]) -> f32[4,8] {
  %big = f32[100,8]{1,0} parameter(0)
  %n = s32[] parameter(1)
  %m = bf16[2,3]{1,0} parameter(2)
  %image = bf16[2,9,9,4]{3,2,1,0} parameter(3)
  %kernel = bf16[5,3,3,4]{3,2,1,0} parameter(4)
  %few = f32[4,8]{1,0} fusion(%big, %n), kind=kLoop, calls=%cut
  %turned = bf16[3,2]{1,0} fusion(%m), kind=kInput, calls=%turn
  %conv = (bf16[2,7,7,5]{3,2,1,0}, u8[64]{0}) custom-call(%image, %kernel), window={size=3x3}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward", metadata={op_name="conv"}
  %start = (s32[], f32[4,8]{1,0}) tuple(%n, %few)
  %loop = (s32[], f32[4,8]{1,0}) while(%start), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"7"}}
  ROOT %end = f32[4,8]{1,0} get-tuple-element(%loop), index=1
}
"""  # noqa: E501


def test_bytes_and_flop_of_a_gpu_program():
  spec = importlib.util.spec_from_file_location("cuda", SCRIPT.with_name("cuda.py"))
  cuda = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(cuda)
  rows = {row[3]: (row[0], row[1], row[2], row[-1]) for row in cuda.costs(PROGRAM)}
  window = 4 * 8 * 4  # bytes of f32[4,8]
  assert rows == {
    "few": (2 * window + 4, 0, "loop", 1),  # what it cuts out and an offset, not all of 100 rows
    "turned": (2 * 2 * 3 * 2, 0, "transpose", 1),
    "conv": ((2 * 81 * 4 + 5 * 9 * 4 + 2 * 49 * 5) * 2, 2 * (2 * 49 * 5) * 9 * 4, "cudnn", 1),
    "y": (7 * 3 * window, 0, "add", 7),
  }
  facts = cuda.facts(PROGRAM)
  assert facts["kernels"] == 1 + 1 + 1 + 7 and facts["cudnn_calls"] == 1
  total = sum(row[0] for row in rows.values())
  assert facts["GB"] * 1e9 == pytest.approx(total)
  assert facts["GB_outside_cudnn"] * 1e9 == pytest.approx(total - rows["conv"][0])
