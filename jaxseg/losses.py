"""Losses per pixel. VOID pixels cost nothing and get no gradient."""

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


def class_weight_map(mask, class_weights):
  """Weight of each pixel by its class; 0 on VOID.  u8[...], f32[C] -> f32[...]"""
  valid = mask != VOID
  return jnp.where(valid, class_weights[jnp.where(valid, mask, 0)], 0.0)


def weighted_cross_entropy(logits, mask, weight):
  """Sums for a weighted mean: divide the first by the second, each summed over all devices.

  Args:
    logits: f32[...,C].  mask: u8[...].  weight: f32[...] >= 0, ignored on VOID.
  Returns:
    (sum of weight * cross-entropy, sum of weight over pixels that are not VOID), f32[] each.
  """
  weight = jnp.where(mask != VOID, weight, 0.0)
  return jnp.sum(weight * cross_entropy(logits, mask)), jnp.sum(weight)
