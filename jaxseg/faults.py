"""The operating system's errors in a line: what failed, what is safe, how to go on.

They come as OSError from our own writing; out of the background threads of Orbax, and through the
layers of other packages, as the cause of another error or as its text.
"""

import contextlib
import errno
import os
import pathlib
import re
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence

from jaxseg import DataWarning, UserError, checkpoint_files, parallel
from jaxseg.os_errors import chain, number_of

ROOM, WRITABLE = "make room on the disk", "make its folder writable, or choose another"
MOUNT, PERMITTED = "mount its file system again", "correct its permissions, or choose another"
REMEDIES = {
  errno.ENOSPC: ROOM,
  errno.EDQUOT: ROOM + ", or ask for a larger quota",
  errno.EFBIG: "raise the limit of a file's size (`ulimit -f unlimited`)",
  errno.EROFS: WRITABLE,
  errno.EACCES: PERMITTED,
  errno.EPERM: PERMITTED,
  errno.ENAMETOOLONG: "choose a shorter name",
  errno.EMFILE: "allow more open files (`ulimit -n 4096`)",
  errno.ENFILE: "end other programs, which hold too many files open",
  errno.EIO: "check the disk",
  errno.ESTALE: MOUNT,
  errno.ENOTCONN: MOUNT,
  errno.ETIMEDOUT: MOUNT,
  errno.ENOMEM: "end other programs, or use less memory",
}
MEMORY = (
  "to train, set config.train.remat or start another run with a lower config.train.batch_size or "
  "config.data.image_size; else lower config.eval.batch_size or set config.predict.tile"
)
QUOTED = re.compile(r"""["'](/[^"']+)["']""")


def describe(error: BaseException, where: str | pathlib.Path = "") -> str | None:
  """A line for an error of the operating system or of memory, with a remedy; None for others.

  Args:
    error: any. If it is not itself such an error, but came from one, only those that are not an
      everyday matter count; a missing file is one.
    where: the place to name if the error does not name one.
  """
  for found in chain(error):
    text = str(found)
    if isinstance(found, MemoryError):
      return f"out of memory ({text or 'no size known'}); {MEMORY}"
    number = number_of(found)
    path = (found.filename or "") if isinstance(found, OSError) and found.errno else ""
    if number is None and "RESOURCE_EXHAUSTED" in text and "memory" in text.lower():
      return f"out of the device's memory ({text.splitlines()[0]}); {MEMORY}"
    if number in REMEDIES or (found is error and path):
      quoted = QUOTED.search(text)
      path = os.fsdecode(path) if path else quoted[1] if quoted else where
      what = f"{path}: {os.strerror(number)}" if path else os.strerror(number)
      return f"{what}; {REMEDIES[number]}" if number in REMEDIES else what
  return None


@contextlib.contextmanager
def of_run(
  workdir: str | pathlib.Path, folders: Sequence[str | pathlib.Path] = ()
) -> Iterator[None]:
  """Turns the system's errors in a training run into a UserError that says what is safe.

  Args:
    folders: with the checkpoints, if that is not the work directory; it resumes from one of all.
  """
  try:
    yield
  except UserError:
    raise
  except Exception as error:
    text, workdir = describe(error, workdir), pathlib.Path(workdir)
    if text is None and parallel.is_main() and not workdir.is_dir():
      text = str(workdir)
    if text is None:
      raise
    if parallel.is_main():
      text += f"; {_what_is_safe(workdir, folders or [workdir])}"
    raise UserError(text) from error


def _what_is_safe(workdir, folders):
  if not workdir.is_dir():
    return "the work directory is gone, with its checkpoints; the same command begins anew"
  try:
    steps = set.intersection(*(set(checkpoint_files.list_steps(folder)) for folder in folders))
    for step in sorted(steps, reverse=True):
      if all(checkpoint_files.is_sound(folder, step) for folder in folders):
        return f"checkpoint {step} is safe, from which the same command then resumes"
    if steps:
      return "no checkpoint is sound; restore one from a copy, or use another --workdir"
  except (OSError, UserError):
    return "its checkpoints cannot be read now"
  return "there is no checkpoint yet; then start again"


@contextlib.contextmanager
def by_the_way(loss: str) -> Iterator[None]:
  """Turns the system's errors into a DataWarning, where a result has another way to its user.

  Args:
    loss: what does not come about.
  """
  try:
    yield
  except OSError as error:
    if (text := describe(error)) is None:
      raise
    warnings.warn(f"{loss}: {text}", DataWarning, stacklevel=3)


def quiet_threads() -> None:
  """Prints no traceback for what the main thread hears of, too.

  That is the system's errors in other threads.
  """
  show, show_ignored = threading.excepthook, sys.unraisablehook

  def hook(arguments):
    if arguments.exc_value is None or describe(arguments.exc_value) is None:
      show(arguments)

  def ignored(arguments):
    # TensorStore says so for each of its writes that nobody waits for after one has failed, and
    # asyncio of a loop for which there were too many open files.
    error = arguments.exc_value
    if str(error) == "Event loop is closed" or "attribute '_ssock'" in str(error):
      return
    if error is None or describe(error) is None:
      show_ignored(arguments)

  threading.excepthook, sys.unraisablehook = hook, ignored
