"""Builds the parts that a config names: data, network, optimizer, training step, predictor."""

import collections.abc
import dataclasses

import flax.linen as nn
import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from jaxseg import (
  UserError,
  losses,
  models,
  optim,
  parallel,
  seed_axis,
  seeds,
  settings,
  spatial,
)
from jaxseg.augment import Augmentation
from jaxseg.data import datasets, splits
from jaxseg.data.decode import DatasetInfo
from jaxseg.data.input_pipeline import Sampling, train_batches
from jaxseg.data.normalization import STORED
from jaxseg.notebook import warn
from jaxseg.train_step import make_train_step
from jaxseg.weight_maps import CLASS_BALANCES

# Keys of config.model that are not options of a particular network.
COMMON_KEYS = ("name", "head", "freeze_encoder", "init_from")


def open_split(
  config: ConfigDict, role: str, problems: list | None = None, value_range: tuple = ()
) -> tuple[DatasetInfo, collections.abc.Sequence]:
  """(DatasetInfo, source) of what a config trains on ("train") or is scored on ("eval").

  Args:
    problems: collects problems of files, see `folder.open_folder`.
    value_range: if it was measured, see `data.normalization`; () until then.
  """
  data = config.data
  folded = data.num_folds > 0
  split = data.train_split if folded or role == "train" else data.eval_split
  options = {name: value for name, value in data.items() if name != "name"}
  if measured := data.normalization != "range":
    options["value_range"] = value_range or STORED
  info, source = datasets.load(data.name, split, problems=problems, **options)
  if measured:
    clip = data.normalization != "mean_std"
    info = dataclasses.replace(info, value_range=options["value_range"], clip=clip)
  groups = datasets.groups_of(source) if data.group_by else ()
  if folded:
    kept, held_out = splits.fold_indices(len(source), data.num_folds, data.fold, groups)
    source = datasets.Subset(source, held_out if role == "eval" else kept)
  return info, source


def unused_split(config: ConfigDict) -> str:
  """That the evaluation split is a fold, whatever `eval_split` says."""
  data = config.data
  text = f"config.data.eval_split={data.eval_split!r} is not used, folds are"
  return f"{text}: set config.data.num_folds=0"


def eval_name(config: ConfigDict) -> str:
  """The name of the evaluation split in a work directory."""
  data = config.data
  return f"fold {data.fold} of {data.num_folds}" if data.num_folds else data.eval_split


def is_frozen(config: ConfigDict) -> bool:
  """Whether the encoder is frozen: only a pretrained one ever is."""
  return bool(config.model.encoder and config.model.pretrained and config.model.freeze_encoder)


def build_model(config: ConfigDict, info: DatasetInfo) -> nn.Module:
  """The network of a config for the classes of a data set."""
  name = config.model.name
  options = {
    **config.model,
    "precision": config.train.precision,
    "remat": config.train.remat,
    "axis_name": parallel.AXIS if config.train.parallel == "pmap" else None,
    "freeze_encoder": is_frozen(config),
  }
  known = models.options_of(name)
  if config.train.remat and "remat" not in known:
    raise UserError(f"config.train.remat is True, but {name} has no option remat; set it to False")
  options = {key: value for key, value in options.items() if key in known}
  with settings.config_errors(name="model.name", output_stride="model.output_stride"):
    return models.build(name, num_logits(config, info), **options)


def num_logits(config: ConfigDict, info: DatasetInfo) -> int:
  """Channels of the network's output; see `models.num_logits`."""
  return models.num_logits(config.model.head, info.classes)


def check_model_keys(config: ConfigDict) -> None:
  """Raises UserError for a key of config.model that is set although this network lacks it."""
  name, declared = config.model.name, settings.declared_keys()
  known = models.options_of(name)
  for key, value in config.model.items():
    if key in known or key in COMMON_KEYS or (key == "pretrained" and "encoder" in known):
      continue
    if f"model.{key}" not in declared:
      raise UserError(f"config.model.{key}: {name} has no such option; it has {', '.join(known)}")
    default = declared[f"model.{key}"].default
    if value != default:
      raise UserError(
        f"config.model.{key} is {value!r}, but {name} has no such option; set it to {default!r}"
      )


