"""Memory of the host: how much is free, and arrays that keep no more of it than they show."""

import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np


def free_host_bytes() -> float:
  """Memory that this process may still take without swapping, bytes; infinite if not known."""
  try:
    values = _entries("/proc/meminfo", ":")
    free = float(values["MemAvailable"].split()[0]) * 1024
  except (OSError, KeyError):
    try:
      free = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")) / 2
    except (AttributeError, ValueError, OSError):
      free = math.inf
  return min(free, free_in_groups())


def free_in_groups(proc: str = "/proc", sys: str = "/sys") -> float:
  """Memory that the limits of containers and job schedulers leave, bytes; infinite without.

  Args:
    proc, sys: where Linux tells about its control groups, version 1 or 2.
  """
  free = math.inf
  try:
    groups = pathlib.Path(proc, "self/cgroup").read_text().splitlines()
  except OSError:
    return free
  for group in groups:
    _, controllers, path = group.split(":", 2)
    if controllers not in ("", "memory"):
      continue
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    if not controllers:
      names = ("memory.max", "memory.current", "inactive_file")
    root = pathlib.Path(sys, "fs/cgroup", controllers)
    folder = root / path.lstrip("/")
    for place in (folder, *folder.parents):  # a container sees its own group as the root
      try:
        limit, used = (float((place / name).read_text()) for name in names[:2])
        cache = float(_entries(place / "memory.stat", " ")[names[2]])  # is given up when needed
        free = min(free, limit - used + cache)
      except (OSError, KeyError, ValueError):  # no such file; "max": no limit
        continue
  return free


def _entries(path, separator):
  lines = pathlib.Path(path).read_text().splitlines()
  return dict(line.split(separator, 1) for line in lines)


def owning(example: Mapping[str, Any]) -> dict[str, Any]:
  """An example whose arrays are no parts of larger ones, which would stay in memory with them."""

  def own(x):
    base = getattr(x, "base", None)
    return x.copy() if isinstance(base, np.ndarray) and base.nbytes > x.nbytes else x

  return {name: own(x) for name, x in example.items()}
