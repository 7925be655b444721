"""Rematerialisation: the same numbers from less memory."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from test_resumption import saved_state, stop_after

import jaxseg
from jaxseg import build, models, spatial, train_state
from jaxseg.training import train

QUICK = {"xla_backend_optimization_level": 0}
W = (4, 4, 4, 4)
NETWORKS = {
  "unet": ("unet", {"widths": (4, 8), "dropout": 0.3}, 16),
  "valid": ("unet", {"widths": (4, 8, 8), "padding": "valid", "norm": False}, 44),
  "resized": ("unet", {"widths": (4, 8), "up": "resize", "stem_stride": 2}, 32),
  "mobilenet": ("encoder_unet", {"encoder": "mobilenet_v2", "widths": W, "dropout": 0.3}, 64),
  "resnet": ("deeplabv3plus", {"encoder": "resnet50", "widths": (8, 4), "dropout": 0.3}, 64),
  "xception": ("deeplabv3plus", {"encoder": "xception65", "widths": (8, 4)}, 64),
  "vgg": ("fcn8s", {"encoder": "vgg16", "widths": (8, 8), "dropout": 0.3}, 64),
}


def parts(name, remat):
  """(variables -> (loss, (logits, new statistics)), abstract variables) of a network."""
  network, options, size = NETWORKS[name]
  model = models.build(network, 3, remat=remat, **options)
  image = jax.random.uniform(jax.random.key(1), (2, size, size, 3))
  weight = jax.random.normal(jax.random.key(2), (2, size - 2 * model.margin, 1, 3))
  keys = jax.random.split(jax.random.key(3), 2)

  def loss(params, batch_stats):
    variables = {"params": params, "batch_stats": batch_stats}
    logits, new = model.apply(variables, image, train=True, keys=keys, mutable=["batch_stats"])
    return jnp.sum(weight * jnp.tanh(logits)), (logits, new)

  return loss, models.abstract_variables(model, 3)


def megabytes(tree):
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree)) / 1e6


def kept(name, remat):
  """What the gradient's first half hands to its second half beyond the parameters, in MB."""
  loss, variables = parts(name, remat)

  def forward(params, batch_stats):
    return jax.vjp(lambda params: loss(params, batch_stats)[0], params)[1]

  residuals = jax.eval_shape(forward, variables["params"], variables["batch_stats"])
  return megabytes(residuals) - megabytes(variables["params"])


SLOW = ("resized", "vgg", "valid", "mobilenet", "resnet", "xception")
each = pytest.mark.parametrize(
  "name", [pytest.param(x, marks=pytest.mark.slow) if x in SLOW else x for x in NETWORKS]
)


@each
def test_same_variables_and_less_is_kept(name):
  (_, before), (_, after) = (parts(name, remat) for remat in (False, True))
  assert before == after
  assert 0 < kept(name, True) < 0.4 * kept(name, False)


def draw(key, path, shape):
  """Kernels by their fan-in; scales and variances positive; biases of both signs.

  With positive ones alone, all that ResNet pools is positive: its first bias moves nothing but what
  the next normalisation centres, and has a gradient of rounding errors.
  """
  if path[-1].key == "bias":
    return jax.random.normal(key, shape)
  if len(shape) < 3:
    return jax.random.uniform(key, shape, minval=0.5)
  return jax.random.normal(key, shape) * (2 / np.prod(shape[: 3 if len(shape) == 4 else 2])) ** 0.5


@each
def test_same_values_and_gradients(name):
  found = []
  for remat in (False, True):
    loss, shapes = parts(name, remat)
    keys = iter(jax.random.split(jax.random.key(4), 1000))
    variables = jax.tree.map_with_path(lambda p, x: draw(next(keys), p, x.shape), shapes)  # noqa: B023
    step = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=QUICK)
    found.append(step(variables["params"], variables["batch_stats"]))
  for x, y in zip(*map(jax.tree.leaves, found), strict=True):
    assert 0 < np.linalg.norm(x) and np.linalg.norm(x - y) < 1e-4 * np.linalg.norm(x)


def make_config(remat, num_steps=2, **changes):
  return tiny.make_config(num_steps, train__batch_size=16, train__remat=remat, **changes)


@pytest.mark.slow
def test_the_compiled_step_needs_less_memory():
  sizes = []
  for remat in (False, True):
    config = make_config(remat, train__ema_decay=0.0, data__image_size=64)
    model, mesh = build.build_model(config, tiny.INFO), spatial.make_mesh()
    optimizer, _ = build.build_optimizer(config, 2, 1)
    step = build.build_train_step(config, model, optimizer, jnp.ones(3), mesh, tiny.INFO)
    variables = models.abstract_variables(model, 3)
    state = jax.eval_shape(lambda x: train_state.create(x, optimizer), variables)  # noqa: B023
    batch = {"image": jax.ShapeDtypeStruct((16, 64, 64, 3), np.uint8)}
    batch["mask"] = jax.ShapeDtypeStruct((16, 64, 64), np.uint8)
    batch["index"] = jax.ShapeDtypeStruct((16,), np.int32)
    lowered = step.lower(state, batch, jax.eval_shape(lambda: jax.random.key(0)))
    sizes.append(lowered.compile().memory_analysis().temp_size_in_bytes)
  assert 0 < sizes[1] < 0.7 * sizes[0]


@pytest.mark.slow
@pytest.mark.usefixtures("photos")
@pytest.mark.parametrize(
  "strategy, steps, parts",
  [
    ("jit", 2, 1),
    ("pmap", 1, 1),
    ("jit", 1, 2),
    ("pmap", 2, 2),
  ],
)
def test_runs_agree(strategy, steps, parts, tmp_path):
  """Under jit and pmap, with several steps a call, and with gradient accumulation."""
  states = []
  for remat in (False, True):
    options = {"train__parallel": strategy, "train__steps_per_call": steps}
    options |= {"train__accumulation_steps": parts, "train__log_every_steps": 2}
    # Adam divides by gradients, also by those that are rounding alone.
    config = make_config(remat, train__optimizer="sgd", **options)
    assert train(config, tmp_path / str(remat)) is True
    states.append(saved_state(tmp_path / str(remat), 2)[0])
  assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])
  for x, y in zip(*map(jax.tree.leaves, states), strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("photos")
def test_a_run_may_switch_when_it_resumes(tmp_path, monkeypatch):
  stop_after(monkeypatch, 1)
  assert train(make_config(False, 3), tmp_path) is False
  assert train(make_config(True, 3), tmp_path) is True
  assert jaxseg.load(tmp_path).model.remat is False  # in use, there is no gradient


def test_networks_that_do_not_offer_it(monkeypatch):
  monkeypatch.setitem(models.MODELS, "plain", lambda num_classes: nn.Dense(num_classes))
  config = tiny.make_config(1, model__name="plain", train__remat=True)
  message = tiny.error_of(build.build_model, config, tiny.INFO)
  assert message == "config.train.remat is True, but plain has no option remat; set it to False"
  monkeypatch.setitem(models.ENCODERS, "mine", lambda dtype: None)
  message = tiny.error_of(models.build, "encoder_unet", 2, encoder="mine", remat=True)
  assert message == "`encoder` mine has no field remat; set `remat` to False"
