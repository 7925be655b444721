"""Orbax checkpoints: each is atomic and holds all that a run needs to resume bit for bit."""

import contextlib
import logging
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from jaxseg import UserError, packed
from jaxseg.checkpoint_files import (
  ARRAYS,
  CHECKSUMS,
  JSON,
  PROCESSES,
  DamagedError,
  checksum,
  fit,
  folder_of,
  is_sound,
  list_steps,
  read,
)
from jaxseg.notebook import warn
from jaxseg.train_state import TrainState

SCORE = "miou"  # the best checkpoint has the highest
REPLACED = "replaced_checkpoints"

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
  folder = folder_of(workdir)
  if not read_only:
    folder.mkdir(parents=True, exist_ok=True)
  options = ocp.CheckpointManagerOptions(
    preservation_policy=policy,
    best_fn=_score,  # without it Orbax does not write the metrics to disk
    read_only=read_only,
    save_interval_steps=0 if read_only else 1,  # Orbax requires this
    cleanup_tmp_directories=not read_only,
    create=False,
    multiprocessing_options=PROCESSES,
  )
  with _quiet_orbax():
    manager = ocp.CheckpointManager(folder, options=options)
  # Orbax would ask JAX by the step, training asks by its calls: all processes would wait for a call
  # of a number that does not come, see `stop_requests`.
  manager.reached_preemption = lambda step: False
  return manager


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
  score = metrics.get(SCORE)
  return float(np.nan_to_num(score, nan=-np.inf)) if isinstance(score, float | int) else -np.inf


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
  arrays = {"variables": state.variables, "optimizer": _training(state)}
  values = {"data": data_state, "meta": meta}
  scored = {} if metrics is None else {"metrics": metrics}  # Orbax saves these by itself
  sums = {name: checksum(name, x) for name, x in (arrays | values | scored).items()}
  items = {name: ocp.args.StandardSave(x) for name, x in arrays.items()}
  items |= {name: ocp.args.JsonSave(x) for name, x in (values | {CHECKSUMS: sums}).items()}
  manager.save(int(state.step), args=ocp.args.Composite(**items), metrics=metrics)


def _training(state):
  """What only training needs of a state; with an EMA, also the weights that it averages."""
  items = {"step": state.step, "opt_state": state.opt_state}
  if state.ema:
    items |= {"params": state.params, "batch_stats": state.batch_stats}
  return items


def restore(workdir: Path, state: TrainState) -> tuple[TrainState, Any, bool] | None:
  """The latest checkpoint.

  Args:
    state: TrainState of the right structure; its values do not matter.
  Returns:
    (TrainState of numpy arrays, data_state, whether it was evaluated), or None if there is no
    checkpoint.
  Raises:
    UserError: it is damaged, or of another network.
  """
  if not (steps := list_steps(workdir)):
    return None
  found = read(workdir, steps[-1], *ARRAYS, "data", "metrics")
  where = str(folder_of(workdir, steps[-1]))
  variables = fit(found["variables"], state.variables, where)
  training = fit(found["optimizer"], _training(state), where)
  variables = {"ema": variables} if state.ema else variables
  return state.replace(**variables, **training), found["data"], "metrics" in found


def set_aside_damaged(workdir: Path) -> None:
  """Moves damaged checkpoints to workdir/damaged_checkpoints, so that a run resumes without them.

  Raises:
    UserError: all are damaged; none is moved.
  """
  steps, faults = list_steps(workdir), {}
  for step in steps:
    try:
      read(workdir, step, *ARRAYS, *JSON)
    except DamagedError as error:
      faults[step] = str(error)
  if faults and len(faults) == len(steps):
    raise _all_damaged(workdir, faults)
  for step, fault in faults.items():
    place = _set_aside(workdir, step, "damaged_checkpoints")
    latest = max(steps - faults.keys())
    warn(
      f"checkpoint {step} of {workdir} is damaged ({fault}): it is now in {place}, and the run "
      f"resumes from checkpoint {latest}"
    )


def set_aside_later(workdir: Path, step: int) -> list[int]:
  """Moves checkpoints of later steps to workdir/later_checkpoints, and says so; returns the steps.

  They are from before a kill that came while seeds that train together saved one after the other.
  """
  later = [other for other in list_steps(workdir) if other > step]
  for other in later:
    place = _set_aside(workdir, other, "later_checkpoints")
    then = f"resume from checkpoint {step}" if step else "begin anew"
    warn(f"{workdir}: other seeds have no checkpoint {other}: it is now in {place}, and all {then}")
  return later


