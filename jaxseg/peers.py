"""Several processes: one that ends tells the others why, and none waits for one that is gone.

They speak through the key-value store of `jax.distributed`, which process 0 keeps: each writes its
pulse and reads who has ended; process 0 also looks for those without a pulse. A process that has
lost process 0 itself is ended by JAX.
"""

import contextlib
import functools
import itertools
import os
import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import jax

from jaxseg import UserError, interrupts
from jaxseg.printing import say

PERIOD = 1.0  # seconds between two looks
SILENCE = 15.0  # seconds without a pulse, after which a process counts as gone
DOUBT = 3.0  # the same after an operation over all processes has failed
NEWS = 10.0  # seconds of waiting for others to join, after which it says so
WEEK = 7 * 24 * 3600  # s
GRACE = 4.0  # seconds that the main thread has to fail by itself and to close what it has opened
PULSE, ENDED, LEFT = "jaxseg/pulse/", "jaxseg/ended/", "jaxseg/left/"
KILLED = "without a word, so it was killed, or its machine is gone; start all processes again"
# What an operation over all processes says if one of them is gone: Gloo, NCCL, gRPC.
LOST = re.compile(r"gloo|nccl|connection|socket|\bpeer|heartbeat|barrier|coordination"
                  "|unavailable|deadline", re.IGNORECASE)  # fmt: skip

_ended: dict[int, str] = {}  # {process: why}, of the others
_heard, _doubt, _leaving = threading.Event(), threading.Event(), threading.Lock()


@contextlib.contextmanager
def joining(limit: float, arguments: Mapping[str, Any]) -> Iterator[None]:
  """A block that joins the other processes, and begins to listen to them.

  It says that it waits, and ends this process at the limit, which JAX itself does by SIGABRT. One
  that was killed before it has joined is unknown to all, so that they wait as for one that is late.

  Args:
    limit: seconds.  arguments: see `parallel.process_environment`.
  """
  who = "a process of Slurm or of a TPU pod"
  if arguments:
    who = "process {process_id} of {num_processes}, with process 0 at {coordinator_address}"
    who = who.format(**arguments)
  up_to = f"{limit:g} s (parallel.initialization_timeout)"

  def wait():
    with contextlib.suppress(OSError):  # nobody reads
      say(f"waiting for the other processes to join, for up to {up_to}", sys.stderr)

  def give_up():
    try:
      say(f"error: not all processes have joined within {up_to}. This is {who}: correct that if it "
          "is wrong, and start all of them again", sys.stderr)  # fmt: skip
    finally:
      os._exit(1)

  timers = [threading.Timer(min(NEWS, limit / 2), wait), threading.Timer(limit, give_up)]
  for timer in timers:
    timer.daemon = True
    timer.start()
  try:
    yield
  finally:
    for timer in timers:
      timer.cancel()
  if are_several():
    interrupts.before_end(functools.partial(_tell, "interrupted"))
    threading.Thread(target=_watch, name="peers", daemon=True).start()


def are_several() -> bool:
  """Whether this process has joined others."""
  return _client() is not None and _this_process()[1] > 1


def wait_for_all() -> None:
  """Waits until all processes are here; a sum over them waits for half an hour at most."""
  if are_several():  # asking for their number would start the devices
    from orbax.checkpoint import multihost

    processes = set(range(jax.process_count()))
    multihost.sync_global_processes("jaxseg", timeout=WEEK, processes=processes)


def _client():
  return _state().client


def _this_process():
  """(number of this process, number of processes); JAX itself knows only with all devices."""
  return _state().process_id, _state().num_processes


def _state():
  from jax._src import distributed  # JAX has no public name for it

  return distributed.global_state


def _watch():
  client, (me, number) = _client(), _this_process()
  pulses = {i: ("", time.monotonic()) for i in range(number)}
  for pulse in itertools.count():
    try:
      client.key_value_set(f"{PULSE}{me}", str(pulse), allow_overwrite=True)
      if me == 0:
        _find_silent(client, pulses)
      ended = client.key_value_dir_get(ENDED)
    except jax.errors.JaxRuntimeError:
      return  # the store has closed: this process has left, or JAX ends it
    _ended.update({i: text for key, text in ended if (i := _process_of(key)) != me})
    if _ended and not _heard.is_set():
      _heard.set()
      timer = threading.Timer(GRACE, lambda: end(None, 1))
      timer.daemon = True
      timer.start()
    time.sleep(PERIOD)


def _find_silent(client, pulses):
  """Process 0 reports those without a pulse.  pulses: {process: (pulse, when it was new)}."""
  now, limit = time.monotonic(), DOUBT if _doubt.is_set() else SILENCE
  for key, pulse in client.key_value_dir_get(PULSE):
    if pulses[i := _process_of(key)][0] != pulse:
      pulses[i] = pulse, now
  left = {_process_of(key) for key, _ in client.key_value_dir_get(LEFT)}
  for i, (_, since) in pulses.items():
    if now - since > limit and i and i not in left:
      with contextlib.suppress(jax.errors.JaxRuntimeError):  # it has said why by now
        client.key_value_set(f"{ENDED}{i}", KILLED)


def _process_of(key):
  return int(key.rpartition("/")[2])


def is_lost(error: BaseException) -> bool:
  """Whether an error may be that of an operation over all processes of which one is gone."""
  return not isinstance(error, UserError) and bool(LOST.search(str(error)))


def reason(error: BaseException | None = None) -> str | None:
  """Which other process ended, and why, in a line; None if none did.

  Args:
    error: of this process. If it may come from the end of another, waits for word of that.
  """
  if error is not None and are_several() and is_lost(error):
    _doubt.set()
    _heard.wait(SILENCE + DOUBT)
  if not _ended:
    return None
  first = min(_ended)
  text = _ended[first]
  return f"process {first} ended{' ' if text == KILLED else ': '}{text}"


def end(text: str | None, status: int) -> NoReturn:
  """Ends this process, without waiting for the others.

  Args:
    text: why, for the others; "" if they know; None if it is due to one of them, which is printed.
  """
  if not _leaving.acquire(blocking=False):
    time.sleep(60)  # another thread is about to end the process
  if text is None:
    say("", sys.stderr)  # below a progress bar
    say(f"error: {reason()}", sys.stderr)
  _tell(text)
  for stream in sys.stdout, sys.stderr:
    with contextlib.suppress(OSError, ValueError):
      stream.flush()
  os._exit(status)


def _tell(text):
  """Tells the others that this process leaves; process 0 keeps the store and leaves last."""
  me, number = _this_process()
  with contextlib.suppress(jax.errors.JaxRuntimeError, AttributeError):  # the store is closed
    client = _client()
    if text:
      client.key_value_set(f"{ENDED}{me}", text, allow_overwrite=True)
    client.key_value_set(f"{LEFT}{me}", "", allow_overwrite=True)  # a second thread may wait, too
    until = time.monotonic() + PERIOD + GRACE + 2
    while me == 0 and time.monotonic() < until:
      left = {_process_of(key) for key, _ in client.key_value_dir_get(LEFT)}
      gone = {i for i, text in _ended.items() if text == KILLED}
      if len(left | gone) == number:
        break
      time.sleep(0.1)
    else:
      return
    time.sleep(0.2)  # those who have just said that they leave do
