"""One step on one device: its loss and gradient by hand, and what must not change them."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from scipy import ndimage

from jaxseg import VOID, UserError, models, optim, train_state
from jaxseg.augment import Augmentation, augment
from jaxseg.losses import (
  LOSSES,
  Loss,
  class_logits,
  cross_entropy,
  focal,
  lovasz_softmax,
  select,
  soft_dice,
)
from jaxseg.train_step import AUGMENT, DROPOUT, example_keys, make_train_step

KEY = jax.random.key(5)
SIZE = 16
STILL = Augmentation()  # changes nothing
# Without optimisation, random numbers compile eight times faster.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@functools.cache
def make(
  optimizer="sgd",
  rate=1.0,
  weights=(1.0, 1.0),
  augmentation=STILL,
  border=(0.0, 5.0),
  losses=(("cross_entropy", 1.0),),
  gamma=2.0,
  num_logits=2,
  parts=1,
  ema=0.0,
  **options,
):
  """(network, state, jitted step), compiled once for all tests that ask for the same."""
  model = models.build("unet", num_logits, **{"widths": (4, 8), "norm": False, **options})
  optimizer = optim.make_optimizer(optimizer, rate)
  init = quick_jit(lambda: models.init(model, 1, 0))
  step = make_train_step(
    model,
    optimizer,
    losses=select(dict(losses), focal_gamma=gamma),
    class_weights=jnp.array(weights),
    augmentation=augmentation,
    border_weight=border[0],
    border_sigma=border[1],
    accumulation_steps=parts,
    ema_decay=ema,
  )
  chex.clear_trace_counter()
  step = quick_jit(chex.assert_max_traces(step, n=1))
  return model, train_state.create(init(), optimizer, ema=ema > 0), step


def make_batch(num_examples=4, seed=0, size=SIZE):
  """Bright is class 1. No pixel of the first example is VOID, and all of the last."""
  rng = np.random.default_rng(seed)
  image = rng.integers(0, 256, (num_examples, size, size, 1), dtype=np.uint8)
  mask = (image[..., 0] > 150).astype(np.uint8)
  void = rng.random(mask.shape) < np.linspace(0, 1, num_examples)[:, None, None]
  index = np.arange(num_examples, dtype=np.int32)
  return {"image": image, "mask": np.where(void, np.uint8(VOID), mask), "index": index}


def add_cells(batch):
  """The batch with a mask of two or three cells a few px apart, the VOID pixels as before."""
  size = batch["mask"].shape[1]
  instances = np.zeros(batch["mask"].shape, np.int32)
  for i, gap in enumerate(range(1, len(instances) + 1)):
    instances[i, 2 : size // 2, 3:-4] = 5
    instances[i, size // 2 + gap :, 1 : size // 2] = 2
    instances[i, size // 2 + gap :, size // 2 + gap : -2 * i] = 9
  mask = np.where(batch["mask"] == VOID, np.uint8(VOID), (instances > 0).astype(np.uint8))
  return {**batch, "mask": mask, "instances": instances}


def border_weight(instances, w0, sigma):
  """U-Net's equation 2 with one distance transform per cell.  i32[H,W] -> f64[H,W]"""
  distances = [np.full(instances.shape, np.inf)] * 2
  for i in np.unique(instances[instances > 0]):
    distances.append(ndimage.distance_transform_edt(instances != i))
  nearest, second = np.sort(distances, axis=0)[:2]
  return w0 * np.exp(-((nearest + second) ** 2) / (2 * sigma**2)) * (instances == 0)


