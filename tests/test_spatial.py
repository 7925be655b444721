"""Spatial sharding: the height of an image over several devices gives what one device gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import error_of

from configs import unet_cells
from jaxseg import build, models, optim, parallel, settings, spatial, train_state
from jaxseg.augment import Augmentation
from jaxseg.losses import select
from jaxseg.predict import make_predictor
from jaxseg.train_step import make_train_step

ONE = jax.sharding.Mesh(np.asarray(jax.devices()[:1]), (parallel.AXIS,))
UNET = ("unet", {"widths": (4, 8)})
NETWORKS = [
  UNET,
  ("encoder_unet", {"encoder": "mobilenet_v2", "widths": (16, 8, 8, 8)}),
  ("fcn8s", {"encoder": "vgg16", "widths": (8, 8)}),
  ("deeplabv3plus", {"encoder": "mobilenet_v2", "widths": (8, 8)}),
  ("deeplabv3plus", {"encoder": "resnet50", "widths": (8, 8)}),
]


def make_variables(model):
  init = lambda: models.init(model, 3, 0)  # noqa: E731
  return jax.jit(init, compiler_options={"xla_backend_optimization_level": 0})()


def make_step(model, mesh, **options):
  step = make_train_step(
    model,
    optim.make_optimizer("sgd", 0.1),
    losses=select({"cross_entropy": 1.0}),
    class_weights=jnp.ones(2),
    augmentation=Augmentation(),
    spread=spatial.spread_over(mesh),
    **options,
  )
  return parallel.distribute_step(step, mesh, "jit")


def one_step(model, variables, mesh, batch, **options):
  ema = "ema_decay" in options
  state = train_state.create(variables, optim.make_optimizer("sgd", 0.1), ema=ema)
  state, key = (parallel.replicate(mesh, x) for x in (state, jax.random.key(0)))
  step = make_step(model, mesh, **options)
  state, metrics = step(state, parallel.put_on_mesh(mesh, batch, "jit"), key)
  return jax.tree.map(np.asarray, (state.params, state.batch_stats, state.ema, metrics))


def make_batch(size):
  """Of a seed for which no ReLU is at its bend, where the last bit of a weight turns gradients."""
  rng = np.random.default_rng(1)
  return {
    "image": rng.integers(0, 256, (size, 64, 64, 3), np.uint8),
    "mask": rng.integers(0, 2, (size, 64, 64), np.uint8),
    "index": np.arange(size, dtype=np.int32),
  }


def check_equal(expected, found):
  for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
    assert np.abs(a - b).max() <= 1e-5 * max(1.0, np.abs(a).max())
  assert max(np.abs(x).max() for x in jax.tree.leaves(expected)) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("space", [2, 4])
def test_a_step_with_all_options(space):
  """Dropout falls on the same values, and each part of the batch is normalised by itself."""
  model = models.build("unet", 2, widths=(4, 8), norm=True, dropout=0.3, remat=True)
  variables, batch = make_variables(model), make_batch(16 // space)
  options = {"accumulation_steps": 2, "ema_decay": 0.9}
  expected = one_step(model, variables, ONE, batch, **options)
  check_equal(expected, one_step(model, variables, spatial.make_mesh(space), batch, **options))


@pytest.mark.slow
@pytest.mark.parametrize("space", [2, 8])
@pytest.mark.parametrize(("name", "options"), NETWORKS, ids=lambda x: str(x)[:40])
def test_a_step_of_every_network(name, options, space):
  batch, model = make_batch(8 // space), models.build(name, 2, **options)
  variables = make_variables(model)
  expected = one_step(model, variables, ONE, batch)
  check_equal(expected, one_step(model, variables, spatial.make_mesh(space), batch))


@pytest.mark.parametrize(
  ("name", "options"),
  [UNET, *(pytest.param(*x, marks=pytest.mark.slow) for x in NETWORKS[1:])],
  ids=lambda x: str(x)[:40],
)
@pytest.mark.parametrize("fit", ["crop", pytest.param("resize", marks=pytest.mark.slow)])
def test_prediction(name, options, fit):
  """Of several sizes, which do not divide, with views."""
  rng = np.random.default_rng(0)
  examples = [
    {"image": rng.integers(0, 256, (*size, 3), np.uint8)} for size in ((50, 41), (50, 41), (97, 64))
  ]
  model = models.build(name, 2, **options)
  variables = make_variables(model)
  found = []
  for space in (1, 4):
    predict = make_predictor(model, fit=fit, size=64, batch_size=2, tta="flip", space=space)
    found.append([probs for _, probs in predict(variables, examples)])
  for a, b in zip(*found, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.slow
def test_a_device_keeps_its_rows_only():
  """The memory of a compiled step: two images on eight devices against one each."""
  model = models.build("unet", 2, widths=(8, 16), norm=True)
  variables = models.abstract_variables(model, 3)
  optimizer = optim.make_optimizer("sgd", 0.1)
  state = jax.eval_shape(lambda x: train_state.create(x, optimizer), variables)

  def kept(space):
    mesh, array = spatial.make_mesh(space), jax.ShapeDtypeStruct
    shape = (8 // space, 128, 128)
    batch = {"image": array((*shape, 3), np.uint8), "mask": array(shape, np.uint8)}
    batch["index"] = array(shape[:1], np.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    program = make_step(model, mesh).lower(state, batch, key).compile()
    return program.memory_analysis().temp_size_in_bytes

  assert kept(4) < 0.35 * kept(1)


@pytest.mark.parametrize(
  ("key", "value", "text"),
  [
    ("train.parallel", "pmap", "needs config.train.parallel=jit, not pmap"),
    ("data.on_device", True, "needs config.data.on_device=False"),
    ("train.batch_size", 6, "a multiple of 4 (8 devices, 2 to an image)"),
  ],
)
def test_what_does_not_go_with_it(key, value, text):
  config = unet_cells.get_config()
  build.check_training(settings.override(config, {"parallel.space": 2}))
  assert text in error_of(
    build.check_training, settings.override(config, {"parallel.space": 2, key: value})
  )


def test_devices_that_do_not_divide():
  message = "`parallel.space` is 3, but this process has 8 devices: make it 1 or 2 or 4 or 8"
  assert error_of(spatial.make_mesh, 3) == message


def test_one_device_an_image_has_one_axis():
  assert spatial.make_mesh().axis_names == (parallel.AXIS,)
  tree = {"image": np.zeros(3)}
  assert spatial.spread_over(spatial.make_mesh())(tree) is tree
