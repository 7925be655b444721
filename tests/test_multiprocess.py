"""Two real processes train as one does, and only the first of them touches the work directory."""

import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import chex
import command
import numpy as np
import pytest
import safetensors.numpy
from fixtures import make_smp_networks
from PIL import Image

import jaxseg
from jaxseg.locks import NAME, only_training

# Without fusion, a batch statistic of two processes ends 2e-5 from that of one.
start = functools.partial(command.start, flags=command.FUSED)
NUM_STEPS, SAVED, EVALUATED = 8, 6, 5
EPOCH = 64  # steps: 512 images in batches of 8
VALUES = {
  "data.image_size": 32,
  "augment.scale": "(0.6,1.25)",  # below 1 leaves VOID, more here and less there
  "model.widths": "(4,8)",
  "model.dropout": 0.2,
  "train.batch_size": 8,
  "train.schedule": "constant",  # knows no number of steps: one program for all runs
  "train.num_epochs": NUM_STEPS / EPOCH,
  "train.checkpoint_every_epochs": SAVED / EPOCH,
  "train.eval_every_epochs": EVALUATED / EPOCH,
  "train.log_every_steps": 1,
  "eval.boundary_f1": True,
}


def free_port():
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    return s.getsockname()[1]


def start_two(workdir, values, *, by):
  """Two processes of two devices each; the second has a work directory of its own."""
  port, processes = free_port(), []
  for rank in (0, 1):
    more, environ = {}, {}
    if by == "torchrun":
      environ = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
      environ["RANK"] = str(rank)
    else:
      more = {"coordinator": f"127.0.0.1:{port}", "num_processes": 2, "process_id": rank}
      more = {f"parallel.{key}": value for key, value in more.items()}
    folder = workdir if rank == 0 else workdir.with_name(workdir.name + "_of_the_other")
    processes.append(
      start("unet_cells", folder, {**values, **more}, num_devices=2, **environ)
    )
  return processes


def read_metrics(workdir):
  path = workdir / "metrics.jsonl"
  return [json.loads(x) for x in path.read_text().splitlines(keepends=True) if x.endswith("\n")]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
  """Work directory of the run in one process with one device."""
  workdir = tmp_path_factory.mktemp("alone")
  command.finish(start("unet_cells", workdir, VALUES))
  return workdir


def check(workdir, alone):
  """A finished run is that of a single process."""
  a, b = (command.read_checkpoint(w, NUM_STEPS) for w in (workdir, alone))
  # Of the optimizer, only the step: a ReLU that flips moves the mean gradient by its pixel's share.
  chex.assert_trees_all_close(a["variables"], b["variables"], rtol=1e-5, atol=1e-5)
  assert a["optimizer"]["step"] == b["optimizer"]["step"] == NUM_STEPS
  assert a["data"] == b["data"]
  mine, expected = read_metrics(workdir), read_metrics(alone)
  steps = [(line["step"], line["split"]) for line in mine]
  expected_steps = [(i + 1, "train") for i in range(NUM_STEPS)] + [(NUM_STEPS, "test")]
  expected_steps.insert(EVALUATED, (EVALUATED, "test"))
  assert steps == expected_steps
  for line, other in zip(mine, expected, strict=True):
    np.testing.assert_allclose(line["loss"], other["loss"], rtol=1e-5)
    assert line.get("num_pixels") == other.get("num_pixels")
  scores, others = (json.loads((w / "evaluation.json").read_text()) for w in (workdir, alone))
  assert scores["num_images"] == 64  # each once
  for name in ("miou", "pixel_accuracy", "miou_interval", "boundary_f1", "boundary_f1_interval"):
    # A pixel on the fence may fall to the other side: ten of 65536; fewer are on boundaries.
    tolerance = 5e-3 if "boundary" in name else 2e-4
    np.testing.assert_allclose(scores[name], others[name], atol=tolerance)
  tables = [(w / "per_image.csv").read_text().splitlines() for w in (workdir, alone)]
  names = [[line.split(",")[0] for line in table] for table in tables]
  assert names[0] == names[1] == ["image", *(f"cells test {i}" for i in range(64))]
  plots = {"curves.png", "confusion.png", "report.html", f"predictions_{NUM_STEPS:06d}.png"}
  assert plots <= {path.name for path in (workdir / "plots").iterdir()}


def step_back(workdir):
  """As if the run had been killed between its checkpoint and its end."""
  shutil.rmtree(workdir / "checkpoints" / str(NUM_STEPS))
  shutil.rmtree(workdir / "plots")
  (workdir / "evaluation.json").unlink()


def evaluate_by_two(folder, tmp_path):
  """By the folder alone, as torchrun starts it, which listens on MASTER_PORT itself."""
  with socket.socket() as agent:
    agent.bind(("127.0.0.1", 0))
    agent.listen()
    environ = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(agent.getsockname()[1]),
               "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "none"}  # fmt: skip
    command.finish(*(
      start(None, place, {}, "--mode=evaluate", num_devices=2, RANK=str(rank), **environ)
      for rank, place in enumerate((folder, tmp_path / "none"))
    ))  # fmt: skip
  assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_only_the_first_process_needs_several_seeds(alone, tmp_path):
  config = json.loads((alone / "config.json").read_text())
  for seed in 0, 1:
    folder = shutil.copytree(alone, tmp_path / "run" / f"seed_{seed}")
    (folder / "config.json").write_text(json.dumps({**config, "seed": seed}))
  config["train"]["num_seeds"] = 2
  (tmp_path / "run" / "config.json").write_text(json.dumps(config))
  evaluate_by_two(tmp_path / "run", tmp_path)
  found = json.loads((tmp_path / "run" / "seeds.json").read_text())
  expected = json.loads((alone / "evaluation.json").read_text())
  assert found["seeds"] == [0, 1]
  assert found["miou"]["values"] == pytest.approx([expected["miou"]] * 2, abs=2e-4)


