"""The training loop, from a config to a work directory."""

import collections.abc
import contextlib
import dataclasses
import functools
import itertools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jaxseg import (
  UserError,
  build,
  checkpoint,
  checks,
  faults,
  models,
  on_device,
  packed,
  parallel,
  predictors,
  public,
  seed_axis,
  seed_scores,
  seeds,
  settings,
  spatial,
)
from jaxseg.data import changes
from jaxseg.data.decode import DatasetInfo
from jaxseg.data.input_pipeline import Cached, fitted_source, with_fast_jpeg
from jaxseg.data.source_checks import check_source, with_checks
from jaxseg.data.stored import Kept, Stored, store
from jaxseg.first_pass import class_counts, measured_range, share
from jaxseg.initial_state import new_state, pretrained_state
from jaxseg.locks import only_training
from jaxseg.modes import evaluate_split
from jaxseg.notebook import warn
from jaxseg.platforms import usual_rules
from jaxseg.predict import Predictor
from jaxseg.run import Run, tell
from jaxseg.stop_requests import stop_signals
from jaxseg.tally import for_scores
from jaxseg.workdirs import with_home


@with_home("workdir")
@usual_rules()
def train(config: ConfigDict, workdir: str | pathlib.Path) -> bool:
  """Trains the run of a work directory, from its latest checkpoint if it has one.

  Args:
    config: with the keys of configs/default.py.  workdir: folder, created if missing.
  Returns:
    True when the run is complete, False when SIGTERM or Ctrl-C ended it after a checkpoint.
  Raises:
    UserError: bad input, or a loss or an evaluation that is not finite.
  """
  parallel.use_compilation_cache()
  with settings.config_errors():
    build.check_training(config := settings.expand_home(config))
    remedy = f"train in another --workdir, with `init_from`={workdir}"
    packed.check_is_none(workdir, remedy)
    public.check_is_none(workdir, remedy)
    folders = list(seeds.folders(config, workdir).values())
    # The locks outside: they take away the folder of a run that has not begun.
    with contextlib.ExitStack() as stack:
      for folder in dict.fromkeys((workdir, *folders)):
        stack.enter_context(only_training(folder))
      stack.enter_context(faults.of_run(workdir, folders))
      for folder in (workdir, *folders) if parallel.is_main() else ():
        checkpoint.bring_back(folder)
      return _train(config, workdir)


