"""Losses of pixels and of images. VOID pixels cost nothing and get no gradient.

A batch's loss is a sum divided by a count, so that devices can add up both. A loss that is not a
sum over pixels is one of single images, whose sum over a batch is the same however it is split.
"""

import functools

import jax
import jax.numpy as jnp

from jaxseg import VOID


def class_logits(logits):
  """Logits of two classes from those of a sigmoid head: z of class 1 becomes (0, z).

  softmax(0, z) = (1 - sigmoid(z), sigmoid(z)), so that losses and predictions know one kind of
  head. [...,1] -> [...,2]; other numbers of classes pass through.
  """
  if logits.shape[-1] > 1:
    return logits
  return jnp.concatenate([jnp.zeros_like(logits), logits], axis=-1)


def cross_entropy(logits, mask):
  """Softmax cross-entropy of each pixel.

  Args:
    logits: f32[...,C].  mask: u8[...], labels 0..C-1 or VOID.
  Returns:
    f32[...]; exactly 0, with zero gradient, on VOID.
  """
  valid = mask != VOID
  # A one-hot product instead of a gather: the gradient of a gather is a scatter, slow on CPU.
  target = jax.nn.one_hot(jnp.where(valid, mask, 0), logits.shape[-1], dtype=logits.dtype)
  ce = -jnp.sum(target * jax.nn.log_softmax(logits), axis=-1)
  return jnp.where(valid, ce, 0.0)


def focal(logits, mask, *, gamma=2.0):
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


def soft_dice(logits, mask):
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


def lovasz_softmax(logits, mask):
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


def class_weight_map(mask, class_weights):
  """Weight of each pixel by its class; 0 on VOID.  u8[...], f32[C] -> f32[...]"""
  valid = mask != VOID
  return jnp.where(valid, class_weights[jnp.where(valid, mask, 0)], 0.0)


def loss_sum(name, logits, mask, weight, **settings):
  """Sum of a loss over a batch.

  Args:
    name: one of LOSSES.
    logits: f32[B,H,W,C].  mask: u8[B,H,W].
    weight: f32[B,H,W] >= 0, ignored on VOID, and altogether by IMAGE_LOSSES.
    settings: keywords of the loss.
  Returns:
    f32[], to be divided by `loss_count`, each summed over all devices.
  """
  if name in IMAGE_LOSSES:
    return jnp.sum(jax.vmap(functools.partial(IMAGE_LOSSES[name], **settings))(logits, mask))
  values = PIXEL_LOSSES[name](logits, mask, **settings)
  return jnp.sum(jnp.where(mask != VOID, weight, 0.0) * values)


def loss_count(name, mask, weight):
  """Sum of weight over pixels, of IMAGE_LOSSES number of images; those not VOID.  -> f32[]

  It needs no logits: the count of a whole batch is known before the first part of it is computed.
  """
  valid = mask != VOID
  if name in IMAGE_LOSSES:
    return jnp.sum(valid.any(axis=(1, 2)), dtype=jnp.float32)
  return jnp.sum(weight, where=valid)


PIXEL_LOSSES = {"cross_entropy": cross_entropy, "focal": focal}
IMAGE_LOSSES = {"dice": soft_dice, "lovasz": lovasz_softmax}
LOSSES = {**PIXEL_LOSSES, **IMAGE_LOSSES}
