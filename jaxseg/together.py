"""What several processes have to agree on, so that an error in one of them stops all."""

import contextlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jaxseg import UserError, faults
from jaxseg.parallel import from_all
from jaxseg.peers import wait_for_all


def json_from_all(value: Any) -> list:
  """Gathers a JSON-able value of each process; the list is the same in all of them.

  Raises:
    UserError: another process has ended.
  """
  data = json.dumps(value).encode()
  try:
    wait_for_all()
    size = 8 * (int(from_all(np.array([len(data)], np.int64)).max()) // 8 + 1)
    rows = from_all(np.frombuffer(data.ljust(size), np.int64))
  except (ValueError, jax.errors.JaxRuntimeError) as error:  # of the connection
    raise UserError("another process has ended early: start all of them again to go on") from error
  return [json.loads(row.tobytes()) for row in rows]


@contextlib.contextmanager
def agreed(where: str | pathlib.Path = "") -> Iterator[None]:
  """A `with` block that all processes run: a user's or the system's error in one ends it in all.

  The block may not wait for other processes.

  Args:
    where: the place to name if an error of the system does not name one.
  Raises:
    UserError: the error of this process, or that of another.
  """
  error = None
  try:
    yield
  except UserError as mine:
    error = mine
  except (OSError, MemoryError, jax.errors.JaxRuntimeError) as mine:
    if not (text := faults.describe(mine, where)):
      raise
    error = UserError(text)
  texts = json_from_all(None if error is None else str(error))
  if error is not None:
    raise error
  for number, text in enumerate(texts):
    if text is not None:
      raise UserError(f"process {number}: {text}")
