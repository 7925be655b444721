"""The door to configs: reads them back from runs, applies overrides, checks every value.

Code behind the door does not know config keys. Its errors name its own arguments in backticks, as
in "`up` is 'x'"; `config_errors` turns these into the keys that a user sets.
"""

import collections.abc
import contextlib
import json
import os
import pathlib
import re
import shlex
from typing import Any

from ml_collections import ConfigDict

from jaxseg import UserError, checkpoint, packed, schema, workdirs
from jaxseg.notebook import warn

# Their choices are tables that a user's config file may extend.
OPEN_KEYS = ("data.name", "model.name", "model.encoder", "augment.extra")
FOLDER = ("classes", "channels")  # what a folder of images has to be told
# Groups that take no keys of the user's own: all of their keys are keywords of one function.
CLOSED_GROUPS = ("augment", "predict", "crf", "export", "parallel")


def declared_keys() -> dict[str, schema.Key]:
  """{"train.batch_size": Key}: the declarations of configs/default.py."""
  from configs import default  # here, because it imports what its choices come from

  return default.keys()


def from_run(saved: collections.abc.Mapping) -> ConfigDict:
  """The config of an earlier run, from the nested dict of its config.json; see `saved_values`.

  Its config.parallel, by which its processes found each other, is reset to the defaults.
  """
  keys = declared_keys()
  values = schema.saved_values(saved, keys)
  _check_groups(values, "the config of the run")
  values |= {name: keys[name].default for name in keys if name.startswith("parallel.")}
  return schema.to_config(values)


def _check_groups(names: collections.abc.Collection[str], where: str):
  """Raises UserError for a name that is a key and, with other names behind it, a group of keys."""
  groups = {name[:i] for name in names for i, letter in enumerate(name) if letter == "."}
  if wrong := groups.intersection(names):
    raise UserError(f"{where} has config.{min(wrong)[:80]} as a key and as a group: it is damaged")


def override(config: ConfigDict, values: collections.abc.Mapping[str, Any]) -> ConfigDict:
  """A copy of a config with other values for single keys.

  Args:
    values: {"predict.tta": "flip"}.
  Raises:
    UserError: an unknown key, or a value that the key cannot have.
  """
  keys, flat = declared_keys(), schema.flatten(config.to_dict())
  for name in values:
    if name not in flat:
      raise schema.unknown_key(name, flat, keys)
  schema.check_values(values, keys)
  cast = {name: keys[name].cast(x) if name in keys else x for name, x in values.items()}
  return schema.to_config({**flat, **cast})


def parse_overrides(
  config: ConfigDict, texts: collections.abc.Mapping[str, str | None]
) -> dict[str, Any]:
  """Values of flags --config.KEY=TEXT, in the types of their keys; see `schema.parse_value`.

  Raises:
    UserError: an unknown key, or a value that the key cannot have.
  """
  keys, flat = declared_keys(), schema.flatten(config.to_dict())
  values = {}
  for name, text in texts.items():
    if name not in flat:
      raise schema.unknown_key(name, flat, keys)
    declaration = keys.get(name) or schema.Key(flat[name], "")  # a key of the user's own
    values[name] = schema.parse_value(name, text, declaration)
  return values


def check(config: ConfigDict) -> None:
  """Raises UserError for values that no mode can work with."""
  keys, values = declared_keys(), config_values(config)
  for name in keys:
    if name not in values:
      raise UserError(f"config.{name} is missing; start from configs/default.py")
  schema.check_values(values, keys)
  for name, value in values.items():
    if name not in keys and name.partition(".")[0] in CLOSED_GROUPS:
      raise schema.unknown_key(name, keys, keys)
    try:
      json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
      kind = type(value).__name__
      raise UserError(f"config.{name} is a {kind}, which config.json cannot hold") from error
  for name in ("scale", "contrast", "saturation", "gamma"):
    value = config.augment[name]
    if value[0] > value[1]:
      raise UserError(f"config.augment.{name} is {value}, but has to be (smallest, largest)")
  if not any(config.train.losses.values()):
    names = ", ".join(config.train.losses)
    raise UserError(f"config.train.losses are all 0; set one of {names}")


