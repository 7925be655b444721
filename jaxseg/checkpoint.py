"""Orbax checkpoints: each is atomic and holds all that a run needs to resume bit for bit."""

import contextlib
import logging
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from jaxseg import UserError
from jaxseg.train_state import TrainState

SCORE = "miou"  # the best checkpoint has the highest

Path = str | pathlib.Path


def open_manager(workdir: Path, *, read_only: bool = False) -> ocp.CheckpointManager:
  """Checkpoints in workdir/checkpoints: the two latest, and the one with the best score.

  Saving continues in the background; a step appears when it is complete. Use the manager in a
  `with` block, or `close()` it, so that the last save completes. With `read_only`, it does not
  touch what another process may be saving.
  """
  policy = policies.AnyPreservationPolicy(
    [
      policies.LatestN(n=2),
      policies.BestN(get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False),
    ]
  )
  folder = pathlib.Path(workdir).absolute() / "checkpoints"
  if not read_only:
    folder.mkdir(parents=True, exist_ok=True)
  options = ocp.CheckpointManagerOptions(
    preservation_policy=policy,
    best_fn=_score,  # without it Orbax does not write the metrics to disk
    read_only=read_only,
    save_interval_steps=0 if read_only else 1,  # Orbax requires this
    cleanup_tmp_directories=not read_only,
    create=False,
    # Only process 0 opens checkpoints; the state is the same in all processes.
    multiprocessing_options=ocp.options.MultiprocessingOptions(
      active_processes={0}, barrier_sync_key_prefix="main"
    ),
  )
  with _quiet_orbax():
    return ocp.CheckpointManager(folder, options=options)


@contextlib.contextmanager
def _quiet_orbax():
  """Silences Orbax's warnings of options that are set on purpose."""
  logger = logging.getLogger("absl")
  level = logger.level
  logger.setLevel(logging.ERROR)
  try:
    yield
  finally:
    logger.setLevel(level)


def _score(metrics):
  return float(np.nan_to_num(metrics[SCORE], nan=-np.inf))


def save(
  manager: ocp.CheckpointManager,
  state: TrainState,
  data_state: Any,
  meta: Mapping[str, Any],
  metrics: Mapping[str, Any] | None = None,
) -> None:
  """Saves a train state with the position in the data.

  Args:
    state: replicated.  data_state: JSON-able, of the data iterator.
    meta: JSON-able, the config and the names of the classes.
    metrics: {"miou": float, ...} if this state was evaluated.
  """
  state = jax.tree.map(np.asarray, state)
  manager.save(
    int(state.step),
    args=ocp.args.Composite(
      variables=ocp.args.StandardSave(state.variables),
      optimizer=ocp.args.StandardSave(_training(state)),
      data=ocp.args.JsonSave(data_state),
      meta=ocp.args.JsonSave(meta),
    ),
    metrics=metrics,
  )


def _training(state):
  """What only training needs of a state; with an EMA, also the weights that it averages."""
  items = {"step": state.step, "opt_state": state.opt_state}
  if state.ema:
    items |= {"params": state.params, "batch_stats": state.batch_stats}
  return items


def restore(
  manager: ocp.CheckpointManager, state: TrainState
) -> tuple[TrainState, Any] | None:
  """The latest checkpoint.

  Args:
    state: TrainState of the right structure; its values do not matter.
  Returns:
    (TrainState of numpy arrays, data_state), or None if there is no checkpoint.
  """
  if (step := manager.latest_step()) is None:
    return None
  state = jax.tree.map(np.asarray, state)
  restored = manager.restore(
    step,
    args=ocp.args.Composite(
      variables=ocp.args.StandardRestore(state.variables),
      optimizer=ocp.args.StandardRestore(_training(state)),
      data=ocp.args.JsonRestore(),
    ),
  )
  variables = {"ema": restored.variables} if state.ema else restored.variables
  return state.replace(**variables, **restored.optimizer), restored.data


def best_step(manager: ocp.CheckpointManager) -> int | None:
  """The step with the highest score, the latest if none was scored, None if there is none."""
  scored = {}
  for step in manager.all_steps():
    metrics = manager.metrics(step)
    if metrics and np.isfinite(metrics[SCORE]):
      scored[step] = metrics[SCORE]
  return max(scored, key=scored.get) if scored else manager.latest_step()


def best_checkpoint(workdir: Path, key: str = "the work directory") -> tuple[int, dict[str, Any]]:
  """(step, meta) of the best checkpoint of a work directory.

  Raises:
    UserError: it has none; the remedy names `key`.
  """
  if (pathlib.Path(workdir) / "checkpoints").is_dir():
    with open_manager(workdir, read_only=True) as manager:
      step = best_step(manager)
    if step is not None:
      return step, read_meta(workdir, step)
  exported = pathlib.Path(workdir) / "model.stablehlo"
  remedy = f"load {exported}" if exported.exists() else f"train first, or correct {key}"
  raise UserError(f"{workdir} has no checkpoint; {remedy}")


def read_meta(workdir: Path, step: int) -> dict[str, Any]:
  """The meta of a checkpoint, see `save`.

  Raises:
    UserError: there is no such checkpoint.
  """
  if not (pathlib.Path(workdir) / "checkpoints" / str(step) / "meta").is_dir():
    raise UserError(f"{workdir} has no checkpoint {step}; choose one from its folder checkpoints")
  with open_manager(workdir, read_only=True) as manager:
    args = ocp.args.Composite(meta=ocp.args.JsonRestore())
    return manager.restore(step, args=args).meta


def restore_variables(
  workdir: Path, step: int, variables: Mapping[str, Any] | None
) -> dict[str, Any]:
  """The network's variables in a checkpoint, without the state of training.

  Args:
    variables: {"params": ..., "batch_stats": ...} of arrays or their shapes; None takes those of
      any network.
  Returns:
    the same structure of numpy arrays.
  """
  target = variables and jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), variables)
  args = ocp.args.Composite(variables=ocp.args.StandardRestore(target))
  with open_manager(workdir, read_only=True) as manager:
    return jax.tree.map(np.asarray, manager.restore(step, args=args).variables)
