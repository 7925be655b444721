"""Schedules and optimizers at points worked out by hand; frozen modules stand still."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import UserError
from jaxseg.optim import OPTIMIZERS, SCHEDULES, make_optimizer, schedule

WEIGHT, GRADIENT, RATE = 3.0, -0.5, 0.1

# Two updates under a constant gradient. Adam's moments, corrected for their start, are then the
# gradient and its square: every update is the rate against the gradient's sign (Kingma and Ba
# 2015, algorithm 1). Muon takes what is not a kernel [k,k,C,D] to Adam with Nesterov's momentum:
# step t is the rate times b (1 - b^t) / (1 - b^(t+1)) + (1 - b) / (1 - b^t), b = 0.9 (Dozat 2016).
TWO_UPDATES = {
  "adam": WEIGHT + 2 * RATE,
  "adamw": WEIGHT + 2 * RATE,
  "muon": WEIGHT + RATE * (0.09 / 0.19 + 1 + 0.171 / 0.271 + 0.1 / 0.19),
  "sgd": WEIGHT - 2 * RATE * GRADIENT,
}


def tree(value):
  """Two modules, one frozen in the tests; every shape occurs once."""
  return {
    "encoder": {"conv": {"kernel": jnp.full((3, 7), value), "bias": jnp.full((7,), value)}},
    "head": {"kernel": jnp.full((5, 2), value)},
  }


def two_updates(optimizer):
  """(parameters, state) after two steps."""

  @jax.jit
  def update(params, state):
    updates, state = optimizer.update(tree(GRADIENT), state, params)
    return jax.tree.map(jnp.add, params, updates), state

  params = tree(WEIGHT)
  return update(*update(params, optimizer.init(params)))


def test_every_optimizer_has_a_row():
  assert TWO_UPDATES.keys() == OPTIMIZERS.keys()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_updates(name):
  params, _ = two_updates(make_optimizer(name, RATE))
  chex.assert_trees_all_close(params, tree(TWO_UPDATES[name]), rtol=1e-6)


DECAY = 0.25
DECAYED = {  # the weight after two steps
  # SGD: the gradient has the decayed weight in it.
  "sgd": (WEIGHT - RATE * (GRADIENT + DECAY * WEIGHT)) * (1 - RATE * DECAY) - RATE * GRADIENT,
  # So has Adam's: it is 0.25, then 0.225, and the weight sinks. Means of the moments: 0.4497 / 1.9
  # = 0.23684, and (0.999 * 0.25^2 + 0.225^2) / 1.999 = 0.056559, whose root is 0.237822.
  "adam": WEIGHT - RATE - RATE * 0.995878,
  # Around the step: each takes a 40th of the weight off.
  "adamw": ((WEIGHT * 0.975 + RATE) * 0.975) + RATE,
  "muon": (WEIGHT * 0.975 + RATE * (0.09 / 0.19 + 1)) * 0.975 + RATE * (0.171 / 0.271 + 0.1 / 0.19),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weight_decay(name):
  """Of kernels, not of biases."""
  params, _ = two_updates(make_optimizer(name, RATE, weight_decay=DECAY))
  np.testing.assert_allclose(params["encoder"]["conv"].pop("bias"), TWO_UPDATES[name], rtol=1e-6)
  for kernel in jax.tree.leaves(params):
    np.testing.assert_allclose(kernel, DECAYED[name], rtol=2e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_lr_multipliers(name):
  """By module or by a part of it; the last that fits counts. Steps are proportional to the rate."""
  factors = (("head", 5.0), ("encoder", 0.5), ("encoder/conv/bias", 0.1))
  params, _ = two_updates(make_optimizer(name, RATE, lr_multipliers=factors))
  moved = TWO_UPDATES[name] - WEIGHT
  np.testing.assert_allclose(params["head"]["kernel"], WEIGHT + 5 * moved, rtol=5e-6)
  np.testing.assert_allclose(params["encoder"]["conv"]["kernel"], WEIGHT + moved / 2, rtol=1e-6)
  np.testing.assert_allclose(params["encoder"]["conv"]["bias"], WEIGHT + moved / 10, rtol=1e-6)


def test_lr_multiplier_of_nothing():
  for module in "heads", "conv":
    optimizer = make_optimizer("adam", RATE, lr_multipliers=((module, 0.1),))
    with pytest.raises(UserError, match=f"^`lr_multipliers` names '{module}'.*of encoder, head$"):
      optimizer.init(tree(WEIGHT))


def test_momentum():
  """Polyak's: v = 0.75 v + gradient; the weight loses rate * v. The others have no such number."""
  params, _ = two_updates(make_optimizer("sgd", RATE, momentum=0.75))
  moved = RATE * GRADIENT + RATE * (0.75 * GRADIENT + GRADIENT)
  chex.assert_trees_all_close(params, tree(WEIGHT - moved), rtol=1e-6)
  params, _ = two_updates(make_optimizer("adam", RATE, momentum=0.75))
  chex.assert_trees_all_close(params, tree(TWO_UPDATES["adam"]), rtol=1e-6)


