"""Declarations of config keys, and what follows from them: values, checks, documentation.

`configs/default.py` declares every key once, as a `Key`. A declaration gives the key's meaning, its
allowed values and its scope.
"""

import ast
import collections.abc
import dataclasses
import difflib
import numbers
from types import SimpleNamespace as Group
from typing import Any

from ml_collections import ConfigDict

from jaxseg import UserError
from jaxseg.forms import Form, is_number
from jaxseg.printing import shown

SCOPES = {
  "experiment": "fixed while a run trains or resumes; an evaluation may use another value",
  "network": "fixed for the trained network, also when it is scored or used",
  "free": "may change whenever a run resumes or is used",
}
TYPE_NAMES = {bool: "True or False", int: "a whole number", float: "a number", str: "text"}
UNKNOWN = "which is unknown"  # in errors about a value that is not among the choices
MAX_LETTERS = 4096  # of text; the longest path of Linux
SMALLEST = 2.0**-126  # the smallest normal float32; devices take what is smaller for 0


@dataclasses.dataclass(frozen=True)
class Key:
  """One config key.

  Attributes:
    default: its value unless a config or a flag sets another; also gives the type.
    meaning: one line.
    low, high: smallest and largest value.  above: a value that it has to exceed.
    choices: the allowed values, or a table whose keys are read when a value is checked.
    item, length: type and number of the entries of a tuple; limits and choices then apply to each
      entry. The default is always allowed.
    most: entries of a tuple.  form: of a tuple, if its entries are more than numbers or names.
    scope: key of SCOPES.
    was: the key's name in work directories of earlier versions.
  """

  default: Any
  meaning: str
  _: dataclasses.KW_ONLY
  low: float | None = None
  above: float | None = None
  high: float | None = None
  choices: collections.abc.Collection | None = None
  item: type | None = None
  length: int | None = None
  most: int = 2**16
  form: Form | None = None
  scope: str = "experiment"
  was: str = ""

  def __post_init__(self):
    if self.scope not in SCOPES:
      raise ValueError(f"scope is {self.scope!r}; choose from {', '.join(SCOPES)}")

  def wrong(self, value: Any) -> str:
    """What follows "KEY is VALUE, " in the error about a wrong value; "" for a valid one."""
    kind = type(self.default)
    if not _has_type(value, kind):
      example = f", such as {self.default}" if self.default not in ("", ()) else ""
      return f"but has to be {TYPE_NAMES.get(kind) or self._tuple_of()}{example}"
    if kind is not tuple:
      return "" if kind is bool or value == self.default else self._wrong_item(value)
    if self.item and not all(_has_type(x, self.item) for x in value):
      return f"but has to be {self._tuple_of()}"
    if tuples(value) == self.default:
      return ""
    if (self.length or len(value)) != len(value) or (self.form and not self.form.fits(value)):
      return f"but has to be {self._tuple_of()}"
    if len(value) > self.most:
      return f"but has to have at most {self.most:,} entries"
    return next(filter(None, map(self._wrong_item, value)), "")

  def cast(self, value: Any) -> Any:
    """An allowed value in the key's type: 3 -> 3.0, lists -> tuples."""
    kind = type(self.default)
    if kind is not tuple:
      return kind(value)
    return tuple(map(self.item, value)) if self.item in (int, float) else tuples(value)

  def _tuple_of(self):
    if self.form:
      return self.form.words
    number = {2: "two ", 3: "three "}.get(self.length, "")
    names = {int: "whole numbers", float: "numbers", str: "names"}
    return f"a tuple of {number}{names.get(self.item, 'values')}"

  def _wrong_item(self, value):
    if isinstance(value, str) and len(value) > MAX_LETTERS:
      return f"but has to have at most {MAX_LETTERS:,} letters"
    if isinstance(value, str) and "\0" in value:
      return "but no name has a NUL character"
    if isinstance(value, numbers.Real) and not is_number(value):
      return "but has to be finite"
    if isinstance(value, float) and 0 < abs(value) < SMALLEST:
      return f"but float32 has nothing between 0 and {SMALLEST:.4g}"
    if self.choices is not None and value not in self.choices:
      return f"{UNKNOWN}; choose from {', '.join(map(str, self.choices))}"
    if self.low is not None and self.high is not None and not self.low <= value <= self.high:
      return f"but has to be from {self.low} to {self.high}"
    if self.low is not None and value < self.low:
      return f"but has to be {self.low} or more"
    if self.above is not None and value <= self.above:
      return "but has to be positive" if self.above == 0 else f"but has to be above {self.above}"
    if self.high is not None and value > self.high:
      return f"but has to be at most {self.high:,}"
    return ""

  def allowed(self) -> str:
    """The allowed values in words."""
    if self.choices is not None:
      names = ", ".join(map(str, self.choices)) or "none yet, see docs/extend.md"
      return ("any of " if self.item and self.choices else "") + names
    kind = type(self.default)
    text = self._tuple_of() if kind is tuple else TYPE_NAMES[kind]
    if self.low is not None and self.high is not None:
      return f"{text}, {self.low} to {self.high}"
    if self.low is not None:
      return f"{text}, {self.low} or more"
    if self.above is not None:
      return f"{text} above {self.above}, at most {self.high:,}" if self.high else text
    return text


def _has_type(value, kind):
  if kind is tuple:
    return isinstance(value, tuple | list)
  if kind is float:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
  if kind is int:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)
  return isinstance(value, kind)


def flatten_keys(group: Group, prefix: str = "") -> dict[str, Key]:
  """Groups of keys -> {"train.batch_size": Key}, in their order."""
  flat = {}
  for name, value in vars(group).items():
    if isinstance(value, Group):
      flat |= flatten_keys(value, f"{prefix}{name}.")
    else:
      flat[prefix + name] = value
  return flat


