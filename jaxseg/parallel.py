"""Devices and processes: start-up, the mesh, and the two ways to run one step on all of them."""

import contextlib
import functools
import json
import os
import pathlib
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxseg import UserError
from jaxseg.peers import wait_for_all

AXIS = "batch"
SEED = "seed"  # the axis before it if several seeds train at once, see `seed_axis`
STRATEGIES = ("jit", "pmap")


def process_environment(
  environ: Mapping[str, str],
  *,
  coordinator: str = "",
  num_processes: int = 0,
  process_id: int = -1,
) -> dict[str, Any] | None:
  """Arguments for `jax.distributed.initialize`, or None for a single process.

  The first of these that is complete counts: the arguments themselves (`config.parallel`);
  torchrun's MASTER_ADDR, MASTER_PORT, WORLD_SIZE, RANK; Slurm with more than one task and TPU pods
  with more than one worker, for which JAX finds everything by itself ({}).

  Raises:
    UserError: an incomplete set, naming what is missing.
  """
  if coordinator or num_processes or process_id >= 0:
    if not 0 <= process_id < num_processes or not re.fullmatch(r".+:\d+", coordinator):
      raise UserError(
        "config.parallel needs coordinator=HOST:PORT, num_processes >= 1 and "
        f"0 <= process_id < num_processes; got {coordinator!r}, {num_processes}, {process_id}"
      )
    return _arguments(coordinator, num_processes, process_id)
  if _integer(environ, "WORLD_SIZE", 1) > 1:
    names = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK")
    missing = [name for name in names if name not in environ]
    if missing:
      raise UserError(f"WORLD_SIZE is set, but not {', '.join(missing)}; set all of {names}")
    world, rank = _integer(environ, "WORLD_SIZE"), _integer(environ, "RANK")
    if not 0 <= rank < world:
      raise UserError(f"RANK is {rank}, but has to be at least 0 and less than WORLD_SIZE, {world}")
    # torchrun itself listens on MASTER_PORT.
    port = _integer(environ, "MASTER_PORT") + ("TORCHELASTIC_RUN_ID" in environ)
    arguments = _arguments(f"{environ['MASTER_ADDR']}:{port}", world, rank)
    # torchrun shows all GPUs of a machine to all of its processes; each takes its own.
    shared = "LOCAL_RANK" in environ and environ.get("LOCAL_WORLD_SIZE") != "1"
    if shared and "," in environ.get("CUDA_VISIBLE_DEVICES", ","):
      arguments["local_device_ids"] = [_integer(environ, "LOCAL_RANK")]
    return arguments
  if _integer(environ, "SLURM_NTASKS", 1) > 1 and "SLURM_PROCID" in environ:
    return {}
  if "," in environ.get("TPU_WORKER_HOSTNAMES", ""):
    return {}
  return None


def _integer(environ, name, default=None):
  try:
    return int(environ.get(name, default))
  except ValueError as error:
    raise UserError(f"{name} is {environ[name]!r}; set it to a whole number") from error


def _arguments(coordinator, num_processes, process_id):
  names = "coordinator_address", "num_processes", "process_id"
  return dict(zip(names, (coordinator, num_processes, process_id), strict=True))


def start_processes(joining: Callable[[dict], AbstractContextManager], **settings: Any) -> None:
  """Joins the other processes, if there are any. Call it before anything else touches JAX.

  Args:
    joining: of what `process_environment` returns; around the joining, which waits an hour, as XLA.
    settings: keywords of `process_environment`.
  Raises:
    UserError: the others cannot be joined, or JAX does not find the devices of $JAX_PLATFORMS.
  """
  arguments = process_environment(os.environ, **settings)
  try:
    if arguments is not None:
      with joining(arguments):
        jax.distributed.initialize(**arguments, initialization_timeout=3600)
  except (RuntimeError, ValueError) as error:
    reason = str(error).partition("\n")[0] or type(error).__name__
    raise UserError(f"could not join the other processes ({arguments}): {reason}") from error
  try:
    jax.devices()
  except (AssertionError, RuntimeError) as error:  # the first for "cuda", without its plugin
    reason = str(error).partition("\n")[0] or "correct or unset JAX_PLATFORMS"
    raise UserError(f"JAX has no devices: {reason}") from error


