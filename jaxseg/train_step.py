"""One optimisation step and one forward pass, as pure functions.

The wrappers that put them on devices are in `parallel`.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxseg import VOID, weight_maps
from jaxseg.augment import LABEL_FILL, Augmentation, augment
from jaxseg.losses import Loss, class_logits, class_weight_map, label_maps, loss_count, loss_sum
from jaxseg.ops import center_crop, normalize
from jaxseg.platforms import classes_apart, in_loop, in_memory_order
from jaxseg.train_state import TrainState, update_ema

AUGMENT, DROPOUT = 0, 1  # streams of randomness of an example


def example_keys(key: jax.Array, stream: int, index: jax.Array) -> jax.Array:
  """One key per example, from its position in the shuffled stream.  i32[B] -> key[B]"""
  stream_key = jax.random.fold_in(key, stream)
  return jax.vmap(lambda i: jax.random.fold_in(stream_key, i))(index)


def augmented(
  batch: Mapping[str, jax.Array],
  key: jax.Array,
  augmentation: Augmentation,
  value_range: Sequence = (),
  clip: bool = True,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """A batch as the network and the losses see it; arguments as in `make_train_step`.

  Returns:
    (f32[b,S,S,D], {"mask": u8[b,S,S]} and, if the batch has them, "instances": i32[b,S,S])
  """
  keys = example_keys(key, AUGMENT, batch["index"])
  image = normalize(batch["image"], value_range, clip)
  labels = {name: batch[name] for name in LABEL_FILL if name in batch}
  return jax.vmap(augment, (0, 0, 0, None))(keys, image, labels, augmentation)


def make_train_step(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  *,
  losses: Mapping[str, tuple[float, Loss]],
  class_weights: jax.Array,
  augmentation: Augmentation,
  border_weight: float = 0.0,
  border_sigma: float = 5.0,
  accumulation_steps: int = 1,
  ema_decay: float = 0.0,
  value_range: Sequence = (),
  clip: bool = True,
  spread: Callable[[Any], Any] = lambda tree: tree,
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
  """Builds `train_step(state, batch, key, axis_name=None) -> (state, metrics)`.

  The loss is the sum of factor * mean over `losses`, each mean over the GLOBAL batch: the local
  sum is divided by the count of all devices. (The mean of the devices' means would depend on how
  VOID pixels fall on them.)

  Args:
    model: see `models.interface.Network`.
    optimizer: optax transformation.
    losses: {name: (factor, loss)}, see `losses.select`.
    class_weights: f32[C], of losses per pixel.
    augmentation: augment.Augmentation.
    border_weight, border_sigma: w0 and sigma of `weight_maps.border_weight`, which is added to the
      class weight; with w0 > 0 batches need instances.
    accumulation_steps: parts of a batch that go through the network one after the other, to save
      memory (gradient accumulation). The gradient is that of the whole batch; batch normalisation
      sees each part by itself.
    ema_decay: > 0 keeps an exponential moving average (EMA) of the weights, see
      `train_state.update_ema`.
    value_range, clip: of the images, see `ops.normalize`.
    spread: of what the network and the loss see, see `spatial.spread_over`.
  Returns:
    A function of state; batch {"image": [b,S,S,D] of u8, u16 or f32, "mask": u8[b,S,S], "index":
    i32[b], "instances": i32[b,S,S]}; the root key, the same at every step; and the name of the
    mapped axis under `pmap`. Its metrics are f32[] "loss" and "grad_norm" and i32[] "num_pixels",
    those that have a logit and are not VOID; and if there are several losses, the mean of each,
    before its factor, as f32[] "loss/NAME".
  """

  def train_step(state, batch, key, axis_name=None):
    def total(x):
      return jax.lax.psum(x, axis_name) if axis_name else x

    image, labels = augmented(batch, key, augmentation, value_range, clip)
    mask = labels["mask"]
    weight = class_weight_map(mask, class_weights)
    if border_weight > 0:
      at_borders = functools.partial(
        weight_maps.border_weight, w0=border_weight, sigma=border_sigma
      )
      weight += jax.vmap(at_borders)(labels["instances"])
    maps = {name: label_maps(loss, labels) for name, (_, loss) in losses.items()}

    # Valid convolutions give logits of the middle only.
    inner = [n - 2 * model.margin for n in mask.shape[1:]]
    mask, weight, maps = jax.tree.map(lambda x: center_crop(x, inner), (mask, weight, maps))
    counts = total({name: loss_count(loss, mask, weight) for name, (_, loss) in losses.items()})
    counts = jax.tree.map(lambda n: jnp.maximum(n, 1e-12), counts)  # all may be VOID

    def local_loss(params, batch_stats, examples):
      image, mask, weight, maps = spread(examples[:4])
      keys = examples[4]
      logits, updates = model.apply(
        {"params": params, "batch_stats": batch_stats},
        image,
        train=True,
        keys=keys,
        mutable=["batch_stats"],
      )
      logits = classes_apart(class_logits(logits))
      parts = {
        name: loss_sum(loss, logits, mask, weight, maps[name]) / counts[name]
        for name, (_, loss) in losses.items()
      }
      loss = sum(factor * parts[name] for name, (factor, _) in losses.items())
      return loss, (parts, updates.get("batch_stats", {}))

    def add_gradient(carry, examples):
      batch_stats, sums = carry
      (loss, (parts, batch_stats)), grads = jax.value_and_grad(local_loss, has_aux=True)(
        state.params, batch_stats, examples
      )
      return (batch_stats, jax.tree.map(jnp.add, sums, (loss, parts, grads))), None

    def split(x):  # into parts with examples of all devices
      return x.reshape(-1, accumulation_steps, *x.shape[1:]).swapaxes(0, 1)

    examples = image, mask, weight, maps, example_keys(key, DROPOUT, batch["index"])
    zero = jnp.zeros(())
    start = zero, dict.fromkeys(losses, zero), jax.tree.map(jnp.zeros_like, state.params)
    carry = (state.batch_stats, start)
    if accumulation_steps == 1:
      carry, _ = add_gradient(carry, examples)
    else:
      with in_loop():
        carry, _ = jax.lax.scan(add_gradient, carry, jax.tree.map(split, examples))
    batch_stats, sums = carry
    loss, parts, grads = total(sums)
    grads = in_memory_order(grads)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    metrics = {
      "loss": loss,
      "grad_norm": optax.global_norm(grads),
      "num_pixels": total(jnp.sum(mask != VOID)),
    }
    if len(losses) > 1:
      metrics |= {f"loss/{name}": part for name, part in parts.items()}
    state = state.replace(
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      batch_stats=batch_stats,
      opt_state=opt_state,
    )
    return (update_ema(state, ema_decay) if ema_decay else state), metrics

  return train_step