def _train(config, workdir):
  # All input is checked first, before minutes of compilation.
  options, size = config.train, config.data.image_size
  # What failed before its first checkpoint binds nobody: its config may have been the reason.
  reuse = parallel.on_main(seeds.check_resumes, config, workdir)
  if not reuse:
    checks.check_own_keys(config)
  configs, (folder, *others) = zip(*seeds.members(config, workdir), strict=True)
  value_range = measured_range(config, folder, reuse=reuse)
  info, source = build.open_split(config, "train", value_range=value_range)
  checks.check_with_data(config, info)
  eval_info, eval_source = build.open_split(config, "eval", value_range=value_range)
  check_source(source, info)
  examples = {"train": changes.digest(source), "eval": changes.digest(eval_source)}
  eval_info = dataclasses.replace(info, dtype=eval_info.dtype)
  check_source(eval_source, eval_info)
  eval_source = Cached(with_checks(eval_source, eval_info), config.data.cache_mb << 20)
  model = build.build_model(config, info)
  fast = config.data.fast_jpeg
  source = with_checks(with_fast_jpeg(source, size - 2 * model.margin) if fast else source, info)
  epoch_steps = len(source) / options.batch_size
  num_steps = max(1, round(options.num_epochs * epoch_steps))
  optimizer, learning_rate = build.build_optimizer(config, num_steps, epoch_steps)
  counts = class_counts(config, info, source, folder, reuse=reuse)
  share(folder, others)
  weights = build.class_weights(config, info.classes, counts)
  mesh = seed_axis.make_mesh(len(configs)) if others else spatial.make_mesh(config.parallel.space)
  stored = store_on_devices(config, source, model.margin, mesh)
  kept = stored.examples if stored else source
  batches = open_batches(configs, info, kept, model.margin, counts, bool(stored))
  profiled = np.add(options.profile_steps, (0, 1)) if options.profile_steps else ()
  epochs = options.eval_every_epochs, options.checkpoint_every_epochs
  eval_period, save_period = (max(1.0, n * epoch_steps) for n in epochs)
  periods = num_steps, options.log_every_steps, eval_period, save_period
  call_steps = int(min(options.steps_per_call, *periods))  # no call is longer

  def is_due(step, period):
    return step == num_steps or step == round(round(step / period) * period)

  def ends_call(step):
    """Whether the host has something to do between this step and the next."""
    return step + 1 in profiled or any(is_due(step, period) for period in periods)

  wrap = functools.partial(
    with_less_host, config=config, mesh=mesh, stored=stored, num_steps=call_steps
  )
  train_step = build.build_train_step(config, model, optimizer, weights, mesh, info, wrap)
  predict = predictors.build_predictor(config, model, info)
  keep = Kept(tell) if config.data.on_device else iter
  if config.data.on_device and not isinstance(predict, Predictor):
    tell("config.data.on_device: a CRF or several scales follow the network, so that images of the "
         "evaluation come from the host")  # fmt: skip

  run = (seeds.Runs if others else Run)(workdir, config, info, examples)
  closing = contextlib.closing(batches)
  with run, closing, stop_signals() as stop_requested:

    def begin(config):
      state = new_state(config, model, info, optimizer)
      return state, lambda: pretrained_state(config, model, state, optimizer, info.channels)

    state, so_far = run.restore(begin, batches.get_state())
    batches.set_state(so_far["data"])
    tell_changes(so_far.get("examples", {}), examples)
    scores, step, stop, calls = so_far["scores"], int(np.max(state.step)), False, 0

    def evaluate(one, state, line):
      """Scores one of the runs."""
      try:
        predictor = for_scores(predict, state.variables, keep)
        with run.saying(f"{one.name}evaluating"):
          evaluation = evaluate_split(predictor, eval_source, info, config)
      except UserError as error:
        text = f"{one.name}evaluation at step {line['step']}: {error}"
        raise UserError(text).with_traceback(error.__traceback__) from error.__cause__
      scores.append(evaluation.result["miou"])
      one.report(line, build.eval_name(config), evaluation)
      return evaluation.result

    variables = models.abstract_variables(model, info.channels)
    cost = models.summary(model, variables, info.channels, size, compile=False)
    memory = sum(x.nbytes for x in jax.tree.leaves(state)) / 2**20
    about = build.network_line(config, model, info, cost)
    if step > num_steps and not parallel.on_main(_has_same_epochs, config, workdir):
      raise UserError(
        f"{workdir} has been trained for {step / epoch_steps:g} epochs, so that `train.num_epochs` "
        f"cannot become {options.num_epochs:g}: give more than these, or leave the key out"
      )
    about += f"; {len(configs)} seeds" if others else ""
    run.start(step, num_steps, f"{about}; weights and optimizer state {memory:.3g} MiB")
    state = parallel.replicate(mesh, state)
    keys = [jax.random.key(one.seed) for one in configs]
    key = parallel.replicate(mesh, jnp.stack(keys) if others else keys[0])

    if step and is_due(step, eval_period) and not so_far["evaluated"]:
      # The run was stopped at this step, without time for its evaluation.
      result = run.each(evaluate, state, {"step": step, "epoch": step / epoch_steps})
      run.save(state, batches.get_state(), scores, result, again=True)
      run.restart_clock()
    if step >= num_steps:
      more = f"; with config.train.num_epochs above {options.num_epochs:g}, training goes on"
      more = more if options.schedule == "constant" else ""
      tell(f"already complete: {step} of {num_steps} steps{more}")
    elif options.profile_steps and not step < options.profile_steps[0] <= num_steps:
      tell(
        f"note: no profile is written, as config.train.profile_steps={options.profile_steps} does "
        f"not begin in steps {step + 1} to {num_steps}, which this run takes now"
      )
    while step < num_steps and not is_stalled(scores, options.patience):
      run.profile(step + 1, options.profile_steps, state)
      num = 1
      while num < call_steps and not ends_call(step + num):
        num += 1
      batch = on_device.stack_batches(list(itertools.islice(batches, num)), call_steps)
      batch = parallel.put_on_mesh(mesh, batch, options.parallel)
      batch |= {"stored": stored.arrays} if stored else {}
      state, metrics = train_step(state, batch, key)
      step, calls = step + num, calls + 1
      stop = stop_requested(calls) and step < num_steps
      evaluating = not stop and is_due(step, eval_period)
      saving = stop or evaluating or is_due(step, save_period)
      logging = saving or step % options.log_every_steps == 0
      line = {"step": step, "epoch": step / epoch_steps}
      rate = {"learning_rate": float(learning_rate(step - 1))} if logging else {}
      run.record(step, metrics, line | rate if logging else None, options.batch_size, num)
      result = run.each(evaluate, state, line) if evaluating else None
      if saving:
        run.save(state, batches.get_state(), scores, result)
      if logging:
        run.restart_clock()
      if stop:
        break
    if is_stalled(scores, options.patience):
      tell(f"early stopping at step {step}: no better mean IoU in {options.patience} evaluations")
  if others and not stop:
    try:
      seed_scores.write(workdir, seeds.folders(config, workdir), info.palette)
    except UserError as error:
      if calls or not (pathlib.Path(workdir) / seed_scores.SUMMARY).exists():
        raise
      warn(f"{seed_scores.SUMMARY} stays as it was: {error}")  # nothing was trained
  return not stop