def network_line(
  config: ConfigDict, model: nn.Module, info: DatasetInfo, cost: dict[str, int | None]
) -> str:
  """One line with the network's parameters and the operations of a forward pass.

  Args:
    cost: see `models.summary`.
  """
  variables = models.abstract_variables(model, info.channels)
  encoder = variables["params"].get("encoder", {}) if is_frozen(config) else {}
  number, frozen = cost["num_parameters"], models.num_parameters({"params": encoder})
  size, flop = config.data.image_size, cost["flop"]
  name = " on ".join(filter(None, (config.model.name, config.model.encoder)))
  trained = f" ({number - frozen:,} trained)" if frozen else ""
  work = f", {flop / 1e9:.3g} GFLOP per forward pass at {size} x {size} px" if flop else ""
  return f"{name}: {number:,} parameters{trained}{work}"


def selected_losses(config: ConfigDict) -> dict[str, tuple[float, losses.Loss]]:
  """{name: (factor, Loss)} of what a config minimises."""
  return losses.select(config.train.losses.to_dict(), focal_gamma=config.train.focal_gamma)


def needs_instances(config: ConfigDict) -> bool:
  """Whether training batches need instances."""
  needed = any(loss.needs_instances for _, loss in selected_losses(config).values())
  return needed or config.train.border_weight > 0


def build_batches(
  config: ConfigDict,
  info: DatasetInfo,
  source: collections.abc.Sequence,
  margin: int,
  counts: dict | None = None,
  positions: bool = False,
) -> grain.DatasetIterator:
  """This process's endless training batches; see `input_pipeline.train_batches`.

  Args:
    counts: of `weight_maps.count_classes`, if config.data.class_balanced is set.
    positions: as there.
  """
  data, examples = config.data, ()
  if data.class_balanced:
    examples = [numbers for numbers in counts["examples"].values() if numbers]
    if not examples:
      raise UserError(
        f"config.data.class_balanced is {data.class_balanced}, but no training mask has a class; "
        "correct the masks, or set it to 0"
      )
  sampling = Sampling(
    class_crops=data.class_crops,
    crop_labels=tuple(info.classes.index(name) for name in data.crop_classes),
    class_balanced=data.class_balanced,
    examples=examples,
  )
  return train_batches(
    source,
    size=data.image_size,
    fit=data.fit,
    batch_size=config.train.batch_size,
    seed=config.seed,
    margin=margin,
    instances=needs_instances(config),
    process=parallel.this_process(),
    num_threads=data.num_threads,
    num_workers=0 if positions else data.num_workers,
    cache_mb=data.cache_mb,
    sampling=sampling,
    positions=positions,
  )


def build_optimizer(
  config: ConfigDict, num_steps: int, epoch_steps: float
) -> tuple[optax.GradientTransformation, optax.Schedule]:
  """The optimizer of a config, and its learning rate as a function of the step."""
  train = config.train
  schedule = optim.schedule(
    train.schedule,
    train.learning_rate,
    num_steps,
    warmup_steps=min(round(train.warmup_epochs * epoch_steps), num_steps),
    power=train.poly_power,
  )
  optimizer = optim.make_optimizer(
    train.optimizer,
    schedule,
    momentum=train.momentum,
    betas=tuple(train.adam_betas),
    epsilon=train.adam_epsilon,
    weight_decay=train.weight_decay,
    clip_norm=train.clip_grad_norm,
    lr_multipliers=train.lr_multipliers,
    frozen=("encoder",) if is_frozen(config) else (),
  )
  return optimizer, schedule