def flatten(config: collections.abc.Mapping, prefix: str = "") -> dict[str, Any]:
  """Nested dict -> {"a.b": value}; tuples become lists at every depth, as in JSON."""
  flat = {}
  for name, value in config.items():
    if isinstance(value, collections.abc.Mapping):
      flat |= flatten(value, f"{prefix}{name}.")
    else:
      flat[prefix + name] = _lists(value)
  return flat


def _lists(value):
  return [_lists(x) for x in value] if isinstance(value, tuple | list) else value


def tuples(value: Any) -> Any:
  """Tuples for lists, also in each other."""
  return tuple(tuples(x) for x in value) if isinstance(value, tuple | list) else value


def to_config(values: collections.abc.Mapping[str, Any]) -> ConfigDict:
  """{"a.b": value} -> a locked ConfigDict, with tuples for lists."""
  config = ConfigDict()
  for name, value in values.items():
    *groups, last = name.split(".")
    part = config
    for group in groups:
      if group not in part:
        part[group] = ConfigDict()
      part = part[group]
    part[last] = tuples(value)
  return config.lock()


def check_values(values: collections.abc.Mapping[str, Any], keys: collections.abc.Mapping) -> None:
  """Raises UserError for a value that its key cannot have.

  Args:
    values: {"a.b": value}; those without a declaration are the user's own.
    keys: {"a.b": Key}.
  """
  for name, value in values.items():
    if name in keys and (problem := keys[name].wrong(value)):
      raise UserError(f"config.{name} is {shown(value)}, {problem}")


def parse_value(name: str, text: str | None, declared: Key) -> Any:
  """The value of --config.NAME=TEXT; `text` is None if there is no "=".

  Raises:
    UserError: the text does not fit the key's type.
  """
  kind, value = type(declared.default), text
  if kind is bool:
    words = {None: True, "true": True, "1": True, "false": False, "0": False}
    value = words.get(text and text.strip().lower(), text)
  elif text is None:
    raise UserError(f"--config.{name} has no value; write --config.{name}=VALUE")
  elif kind is not str:
    try:
      value = ast.literal_eval(text.strip() or "()")
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
      names = tuple(name.strip() for name in text.split(","))
      value = names if kind is tuple and declared.item is str else text
    if kind is tuple and declared.item is str and isinstance(value, str):
      value = (value,)
    if kind is float and isinstance(value, str) and value in ("inf", "-inf", "nan"):
      value = float(value)
  if problem := declared.wrong(value):
    raise UserError(f"config.{name} is {shown(value)}, {problem}")
  return declared.cast(value)


def unknown_key(
  name: str, known: collections.abc.Iterable[str], keys: collections.abc.Mapping[str, Key]
) -> UserError:
  """The error for an unknown key; it suggests the most similar one of `known`.

  Args:
    keys: the declared keys, of which some had another name before.
  """
  for new, declared in keys.items():
    if declared.was and declared.was == name:
      return UserError(f"config key {name!r} is called {new!r} now")
  known = list(known)
  if any(other.startswith(f"{name}.") for other in known):
    return UserError(f"{name!r} is a group of config keys; set one of them by --config.{name}.KEY")
  by_last = {other.rsplit(".", 1)[-1]: other for other in known}
  near = difflib.get_close_matches(name, known, 1, 0.75)
  near = near or [by_last[x] for x in difflib.get_close_matches(name.split(".")[-1], by_last, 1)]
  hint = f"did you mean {near[0]!r}?" if near else "--mode=keys lists all keys"
  return UserError(f"unknown config key {name!r}; {hint}")


def saved_values(saved: collections.abc.Mapping, keys: collections.abc.Mapping) -> dict[str, Any]:
  """The config of an earlier run in today's keys.

  A renamed key is translated, a key that the run lacked takes its default, and a key that is not
  declared stays as it is.

  Args:
    saved: nested dict, as in config.json.  keys: {"a.b": Key}.
  Returns:
    {"a.b": value}
  """
  names = {declared.was: name for name, declared in keys.items() if declared.was}
  given = {names.get(name, name): value for name, value in flatten(saved).items()}
  return {**{name: declared.default for name, declared in keys.items()}, **given}


def describe_keys(keys: collections.abc.Mapping) -> str:
  """The text of --mode=keys: name, default, meaning and values of every key."""
  lines = []
  for name, declared in keys.items():
    lines.append(f"config.{name} = {declared.default!r}")
    lines.append(f"    {declared.meaning}")
    lines.append(f"    {declared.allowed()}; {SCOPES[declared.scope]}")
  return "\n".join(lines)


def keys_page(keys: collections.abc.Mapping) -> str:
  """docs/config.md: a table of all keys for each group, in Markdown."""
  lines = [
    "# Config keys",
    "",
    "Set a key in a config file, or on the command line as `--config.KEY=VALUE`. This page is",
    "written by `python -m jaxseg.main --mode=keys --output=docs` from",
    "[configs/default.py](../configs/default.py), where the keys are declared.",
    "",
    "The last column says when a key may change:",
    "",
    *(f"- **{scope}**: {text}." for scope, text in SCOPES.items()),
  ]
  group = None
  for name, declared in keys.items():
    if (head := name.split(".")[0] if "." in name else "") != group:
      group = head
      lines += ["", f"## {group or 'All parts'}", ""]
      lines += ["| key | default | meaning | values | scope |", "|---|---|---|---|---|"]
    meaning, allowed = (x.replace("|", "\\|") for x in (declared.meaning, declared.allowed()))
    default = repr(declared.default).replace("|", "\\|")
    lines.append(f"| `{name}` | `{default}` | {meaning} | {allowed} | {declared.scope} |")
  return "\n".join(lines) + "\n"
