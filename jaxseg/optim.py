"""Optax optimizers from names and numbers, with frozen parts."""

import jax
import optax
from optax import contrib

from jaxseg import UserError


def muon(learning_rate):
  """Muon (Jordan et al. 2024): momentum with its singular values made equal; NAdam for vectors.

  A kernel [k,k,C,D] counts as a matrix [k k C,D]. Steps have the size of Adam's (Liu et al. 2025,
  "Muon is scalable for LLM training", section 2.2), so that learning rates of the two compare.
  """

  def matrices(params):
    kernel = contrib.MuonDimensionNumbers((0, 1, 2), (3,))
    return jax.tree.map(lambda x: kernel if x.ndim == 4 else None, params)

  return contrib.muon(learning_rate, consistent_rms=0.2, muon_weight_dimension_numbers=matrices)


OPTIMIZERS = {"adam": optax.adam, "adamw": optax.adamw, "muon": muon, "sgd": optax.sgd}


def schedule(name, learning_rate, num_steps):
  """Learning rate as a function of the step: "constant" or "cosine" (to 0 at `num_steps`)."""
  schedules = {
    "constant": optax.constant_schedule(learning_rate),
    "cosine": optax.cosine_decay_schedule(learning_rate, max(num_steps, 1)),
  }
  if name not in schedules:
    raise UserError(f"unknown config.train.schedule {name!r}; there are {', '.join(schedules)}")
  return schedules[name]


def make_optimizer(name, learning_rate, *, momentum=0.0, frozen=()):
  """An optax chain.

  Args:
    name: key of OPTIMIZERS.  learning_rate: float or schedule.  momentum: of "sgd".
    frozen: names of top-level modules whose parameters never change; they get no state.
  """
  if name not in OPTIMIZERS:
    raise UserError(f"unknown config.train.optimizer {name!r}; there are {', '.join(OPTIMIZERS)}")
  words = {"momentum": momentum or None} if name == "sgd" else {}  # optax keeps a trace for 0.0
  trained = OPTIMIZERS[name](learning_rate, **words)
  transforms = {"trained": trained, "frozen": optax.set_to_zero()}

  def labels(params):
    return {
      module: jax.tree.map(lambda _, m=module: "frozen" if m in frozen else "trained", tree)
      for module, tree in params.items()
    }

  return optax.multi_transform(transforms, labels)
