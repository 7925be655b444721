"""Configs that are compared, and files that are whole or not there."""

import json
import os
import pathlib

import pytest
from tiny import error_of

from configs import default
from jaxseg import DataWarning, UserError, settings, workdirs

SCOPES = {"model.name": "network", "data.threads": "free"}
VALUES = {"seed": 0, "model.name": "unet", "model.widths": [4, 8], "data.threads": 2}


def test_same_config():
  workdirs.check_config("runs/a", VALUES, dict(VALUES), SCOPES)
  workdirs.check_config("runs/a", VALUES, {**VALUES, "data.threads": 9}, SCOPES)


@pytest.mark.parametrize("name, value", [("seed", 1), ("model.widths", [4, 9]), ("new", 3)])
def test_experiment_keys_fix_the_run_but_not_the_network(name, value):
  other = {**VALUES, name: value}
  message = error_of(workdirs.check_config, "runs/a", VALUES, other, SCOPES)
  values = f"config.{name}={VALUES.get(name)!r}, not {value!r}"
  assert f"runs/a: its run was started with {values}" in message and "--workdir" in message
  workdirs.check_config("runs/a", VALUES, other, SCOPES, network=True)


def test_network_keys_fix_both():
  other = {**VALUES, "model.name": "fcn8s"}
  for network, word in (True, "network was trained"), (False, "run was started"):
    message = error_of(workdirs.check_config, "a", VALUES, other, SCOPES, network=network)
    assert f"{word} with config.model.name='unet', not 'fcn8s'" in message


def test_message_names_the_other_keys():
  other = {**VALUES, "seed": 1, "model.widths": [4, 9]}
  message = error_of(workdirs.check_config, "a", VALUES, other, SCOPES)
  assert "config.seed=0, not 1 (and model.widths differs, too)" in message


def test_saved_config(tmp_path):
  assert workdirs.saved_config(tmp_path / "new") is None
  saved = {"seed": 3, "data": {"name": "cells"}, "model": {"name": "unet"}}
  workdirs.write_json(tmp_path / "config.json", saved)
  assert workdirs.saved_config(tmp_path) == saved


@pytest.mark.parametrize("text", ["", "{", "[1]", '"x"', '{"model": {"name": "x"}}', "{}"])
def test_damaged_config(tmp_path, text):
  (tmp_path / "config.json").write_text(text)
  with pytest.raises(UserError, match="config.json is not a config"):
    workdirs.saved_config(tmp_path)


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


def test_two_processes_write_the_same_file(tmp_path, monkeypatch):
  """The other one is through while this one is about to rename its own."""
  path, replace = tmp_path / "x.json", os.replace

  def meanwhile(source, target):
    monkeypatch.setattr(os, "replace", replace)
    workdirs.write_json(path, {"other": 1})
    replace(source, target)

  monkeypatch.setattr(os, "replace", meanwhile)
  workdirs.write_json(path, {"mine": 2})
  assert json.loads(path.read_text()) == {"mine": 2}
  assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


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


@pytest.mark.parametrize("damage", [
  b'{"step": 4, "epo', b"\xff\xfe\x00", b"", b"[1]", b"3", b'{"step": 4}',
  b'{"step": "4", "epoch": 1, "split": "train", "loss": 0.5}',
  b'{"step": 4, "epoch": 1, "split": "train", "loss": NaN}',
  b'{"step": 4, "epoch": 1, "split": 7, "loss": 0.5}',
  b'{"step": 4, "epoch": 1, "split": "test", "loss": 0.5, "miou": {}}',
  b'{"step": 4, "epoch": 1, "split": "train", "loss": 1' + b"0" * 400 + b"}", b"[" * 100_000,
])  # fmt: skip
def test_damaged_lines_are_named_and_left_out(tmp_path, damage):
  for line in lines(2, 4, 6):
    workdirs.append_metrics(tmp_path, line)
  path = tmp_path / "metrics.jsonl"
  first, second, third, _ = path.read_bytes().split(b"\n")
  path.write_bytes(b"\n".join([first, damage, third, damage, b""]))
  with pytest.warns(DataWarning, match=f"^{path}: lines 2, 4 cannot be read"):
    workdirs.forget_metrics_after(tmp_path, 6)
  assert workdirs.read_metrics(tmp_path) == lines(2, 6)
  assert path.read_bytes() == b"\n".join([first, third, b""])


def test_many_damaged_lines(tmp_path):
  (tmp_path / "metrics.jsonl").write_bytes(b"x\n" * 13)
  with pytest.warns(DataWarning, match="lines 1, 2, .*, 10 and 3 more cannot be read"):
    assert workdirs.read_metrics(tmp_path) == []


def test_metrics_of_a_new_run(tmp_path):
  workdirs.forget_metrics_after(tmp_path, 0)
  assert workdirs.read_metrics(tmp_path) == []


def test_home_in_arguments(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))

  @workdirs.with_home("place", "more")
  def function(first, place, *, more=None):
    return first, place, more

  assert function("~/a", "~/a") == ("~/a", f"{tmp_path}/a", None)
  assert function("", place=pathlib.Path("~/b"), more=("~/c", "d~")) == (
    "", tmp_path / "b", [f"{tmp_path}/c", "d~"]
  )  # fmt: skip
  assert function("", "hf:a/b", more=["x"]) == ("", "hf:a/b", ["x"])


def test_home_in_a_config(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  config = default.get_config()
  config.model.init_from = "~/runs/a"
  found = settings.expand_home(config).model
  assert (found.init_from, found.pretrained) == (f"{tmp_path}/runs/a", config.model.pretrained)
