"""The state that a run starts from: random, pretrained, or with weights of another run."""

import flax.linen as nn
import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from jaxseg import UserError, checkpoint, models, public, settings, train_state
from jaxseg.data.decode import DatasetInfo
from jaxseg.run import tell


def new_state(
  config: ConfigDict,
  model: nn.Module,
  info: DatasetInfo,
  optimizer: optax.GradientTransformation,
) -> train_state.TrainState:
  """A random state before its first step."""
  variables = models.init(model, info.channels, config.seed)
  return train_state.create(variables, optimizer, ema=config.train.ema_decay > 0)


def pretrained_state(
  config: ConfigDict,
  model: nn.Module,
  state: train_state.TrainState,
  optimizer: optax.GradientTransformation,
  channels: int,
) -> train_state.TrainState:
  """The state of a new run, with a pretrained encoder and the weights that fit of
  `model.init_from`: a work directory, of which the best checkpoint counts, or a published network.

  Args:
    channels: of the images.
  """
  variables = {"params": state.params, "batch_stats": state.batch_stats}
  donor = _donor(config.model.init_from, config) if config.model.init_from else None
  has_encoder = donor and _encoder_shapes(donor[0]) == _encoder_shapes(variables)
  if config.model.pretrained and hasattr(model, "encoder") and not has_encoder:
    variables = models.load_encoder(variables, model.encoder, config.model.pretrained)
    kernels = [x.shape for x in jax.tree.leaves(variables["params"]["encoder"]) if x.ndim == 4]
    if kernels and all(shape[2] != 3 for shape in kernels):
      tell("the encoder's first kernel, of RGB in the weight file, is repeated or summed over its "
           f"channels for images of {channels}, and rescaled")  # fmt: skip
  if donor:
    variables = _start_from(variables, config.model.init_from, *donor)
  return train_state.create(variables, optimizer, ema=config.train.ema_decay > 0)


def _donor(source, config):
  """(variables, name, remedy if they do not fit) of another network."""
  if public.is_published(source):
    saved, _, variables = public.read_published(source)
    return variables, source, _flags(saved, config)
  step, found = checkpoint.load_best(source, "config.model.init_from")
  return found["variables"], f"{source}, step {step}", ""


def _encoder_shapes(variables):
  return {
    name: jax.tree.map(np.shape, dict(tree).get("encoder", {})) for name, tree in variables.items()
  }


def _start_from(variables, source, donor, name, remedy):
  variables, modules = models.take_matching(variables, donor)
  if not modules["taken"]:
    text = "correct config.model.init_from"
    raise UserError(f"no layer of {source} fits this network; {remedy or text}")
  names = {what: ", ".join(found) or "nothing" for what, found in modules.items()}
  if not modules["new"] and not modules["left"]:
    names["taken"] = f"all {len(modules['taken'])} modules"
  tell(
    f"from {name}: copied {names['taken']}; new: {names['new']}; skipped: {names['left']}"
    + (f"; {remedy}" if remedy else "")
  )
  return variables


def _flags(saved, config):
  """What to add to a command for the network of a config, as text; "" if nothing."""
  wanted, values = public.network_values(saved), settings.config_values(config)
  flags = []
  for key, value in wanted.items():
    if values[key] != value and key != "model.head":
      text = ",".join(map(str, value)) if isinstance(value, tuple) else value
      flags.append(f"--config.{key}={text}")
  return f"for the whole of it, add {' '.join(flags)}" if flags else ""
