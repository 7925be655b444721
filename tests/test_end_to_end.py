"""The real command, killed with SIGKILL at bad moments and started again, bit for bit.

It is started now with the training data on the device, now with batches from the host.
"""

import json
import time

import chex
import command
import pytest

NUM_STEPS, SAVE_EVERY = 40, 8
EPOCH = 64  # steps: 512 images in batches of 8
VALUES = {
  "data.image_size": 32,
  "augment.scale": "(0.8,1.25)",
  "model.widths": "(4,8)",
  "model.dropout": 0.2,
  "train.batch_size": 8,
  "train.num_epochs": NUM_STEPS / EPOCH,
  "train.checkpoint_every_epochs": SAVE_EVERY / EPOCH,
  "train.eval_every_epochs": 2 * SAVE_EVERY / EPOCH,
  "train.log_every_steps": 1,
}


def read_metrics(workdir):
  """Lines of metrics.jsonl that are complete, without what is measured in time."""
  path = workdir / "metrics.jsonl"
  lines = path.read_text().splitlines(keepends=True) if path.exists() else []
  lines = [json.loads(line) for line in lines if line.endswith("\n")]
  return [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines]


def saved_steps(workdir):
  return [int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit()]


def is_saving(workdir):
  """Whether a checkpoint is half written; in part it lies under a temporary name."""
  return any(not path.name.isdigit() for path in (workdir / "checkpoints").glob("*"))


def is_between(workdir):
  """Whether a checkpoint is behind, the next one not begun, and steps would be lost."""
  lines, saved = read_metrics(workdir), saved_steps(workdir)
  return bool(lines and saved) and lines[-1]["step"] > max(saved) and not is_saving(workdir)


@pytest.mark.slow
def test_killed_runs_end_as_if_nothing_had_happened(tmp_path):
  undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
  command.finish(command.start("unet_cells", undisturbed, VALUES))
  for condition, on_device in (is_saving, False), (is_between, True), (is_saving, True):
    before = read_metrics(killed)
    process = command.start("unet_cells", killed, {**VALUES, "data.on_device": on_device})
    while not (read_metrics(killed) != before and condition(killed)):
      assert process.poll() is None, process.communicate()[0]
      time.sleep(0.005)
    process.kill()
    process.communicate()
    assert max(saved_steps(killed), default=0) < NUM_STEPS
  command.finish(command.start("unet_cells", killed, VALUES))

  expected = read_metrics(undisturbed)
  evaluated = [2 * SAVE_EVERY, 4 * SAVE_EVERY, NUM_STEPS]
  assert [line["step"] for line in expected] == sorted([*range(1, NUM_STEPS + 1), *evaluated])
  assert read_metrics(killed) == expected
  states = [command.read_checkpoint(workdir, NUM_STEPS) for workdir in (killed, undisturbed)]
  chex.assert_trees_all_equal(*states)
  assert states[0]["optimizer"]["step"] == NUM_STEPS
  scores = [json.loads((w / "evaluation.json").read_text()) for w in (killed, undisturbed)]
  assert scores[0] == scores[1]
  assert not is_saving(killed)
