"""Several seeds in one program: their arrays have a first axis for them, split over the devices."""

import contextlib
import math
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from jaxseg.parallel import AXIS, SEED
from jaxseg.platforms import in_loop


def num_groups(num_seeds: int, num_devices: int = 0) -> int:
  """Groups of devices, each with as many of the seeds.  num_devices: 0 = all of this process."""
  return math.gcd(num_seeds, num_devices or jax.local_device_count())


def make_mesh(num_seeds: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
  """Two axes, the groups of `num_groups`, and the batch of each seed over the devices of a group.

  Args:
    devices: default: all of this process.
  """
  devices = np.asarray(jax.local_devices() if devices is None else devices)
  return Mesh(devices.reshape(num_groups(num_seeds, devices.size), -1), (SEED, AXIS))


def over_seeds(step: Callable, mesh: Mesh, loop: bool | None = None) -> Callable:
  """`step(state, batch, key)` for several seeds, the first axis of all arguments and results.

  Each group of devices takes one of its seeds after the other: on CPUs in a loop, which compiles
  once, elsewhere written out, as a TPU computes more slowly in a loop. `jax.vmap` instead makes
  grouped convolutions, which take longer than either; see `experiments/seeds`.

  Args:
    step: of `train_step.make_train_step`, for one seed.  mesh: of `make_mesh`.
    loop: None for that of the platform.
  """
  spec = PartitionSpec(SEED)
  if loop is None:
    loop = mesh.devices.flat[0].platform == "cpu"

  def one(_, arguments):
    # Nothing of the step is fused with what takes its arguments out of those of all seeds.
    return None, lax.optimization_barrier(step(*lax.optimization_barrier(arguments)))

  def of_group(*arguments):
    with in_loop() if loop else contextlib.nullcontext():
      return lax.scan(one, None, arguments, unroll=not loop)[1]

  def steps(state, batch, key, axis_name=None):
    split = jax.shard_map(
      of_group, mesh=mesh, in_specs=spec, out_specs=spec, axis_names={SEED}, check_vma=False
    )
    return split(state, batch, key)

  return steps
