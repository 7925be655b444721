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
PATCHES = (1, 2)
PADDINGS = ("same", "valid")
HEADS = ("softmax", "sigmoid")


def _look_up(table, key, name):
  if key not in table:
    raise UserError(f"unknown {name} {key!r}; there are {', '.join(map(str, table))}")
  return table[key] if isinstance(table, dict) else key


def num_logits(head, classes):
  """Channels of a head: one per class, or a single one, of the second of two, for "sigmoid".

  Raises:
    UserError: an unknown head, or a sigmoid with other than two classes.
  """
  if _look_up(HEADS, head, "config.model.head") == "softmax":
    return len(classes)
  if len(classes) != 2:
    raise UserError(
      f"config.model.head sigmoid is for two classes, the data have {', '.join(classes)}"
    )
  return 1


def build(
  name,
  num_classes,
  *,
  encoder,
  widths,
  patch,
  padding,
  norm,
  dropout,
  up,
  freeze_encoder,
  precision,
  axis_name,
):
  """A network from the words of a config.

  Args:
    name: key of MODELS.  num_classes: channels of the logits, see `num_logits`.
    encoder: key of ENCODERS, for models that have one.
    widths: channels of the levels, () for the model's own.
    patch, padding, norm, dropout, up, freeze_encoder: see the models.
    precision: key of PRECISIONS, the type of activations; parameters are float32.
    axis_name: the mapped axis under `pmap`, else None.
  Returns:
    nn.Module, `apply(variables, image f32[B,H,W,D], train=)` -> logits f32[B,h,w,num_classes];
    h, w = H, W but for valid convolutions.
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
  _look_up(PATCHES, patch, "config.model.patch")
  if patch > 1 and model is not UNet:
    raise UserError(f"config.model.patch {patch} is for unet; set it to 1")
  _look_up(PADDINGS, padding, "config.model.padding")
  if padding == "valid" and (model is not UNet or up != "transposed"):
    raise UserError(
      "config.model.padding valid is for unet with config.model.up transposed: at its edges, "
      "nothing else is free of padding"
    )
  if model is UNet:
    return UNet(patch=patch, padding=padding, norm=norm, **common)
  encoder = _look_up(ENCODERS, encoder, "config.model.encoder")
  return EncoderUNet(
    encoder=encoder(axis_name=axis_name, dtype=dtype), freeze_encoder=freeze_encoder, **common
  )


def abstract_variables(model, channels):
  """Shapes and types of a network's variables, without computing them."""
  return jax.eval_shape(lambda: init(model, channels, 0))


def check_input(model, channels, size):
  """Raises UserError if a network does not take square images of `size` px; computes nothing."""
  image = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
  variables = abstract_variables(model, channels)
  jax.eval_shape(lambda v, x: model.apply(v, x, train=False), variables, image)


def init(model, channels, seed):
  """Random variables {"params": ..., "batch_stats": ...} for images of so many channels."""
  size = model.input_size(32)
  image = jnp.zeros((1, size, size, channels))
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
