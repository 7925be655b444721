"""One step on one device: its loss and gradient by hand, and what must not change them."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxseg import VOID, models, optim, train_state
from jaxseg.augment import Augmentation
from jaxseg.train_step import AUGMENT, DROPOUT, example_keys, make_train_step

KEY = jax.random.key(5)
SIZE = 16
STILL = Augmentation()  # changes nothing


@functools.cache
def make(optimizer="sgd", rate=1.0, weights=(1.0, 1.0), augmentation=STILL, **words):
  """(network, state, jitted step), compiled once for all tests that ask for the same."""
  words = {"norm": False, "dropout": 0.0, "precision": "float32", **words}
  shape = {"encoder": "", "widths": (4, 8), "up": "transposed"}
  model = models.build("unet", 2, freeze_encoder=False, axis_name=None, **shape, **words)
  optimizer = optim.make_optimizer(optimizer, rate)
  # Compiled without optimisation, random initialisation is eight times faster.
  init = jax.jit(
    lambda: models.init(model, 1, 0), compiler_options={"xla_backend_optimization_level": 0}
  )
  step = make_train_step(
    model, optimizer, class_weights=jnp.array(weights), augmentation=augmentation
  )
  chex.clear_trace_counter()
  step = jax.jit(chex.assert_max_traces(step, n=1))
  return model, train_state.create(init(), optimizer), step


def make_batch(num_examples=4, seed=0):
  """Bright is class 1. No pixel of the first example is VOID, and all of the last."""
  rng = np.random.default_rng(seed)
  image = rng.integers(0, 256, (num_examples, SIZE, SIZE, 1), dtype=np.uint8)
  mask = (image[..., 0] > 150).astype(np.uint8)
  void = rng.random(mask.shape) < np.linspace(0, 1, num_examples)[:, None, None]
  index = np.arange(num_examples, dtype=np.int32)
  return {"image": image, "mask": np.where(void, np.uint8(VOID), mask), "index": index}


def softmax(logits):
  e = np.exp(logits - logits.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def test_loss_and_gradient_are_those_of_the_weighted_mean():
  class_weights, batch = (0.5, 3.0), make_batch()
  model, state, step = make(weights=class_weights)
  after, metrics = step(state, batch, KEY)

  def forward(params):
    return model.apply({"params": params}, batch["image"] / np.float32(255), train=True)

  logits, pull_back = jax.vjp(forward, state.params)
  valid = batch["mask"] != VOID
  assert valid[0].all() and not valid[-1].any() and 0 < valid[1:-1].mean() < 1
  label = np.where(valid, batch["mask"], 0)
  one_hot = np.eye(2)[label]
  weight = np.array(class_weights)[label] * valid
  probs = softmax(np.asarray(logits, np.float64))
  loss = -(weight * np.log((probs * one_hot).sum(-1))).sum() / weight.sum()
  np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-6)
  assert metrics["num_pixels"] == valid.sum()

  # d loss / d logits of softmax and cross-entropy is (probs - one_hot) * weight / sum of weights.
  by_logits = (probs - one_hot) * weight[..., None] / weight.sum()
  (grads,) = pull_back(by_logits.astype(np.float32))
  expected = jax.tree.map(lambda p, g: p - g, state.params, grads)
  chex.assert_trees_all_close(after.params, expected, rtol=1e-5, atol=1e-6)
  assert optax.global_norm(grads) > 0.1  # large beside the tolerance
  np.testing.assert_allclose(metrics["grad_norm"], optax.global_norm(grads), rtol=1e-5)
  assert after.step == 1


@pytest.mark.parametrize("label", [VOID, 0])
def test_nothing_to_learn_from_changes_nothing(label):
  _, state, step = make(weights=(0.0, 1.0))  # neither VOID nor class 0 weighs anything
  batch = make_batch()
  batch["mask"] = np.full_like(batch["mask"], label)
  after, metrics = step(state, batch, KEY)
  assert (metrics["loss"], metrics["grad_norm"]) == (0, 0)
  assert metrics["num_pixels"] == (0 if label == VOID else batch["mask"].size)
  chex.assert_trees_all_equal(after.params, state.params)


def test_bfloat16_is_near_float32_and_stays_inside_the_network():
  results = []
  for precision in ("float32", "bfloat16"):
    _, state, step = make("adam", 1e-2, norm=True, precision=precision)
    after, metrics = step(state, make_batch(), KEY)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, after)
    arrays = jax.tree.leaves((after.params, after.batch_stats, metrics["loss"]))
    assert {x.dtype for x in arrays} == {jnp.dtype("float32")}
    results.append((metrics["loss"], metrics["grad_norm"]))
  (loss, norm), (loss16, norm16) = results
  assert loss != loss16  # or it was float32 all along
  np.testing.assert_allclose(loss16, loss, rtol=0.01)
  np.testing.assert_allclose(norm16, norm, rtol=0.05)


def test_thirty_steps_on_one_batch_learn_it_with_one_trace():
  _, state, step = make("adam", 1e-2, norm=True, precision="float32")
  batch, losses = make_batch(), []
  for i in range(30):
    batch["index"] = np.arange(4, dtype=np.int32) + 4 * i
    state, metrics = step(state, batch, KEY)
    losses.append(float(metrics["loss"]))
  assert losses[0] > 0.4 and losses[-1] < 0.25 * losses[0]
  assert state.step == 30


MOVING = Augmentation(flip=True, scale=(0.7, 1.4), brightness=0.3, contrast=(0.5, 1.5))


@pytest.mark.parametrize(
  "words", [{"augmentation": MOVING}, {"dropout": 0.5}], ids=["augment", "dropout"]
)
def test_draws_follow_the_index_and_nothing_else(words):
  _, state, step = make(**words)
  batch = make_batch()
  batch["image"][:] = batch["image"][0]  # with one image only the draws tell examples apart
  batch["mask"][:] = batch["mask"][0]

  def loss(index, key=KEY):
    return float(step(state, {**batch, "index": np.array(index, np.int32)}, key)[1]["loss"])

  first = loss([7, 8, 9, 10])
  assert first == loss([7, 8, 9, 10])
  np.testing.assert_allclose(loss([10, 8, 7, 9]), first, rtol=1e-6)  # the place is free
  assert abs(loss([7, 8, 9, 11]) - first) > 1e-4
  assert abs(loss([7, 8, 9, 10], jax.random.key(6)) - first) > 1e-4


def test_no_two_streams_or_examples_share_a_key():
  index = np.arange(6, dtype=np.int32)
  keys = [jax.random.key_data(example_keys(KEY, s, index)) for s in (AUGMENT, DROPOUT)]
  assert len(np.unique(np.concatenate(keys), axis=0)) == 12
