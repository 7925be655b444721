"""The networks by name, and how to build and initialise them."""

import jax
import jax.numpy as jnp

from jaxseg import UserError
from jaxseg.models import pretrained as weights
from jaxseg.models.mobilenet_v2 import MobileNetV2
from jaxseg.models.unet import EncoderUNet, UNet

MODELS = {"unet": UNet, "encoder_unet": EncoderUNet}
ENCODERS = {"mobilenet_v2": MobileNetV2}
PRECISIONS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
UPS = ("transposed", "resize")


def _look_up(table, key, name):
  if key not in table:
    raise UserError(f"unknown {name} {key!r}; there are {', '.join(table)}")
  return table[key] if isinstance(table, dict) else key


def build(
  name, num_classes, *, encoder, widths, norm, dropout, up, freeze_encoder, precision, axis_name
):
  """A network from the words of a config.

  Args:
    name: key of MODELS.  encoder: key of ENCODERS, for models that have one.
    widths: channels of the levels, () for the model's own.
    norm, dropout, up, freeze_encoder: see the models.
    precision: key of PRECISIONS, the type of activations; parameters are float32.
    axis_name: the mapped axis under `pmap`, else None.
  Returns:
    nn.Module, `apply(variables, image f32[B,H,W,D], train=)` -> logits f32[B,H,W,num_classes].
  Raises:
    UserError: a word that is not in its table.
  """
  model = _look_up(MODELS, name, "config.model.name")
  dtype = _look_up(PRECISIONS, precision, "config.train.precision")
  common = {
    "num_classes": num_classes,
    "dropout": dropout,
    "up": _look_up(UPS, up, "config.model.up"),
    "axis_name": axis_name,
    "dtype": dtype,
    **({"widths": tuple(widths)} if widths else {}),
  }
  if model is UNet:
    return UNet(norm=norm, **common)
  encoder = _look_up(ENCODERS, encoder, "config.model.encoder")
  return EncoderUNet(
    encoder=encoder(axis_name=axis_name, dtype=dtype), freeze_encoder=freeze_encoder, **common
  )


def abstract_variables(model, channels):
  """Shapes and types of a network's variables, without computing them."""
  return jax.eval_shape(lambda: init(model, channels, 0))


def init(model, channels, seed):
  """Random variables {"params": ..., "batch_stats": ...} for images of so many channels."""
  image = jnp.zeros((1, 32, 32, channels))
  # A network without normalisation has no statistics; checkpoints have the entry all the same.
  return {"batch_stats": {}, **model.init(jax.random.key(seed), image, train=False)}


def load_encoder(variables, encoder, pretrained):
  """Variables with the encoder's replaced by those of a weight file.

  Args:
    variables: of an EncoderUNet.  encoder: the module.
    pretrained: "imagenet" (downloaded once) or the path of a Keras HDF5 file.
  Raises:
    UserError: no network, no such file, damaged, or of another network.
  """
  path = weights.fetch(encoder.imagenet) if pretrained == "imagenet" else pretrained
  part = {collection: tree["encoder"] for collection, tree in variables.items()}
  loaded = weights.load_keras(
    part, weights.read_keras_h5(path), leave=encoder.unused_layers, source=path
  )
  return {
    collection: {**tree, "encoder": loaded[collection]} for collection, tree in variables.items()
  }
