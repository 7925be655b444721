"""What is wrong with a config file, in a line."""

import difflib
import pathlib
import re
import traceback

from absl import flags

from jaxseg import UserError, schema, settings


def config_error(path: str, error: BaseException) -> UserError:
  """What to say of an exception while flags were parsed and a config file was read."""
  origin, line = _origin(path, error)
  text = next(iter(str(origin).splitlines()), "")
  if not line and isinstance(error, flags.Error):
    # For an exception in the config file, the text is its traceback; the last line names the error.
    first, *rest = str(error).splitlines()
    return UserError(f"{first} {rest[-1]}" if rest else first)
  if not line and isinstance(error, OSError):  # ml_collections raises its own for any of them
    if not pathlib.Path(path).is_file():
      return UserError(f"no config file {path!r}; {_near_config(pathlib.Path(path).stem)}")
    return UserError(f"config file {path}: {text.rpartition('failure to load: ')[2]}")
  if "no attribute 'get_config'" in str(error):
    return UserError(f"{path} has no get_config(); see configs/")
  where = f"config file {path}, line {line}" if line else f"config file {path}"
  # This is how ml_collections reports an unknown key.
  if match := re.search(r'Did you mean "(.*?)" instead of "(.*?)"', str(error)):
    return UserError(f"{where}: unknown config key {match[2]!r}; did you mean {match[1]!r}?")
  # And a value of another type.
  if match := re.search(
    r"Could not override field '(\w+)' .* original type <class '([\w.]+)'> .* <class '([\w.]+)'>",
    str(origin), re.DOTALL,
  ):  # fmt: skip
    named = {kind.__name__: words for kind, words in schema.TYPE_NAMES.items()}
    given, wanted = (named.get(kind, f"a {kind}") for kind in match.groups()[1:])
    keys = [name for name in settings.declared_keys() if name.rpartition(".")[2] == match[1]]
    name = " or ".join(keys) or match[1]
    return UserError(f"{where}: config key {name} is {given}; give it {wanted}")
  if match := re.match(
    r"cannot import name '(\w+)' from 'configs'|No module named 'configs\.(\w+)'", text
  ):
    name = match[1] or match[2]
    return UserError(f"{where}: configs has no {name!r}; {_near_config(name)}")
  if isinstance(origin, SyntaxError):
    text = origin.msg
  if isinstance(origin, SystemExit):
    return UserError(f"{where} ends the program; get_config() has to return a config instead")
  return UserError(f"{where}: {type(origin).__name__}: {text}")


def _near_config(stem):
  """The remedy for a config whose name may be misspelt."""
  names = {file.stem: file for file in sorted(pathlib.Path("configs").glob("[!_]*.py"))}
  near = difflib.get_close_matches(stem, names, n=1)
  return f"did you mean {names[near[0]]}?" if near else "see configs/"


def _origin(path, error):
  """(exception, line) of what went wrong in a config file; the line is 0 if it was not there."""
  chain = [error]
  while (error := chain[-1].__cause__ or chain[-1].__context__) and error not in chain:
    chain.append(error)
  for error in reversed(chain if path else []):  # the first to be raised is the last
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.endswith(path)]
    if frames:
      return error, frames[-1].lineno
    if isinstance(error, SyntaxError) and str(error.filename).endswith(path):
      return error, error.lineno or 0
  return chain[0], 0
