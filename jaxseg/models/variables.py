"""The variables of a network: random, pretrained, or taken from another one.

Variables are {"params": ..., "batch_stats": ...}, as Flax nests them by module name.
"""

import os
from collections.abc import Callable, Collection, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxseg import UserError
from jaxseg.models import pretrained as weights
from jaxseg.models import tensor_names

Variables = Mapping[str, Any]


def init(model: nn.Module, channels: int = 3, seed: int = 0, pretrained: str = "") -> Variables:
  """Variables to start training from.

  Args:
    model: see `interface.Network`.  channels: of its images.
    seed: of the random values.
    pretrained: weights of the encoder, see `load_encoder`; "" for random ones.
  Returns:
    {"params": ..., "batch_stats": ...}, f32 arrays.
  Raises:
    UserError: pretrained weights for a network without an encoder, or see `load_encoder`.
  """
  if pretrained and not hasattr(model, "encoder"):
    raise UserError(
      f"`pretrained` {pretrained!r} is for networks on an encoder, and {type(model).__name__} has "
      "none; set it to ''"
    )
  variables = jax.jit(lambda: _random(model, channels, seed))()
  return load_encoder(variables, model.encoder, pretrained) if pretrained else variables


def _random(model, channels, seed):
  size = model.input_size(32)
  image = jnp.zeros((1, size, size, channels))
  # A network without normalisation has no statistics; checkpoints have the entry all the same.
  return {"batch_stats": {}, **model.init(jax.random.key(seed), image, train=False)}


def abstract_variables(model: nn.Module, channels: int) -> Variables:
  """Shapes and types of a network's variables, `jax.ShapeDtypeStruct`s; nothing is computed."""
  return jax.eval_shape(lambda: _random(model, channels, 0))


def check_input(
  model: nn.Module, channels: int, size: int, num_logits: int | None = None
) -> None:
  """Raises UserError if a network does not fit square images of `size` px; computes nothing.

  With `num_logits`, its output has to be f32[1,h,h,num_logits] for an image, h = size - 2 margin.
  """
  image = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
  variables = abstract_variables(model, channels)
  found = jax.eval_shape(lambda v, x: model.apply(v, x, train=False), variables, image)
  side = size - 2 * model.margin
  expected = (1, side, side, num_logits)
  if num_logits is not None and getattr(found, "shape", None) != expected:
    name, shape = type(model).__name__, getattr(found, "shape", type(found).__name__)
    raise UserError(f"{name} returns {shape} for an image of {size} px, not logits {expected}")


def load_encoder(variables: Variables, encoder: nn.Module, pretrained: str) -> Variables:
  """Variables with those of the encoder replaced by a weight file's.

  Layers that the network has as convolutions (`encoder.classifier`) come along if the file has
  them, as files "with top" do; else they stay as they are.

  Args:
    variables: of a network with an encoder.  encoder: see `interface.Encoder`.
    pretrained: "imagenet" (downloaded once) or the path of a weight file.
  Raises:
    UserError: no network connection, no such file, a damaged one, or one of another network.
  """
  if pretrained == "imagenet" and encoder.imagenet is None:
    raise UserError(
      f"`pretrained` 'imagenet': no download is known for {type(encoder).__name__}; give the path "
      "of a weight file (docs/training.md names some)"
    )
  path = weights.fetch(encoder.imagenet) if pretrained == "imagenet" else pretrained
  if encoder.imagenet is not None:
    weights.check_published(path, encoder.imagenet)
  tensors = weights.read_weights(path)
  in_file, top = {key.split("/")[0] for key in tensors}, {}
  for layer in encoder.classifier:
    if layer in variables["params"] and layer in in_file:
      top[layer] = variables["params"][layer]
  part = {collection: tree.get("encoder", {}) for collection, tree in variables.items()}
  part["params"] = {**part["params"], **top}
  leave = {*encoder.unused_layers, *encoder.classifier} - top.keys()
  rgb = getattr(encoder, "rgb", (0, 1, 2))
  loaded = weights.assign_weights(part, tensors, leave=leave, source=path, rgb=rgb)
  top = {layer: loaded["params"].pop(layer) for layer in top}
  result = {c: {**tree, "encoder": loaded[c]} for c, tree in variables.items() if loaded[c]}
  result["params"] |= top
  return {**variables, **result}


def assign_by_name(
  variables: Variables,
  tensors: tensor_names.Tensors,
  layer_of: Callable[[str], str],
  *,
  leave: Collection[str],
  source: str | os.PathLike,
) -> Variables:
  """The variables of a whole network from the tensors of a PyTorch file.

  Args:
    variables: arrays or their shapes.
    layer_of: gives the file's layer, as "classifier.4", for a module's path, as "aspp/project".
    leave, source: see `pretrained.assign_weights`.
  """
  flat, paths = {}, {}  # the former as `assign_weights` takes them
  for (collection, *path, weight), x in flatten_dict(variables).items():
    title = layer_of("/".join(path))
    layer = title.replace(".", "_")
    tensors.layers.setdefault(layer, title)
    paths[layer] = path
    flat.setdefault(collection, {}).setdefault(layer, {})[weight] = x
  found = flatten_dict(weights.assign_weights(flat, tensors, leave=leave, source=source))
  flat = {(collection, *paths[layer], name): x for (collection, layer, name), x in found.items()}
  return {**variables, **unflatten_dict(flat)}


def take_matching(variables: Variables, donor: Variables) -> tuple[Variables, dict[str, list[str]]]:
  """The layers of another network that have the same name and shapes.

  Args:
    variables, donor: {"params": ..., "batch_stats": ...}.
  Returns:
    (variables with those of the donor, {"taken", "new", "left": module names}): "new" are modules
    that keep values of their own, "left" those of the donor that found no place.
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
