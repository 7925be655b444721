"""Spatial sharding: several devices share the height of each image that is too large for one.

XLA partitions the network along the rows, and exchanges those that a convolution sees beyond its
own (halos). The values are those of one device; only sums are in another order.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxseg import UserError
from jaxseg.parallel import AXIS

SPACE = "space"


def make_mesh(space: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
  """Two axes, the batch and the height of an image; only the batch if `space` is 1.

  Args:
    space: devices that share an image; neighbours, and of one process.
    devices: default: all of all processes.
  Raises:
    UserError: the devices of a process are no multiple of it.
  """
  own = len(devices) if devices is not None else jax.local_device_count()
  devices = np.asarray(jax.devices() if devices is None else devices)
  if space == 1:
    return Mesh(devices, (AXIS,))
  if own % space:
    fitting = [n for n in range(1, own + 1) if own % n == 0]
    raise UserError(f"`parallel.space` is {space}, but this process has {own} device"
                    f"{'s'[: own > 1]}: make it {' or '.join(map(str, fitting))}")  # fmt: skip
  return Mesh(devices.reshape(-1, space), (AXIS, SPACE))


def check_batch_size(
  batch_size: int, accumulation_steps: int = 1, space: int = 1, groups: int = 1
) -> None:
  """Raises UserError unless a batch divides into devices and accumulation.

  Args:
    space: devices that share an image.  groups: of devices, each with batches of its own.
  """
  unit = -(-jax.device_count() // (space * groups)) * accumulation_steps
  if batch_size % unit:
    shared = f", {space} to an image" if space > 1 else ""
    shared += f", in {groups} groups for different seeds" if groups > 1 else ""
    parts = f" times {accumulation_steps} accumulation steps" if accumulation_steps > 1 else ""
    raise UserError(
      f"`train.batch_size` is {batch_size}, but has to be a multiple of {unit} "
      f"({jax.device_count()} devices{shared}{parts})"
    )


def spread_over(mesh: Mesh) -> Callable[[Any], Any]:
  """A function of arrays [B,H,...] that splits their batch and height over the mesh, under `jit`.

  It returns what it is given if the mesh has no axis for the height.
  """
  if SPACE not in mesh.axis_names:
    return lambda tree: tree
  split = NamedSharding(mesh, PartitionSpec(AXIS, SPACE))
  return lambda tree: jax.lax.with_sharding_constraint(tree, split)