@pytest.mark.slow
def test_only_the_first_process_needs_the_run(alone, tmp_path):
  evaluate_by_two(shutil.copytree(alone, tmp_path / "run"), tmp_path)
  places = tmp_path / "run", alone
  found, expected = (json.loads((x / "evaluation.json").read_text()) for x in places)
  assert found["miou"] == pytest.approx(expected["miou"], abs=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["packed", "published"])
def test_only_the_first_process_needs_a_network(alone, tmp_path, kind):
  """Patterns of a packed network's own data do not divide the images, in either process."""
  network, flags = tmp_path / "network", []
  if kind == "packed":
    run = shutil.copytree(alone, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["data"] |= {"images": "{name}.png", "masks": "{name}_m.png"}
    (run / "config.json").write_text(json.dumps(config))
    jaxseg.pack(run, network)
  else:
    config, state, _ = make_smp_networks.read("deeplabv3_resnet18")
    network.mkdir()
    (network / "config.json").write_text(json.dumps(config))
    safetensors.numpy.save_file(state, network / "model.safetensors")
    flags = ["--config.data.classes=a,b,c"]
  (tmp_path / "photos").mkdir()
  names = {f"{i}{end}.png" for i in range(3) for end in ("", "_m")}
  for name in names:
    Image.new("RGB", (40, 36), (9, 99, 199)).save(tmp_path / "photos" / name)
  environ = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
  flags += [f"--input={tmp_path}/photos", f"--output={tmp_path}/out", "--mode=predict"]
  command.finish(*(
    subprocess.Popen(
      [sys.executable, "-m", "jaxseg.main", f"--model={model}", *flags],
      cwd=command.ROOT,
      env={**os.environ, **environ, "RANK": str(rank)},
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for rank, model in enumerate((network, tmp_path / "none"))
  ))  # fmt: skip
  assert {path.name for path in (tmp_path / "out").glob("*.png")} == names


@pytest.mark.slow
def test_two_processes_are_one_and_one_goes_on(alone, tmp_path):
  workdir = tmp_path / "two"
  values = {**VALUES, "data.on_device": True}
  command.finish(*start_two(workdir, values, by="torchrun"))
  assert list(tmp_path.iterdir()) == [workdir]  # nothing in the other's
  assert len(list(workdir.glob("events.*"))) == 1
  check(workdir, alone)
  step_back(workdir)
  command.finish(start("unet_cells", workdir, VALUES))
  check(workdir, alone)


@pytest.mark.slow
def test_two_processes_go_on_where_one_was_under_pmap(alone, tmp_path):
  workdir = tmp_path / "two"
  shutil.copytree(alone, workdir)
  step_back(workdir)
  values = {**VALUES, "train.parallel": "pmap", "data.on_device": True}
  command.finish(*start_two(workdir, values, by="flags"))
  assert list(tmp_path.iterdir()) == [workdir]
  check(workdir, alone)


@pytest.mark.slow
def test_sigterm_to_one_stops_both_after_a_checkpoint(tmp_path):
  workdir = tmp_path / "two"
  values = {**VALUES, "train.num_epochs": 1000, "train.checkpoint_every_epochs": 1000}
  values |= {"train.steps_per_call": 4, "train.log_every_steps": 4}  # a call is what they agree on
  values["train.eval_every_epochs"] = 1000  # which would save the best state, too
  processes = start_two(workdir, values, by="torchrun")
  while not (workdir / "metrics.jsonl").exists() or not read_metrics(workdir):
    assert [process.poll() for process in processes] == [None, None]
    time.sleep(0.1)
  processes[1].send_signal(signal.SIGTERM)
  command.finish(*processes, status=143)
  (saved,) = (path.name for path in (workdir / "checkpoints").iterdir())
  assert read_metrics(workdir)[-1]["step"] == int(saved)
  assert command.read_checkpoint(workdir, int(saved))["optimizer"]["step"] == int(saved)


@pytest.mark.slow
def test_a_second_start_ends_in_all_processes(tmp_path):
  """One line in each, in seconds, and no folder that only they would have."""
  workdir = tmp_path / "run"
  with only_training(workdir):
    processes = start_two(workdir, VALUES, by="settings")
    try:
      outputs = [process.communicate(timeout=120)[0] for process in processes]
    finally:
      for process in processes:
        process.kill()
    for process, text in zip(processes, outputs, strict=True):
      assert process.returncode == 1, text
      lines = [line for line in text.splitlines() if line.startswith("error:")]
      assert len(lines) == 1 and f"{workdir} is in use: process" in lines[0], text
      assert "Traceback" not in text, text
    assert [path.name for path in workdir.iterdir()] == [NAME]
  assert list(tmp_path.iterdir()) == []
