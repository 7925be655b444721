"""A training run's output: checkpoints, logs, plots and the progress bar, by process 0 alone."""

import collections
import collections.abc
import contextlib
import dataclasses
import os
import pathlib
import shlex
import sys
import time
import uuid
from typing import Any, Self

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image
from tqdm import tqdm

from jaxseg import UserError, checkpoint, notebook, parallel, results, settings, workdirs
from jaxseg.data.decode import DatasetInfo
from jaxseg.events import open_events
from jaxseg.html_page import ink
from jaxseg.printing import printable
from jaxseg.report_page import Evaluation
from jaxseg.train_state import TrainState
from jaxseg.visualize import curves

BLANK = 5  # batches without a label; more than chance gives


class Run:
  """Checkpoints, metrics, plots and the progress bar of a run; use it in a `with` block.

  Only process 0 reads and writes files; it sends the others what it reads.

  Args:
    examples: {"train", "eval": see `changes.digest`}, which checkpoints keep.
    name: what its lines begin with, if others train beside it, see `seeds.Runs`: "seed 1: ".

  Attributes:
    latest: (loss, images per second) of the last step whose metrics were read; None before.
  """

  def __init__(
    self,
    workdir: str | pathlib.Path,
    config: ConfigDict,
    info: DatasetInfo,
    examples: collections.abc.Mapping[str, dict] | None = None,
    name: str = "",
  ):
    self._examples, self.name, self.latest = dict(examples or {}), name, None
    self._workdir, self._own, self._config = pathlib.Path(workdir), config, saved_form(config)
    self._meta = {"config": self._config, "info": dataclasses.asdict(info)}
    self._info = info
    self._stack = contextlib.ExitStack()
    self._manager = self._events = self._bar = self._curves = None
    self._unread, self._recent, self._start = collections.deque(), [], time.time()
    self._blank = 0  # batches without a label
    self._places = {}  # {name of a picture: display_id of its place in a notebook}

  def __enter__(self) -> Self:
    if parallel.is_main():
      workdirs.make_folder(self._workdir, "--workdir")
      checkpoint.set_aside_damaged(self._workdir)
      self._manager = self._stack.enter_context(checkpoint.open_manager(self._workdir))
    return self

  def __exit__(self, *error: Any) -> bool | None:
    return self._stack.__exit__(*error)

  def restore(
    self, begin: collections.abc.Callable[[ConfigDict], tuple], data: Any
  ) -> tuple[TrainState, dict]:
    """The state and progress of the latest checkpoint, or those of a new run.

    Args:
      begin: function of the config to (TrainState of the right structure, function without
        arguments that makes that of a new run).
      data: JSON-able position in the data of a new run.
    Returns:
      (TrainState of numpy arrays, {"data": position, "scores": [mean IoU of each evaluation],
      "evaluated": whether the checkpoint was, "examples": of the checkpoint, if it has them})
    """
    progress, (state, first) = None, begin(self._own)
    if self._manager is not None:
      new = {"data": data, "scores": []}
      found = checkpoint.restore(self._workdir, state)
      state, progress, evaluated = found or (first(), new, False)
      progress = {**progress, "evaluated": evaluated}
    progress = parallel.json_from_main(progress)
    return parallel.from_main(state), progress

  def set_aside_after(self, step: int) -> None:
    """Moves checkpoints of later steps out of the way, see `checkpoint.set_aside_later`."""
    if checkpoint.set_aside_later(self._workdir, step):
      self._manager.reload()

  def start(self, step: int, num_steps: int, about: str) -> None:
    """Starts logging; drops what a killed run logged after `step`.

    Args:
      about: first line to print; without one, there is no progress bar either.
    """
    if self._manager is None:
      return
    workdirs.write_json(self._workdir / "config.json", self._config)
    if not step:  # it would be of another network
      for name in (workdirs.CALIBRATION, results.ORIGIN):
        (self._workdir / name).unlink(missing_ok=True)
    workdirs.forget_metrics_after(self._workdir, step)
    self._events = open_events(self._workdir, purge_step=step + 1)
    self._stack.callback(self._events.close)
    if not about:
      return
    self._bar = notebook.progress(initial=step, total=num_steps, unit="step")
    self._stack.callback(self._bar.close)
    tell(about)
    if step < num_steps:
      self._bar.set_postfix_str("compiling the first step")

  def record(
    self, step: int, metrics: dict, line: dict | None, batch_size: int, num_steps: int = 1
  ) -> None:
    """Takes the metrics of a step; with a line, writes the means since the last one.

    Metrics are read one call behind the device, so that it need not wait.

    Args:
      metrics: {name: array []}; or {name: array [n]}, n >= num_steps, of the last `num_steps`
        steps.  line: {"step", "epoch", ...} to write, after reading all metrics.
    Raises:
      UserError: a loss or gradient that is not finite, in all processes.
    """
    self._unread.append((step - num_steps, metrics, num_steps))
    while len(self._unread) > (0 if line else 1):
      before, metrics, num_steps = self._unread.popleft()
      metrics = {name: np.ravel(np.asarray(x)) for name, x in metrics.items()}
      for i in range(num_steps):
        values = {name: float(x[i]) for name, x in metrics.items()}
        self._recent.append(self._checked(before + i + 1, values))
    if not self._recent:
      return
    speed = batch_size * len(self._recent) / (time.time() - self._start)
    self.latest = self._recent[-1]["loss"], speed
    if not self.name:
      self.advance(step, *self.latest)
    if line:
      means = {k: float(np.mean([x[k] for x in self._recent])) for k in self._recent[0]}
      self.write({**line, "split": "train", **means, "images_per_second": speed})

  def restart_clock(self) -> None:
    """Measures speed from here on."""
    self._recent, self._start = [], time.time()

  def advance(self, step: int, loss: float, images_per_second: float) -> None:
    """Moves the progress bar to a step; `loss` is the latest known."""
    if self._bar is not None:
      text = f"loss {loss:.4f}, {images_per_second:.1f} images/s"
      self._bar.set_postfix_str(text, refresh=False)
      self._bar.update(step - self._bar.n)

  @contextlib.contextmanager
  def saying(self, text: str) -> collections.abc.Iterator[None]:
    """The progress bar says so in a `with` block, then again what it said before."""
    if self._bar is None:
      yield
      return
    before = self._bar.postfix
    self._bar.set_postfix_str(text)
    yield
    self._bar.set_postfix_str(before or "", refresh=False)

  def write(self, line: dict, sheet: pathlib.Path | None = None) -> None:
    """Records numbers in metrics.jsonl, TensorBoard and the curves.

    Args:
      line: {"step", "epoch", "split", names: numbers or {class: number or None}}.
      sheet: path of the picture that belongs to it.
    """
    if self._events is None:
      return
    workdirs.append_metrics(self._workdir, line)
    step, split = line["step"], line["split"]
    for name, value in line.items():
      if name in ("step", "split"):
        continue
      values = {f"{name}/{k}": v for k, v in value.items()} if isinstance(value, dict) else None
      for tag, number in (values or {name: value}).items():
        if number is not None:
          self._events.scalar(f"{split}/{tag}", number, step)
    if sheet:
      picture = np.asarray(Image.open(sheet).convert("RGB"))
      self._events.image(f"{split}/predictions", picture, step)
    self._events.flush()
    if "miou" in line:
      path = self._workdir / "plots" / "curves.png"
      with ink():
        self._curves = curves(path, workdirs.read_metrics(self._workdir))
      scores = f"mean IoU {line['miou']:.4f}, pixel accuracy {line['pixel_accuracy']:.4f}"
      tell(f"{self.name}step {step} ({split}): {scores}, loss {line['loss']:.4f}")
      self._show("curves", path)
      if sheet:
        self._show("predictions", sheet)

  def _show(self, name, path):
    """Shows a picture in a notebook, in the place of the previous one of that name."""
    update = name in self._places
    notebook.show(path, self._places.setdefault(name, uuid.uuid4().hex), update=update)

  def report(self, line: dict, split: str, evaluation: Evaluation) -> None:
    """Writes an evaluation: a line of metrics, and the files of `results`."""
    if self._manager is None:
      return
    step, info, config = line["step"], self._info, settings.from_run(self._config)
    sheet = results.write(self._workdir, split, step, info, evaluation)
    self.write({**line, "split": split, **results.numbers(evaluation.result)}, sheet)
    about = results.about(split, step, evaluation.result["num_images"], config, {})
    results.write_page(self._workdir, about, info, evaluation, config, drawn=self._curves)

  def each(self, function: collections.abc.Callable, state: TrainState, *rest: Any) -> Any:
    """function(self, state, *rest), for each of several runs."""
    return function(self, state, *rest)

  def wait(self) -> None:
    """Waits until the last checkpoint is complete."""
    if self._manager is not None:
      self._manager.wait_until_finished()

  def save(
    self, state: TrainState, data: Any, scores: list, result: dict | None, *, again: bool = False
  ) -> None:
    """Saves a checkpoint in the background.

    Args:
      result: its scores if it was evaluated.  again: replaces the checkpoint of the same step, and
        waits until it has.
    """
    if self._manager is not None:
      (self._workdir / "config.json").stat()  # an error if somebody removed it; Orbax makes it anew
      metrics = result and results.numbers(result)
      progress = {"data": data, "scores": [*scores], "examples": self._examples}
      with contextlib.ExitStack() as stack:
        if again:
          stack.enter_context(checkpoint.replaced(self._workdir, int(state.step)))
          self._manager.reload()
        checkpoint.save(self._manager, state, progress, self._meta, metrics)
        if again:
          self.wait()

  def profile(self, step: int, steps: tuple[int, ...], arrays: Any) -> None:
    """Writes a jax.profiler trace from before the first to after the last of `steps`.

    It ends with the run, if that is earlier.

    Args:
      step: about to begin.  arrays: results of the previous step, which it waits for.
    """
    if self._manager is None or not steps or step not in (steps[0], steps[1] + 1):
      return
    jax.block_until_ready(arrays)
    if step == steps[0]:
      jax.profiler.start_trace(self._workdir / "profile")
      self._stack.callback(self._stop_trace)
    else:
      self._stop_trace()

  def _stop_trace(self):
    with contextlib.suppress(RuntimeError):  # stopped before
      jax.profiler.stop_trace()

  def _checked(self, step, metrics):
    if not np.isfinite([metrics["loss"], metrics["grad_norm"]]).all():
      self.wait()
      kept, remedy = "see the error of process 0 for the last good checkpoint", ""
      if self._manager is not None:
        step_kept = self._manager.latest_step()
        kept = f"the last good checkpoint is {step_kept}"
        if step_kept is None:
          kept = "there is no checkpoint yet"
          if self._own.model.init_from:
            remedy = ", take other weights than those of config.model.init_from,"
        else:  # the run keeps its learning rate
          start = shlex.quote(str(self._workdir))
          remedy = f" in another run (--workdir=NEW --config.model.init_from={start})"
      raise UserError(
        f"{self.name}loss {metrics['loss']}, gradient norm {metrics['grad_norm']} at step {step}: "
        f"stopped; {kept}; lower config.train.learning_rate{remedy} or check the data"
      )
    self._blank += not metrics["num_pixels"]
    if self._blank == BLANK and not metrics["num_pixels"]:
      tell(
        f"{self.name}note: {BLANK} batches had no pixel with a label, the last at step {step}, and "
        "taught nothing: look at the masks with --mode=check_data (said once)"
      )
    return metrics


def saved_form(config: ConfigDict) -> dict:
  """What config.json holds, for modes that start in another directory."""
  saved = config.to_dict()
  folder = config.data.data_dir
  source = config.data.source
  if config.data.name == "huggingface" and not (folder or os.path.isabs(source)):
    folder = "." if os.path.exists(source) else ""  # else a name on the Hub
  if folder:
    saved["data"]["data_dir"] = os.path.abspath(os.path.expanduser(folder))
  return saved


def tell(text: str) -> None:
  """Prints a line above the progress bar, in process 0 only."""
  if parallel.is_main():
    tqdm.write(printable(text), file=sys.stderr)
