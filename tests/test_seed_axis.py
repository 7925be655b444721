"""A step of several seeds is the step of each, on one device and over groups of devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_parallel import FACTORS, MOVING, first_variables, make_batch, make_model

from jaxseg import on_device, optim, parallel, seed_axis, spatial, train_state
from jaxseg.losses import select
from jaxseg.train_step import make_train_step

NUM_STEPS = 4


def make_step(parts=1):
  optimizer = optim.make_optimizer("muon", 0.1, weight_decay=0.1, clip_norm=1.0)
  step = make_train_step(
    make_model("one", True, 0.5),
    optimizer,
    losses=select(FACTORS),
    class_weights=jnp.array([1.0, 2.0]),
    augmentation=MOVING,
    border_weight=10.0,
    border_sigma=2.0,
    ema_decay=0.9,
    accumulation_steps=parts,
  )
  return step, optimizer


def first_state(seed, optimizer):
  """Another one for each seed."""
  variables = jax.tree.map(lambda x: np.asarray(x) * (1 + 0.1 * seed), first_variables(True))
  return jax.tree.map(np.asarray, train_state.create(variables, optimizer, ema=True))


def batches_of(seed):
  return [make_batch(10 * seed + i) for i in range(NUM_STEPS)]


@functools.cache
def alone(num_devices, parts=1):
  """[(states before the first step and after each, losses)] of four seeds, one after the other."""
  mesh = spatial.make_mesh(devices=jax.devices()[:num_devices])
  step, optimizer = make_step(parts)
  step, found = parallel.distribute_step(step, mesh, "jit"), []
  for seed in range(4):
    states, losses = [first_state(seed, optimizer)], []
    key = parallel.replicate(mesh, jax.random.key(seed))
    for batch in batches_of(seed):
      state = parallel.replicate(mesh, states[-1])
      state, metrics = step(state, parallel.put_on_mesh(mesh, batch, "jit"), key)
      states.append(jax.tree.map(np.asarray, state))
      losses.append(float(metrics["loss"]))
    found.append((states, losses))
  return found


def together(singles, num_devices, parts=1, steps=1, loop=None):
  """({step: state of all seeds}, losses [S,n]) of as many seeds in one program.

  Each call starts from the states that the single runs have then: carried on, a rounding error may
  turn the sign of what a ReLU gets, and is ten times as large after that step. (So it is in single
  runs, if their first weights differ by a unit in the last place.)

  Args:
    singles: of `alone`, of these seeds.  steps: of a call.
  """
  num_seeds = len(singles)
  mesh = seed_axis.make_mesh(num_seeds, jax.devices()[:num_devices])
  step, _ = make_step(parts)
  step = on_device.repeated(step) if steps > 1 else step
  step = parallel.distribute_step(seed_axis.over_seeds(step, mesh, loop), mesh, "jit")
  stack = lambda *x: np.stack(x)  # noqa: E731
  key = parallel.replicate(mesh, jnp.stack([jax.random.key(i) for i in range(num_seeds)]))
  batches = [
    jax.tree.map(stack, *row) for row in zip(*map(batches_of, range(num_seeds)), strict=True)
  ]
  found, losses = {}, []
  for i in range(0, NUM_STEPS, steps):
    state = jax.tree.map(stack, *[states[i] for states, _ in singles])
    batch = on_device.stack_batches(batches[i : i + steps], steps)
    batch = parallel.put_on_mesh(mesh, batch, "jit")
    state, metrics = step(parallel.replicate(mesh, state), batch, key)
    found[min(i + steps, NUM_STEPS)] = jax.tree.map(np.asarray, state)
    losses.append(np.asarray(metrics["loss"]).reshape(num_seeds, -1))
  return found, np.concatenate(losses, axis=1)[:, :NUM_STEPS]


def largest_difference(a, b):
  """Over arrays: largest |difference| / largest |value|."""
  pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  return max(np.abs(x - y).max() / np.abs(y).max() for x, y in pairs)


def moments(state):
  """The optimizer's floats in one row. A bias before a normalisation has rounding errors only."""
  return np.concatenate([x.ravel() for x in jax.tree.leaves(state) if x.dtype.kind == "f"])


@pytest.mark.slow  # `test_seeds.test_each_seed_is_its_single_run` is not
@pytest.mark.parametrize(
  "num_seeds, num_devices, groups", [(3, 1, 1), (4, 4, 4), (3, 4, 1), (2, 4, 2)]
)
@pytest.mark.parametrize(
  "options", [{}, {"parts": 2}, {"steps": 3}, {"loop": False}, {"loop": False, "steps": 3}]
)
def test_several_seeds_are_each_of_them(num_seeds, num_devices, groups, options):
  assert seed_axis.num_groups(num_seeds, num_devices) == groups
  singles = alone(num_devices // groups, options.get("parts", 1))[:num_seeds]
  found, losses = together(singles, num_devices, **options)
  assert max(found) == NUM_STEPS
  for seed, (states, expected_losses) in enumerate(singles):
    np.testing.assert_allclose(losses[seed], expected_losses, rtol=1e-5)
    for i, state in found.items():
      one = jax.tree.map(lambda x, j=seed: x[j], state)
      assert one.step == states[i].step == i
      for part in ("params", "batch_stats", "ema"):
        assert largest_difference(getattr(one, part), getattr(states[i], part)) < 1e-5, part
      assert largest_difference(moments(one.opt_state), moments(states[i].opt_state)) < 1e-5
  # The tolerance means something: seeds differ by much more.
  last = [states[-1].params for states, _ in singles]
  assert largest_difference(*last[:2]) > 1e-2


@pytest.mark.slow
def test_groups_of_devices_do_not_talk():
  """A device that has seeds of its own needs nothing of the others."""
  mesh = seed_axis.make_mesh(4, jax.devices()[:4])
  assert dict(mesh.shape) == {parallel.SEED: 4, parallel.AXIS: 1}
  step, optimizer = make_step()
  step = parallel.distribute_step(seed_axis.over_seeds(step, mesh), mesh, "jit")
  stack = lambda *x: np.stack(x)  # noqa: E731
  state = jax.tree.map(stack, *[first_state(seed, optimizer) for seed in range(4)])
  batch = jax.tree.map(stack, *[make_batch(seed) for seed in range(4)])
  key = jnp.stack([jax.random.key(i) for i in range(4)])
  text = step.lower(state, batch, key).compile().as_text()
  words = ("all-reduce", "all-gather", "all-to-all", "collective-permute")
  assert not [word for word in words if word in text]
