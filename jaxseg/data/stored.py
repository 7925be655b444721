"""Examples in the memory of the devices: those of training, out of which `on_device` cuts batches,
and the batches of the evaluation."""

import dataclasses
import functools
import math
import socket
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxseg import parallel
from jaxseg.data.input_pipeline import Mapped, eval_examples, fit_example, window_example
from jaxseg.data.memory import free_host_bytes, owning
from jaxseg.notebook import progress
from jaxseg.tally import Batch

SHARE = 1 / 3  # of the free memory; the rest is for the network and the batches


@dataclasses.dataclass(frozen=True)
class Stored:
  """Examples on the devices.

  Attributes:
    arrays: "stored" of `on_device.from_stored`.
    examples: the `source` of `train_batches` with `positions`.
    is_split: whether each device has only a share of the examples.
  """

  arrays: dict[str, jax.Array]
  examples: Sequence[dict[str, Any]]
  is_split: bool


def store(
  source: Sequence,
  mesh: Mesh,
  *,
  size: int,
  fit: str,
  strategy: str,
  margin: int = 0,
  instances: bool = False,
  keep_masks: bool = False,
  num_threads: int = 2,
) -> tuple[Stored | None, str]:
  """Decodes all examples and puts them on the devices, if they fit.

  All lie on one canvas, as large as the largest, mirrored beyond their edges as far as windows
  reach. Each device gets all of them, or a share if that is more than it can hold. Every process
  decodes all of them, once.

  Args:
    source, size, fit, margin, instances, num_threads: as in `train_batches`.
    mesh, strategy: as in `parallel.put_on_mesh`.
    keep_masks: in memory of the host, too, for `Sampling.class_crops`.
  Returns:
    (Stored or None, a line that says what was done or why not)
  """
  inner, devices = size - 2 * margin, mesh.devices.ravel()
  fitted = functools.partial(fit_example, size=inner, fit=fit, instances=instances)
  fitted = eval_examples(Mapped(source, fitted), num_threads=num_threads)
  on_device, on_host = free_bytes()
  # Else TPUs choose a layout in which they copy all examples at every step.
  multiple = 128 if devices[0].platform == "tpu" else 1
  examples, canvas = [], np.full(2, inner + 2 * margin)
  shown = {"desc": "decoding", "total": len(source), "disable": not parallel.is_main()}
  for example in progress(fitted, leave=False, **shown):
    example = owning(example)
    examples.append(example)
    canvas = np.maximum(canvas, np.add(example["mask"].shape, 2 * margin))
    canvas[1] += -canvas[1] % multiple
    pixel = sum(x.itemsize * math.prod(x.shape[2:]) for x in example.values())
    needed = len(source) * math.prod(canvas.tolist()) * pixel
    if needed > SHARE * min(on_device * len(devices), on_host):
      return None, (
        f"config.data.on_device: {len(source)} images need {needed / 2**20:,.0f} MiB, more than a "
        f"third of what is free on the devices ({on_device * len(devices) / 2**20:,.0f} MiB) or "
        f"the host ({on_host / 2**20:,.0f} MiB); they come from the host"
      )
  is_split = needed > SHARE * on_device
  num_rows = -(-len(examples) // len(devices)) if is_split else len(examples)
  tops = [i * num_rows if is_split else 0 for i in range(len(devices))]
  sides = tuple(canvas.tolist())

  @functools.lru_cache(1)  # copies are made of one array
  def block(first):
    """{"first": i32[1], names: [1,n,H,W*D]} of one device."""
    rows = {
      name: np.zeros((num_rows, *sides, *x.shape[2:]), x.dtype) for name, x in example.items()
    }
    for i, one in enumerate(examples[first : first + num_rows]):
      for name, x in window_example(one, (-margin, -margin), sides).items():
        np.copyto(rows[name][i], x, casting="no")
    rows = {name: x.reshape(1, *x.shape[:2], -1) for name, x in rows.items()}
    return {"first": np.array([first], np.int32), **rows}

  parts = [
    jax.device_put(block(first), device)
    for first, device in zip(tops, devices, strict=True)
    if device.process_index == jax.process_index()
  ]
  num_devices = len(parts) if strategy == "pmap" else len(devices)
  sharding = NamedSharding(mesh, PartitionSpec(parallel.AXIS))
  if strategy == "pmap":
    sharding = parallel.on_local_devices(parallel.AXIS)

  def join(*blocks):
    shape = (num_devices, *blocks[0].shape[1:])
    return jax.make_array_from_single_device_arrays(shape, sharding, list(blocks))

  def light(i, mask):
    return {
      "number": np.int32(i),
      "mask": mask if keep_masks else np.broadcast_to(np.uint8(0), mask.shape),
    }

  stored = Stored(
    arrays=jax.tree.map(join, *parts),
    examples=[light(i, x["mask"]) for i, x in enumerate(examples)],
    is_split=is_split,
  )
  size_of_one = sum(x.nbytes for x in jax.tree.leaves(parts[0])) / 2**20
  where = "on the device" if len(devices) == 1 else f"on each of {len(devices)} devices"
  what = f"{num_rows} of {len(examples)}" if is_split else f"{len(examples)}"
  dtype = example["image"].dtype
  return stored, (
    f"training data {where}: {what} images of {dtype}, {sides[0]} x {sides[1]} px, "
    f"{size_of_one:.3g} MiB"
  )


class Kept:
  """The batches of an evaluation, which stay on the devices for the next one if they fit.

  Their examples stay in the memory of the host. Every process keeps its share.
  """

  def __init__(self, say: Callable[[str], None]):
    """say: prints a line, which says what was done."""
    self._say, self._batches, self._fits = say, None, True

  def __call__(self, batches: Iterable[Batch]) -> Iterator[Batch]:
    """The batches; from the second time on, those that are kept, and `batches` is not read."""
    if self._batches is not None or not self._fits:
      yield from batches if self._batches is None else self._batches
      return
    kept, num_bytes, num_images, (on_device, on_host) = [], 0, 0, free_bytes()
    num_devices = jax.local_device_count()
    for batch in batches:
      kept.append(batch)
      ends = [window.example for window in batch.windows if window.is_last]
      num_images += len(ends)
      num_bytes += batch.nbytes
      on_host -= sum(x.nbytes for example in ends for x in example.values() if hasattr(x, "nbytes"))
      if self._fits and num_bytes > SHARE * min(on_device * num_devices, max(on_host, 0)):
        self._fits = False
        self._say(
          f"config.data.on_device: the first {num_images} images of the evaluation need "
          f"{num_bytes / 2**20:,.0f} MiB, more than a third of what is free on the devices "
          f"({on_device * num_devices / 2**20:,.0f} MiB) or the host; they come from the host"
        )
      if not self._fits:
        kept.clear()
      yield batch
    if self._fits:
      self._batches = kept
      where = "the device" if num_devices == 1 else f"{num_devices} devices"
      self._say(
        f"evaluation data on {where}: {num_images} images, {num_bytes / 2**20:.3g} MiB"
      )


def free_bytes() -> tuple[float, float]:
  """Free memory of (one device, the host), bytes; infinite where it is not known.

  It is the least of all processes; those of one host have a share of it each.
  """
  host_id = np.array([zlib.crc32(socket.gethostname().encode())])
  host = free_host_bytes() / np.sum(parallel.from_all(host_id) == host_id)
  stats = jax.local_devices()[0].memory_stats() or {}
  device = host / jax.local_device_count()
  if "bytes_limit" in stats:
    device = stats["bytes_limit"] - stats["bytes_in_use"]
  least = parallel.from_all(np.array([device, host], float)).min(axis=0)
  return tuple(least.tolist())
