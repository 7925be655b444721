"""Values of config keys that are more than numbers, names, and tuples of these.

A `Form` has the words for messages, and says whether a tuple has that form. Tuples may be lists, as
they are in JSON.
"""

import dataclasses
import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Form:
  """What a tuple may hold.  words: what follows "has to be".  fits: whether a tuple does."""

  words: str
  fits: Callable[[Sequence], bool]


def is_number(value: Any, kind: type = numbers.Real) -> bool:
  """Whether a value is a finite number of a kind; True and False are none."""
  if not isinstance(value, kind) or isinstance(value, bool):
    return False
  try:
    return math.isfinite(value)
  except OverflowError:  # a whole number beyond the range of floats
    return False


def _is_color(value, high):
  return _is_tuple(value) and len(value) == 3 and all(_is_whole(x, 0, high) for x in value)


def _is_whole(value, low, high):
  return is_number(value, numbers.Integral) and low <= value <= high


def _is_tuple(value):
  return isinstance(value, tuple | list)


def _is_stored(value):
  return isinstance(value, str) or _is_whole(value, -(2**63), 2**63 - 1)


def _one_or_more(fits):
  """A test for what `fits` takes, or for a tuple of it that is not empty."""
  return lambda x: fits(x) or (_is_tuple(x) and len(x) > 0 and all(map(fits, x)))


def _each(fits):
  return lambda value: all(map(fits, value))


def _is_multiplier(value):
  return (
    _is_tuple(value)
    and len(value) == 2
    and isinstance(value[0], str)
    and is_number(value[1])
    and 0 <= value[1] <= 1e6
  )


def _is_range(value):
  return _is_tuple(value) and len(value) == 2 and all(map(is_number, value)) and value[0] < value[1]


COLORS = Form(
  "a tuple of (R, G, B), whole numbers from 0 to 255", _each(lambda x: _is_color(x, 255))
)
VALUES = Form(
  "a tuple of whole numbers or names, or of tuples of them", _each(_one_or_more(_is_stored))
)
FLAT_VALUES = Form("a tuple of whole numbers or names", _each(_is_stored))
STORED_COLORS = Form(
  "a tuple of (R, G, B), whole numbers from 0 to 65535, or of tuples of them",
  _each(_one_or_more(lambda x: _is_color(x, 0xFFFF))),
)
VOID_COLORS = Form(
  "a tuple of (R, G, B), whole numbers from 0 to 65535",
  lambda value: _is_color(value, 0xFFFF) or _each(lambda x: _is_color(x, 0xFFFF))(value),
)
RANGES = Form(
  "(low, high), numbers with low < high, or a tuple of such pairs",
  lambda value: _is_range(value) or _each(_is_range)(value),
)
MULTIPLIERS = Form(
  "a tuple of (module, factor), such as ('encoder', 0.1), with factors from 0 to 1,000,000",
  _each(_is_multiplier),
)
