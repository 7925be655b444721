"""The state: arrays only, complete, and a pytree that passes through jit."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxseg.train_state import TrainState, create

VARIABLES = {
  "params": {"head": {"kernel": jnp.ones((2, 3))}},
  "batch_stats": {"norm": {"mean": jnp.full((3,), 2.0)}},
}


def test_create():
  optimizer = optax.adam(0.1)
  state = create(VARIABLES, optimizer)
  chex.assert_trees_all_equal(
    state,
    TrainState(
      step=np.array(0, np.int32),
      params=VARIABLES["params"],
      batch_stats=VARIABLES["batch_stats"],
      opt_state=optimizer.init(VARIABLES["params"]),
    ),
  )
  assert state.step.dtype == jnp.int32


def test_network_without_batch_normalisation():
  assert create({"params": VARIABLES["params"]}, optax.sgd(0.1)).batch_stats == {}


def test_holds_arrays_only_and_passes_through_jit():
  """Nothing static: another value of any field must not compile again."""
  state = create(VARIABLES, optax.adam(0.1))
  leaves = jax.tree.leaves(state)
  # step, kernel, mean; Adam's count and two moments.
  assert len(leaves) == 6 and all(isinstance(leaf, jax.Array) for leaf in leaves)

  @jax.jit
  @chex.assert_max_traces(n=1)
  def advance(state):
    return state.replace(step=state.step + 1)

  after = advance(advance(state))
  assert after.step == 2
  chex.assert_trees_all_equal(after.replace(step=state.step), state)
