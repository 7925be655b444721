"""Damaged checkpoints: the one before is used, with a word; never other weights without one."""

import errno
import json
import os
import pathlib
import shutil
import warnings

import jax
import numpy as np
import pytest
from test_checkpoint import META, assert_same_bits, make_state
from tiny import error_of

from jaxseg import UserError, checkpoint, checkpoint_files, faults
from jaxseg.checkpoint_files import ARRAYS, DamagedError, checksum, folder_of, list_steps, read

SCORES = {3: 0.25, 6: 0.5}  # the latest is the best, as well


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  """A work directory with two checkpoints, of states that differ in every array."""
  workdir = tmp_path_factory.mktemp("saved")
  with checkpoint.open_manager(workdir) as manager:
    for step, score in SCORES.items():
      position = {"data": {"next": step}, "scores": [score]}
      checkpoint.save(manager, make_state(step, step, ema=True), position, META, {"miou": score})
  return workdir


@pytest.fixture
def copy(saved, tmp_path):
  """Makes a fresh copy of it."""

  def make():
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    return shutil.copytree(saved, tmp_path / "run")

  return make


def heard(function, *arguments):
  """(result or UserError, the warnings that came with it)"""
  with warnings.catch_warnings(record=True) as found:
    warnings.simplefilter("always")
    try:
      result = function(*arguments)
    except UserError as error:
      result = error
  return result, [str(warning.message) for warning in found]


def check_reading(workdir):
  """Reads for use: the latest as it was, or the one before with a note. Returns the step."""
  (step, found), notes = heard(checkpoint.load_best, workdir)
  assert_same_bits(found["variables"], make_state(step, step, ema=True).ema)
  assert found["meta"] == META
  assert step == 6 or len(notes) == 1 and "damaged" in notes[0] and "6 (" in notes[0]
  named, _ = heard(checkpoint.load_step, workdir, 6)
  if isinstance(named, UserError):
    message = str(named)
    assert "\n" not in message and message.endswith(f"take {folder_of(workdir, 3)}"), message
  else:
    assert_same_bits(named["variables"], make_state(6, 6, ema=True).ema)
  return step


def check_resuming(workdir):
  """Resumes and saves step 6 again; returns the step from which it resumed."""
  _, notes = heard(checkpoint.set_aside_damaged, workdir)
  step = list_steps(workdir)[-1]
  if step == 6:
    assert not notes and not (workdir / "damaged_checkpoints").exists()
  else:
    assert len(notes) == 1 and "resumes from checkpoint 3" in notes[0]
    assert (workdir / "damaged_checkpoints" / "6").is_dir()
  state, position, evaluated = checkpoint.restore(workdir, make_state(0, 9, ema=True))
  assert_same_bits(state, make_state(step, step, ema=True))
  assert position == {"data": {"next": step}, "scores": [SCORES[step]]} and evaluated
  with checkpoint.open_manager(workdir) as manager:
    if step == 6:
      manager.delete(6)  # as after an evaluation that a signal prevented
    again = make_state(6, 7, ema=True)
    checkpoint.save(manager, again, {"data": {}, "scores": []}, META, {"miou": 0.75})
  assert_same_bits(checkpoint.restore(workdir, state)[0], again)
  assert checkpoint.best_checkpoint(workdir)[0] == 6
  return step


def files_of(workdir, step=6):
  return sorted(path for path in folder_of(workdir, step).rglob("*") if path.is_file())


def flip(path, rng):
  """Flips one bit of a file."""
  content = bytearray(path.read_bytes())
  content[rng.integers(len(content))] ^= 1 << rng.integers(8)
  path.write_bytes(content)


def check_flips(copy, number, seed):
  """Flips as many bits, one at a time, over all bytes of the latest checkpoint.

  Returns:
    how many were noticed
  """
  rng, noticed = np.random.default_rng(seed), 0
  sizes = np.array([path.stat().st_size for path in files_of(copy())])
  for _ in range(number):
    workdir = copy()
    flip(files_of(workdir)[rng.choice(len(sizes), p=sizes / sizes.sum())], rng)
    used = check_reading(workdir)
    noticed += min(used, check_resuming(workdir)) == 3
  return noticed


