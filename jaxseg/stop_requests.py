"""SIGTERM and Ctrl-C as requests for a checkpoint."""

import collections.abc
import contextlib
import os
import signal
import threading

import jax

from jaxseg import interrupts


@contextlib.contextmanager
def stop_signals() -> collections.abc.Iterator[collections.abc.Callable[[int], bool]]:
  """Gives `stop_requested(call) -> bool`: whether to save and stop, the same in all processes.

  Calls count up by one. SIGTERM or Ctrl-C requests it; a second Ctrl-C stops at once.
  """
  is_main_thread = threading.current_thread() is threading.main_thread()  # others may not
  if jax.process_count() > 1:
    from jax.experimental import multihost_utils

    # jax.distributed listens for SIGTERM itself and lets all processes agree on a call.
    numbers = (signal.SIGINT,) if is_main_thread else ()
    with _handled(numbers, lambda number: os.kill(os.getpid(), signal.SIGTERM)):
      yield multihost_utils.reached_preemption_sync_point
    return
  received, numbers = [], (signal.SIGTERM, signal.SIGINT) if is_main_thread else ()
  with _handled(numbers, received.append):
    yield lambda call: bool(received)


@contextlib.contextmanager
def _handled(numbers, handle):
  """Calls `handle(number)` for the first of each of these signals; for others, what was before."""

  def note(number, _):
    handle(number)
    signal.signal(number, previous[number])

  # None: of a program that embeds Python, which cannot be put back.
  previous = {number: signal.getsignal(number) or signal.SIG_DFL for number in numbers}
  try:
    with interrupts.saving():
      for number in numbers:
        signal.signal(number, note)
      yield
  finally:
    for number, handler in previous.items():
      signal.signal(number, handler)
