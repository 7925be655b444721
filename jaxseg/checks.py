"""What training refuses once the data set is known, before minutes of compilation.

`training` stops at the first of these, `check_data` reports all of them; want of memory as a
warning, since it may run elsewhere.
"""

import functools
from collections.abc import Callable

import jax
from ml_collections import ConfigDict

from jaxseg import (
  UserError,
  build,
  checkpoint,
  hub,
  models,
  predictors,
  public,
  seed_axis,
  settings,
)
from jaxseg.augment import Augmentation, check_channels
from jaxseg.data import datasets
from jaxseg.data.decode import DatasetInfo
from jaxseg.models import cost
from jaxseg.notebook import warn
from jaxseg.unused_keys import PREDICTION, TRAINING, warn_of_unused

SUSPECT = 2**14  # bytes of a step per pixel; U-Net as published takes about 8,000


def check_augmentation(config: ConfigDict, info: DatasetInfo) -> None:
  """Raises UserError for an augmentation of colours that are not there."""
  check_channels(Augmentation(**config.augment), info.channels)


def check_crop_classes(config: ConfigDict, info: DatasetInfo) -> None:
  """Raises UserError for a name in config.data.crop_classes that is no class."""
  for name in config.data.crop_classes:
    if name not in info.classes:
      raise UserError(
        f"config.data.crop_classes has {name!r}, which is no class; "
        f"choose from {', '.join(info.classes)}"
      )


def check_class_weights(config: ConfigDict, info: DatasetInfo) -> None:
  """Raises UserError unless config.train.class_weights are (), or one per class and not all 0."""
  weights, classes = config.train.class_weights, info.classes
  if weights and len(weights) != len(classes):
    raise UserError(
      f"config.train.class_weights has {len(weights)} numbers; give one for each of the "
      f"{len(classes)} classes {', '.join(classes)}"
    )
  if weights and not any(weights):
    raise UserError("config.train.class_weights are all 0; give one class a factor above 0")


def check_network(config: ConfigDict, info: DatasetInfo) -> None:
  """Raises UserError if the network cannot be built, or does not fit the size of the images."""
  model, num_logits = build.build_model(config, info), build.num_logits(config, info)
  models.check_input(model, info.channels, config.data.image_size, num_logits)
  if (used := predictors.model_in_use(config, model)) is not model:
    with settings.config_errors(output_stride="predict.output_stride"):
      models.check_input(used, info.channels, config.data.image_size, num_logits)
  predictors.build_predictor(config, model, info)


def check_memory(config: ConfigDict, info: DatasetInfo) -> None:
  """Raises UserError if a training step needs twice the memory of a device, or more.

  It is only looked at for steps of so many pixels that they might: counting takes seconds.
  """
  train, size, device = config.train, config.data.image_size, cost.device_bytes()
  space = config.parallel.space  # devices that share an image
  groups = jax.device_count() // seed_axis.num_groups(train.num_seeds) // space  # of a seed
  num = max(1, train.batch_size // train.accumulation_steps // max(1, groups))
  if num * size**2 * SUSPECT < device * space or not device:
    return
  jitted = settings.override(config, {"train.parallel": "jit"})
  model = build.build_model(jitted, info)
  variables = models.abstract_variables(model, info.channels)
  needed = cost.training_bytes(model, variables, info.channels, size, num) / space
  if needed > 2 * device:
    raise UserError(
      f"`image_size` is {size}: a training step with {num} of them at once on a device needs about "
      f"{needed / 2**30:,.1f} GiB, but the device has {device / 2**30:,.1f} GiB; lower "
      "`image_size` or `train.batch_size`, or raise `accumulation_steps`, or `parallel.space` with "
      "several devices"
    )


def check_optimizer(config: ConfigDict, info: DatasetInfo) -> None:
  """Raises UserError for losses or an optimizer that cannot be built."""
  build.selected_losses(config)
  build.build_optimizer(config, 1, 1.0)


def check_data_keys(config: ConfigDict) -> None:
  """Raises UserError for keys of config.data that contradict each other; warns of unused ones."""
  name, declared = config.data.name, settings.declared_keys()
  all_keys = datasets.reading_keys()
  known = datasets.options_of(name) if name in datasets.DATASETS else all_keys
  unused = [
    f"`data.{key}`"
    for key in sorted(all_keys - (all_keys if known is None else known))
    if f"data.{key}" in declared and config.data[key] != declared[f"data.{key}"].default
  ]
  if unused:
    text = f"the data set {name} does not use {', '.join(unused)}"
    warn(text)
  if config.data.value_range and config.data.normalization != "range":
    raise UserError(
      f"config.data.value_range is {config.data.value_range}, but config.data.normalization="
      f"{config.data.normalization} measures black and white; set one of them"
    )


def check_start(config: ConfigDict, info: DatasetInfo) -> None:
  """Raises UserError if weights to start from are not there, or the encoder's are of another one.

  Nothing is downloaded. Training finds the same when it starts from them.
  """
  model, pretrained = build.build_model(config, info), config.model.pretrained
  if pretrained and hasattr(model, "encoder"):
    if pretrained != "imagenet" or model.encoder.imagenet is None:
      variables = models.abstract_variables(model, info.channels)
      models.load_encoder(variables, model.encoder, pretrained)
  if donor := config.model.init_from:
    if public.is_published(donor):
      public.check_source(donor)
    elif not hub.is_name(donor):  # which would be downloaded
      checkpoint.best_checkpoint(donor, "config.model.init_from")


CHECKS: tuple[Callable[[ConfigDict, DatasetInfo], None], ...] = (
  check_augmentation, check_crop_classes, check_class_weights, check_network, check_optimizer,
)  # fmt: skip


def note_output_stride(config: ConfigDict) -> None:
  """Says that a DeepLab's encoder has no atrous convolutions, which a default may have chosen."""
  model = config.model
  if model.name in ("deeplabv3", "deeplabv3plus", "dilated_fcn") and model.output_stride == 32:
    warn(f"config.model.output_stride is 32, where the encoder of {model.name} has no atrous "
         "convolutions: set it to 16 or 8, as published")  # fmt: skip


# Of a new run; an old one goes on with the keys that it began with.
OWN_KEYS: tuple[Callable[[ConfigDict], None], ...] = (
  build.check_model_keys,
  check_data_keys,
  note_output_stride,
  functools.partial(warn_of_unused, uses=TRAINING + PREDICTION),
)


def check_own_keys(config: ConfigDict) -> None:
  """Raises UserError for a key that is set although this network or data set has no such option."""
  for check in OWN_KEYS:
    check(config)


def check_with_data(config: ConfigDict, info: DatasetInfo) -> None:
  """Raises UserError for the first thing in a config that does not go with its data set."""
  for check in (*CHECKS, check_memory):
    check(config, info)


def all_faults(config: ConfigDict, info: DatasetInfo | None, is_new: bool = True) -> list[str]:
  """Messages of all that training refuses of a config and its data set; nothing is computed.

  Except for want of memory, which depends on the machine.

  Args:
    info: None if it is not known.  is_new: whether the run has not begun yet.
  """
  used = (*CHECKS, check_start) if is_new else CHECKS
  checks = [functools.partial(check, config, info) for check in used if info]
  if is_new:
    checks += [functools.partial(check, config) for check in OWN_KEYS]
  found = [*build.training_faults(config)]
  for check in checks:
    try:
      with settings.config_errors():
        check()
    except UserError as error:
      found.append(str(error))
  return list(dict.fromkeys(found))
