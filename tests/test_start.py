"""What happens before the command imports JAX: the help, and the settings of the allocator."""

import os
import subprocess
import sys

import pytest
from command import ROOT

from jaxseg import interrupts, start


@pytest.fixture
def started(monkeypatch):
  """The programs that replace this one, with their environment; a glibc that can be tuned.

  Nothing listens for Ctrl-C afterwards: it would end the tests.
  """
  found = []
  monkeypatch.setattr(interrupts, "watch", lambda: None)
  monkeypatch.setattr(os, "execv", lambda *program: found.append((*program, dict(os.environ))))
  monkeypatch.setattr(os, "confstr", lambda name: "glibc 2.35")
  monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "jaxseg.main", "--config=a b"])
  monkeypatch.delitem(sys.modules, "bdb", raising=False)  # pytest imports it
  monkeypatch.setenv("GLIBC_TUNABLES", "")  # so that it is as before afterwards
  monkeypatch.delenv("GLIBC_TUNABLES")
  return found


def test_the_same_program_starts_anew_once(started):
  start.tune_allocator()
  ((path, arguments, environ),) = started
  assert path == sys.executable
  assert arguments == [sys.executable, "-m", "jaxseg.main", "--config=a b"]
  assert "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:" in environ["GLIBC_TUNABLES"]
  start.tune_allocator()
  assert len(started) == 1


def unknown(name):
  raise ValueError("unrecognized configuration name")


@pytest.mark.parametrize(
  "confstr", [lambda name: "glibc 2.34", lambda name: None, lambda name: "musl 1.2", unknown]
)
def test_without_a_glibc_that_can_be_tuned_nothing_happens(started, monkeypatch, confstr):
  monkeypatch.setattr(os, "confstr", confstr)
  start.tune_allocator()
  monkeypatch.delattr(os, "confstr")  # Windows
  start.tune_allocator()
  assert not started and "GLIBC_TUNABLES" not in os.environ


def test_settings_of_the_user_stay(started, monkeypatch):
  monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=2")
  start.tune_allocator()
  assert not started


@pytest.mark.parametrize(
  "command, is_own",
  [
    ("bin/jaxseg --mode=keys", True),
    ("python -u -m cProfile -m jaxseg.main", True),
    ("python -mjaxseg.main", True),
    ("python", False),  # which reads a program from a pipe
    ("python -m ipykernel_launcher -f kernel.json", False),
    ("python runs/jaxseg/sweep.py", False),
  ],
)
def test_the_process_of_another_program_stays(started, monkeypatch, command, is_own):
  monkeypatch.setattr(sys, "orig_argv", command.split())
  monkeypatch.setattr(sys, "argv", ["jaxseg"])
  watched = []
  monkeypatch.setattr(interrupts, "watch", lambda: watched.append(1))
  start.prepare()
  assert len(started) == len(watched) == is_own


@pytest.mark.parametrize("debugger", ["bdb", "pydevd"])
def test_a_debugger_keeps_its_breakpoints(started, monkeypatch, debugger):
  monkeypatch.setitem(sys.modules, debugger, sys)
  monkeypatch.setattr(sys, "argv", ["jaxseg"])
  start.prepare()
  assert not started


def test_a_program_that_cannot_start_anew_goes_on(started, monkeypatch):
  tried = []

  def fail(*program):
    tried.append(program)
    raise PermissionError(1, "Operation not permitted")

  monkeypatch.setattr(os, "execv", fail)
  start.tune_allocator()
  assert len(tried) == 1


@pytest.mark.parametrize("flag", ["--help", pytest.param("--version", marks=pytest.mark.slow)])
def test_a_reader_that_has_left(flag):
  command = [sys.executable, "-m", "jaxseg.main", flag]
  environ = {name: x for name, x in os.environ.items() if name != "PYTHONUNBUFFERED"}
  read, write = os.pipe()
  os.close(read)
  done = subprocess.run(command, cwd=ROOT, env=environ, stdout=write, stderr=subprocess.PIPE)
  os.close(write)
  assert done.returncode == 141 and not done.stderr


def test_help_without_docstrings():
  command = [sys.executable, "-OO", "-m", "jaxseg.main", "--help"]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
  assert done.stdout == start.HELP


def test_help_imports_nothing_heavy():
  command = [sys.executable, "-X", "importtime", "-m", "jaxseg.main", "--help"]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
  assert done.stdout.startswith("Train, score and use semantic segmentation networks.\n")
  names = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
  assert "runpy" in names and not names & {"jax", "numpy", "absl", "ml_collections"}


@pytest.mark.skipif(start._glibc() < (2, 35), reason="NOT TESTED: needs glibc 2.35")
def test_a_real_process_keeps_its_number_and_arguments(tmp_path):
  program = """
import os, sys
print(os.getpid(), flush=True)
from jaxseg import start
start.tune_allocator()
print(os.environ["GLIBC_TUNABLES"], sys.argv[1:])
"""
  (tmp_path / "jaxseg").write_text(program)
  environ = {name: x for name, x in os.environ.items() if name != "GLIBC_TUNABLES"}
  environ["PYTHONPATH"] = str(ROOT)
  command = [sys.executable, tmp_path / "jaxseg", "a b", "--c"]
  done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
  first, second, end = done.stdout.splitlines()
  assert first == second and end.startswith("glibc.malloc.hugetlb=1:")
  assert end.endswith("['a b', '--c']") and not done.stderr
