"""Ctrl-C ends the command with one line, soon, whatever it is doing.

Python hands a signal to the main thread when that is back from what it called, which for a compiler
takes minutes. A thread of its own hears of it at once. It imports nothing but the standard library,
because it starts before JAX is imported.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

PATIENCE = 3.0  # seconds that the main thread has to close what it has opened
STATUS = 130  # what shells call the end by SIGINT
_saving = threading.Event()
_heard = threading.Event()
_ending = threading.Lock()
_before_end: list[Callable[[], None]] = []


def watch() -> None:
  """Starts to listen. Call it in the main thread of a process that is for this command alone."""
  reader, writer = os.pipe()
  os.set_blocking(writer, False)
  signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
  if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
  sys.excepthook, sys.unraisablehook = _hook, _unraisable
  threading.Thread(target=_listen, args=(reader,), name="interrupts", daemon=True).start()


@contextlib.contextmanager
def saving() -> Iterator[None]:
  """Within it, the first Ctrl-C asks for a checkpoint, and only the second ends the process."""
  _saving.set()
  try:
    yield
  finally:
    _saving.clear()


def before_end(function: Callable[[], None]) -> None:
  """Calls a function before a process that does not react to Ctrl-C is ended."""
  _before_end.append(function)


def _listen(reader):
  pressed = 0
  while True:
    if os.read(reader, 1)[0] != signal.SIGINT:
      continue
    pressed += 1
    if pressed == 1 and _saving.is_set():
      text = "stopping after the next step and a checkpoint; Ctrl-C again ends at once"
      print(text, file=sys.stderr, flush=True)
      continue
    _heard.set()
    if pressed == 1:
      timer = threading.Timer(PATIENCE, end)
      timer.daemon = True
      timer.start()
    else:
      end()


def say() -> None:
  """Prints the one line, unless that has been done."""
  if _ending.acquire(blocking=False):
    print("interrupted", file=sys.stderr, flush=True)


def end() -> None:
  """Ends this process, whatever it is doing."""
  say()
  for function in _before_end:
    function()
  os._exit(STATUS)


def _hook(kind, error, trace):
  """`sys.excepthook`; what Ctrl-C interrupts may raise something else, as a package does that is
  being imported.
  """
  if not (_heard.is_set() or issubclass(kind, KeyboardInterrupt)):
    sys.__excepthook__(kind, error, trace)
    return
  end()


def _unraisable(raised):
  """`sys.unraisablehook`; Ctrl-C in a callback, as of the garbage collector, ends the command."""
  if issubclass(raised.exc_type, KeyboardInterrupt):
    end()
  sys.__unraisablehook__(raised)
