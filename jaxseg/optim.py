"""Optax optimizers from names and numbers: schedules, weight decay, factors and frozen parts."""

import jax
import optax
from optax import contrib

from jaxseg import UserError


def muon():
  """Muon (Jordan et al. 2024): momentum with its singular values made equal; NAdam for vectors.

  A kernel [k,k,C,D] counts as a matrix [k k C,D]. Steps have the size of Adam's (Liu et al. 2025,
  "Muon is scalable for LLM training", section 2.2), so that learning rates of the two compare.
  """

  def matrices(params):
    kernel = contrib.MuonDimensionNumbers((0, 1, 2), (3,))
    return jax.tree.map(lambda x: kernel if x.ndim == 4 else None, params)

  return contrib.muon(1.0, consistent_rms=0.2, muon_weight_dimension_numbers=matrices)


# Steps of learning rate 1, and whether weight decay goes around them (Loshchilov and Hutter 2019)
# or into the gradient.
OPTIMIZERS = {
  "adam": (lambda momentum: optax.adam(1.0), False),
  "adamw": (lambda momentum: optax.adam(1.0), True),
  "muon": (lambda momentum: muon(), True),
  "sgd": (lambda momentum: optax.sgd(1.0, momentum or None), False),  # or optax keeps a trace of 0
}
SCHEDULES = ("constant", "cosine", "poly")


def schedule(name, learning_rate, num_steps, *, warmup_steps=0, power=0.9):
  """Learning rate as a function of the step.

  Args:
    name: "constant", "cosine" (Loshchilov and Hutter 2017) or "poly", (1 - step / num_steps)^power
      (DeepLab); the last two end at 0 at `num_steps`.
    warmup_steps: of a straight line from 0 to `learning_rate`, of the `num_steps`.
  """
  if name not in SCHEDULES:
    raise UserError(f"unknown config.train.schedule {name!r}; there are {', '.join(SCHEDULES)}")
  num_steps = max(num_steps - warmup_steps, 1)
  after = {
    "constant": optax.constant_schedule(learning_rate),
    "cosine": optax.cosine_decay_schedule(learning_rate, num_steps),
    "poly": optax.polynomial_schedule(learning_rate, 0.0, power, num_steps),
  }[name]
  if not warmup_steps:
    return after
  warmup = optax.linear_schedule(0.0, learning_rate, warmup_steps)
  return optax.join_schedules([warmup, after], [warmup_steps])


def make_optimizer(
  name, learning_rate, *, momentum=0.0, weight_decay=0.0, rate_factors=(), frozen=()
):
  """An optax chain.

  Args:
    name: key of OPTIMIZERS.  learning_rate: float or schedule.  momentum: of "sgd".
    weight_decay: of kernels, not of biases and normalisations: added to the gradient times the
      weight ("adam", "sgd"), or to the step ("adamw", "muon").
    rate_factors: (module, factor) pairs; the learning rate of a top-level module, or of a part of
      it ("encoder/block1_conv1"), is multiplied. The last that fits counts.
    frozen: names of top-level modules whose parameters never change; they get no state.
  Raises:
    UserError: an unknown name; at `init`, a module that the network does not have.
  """
  if name not in OPTIMIZERS:
    raise UserError(f"unknown config.train.optimizer {name!r}; there are {', '.join(OPTIMIZERS)}")
  make, decoupled = OPTIMIZERS[name]
  steps = [make(momentum)]
  if weight_decay:
    decay = -weight_decay if decoupled else weight_decay  # a step goes against the gradient
    transform = optax.add_decayed_weights(decay, lambda p: jax.tree.map(lambda x: x.ndim > 1, p))
    steps.insert(1 if decoupled else 0, transform)
  rate = learning_rate if callable(learning_rate) else optax.constant_schedule(learning_rate)
  steps.append(optax.scale_by_schedule(rate))
  if rate_factors:
    steps.append(scale_by_part(rate_factors))
  transforms = {"trained": optax.chain(*steps), "frozen": optax.set_to_zero()}

  def labels(params):
    return {
      module: jax.tree.map(lambda _, m=module: "frozen" if m in frozen else "trained", tree)
      for module, tree in params.items()
    }

  return optax.multi_transform(transforms, labels)


def scale_by_part(rate_factors):
  """Multiplies updates by the factors of their modules; see `make_optimizer`."""

  def path_of(path):
    return "/".join(key.key for key in path) + "/"

  def init(params):
    paths = [path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for module, _ in rate_factors:
      if not any(path.startswith(f"{module}/") for path in paths):
        names = sorted({path.split("/")[0] for path in paths})
        raise UserError(
          f"config.train.rate_factors names {module!r}, which is not trained or not in the network "
          f"of {', '.join(names)}"
        )
    return optax.EmptyState()

  def update(updates, state, params=None):
    def scaled(path, x):
      factors = [f for module, f in rate_factors if path_of(path).startswith(f"{module}/")]
      return factors[-1] * x if factors else x

    return jax.tree_util.tree_map_with_path(scaled, updates), state

  return optax.GradientTransformation(init, update)
