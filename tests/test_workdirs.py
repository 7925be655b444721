"""Configs that are compared, and files that are whole or not there."""

import json
import os

import pytest

from configs import default
from jaxseg import UserError, workdirs

CONFIG = {"seed": 0, "data": {"name": "cells", "num_threads": 2}, "model": {"widths": (4, 8)}}


@pytest.fixture
def workdir(tmp_path):
  """A work directory with the config.json of a run of configs/default.py, and that config."""
  config = default.get_config().to_dict()
  workdirs.write_json(tmp_path / "config.json", config)
  return tmp_path, config


def changed(config, key, value):
  """A copy of a nested dict with one dotted key set."""
  head, *rest = key.split(".", 1)
  return {**config, head: changed(config[head], rest[0], value) if rest else value}


def another(value):
  """Any other value of the same type."""
  if isinstance(value, bool):
    return not value
  if isinstance(value, tuple):
    return (*value, 3)
  return value + ("x" if isinstance(value, str) else 1)


def test_flatten():
  assert workdirs.flatten(CONFIG) == {
    "seed": 0,
    "data.name": "cells",
    "data.num_threads": 2,
    "model.widths": [4, 8],
  }
  assert workdirs.flatten({"a": {"b": {"c": ()}, "d": {}}}) == {"a.b.c": []}
  assert workdirs.flatten({"a": ((1, (2, 3)), 4)}) == {"a": [[1, [2, 3]], 4]}


def test_lists_of_keys_name_keys_that_exist():
  keys = set(workdirs.flatten(default.get_config().to_dict()))
  assert set(workdirs.FREE_KEYS) < keys and set(workdirs.MODEL_KEYS) < keys
  assert not set(workdirs.FREE_KEYS) & set(workdirs.MODEL_KEYS)
  # A run may be moved to another machine and be given more threads,
  moved = "data.data_dir data.num_threads data.cache_mb train.parallel eval.batch_size"
  assert set(moved.split()) < set(workdirs.FREE_KEYS)
  # but what decides about its numbers has to stay,
  fixed = "seed data.seed data.train_split train.batch_size train.num_epochs train.learning_rate"
  assert not set(fixed.split()) & set(workdirs.FREE_KEYS)
  # and for a trained network what decides about its weights and what it sees.
  network = "model.name model.encoder model.widths model.norm model.up data.image_size data.fit"
  assert set(network.split()) < set(workdirs.MODEL_KEYS)


def test_same_config(workdir):
  workdirs.check_config(*workdir)
  workdirs.check_config(workdir[0], json.loads(json.dumps(workdir[1])))


def test_no_work_directory_yet(tmp_path):
  workdirs.check_config(tmp_path / "new", CONFIG)
  workdirs.check_config(tmp_path, CONFIG)


def test_every_key_but_the_free_ones_counts(workdir):
  path, config = workdir
  for key, value in workdirs.flatten(config).items():
    value = another(tuple(value) if isinstance(value, list) else value)
    other = changed(config, key, value)
    if key in workdirs.FREE_KEYS:
      workdirs.check_config(path, other)
      continue
    with pytest.raises(UserError) as error:
      workdirs.check_config(path, other)
    message = str(error.value)
    assert str(path) in message and f" {key} is " in message and "--workdir" in message
    assert "\n" not in message
    if key in workdirs.MODEL_KEYS:
      with pytest.raises(UserError, match=key):
        workdirs.check_config(path, other, keys=workdirs.MODEL_KEYS)
    else:
      workdirs.check_config(path, other, keys=workdirs.MODEL_KEYS)


def test_message_has_both_values_and_the_number_of_others(tmp_path):
  workdirs.write_json(tmp_path / "config.json", CONFIG)
  other = changed(changed(CONFIG, "model.widths", (4, 9)), "seed", 1)
  with pytest.raises(UserError) as error:
    workdirs.check_config(tmp_path, other)
  assert "there model.widths is [4, 8], here [4, 9] (and 1 more keys)" in str(error.value)


def test_key_of_another_version(tmp_path):
  workdirs.write_json(tmp_path / "config.json", CONFIG)
  with pytest.raises(UserError, match="there data.new is None, here 1"):
    workdirs.check_config(tmp_path, changed(CONFIG, "data.new", 1))
  with pytest.raises(UserError, match="there seed is 0, here None"):
    workdirs.check_config(tmp_path, {k: v for k, v in CONFIG.items() if k != "seed"})


