"""One training at a time in a work directory."""

import collections.abc
import contextlib
import datetime
import errno
import json
import os
import pathlib
import socket

from jaxseg import UserError, parallel
from jaxseg.notebook import warn
from jaxseg.workdirs import make_folder

try:
  import fcntl
except ImportError:  # Windows
  fcntl = None

NAME = "training.lock"  # the file exists while a training goes on; only the lock on it counts


@contextlib.contextmanager
def only_training(workdir: str | pathlib.Path) -> collections.abc.Iterator[None]:
  """Locks a work directory, created if missing, in a `with` block.

  The lock is the operating system's (`flock`): it ends with the process, however that ends. Process
  0 takes it for all. A file system without locks gets a note instead.

  Raises:
    UserError: another training has it, here or, on most network file systems, on another machine;
      in all processes.
  """
  workdir = pathlib.Path(workdir)
  file, fault, new = None, "", []
  if parallel.is_main():
    new = [path for path in (workdir, *workdir.parents) if not path.exists()]
    try:
      file = _lock(workdir)
    except UserError as error:
      fault = str(error)
  if fault := parallel.json_from_main(fault):
    raise UserError(fault)
  try:
    yield
  finally:
    if file is not None:
      # Another process that has opened the file looks again whether it is still there.
      with contextlib.suppress(OSError):  # the work directory may be gone, or read-only by now
        (workdir / NAME).unlink()
      os.close(file)
    with contextlib.suppress(OSError):  # not empty: training has begun
      for path in new:
        path.rmdir()


def _lock(workdir):
  """The open lock file; None if files cannot be locked there."""
  make_folder(workdir, "--workdir")
  path = workdir / NAME
  while True:
    try:
      file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
      text = f"cannot write to {workdir} ({error.strerror}); correct --workdir"
      raise UserError(text) from error
    try:
      if fcntl is None:
        raise OSError(errno.ENOSYS, "this system has no flock")
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      if _is_at(file, path):
        break
      os.close(file)  # its holder has just removed it
    except BlockingIOError as error:
      holder = _holder(file)
      os.close(file)
      raise UserError(
        f"{workdir} is in use: {holder}; wait until it ends or stop it, or use another --workdir"
      ) from error
    except OSError as error:
      os.close(file)
      path.unlink(missing_ok=True)
      warn(
        f"{workdir} cannot be locked ({error.strerror}): make sure that no other process trains "
        "there"
      )
      return None
  since = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
  about = {"host": socket.gethostname(), "process": os.getpid(), "since": since}
  with contextlib.suppress(OSError):  # a full disk: the lock is there, without a word of its holder
    os.ftruncate(file, 0)
    os.write(file, json.dumps(about).encode())
  return file


def _is_at(file, path):
  try:
    return os.path.samestat(os.fstat(file), os.stat(path))
  except FileNotFoundError:
    return False


def _holder(file):
  """Who trains there, in words."""
  try:
    about = json.loads(os.pread(file, 10_000, 0))
    return f"process {about['process']} on {about['host']} trains there since {about['since']}"
  except (KeyError, TypeError, ValueError):  # it has not been written yet
    return "another process trains there"
