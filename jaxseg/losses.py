"""Losses of pixels and of images. VOID pixels cost nothing and get no gradient.

A batch's loss is a sum divided by a count, so that devices can add up both. A loss that is not a
sum over pixels is one of single images, whose sum over a batch is the same however it is split.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from jaxseg import VOID, UserError


def class_logits(logits: jax.Array) -> jax.Array:
  """Logits of two classes from those of a sigmoid head: z of class 1 becomes (0, z).

  softmax(0, z) = (1 - sigmoid(z), sigmoid(z)), so that losses and predictions know one kind of
  head. [...,1] -> [...,2]; other numbers of classes pass through.
  """
  if logits.shape[-1] > 1:
    return logits
  return jnp.concatenate([jnp.zeros_like(logits), logits], axis=-1)


def cross_entropy(logits: jax.Array, mask: jax.Array) -> jax.Array:
  """Softmax cross-entropy of each pixel.

  Args:
    logits: f32[...,C].  mask: u8[...], labels 0..C-1 or VOID.
  Returns:
    f32[...]; exactly 0, with zero gradient, on VOID.
  """
  # A choice instead of a gather: the gradient of a gather is a scatter, slow on CPU. Both sums in
  # one pass, without the logarithm of the first in the second as in `jax.nn.log_softmax`.
  is_true = mask[..., None] == jnp.arange(logits.shape[-1], dtype=mask.dtype)
  x = logits - jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True))
  ce = jnp.log(jnp.sum(jnp.exp(x), axis=-1)) - jnp.sum(jnp.where(is_true, x, 0.0), axis=-1)
  return jnp.where(mask != VOID, ce, 0.0)


def focal(logits: jax.Array, mask: jax.Array, *, gamma: float = 2.0) -> jax.Array:
  """Focal loss of each pixel, -(1 - p)^gamma log p of the true class (Lin et al. 2017, eq. 4).

  Args:
    logits: f32[...,C].  mask: u8[...].
    gamma: >= 0; 0 is cross-entropy, more turns pixels down that are already right.
  Returns:
    f32[...]; exactly 0, with zero gradient, on VOID.
  """
  ce = cross_entropy(logits, mask)
  # 1 - p without cancellation; at 0 the derivative of a power below 1 would be infinite.
  missing = jnp.maximum(-jnp.expm1(-ce), 1e-12)
  return missing**gamma * ce


def soft_dice(logits: jax.Array, mask: jax.Array) -> jax.Array:
  """1 - Dice of one image with probabilities p for labels: 1 - 2 sum(p t) / (sum p + sum t).

  t is 1 where the truth has the class, else 0; sums are over the pixels that are not VOID. Mean
  over the classes that the truth has. (Milletari et al. 2016 square p and t in the denominator.)

  Args:
    logits: f32[H,W,C].  mask: u8[H,W].
  Returns:
    f32[], 0 to 1; exactly 0, with zero gradient, if all is VOID.
  """
  truth = _truth(mask, logits.shape[-1])
  probs = jnp.where(mask[..., None] != VOID, jax.nn.softmax(logits), 0.0)
  axes = tuple(range(mask.ndim))
  size = jnp.sum(truth, axes)
  hits = jnp.sum(probs, axes, where=truth)
  dice = 2 * hits / jnp.where(size > 0, size + jnp.sum(probs, axes), 1.0)
  return jnp.sum(1 - dice, where=size > 0) / jnp.maximum(jnp.sum(size > 0), 1)


def lovasz_softmax(logits: jax.Array, mask: jax.Array) -> jax.Array:
  """Lovasz-softmax loss of one image (Berman et al. 2018), of the classes that its truth has.

  The Jaccard loss 1 - IoU of a class is a function of the set of wrong pixels. Its Lovasz
  extension (definition 2) goes through the errors |t - p| from the largest down and weighs each
  with what its pixel adds to the Jaccard loss of those before it. The weights depend on the order
  of the errors only, so they have no gradient. Mean over classes.

  Args:
    logits: f32[H,W,C].  mask: u8[H,W].
  Returns:
    f32[], 0 to 1; exactly 0, with zero gradient, if all is VOID.
  """
  num_classes = logits.shape[-1]
  valid, truth = (mask != VOID).ravel(), _truth(mask, num_classes).reshape(-1, num_classes).T
  probs = jax.nn.softmax(logits).reshape(-1, num_classes).T  # [C,H*W]
  errors = jnp.where(truth, 1 - probs, probs)
  # VOID comes last, when all of the class is counted, and so weighs exactly 0.
  order = jnp.argsort(jnp.where(valid, -errors, 1.0), axis=1)
  errors, truth = (jnp.take_along_axis(x, order, axis=1) for x in (errors, truth))
  size = jnp.sum(truth, axis=1, keepdims=True)
  missed = jnp.cumsum(truth, axis=1)
  false = jnp.arange(1, mask.size + 1) - missed
  hits, union = (x.astype(logits.dtype) for x in (size - missed, size + false))
  # 1 - hits/union minus the same for one pixel less, worked out: a difference would cancel.
  weights = jnp.where(truth, 1 / union, hits / jnp.maximum(union * (union - 1), 1))
  # A class without pixels has no hits, so that it adds 0.
  return jnp.sum(weights * errors) / jnp.maximum(jnp.sum(size > 0), 1)


def _truth(mask, num_classes):
  """One-hot labels; no class on VOID.  u8[...] -> bool[...,C]"""
  return mask[..., None] == jnp.arange(num_classes)


def class_weight_map(mask: jax.Array, class_weights: jax.Array) -> jax.Array:
  """Weight of each pixel by its class; 0 on VOID.  u8[...], f32[C] -> f32[...]"""
  valid = mask != VOID
  return jnp.where(valid, class_weights[jnp.where(valid, mask, 0)], 0.0)


@dataclasses.dataclass(frozen=True)
class Loss:
  """A loss as a training step takes it.

  Attributes:
    function: `function(logits, mask, **maps)`.
      Per pixel: f32[...,C], u8[...] -> f32[...], finite on VOID, where it does not count.
      Per image: f32[H,W,C], u8[H,W] -> f32[]; exactly 0, with zero gradient, if all is VOID.
    per: "pixel", the mean over pixels, weighted by class and border; or "image", the mean over
      images.
    maps: {keyword of `function`: function of the labels of one example, {"mask": u8[H,W],
      "instances": i32[H,W]} -> f32[H,W,...]}: what the loss needs to know of the truth beyond the
      mask, such as a distance map. It is computed from the augmented labels.
    needs_instances: the labels have to include "instances".
  """

  function: Callable[..., jax.Array]
  per: str = "pixel"
  maps: Mapping[str, Callable[[Mapping[str, jax.Array]], jax.Array]] = dataclasses.field(
    default_factory=dict
  )
  needs_instances: bool = False

  def __post_init__(self):
    if self.per not in ("pixel", "image"):
      raise UserError(f"unknown per {self.per!r} of a loss; choose from pixel, image")


# A loss of your own is one more entry, from your config file for instance.
LOSSES: dict[str, Loss] = {
  "cross_entropy": Loss(cross_entropy),
  "focal": Loss(focal),
  "dice": Loss(soft_dice, per="image"),
  "lovasz": Loss(lovasz_softmax, per="image"),
}


def select(
  factors: Mapping[str, float], *, focal_gamma: float = 2.0
) -> dict[str, tuple[float, Loss]]:
  """The losses that are minimised together, each times its factor.

  Args:
    factors: {key of LOSSES: factor}; those of factor 0 are left out.
    focal_gamma: gamma of "focal".
  Returns:
    {name: (factor, loss)}
  Raises:
    UserError: an unknown name, or no factor above 0.
  """
  chosen = {}
  for name, factor in factors.items():
    if name not in LOSSES:
      raise UserError(f"unknown loss {name!r}; choose from {', '.join(LOSSES)}")
    loss = LOSSES[name]
    if name == "focal":
      function = functools.partial(loss.function, gamma=focal_gamma)
      loss = dataclasses.replace(loss, function=function)
    if factor:
      chosen[name] = (factor, loss)
  if not chosen:
    raise UserError(f"no loss has a factor above 0; set one of {', '.join(LOSSES)}")
  return chosen


def label_maps(loss: Loss, labels: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
  """{keyword: f32[B,H,W,...]} of `Loss.maps` for a batch of labels, [B,H,W] each.

  Raises:
    UserError: the loss needs instances and the batch has none.
  """
  if loss.needs_instances and "instances" not in labels:
    raise UserError("this loss needs instances; ask `train_batches` for them")
  return {name: jax.vmap(function)(labels) for name, function in loss.maps.items()}


def loss_sum(
  loss: Loss,
  logits: jax.Array,
  mask: jax.Array,
  weight: jax.Array,
  maps: Mapping[str, jax.Array] | None = None,
) -> jax.Array:
  """Sum of a loss over a batch.

  Args:
    logits: f32[B,H,W,C].  mask: u8[B,H,W].
    weight: f32[B,H,W] >= 0, ignored on VOID, and altogether by losses per image.
    maps: {keyword: f32[B,H,W,...]}, see `label_maps`.
  Returns:
    f32[], to be divided by `loss_count`, each summed over all devices.
  Raises:
    UserError: the loss returns another shape than one value per pixel or per image.
  """
  maps = maps or {}
  if loss.per == "image":
    values = jax.vmap(lambda *x: loss.function(*x[:2], **x[2]))(logits, mask, maps)
    _check_values(loss, values, mask.shape[:1])
    return jnp.sum(values)
  values = loss.function(logits, mask, **maps)
  _check_values(loss, values, mask.shape)
  return jnp.sum(jnp.where(mask != VOID, weight, 0.0) * values)


def _check_values(loss, values, shape):
  found = getattr(values, "shape", type(values).__name__)
  if found != shape:
    name = getattr(loss.function, "__name__", "a loss")
    raise UserError(
      f"{name} is a loss per {loss.per} and has to return f32{list(shape)}, not {found}"
    )


def loss_count(loss: Loss, mask: jax.Array, weight: jax.Array) -> jax.Array:
  """Sum of weight over pixels, or number of images for losses per image; those not VOID.  -> f32[]

  It needs no logits: the count of a whole batch is known before the first part of it is computed.
  """
  valid = mask != VOID
  if loss.per == "image":
    return jnp.sum(valid.any(axis=(1, 2)), dtype=jnp.float32)
  return jnp.sum(weight, where=valid)
