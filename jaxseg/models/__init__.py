"""The networks by name, and how to build and initialise them."""

import functools

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxseg import UserError
from jaxseg.models import pretrained as weights
from jaxseg.models.deeplab import DeepLab
from jaxseg.models.fcn import FCN
from jaxseg.models.mobilenet_v2 import MobileNetV2
from jaxseg.models.resnet import ResNet
from jaxseg.models.unet import EncoderUNet, UNet
from jaxseg.models.vgg import VGG16
from jaxseg.models.xception import Xception65

MODELS = {
  "unet": UNet,
  "encoder_unet": EncoderUNet,
  **dict.fromkeys(("fcn32s", "fcn16s", "fcn8s"), FCN),
  **dict.fromkeys(("deeplabv3", "deeplabv3plus"), DeepLab),
}
FINAL_STRIDES = {"fcn32s": 32, "fcn16s": 16, "fcn8s": 8}
ENCODERS = {
  "mobilenet_v2": MobileNetV2,
  "vgg16": VGG16,
  "resnet50": functools.partial(ResNet, 50),
  "resnet101": functools.partial(ResNet, 101),
  "xception65": Xception65,
}
OUTPUT_STRIDES = (8, 16, 32)
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
  output_stride,
  widths,
  patch,
  padding,
  norm,
  separable,
  dropout,
  up,
  freeze_encoder,
  freeze_norm,
  precision,
  axis_name,
):
  """A network from the words of a config.

  Args:
    name: key of MODELS.  num_classes: channels of the logits, see `num_logits`.
    encoder: key of ENCODERS, for models that have one.
    output_stride: of the encoder, one of OUTPUT_STRIDES; other than 32 for DeepLab alone.
    widths: channels of the levels, () for the model's own.
    patch, padding, norm, separable, dropout, up: see the models.
    freeze_encoder, freeze_norm: see the models with an encoder.
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
  _look_up(OUTPUT_STRIDES, output_stride, "config.model.output_stride")
  if output_stride != 32 and model is not DeepLab:
    raise UserError(f"config.model.output_stride {output_stride} does not fit {name}; set it to 32")
  if model is UNet:
    if padding == "valid" and up != "transposed":
      raise UserError(
        "config.model.padding valid needs config.model.up transposed in unet: interpolation pads"
      )
    return UNet(patch=patch, padding=padding, norm=norm, **common)
  encoder = _look_up(ENCODERS, encoder, "config.model.encoder")
  words = {"axis_name": axis_name, "dtype": dtype}
  if encoder is not VGG16:
    words["output_stride"] = output_stride
  elif model is DeepLab:
    raise UserError("config.model.encoder vgg16 has no output_stride, which deeplab needs")
  if padding == "valid":
    if (model, encoder) != (FCN, VGG16):
      raise UserError("config.model.padding valid is for unet, and for FCN on vgg16; use same")
    words["pad"] = 99  # and one more by the first convolution, the paper's 100
  common |= {"encoder": encoder(**words), "freeze_encoder": freeze_encoder}
  common["freeze_norm"] = freeze_norm
  if model is FCN:
    return FCN(final_stride=FINAL_STRIDES[name], padding=padding, **common)
  if model is DeepLab:
    return DeepLab(decoder=name == "deeplabv3plus", separable=separable, **common)
  return EncoderUNet(**common)


def at_output_stride(model, output_stride):
  """A DeepLab of the same parameters whose encoder has another output stride.

  Raises:
    UserError: it is another network, or the output stride is none of OUTPUT_STRIDES.
  """
  _look_up(OUTPUT_STRIDES, output_stride, "config.predict.output_stride")
  if not isinstance(model, DeepLab):
    raise UserError(f"config.predict.output_stride {output_stride} is for deeplab; set it to 0")
  return model.clone(encoder=model.encoder.clone(output_stride=output_stride))


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

  Layers that the network has as convolutions (`encoder.classifier`) come along if the file has
  them, as files "with top" do; else they stay as they are.

  Args:
    variables: of a network with an encoder.  encoder: the module.
    pretrained: "imagenet" (downloaded once) or the path of a weight file.
  Raises:
    UserError: no network, no such file, damaged, or of another network.
  """
  if pretrained == "imagenet" and encoder.imagenet is None:
    raise UserError(
      f"no download is known for {type(encoder).__name__}: give the path of a weight file as "
      "config.model.pretrained; the README names some"
    )
  path = weights.fetch(encoder.imagenet) if pretrained == "imagenet" else pretrained
  tensors = weights.read_weights(path)
  in_file, top = {key.split("/")[0] for key in tensors}, {}
  for layer in encoder.classifier:
    if layer in variables["params"] and layer in in_file:
      top[layer] = variables["params"][layer]
  part = {collection: tree.get("encoder", {}) for collection, tree in variables.items()}
  part["params"] = {**part["params"], **top}
  leave = {*encoder.unused_layers, *encoder.classifier} - top.keys()
  loaded = weights.load_keras(part, tensors, leave=leave, source=path)
  top = {layer: loaded["params"].pop(layer) for layer in top}
  result = {c: {**tree, "encoder": loaded[c]} for c, tree in variables.items() if loaded[c]}
  result["params"] |= top
  return {**variables, **result}


def take_matching(variables, donor):
  """The layers of another network that have the same name and shapes.

  Args:
    variables, donor: {"params": ..., "batch_stats": ...}.
  Returns:
    (variables with those of the donor, {"taken", "new", "left": module names}): new are those that
    keep values of their own, left those of the donor that found no place.
  """
  ours, theirs = flatten_dict(variables), flatten_dict(donor)

  def layers(arrays):
    shapes = {}
    for (collection, *layer, name), x in arrays.items():
      shapes.setdefault(tuple(layer), set()).add((collection, name, x.shape))
    return shapes

  mine, other = layers(ours), layers(theirs)
  taken = {layer for layer, shapes in mine.items() if other.get(layer) == shapes}
  found = {"taken": taken, "new": mine.keys() - taken, "left": other.keys() - taken}
  merged = {path: theirs[path] if path[1:-1] in taken else x for path, x in ours.items()}
  modules = {what: sorted({layer[0] for layer in names}) for what, names in found.items()}
  return {**variables, **unflatten_dict(merged)}, modules