def check_own_values(config: ConfigDict) -> None:
  """Raises UserError for a value that a key of jaxseg cannot have; names in tables may be any."""
  values, keys = config_values(config), declared_keys()
  schema.check_values({x: value for x, value in values.items() if x not in OPEN_KEYS}, keys)


def check_saved(config: ConfigDict, workdir: str | pathlib.Path) -> None:
  """`check_own_values` of the config.json in a work directory."""
  try:
    check_own_values(config)
  except UserError as error:
    raise UserError(f"{workdir}/config.json is damaged ({error}): restore it") from error


def config_values(config: ConfigDict) -> dict[str, Any]:
  """{"train.batch_size": 16, ...} with tuples as they are."""
  flat = {}
  for name in schema.flatten(config.to_dict()):
    value = config
    for part in name.split("."):
      value = value[part]
    flat[name] = value
  return flat


def changed(config: ConfigDict, base: ConfigDict | None = None) -> dict[str, Any]:
  """{key: value} of a config that differ from those of another, or from the defaults."""
  before = schema.flatten((base or from_run({})).to_dict())
  return {
    name: value
    for name, value in schema.flatten(config.to_dict()).items()
    if name not in before or before[name] != value
  }


def for_use(config: ConfigDict) -> ConfigDict:
  """What is to be checked before a network is used: not augmentations that are unknown here."""
  known, group = declared_keys()["augment.extra"].choices, config.get("augment")
  extra = group.get("extra") if isinstance(group, ConfigDict) else None
  if not isinstance(extra, tuple) or not all(isinstance(name, str) for name in extra):
    return config  # wrong, and an error of its own
  return override(config, {"augment.extra": tuple(name for name in extra if name in known)})


@contextlib.contextmanager
def own_entries(is_saved: bool) -> collections.abc.Iterator[None]:
  """Extends the error about a name that is in no table: how to add an entry of one's own.

  Args:
    is_saved: whether the config comes from a run, without the file that fills the tables.
  """
  try:
    yield
  except UserError as error:
    name = str(error).partition(" ")[0].removeprefix("config.")
    if not is_saved or schema.UNKNOWN not in str(error) or name not in OPEN_KEYS:
      raise
    text = "if it is your own, pass the --config file that adds it (in Python, import it first)"
    raise UserError(f"{error}; {text}").with_traceback(error.__traceback__) from error.__cause__


@contextlib.contextmanager
def config_errors(**names: str) -> collections.abc.Iterator[None]:
  """Replaces the arguments that a UserError names in backticks by config keys.

  Args:
    names: keys of arguments that have another name: size="data.image_size". The others are found by
      their last part if that is unique: `tile` is config.predict.tile.
  """
  try:
    yield
  except UserError as error:
    text = with_keys(str(error), names)  # one traceback, not two
    raise UserError(text).with_traceback(error.__traceback__) from error.__cause__


def with_keys(text: str, names: collections.abc.Mapping[str, str] | None = None) -> str:
  """A message with config keys in place of argument names in backticks; see `config_errors`."""
  known: dict[str, Any] = {}
  for name in declared_keys():
    known.setdefault(name.rsplit(".", 1)[-1], []).append(name)
  found = {last: full[0] for last, full in known.items() if len(full) == 1}
  found |= {full: full for names_ in known.values() for full in names_} | dict(names or {})
  return re.sub(r"`([\w.]+)`", lambda m: f"config.{found[m[1]]}" if m[1] in found else m[1], text)


def read_run(workdir: str | pathlib.Path) -> ConfigDict | None:
  """The config of the run in a work directory, in today's keys; None if there is none."""
  saved = read_saved(workdir)
  return None if saved is None else from_run(saved)


