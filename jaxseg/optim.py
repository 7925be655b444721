"""Optax optimizers from names and numbers, with frozen parts."""

import jax
import optax

from jaxseg import UserError

OPTIMIZERS = {"adam": optax.adam, "adamw": optax.adamw, "sgd": optax.sgd}


def schedule(name, learning_rate, num_steps):
  """Learning rate as a function of the step: "constant" or "cosine" (to 0 at `num_steps`)."""
  schedules = {
    "constant": optax.constant_schedule(learning_rate),
    "cosine": optax.cosine_decay_schedule(learning_rate, max(num_steps, 1)),
  }
  if name not in schedules:
    raise UserError(f"unknown config.train.schedule {name!r}; there are {', '.join(schedules)}")
  return schedules[name]


def make_optimizer(name, learning_rate, *, frozen=()):
  """An optax chain.

  Args:
    name: key of OPTIMIZERS.  learning_rate: float or schedule.
    frozen: names of top-level modules whose parameters never change; they get no state.
  """
  if name not in OPTIMIZERS:
    raise UserError(f"unknown config.train.optimizer {name!r}; there are {', '.join(OPTIMIZERS)}")
  transforms = {"trained": OPTIMIZERS[name](learning_rate), "frozen": optax.set_to_zero()}

  def labels(params):
    return {
      module: jax.tree.map(lambda _, m=module: "frozen" if m in frozen else "trained", tree)
      for module, tree in params.items()
    }

  return optax.multi_transform(transforms, labels)
