"""What a network costs: parameters, operations and memory of one forward pass."""

import math
import os
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def num_parameters(variables: Mapping[str, Any]) -> int:
  """Number of trainable values, of arrays or of their shapes; batch statistics do not count."""
  return sum(math.prod(x.shape) for x in jax.tree.leaves(variables["params"]))


def summary(
  model: nn.Module,
  variables: Mapping[str, Any],
  channels: int,
  size: int,
  *,
  compile: bool = True,
) -> dict[str, int | None]:
  """Size and cost of a network in use; nothing is run.

  Args:
    model: see `interface.Network`.
    variables: {"params": ..., "batch_stats": ...}, arrays or their shapes.
    channels: of the image.  size: its height and width, px, as the network takes it.
    compile: for this backend, to know the memory; takes seconds.
  Returns:
    {
      "num_parameters": trainable values,
      "flop": floating-point operations of one image's forward pass, a multiplication and an
        addition counted as two; of the program as written, before XLA optimises it,
      "memory_bytes": what the pass holds on the device at once: variables, image, logits and
        intermediate results,
    }, where None is not known: it was not compiled, or the backend does not tell.
  Raises:
    UserError: the network does not take images of this size.
  """
  image = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
  shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), variables)
  forward = jax.jit(lambda variables, image: model.apply(variables, image, train=False))
  lowered = forward.lower(shapes, image)
  return {
    "num_parameters": num_parameters(variables),
    "flop": _flop(lowered),
    "memory_bytes": _memory_bytes(lowered.compile()) if compile else None,
  }


def training_bytes(
  model: nn.Module, variables: Mapping[str, Any], channels: int, size: int, batch_size: int
) -> int:
  """About what one training step holds on a device: what the forward pass keeps for the gradient.

  It is counted before XLA joins operations, which took a fifth to a third of it away for U-Net,
  FCN and DeepLab on CPUs. Nothing is compiled or run.

  Args:
    model: not for `pmap`.  variables: arrays or their shapes.
    channels, size: see `summary`.  batch_size: examples at once on one device.
  """

  def kept(params, others, image, keys):
    def forward(params):
      variables = {**others, "params": params}
      return model.apply(variables, image, train=True, keys=keys, mutable=["batch_stats"])[0]

    return jax.vjp(forward, params)[1]

  image = jax.ShapeDtypeStruct((batch_size, size, size, channels), jnp.float32)
  others = {name: value for name, value in variables.items() if name != "params"}
  keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), batch_size))
  arrays = jax.eval_shape(kept, variables["params"], others, image, keys)
  return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(arrays))


def device_bytes() -> int:
  """Memory of the first device; of CPUs, their share of the machine's. 0 if unknown."""
  device = jax.local_devices()[0]
  if limit := (device.memory_stats() or {}).get("bytes_limit"):
    return limit
  try:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  except (AttributeError, OSError, ValueError):  # not on this system
    return 0
  return total // jax.local_device_count() if device.platform == "cpu" else 0


def _flop(lowered):
  # Of the compiled program it would miss what the backend hands to a library, such as cuDNN.
  try:
    analysis = lowered.cost_analysis()
  except NotImplementedError:
    return None
  flop = (analysis or {}).get("flops", -1)
  return int(flop) if flop >= 0 else None  # -1: XLA does not know


def _memory_bytes(compiled):
  try:
    stats = compiled.memory_analysis()
  except NotImplementedError:
    return None
  if stats is None:
    return None
  parts = (stats.argument_size_in_bytes, stats.output_size_in_bytes, stats.temp_size_in_bytes)
  return sum(parts) - stats.alias_size_in_bytes