def softmax(logits):
  e = np.exp(logits - logits.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


MOVING = Augmentation(flip=True, scale=(0.7, 1.4), brightness=0.3, contrast=(0.5, 1.5))
WARPED = Augmentation(flip=True, transpose=True, scale=(0.7, 1.4), rotation=20.0, elastic=1.0)


@pytest.mark.parametrize(
  "options",
  [
    pytest.param({}, marks=pytest.mark.slow),
    pytest.param({"num_logits": 1, "padding": "valid"}, marks=pytest.mark.slow),
    pytest.param({"border": (10.0, 2.0)}, marks=pytest.mark.slow),
    pytest.param({"border": (4.0, 3.0), "padding": "valid", "augmentation": WARPED},
                 marks=pytest.mark.slow),
  ],
  ids=["plain", "sigmoid, valid", "border", "border, valid, augmented"],
)
def test_loss_and_gradient_are_those_of_the_weighted_mean(options):
  class_weights, size = (0.5, 3.0), 24 if "padding" in options else SIZE
  batch = add_cells(make_batch(size=size)) if "border" in options else make_batch(size=size)
  model, state, step = make(weights=class_weights, **options)
  after, metrics = step(state, batch, KEY)

  image, labels = batch["image"] / np.float32(255), batch
  if "augmentation" in options:
    keys = example_keys(KEY, AUGMENT, batch["index"])
    labels = {name: batch[name] for name in ("mask", "instances")}
    run = quick_jit(jax.vmap(lambda *x: augment(*x, options["augmentation"])))
    image, labels = jax.tree.map(np.asarray, run(keys, image, labels))
    assert (labels["instances"] != batch["instances"]).any(axis=(1, 2)).all()
  valid = labels["mask"] != VOID
  assert valid[0].all() and not valid[-1].any() and 0 < valid[1:-1].mean() < 1
  label = np.where(valid, labels["mask"], 0)
  weight = np.array(class_weights)[label]
  if "border" in options:
    extra = np.stack([border_weight(x, *options["border"]) for x in labels["instances"]])
    assert (extra[:2] > 1).any(axis=(1, 2)).all()  # a good part of the loss
    weight += extra
  weight *= valid
  if "padding" in options:  # two levels take 2 + 2 * 2 + 2 px off each side
    label, weight, valid = (x[:, 8:-8, 8:-8] for x in (label, weight, valid))

  @quick_jit
  def forward(params, by_logits):
    logits, pull_back = jax.vjp(
      lambda params: model.apply({"params": params}, image, train=True), params
    )
    return logits, *pull_back(by_logits)

  blank = np.zeros((*label.shape, options.get("num_logits", 2)), np.float32)
  scores = np.asarray(forward(state.params, blank)[0], np.float64)
  if "num_logits" in options:
    prob = 1 / (1 + np.exp(-scores[..., 0]))
    costs = -np.log(np.where(label == 1, prob, 1 - prob))
    by_logits = (prob - label)[..., None]  # d cost / d logit of a sigmoid
  else:
    probs, one_hot = softmax(scores), np.eye(2)[label]
    costs = -np.log((probs * one_hot).sum(-1))
    by_logits = probs - one_hot  # of softmax
  loss = (weight * costs).sum() / weight.sum()
  np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5 if "border" in options else 1e-6)
  assert metrics["num_pixels"] == valid.sum()

  by_logits *= weight[..., None] / weight.sum()
  _, grads = forward(state.params, by_logits.astype(np.float32))
  expected = jax.tree.map(lambda p, g: p - g, state.params, grads)
  chex.assert_trees_all_close(after.params, expected, rtol=1e-5, atol=1e-6)
  assert optax.global_norm(grads) > 0.1  # large beside the tolerance
  np.testing.assert_allclose(metrics["grad_norm"], optax.global_norm(grads), rtol=1e-5)
  assert after.step == 1


FACTORS = {"cross_entropy": 0.5, "focal": 2.0, "dice": 1.5, "lovasz": 3.0}
ALL = {
  "losses": tuple(FACTORS.items()),
  "gamma": 1.5,
  "weights": (0.5, 3.0),
  "num_logits": 1,
  "padding": "valid",
}