@pytest.mark.parametrize("part", [*ARRAYS, "data", "meta", "metrics", "checksums", "all"])
def test_a_part_without_its_files(copy, part):
  workdir = copy()
  folder = folder_of(workdir, 6) / ("" if part == "all" else part)
  shutil.rmtree(folder)
  folder.mkdir()
  # What only training needs does not stop a prediction.
  assert check_reading(workdir) == (6 if part in ("optimizer", "data") else 3)
  assert check_resuming(workdir) == 3


@pytest.mark.parametrize("part", [*ARRAYS, "data", "meta", "metrics", "checksums"])
def test_a_part_that_is_not_there(copy, part):
  """Without checksums, it counts as one of an earlier version."""
  workdir = copy()
  shutil.rmtree(folder_of(workdir, 6) / part)
  assert check_reading(workdir) == (6 if part in ("optimizer", "data", "checksums") else 3)
  assert check_resuming(workdir) == (6 if part == "checksums" else 3)


@pytest.mark.parametrize("part", [*ARRAYS, "data", "metrics"])
def test_a_part_of_another_step(copy, part):
  """It can be read, but is not what was saved."""
  workdir = copy()
  shutil.rmtree(folder_of(workdir, 6) / part)
  shutil.copytree(folder_of(workdir, 3) / part, folder_of(workdir, 6) / part)
  assert error_of(read, workdir, 6, part) == f"{part} differs from its checksum"
  assert check_reading(workdir) == (6 if part in ("optimizer", "data") else 3)
  assert check_resuming(workdir) == 3


def test_a_truncated_array(copy):
  workdir = copy()
  path = max(files_of(workdir), key=lambda path: path.stat().st_size)
  path.write_bytes(path.read_bytes()[:-9])
  check_reading(workdir)
  assert check_resuming(workdir) == 3


def test_flipped_bits(copy):
  assert check_flips(copy, 6, seed=1) > 0


@pytest.mark.slow
def test_many_flipped_bits(copy):
  assert check_flips(copy, 150, seed=0) > 50


@pytest.mark.slow
def test_each_file_truncated_or_removed(copy):
  number = len(files_of(copy()))
  assert number > 20
  for i in range(number):
    for keep in (None, 0.0, 0.5):
      workdir = copy()
      path = files_of(workdir)[i]
      content = path.read_bytes()
      path.unlink() if keep is None else path.write_bytes(content[: int(keep * len(content))])
      check_reading(workdir)
      check_resuming(workdir)


def test_all_are_damaged(copy):
  workdir = copy()
  for step in SCORES:
    (folder_of(workdir, step) / "meta" / "metadata").write_text("{")
  for call in (checkpoint.load_best, checkpoint.set_aside_damaged, checkpoint.best_checkpoint):
    message = error_of(call, workdir)
    assert "all checkpoints are damaged (6: meta cannot be read)" in message
    assert "from a copy" in message and "another --workdir" in message
  assert "all 1" not in error_of(checkpoint.load_step, workdir, 6)
  message = error_of(checkpoint.load_best, workdir, "config.model.init_from")
  assert message.endswith("or correct config.model.init_from")
  assert list_steps(workdir) == [3, 6]  # where they were


def test_set_aside_twice(copy):
  workdir = copy()
  for names in (["6"], ["6", "6_"]):
    (folder_of(workdir, 6) / "data" / "metadata").write_text("{")
    check_resuming(workdir)
    assert sorted(path.name for path in (workdir / "damaged_checkpoints").iterdir()) == names


def test_checksums_by_hand(saved):
  """SHA-256 of the text that the docstring describes, made here without our code."""
  import hashlib

  arrays = {"b": np.arange(3, dtype=np.int32), "a": [np.float32(2.5)]}
  text = b"a/0 float32 ()\n" + np.float32(2.5).tobytes() + b"b int32 (3,)\n"
  text += np.array([0, 1, 2], "<i4").tobytes()
  assert checksum("variables", arrays) == hashlib.sha256(text).hexdigest()
  text = b'{"1": [2, null], "b": NaN}'
  assert checksum("data", {"b": float("nan"), 1: (2, None)}) == hashlib.sha256(text).hexdigest()
  sums = json.loads((folder_of(saved, 6) / "checksums" / "metadata").read_text())
  assert sums.keys() == {"variables", "optimizer", "data", "meta", "metrics"}
  assert sums["meta"] == hashlib.sha256(json.dumps(META, sort_keys=True).encode()).hexdigest()


