"""The state: arrays only, complete, and a pytree that passes through jit."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxseg.train_state import TrainState, create, update_ema

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
      ema={},
    ),
  )
  assert state.variables == VARIABLES
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


def test_running_mean():
  """mean += (1 - d) (x - mean) with d = min(decay, (1 + t) / (10 + t)), t = 1, 2, 3 here."""
  state = create(VARIABLES, optax.sgd(0.1), ema=True)
  assert state.ema["params"]["head"]["kernel"] is not state.params["head"]["kernel"]
  update = jax.jit(lambda state: update_ema(state, 0.25))
  mean = 1.0
  for t, x, decay in (1, 5.0, 2 / 11), (2, -3.0, 3 / 12), (3, 2.0, 0.25):  # 4 / 13 is more
    params = {"head": {"kernel": jnp.full((2, 3), x)}}
    state = update(state.replace(step=jnp.int32(t), params=params))
    mean = decay * mean + (1 - decay) * x
    np.testing.assert_allclose(state.variables["params"]["head"]["kernel"], mean, rtol=1e-6)
    np.testing.assert_allclose(state.variables["batch_stats"]["norm"]["mean"], 2.0, rtol=1e-6)
    assert state.params is not state.variables["params"]