@pytest.mark.slow
def test_sum_of_losses():
  """Each is a mean over what is not VOID in the whole batch, times its factor."""
  batch = make_batch(size=24)
  model, state, step = make(**ALL)
  after, metrics = step(state, batch, KEY)
  mask = batch["mask"][:, 8:-8, 8:-8]
  assert (mask[-1] == VOID).all()
  label = np.where(mask == VOID, 0, mask)
  weight = np.array(ALL["weights"], np.float32)[label] * (mask != VOID)

  def expected(params):
    image = batch["image"] / np.float32(255)
    logits = class_logits(model.apply({"params": params}, image, train=True))
    pixels = {"cross_entropy": cross_entropy, "focal": lambda *x: focal(*x, gamma=1.5)}
    parts = {name: (weight * f(logits, mask)).sum() / weight.sum() for name, f in pixels.items()}
    for name, loss in {"dice": soft_dice, "lovasz": lovasz_softmax}.items():
      parts[name] = jax.vmap(loss)(logits[:3], mask[:3]).mean()
    return sum(FACTORS[name] * part for name, part in parts.items()), logits

  (loss, logits), grads = quick_jit(jax.value_and_grad(expected, has_aux=True))(state.params)
  np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
  expected_params = jax.tree.map(lambda p, g: p - g, state.params, grads)
  chex.assert_trees_all_close(after.params, expected_params, rtol=1e-5, atol=1e-6)
  assert optax.global_norm(grads) > 0.1

  ce, focal_costs = reference.cross_entropy(logits, mask), reference.focal(logits, mask, 1.5)
  twins = {
    "cross_entropy": (weight * ce).sum() / weight.sum(),
    "focal": (weight * focal_costs).sum() / weight.sum(),
    "dice": np.mean([reference.soft_dice(logits[i], mask[i]) for i in range(3)]),
    "lovasz": np.mean([reference.lovasz_softmax(logits[i], mask[i]) for i in range(3)]),
  }
  parts = {name[5:]: value for name, value in metrics.items() if name.startswith("loss/")}
  assert parts.keys() == twins.keys() == LOSSES.keys()
  chex.assert_trees_all_close(parts, twins, rtol=1e-5)
  total = sum(FACTORS[name] * twin for name, twin in twins.items())
  np.testing.assert_allclose(metrics["loss"], total, rtol=1e-5)


def signed_distances(labels):
  """Distance of each pixel to each class, px, negative inside; 0 without border.  f32[H,W,2]"""
  mask = labels["mask"]
  points = jnp.stack(jnp.indices(mask.shape), -1).reshape(-1, 2).astype(jnp.float32)
  distances = jnp.sqrt(jnp.sum((points[:, None] - points) ** 2, -1))

  def signed(label):
    inside = mask.ravel() == label
    near, far = (jnp.min(distances, 1, initial=1e6, where=x) for x in (inside, ~inside))
    border = inside.any() & ~inside.all()
    return jnp.where(border, jnp.where(inside, -far, near), 0.0).reshape(mask.shape)

  return jnp.stack([signed(0), signed(1)], -1)


def signed_distances_twin(mask):
  """The same by SciPy.  u8[H,W] -> f64[H,W,2]"""
  maps = []
  for inside in (mask == 0, mask == 1):
    near, far = (ndimage.distance_transform_edt(x) for x in (~inside, inside))
    maps.append((near - far) * (inside.any() and not inside.all()))
  return np.stack(maps, -1)


