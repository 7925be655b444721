"""Runs that go on where they stopped, bit for bit, and runs that start from another one."""

import dataclasses
import json
import os
import signal

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
import tiny
from command import checkpoints, read_json, read_lines
from tiny import error_of

import jaxseg
from jaxseg import DataWarning, build, checkpoint, first_pass, initial_state, training
from jaxseg.data import datasets
from jaxseg.run import Run
from jaxseg.training import train

pytestmark = pytest.mark.usefixtures("photos")


def saved_state(workdir, step):
  """The arrays of a checkpoint, read without our code."""
  folder = workdir.absolute() / "checkpoints" / str(step)
  with ocp.StandardCheckpointer() as checkpointer:
    return [checkpointer.restore(folder / part) for part in ("variables", "optimizer")]


def assert_same_bits(first, second):
  leaves = jax.tree_util.tree_leaves_with_path(first)
  assert jax.tree.structure(first) == jax.tree.structure(second) and len(leaves) > 20
  for (path, a), b in zip(leaves, jax.tree.leaves(second), strict=True):
    a, b = np.asarray(a), np.asarray(b)
    assert (a.dtype, a.tobytes()) == (b.dtype, b.tobytes()), jax.tree_util.keystr(path)


def stop_after(monkeypatch, step, number=signal.SIGTERM):
  """Sends this process a signal when the bar reaches a step; the step after it will be the last."""
  advance = Run.advance

  def advance_and_stop(self, *arguments):
    advance(self, *arguments)
    if arguments[0] == step:
      monkeypatch.setattr(Run, "advance", advance)
      os.kill(os.getpid(), number)

  monkeypatch.setattr(Run, "advance", advance_and_stop)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
  """A work directory after 6 undisturbed steps."""
  workdir = tmp_path_factory.mktemp("straight")
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(datasets.DATASETS, "photos", tiny.load_photos)
    assert train(tiny.make_config(6), workdir) is True
  return workdir


def test_a_stopped_run_goes_on_bit_for_bit(straight, tmp_path, monkeypatch):
  config = tiny.make_config(6)
  handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
  stop_after(monkeypatch, 2)
  assert train(config, tmp_path) is False
  assert checkpoints(tmp_path) == [3]
  assert not (tmp_path / "evaluation.json").exists()
  stop_after(monkeypatch, 4, signal.SIGINT)
  assert train(config, tmp_path) is False
  assert checkpoints(tmp_path) == [3, 5]
  assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == handlers
  assert train(config, tmp_path) is True
  expected = saved_state(straight, 6)
  assert_same_bits(saved_state(tmp_path, 6), expected)
  assert int(expected[1]["step"]) == 6
  # Bits could agree because nothing moves.
  kernels = [saved_state(tmp_path, step)[0]["params"]["head"]["kernel"] for step in (5, 6)]
  assert (np.asarray(kernels[0]) != np.asarray(kernels[1])).all()
  for split in ("train", "test"):
    lines = read_lines(tmp_path, split, "images_per_second")
    assert lines and lines == read_lines(straight, split, "images_per_second")
  evaluations = [(path / "evaluation.json").read_text() for path in (straight, tmp_path)]
  assert evaluations[0] == evaluations[1]


@pytest.mark.slow
def test_a_run_with_sampling_by_classes_goes_on_bit_for_bit(tmp_path, monkeypatch, capsys):
  """The examples that hold a class are those of the run's first start."""
  sampling = {
    "data__class_crops": 0.5, "data__crop_classes": ("road",), "data__class_balanced": 0.5
  }  # fmt: skip
  config = tiny.make_config(4, **sampling)
  assert train(config, tmp_path / "straight") is True
  stop_after(monkeypatch, 1)
  assert train(config, tmp_path / "stopped") is False
  counts = read_json((tmp_path / "stopped" / "class_counts.json").read_text())
  everywhere = list(range(20))  # see tiny.make_photo
  assert counts["examples"] == {"sky": everywhere, "road": everywhere, "nowhere": []}
  with monkeypatch.context() as patch:
    patch.setattr(first_pass, "count_classes", None)  # is not called again
    assert train(config, tmp_path / "stopped") is True
  straight, stopped = (tmp_path / name for name in ("straight", "stopped"))
  assert_same_bits(saved_state(stopped, 4), saved_state(straight, 4))
  shuffled = tiny.make_config(4, data__class_crops=0.5, data__crop_classes=("road",))
  assert "class_balanced" in error_of(train, shuffled, stopped)
  patch_source(monkeypatch, 19)
  config = tiny.make_config(6, **sampling)
  config.train.num_epochs = 6 * 8 / 19
  assert train(config, stopped) is True
  told = capsys.readouterr().err
  assert "class_counts.json is of a training split that has changed" in told
  assert "training split has changed since the checkpoint (20 examples then, 19 now)" in told
  counts = read_json((stopped / "class_counts.json").read_text())
  assert counts["examples"]["sky"] == list(range(19))


