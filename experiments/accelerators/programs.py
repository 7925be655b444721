"""The programs of compile.py: training step and prediction of configs, as abstract arguments."""

import functools
import importlib

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from configs import default
from jaxseg import build, losses, models, ops, parallel, settings, spatial, train_state
from jaxseg.crf import dense_crf
from jaxseg.data import datasets
from jaxseg.data.decode import DatasetInfo

AUGMENT = {"augment.flip": True, "augment.scale": (0.8, 1.25), "augment.brightness": 0.1}
# Networks as published, beside the configs: {name: (values of config keys, classes, channels)}.
NETWORKS = {
  "paper_unet": (
    {"model.name": "unet", "model.padding": "valid", "model.norm": False, "data.image_size": 572,
     "train.batch_size": 16}, 2, 1),
  "padded_unet": ({"model.name": "unet", "data.image_size": 128, "train.batch_size": 64}, 3, 3),
  "mobilenet_unet": (
    {"model.name": "encoder_unet", "model.encoder": "mobilenet_v2", "data.image_size": 128,
     "train.batch_size": 64}, 3, 3),
  "fcn8s_vgg": (
    {"model.name": "fcn8s", "model.encoder": "vgg16", "data.image_size": 224,
     "train.batch_size": 16}, 11, 3),
  "deeplab_resnet": (
    {"model.name": "deeplabv3plus", "model.encoder": "resnet50", "model.up": "resize",
     "model.output_stride": 16, "data.image_size": 512, "train.batch_size": 16}, 21, 3),
  "deeplab_xception": (
    {"model.name": "deeplabv3plus", "model.encoder": "xception65", "model.up": "resize",
     "model.output_stride": 16, "data.image_size": 512, "train.batch_size": 16}, 21, 3),
  "deeplab_mobilenet": (
    {"model.name": "deeplabv3plus", "model.encoder": "mobilenet_v2", "model.up": "resize",
     "model.output_stride": 16, "data.image_size": 256, "train.batch_size": 16}, 21, 3),
}  # fmt: skip
BUILT_IN = {"cells": (2, 1), "oxford_iiit_pet": (3, 3)}  # data sets: classes, channels
PROGRAMS = ("step", "predict")


def load(name, values):
  """(config, DatasetInfo) of a network above or a config file; `values` override keys."""
  if name in NETWORKS:
    keys, classes, channels = NETWORKS[name]
    config = settings.override(default.get_config(), AUGMENT | keys)
  else:
    config = importlib.import_module(f"configs.{name}").get_config()
    data = config.data
    classes, channels = BUILT_IN.get(data.name) or (len(data.classes), data.channels)
    if not classes:
      classes = len(datasets.LABEL_SPACES[data.label_space].classes)
  config = settings.override(config, {"train.precision": "bfloat16", **values})
  names = tuple(f"class {i}" for i in range(classes))
  return config, DatasetInfo(names, datasets.default_palette(classes), channels)


def lower_crf(device):
  """The exact dense CRF of experiments/gpu."""
  one = jax.sharding.SingleDeviceSharding(device)
  probs, image = (jax.ShapeDtypeStruct((360, 480, n), jnp.float32, sharding=one) for n in (12, 3))
  run = jax.jit(functools.partial(dense_crf, exact=True))
  return run.lower(probs, image), {"size": "360x480", "batch": 1}


def lower(name, what, devices, values):
  """A program for devices that need not exist.

  Args:
    name: of a network above or a config.  what: of PROGRAMS.  values: {config key: value}.
  Returns:
    (lowered program, {"size", "batch", "model_TFLOP"}); the last per device: three times the
    products and sums of the forward pass as written ("predict": once), the usual count of useful
    work.
  """
  if name == "crf":
    return lower_crf(devices[0])
  config, info = load(name, values)
  mesh = spatial.make_mesh(config.parallel.space, devices)
  model = build.build_model(config, info)
  size, step = config.data.image_size, what == "step"
  parts = mesh.shape[parallel.AXIS] * (config.train.accumulation_steps if step else 1)
  batch = config.train.batch_size if step else config.eval.batch_size
  batch += -batch % parts
  variables = models.abstract_variables(model, info.channels)
  forward = models.summary(model, variables, info.channels, size, compile=False)["flop"]
  facts = {"size": size, "batch": batch}
  facts["model_TFLOP"] = (3 if step else 1) * forward * batch / mesh.size / 1e12
  array = jax.ShapeDtypeStruct
  image = array((batch, size, size, info.channels), jnp.uint8)
  if not step:
    whole, split = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), (parallel.AXIS,)))

    def predict(variables, image):
      logits = model.apply(variables, ops.normalize(image), train=False)
      return jax.nn.softmax(losses.class_logits(logits))

    options = parallel.compiler_options(devices[0])
    run = jax.jit(predict, in_shardings=(whole, split), compiler_options=options)
    return run.lower(variables, image), facts
  config.train.parallel = "jit"
  optimizer, _ = build.build_optimizer(config, 1000, 10)
  weights = jnp.ones(len(info.classes))
  run = build.build_train_step(config, model, optimizer, weights, mesh, info)
  data = {"image": image, "mask": array(image.shape[:3], jnp.uint8)}
  data["index"] = array((batch,), jnp.int32)
  if build.needs_instances(config):
    data["instances"] = array(image.shape[:3], jnp.int32)
  state = jax.eval_shape(lambda v: train_state.create(v, optimizer), variables)
  return run.lower(state, data, jax.eval_shape(lambda: jax.random.key(0))), facts
