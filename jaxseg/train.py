"""The training loop, from a config to a work directory."""

import collections
import contextlib
import dataclasses
import functools
import pathlib
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg import UserError, checkpoint, models, optim, parallel, train_state, workdirs
from jaxseg.augment import BORDERS, Augmentation
from jaxseg.data.input_pipeline import Cached, train_batches
from jaxseg.experiment import (
  build_model,
  build_predictor,
  eval_name,
  evaluate_split,
  is_frozen,
  open_split,
  report,
)
from jaxseg.run_log import RunLog
from jaxseg.train_step import make_train_step
from jaxseg.weight_maps import balanced_class_weights


def train(config, workdir):
  """Trains the run of a work directory, from its latest checkpoint if it has one.

  Args:
    config: ConfigDict with the keys of configs/default.py.  workdir: folder, made if need be.
  Returns:
    True when the run is complete, False when SIGTERM or Ctrl-C ended it after a checkpoint.
  Raises:
    UserError: bad input, or a loss or an evaluation that is not finite.
  """
  # What can be wrong with the input comes first, before minutes of compilation.
  settings, is_main = config.train, jax.process_index() == 0
  check_settings(config)
  workdirs.check_config(workdir, config.to_dict())
  info, source = open_split(config, "train")
  _, eval_source = open_split(config, "eval")
  eval_source = Cached(eval_source, config.data.cache_mb << 20)
  model = build_model(config, info)
  models.check_input(model, info.channels, config.data.image_size)
  batches = train_batches(
    source,
    size=config.data.image_size,
    fit=config.data.fit,
    batch_size=settings.batch_size,
    seed=config.seed,
    margin=model.margin,
    instances=settings.border_weight > 0,
    process=(jax.process_index(), jax.process_count()),
    num_threads=config.data.num_threads,
    cache_mb=config.data.cache_mb,
  )
  epoch_steps = len(source) / settings.batch_size
  num_steps = max(1, round(settings.num_epochs * epoch_steps))

  optimizer = optim.make_optimizer(
    settings.optimizer,
    optim.schedule(settings.schedule, settings.learning_rate, num_steps),
    momentum=settings.momentum,
    frozen=("encoder",) if is_frozen(config) else (),
  )
  mesh = parallel.make_mesh()
  train_step = make_train_step(
    model,
    optimizer,
    class_weights=class_weights(settings, info.classes, source),
    augmentation=Augmentation(**config.augment),
    border_weight=settings.border_weight,
    border_sigma=settings.border_sigma,
  )
  train_step = parallel.distribute_step(train_step, mesh, settings.parallel)
  predict = build_predictor(config, model)

  def is_due(step, every_epochs):
    return step == num_steps or step % max(1, round(every_epochs * epoch_steps)) == 0

  if is_main:
    workdirs.make_folder(workdir, "--workdir")
  with contextlib.ExitStack() as stack:
    manager = stack.enter_context(checkpoint.open_manager(workdir)) if is_main else None
    state, data_state = first_state(config, model, info, optimizer, manager)
    batches.set_state(parallel.json_from_main(data_state or batches.get_state()))
    state = parallel.from_main(state)
    step = int(state.step)
    state = parallel.replicate(mesh, state)
    key = parallel.replicate(mesh, jax.random.key(config.seed))
    if is_main:
      workdirs.write_json(pathlib.Path(workdir) / "config.json", config.to_dict())
    log = stack.enter_context(RunLog(workdir, step, num_steps)) if is_main else None
    stop_requested = stack.enter_context(stop_signals())
    meta = {"config": config.to_dict(), "info": dataclasses.asdict(info)}

    unread, recent, start = collections.deque(), [], time.time()
    while step < num_steps:
      batch = parallel.put_on_mesh(mesh, next(batches), settings.parallel)
      state, metrics = train_step(state, batch, key)
      step += 1
      unread.append((step, metrics))
      stop = stop_requested(step) and step < num_steps
      evaluating = not stop and is_due(step, settings.eval_every_epochs)
      saving = stop or evaluating or is_due(step, settings.checkpoint_every_epochs)
      logging = saving or step % settings.log_every_steps == 0
      # Read one step behind the device, so that it need not wait, but everything before a save.
      while len(unread) > (0 if logging else 1):
        recent.append(read_metrics(*unread.popleft(), manager))
      speed = settings.batch_size * len(recent) / (time.time() - start)
      line = {"step": step, "epoch": step / epoch_steps}
      if is_main and recent:
        log.advance(step, recent[-1]["loss"], speed)
      if is_main and logging:
        means = {name: float(np.mean([x[name] for x in recent])) for name in recent[0]}
        log.write({**line, "split": "train", **means, "images_per_second": speed})
      result = None
      if evaluating:
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        try:
          result, samples = evaluate_split(
            functools.partial(predict, variables), eval_source, info, config
          )
        except UserError as error:
          raise UserError(f"evaluation at step {step}: {error}") from error
        if is_main:
          split = eval_name(config)
          sheet = report(workdir, split, step, info, result, samples)
          # Curves need neither intervals nor the confusion matrix.
          result = {name: x for name, x in result.items() if not isinstance(x, list)}
          log.write({**line, "split": split, **result}, sheet)
      if saving and is_main:
        checkpoint.save(manager, state, batches.get_state(), meta, result)
      if logging:
        recent, start = [], time.time()
      if stop:
        break
  return step == num_steps


