"""Worker processes that make training batches, with Grain.

Worker k of n makes the batches k, k + n, k + 2n ..., which are taken in turn. So the batches and
their order are those of one process, and so is the position that a checkpoint stores: a run may
resume with another number of workers, or with none.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import gc
import multiprocessing
import multiprocessing.resource_tracker
import multiprocessing.util
import os
import pickle
import signal
import sys
import threading
import traceback
import types
import warnings
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, Self

import cloudpickle
import grain
import numpy as np
from absl import flags

from jaxseg import DataWarning, UserError
from jaxseg.notebook import warn

NOTES = "notes"  # of a worker's batch: what it would have warned of

_notes: collections.deque[tuple[str, str]] = collections.deque()  # in a worker; see `_set_up`


class WorkerBatches(Iterator):
  """The elements of a Grain dataset, made by worker processes; they start with the first one.

  Args:
    data: of batches {name: array}.
    read_options: of each worker.
    num_workers: number of processes.
  Raises:
    UserError: the data cannot be sent to another process, or this one may not start others. From
      `next`: also whatever a worker raises, and when one was killed.
  """

  def __init__(self, data: grain.MapDataset, read_options: grain.ReadOptions, num_workers: int):
    if multiprocessing.current_process().daemon:
      raise UserError(
        f"`num_workers` is {num_workers}, but this process, as one of a multiprocessing.Pool, may "
        "not start others: set it to 0"
      )
    _send_config_files()
    try:
      cloudpickle.dumps(data)
    except Exception as error:  # of a data set's own
      raise UserError(
        f"`num_workers` is {num_workers}, but the data set cannot be sent to another process "
        f"({type(error).__name__}: {next(iter(str(error).splitlines()), '')}): set it to 0"
      ) from error
    self._data, self._read_options, self._num_workers = data, read_options, num_workers
    self._position = 0  # of the next batch
    self._workers, self._first = [], collections.deque()
    self._said = set()
    weakref.finalize(self, _close, self._workers, self._first)

  def __iter__(self) -> Self:
    return self

  def __next__(self) -> dict[str, np.ndarray]:
    if not self._workers:
      self._start()
    try:
      if self._first:
        batch = self._first.popleft().result()
      else:
        batch = next(self._workers[0])
    except Exception as error:
      traceback.clear_frames(error.__traceback__)  # they hold batches in shared memory
      if "Worker process was terminated" not in str(error):
        raise
      raise UserError(
        f"a worker process was killed ({str(error).partition('. ')[0]}); if memory was short, in "
        "/dev/shm too, lower `num_workers`, `cache_mb` or the batch size"
      ) from error
    self._workers.append(self._workers.pop(0))
    self._position += 1
    for note, text in batch.pop(NOTES):
      if note not in self._said:
        self._said.add(note)
        warn(text, note)
    # Out of the memory that is shared with the worker, which is freed thereby.
    return {name: np.array(x, subok=False) for name, x in batch.items()}

  def get_state(self) -> dict[str, int]:
    """The position, as without workers."""
    return {"next_index": self._position}

  def set_state(self, state: dict[str, int]) -> None:
    """Moves to the position of a `get_state`, with workers or without."""
    self.close()
    self._position = state["next_index"]

  def close(self) -> None:
    """Ends the processes; the next batch would start them again."""
    self._first.clear()
    if self._workers:
      with concurrent.futures.ThreadPoolExecutor(len(self._workers)) as pool:
        list(pool.map(lambda worker: worker.close(), self._workers))
      self._workers.clear()
      _free_memory()

  def _start(self):
    if not flags.FLAGS.is_parsed():  # Grain reads its own
      flags.FLAGS.mark_as_parsed()
    options = grain.multiprocessing.MultiprocessingOptions(num_workers=1)
    for k in range(self._num_workers):
      data = _Sendable(self._data[self._position + k :: self._num_workers])
      data = grain.MapDataset.source(data).to_iter_dataset(self._read_options).map(_with_notes)
      self._workers.append(iter(data.mp_prefetch(options, worker_init_fn=_set_up)))
    # Before Python ends the thread that frees memory, with what it has not freed yet.
    multiprocessing.util.Finalize(None, _free_memory, exitpriority=100)
    # Else it would start below, and reset the signals there.
    multiprocessing.resource_tracker.ensure_running()
    with _without_main(), concurrent.futures.ThreadPoolExecutor(
      self._num_workers, initializer=_block_signals
    ) as pool:  # waits until all workers run
      self._first.extend(pool.submit(next, worker) for worker in self._workers)


@dataclasses.dataclass(frozen=True)
class _Sendable(Sequence):
  """The elements of a dataset; an error that could not be sent is one of the same text."""

  data: grain.MapDataset

  def __len__(self):
    return len(self.data)

  def __getitem__(self, i):
    try:
      return self.data[i]
    except Exception as error:
      try:
        pickle.loads(pickle.dumps(error))
      except Exception:  # Grain would wait for ever
        where = error.__traceback__
        if isinstance(error, UserError):
          raise UserError(str(error)).with_traceback(where) from None
        raise RuntimeError(f"{type(error).__name__}: {error}").with_traceback(where) from None
      raise


def _send_config_files():
  """Has modules that no import finds, such as a config file, sent along with what is theirs."""
  for name, module in list(sys.modules.items()):
    if "." in name or getattr(module, "__name__", "") != name or name == "__main__":
      continue
    is_python = str(getattr(module, "__file__", "")).endswith(".py")
    if is_python and not any(finder.find_spec(name, None) for finder in sys.meta_path):
      cloudpickle.register_pickle_by_value(module)


def _close(workers, first):
  """At the end of the program, which starts no more threads."""
  first.clear()
  while workers:
    workers.pop().close()
  _free_memory()


def _free_memory():
  """Frees the shared memory of batches that nobody took, before the program ends."""
  gc.collect()
  # Grain frees in a thread, which would not come to its end.
  if pool := getattr(grain.multiprocessing.SharedMemoryArray, "_del_thread_pool", None):
    pool.apply(int)


def _block_signals():
  """SIGINT and SIGTERM go past this thread, and past the threads and processes that it starts.

  A whole group of processes may get them. Then the first process decides when its workers end.
  """
  if hasattr(signal, "pthread_sigmask"):
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})


@contextlib.contextmanager
def _without_main():
  """Hides the program's main module, which a new process would run from its first line.

  What the workers need of it is sent to them.
  """
  main = sys.modules["__main__"]
  sys.modules["__main__"] = types.ModuleType("__main__")
  try:
    yield
  finally:
    sys.modules["__main__"] = main


def _set_up(number: int, num_workers: int) -> None:
  """The first thing that a worker does."""
  threading.Thread(target=_end_with_parent, daemon=True).start()
  # Grain imports JAX, but nothing here computes with it. Should a data set: the devices are taken.
  os.environ["JAX_PLATFORMS"] = "cpu"
  if "jax" in sys.modules:
    sys.modules["jax"].config.update("jax_platforms", "cpu")
  show = warnings.showwarning

  def keep_note(message, category, *place, **options):
    if issubclass(category, DataWarning):
      _notes.append((getattr(message, "note", str(message)), str(message)))
    else:
      show(message, category, *place, **options)

  warnings.showwarning = keep_note


def _end_with_parent():
  multiprocessing.parent_process().join()
  os._exit(1)


def _with_notes(batch: dict[str, Any]) -> dict[str, Any]:
  notes = []
  while _notes:
    notes.append(_notes.popleft())
  return {**batch, NOTES: notes}