def patch_source(monkeypatch, num_examples):
  """Takes the photos after the first `num_examples` out of the training split."""
  open_split = build.open_split

  def shortened(config, role, **options):
    info, source = open_split(config, role, **options)
    return info, datasets.Subset(source, range(num_examples)) if role == "train" else source

  monkeypatch.setattr(build, "open_split", shortened)


@pytest.mark.slow
def test_data_that_changed_between_stop_and_resume(tmp_path, monkeypatch, capsys):
  """The run goes on, and says what differs; the same data give no word."""
  config = tiny.make_config(4)
  assert train(tiny.make_config(2), tmp_path) is True
  assert train(tiny.make_config(3), tmp_path) is True
  assert "has changed" not in capsys.readouterr().err
  monkeypatch.setattr(tiny, "NUM_PHOTOS", {"train": 21, "test": 9})
  assert train(config, tmp_path) is True
  told = " ".join(capsys.readouterr().err.split())
  assert "training split has changed since the checkpoint (20 examples then, 21 now)" in told
  assert "another order" in told and "restore the files" in told and "evaluation split" not in told
  assert checkpoints(tmp_path) == [3, 4]
  assert train(config, tmp_path) is True
  assert "has changed" not in capsys.readouterr().err


def test_an_evaluation_split_that_changed(capsys):
  one, two = ({"num_examples": n, "names": ""} for n in (9, 10))
  training.tell_changes({"train": one, "eval": one}, {"train": one, "eval": two})
  told = capsys.readouterr().err
  assert "evaluation split has changed since the checkpoint (9 examples then, 10 now)" in told
  assert "do not compare" in told and "training split" not in told
  training.tell_changes({}, {"train": one, "eval": two})  # of an earlier version
  assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_leftovers_of_a_killed_run(straight, tmp_path, monkeypatch):
  """Lines that no checkpoint has, the last one cut short, and half a checkpoint."""
  config = tiny.make_config(6)
  stop_after(monkeypatch, 2)
  assert train(config, tmp_path) is False
  with (tmp_path / "metrics.jsonl").open("a") as file:
    file.write('{"step": 4, "epoch": 1.6, "split": "train", "loss": 99.0}\n{"step": 5, "epo')
  (tmp_path / "checkpoints" / "4.orbax-checkpoint-tmp" / "variables").mkdir(parents=True)
  assert train(config, tmp_path) is True
  lines = read_lines(tmp_path, "train", "images_per_second")
  assert lines == read_lines(straight, "train", "images_per_second")
  assert checkpoints(tmp_path) == [3, 6]


@pytest.mark.slow
def test_a_damaged_checkpoint_on_the_way(straight, tmp_path, monkeypatch):
  """The run resumes from the one before, bit for bit, and others use that one, too."""
  config = tiny.make_config(6, checkpoint_every=2)
  stop_after(monkeypatch, 4)
  assert train(config, tmp_path) is False
  assert checkpoints(tmp_path) == [4, 5]
  path = max((tmp_path / "checkpoints" / "5" / "variables").rglob("*"), key=os.path.getsize)
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)
  with pytest.warns(DataWarning, match=r"damaged checkpoints of .*: 5 \(.*checkpoint 4 is used"):
    assert jaxseg.load(tmp_path).step == 4
  message = error_of(jaxseg.load, tmp_path / "checkpoints" / "5")
  assert message.endswith(f"take {tmp_path / 'checkpoints' / '4'}")
  assert jaxseg.load(tmp_path / "checkpoints" / "4").step == 4
  other = tiny.make_config(1, model__init_from=str(tmp_path))
  parts = build.build_model(other, tiny.INFO), optax.sgd(0.1)
  state = initial_state.new_state(other, parts[0], tiny.INFO, parts[1])
  with pytest.warns(DataWarning, match="checkpoint 4 is used"):
    initial_state.pretrained_state(other, parts[0], state, parts[1], 3)
  with (tmp_path / "metrics.jsonl").open("r+") as file:
    file.write("#")
  with pytest.warns(DataWarning) as notes:
    assert train(config, tmp_path) is True
  told = [str(note.message) for note in notes]
  assert any("resumes from checkpoint 4" in text for text in told)
  assert any("metrics.jsonl: line 1 cannot be read" in text for text in told)
  assert_same_bits(saved_state(tmp_path, 6), saved_state(straight, 6))
  assert checkpoints(tmp_path) == [4, 6]
  assert [path.name for path in (tmp_path / "damaged_checkpoints").iterdir()] == ["5"]


