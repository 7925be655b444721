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
  ema: Any  # running mean of {"params": ..., "batch_stats": ...}, or {}

  @property
  def variables(self):
    """{"params": ..., "batch_stats": ...} to predict with: the running mean if there is one."""
    return self.ema or {"params": self.params, "batch_stats": self.batch_stats}


def create(variables, optimizer, *, ema=False):
  """A state before its first step, from {"params": ..., "batch_stats": ...}."""
  params, batch_stats = variables["params"], variables.get("batch_stats", {})
  mean = {"params": params, "batch_stats": batch_stats}
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    batch_stats=batch_stats,
    opt_state=optimizer.init(params),
    # Copies: a step may give away the memory of its state, but not twice.
    ema=jax.tree.map(jnp.array, mean) if ema else {},
  )


def update_ema(state, decay):
  """The state with its running mean moved towards its variables.

  mean += (1 - d) (variables - mean), d the smaller of `decay` and (1 + step) / (10 + step), so that
  the first steps do not drag the random start along (as TensorFlow's ExponentialMovingAverage).
  """
  variables = {"params": state.params, "batch_stats": state.batch_stats}
  rate = 1.0 - jnp.minimum(decay, (1.0 + state.step) / (10.0 + state.step))
  return state.replace(ema=jax.tree.map(lambda m, x: m + rate * (x - m), state.ema, variables))
