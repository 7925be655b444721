"""Training steps that need the host less: examples that lie on the devices, several steps a call.

Both are wrappers of `step(state, batch, key, axis_name=None)`; `parallel.distribute_step` takes the
result. `data.stored` puts the examples there.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from jaxseg.parallel import AXIS
from jaxseg.platforms import in_loop


def take_windows(
  stored: Mapping[str, jax.Array], batch: Mapping[str, jax.Array], size: int, axis_name: str = ""
) -> dict[str, jax.Array]:
  """Cuts a batch out of examples on the devices; runs once per device.

  Args:
    stored: examples of this device, all on one canvas: {"first": i32[], the number of its first
      example; "image": [n,H,W*D] of u8, u16 or f32; "mask": u8[n,H,W]; ...}.
    batch: {"number": i32[b], "starts": i32[b,2], "index": i32[b]}; an example's number, and first
      row and column of its window on the canvas.
    size: of the windows, px.
    axis_name: the axis of the devices if each has only a share of the examples; "" if each has all.
  Returns:
    {"image": [b,S,S,D], "mask": u8[b,S,S], ..., "index": i32[b]}, the stored bits
  """
  places = batch["number"], batch["starts"]
  if axis_name:
    places = lax.all_gather(places, axis_name, tiled=True)
  rows, starts = places[0] - stored["first"], places[1]

  def windows(x):
    depth = x.shape[2] // stored["mask"].shape[2]

    def window(row, start):
      # Whole lines first: TPUs gather those without another layout of all examples.
      lines = x.at[row, start[0] + jnp.arange(size)].get(mode="clip")
      return lax.dynamic_slice_in_dim(lines, depth * start[1], depth * size, axis=1)

    return jax.vmap(window)(rows, starts)

  def exchange(x, is_here):
    """Every device cuts all windows of which it has the example, and gets those of its batch."""
    bits = lax.bitcast_convert_type(x, jnp.uint32) if x.dtype == jnp.float32 else x
    bits = jnp.where(jnp.expand_dims(is_here, range(1, x.ndim)), bits, 0)
    bits = lax.psum_scatter(bits, axis_name, tiled=True)
    return lax.bitcast_convert_type(bits, x.dtype)

  taken = {name: windows(x) for name, x in stored.items() if name != "first"}
  if axis_name:
    is_here = (rows >= 0) & (rows < len(stored["mask"]))
    taken = {name: exchange(x, is_here) for name, x in taken.items()}
  image = taken["image"].reshape(*taken["mask"].shape, -1)
  return {**taken, "image": image, "index": batch["index"]}


def from_stored(step: Callable, mesh: Mesh, size: int, is_split: bool) -> Callable:
  """A step whose batches say where examples lie; see `take_windows`.

  Its batches have another entry, "stored", of which every array has a first axis: the devices.

  Args:
    step: takes the batches of the input pipeline.  mesh: of `distribute_step`.
    size: of the windows, px.  is_split: whether each device has only a share of the examples.
  """

  def take(batch):
    batch = dict(batch)
    return take_windows(batch.pop("stored"), batch, size, AXIS if is_split else "")

  def take_of_device(batch):
    return take({**batch, "stored": jax.tree.map(lambda x: x[0], batch["stored"])})

  def stored_step(state, batch, key, axis_name=None):
    if axis_name:
      batch = take(batch)
    else:
      spec = PartitionSpec(AXIS)
      batch = jax.shard_map(take_of_device, mesh=mesh, in_specs=spec, out_specs=spec)(batch)
    # Nothing of the step is fused with this, so that it computes what it does with other batches.
    return step(state, lax.optimization_barrier(batch), key, axis_name)

  return stored_step


def repeated(step: Callable) -> Callable:
  """Several steps as one: a loop in one program.

  Returns:
    A step whose batches are those of `stack_batches` and whose metrics are [n], one for each step.
    "stored" examples are the same for all steps.
  """

  def steps(state, batch, key, axis_name=None):
    batch = dict(batch)
    shared = {name: batch.pop(name) for name in ("stored",) if name in batch}
    num_steps = jnp.sum(batch["index"][0] >= 0)

    def one(state, i):
      now = jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, i, 1, keepdims=False), batch)
      state, now = lax.optimization_barrier((state, now))
      with in_loop():
        return lax.optimization_barrier(step(state, {**now, **shared}, key, axis_name))

    def advance(i, carry):
      state, metrics = carry
      state, new = one(state, i)
      return state, jax.tree.map(lambda rows, x: rows.at[i].set(x), metrics, new)

    length = batch["index"].shape[1]
    like = jax.eval_shape(one, state, 0)[1]
    metrics = jax.tree.map(lambda x: jnp.zeros((length, *x.shape), x.dtype), like)
    return lax.fori_loop(0, num_steps, advance, (state, metrics))

  return steps


def stack_batches(batches: Sequence[Mapping[str, Any]], length: int) -> dict[str, np.ndarray]:
  """Batches {name: [b,...]} for one call of at most `length` steps.

  Returns:
    {name: [b,length,...]}, or [S,b,length,...] of batches with an axis for seeds, where the last
    batch fills the rest, with an `index` of -1; for a length of 1, the batch.
  """
  if length == 1:
    return dict(batches[0])
  filler = {**batches[-1], "index": np.full_like(batches[-1]["index"], -1)}
  batches = [*batches, *[filler] * (length - len(batches))]
  axis = batches[0]["index"].ndim
  return {name: np.stack([batch[name] for batch in batches], axis) for name in batches[0]}
