"""Text on its way to a terminal, a log or a page: one line, and nothing that steers a terminal."""

from typing import Any

MAX_SHOWN = 100  # letters of a value in a message


def printable(text: str) -> str:
  """Text with control characters, and others that do not print, as escapes such as \\x1b."""
  shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
  return "".join(shown)


def shown(value: Any) -> str:
  """A value as code, of at most `MAX_SHOWN` letters."""
  try:
    text = repr(value)
  except (ValueError, RecursionError):  # a whole number of thousands of digits, a list in itself
    return f"a {type(value).__name__} too long to show"
  return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."