def read_saved(workdir: str | pathlib.Path) -> dict | None:
  """The nested dict of a run's config.json; of its best checkpoint, if that is gone or damaged.

  The folder of a checkpoint means its run. Or that of a packed network, flat. Data sets and
  augmentations that are not known here become "folder" and none: predictions do not need them.

  Returns:
    None if there is neither.
  Raises:
    UserError: it is damaged, and there is no checkpoint.
  """
  workdir = packed.find(workdir)
  if packed.is_packed(workdir):
    return _read_packed(workdir)
  workdir = workdirs.run_of(workdir)
  saved, is_damaged = None, False
  try:
    saved = workdirs.saved_config(workdir)
  except UserError:
    is_damaged = True
    if not workdirs.has_checkpoint(workdir):
      raise
  if saved is None and workdirs.has_checkpoint(workdir):
    step, meta = checkpoint.best_checkpoint(workdir)
    saved = meta["config"]
    if is_damaged:
      warn(f"{workdir}/config.json is damaged: the config of checkpoint {step} is used")
  return saved


def _read_packed(folder):
  about = packed.read_config(folder)
  keys, values = declared_keys(), schema.flatten(about["config"])
  known = {*keys, *(declared.was for declared in keys.values())}
  loss = "train.losses."  # of one's own, or a newer one: as in runs, only training needs it
  packed.check_keys(folder, [x for x in values if x not in known and not x.startswith(loss)])
  _check_groups({*known, *values}, f"{folder}/{packed.CONFIG}")
  others = {
    "augment.extra": {"augment.extra": ()},
    "data.name": {"data.name": "folder", **{f"data.{x}": about["info"][x] for x in FOLDER}},
  }
  for name, change in others.items():
    if name in values and keys[name].wrong(values[name]):
      values |= change
  return values


def expand_home(config: ConfigDict) -> ConfigDict:
  """The config with the home folder for ~ in front of files of weights and of runs."""
  values = config_values(config)
  names = ("model.init_from", "model.pretrained")
  given = {x: values[x] for x in names if isinstance(values.get(x), str)}  # `check` says the rest
  return override(config, {name: os.path.expanduser(value) for name, value in given.items()})


def check_resumes(workdir: str | pathlib.Path, saved: ConfigDict, config: ConfigDict) -> None:
  """Raises UserError unless the run in a work directory can go on with a config.

  That is, with keys of scope "free", and with another train.num_epochs if the learning rate of the
  steps that are done does not depend on it.

  Args:
    saved: config of the run.  config: of now.
  """
  before, now = saved.train.num_epochs, config.train.num_epochs
  check_same(workdir, override(saved, {"train.num_epochs": now}), config)
  train = config.train
  depends = train.schedule != "constant" or train.warmup_epochs > min(before, now)
  if now == before or not depends:
    return
  if now < before:
    check_same(workdir, saved, config)
  place = shlex.quote(f"{workdir}_to_epoch_{now:g}")
  donor, of = str(workdir), "this one"
  if saved.train.num_seeds > 1:
    donor, of = f"{workdir}/seed_{saved.seed}", "that of a seed"
  raise UserError(
    f"{workdir}: its learning rate ({train.schedule}) was planned for {before:g} epochs, so that "
    f"config.train.num_epochs cannot become {now:g}; to train {now - before:g} epochs more, start "
    f"a new run from {of}: python -m jaxseg.main --workdir={place} "
    f"--config.model.init_from={shlex.quote(donor)} "
    f"--config.train.num_epochs={now - before:g}"
  )


def check_same(
  workdir: str | pathlib.Path, saved: ConfigDict, config: ConfigDict, **options: Any
) -> None:
  """Raises UserError if a config contradicts that of a run; see `workdirs.check_config`."""
  scopes = {name: declared.scope for name, declared in declared_keys().items()}
  values = (schema.flatten(x.to_dict()) for x in (saved, config))
  workdirs.check_config(workdir, *values, scopes, **options)