@pytest.mark.parametrize("text", ["", "{", "[1]", '"x"'])
def test_damaged_config(tmp_path, text):
  (tmp_path / "config.json").write_text(text)
  with pytest.raises(UserError, match="config.json is not a config"):
    workdirs.check_config(tmp_path, CONFIG)


def test_write_json(tmp_path):
  path = tmp_path / "new" / "folder" / "x.json"
  for value in ({"a": [1.5, None, "é"]}, {"b": 2}):
    workdirs.write_json(path, value)
    assert json.loads(path.read_text()) == value
    assert [p.name for p in path.parent.iterdir()] == ["x.json"]


def test_write_json_is_whole_or_not_there(tmp_path, monkeypatch):
  path = tmp_path / "x.json"
  workdirs.write_json(path, {"old": 1})
  # What lies at `path` right before the last step is the old file, and the new one is complete.
  states, replace = [], os.replace

  def spy(source, target):
    states.append((json.loads(path.read_text()), json.loads(open(source).read())))
    replace(source, target)

  monkeypatch.setattr(os, "replace", spy)
  workdirs.write_json(path, {"new": 2})
  assert states == [({"old": 1}, {"new": 2})]
  for wrong in ({"x": float("nan")}, {"x": float("inf")}, {"x": {1, 2}}):
    with pytest.raises((TypeError, ValueError)):
      workdirs.write_json(path, wrong)
    assert json.loads(path.read_text()) == {"new": 2}


def test_make_folder(tmp_path):
  for _ in range(2):
    workdirs.make_folder(tmp_path / "a" / "b", "--workdir")
  assert (tmp_path / "a" / "b").is_dir()
  (tmp_path / "file").touch()  # stops root too, unlike permissions
  for path in (tmp_path / "file", tmp_path / "file" / "b"):
    with pytest.raises(UserError) as error:
      workdirs.make_folder(path, "--workdir")
    assert str(path) in str(error.value) and "--workdir" in str(error.value)


def lines(*steps):
  return [{"step": step, "epoch": step / 4, "split": "train", "loss": 0.5} for step in steps]


def test_metrics_come_back(tmp_path):
  assert workdirs.read_metrics(tmp_path) == []
  for line in lines(1, 2, 3):
    workdirs.append_metrics(tmp_path, line)
  assert workdirs.read_metrics(tmp_path) == lines(1, 2, 3)
  with pytest.raises(ValueError):
    workdirs.append_metrics(tmp_path, {"step": 4, "loss": float("nan")})
  assert workdirs.read_metrics(tmp_path) == lines(1, 2, 3)


def test_metrics_after_a_checkpoint_are_forgotten(tmp_path):
  for line in lines(2, 4, 4, 6, 8):
    workdirs.append_metrics(tmp_path, line)
  workdirs.forget_metrics_after(tmp_path, 4)
  assert workdirs.read_metrics(tmp_path) == lines(2, 4, 4)
  workdirs.append_metrics(tmp_path, lines(5)[0])
  assert workdirs.read_metrics(tmp_path) == lines(2, 4, 4, 5)
  workdirs.forget_metrics_after(tmp_path, 0)
  assert (tmp_path / "metrics.jsonl").read_text() == ""
  assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize("num_bytes_lost", [1, 2, 40])
def test_a_line_that_was_cut_short(tmp_path, num_bytes_lost):
  for line in lines(2, 4, 6):
    workdirs.append_metrics(tmp_path, line)
  path = tmp_path / "metrics.jsonl"
  path.write_bytes(path.read_bytes()[:-num_bytes_lost])
  assert workdirs.read_metrics(tmp_path) == lines(2, 4)
  workdirs.forget_metrics_after(tmp_path, 6)
  for line in lines(6, 8):
    workdirs.append_metrics(tmp_path, line)
  assert [json.loads(line) for line in path.read_text().splitlines()] == lines(2, 4, 6, 8)


def test_metrics_of_a_new_run(tmp_path):
  workdirs.forget_metrics_after(tmp_path, 0)
  assert workdirs.read_metrics(tmp_path) == []
