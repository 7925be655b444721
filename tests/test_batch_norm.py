"""Batch normalisation against arithmetic, and its gradients against those of Flax."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from reference import normal

from jaxseg.models.batch_norm import BatchNorm

PARTS = {"one": (5,), "three": (2, 1, 2)}  # channels
START = {
  "params": {"scale": np.float32([2, 3, 1, 4, 0.5]), "bias": np.float32([-1, 1, 0, 2, 3])},
  "batch_stats": {
    "mean": np.float32([5, -5, 0, 1, 2]), "var": np.float32([4, 0.25, 1, 2, 3]),
  },
}  # fmt: skip


def cut(x, widths):
  return np.split(x, np.cumsum(widths)[:-1], axis=-1)


def train(norm, variables, *parts):
  """(concatenated output, running statistics)"""
  y, new = jax.jit(lambda *parts: norm.apply(variables, *parts, mutable=["batch_stats"]))(*parts)
  assert [part.shape for part in y] == [part.shape for part in parts]
  return np.concatenate(y, -1), new["batch_stats"]


@pytest.mark.parametrize("width", [6, 7])
@pytest.mark.parametrize("on_pairs", [False, True])
@pytest.mark.parametrize("parts", PARTS)
def test_trains_with_the_statistics_of_the_batch(parts, on_pairs, width):
  x = 3 * normal(4, 5, width, 5) + 1
  y, stats = train(BatchNorm(True, on_pairs=on_pairs), START, *cut(x, PARTS[parts]))
  batch = {"mean": x.mean((0, 1, 2), dtype=float), "var": x.var((0, 1, 2), dtype=float)}
  chex.assert_trees_all_close(y, reference.batch_norm(x, START["params"], batch), atol=1e-5)
  # Momentum 0.9: after one step a tenth of the way.
  before = START["batch_stats"]
  expected = {name: 0.9 * before[name] + 0.1 * batch[name] for name in batch}
  chex.assert_trees_all_close(stats, expected, rtol=1e-5)


@pytest.mark.parametrize("parts", PARTS)
def test_predicts_with_running_statistics(parts):
  x = normal(4, 5, 6, 5)
  y = jax.jit(BatchNorm(False, on_pairs=True).apply)(START, *cut(x, PARTS[parts]))
  expected = reference.batch_norm(x, START["params"], START["batch_stats"])
  chex.assert_trees_all_close(np.concatenate(y, -1), expected, atol=1e-5)


@pytest.mark.parametrize("parts", PARTS)
def test_is_global_over_a_mapped_axis(parts):
  x = normal(8, 2, 3, 4, 5) + np.arange(8).reshape(8, 1, 1, 1, 1)  # devices far apart
  whole, whole_stats = train(BatchNorm(True), START, *cut(x.reshape(16, 3, 4, 5), PARTS[parts]))
  norm = BatchNorm(True, "devices")

  def step(*parts):
    return norm.apply(START, *parts, mutable=["batch_stats"])

  y, new = jax.pmap(step, "devices")(*cut(x, PARTS[parts]))
  chex.assert_trees_all_close(np.concatenate(y, -1).reshape(whole.shape), whole, atol=1e-4)
  stats = jax.tree.map(lambda x: np.stack([x] * 8), whole_stats)
  chex.assert_trees_all_close(new["batch_stats"], stats, rtol=1e-4)


def updated(x):
  """Running statistics after few values: the variance is around the running mean."""
  mean, var = (START["batch_stats"][name].astype(float) for name in ("mean", "var"))
  around = np.mean((x - mean) ** 2, (0, 1, 2))
  return {"mean": 0.9 * mean + 0.1 * x.mean((0, 1, 2)), "var": 0.9 * var + 0.1 * around}


@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 1, 1), (1, 2, 3)])
def test_few_values_are_normalised_in_training_as_in_use(shape):
  x = 3 * normal(*shape, 5) + 1
  y, stats = train(BatchNorm(True), START, x)
  chex.assert_trees_all_close(stats, updated(x), rtol=1e-5)
  chex.assert_trees_all_close(y, reference.batch_norm(x, START["params"], stats), atol=1e-5)
  (used,) = BatchNorm(False).apply({**START, "batch_stats": stats}, x)
  chex.assert_trees_all_close(y, used, atol=1e-6)


def test_few_values_have_the_gradient_of_a_fixed_scale():
  x = 3 * normal(1, 1, 1, 5) + 1
  (y, pull) = jax.vjp(lambda x: train_once(x)[0], x)
  expected = START["params"]["scale"] / np.sqrt(updated(x)["var"] + 1e-3)
  chex.assert_trees_all_close(pull(jnp.ones_like(y))[0][0, 0, 0], expected, rtol=1e-5)


def train_once(x):
  return BatchNorm(True).apply(START, x, mutable=["batch_stats"])[0]


@pytest.mark.parametrize("devices", [7, 8])
def test_few_values_are_counted_over_a_mapped_axis(devices):
  x = 3 * normal(devices, 1, 1, 1, 5)
  norm = BatchNorm(True, "devices")
  step = jax.pmap(lambda x: norm.apply(START, x, mutable=["batch_stats"])[1], "devices")
  stats = jax.tree.map(lambda x: x[0], step(x)["batch_stats"])
  whole = x[:, 0]
  batch = {"mean": whole.mean((0, 1, 2)), "var": whole.var((0, 1, 2))}
  before = START["batch_stats"]
  many = {name: 0.9 * before[name] + 0.1 * batch[name] for name in batch}
  chex.assert_trees_all_close(stats, updated(whole) if devices < 8 else many, rtol=1e-4)


@pytest.mark.parametrize("on_pairs", [False, True])
@pytest.mark.parametrize("parts", PARTS)
def test_gradients(parts, on_pairs):
  """Those of Flax on the concatenation, in float64."""
  with jax.enable_x64(True):
    params = jax.tree.map(lambda x: x.astype(np.float64), START["params"])
    x, weight = normal(2, 3, 4, 5).astype(float), normal(2, 3, 4, 5, seed=1).astype(float)

    def total(y):
      return jnp.sum(weight * jnp.sin(y))

    def ours(params, x):
      norm = BatchNorm(True, on_pairs=on_pairs, dtype=jnp.float64)
      pieces = jnp.split(x, np.cumsum(PARTS[parts])[:-1], axis=-1)
      y, _ = norm.apply(START | {"params": params}, *pieces, mutable=["batch_stats"])
      return total(jnp.concatenate(y, -1))

    def theirs(params, x):
      norm = nn.BatchNorm(False, epsilon=1e-3, dtype=jnp.float64)
      y, _ = norm.apply(START | {"params": params}, x, mutable=["batch_stats"])
      return total(y)

    found, expected = (jax.grad(f, (0, 1))(params, x) for f in (ours, theirs))
    chex.assert_trees_all_close(found, expected, rtol=1e-9, atol=1e-12)
