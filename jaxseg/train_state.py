"""What training changes from step to step."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class TrainState:
  """Arrays only, so that it can be donated, sharded, replicated and saved as it is."""

  step: jax.Array  # i32[], number of updates done
  params: Any
  batch_stats: Any
  opt_state: Any


def create(variables, optimizer):
  """A state before its first step, from {"params": ..., "batch_stats": ...}."""
  params = variables["params"]
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    batch_stats=variables.get("batch_stats", {}),
    opt_state=optimizer.init(params),
  )