def test_muon_makes_singular_values_equal():
  """U S V' becomes U V' (Jordan et al. 2024), of the size of Adam's steps (Liu et al. 2025)."""
  gradient = np.random.default_rng(0).normal(size=(3, 3, 4, 5)).astype(np.float32)
  optimizer, params = make_optimizer("muon", RATE), {"head": {"kernel": jnp.zeros((3, 3, 4, 5))}}
  updates, _ = jax.jit(optimizer.update)(
    {"head": {"kernel": gradient}}, optimizer.init(params), params
  )
  u, _, v = np.linalg.svd(gradient.reshape(36, 5), full_matrices=False)
  values = u.T @ np.reshape(updates["head"]["kernel"], (36, 5)) @ v.T
  values /= -RATE * 0.2 * math.sqrt(36)  # the larger side of the matrix
  # Five steps of Newton and Schulz leave 0.7 to 1.2.
  assert (0.65 < np.diag(values)).all() and (np.diag(values) < 1.25).all()
  np.testing.assert_allclose(values, np.diag(np.diag(values)), atol=1e-4)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_frozen_modules_do_not_move_and_have_no_moments(name):
  optimizer = make_optimizer(name, RATE, frozen=("encoder",))
  params, state = two_updates(optimizer)
  chex.assert_trees_all_equal(params["encoder"], tree(WEIGHT)["encoder"])
  chex.assert_trees_all_close(params["head"], tree(TWO_UPDATES[name])["head"], rtol=1e-6)
  shapes = [x.shape for x in jax.tree.leaves((optimizer.init(tree(0.0)), state))]
  shapes = [shape for shape in shapes if shape in ((3, 7), (7,), (5, 2))]
  assert set(shapes) <= {(5, 2)}
  # Adam has two moments; once at the start and once at the end.
  assert len(shapes) == (0 if name == "sgd" else 4)


def test_frozen_weights_survive_a_gradient_that_is_not_finite():
  optimizer = make_optimizer("adam", RATE, frozen=("encoder",))
  params = tree(WEIGHT)
  updates, _ = optimizer.update(tree(jnp.nan), optimizer.init(params), params)
  assert all((x == 0).all() for x in jax.tree.leaves(updates["encoder"]))


def first_update(optimizer, gradient, params=None):
  params = tree(WEIGHT) if params is None else params
  return optimizer.update(gradient, optimizer.init(params), params)[0]


@pytest.mark.parametrize("frozen, num_trained", [((), 3 * 7 + 7 + 5 * 2), (("encoder",), 5 * 2)])
def test_clipping_by_the_norm_of_what_is_trained(frozen, num_trained):
  """The norm of n gradients of -0.5 is 0.5 sqrt(n): above the limit they become limit / sqrt(n)."""
  norm = 0.5 * math.sqrt(num_trained)
  for limit, expected in ((norm / 4, 0.5 / 4), (norm * 1.01, 0.5)):
    optimizer = make_optimizer("sgd", RATE, clip_norm=limit, frozen=frozen)
    updates = first_update(optimizer, tree(GRADIENT))
    np.testing.assert_allclose(updates["head"]["kernel"], RATE * expected, rtol=1e-6)
    moved = 0 if frozen else RATE * expected
    np.testing.assert_allclose(updates["encoder"]["conv"]["bias"], moved, rtol=1e-6)