@pytest.mark.parametrize(
  "options",
  [
    pytest.param({}, marks=pytest.mark.slow),
    pytest.param({"parts": 2}, marks=pytest.mark.slow),
    pytest.param({"padding": "valid"}, marks=pytest.mark.slow),
    {"padding": "valid", "augmentation": WARPED},
  ],
  ids=["plain", "in parts", "valid", "valid, augmented"],
)
@pytest.mark.parametrize("per", ["pixel", pytest.param("image", marks=pytest.mark.slow)])
def test_boundary_loss_by_a_map_of_the_labels(options, per, monkeypatch):
  """Kervadec et al. (2019), equation 5: sum over classes of probability times signed distance."""

  def boundary(logits, mask, *, distances):
    costs = jnp.sum(jax.nn.softmax(logits) * distances, axis=-1)
    if per == "pixel":
      return costs
    return jnp.sum(costs, where=mask != VOID) / jnp.maximum(jnp.sum(mask != VOID), 1)

  name = f"boundary of {per}"  # `make` remembers steps by name
  loss = Loss(boundary, per, maps={"distances": signed_distances})
  monkeypatch.setitem(LOSSES, name, loss)
  batch = add_cells(make_batch(size=24))
  weights, losses = (0.5, 3.0), (("cross_entropy", 0.5), (name, 0.1))
  model, state, step = make(weights=weights, losses=losses, **options)
  after, metrics = step(state, batch, KEY)

  image, mask = batch["image"] / np.float32(255), batch["mask"]
  if "augmentation" in options:
    run = quick_jit(jax.vmap(lambda *x: augment(*x, options["augmentation"])))
    image, labels = run(example_keys(KEY, AUGMENT, batch["index"]), image, {"mask": mask})
    mask = np.asarray(labels["mask"])
  maps = np.stack([signed_distances_twin(x) for x in mask])
  assert maps[0].min() < -2 and maps[0].max() > 4 and (maps[:3].max(axis=(1, 2)) > 1).all()
  if "padding" in options:
    mask, maps = mask[:, 8:-8, 8:-8], maps[:, 8:-8, 8:-8]
    # Of the cropped mask, distances would be others.
    assert abs(np.stack([signed_distances_twin(x) for x in mask]) - maps).max() > 1
  valid = mask != VOID
  label = np.where(valid, mask, 0)
  weight = np.array(weights)[label] * valid

  def expected(params):
    logits = model.apply({"params": params}, image, train=True)
    log_probs = jax.nn.log_softmax(logits)
    ce = -(weight * (log_probs * np.eye(2)[label]).sum(-1)).sum() / weight.sum()
    costs = (jnp.exp(log_probs) * maps).sum(-1)
    if per == "pixel":
      mean = (weight * costs).sum() / weight.sum()
    else:
      mean = sum(costs[i][valid[i]].mean() for i in range(3)) / 3  # the last is VOID
    return 0.5 * ce + 0.1 * mean, mean

  (total, mean), grads = quick_jit(jax.value_and_grad(expected, has_aux=True))(state.params)
  assert abs(mean) > 0.3  # large beside the tolerance
  np.testing.assert_allclose(metrics["loss"], total, rtol=1e-5)
  np.testing.assert_allclose(metrics[f"loss/{name}"], mean, rtol=1e-5)
  moved = jax.tree.map(lambda p, g: p - g, state.params, grads)
  chex.assert_trees_all_close(after.params, moved, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_loss_that_needs_instances(monkeypatch):
  """Its map sees them, augmented like the mask."""

  def mean_id(logits, mask, *, ids):
    return ids + 0 * logits.sum(-1)

  maps = {"ids": lambda labels: labels["instances"].astype(jnp.float32)}
  monkeypatch.setitem(LOSSES, "mean id", Loss(mean_id, maps=maps, needs_instances=True))
  _, state, step = make(losses=(("mean id", 1.0),), augmentation=WARPED)
  batch = add_cells(make_batch())
  keys = example_keys(KEY, AUGMENT, batch["index"])
  labels = {name: batch[name] for name in ("mask", "instances")}
  run = quick_jit(jax.vmap(lambda *x: augment(*x, WARPED)))
  _, moved = run(keys, batch["image"] / np.float32(255), labels)
  _, metrics = step(state, batch, KEY)
  valid = np.asarray(moved["mask"]) != VOID
  np.testing.assert_allclose(metrics["loss"], moved["instances"][valid].mean(), rtol=1e-5)
  chex.clear_trace_counter()  # other batches are traced anew
  with pytest.raises(UserError, match="needs instances"):
    step(state, make_batch(), KEY)


@pytest.mark.parametrize(
  "label, size, options",
  # Neither VOID nor class 0 weighs anything.
  [(VOID, SIZE, {"weights": (0.0, 1.0)}), (0, SIZE, {"weights": (0.0, 1.0)}), (VOID, 24, ALL)],
  ids=["VOID", "weight 0", "VOID, all losses"],
)
def test_nothing_to_learn_from_changes_nothing(label, size, options):
  _, state, step = make(**options)
  batch = make_batch(size=size)
  batch["mask"] = np.full_like(batch["mask"], label)
  after, metrics = step(state, batch, KEY)
  assert (metrics["loss"], metrics["grad_norm"]) == (0, 0)
  assert metrics["num_pixels"] == (0 if label == VOID else batch["mask"].size)
  chex.assert_trees_all_equal(after.params, state.params)


@pytest.mark.slow
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


@pytest.mark.parametrize(
  "options", [{"augmentation": MOVING}, {"dropout": 0.5}], ids=["augment", "dropout"]
)
def test_draws_follow_the_index_and_nothing_else(options):
  _, state, step = make(**options)
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


ALL_LOSSES = (("cross_entropy", 1.0), ("focal", 0.5), ("dice", 0.3), ("lovasz", 0.7))


@pytest.mark.slow
@pytest.mark.parametrize("losses", [ALL_LOSSES[:1], ALL_LOSSES], ids=["one", "all"])
def test_accumulated_gradients_are_those_of_the_batch(losses):
  """Four times 4 = 16, with uneven VOID, weights, augmentation and dropout; no normalisation."""
  options = {"losses": losses, "weights": (0.5, 3.0), "augmentation": MOVING, "dropout": 0.5}
  batch = make_batch(16)
  _, state, step = make(**options)
  whole, metrics = step(state, batch, KEY)
  _, _, step = make(**options, parts=4)
  accumulated, metrics_in_parts = step(state, batch, KEY)
  # Some parameters are above 3: there, a few units in the last place are more than 1e-6.
  chex.assert_trees_all_close(accumulated.params, whole.params, atol=1e-6, rtol=1e-6)
  chex.assert_trees_all_close(metrics_in_parts, metrics, rtol=1e-6)
  moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), whole.params, state.params)
  assert min(jax.tree.leaves(moved)) > 1e-3


