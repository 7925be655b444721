"""One training at a time in a work directory, and what the second one is told."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest
import tiny
from tiny import error_of

from jaxseg import DataWarning, UserError, locks, parallel, training
from jaxseg.locks import NAME, only_training

HOLDER = """
import sys, time
from jaxseg.locks import only_training
with only_training(sys.argv[1]):
  print("locked", flush=True)
  time.sleep(600)
"""


def enter(workdir):
  with only_training(workdir):
    pass


def test_the_second_is_told_who_holds_it(tmp_path):
  workdir = tmp_path / "new" / "run"
  with only_training(workdir):
    since = json.loads((workdir / NAME).read_text())["since"]
    message = error_of(enter, workdir)
    assert f"{workdir} is in use: process {os.getpid()} on {socket.gethostname()}" in message
    assert f"since {since}" in message and "another --workdir" in message
    found = []
    other = threading.Thread(target=lambda: found.append(error_of(enter, workdir)))
    other.start()
    other.join()
    assert found == [message]  # not only processes, but also two trainings of one
    enter(tmp_path / "other")
    (workdir / NAME).write_text("")  # not written yet
    assert "another process trains there" in error_of(enter, workdir)
  enter(workdir)


def test_a_killed_process_leaves_nothing_that_blocks(tmp_path):
  process = subprocess.Popen(
    [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
  )
  try:
    assert process.stdout.readline() == "locked\n"
    assert f"process {process.pid} on" in error_of(enter, tmp_path)
  finally:
    process.send_signal(signal.SIGKILL)
    process.communicate()
  assert (tmp_path / NAME).exists()
  enter(tmp_path)
  assert not (tmp_path / NAME).exists()


def test_an_error_releases_it_and_leaves_no_folder(tmp_path):
  for workdir in (tmp_path / "new" / "run", tmp_path):
    with pytest.raises(RuntimeError), only_training(workdir):
      raise RuntimeError
    enter(workdir)
  assert list(tmp_path.iterdir()) == []  # the folder that was there stays


def test_a_lock_file_that_vanishes_under_the_lock(tmp_path, monkeypatch):
  """Its holder removes it between our opening it and our locking it."""
  flock, calls = locks.fcntl.flock, []

  def remove_first(file, flags):
    if not calls:
      (tmp_path / NAME).unlink()
    calls.append(file)
    flock(file, flags)

  monkeypatch.setattr(locks.fcntl, "flock", remove_first)
  with only_training(tmp_path):
    assert len(calls) == 2 and (tmp_path / NAME).exists()
    assert "is in use" in error_of(enter, tmp_path)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO, None])
def test_a_file_system_without_locks(tmp_path, monkeypatch, number):
  def refuse(file, flags):
    raise OSError(number, os.strerror(number))

  if number is None:
    monkeypatch.setattr(locks, "fcntl", None)  # Windows
  else:
    monkeypatch.setattr(locks.fcntl, "flock", refuse)
  with pytest.warns(DataWarning, match="cannot be locked .*no other process trains there"):
    enter(tmp_path)
  assert list(tmp_path.iterdir()) == []


def test_a_full_disk(tmp_path, monkeypatch):
  """Whether training gets further is another question; the second one is kept away."""

  def refuse(file, content):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(os, "write", refuse)
  with only_training(tmp_path):
    assert "another process trains there" in error_of(enter, tmp_path)


def test_all_processes_of_a_run_end_with_the_same_line(tmp_path, monkeypatch):
  with only_training(tmp_path):
    message = error_of(enter, tmp_path)
    # Another process of the second run, which touches nothing and hears what process 0 found.
    monkeypatch.setattr(parallel, "is_main", lambda: False)
    monkeypatch.setattr(parallel, "json_from_main", lambda fault: message)
    assert error_of(enter, tmp_path) == message
    monkeypatch.setattr(parallel, "json_from_main", lambda fault: "")
    enter(tmp_path)
    assert (tmp_path / NAME).exists()
    monkeypatch.undo()
  assert not (tmp_path / NAME).exists()


def test_a_file_in_place_of_the_folder(tmp_path):
  (tmp_path / "file").touch()
  message = error_of(enter, tmp_path / "file")
  assert "cannot write to" in message and "--workdir" in message


def test_training_holds_it(tmp_path, photos, monkeypatch):
  """From before it reads the data until it ends, also by an error; then it may start again."""
  config = tiny.make_config(1)
  messages = []

  def start_again(*arguments, **options):
    messages.append(error_of(training.train, config, tmp_path))
    raise UserError("stop")

  monkeypatch.setattr(training, "measured_range", start_again)
  for _ in range(2):
    assert error_of(training.train, config, tmp_path) == "stop"
  assert len(messages) == 2 and all("is in use" in message for message in messages)


def test_a_work_directory_that_is_replaced_is_unlocked(tmp_path):
  """What ended the training is what is raised."""
  workdir = tmp_path / "w"
  with pytest.raises(ZeroDivisionError), only_training(workdir):
    workdir.rename(tmp_path / "moved")
    workdir.write_text("a file")
    raise ZeroDivisionError
  with only_training(tmp_path / "moved"):
    pass