def check_settings(config):
  """Raises UserError for numbers with which no training is possible."""
  for key, value in workdirs.flatten(config.to_dict()).items():
    numbers = [x for x in jax.tree.leaves(value) if isinstance(x, float)]
    if not np.isfinite(numbers).all():
      raise UserError(f"config.{key} is {value}, but has to be finite")
  positive = {
    "data.image_size": config.data.image_size,
    "train.num_epochs": config.train.num_epochs,
    "train.batch_size": config.train.batch_size,
    "train.eval_every_epochs": config.train.eval_every_epochs,
    "train.checkpoint_every_epochs": config.train.checkpoint_every_epochs,
    "train.log_every_steps": config.train.log_every_steps,
    "eval.batch_size": config.eval.batch_size,
    "augment.scale": min(config.augment.scale, default=1),
    "train.border_sigma": config.train.border_sigma,
  }
  for key, value in positive.items():
    if value <= 0:
      raise UserError(f"config.{key} is {value}, but has to be positive")
  for key in ("scale", "contrast"):
    value = config.augment[key]
    if len(value) != 2 or value[0] > value[1]:
      raise UserError(f"config.augment.{key} is {value}, but has to be (smallest, largest)")
  limits = {
    "seed": (0, config.seed, 2**32 - 1),
    "data.seed": (0, config.data.seed, 2**32 - 1),
    "data.num_threads": (0, config.data.num_threads, 256),
    "model.dropout": (0, config.model.dropout, 0.99),
    "augment.rotation": (0, config.augment.rotation, 180),
    "augment.shift": (0, config.augment.shift, config.data.image_size),
    "augment.elastic": (0, config.augment.elastic, config.data.image_size),
    "augment.elastic_grid": (2, config.augment.elastic_grid, 64),
    "train.momentum": (0, config.train.momentum, 1),
    "train.border_weight": (0, config.train.border_weight, 1e6),
  }
  for key, (low, value, high) in limits.items():
    if not low <= value <= high:
      raise UserError(f"config.{key} is {value}, but has to be from {low} to {high}")
  if config.augment.border not in BORDERS:
    raise UserError(
      f"unknown config.augment.border {config.augment.border!r}; there are {', '.join(BORDERS)}"
    )
  parallel.check_batch_size(config.train.batch_size)


def class_weights(settings, classes, source):
  """f32[C], the product of what the config gives and, if it asks for that, 1 / frequency."""
  weights = settings.class_weights or (1.0,) * len(classes)
  if len(weights) != len(classes):
    raise UserError(
      f"config.train.class_weights has {len(weights)} numbers for the {len(classes)} classes "
      f"{', '.join(classes)}"
    )
  if settings.balance_classes:
    counts = sum(np.bincount(example["mask"].ravel(), minlength=256) for example in source)
    weights = np.multiply(weights, balanced_class_weights(counts[: len(classes)]))
  return jnp.array(weights, jnp.float32)


def first_state(config, model, info, optimizer, manager):
  """The state to start from: the latest checkpoint, else random or pretrained weights.

  Args:
    manager: of the checkpoints; None in all processes but the first, whose state will count.
  Returns:
    (TrainState, position in the data or None)
  """
  variables = jax.jit(lambda: models.init(model, info.channels, config.seed))()
  state = train_state.create(variables, optimizer)
  if manager is None:
    return state, None
  if restored := checkpoint.restore(manager, state):
    return restored
  if config.model.encoder and config.model.pretrained:
    variables = models.load_encoder(variables, model.encoder, config.model.pretrained)
  return train_state.create(variables, optimizer), None


def read_metrics(step, metrics, manager):
  """Metrics of a step as floats; raises UserError, naming the step, if the loss is not finite."""
  metrics = {name: float(np.asarray(value)) for name, value in metrics.items()}
  if not np.isfinite([metrics["loss"], metrics["grad_norm"]]).all():
    if manager:
      manager.wait_until_finished()
    kept = manager and manager.latest_step()
    raise UserError(
      f"loss {metrics['loss']}, gradient norm {metrics['grad_norm']} at step {step}: stopped; "
      + ("no checkpoint was made yet" if kept is None else f"the last good checkpoint is {kept}")
      + "; lower config.train.learning_rate or look at the data"
    )
  return metrics


@contextlib.contextmanager
def stop_signals():
  """Gives `stop_requested(step) -> bool`: whether to save and leave, the same in all processes.

  SIGTERM asks for that, and Ctrl-C; a second Ctrl-C stops at once.
  """
  if jax.process_count() > 1:
    from jax.experimental import multihost_utils

    # jax.distributed listens for SIGTERM itself and lets all processes agree on a step.
    yield multihost_utils.reached_preemption_sync_point
    return
  received = []

  def note(number, _):
    received.append(number)
    signal.signal(number, previous[number])

  previous = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
  try:
    yield lambda step: bool(received)
  finally:
    for number, handler in previous.items():
      signal.signal(number, handler)
