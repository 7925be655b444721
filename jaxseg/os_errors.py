"""Which error of the operating system another error is, in whatever form it comes."""

import errno
import os
import re

# Those that are known by their text, too.
KNOWN = (
  errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.ENAMETOOLONG,
  errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE, errno.ENOMEM, errno.ETIMEDOUT,
  errno.ENOTCONN,
)  # fmt: skip
# They say nothing about what a file holds.
ELSEWHERE = (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ENOMEM,
             errno.ETIMEDOUT, errno.ENOTCONN)  # fmt: skip
NAMES = {os.strerror(number): number for number in KNOWN} | {"PERMISSION_DENIED": errno.EACCES}
# The longest first: that of ENFILE begins with that of EMFILE.
NAMED = re.compile("|".join(map(re.escape, sorted(NAMES, key=len, reverse=True))))
NUMBERED = re.compile(r"OS error (\d+)|\[Errno (\d+)\]")


def chain(error: BaseException) -> list[BaseException]:
  """The error and all that it came from."""
  rest, seen = [error], []
  while rest:
    error = rest.pop(0)
    if error is not None and error not in seen:
      seen.append(error)
      rest += [error.__cause__, error.__context__, *getattr(error, "exceptions", ())]
  return seen


def number_of(error: BaseException) -> int | None:
  """The errno of an OSError, of an error by TensorStore, or of one that was made text."""
  if isinstance(error, OSError) and error.errno:
    return error.errno
  text = str(error)
  if match := NUMBERED.search(text):
    return int(match[1] or match[2])
  if match := NAMED.search(text):
    return NAMES[match[0]]
  return None


def check_is_damage(error: BaseException, path: str | os.PathLike) -> None:
  """Raises OSError if `error` says nothing about what a file or folder holds.

  So it is with permissions and with a trouble of the system, unlike with a bad sector (EIO).
  """
  for number in map(number_of, chain(error)):
    if number in ELSEWHERE:
      raise OSError(number, os.strerror(number), os.fspath(path)) from error