@pytest.mark.slow
def test_every_part_moves_the_batch_statistics():
  """One after the other: with momentum 0.9, two parts of the same examples reach 1 - 0.9^2."""
  batch = make_batch(4)
  twice = jax.tree.map(lambda x: np.repeat(x, 2, axis=0), batch)  # part 0, part 1, part 0 ...
  _, state, step = make(norm=True)
  once, _ = step(state, batch, KEY)
  _, _, step = make(norm=True, parts=2)
  accumulated, _ = step(state, twice, KEY)
  moved = jax.tree.map(jnp.subtract, once.batch_stats, state.batch_stats)
  expected = jax.tree.map(lambda a, d: a + 1.9 * d, state.batch_stats, moved)
  chex.assert_trees_all_close(accumulated.batch_stats, expected, atol=1e-5)


def test_running_mean_follows_the_step():
  """After the first step, d = min(0.5, 2 / 11): the mean moves 9 / 11 of the way."""
  _, state, step = make(norm=True, ema=0.5)
  after, _ = step(state, make_batch(), KEY)
  for name in ("params", "batch_stats"):
    expected = jax.tree.map(
      lambda a, b: a + 9 / 11 * (b - a), getattr(state, name), getattr(after, name)
    )
    chex.assert_trees_all_close(after.ema[name], expected, atol=1e-6)
