"""The system's errors in a line, and runs that go on after them."""

import errno
import os
import signal
import subprocess
import sys
import time

import command
import pytest
import test_end_to_end
import tiny

from jaxseg import DataWarning, UserError, faults, modes, run, training
from jaxseg.data import datasets

ROOM = "No space left on device; make room on the disk"
VALUES = {**test_end_to_end.VALUES, "train.num_epochs": 80 / test_end_to_end.EPOCH}


def system_error(number, path=None):
  return OSError(number, os.strerror(number), path)


def wrapped(outer, inner, *, by):
  setattr(outer, by, inner)
  return outer


@pytest.mark.parametrize(
  ("error", "text"),
  [
    (system_error(errno.ENOSPC, "/a/b"), f"/a/b: {ROOM}"),
    (system_error(errno.ENOSPC), f"/run: {ROOM}"),
    (system_error(errno.ENOENT, "/a/b"), "/a/b: No such file or directory"),
    (system_error(errno.ENOENT), None),
    (wrapped(ValueError("x"), system_error(errno.ENOENT, "/a"), by="__context__"), None),
    (wrapped(ValueError("x"), system_error(errno.ENOSPC), by="__cause__"), f"/run: {ROOM}"),
    (ExceptionGroup("x", [ValueError("y"), system_error(errno.ENOSPC, "z")]), f"z: {ROOM}"),
    (ValueError('UNKNOWN: writing "/a/b": [OS error 28: ENOSPC No space left]'), f"/a/b: {ROOM}"),
    (ValueError('Failed to open: "/a": Too many open files [spec]'),
     "/a: Too many open files; allow more open files (`ulimit -n 4096`)"),
    (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes.\nmore"),
     "out of the device's memory (RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes.); "
     + faults.MEMORY),
    (MemoryError(), f"out of memory (no size known); {faults.MEMORY}"),
    (ValueError("a bug"), None),
  ],
)  # fmt: skip
def test_describe(error, text):
  assert faults.describe(error, "/run") == text


def test_what_is_safe(tmp_path):
  def message():
    with pytest.raises(UserError) as caught, faults.of_run(tmp_path / "w"):
      raise system_error(errno.EROFS, "/a")
    return str(caught.value)

  begin = "/a: Read-only file system; make its folder writable, or choose another; "
  assert message().startswith(begin + "the work directory is gone")
  (tmp_path / "w" / "checkpoints" / "16.orbax-checkpoint-tmp").mkdir(parents=True)
  assert message() == begin + "there is no checkpoint yet; then start again"
  with pytest.raises(ZeroDivisionError), faults.of_run(tmp_path):
    raise ZeroDivisionError


@pytest.mark.slow
def test_scores_survive_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
  monkeypatch.setitem(datasets.DATASETS, "photos", tiny.load_photos)
  assert training.train(tiny.make_config(2), tmp_path)
  expected = modes.evaluate(tmp_path)

  def fail(*_):
    raise system_error(errno.EROFS, "evaluation.json")

  monkeypatch.setattr(run.workdirs, "write_json", fail)
  with pytest.warns(DataWarning, match="scores are not in the work directory: evaluation.json: R"):
    assert modes.evaluate(tmp_path)["miou"] == expected["miou"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts a file system")
def test_a_full_disk_and_room_again(tmp_path):
  """Training ends with one line, and the same command then ends as if nothing had happened."""
  small, straight = tmp_path / "small", tmp_path / "straight"
  small.mkdir()
  mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", small]
  if subprocess.run(mount, capture_output=True, check=False).returncode:
    pytest.skip("may not mount a file system")
  try:
    process = command.start("unet_cells", small / "w", VALUES)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 1 and "Traceback" not in output, output[-3000:]
    last = output.splitlines()[-1]
    (safe, *_) = sorted(test_end_to_end.saved_steps(small / "w"), reverse=True)
    assert ROOM in last and f"checkpoint {safe} is safe, from which" in last
    subprocess.run(["mount", "-o", "remount,size=40m", small], check=True)
    command.finish(command.start("unet_cells", small / "w", VALUES))
    command.finish(command.start("unet_cells", straight, VALUES))
    found, expected = (test_end_to_end.read_metrics(w) for w in (small / "w", straight))
    assert found == expected and expected[-1]["step"] == 80
  finally:
    subprocess.run(["umount", "-l", small], check=True)


def test_a_fault_before_the_run_begins_keeps_its_traceback(tmp_path, monkeypatch):
  """The new work directory is taken away again, which is not why it failed."""
  monkeypatch.setattr(training, "_train", lambda *_: 1 / 0)
  with pytest.raises(ZeroDivisionError):
    training.train(tiny.make_config(1, data__name="cells"), tmp_path / "w")
  assert not (tmp_path / "w").exists()


@pytest.mark.slow
def test_a_work_directory_that_vanishes(tmp_path):
  process = command.start("unet_cells", tmp_path / "w", VALUES)
  while not (tmp_path / "w" / "checkpoints" / "8").exists():
    assert process.poll() is None, process.communicate()[0]
    time.sleep(0.02)
  (tmp_path / "w").rename(tmp_path / "gone")
  output = process.communicate(timeout=100)[0]
  assert process.returncode == 1 and "Traceback" not in output, output[-3000:]
  assert "the work directory is gone" in output.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["import", "compile"])
def test_control_c_is_one_line(tmp_path, moment):
  """While modules are imported at once; while the first step compiles, the second one."""
  values = {**VALUES, "data.image_size": 256, "model.widths": "(8,16,16,32,32,32)"}
  environ = {"JAX_ENABLE_COMPILATION_CACHE": "0"}
  process = command.start("unet_cells", tmp_path / "w", values, **environ)
  if moment == "import":
    time.sleep(1)
    process.send_signal(signal.SIGINT)
  else:
    while not (tmp_path / "w" / "config.json").exists():
      time.sleep(0.02)
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
  start = time.time()
  output = process.communicate(timeout=100)[0]
  assert (process.returncode, time.time() - start < 5) == (130, True), output
  assert output.splitlines()[-1].endswith("interrupted") and "Traceback" not in output
