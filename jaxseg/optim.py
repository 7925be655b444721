"""Optax optimizers from names and numbers: schedules, weight decay, clipping, frozen parts."""

from collections.abc import Collection, Sequence

import jax
import optax
from optax import contrib

from jaxseg import UserError


def muon(betas: tuple[float, float], epsilon: float) -> optax.GradientTransformation:
  """Muon (Jordan et al. 2024): momentum with its singular values made equal.

  NAdam for vectors and for depthwise kernels [k,k,C].

  A kernel [k,k,C,D] counts as a matrix [k k C,D]. Steps have the size of Adam's (Liu et al. 2025,
  "Muon is scalable for LLM training", section 2.2), so that learning rates of the two compare.

  Args:
    betas: of NAdam; Muon's own momentum is 0.95.
    epsilon: of both; Muon adds it to the norm that it divides a kernel's momentum by.
  """

  def matrices(params):
    kernel = contrib.MuonDimensionNumbers((0, 1, 2), (3,))
    return jax.tree.map(lambda x: kernel if x.ndim == 4 else None, params)

  return contrib.muon(
    1.0,
    eps=epsilon,
    adam_b1=betas[0],
    adam_b2=betas[1],
    consistent_rms=0.2,
    muon_weight_dimension_numbers=matrices,
  )


def sgd(momentum: float) -> optax.GradientTransformation:
  """Gradient descent with Polyak's momentum; 0 is none, and no state."""
  return optax.sgd(1.0, momentum or None)  # at 0.0 Optax would keep a trace


# Steps of learning rate 1, and whether weight decay goes around them (Loshchilov and Hutter 2019)
# or into the gradient.
OPTIMIZERS = {
  "adam": (lambda momentum, betas, epsilon: optax.adam(1.0, *betas, eps=epsilon), False),
  "adamw": (lambda momentum, betas, epsilon: optax.adam(1.0, *betas, eps=epsilon), True),
  "muon": (lambda momentum, betas, epsilon: muon(betas, epsilon), True),
  "sgd": (lambda momentum, betas, epsilon: sgd(momentum), False),
}
SCHEDULES = ("constant", "cosine", "poly")


def schedule(
  name: str,
  learning_rate: float,
  num_steps: int,
  *,
  warmup_steps: int = 0,
  power: float = 0.9,
) -> optax.Schedule:
  """Learning rate as a function of the step.

  Args:
    name: "constant", "cosine" (Loshchilov and Hutter 2017) or "poly", (1 - step / num_steps)^power
      (DeepLab); the last two end at 0 at `num_steps`.
    warmup_steps: of a straight line from 0 to `learning_rate`, of the `num_steps`.
    power: of "poly".
  Raises:
    UserError: an unknown name, or more steps than 31 bits count.
  """
  if name not in SCHEDULES:
    raise UserError(f"unknown schedule {name!r}; choose from {', '.join(SCHEDULES)}")
  if num_steps >= 2**31:
    raise UserError(f"{num_steps:,} steps are more than can be counted: lower `num_epochs`")
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
  name: str,
  learning_rate: float | optax.Schedule,
  *,
  momentum: float = 0.0,
  betas: tuple[float, float] = (0.9, 0.999),
  epsilon: float = 1e-8,
  weight_decay: float = 0.0,
  clip_norm: float = 0.0,
  lr_multipliers: Sequence[tuple[str, float]] = (),
  frozen: Collection[str] = (),
) -> optax.GradientTransformation:
  """An optax chain.

  Args:
    name: key of OPTIMIZERS.  learning_rate: a number, or a function of the step.
    momentum: of "sgd".
    betas: decay rates of Adam's first and second moment (Kingma and Ba 2015, algorithm 1); in
      "muon" of vectors and depthwise kernels.  epsilon: what keeps its denominator from 0.
    weight_decay: of kernels, not of biases and normalisations: added to the gradient times the
      weight ("adam", "sgd"), or to the step ("adamw", "muon").
    clip_norm: > 0 scales the gradient of all trained parameters together down to this Euclidean
      norm if it is larger (Pascanu et al. 2013), before weight decay.
    lr_multipliers: (module, factor) pairs; the learning rate of a top-level module, or of a part of
      it ("encoder/block1_conv1"), is multiplied. The last that fits counts.
    frozen: names of top-level modules whose parameters never change; they get no state.
  Raises:
    UserError: an unknown name; at `init`, a module that the network does not have.
  """
  if name not in OPTIMIZERS:
    raise UserError(f"unknown optimizer {name!r}; choose from {', '.join(OPTIMIZERS)}")
  make, decoupled = OPTIMIZERS[name]
  steps = [make(momentum, betas, epsilon)]
  if weight_decay:
    decay = -weight_decay if decoupled else weight_decay  # a step goes against the gradient
    transform = optax.add_decayed_weights(decay, lambda p: jax.tree.map(lambda x: x.ndim > 1, p))
    steps.insert(1 if decoupled else 0, transform)
  if clip_norm:  # absent otherwise: a state of the optimizer has one entry for each step
    steps.insert(0, optax.clip_by_global_norm(clip_norm))
  rate = learning_rate if callable(learning_rate) else optax.constant_schedule(learning_rate)
  steps.append(optax.scale_by_schedule(rate))
  if lr_multipliers:
    steps.append(scale_by_part(lr_multipliers))
  transforms = {"trained": optax.chain(*steps), "frozen": optax.set_to_zero()}

  def labels(params):
    return {
      module: jax.tree.map(lambda _, m=module: "frozen" if m in frozen else "trained", tree)
      for module, tree in params.items()
    }

  return optax.multi_transform(transforms, labels)


def scale_by_part(
  lr_multipliers: Sequence[tuple[str, float]],
) -> optax.GradientTransformation:
  """Multiplies updates by the factors of their modules; see `make_optimizer`.

  Raises:
    UserError: an entry that is not (module, factor); at `init`, a module that is not trained.
  """
  for entry in lr_multipliers:
    match entry:
      case (str(), int() | float() as factor) if 0 <= factor < float("inf"):
        continue
    raise UserError(
      f"`lr_multipliers` has {entry!r}; write (module, factor), such as ('encoder', 0.1), with a "
      "factor of 0 or more"
    )

  def path_of(path):
    return "/".join(key.key for key in path) + "/"

  def init(params):
    paths = [path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for module, _ in lr_multipliers:
      if not any(path.startswith(f"{module}/") for path in paths):
        names = sorted({path.split("/")[0] for path in paths})
        raise UserError(
          f"`lr_multipliers` names {module!r}, which is not trained or not in the network of "
          f"{', '.join(names)}"
        )
    return optax.EmptyState()

  def update(updates, state, params=None):
    def scaled(path, x):
      factors = [f for module, f in lr_multipliers if path_of(path).startswith(f"{module}/")]
      return factors[-1] * x if factors else x

    return jax.tree_util.tree_map_with_path(scaled, updates), state

  return optax.GradientTransformation(init, update)