def use_compilation_cache() -> None:
  """Keeps compiled programs on disk, in ~/.cache/jaxseg/xla, so that the next start is fast.

  Another folder that JAX has been given, as by $JAX_COMPILATION_CACHE_DIR, stays, as does another
  shortest time. Without a home that can be written, nothing is kept.
  """
  if not jax.config.jax_compilation_cache_dir:
    with contextlib.suppress(OSError, RuntimeError):  # the latter: there is no home
      (folder := pathlib.Path.home() / ".cache/jaxseg/xla").mkdir(parents=True, exist_ok=True)
      if os.access(folder, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(folder))
  if jax.config.jax_persistent_cache_min_compile_time_secs == 1.0:  # JAX's own
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def this_process() -> tuple[int, int]:
  """(number of this process, number of processes)."""
  return jax.process_index(), jax.process_count()


def is_main() -> bool:
  """Whether this is process 0, the only one that reads and writes work directories."""
  return jax.process_index() == 0


def on_main(function: Callable[..., Any], *arguments: Any) -> Any:
  """Calls a function in process 0 alone; returns its JSON-able result in all processes."""
  return json_from_main(function(*arguments) if is_main() else None)


def local_mesh() -> Mesh:
  """One axis, the batch, over the devices of this process."""
  return Mesh(np.asarray(jax.local_devices()), (AXIS,))


def on_local_devices(*axes: str) -> NamedSharding:
  """Sharding over the devices of this process: whole arrays on each, or split along `axes`."""
  return NamedSharding(local_mesh(), PartitionSpec(*axes))


def put_on_local_devices(tree: Any) -> Any:
  """Puts the same arrays on each device of this process; those that are there stay."""
  whole = on_local_devices()
  # Arrays of several processes go through the host.
  stays = lambda x: isinstance(x, jax.Array) and x.sharding == whole  # noqa: E731
  return jax.device_put(jax.tree.map(lambda x: x if stays(x) else np.asarray(x), tree), whole)


def _shardings(mesh):
  """(of a state, of batches); with an axis for seeds, this is the first of both."""
  first = (SEED,) if SEED in mesh.axis_names else ()
  return tuple(NamedSharding(mesh, PartitionSpec(*axes)) for axes in (first, (*first, AXIS)))


def put_on_mesh(mesh: Mesh, batch: Any, strategy: str) -> Any:
  """Puts this process's part of a batch where the step of that strategy expects it.

  "jit": global arrays [B,...], split over the mesh. "pmap": [local devices, b,...] on the host.
  """
  if strategy == "pmap":
    split = lambda x: x.reshape(jax.local_device_count(), -1, *x.shape[1:])  # noqa: E731
    return jax.tree.map(split, batch)
  _, sharding = _shardings(mesh)
  return jax.tree.map(functools.partial(jax.make_array_from_process_local_data, sharding), batch)


def replicate(mesh: Mesh, tree: Any) -> Any:
  """Puts the same host values on all devices of the mesh."""
  sharding, _ = _shardings(mesh)

  def put(x):
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
      return jax.random.wrap_key_data(put(jax.random.key_data(x)), impl=jax.random.key_impl(x))
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, lambda i: x[i])

  return jax.tree.map(put, tree)


CPU_OPTIONS = {
  # YNNPACK runs convolutions of few channels on one core. Matrix products and sums stay there;
  # convolutions go back to Eigen.
  "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,"
  "LIBRARY_FUSION_TYPE_REDUCE"
}
# Drops the barriers that keep apart what `train.remat` computes again: nothing would be saved.
CPU_REMAT_OPTIONS = {"xla_disable_hlo_passes": "cse_barrier_expander"}
TPU_OPTIONS = {
  # No "space to batch". With few images a chip, it cuts maps into strips, which costs more than it
  # brings, and it ends the process on the paper's U-Net; see `experiments/accelerators`.
  f"xla_tpu_run_space_to_batch{name}": "false" for name in ("", "_after_spmd", "_on_new_platforms")
}
GPU_OPTIONS = {
  # Matrix products by cuBLAS. The generator of XLA's own ends the process on DeepLabv3+, and cannot
  # compile `ops.resize` for 21 classes; see `experiments/accelerators`.
  "xla_gpu_enable_triton_gemm": False
}