def test_clipping_comes_before_weight_decay():
  """As in PyTorch: what the decay adds to the gradient is not part of the norm."""
  optimizer = make_optimizer("sgd", RATE, clip_norm=0.1, weight_decay=DECAY)
  updates = first_update(optimizer, tree(GRADIENT))
  clipped = -0.1 / math.sqrt(3 * 7 + 7 + 5 * 2)
  expected = -RATE * (clipped + DECAY * WEIGHT)
  np.testing.assert_allclose(updates["head"]["kernel"], expected, rtol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_has_no_entry_for_what_is_off(name):
  """States saved before clipping existed still fit."""

  def structure(**options):
    return jax.tree.structure(make_optimizer(name, RATE, **options).init(tree(0.0)))

  assert structure() == structure(clip_norm=0.0, betas=(0.5, 0.6), epsilon=0.1)
  assert structure() != structure(clip_norm=1.0)


@pytest.mark.parametrize("name", ["adam", "adamw", "muon"])
def test_betas_and_epsilon_reach_adam(name):
  """Two steps by hand, with gradients of -0.5 and then 1.

  Adam: m1 = (1 - b1) g, v1 = (1 - b2) g^2, each divided by 1 - b^t; the step is m / (sqrt(v) + e).
  NAdam, in Muon: b1 times the next mean, corrected for t + 1, and (1 - b1) of the gradient.
  """
  b1, b2, e = 0.6, 0.8, 0.25
  optimizer = make_optimizer(name, RATE, betas=(b1, b2), epsilon=e)
  params = {"head": {"bias": jnp.full((3,), WEIGHT)}}
  state, m, v = optimizer.init(params), 0.0, 0.0
  for t, gradient in ((1, -0.5), (2, 1.0)):
    updates, state = optimizer.update({"head": {"bias": jnp.full((3,), gradient)}}, state, params)
    m, v = b1 * m + (1 - b1) * gradient, b2 * v + (1 - b2) * gradient**2
    mean = m / (1 - b1**t)
    if name == "muon":
      mean = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * gradient / (1 - b1**t)
    expected = -RATE * mean / (math.sqrt(v / (1 - b2**t)) + e)
    np.testing.assert_allclose(updates["head"]["bias"], expected, rtol=1e-5)


def test_learning_rate_follows_the_schedule():
  optimizer = make_optimizer("sgd", schedule("cosine", 0.4, 4))
  params = {"head": jnp.zeros(())}
  state, moves = optimizer.init(params), []
  for _ in range(5):
    updates, state = optimizer.update({"head": jnp.ones(())}, state, params)
    moves.append(-float(updates["head"]))
  eighth = math.sqrt(0.5)
  np.testing.assert_allclose(
    moves, [0.4, 0.2 * (1 + eighth), 0.2, 0.2 * (1 - eighth), 0.0], atol=1e-7
  )


def test_constant_schedule():
  rate = schedule("constant", 0.3, 10)
  assert [rate(step) for step in (0, 5, 10, 1000)] == [0.3] * 4


def test_cosine_schedule():
  """rate * (1 + cos(pi * step / steps)) / 2, and 0 from the end on."""
  rate = schedule("cosine", 0.8, 60)
  expected = {0: 0.8, 20: 0.6, 30: 0.4, 40: 0.2, 60: 0.0, 61: 0.0, 1000: 0.0}
  for step, value in expected.items():
    assert float(rate(step)) == pytest.approx(value, abs=1e-7)


def test_cosine_schedule_of_no_steps():
  assert float(schedule("cosine", 0.8, 0)(0)) == pytest.approx(0.8)


def test_poly_schedule():
  """rate * (1 - step / steps)^power, and 0 from the end on."""
  rate = schedule("poly", 0.8, 60)
  for step, value in {0: 0.8, 30: 0.8 * 0.5**0.9, 45: 0.8 * 0.25**0.9, 60: 0.0, 99: 0.0}.items():
    assert float(rate(step)) == pytest.approx(value, abs=1e-7)
  assert float(schedule("poly", 0.8, 60, power=2.0)(30)) == pytest.approx(0.2)


@pytest.mark.parametrize("name", SCHEDULES)
def test_warmup(name):
  """A line up to the rate, and what is left of the steps is the schedule."""
  rate, rest = schedule(name, 0.8, 60, warmup_steps=20), schedule(name, 0.8, 40)
  np.testing.assert_allclose([rate(step) for step in (0, 5, 19)], [0, 0.2, 0.76], rtol=1e-6)
  np.testing.assert_allclose(
    [rate(step) for step in (20, 30, 60)], [rest(step) for step in (0, 10, 40)], atol=1e-7
  )


def test_more_steps_than_can_be_counted():
  for name in "constant", "cosine", "poly":
    with pytest.raises(UserError, match="^3,200,000,000 steps are more than can be counted"):
      schedule(name, 0.1, 3_200_000_000)


def test_unknown_names():
  with pytest.raises(UserError, match="^unknown schedule 'cosin'.*constant, cosine, poly$"):
    schedule("cosin", 0.1, 10)
  with pytest.raises(UserError, match="^unknown optimizer 'Adam'.*adam, adamw, muon, sgd$"):
    make_optimizer("Adam", 0.1)
