"""A run for each of several seeds, side by side: their folders, batches, files and scores.

The devices train them in one program, see `seed_axis`. On the host each seed is an ordinary run, in
a folder of its own.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxseg import UserError, settings, workdirs
from jaxseg.checkpoint_files import list_steps
from jaxseg.data.decode import DatasetInfo
from jaxseg.run import Run, saved_form
from jaxseg.train_state import TrainState


def members(config: ConfigDict, workdir: str | pathlib.Path) -> list[tuple[ConfigDict, Any]]:
  """[(config, work directory)] of the run of each seed; for one seed, those that are given."""
  if config.train.num_seeds == 1:
    return [(config, workdir)]
  numbers = range(config.seed, config.seed + config.train.num_seeds)
  return [
    (
      settings.override(config, {"seed": seed, "train.num_seeds": 1}),
      pathlib.Path(workdir) / f"seed_{seed}",
    )
    for seed in numbers
  ]


def folders(config: ConfigDict, workdir: str | pathlib.Path) -> dict[int, Any]:
  """{seed: its work directory}"""
  return {one.seed: folder for one, folder in members(config, workdir)}


def of_run(workdir: str | pathlib.Path) -> dict[int, Any]:
  """`folders` of a work directory of several seeds that have begun; {} of any other.

  Raises:
    UserError: its config.json is damaged.
  """
  place = pathlib.Path(workdir)
  has_own = workdirs.has_checkpoint(place) or (place / "evaluation.json").exists()
  parts = (place.glob(f"seed_*/{name}") for name in ("checkpoints", "evaluation.json"))
  if has_own or not any(map(any, parts)) or (config := settings.read_run(place)) is None:
    return {}
  settings.check_saved(config, place)
  return folders(config, place) if config.train.num_seeds > 1 else {}


def faults(config: ConfigDict) -> Iterator[str]:
  """Messages about settings that several seeds cannot train with."""
  num, train = config.train.num_seeds, config.train
  if num == 1:
    return
  needs = f"config.train.num_seeds is {num}, which needs"
  if train.parallel != "jit":
    yield f"{needs} config.train.parallel=jit, not {train.parallel}"
  if config.parallel.space > 1:
    yield f"{needs} config.parallel.space=1, not {config.parallel.space}"
  if config.data.on_device:
    yield f"{needs} config.data.on_device=False"
  if train.patience:
    yield (
      f"{needs} config.train.patience=0, not {train.patience}: seeds train in step, so that none "
      "stops early"
    )
  if jax.process_count() > 1:
    yield (
      f"{needs} a single process, not {jax.process_count()}: train one seed at a time, with "
      "config.train.num_seeds=1, config.seed and a --workdir for each"
    )
  if config.seed + num > 2**32:
    yield f"{needs} config.seed of at most {2**32 - num}, not {config.seed}"


def has_begun(config: ConfigDict, workdir: str | pathlib.Path) -> bool:
  """Whether a run has saved anything in a work directory, or that of a seed in its own."""
  found = [workdir, *folders(config, workdir).values()]
  if (pathlib.Path(workdir) / "config.json").exists():  # it may be of other seeds
    found += pathlib.Path(workdir).glob("seed_*")
  return any(map(workdirs.has_checkpoint, found))


def check_resumes(config: ConfigDict, workdir: str | pathlib.Path) -> bool:
  """Whether the runs of a work directory go on; checks that they can with this config.

  Raises:
    UserError: see `settings.check_resumes`; or the run of a seed is missing.
  """
  if not has_begun(config, workdir):
    for folder in (workdir, *folders(config, workdir).values()):
      workdirs.saved_config(folder)  # another program's is not overwritten
    return False
  for one, folder in [(config, workdir), *members(config, workdir)]:
    if folder != workdir and not (folder / "config.json").exists():
      raise UserError(
        f"{folder} has no run, but another seed of {workdir} has: restore it from a copy, or use "
        "another --workdir"
      )
    if (saved := settings.read_run(folder)) is not None:
      settings.check_resumes(folder, saved, one)
  return True


def stack(trees: Sequence[Any]) -> Any:
  """Trees of arrays as one, with a first axis for the seeds; of one seed, its tree."""
  if len(trees) == 1:
    return trees[0]
  return jax.tree.map(lambda *x: np.stack(x), *trees)


class Batches:
  """The batches of several iterators, as {name: [S,b,...]}; each seed has its own order."""

  def __init__(self, iterators: Sequence[Any]):
    self._iterators = iterators

  def __iter__(self) -> Self:
    return self

  def __next__(self) -> dict[str, np.ndarray]:
    return stack([dict(next(batches)) for batches in self._iterators])

  def get_state(self) -> list:
    """Positions of the iterators, JSON-able."""
    return [batches.get_state() for batches in self._iterators]

  def set_state(self, states: Sequence[Any]) -> None:
    """Goes to these positions."""
    for batches, state in zip(self._iterators, states, strict=True):
      batches.set_state(state)

  def close(self) -> None:
    """Ends their threads and processes."""
    for batches in self._iterators:
      batches.close()


@dataclasses.dataclass(frozen=True)
class Row:
  """A row of an array on the devices, from which it is taken when it is read."""

  rows: jax.Array
  number: int

  def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    return np.asarray(self.rows, dtype)[self.number, ...]


class Runs:
  """The runs of several seeds, with the methods of one `Run` that training calls.

  Where that takes or gives a state, metrics or a result, this has those of all seeds: arrays with a
  first axis for them, lists of other things. There is one progress bar, with the mean loss.
  """

  def __init__(
    self,
    workdir: str | pathlib.Path,
    config: ConfigDict,
    info: DatasetInfo,
    examples: Mapping[str, dict],
  ):
    self._config, self._workdir, self._members = config, workdir, members(config, workdir)
    self._runs = [
      Run(folder, one, info, examples, name=f"seed {one.seed}: ") for one, folder in self._members
    ]
    self._stack, self._scores = contextlib.ExitStack(), []  # scores: from before

  def __enter__(self) -> Self:
    with contextlib.ExitStack() as stack:
      for run in self._runs:
        stack.enter_context(run)
      self._stack = stack.pop_all()
    return self

  def __exit__(self, *error: Any) -> bool | None:
    return self._stack.__exit__(*error)

  def restore(
    self, begin: Callable[[ConfigDict], tuple], data: Sequence[Any]
  ) -> tuple[TrainState, dict]:
    """See `Run.restore`; the checkpoint is the latest that all seeds have."""
    saved = {folder: set(list_steps(folder)) for _, folder in self._members}
    step = max(set.intersection(*saved.values()), default=0)
    # It may have been killed while they saved their first one; then all begin anew.
    are_first = not all(saved.values()) and max(map(len, saved.values())) == 1
    if any(saved.values()) and not step and not are_first:
      latest = ", ".join(f"{max(x, default='none')} in {folder}" for folder, x in saved.items())
      raise UserError(
        f"{self._workdir}: its seeds have no checkpoint of the same step ({latest}): restore them "
        "from a copy, or use another --workdir"
      )
    for run in self._runs:
      run.set_aside_after(step)
    found = [run.restore(begin, one) for run, one in zip(self._runs, data, strict=True)]
    states, progress = zip(*found, strict=True)
    self._scores = [one["scores"] for one in progress]
    together = {
      "data": [one["data"] for one in progress],
      "scores": [],
      "evaluated": all(one["evaluated"] for one in progress),
    }
    return stack(states), {**progress[0], **together}

  def start(self, step: int, num_steps: int, about: str) -> None:
    """See `Run.start`."""
    workdirs.write_json(pathlib.Path(self._workdir) / "config.json", saved_form(self._config))
    for i, run in enumerate(self._runs):
      run.start(step, num_steps, about if i == 0 else "")

  def record(
    self, step: int, metrics: dict, line: dict | None, batch_size: int, num_steps: int = 1
  ) -> None:
    """See `Run.record`; metrics have a first axis for the seeds."""
    for i, run in enumerate(self._runs):
      own = {name: Row(rows, i) for name, rows in metrics.items()}
      run.record(step, own, line, batch_size, num_steps)
    latest = [run.latest for run in self._runs if run.latest]
    if latest:
      losses, speeds = zip(*latest, strict=True)
      self._runs[0].advance(step, float(np.mean(losses)), sum(speeds))

  def restart_clock(self) -> None:
    """See `Run.restart_clock`."""
    for run in self._runs:
      run.restart_clock()

  def saying(self, text: str) -> contextlib.AbstractContextManager:
    """See `Run.saying`."""
    return self._runs[0].saying(text)

  def each(self, function: Callable, state: TrainState, *rest: Any) -> list:
    """[function(run, its state, *rest)]; see `Run.each`."""
    return [
      function(run, one, *rest) for run, one in zip(self._runs, self._split(state), strict=True)
    ]

  def save(
    self, state: TrainState, data: list, scores: list, results: list | None, *, again: bool = False
  ) -> None:
    """See `Run.save`.

    No seed begins before all have completed their last one: whenever this is killed, there is a
    checkpoint of the same step of each.
    """
    for run in self._runs:
      run.wait()
    for i, (run, one) in enumerate(zip(self._runs, self._split(state), strict=True)):
      own = self._scores[i] + scores[i :: len(self._runs)]
      run.save(one, data[i], own, results and results[i], again=again)

  def profile(self, step: int, steps: tuple[int, ...], arrays: Any) -> None:
    """See `Run.profile`; the trace, of all seeds, is with the first."""
    self._runs[0].profile(step, steps, arrays)

  def _split(self, state):
    state = jax.tree.map(np.asarray, state)
    return [jax.tree.map(lambda x, i=i: x[i], state) for i in range(len(self._runs))]