@pytest.mark.parametrize("change", [lambda x: x[:-1], lambda x: -x, lambda x: x.astype("f2")])
def test_every_array_counts(saved, change):
  state = make_state(6, 6, ema=True)
  tree = {"params": state.params}
  leaves, structure = jax.tree.flatten(tree)
  for i, leaf in enumerate(leaves):
    other = jax.tree.unflatten(structure, [*leaves[:i], change(leaf), *leaves[i + 1 :]])
    assert checksum("variables", other) != checksum("variables", tree)


def test_a_state_of_another_network(saved):
  """It is not damaged: nothing is moved, and the line says what differs."""
  state = make_state(0)
  assert "surplus" in error_of(checkpoint.restore, saved, state)
  state = make_state(0, ema=True)
  state.ema["params"]["new"] = np.zeros(2)
  assert "has no params/new" in error_of(checkpoint.restore, saved, state)
  state = make_state(0, ema=True)
  state.ema["params"]["conv"]["bias"] = np.zeros(5)
  assert "params/conv/bias is (4,), not (5,)" in error_of(checkpoint.restore, saved, state)
  with pytest.raises(DamagedError):
    read(saved, 9, "meta")


def test_what_is_safe_is_sound(copy):
  """After an error of the system, the step from which the run will resume is named."""
  workdir = copy()

  def safe():
    with pytest.raises(UserError) as caught, faults.of_run(workdir):
      raise OSError(errno.ENOSPC, "No space left on device", "x")
    return str(caught.value).partition("the disk; ")[2]

  assert safe() == "checkpoint 6 is safe, from which the same command then resumes"
  (workdir / "checkpoints" / "8").mkdir()  # of a save that did not come further
  (workdir / "checkpoints" / "6" / "optimizer" / "manifest.ocdbt").write_bytes(b"")
  assert safe() == "checkpoint 3 is safe, from which the same command then resumes"
  shutil.rmtree(workdir / "checkpoints" / "3" / "variables")
  assert safe() == "no checkpoint is sound; restore one from a copy, or use another --workdir"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE, errno.ENOTCONN])
def test_what_cannot_be_read_now_is_not_damaged(copy, monkeypatch, number):
  """Nothing is moved, and no other checkpoint takes its place."""
  workdir, stat = copy(), os.stat

  def refuse(*_, **__):  # as TensorStore says it
    place = f'Error reading "params.conv.kernel/.zarray" in OCDBT database at "{workdir}"'
    raise ValueError(f"{place}: Error opening file [OS error {number}: NAME {os.strerror(number)}]")

  def deny(path, **options):
    if name == "stat" and not str(path).endswith("_METADATA"):
      return stat(path, **options)
    raise OSError(number, os.strerror(number), str(path))

  for place, name, replacement in (
    (checkpoint_files.ocp.StandardCheckpointer, "restore", refuse),
    (pathlib.Path, "read_bytes", deny),
    (checkpoint_files.os, "stat", deny),  # of the folder of arrays: Orbax says that it is empty
  ):
    with monkeypatch.context() as patch:
      patch.setattr(place, name, replacement)
      for call in checkpoint.load_best, checkpoint.set_aside_damaged:
        with pytest.raises(OSError) as raised:
          call(workdir)
        assert raised.value.errno == number
        assert raised.value.filename in [str(folder_of(workdir, step)) for step in SCORES]
      with pytest.raises(UserError, match="its checkpoints cannot be read now"):
        with faults.of_run(workdir):
          raise OSError(errno.ENOSPC, "")
    assert list_steps(workdir) == [3, 6] and not (workdir / "damaged_checkpoints").exists()
