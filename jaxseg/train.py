"""The training loop, from a config to a work directory."""

import collections
import contextlib
import dataclasses
import functools
import json
import pathlib
import signal
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from jaxseg import UserError, checkpoint, models, optim, parallel, train_state, workdirs
from jaxseg.augment import Augmentation
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
from jaxseg.settings import check_settings
from jaxseg.train_step import make_train_step
from jaxseg.weight_maps import CLASS_BALANCES, count_classes


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
    optim.schedule(
      settings.schedule,
      settings.learning_rate,
      num_steps,
      warmup_steps=min(round(settings.warmup_epochs * epoch_steps), num_steps),
      power=settings.poly_power,
    ),
    momentum=settings.momentum,
    weight_decay=settings.weight_decay,
    rate_factors=settings.rate_factors,
    frozen=("encoder",) if is_frozen(config) else (),
  )
  mesh = parallel.make_mesh()
  train_step = make_train_step(
    model,
    optimizer,
    losses={name: factor for name, factor in settings.losses.items() if factor},
    focal_gamma=settings.focal_gamma,
    class_weights=class_weights(settings, info.classes, source, workdir),
    augmentation=Augmentation(**config.augment),
    border_weight=settings.border_weight,
    border_sigma=settings.border_sigma,
    num_micro_batches=settings.num_micro_batches,
    ema_decay=settings.ema_decay,
  )
  train_step = parallel.distribute_step(train_step, mesh, settings.parallel)
  predict = build_predictor(config, model)

  def is_due(step, every_epochs):
    return step == num_steps or step % max(1, round(every_epochs * epoch_steps)) == 0

  if is_main:
    workdirs.make_folder(workdir, "--workdir")
  with contextlib.ExitStack() as stack:
    manager = stack.enter_context(checkpoint.open_manager(workdir)) if is_main else None
    state, progress = first_state(config, model, info, optimizer, manager)
    progress = parallel.json_from_main(progress or {"data": batches.get_state(), "scores": []})
    batches.set_state(progress["data"])
    scores = progress["scores"]  # mean IoU at every evaluation
    state = parallel.from_main(state)
    step = int(state.step)
    state = parallel.replicate(mesh, state)
    key = parallel.replicate(mesh, jax.random.key(config.seed))
    if is_main:
      workdirs.write_json(pathlib.Path(workdir) / "config.json", config.to_dict())
    log = stack.enter_context(RunLog(workdir, step, num_steps)) if is_main else None
    stop_requested = stack.enter_context(stop_signals())
    meta = {"config": config.to_dict(), "info": dataclasses.asdict(info)}

    unread, recent, start, stop = collections.deque(), [], time.time(), False
    while step < num_steps and not is_stalled(scores, settings.patience):
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
        try:
          result, samples = evaluate_split(
            functools.partial(predict, state.variables), eval_source, info, config
          )
        except UserError as error:
          raise UserError(f"evaluation at step {step}: {error}") from error
        scores.append(result["miou"])
        if is_main:
          split = eval_name(config)
          sheet = report(workdir, split, step, info, result, samples)
          # Curves need neither intervals nor the confusion matrix.
          result = {name: x for name, x in result.items() if not isinstance(x, list)}
          log.write({**line, "split": split, **result}, sheet)
      if saving and is_main:
        progress = {"data": batches.get_state(), "scores": scores}
        checkpoint.save(manager, state, progress, meta, result)
      if logging:
        recent, start = [], time.time()
      if stop:
        break
    if is_main and is_stalled(scores, settings.patience):
      why = f"no better mean IoU in {settings.patience} evaluations: ended at step {step}"
      tqdm.write(why, file=sys.stderr)
  return not stop


def is_stalled(scores, patience):
  """Whether the best of the scores is more than `patience` > 0 evaluations old."""
  return len(scores) > patience > 0 and len(scores) - int(np.argmax(scores)) > patience


def class_weights(settings, classes, source, workdir):
  """f32[C], the product of what the config gives and what the data's frequencies ask for.

  Pixels are counted once and kept in the work directory, in class_counts.json.
  """
  weights = settings.class_weights or (1.0,) * len(classes)
  if len(weights) != len(classes):
    raise UserError(
      f"config.train.class_weights has {len(weights)} numbers for the {len(classes)} classes "
      f"{', '.join(classes)}"
    )
  if settings.class_balance:
    counts = None
    if jax.process_index() == 0:
      path = pathlib.Path(workdir) / "class_counts.json"
      if not path.exists():
        masks = tqdm((x["mask"] for x in source), "pixels of each class", len(source), leave=False)
        workdirs.write_json(path, count_classes(masks, classes))
      counts = json.loads(path.read_text())
    counts = parallel.json_from_main(counts)
    arguments = (list(counts[name].values()) for name in ("pixels", "pixels_of_their_images"))
    weights = np.multiply(weights, CLASS_BALANCES[settings.class_balance](*arguments))
  return jnp.array(weights, jnp.float32)


def first_state(config, model, info, optimizer, manager):
  """The state to start from: the latest checkpoint, else random, pretrained or another run's.

  Args:
    manager: of the checkpoints; None in all processes but the first, whose state will count.
  Returns:
    (TrainState, {"data": position, "scores": [mean IoU of every evaluation]} or None)
  """
  variables = jax.jit(lambda: models.init(model, info.channels, config.seed))()
  create = functools.partial(train_state.create, ema=config.train.ema_decay > 0)
  state = create(variables, optimizer)
  if manager is None:
    return state, None
  if restored := checkpoint.restore(manager, state):
    return restored
  if config.model.encoder and config.model.pretrained:
    variables = models.load_encoder(variables, model.encoder, config.model.pretrained)
  if config.model.init_from:
    variables = start_from(variables, config.model.init_from)
  return create(variables, optimizer), None


def start_from(variables, workdir):
  """Variables with what fits of another run's best checkpoint; says what that was."""
  step, _ = checkpoint.best_checkpoint(workdir, "config.model.init_from")
  donor = checkpoint.restore_variables(workdir, step, None)
  variables, modules = models.take_matching(variables, donor)
  if not modules["taken"]:
    raise UserError(f"nothing in {workdir} fits this network; correct config.model.init_from")
  names = {what: ", ".join(found) or "nothing" for what, found in modules.items()}
  tqdm.write(
    f"from {workdir}, step {step}: took {names['taken']}; new here: {names['new']}; "
    f"left there: {names['left']}",
    file=sys.stderr,
  )
  return variables


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
