"""What can be wrong with the numbers and words of a config, found before anything is computed."""

import jax
import numpy as np

from jaxseg import UserError, parallel, workdirs
from jaxseg.augment import BORDERS
from jaxseg.losses import PIXEL_LOSSES
from jaxseg.weight_maps import CLASS_BALANCES


def check_settings(config):
  """Raises UserError for numbers with which no training is possible."""
  for key, value in workdirs.flatten(config.to_dict()).items():
    numbers = [x for x in jax.tree.leaves(value) if isinstance(x, float)]
    if not np.isfinite(numbers).all():
      raise UserError(f"config.{key} is {value}, but has to be finite")
  positive = {
    "data.image_size": config.data.image_size,
    "train.num_epochs": config.train.num_epochs,
    "train.batch_size": config.train.batch_size,
    "train.eval_every_epochs": config.train.eval_every_epochs,
    "train.checkpoint_every_epochs": config.train.checkpoint_every_epochs,
    "train.log_every_steps": config.train.log_every_steps,
    "eval.batch_size": config.eval.batch_size,
    "augment.scale": min(config.augment.scale, default=1),
    "train.border_sigma": config.train.border_sigma,
  }
  for key, value in positive.items():
    if value <= 0:
      raise UserError(f"config.{key} is {value}, but has to be positive")
  for key in ("scale", "contrast"):
    value = config.augment[key]
    if len(value) != 2 or value[0] > value[1]:
      raise UserError(f"config.augment.{key} is {value}, but has to be (smallest, largest)")
  limits = {
    "seed": (0, config.seed, 2**32 - 1),
    "data.seed": (0, config.data.seed, 2**32 - 1),
    "data.num_threads": (0, config.data.num_threads, 256),
    "model.dropout": (0, config.model.dropout, 0.99),
    "augment.rotation": (0, config.augment.rotation, 180),
    "augment.shift": (0, config.augment.shift, config.data.image_size),
    "augment.elastic": (0, config.augment.elastic, config.data.image_size),
    "augment.elastic_grid": (2, config.augment.elastic_grid, 64),
    "train.momentum": (0, config.train.momentum, 1),
    "train.border_weight": (0, config.train.border_weight, 1e6),
    "train.warmup_epochs": (0, config.train.warmup_epochs, 1e9),
    "train.poly_power": (0, config.train.poly_power, 10),
    "train.weight_decay": (0, config.train.weight_decay, 1),
    "train.ema_decay": (0, config.train.ema_decay, 0.999999),
    "train.patience": (0, config.train.patience, 2**31),
    "train.num_micro_batches": (1, config.train.num_micro_batches, config.train.batch_size),
    "train.focal_gamma": (0, config.train.focal_gamma, 10),
    **{f"train.losses.{name}": (0, x, 1e6) for name, x in config.train.losses.items()},
  }
  for key, (low, value, high) in limits.items():
    if not low <= value <= high:
      raise UserError(f"config.{key} is {value}, but has to be from {low} to {high}")
  if config.augment.border not in BORDERS:
    raise UserError(
      f"unknown config.augment.border {config.augment.border!r}; there are {', '.join(BORDERS)}"
    )
  losses = {name for name, factor in config.train.losses.items() if factor}
  if not losses:
    raise UserError(f"config.train.losses are all 0; set one of {', '.join(config.train.losses)}")
  for key in ("class_weights", "class_balance", "border_weight"):
    if config.train[key] and not losses & set(PIXEL_LOSSES):
      raise UserError(
        f"config.train.{key} is {config.train[key]}, but weighs only {' and '.join(PIXEL_LOSSES)}, "
        "whose config.train.losses are 0; set one of them"
      )
  balances = ", ".join(CLASS_BALANCES)
  if config.train.class_balance and config.train.class_balance not in CLASS_BALANCES:
    raise UserError(
      f"unknown config.train.class_balance {config.train.class_balance!r}; there are {balances}"
    )
  parallel.check_batch_size(config.train.batch_size, config.train.num_micro_batches)