def build_train_step(
  config: ConfigDict,
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  class_weights: jax.Array,
  mesh: jax.sharding.Mesh,
  info: DatasetInfo,
  wrap: collections.abc.Callable = lambda step: step,
) -> collections.abc.Callable:
  """wrap(step)(state, batch, key) on all devices; see `train_step`, `parallel.distribute_step`."""
  train = config.train
  step = make_train_step(
    model,
    optimizer,
    losses=selected_losses(config),
    class_weights=class_weights,
    augmentation=Augmentation(**config.augment),
    border_weight=train.border_weight,
    border_sigma=train.border_sigma,
    accumulation_steps=train.accumulation_steps,
    ema_decay=train.ema_decay,
    value_range=info.value_range,
    clip=info.clip,
    spread=spatial.spread_over(mesh),
  )
  return parallel.distribute_step(wrap(step), mesh, train.parallel, train.remat)


def class_weights(
  config: ConfigDict, classes: collections.abc.Sequence[str], counts: dict | None
) -> jax.Array:
  """f32[C]: config.train.class_weights times the weights from the class frequencies.

  Args:
    counts: of the training split, see `weight_maps.count_classes`, if the config balances classes.
  """
  train = config.train
  weights = train.class_weights or (1.0,) * len(classes)
  if train.class_balance:
    arguments = (list(counts[name].values()) for name in ("pixels", "pixels_of_their_images"))
    weights = np.multiply(weights, CLASS_BALANCES[train.class_balance](*arguments))
  return jnp.array(weights, jnp.float32)


def check_training(config: ConfigDict) -> None:
  """Raises UserError for settings that training cannot use, whatever the data set."""
  settings.check(config)
  if fault := next(training_faults(config), ""):
    raise UserError(fault)


def training_faults(config: ConfigDict) -> collections.abc.Iterator[str]:
  """Messages about settings that training cannot use, whatever the data set."""
  data, train, size = config.data, config.train, config.data.image_size
  if data.fold and not data.num_folds:
    yield f"config.data.fold is {data.fold}, but config.data.num_folds is 0; set both, or none"
  yield from seeds.faults(config)
  unset = ("", settings.declared_keys()["data.eval_split"].default)
  if data.num_folds and data.eval_split not in unset:
    warn(unused_split(config))
  if config.parallel.space > 1:
    needs = f"config.parallel.space is {config.parallel.space}, which needs"
    if train.parallel != "jit":
      yield f"{needs} config.train.parallel=jit, not {train.parallel}"
    if data.on_device:
      yield f"{needs} config.data.on_device=False"
  for key, off, fit in (("class_crops", 0, "crop"), ("fast_jpeg", False, "resize")):
    if data[key] and data.fit != fit:
      fault = f"config.data.{key} is {data[key]}, but config.data.fit is {data.fit!r}"
      yield f"{fault}, where it has no effect; set fit to {fit!r} or {key} to {off}"
  if data.crop_classes and not data.class_crops:
    yield (
      f"config.data.crop_classes is {data.crop_classes}, but has no effect while "
      "config.data.class_crops is 0; set it above 0, or crop_classes to ()"
    )
  if len({*data.crop_classes}) < len(data.crop_classes):
    yield f"config.data.crop_classes is {data.crop_classes}; name each class once"
  for name, most in {"shift": size, "elastic": size, "blur": size // 2}.items():
    if (value := config.augment[name]) > most:
      yield f"config.augment.{name} is {value}, but has to be from 0 to {most}"
  if train.profile_steps and train.profile_steps[0] > train.profile_steps[1]:
    yield f"config.train.profile_steps is {train.profile_steps}, but has to be (first, last)"
  per_pixel = [name for name, loss in losses.LOSSES.items() if loss.per == "pixel"]
  for name in ("class_weights", "class_balance", "border_weight"):
    if train[name] and not any(train.losses[loss] for loss in per_pixel if loss in train.losses):
      yield (
        f"config.train.{name} is {train[name]}, but weights only {' and '.join(per_pixel)}, which "
        "are 0 in config.train.losses; set one of them above 0"
      )
  try:
    spatial.make_mesh(config.parallel.space)
    groups = seed_axis.num_groups(train.num_seeds)
    spatial.check_batch_size(
      train.batch_size, train.accumulation_steps, config.parallel.space, groups
    )
  except UserError as error:
    yield settings.with_keys(str(error))
