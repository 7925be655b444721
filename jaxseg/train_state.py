"""The state that training updates at every step."""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax


@flax.struct.dataclass
class TrainState:
  """Holds arrays only, so that it can be donated, sharded, replicated and saved as it is."""

  step: jax.Array  # i32[], number of updates done
  params: Any
  batch_stats: Any
  opt_state: Any
  ema: Any  # exponential moving average (EMA) of {"params": ..., "batch_stats": ...}, or {}

  @property
  def variables(self) -> Mapping[str, Any]:
    """{"params": ..., "batch_stats": ...} to predict with: the EMA if there is one."""
    return self.ema or {"params": self.params, "batch_stats": self.batch_stats}


def create(
  variables: Mapping[str, Any], optimizer: optax.GradientTransformation, *, ema: bool = False
) -> TrainState:
  """A state before its first step, of {"params": ..., "batch_stats": ...}; `ema`: with an EMA."""
  params, batch_stats = variables["params"], variables.get("batch_stats", {})
  mean = {"params": params, "batch_stats": batch_stats}
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    batch_stats=batch_stats,
    opt_state=optimizer.init(params),
    # Copies, because a step donates the memory of its state and cannot donate the same array twice.
    ema=jax.tree.map(jnp.array, mean) if ema else {},
  )


def update_ema(state: TrainState, decay: float) -> TrainState:
  """The state with its EMA moved towards its variables.

  ema += (1 - d) (variables - ema), d the smaller of `decay` and (1 + step) / (10 + step), so that
  the average soon forgets the random start (as in TensorFlow's ExponentialMovingAverage).
  """
  variables = {"params": state.params, "batch_stats": state.batch_stats}
  rate = 1.0 - jnp.minimum(decay, (1.0 + state.step) / (10.0 + state.step))
  return state.replace(ema=jax.tree.map(lambda m, x: m + rate * (x - m), state.ema, variables))