def _has_same_epochs(config, workdir):
  """Whether a run has more steps than it would have now because it has fewer images now."""
  saved = settings.read_run(workdir)
  return saved is not None and saved.train.num_epochs == config.train.num_epochs


def open_batches(
  configs: collections.abc.Sequence[ConfigDict],
  info: DatasetInfo,
  source: collections.abc.Sequence,
  margin: int,
  *rest: Any,
) -> collections.abc.Iterator:
  """The batches of one seed or several, whose threads share what they have decoded.

  Args:
    configs: of each seed.  info, source, margin, rest: see `build.build_batches`.
  """
  if not configs[1:]:
    return build.build_batches(configs[0], info, source, margin, *rest)
  data = configs[0].data
  source = fitted_source(
    source,
    size=data.image_size,
    fit=data.fit,
    margin=margin,
    instances=build.needs_instances(configs[0]),
    max_bytes=(data.cache_mb << 20) // max(1, len(configs) * data.num_workers),
  )
  return seeds.Batches([build.build_batches(one, info, source, margin, *rest) for one in configs])


def tell_changes(
  before: collections.abc.Mapping[str, dict], now: collections.abc.Mapping[str, dict]
) -> None:
  """Says whether the data are others than before, and what that means.

  Args:
    before: {"train", "eval": see `changes.digest`} of the checkpoint, maybe empty.  now: of today.
  """
  if text := changes.difference(before.get("train", {}), now["train"]):
    tell(
      f"note: the training split has changed since the checkpoint ({text}): the run goes on with "
      "what is there now, in another order, and this epoch may repeat examples and leave out "
      "others; to continue bit for bit, stop and restore the files"
    )
  if text := changes.difference(before.get("eval", {}), now["eval"]):
    tell(
      f"note: the evaluation split has changed since the checkpoint ({text}): scores from now on "
      "do not compare with those before, by which the best checkpoint is chosen"
    )


def store_on_devices(
  config: ConfigDict, source: collections.abc.Sequence, margin: int, mesh: jax.sharding.Mesh
) -> Stored | None:
  """The training data on the devices, if the config wants that and they fit; says so in a line."""
  data = config.data
  if not data.on_device:
    return None
  stored, line = store(
    source,
    mesh,
    size=data.image_size,
    fit=data.fit,
    strategy=config.train.parallel,
    margin=margin,
    instances=build.needs_instances(config),
    keep_masks=data.class_crops > 0,
    num_threads=data.num_threads,
  )
  tell(line)
  if stored and data.num_workers:
    tell("note: config.data.num_workers is not used, as the training data are on the devices")
  return stored


def with_less_host(
  step: collections.abc.Callable,
  *,
  config: ConfigDict,
  mesh: jax.sharding.Mesh,
  stored: Stored | None,
  num_steps: int,
) -> collections.abc.Callable:
  """A step that takes its batches out of stored data, and `num_steps` of these as one."""
  if stored:
    step = on_device.from_stored(step, mesh, config.data.image_size, stored.is_split)
  step = on_device.repeated(step) if num_steps > 1 else step
  return seed_axis.over_seeds(step, mesh) if parallel.SEED in mesh.axis_names else step


def is_stalled(scores: collections.abc.Sequence[float], patience: int) -> bool:
  """Whether none of the last `patience` > 0 scores is better than those before."""
  return len(scores) > patience > 0 and len(scores) - int(np.argmax(scores)) > patience