@contextlib.contextmanager
def replaced(workdir: Path, step: int) -> Iterator[None]:
  """Keeps a checkpoint aside until this ends, when another one of the same step is complete."""
  place = _set_aside(workdir, step, REPLACED)
  yield
  shutil.rmtree(place.parent)


def bring_back(workdir: Path) -> None:
  """Puts back what `replaced` kept, if a kill came before its replacement was complete."""
  for place in (pathlib.Path(workdir) / REPLACED).glob("*"):
    folder = folder_of(workdir, int(place.name.rstrip("_")))
    if not folder.exists():
      place.rename(folder)
  shutil.rmtree(pathlib.Path(workdir) / REPLACED, ignore_errors=True)


def _set_aside(workdir, step, name):
  place = pathlib.Path(workdir) / name / str(step)
  place.parent.mkdir(exist_ok=True)
  while place.exists():
    place = place.with_name(f"{place.name}_")
  folder_of(workdir, step).rename(place)
  return place


def _all_damaged(workdir, faults, key=""):
  step, fault = max(faults.items())
  count = f"its checkpoint {step} is" if len(faults) == 1 else "all checkpoints are"
  remedy = f"correct {key}" if key else "train anew in another --workdir"
  return UserError(
    f"{workdir}: {count} damaged ({step}: {fault}); restore {folder_of(workdir)} from a copy, or "
    f"{remedy}"
  )


def load_best(
  workdir: Path,
  key: str = "the work directory",
  parts: tuple[str, ...] = ("variables", "meta"),
) -> tuple[int, dict[str, Any]]:
  """The checkpoint with the highest score, or the latest if none was scored.

  Of those that are not damaged: if one had to be left out, it says so. A packed network has one.

  Returns:
    (step, {part: its value}), see `checkpoint_files.read`
  Raises:
    UserError: there is none; the remedy names `key`.
  """
  workdir = packed.find(workdir)
  if packed.is_packed(workdir):
    return packed.read(workdir, *parts)
  scores, faults = {}, {}
  for step in list_steps(workdir):
    try:
      metrics = read(workdir, step, "metrics").get("metrics")
      scores[step] = (_score(metrics) if metrics else -np.inf, step)
    except DamagedError as error:
      faults[step] = str(error)
  # Of equal scores the first that is kept counts, of checkpoints without one the latest.
  for step in sorted(scores, key=lambda step: _rank(*scores[step])):
    try:
      found = read(workdir, step, *parts)
    except DamagedError as error:
      faults[step] = str(error)
      continue
    if faults:
      names = ", ".join(f"{number} ({fault})" for number, fault in sorted(faults.items()))
      warn(f"damaged checkpoints of {workdir}: {names}; checkpoint {step} is used")
    return step, found
  if faults:
    raise _all_damaged(workdir, faults, "" if key == "the work directory" else key)
  if seeds := sorted(pathlib.Path(workdir).glob("seed_*/checkpoints")):
    raise UserError(f"{workdir} holds the runs of several seeds: give one, as {seeds[0].parent}")
  exported = pathlib.Path(workdir) / "model.stablehlo"
  remedy = f"load {exported}" if exported.exists() else f"train first, or correct {key}"
  raise UserError(f"{workdir} has no checkpoint; {remedy}")


def _rank(score, step):
  return (-score, step if np.isfinite(score) else -step)


def load_step(workdir: Path, step: int) -> dict[str, Any]:
  """{"variables", "meta"} of a checkpoint, see `checkpoint_files.read`.

  Raises:
    UserError: there is no such checkpoint, or it is damaged; names another.
  """
  if step not in list_steps(workdir):
    raise UserError(f"{workdir} has no checkpoint {step}; choose one from its folder checkpoints")
  try:
    return read(workdir, step, "variables", "meta")
  except DamagedError as error:
    sound = [other for other in list_steps(workdir) if other != step and is_sound(workdir, other)]
    if not sound:
      raise _all_damaged(workdir, {step: str(error)}) from error
    raise UserError(
      f"checkpoint {step} of {workdir} is damaged ({error}); take {folder_of(workdir, sound[-1])}"
    ) from error


def best_checkpoint(workdir: Path, key: str = "the work directory") -> tuple[int, dict[str, Any]]:
  """(step, meta) of the best checkpoint of a work directory; see `load_best`."""
  step, found = load_best(workdir, key, ("meta",))
  return step, found["meta"]
