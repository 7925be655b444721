"""Text on its way to a terminal, a log or a page: one line, and nothing that steers a terminal."""

import sys
import unicodedata
from typing import Any, TextIO

MAX_SHOWN = 100  # letters of a value in a message


def printable(text: str) -> str:
  """Text with control characters, and others that do not print, as escapes such as \\x1b.

  Among these are line breaks, marks that turn the direction of writing, and bytes of file names
  that are no text. Blanks of any width stay.
  """
  return "".join(
    c if c.isprintable() or unicodedata.category(c) == "Zs" else _escaped(c) for c in text
  )


def _escaped(letter):
  return letter.encode("unicode_escape").decode()


def say(text: str, file: TextIO | None = None) -> None:
  """Prints one line, as `printable` gives it and as far as the stream has its letters.

  Args:
    file: None for standard output.
  """
  file = file or sys.stdout
  encoding = getattr(file, "encoding", None) or "utf-8"
  print(printable(text).encode(encoding, "backslashreplace").decode(encoding), file=file)


def shown(value: Any) -> str:
  """A value as code, of at most `MAX_SHOWN` letters."""
  try:
    text = repr(value)
  except (ValueError, RecursionError):  # a whole number of thousands of digits, a list in itself
    return f"a {type(value).__name__} too long to show"
  return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."