@functools.cache
def compiler_options(device: jax.Device, remat: bool = False) -> dict[str, str | bool]:
  """Options for `jax.jit` that its compiler needs to do well, `remat` for a step of `train.remat`.

  Left out are those that it does not know, and those that the user sets in the environment.
  """
  users = os.environ.get("XLA_FLAGS", "") + os.environ.get("LIBTPU_INIT_ARGS", "")
  sharding = jax.sharding.SingleDeviceSharding(device)
  number = jax.ShapeDtypeStruct((), np.float32, sharding=sharding)

  def is_known(option):
    try:
      jax.jit(lambda x: x + 1, compiler_options=option).lower(number).compile()
    except jax.errors.JaxRuntimeError:
      return False
    return True

  options = {"cpu": CPU_OPTIONS, "gpu": GPU_OPTIONS, "tpu": TPU_OPTIONS}.get(device.platform, {})
  if remat and device.platform == "cpu":
    options = options | CPU_REMAT_OPTIONS
  return {
    name: value
    for name, value in options.items()
    if not re.search(rf"{name}\b", users) and is_known({name: value})
  }


def distribute_step(step: Callable, mesh: Mesh, strategy: str, remat: bool = False) -> Callable:
  """`step(state, batch, key, axis_name=None)` on all devices; the state is donated.

  Args:
    step: pure function to (state, metrics).
    strategy: "jit", one program with sharded arrays, or "pmap", one program per device.
    remat: see `compiler_options`.
  Returns:
    step(state, batch, key), taking what `replicate` and `put_on_mesh` return.
  """
  if strategy == "jit":
    whole, split = _shardings(mesh)
    return jax.jit(
      step,
      in_shardings=(whole, split, whole),
      out_shardings=(whole, whole),
      donate_argnums=0,
      compiler_options=compiler_options(mesh.devices.flat[0], remat),
    )
  if strategy == "pmap":
    return jax.pmap(
      functools.partial(step, axis_name=AXIS),
      axis_name=AXIS,
      in_axes=(None, 0, None),
      out_axes=None,
      donate_argnums=0,
    )
  raise UserError(f"unknown strategy {strategy!r}; choose from {', '.join(STRATEGIES)}")


def from_main(tree: Any) -> Any:
  """Broadcasts arrays of process 0, so that only it needs access to the work directory.

  Args:
    tree: numpy arrays and numbers; in other processes only structure, shapes and types count.
  Returns:
    the same structure of numpy arrays.
  """
  if jax.process_count() == 1:
    return tree
  from jax.experimental import multihost_utils

  return multihost_utils.broadcast_one_to_all(tree)


def json_from_main(value: Any) -> Any:
  """Broadcasts a JSON-able value of process 0; those of other processes are ignored."""
  if jax.process_count() == 1:
    return value
  wait_for_all()  # process 0 may have worked for hours
  data = np.frombuffer(json.dumps(value).encode(), np.uint8)
  size = int(from_main(np.int32(len(data))))
  data = from_main(np.resize(data, size))
  return json.loads(data.tobytes())


def sum_over_processes(x: np.ndarray) -> np.ndarray:
  """Integer sum of a host array over all processes.  i64[...] -> i64[...]"""
  return from_all(x).sum(axis=0)


def rows_of_processes(rows: np.ndarray) -> np.ndarray:
  """The rows of all processes in the order of the examples, which are dealt out round robin.

  Args:
    rows: f64[n,...] of this process; the first processes may have one more than the others.
  Returns:
    f64[N,...], the same in all processes.
  """
  num_processes = jax.process_count()
  if num_processes == 1:
    return rows
  num_rows = int(sum_over_processes(np.array([len(rows)]))[0])
  padded = np.zeros((-(-num_rows // num_processes), *rows.shape[1:]), rows.dtype)
  padded[: len(rows)] = rows
  return from_all(padded).swapaxes(0, 1).reshape(-1, *rows.shape[1:])[:num_rows]


def from_all(x: np.ndarray) -> np.ndarray:
  """Gathers arrays of 64-bit numbers, all of one shape, of all processes.  [...] -> [P,...]"""
  if jax.process_count() == 1:
    return x[None]
  from jax.experimental import multihost_utils

  # As 32-bit words, because JAX may run without 64-bit numbers.
  words = np.ascontiguousarray(x).view(np.int32)
  return np.ascontiguousarray(multihost_utils.process_allgather(words)).view(x.dtype)
