"""The end of the command: one line for what a user can fix or has wanted."""

import sys
import traceback

from jaxseg import UserError, faults, interrupts, peers, start
from jaxseg.printing import say


def leave(error: BaseException) -> int:
  """Prints what ended the command, and tells the other processes, which end, too.

  Returns:
    the exit status; with several processes, it ends this one instead.
  Raises:
    error: the program's own fault, whose traceback helps to find it.
  """
  text, status = None, 1
  if isinstance(error, KeyboardInterrupt):
    text, status = "interrupted", interrupts.STATUS
    interrupts.say()
  elif peers.reason(error):
    peers.end(None, status)
  elif isinstance(error, BrokenPipeError):
    text, status = "its output was closed", start.leave_pipe()
  elif isinstance(error, UserError):
    text = str(error)
    say(f"error: {text}", sys.stderr)
  elif text := faults.describe(error):
    say(f"error: {text}", sys.stderr)
  elif not peers.are_several():
    raise error
  else:
    traceback.print_exception(error)
    text = f"{type(error).__name__}: {error}"
  if peers.are_several():
    peers.end(text.partition("\n")[0], status)
  return status