@pytest.mark.slow
def test_a_signal_at_the_last_step_still_evaluates(tmp_path, monkeypatch):
  stop_after(monkeypatch, 2)
  assert train(tiny.make_config(3), tmp_path) is True
  assert read_json((tmp_path / "evaluation.json").read_text())["step"] == 3


def test_work_directory_of_another_config(straight):
  message = error_of(train, tiny.make_config(6, train__learning_rate=2e-2), straight)
  assert str(straight) in message and "--workdir" in message
  assert "config.train.learning_rate=0.01, not 0.02" in message


def test_a_finished_run_with_fewer_images_stays_finished(straight, monkeypatch, capsys):
  config = tiny.make_config(6)
  monkeypatch.setitem(tiny.NUM_PHOTOS, "train", 10)
  assert train(config, straight) is True
  assert "already complete: 6 of 3 steps" in capsys.readouterr().err


@pytest.mark.slow
def test_a_finished_run_goes_on_for_more_epochs(straight, tmp_path, capsys):
  assert train(tiny.make_config(3), tmp_path) is True
  assert train(tiny.make_config(6), tmp_path) is True
  assert_same_bits(saved_state(tmp_path, 6), saved_state(straight, 6))
  saved = json.loads((tmp_path / "config.json").read_text())
  assert saved["train"]["num_epochs"] == tiny.make_config(6).train.num_epochs
  capsys.readouterr()
  assert train(tiny.make_config(6), tmp_path) is True
  assert "already complete: 6 of 6 steps; with config.train.num_epochs above " in (
    capsys.readouterr().err
  )
  message = error_of(train, tiny.make_config(3), tmp_path)
  assert "config.train.num_epochs cannot become " in message
  assert json.loads((tmp_path / "config.json").read_text()) == saved


@pytest.mark.slow
def test_free_keys_may_change_on_the_way(tmp_path, monkeypatch):
  stop_after(monkeypatch, 2)
  assert train(tiny.make_config(5), tmp_path) is False
  config = tiny.make_config(5, data__num_threads=0, data__cache_mb=0, train__log_every_steps=2)
  assert train(config, tmp_path) is True
  assert json.loads((tmp_path / "config.json").read_text())["data"]["num_threads"] == 0


@pytest.mark.slow
def test_patience(tmp_path, monkeypatch, capsys):
  """Three evaluations without a better score after the second, also across a stop; for good."""
  found = iter([0.3, 0.5, 0.4, 0.45, 0.1, 0.9])
  evaluate = training.evaluate_split

  def scripted(*arguments):
    evaluation = evaluate(*arguments)
    return dataclasses.replace(evaluation, result={**evaluation.result, "miou": next(found)})

  monkeypatch.setattr(training, "evaluate_split", scripted)
  config = tiny.make_config(12, eval_every=1, train__patience=3)
  stop_after(monkeypatch, 3)
  assert train(config, tmp_path) is False
  assert train(config, tmp_path) is True
  assert checkpoints(tmp_path) == [2, 4, 5]
  assert "early stopping at step 5: no better mean IoU in 3 evaluations" in capsys.readouterr().err
  assert train(config, tmp_path) is True and next(found) == 0.9
  assert checkpoints(tmp_path) == [2, 4, 5]


@pytest.mark.slow
def test_an_evaluation_that_a_signal_prevented(tmp_path, monkeypatch):
  """It follows when the run resumes, and its step may be the best."""
  config = tiny.make_config(6, eval_every=3)
  straight = tmp_path / "straight"
  assert train(config, straight) is True
  stopped = tmp_path / "stopped"
  stop_after(monkeypatch, 2)
  assert train(config, stopped) is False
  assert checkpoints(stopped) == [3] and not (stopped / "evaluation.json").exists()
  assert train(config, stopped) is True
  lines = read_lines(stopped, "test", "images_per_second")
  assert [line["step"] for line in lines] == [3, 6]
  assert lines == read_lines(straight, "test", "images_per_second")
  assert_same_bits(saved_state(stopped, 3), saved_state(straight, 3))
  assert_same_bits(saved_state(stopped, 6), saved_state(straight, 6))
  assert checkpoint.best_checkpoint(stopped)[0] == checkpoint.best_checkpoint(straight)[0]
  with checkpoint.open_manager(stopped, read_only=True) as manager:
    assert manager.metrics(3)["miou"] == lines[0]["miou"]
