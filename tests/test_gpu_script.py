"""experiments/gpu: a section that fails or takes too long costs none of the others."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

FOLDER = pathlib.Path(__file__).parents[1] / "experiments" / "gpu"
LIMIT = "--limit=600"  # those of the sections are for accelerators
SCRIPTS = {
  "good.py": 'import json, sys; print(json.dumps({"arguments": sys.argv[1:]}))',
  "late.py": "import time; print('{\"first\": 1}', flush=True); time.sleep(60)",
  "bad.py": "print('{\"first\": 1}'); raise SystemExit('no memory')",
}


def load(folder):
  spec = importlib.util.spec_from_file_location("gpu_run", FOLDER / "run.py")
  run = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(run)
  run.HERE = folder
  for name, text in SCRIPTS.items():
    (folder / name).write_text(text)
  return run


def results(run, monkeypatch, out, *flags):
  monkeypatch.setattr(sys, "argv", ["run.py", f"--out={out}", *flags])
  monkeypatch.setattr(run, "has_accelerator", lambda: True)
  try:
    run.main()
  except SystemExit as end:
    if end.code not in (0, 1):  # 1: a section had an error
      raise
  return json.loads((out / "results.json").read_text())


@pytest.mark.slow
def test_sections_stand_alone(tmp_path, monkeypatch):
  run = load(tmp_path)
  run.SECTIONS = {
    "late": ("late.py", [], 3),
    "bad": ("bad.py", [], 30),
    "good": ("good.py", ["train", "x"], 30),
  }
  found = results(run, monkeypatch, tmp_path / "out", "--quick")
  assert found["late"]["rows"] == found["bad"]["rows"] == [{"first": 1}]
  assert "not done within 3 s" in found["late"]["error"]
  assert "no memory" in found["bad"]["error"]
  assert found["good"]["rows"] == [{"arguments": ["train", "x", "--quick"]}]
  assert "error" not in found["good"]


def test_no_time_left(tmp_path, monkeypatch):
  run = load(tmp_path)
  run.SECTIONS, run.TOTAL = {"good": ("good.py", [], 30)}, 0
  found = results(run, monkeypatch, tmp_path / "out")
  assert found["good"]["rows"] == [] and "left out" in found["good"]["error"]


def test_results_of_several_runs_are_merged(tmp_path, monkeypatch, capsys):
  run = load(tmp_path)
  row = {"by": "jaxseg", "program": "net", "precision": "bfloat16", "batch": 8, "device": "H100"}
  rows = {
    "sizes.py": {"precision": "bfloat16", "matmul_tflops": 600.0},
    "steps.py": {**row, "images_per_second": 300.0, "tflop_per_image": 0.5},
  }
  for name, row in rows.items():
    (tmp_path / name).write_text(f"print({json.dumps(row)!r})")
  run.SECTIONS = {
    "matmul": ("sizes.py", [], 30),
    "net-bfloat16": ("steps.py", [], 30),
    "net-float32": ("good.py", [], 30),
    "network": ("late.py", [], 30),
  }
  out = tmp_path / "out"
  assert list(results(run, monkeypatch, out, "--only=matmul")) == ["matmul"]
  found = results(run, monkeypatch, out, "--only=net")
  assert list(found) == ["matmul", "net-bfloat16", "net-float32"]
  assert found["net-bfloat16"]["rows"][0]["share_of_matmul"] == 0.25
  again = results(run, monkeypatch, out, "--only=net-float32", "--only=matmul")
  assert list(again) == list(found)
  for flags, words in (["--only=nothing"], "choose from matmul"), (["--quick"], "another --out"):
    with pytest.raises(SystemExit):
      results(run, monkeypatch, out, *flags)
    assert words in capsys.readouterr().err
  run.TOTAL = 0  # what was measured before stays
  assert results(run, monkeypatch, out, "--only=matmul") == again
  run.TOTAL = 720
  late = results(run, monkeypatch, out, "--only=network", "--limit=2")["network"]
  assert late["error"].startswith("not done within 2 s") and "network.log" in late["error"]
  (tmp_path / "steps.py").write_text("raise SystemExit('this one has its result')")
  (tmp_path / "worse.py").write_text("raise SystemExit('no memory')")
  run.SECTIONS["network"] = ("worse.py", [], 30)  # it prints less: what there is stays
  assert results(run, monkeypatch, out, "--only=network")["network"] == late
  run.SECTIONS["network"] = ("sizes.py", [], 30)
  whole = results(run, monkeypatch, out, "--missing")
  assert whole["network"]["rows"] == [rows["sizes.py"]] and "error" not in whole["network"]
  assert whole["net-bfloat16"] == found["net-bfloat16"]
  capsys.readouterr()
  results(run, monkeypatch, out, "--table")
  lines = capsys.readouterr().out.splitlines()
  assert "| matmul | precision bfloat16, matmul_tflops 600 |" in lines


def test_what_was_measured_is_kept(tmp_path):
  run = load(tmp_path)
  row, note = {"by": "torch"}, {"note": "not installed"}
  late, broken, left_out = ({"error": x} for x in ("not done", "exit status 1", "left out: ..."))
  better = [
    ({"rows": [row]}, None), ({"rows": [row]}, {"rows": [row]}),
    ({"rows": [], **broken}, {"rows": [], **left_out}), ({"rows": [row], **late}, {"rows": [note]}),
    ({"rows": [row] * 2, **late}, {"rows": [row], **late}),
  ]  # fmt: skip
  worse = [
    ({"rows": [note]}, {"rows": [row]}), ({"rows": [row] * 2, **late}, {"rows": [row] * 2}),
    ({"rows": [], **left_out}, {"rows": [], **broken}),
    ({"rows": [], **broken}, {"rows": [row], **late}),
  ]  # fmt: skip
  for found, pairs in (True, better), (False, worse):
    assert [run.is_better(*pair) for pair in pairs] == [found] * len(pairs)


def test_without_an_environment_the_remedy_is_said(tmp_path):
  script = tmp_path / "experiments" / "gpu" / "run.sh"
  script.parent.mkdir(parents=True)
  script.write_text((FOLDER / "run.sh").read_text())
  environ = {name: x for name, x in os.environ.items() if name != "PYTHON"}
  done = subprocess.run(["bash", script], capture_output=True, text=True, env=environ)
  assert done.returncode == 1 and done.stderr.count("\n") == 1
  assert "./launch.sh" in done.stderr and "PYTHON=" in done.stderr


def test_on_a_tpu(tmp_path, monkeypatch, capsys):
  """PyTorch is left out; the table has what was measured."""
  run = load(tmp_path)
  row = {"by": "jaxseg", "program": "net", "precision": "bfloat16", "batch": 8, "device": "TPU v5e",
         "images_per_second": 1234.5, "share_of_matmul": 0.25}  # fmt: skip
  (tmp_path / "steps.py").write_text(f"print({json.dumps(row)!r})")
  run.SECTIONS = {"net": ("steps.py", [], 30), "torch-net": ("peer.py", [], 30)}
  assert list(results(run, monkeypatch, tmp_path / "out", "--tpu")) == ["net"]
  capsys.readouterr()
  results(run, monkeypatch, tmp_path / "out", "--table")
  assert capsys.readouterr().out.splitlines()[2] == (
    "| net | bfloat16 | 8 | 1234 | 25% | - | TPU v5e |"
  )
  script = FOLDER.parent / "tpu" / "run.sh"
  environ = {**os.environ, "PYTHON": "echo"}
  done = subprocess.run(["bash", script, "--quick"], capture_output=True, text=True, env=environ)
  out = f"--out={script.parent}/results"
  assert done.stdout.split() == [f"{FOLDER}/run.py", "--tpu", out, "--quick"]


def test_exit_status(tmp_path, monkeypatch, capsys):
  """1 if a section had an error; without a GPU, nothing begins."""
  run = load(tmp_path)
  run.SECTIONS = {"good": ("good.py", [], 30), "bad": ("bad.py", [], 30)}
  for name, status in ("good", 0), ("bad", 1):
    flags = ["run.py", f"--out={tmp_path}/out", "--quick", f"--only={name}"]
    monkeypatch.setattr(sys, "argv", flags)
    with pytest.raises(SystemExit) as end:
      run.main()
    assert end.value.code == status
  monkeypatch.setattr(sys, "argv", ["run.py", f"--out={tmp_path}/new"])
  with pytest.raises(SystemExit) as end:
    run.main()
  assert end.value.code == 2 and "JAX finds no GPU or TPU here" in capsys.readouterr().err
  assert not (tmp_path / "new").exists()


def test_ratios(tmp_path):
  key = {"program": "x", "precision": "bfloat16", "batch": 8, "size": 572}
  ours = {"by": "jaxseg", **key, "images_per_second": 300.0, "tflop_per_image": 0.5}
  other = {**ours, "batch": 1}
  rows = {
    "matmul": [{"precision": "bfloat16", "matmul_tflops": 600.0}],
    "ours": [ours, other],
    "torch": [{"by": "torch", **key, "images_per_second": 200.0}],
    "none": [{"by": "torch", "program": "x", "note": "torch not installed"}],
    "small": [{"by": "torch", **key, "size": 64, "images_per_second": 9.0}],
  }
  load(tmp_path).add_ratios({name: {"rows": x} for name, x in rows.items()})
  assert ours["share_of_matmul"] == 0.25 and ours["times_torch"] == 1.5
  assert "times_torch" not in other and other["share_of_matmul"] == 0.25


def load_sections():
  spec = importlib.util.spec_from_file_location("gpu_run", FOLDER / "run.py")
  run = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(run)
  return run.SECTIONS


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in load_sections() if n.startswith("torch")])
def test_networks_of_pytorch(name, tmp_path):
  python = os.environ.get("JAXSEG_TORCH_PYTHON")
  if not python:
    pytest.skip("JAXSEG_TORCH_PYTHON names no Python with torch and segmentation_models.pytorch")
  flags = "--quick", LIMIT, f"--only={name}", f"--out={tmp_path}", f"--torch={python}"
  subprocess.run([sys.executable, FOLDER / "run.py", *flags], check=True, capture_output=True)
  found = json.loads((tmp_path / "results.json").read_text())[name]
  assert "error" not in found, found
  assert [row["precision"] for row in found["rows"]] == ["bfloat16", "float32"]
  assert all(row["images_per_second"] > 0 for row in found["rows"])


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in load_sections() if not n.startswith("torch")])
def test_sections_run_on_a_cpu(name, tmp_path):
  flags = "--quick", LIMIT, f"--only={name}", f"--out={tmp_path}"
  command = [sys.executable, FOLDER / "run.py", *flags]
  environ = {**os.environ, "XLA_FLAGS": ""}  # one device
  subprocess.run(command, check=True, capture_output=True, env=environ)
  found = json.loads((tmp_path / "results.json").read_text())[name]
  assert "error" not in found and found["rows"], found
  figures = [x for row in found["rows"] for k, x in row.items() if isinstance(x, float)]
  assert figures and min(figures) > 0
