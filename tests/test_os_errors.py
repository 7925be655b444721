"""Which errno an error has, in the forms in which it comes."""

import errno
import os

import pytest

from jaxseg import faults, os_errors


@pytest.mark.parametrize(
  "error, number",
  [
    (OSError(errno.EIO, "x", "/a"), errno.EIO),
    (OSError("without a number"), None),
    (ValueError("Error writing file [OS error 28: ENOSPC No space left on device]"), 28),
    (RuntimeError("[Errno 24] Too many open files: '/a'"), 24),
    (ValueError("NOT_FOUND: Stale file handle"), errno.ESTALE),
    (ValueError('PERMISSION_DENIED: opening "/a"'), errno.EACCES),
    (ValueError("a bug"), None),
  ],
)
def test_numbers(error, number):
  assert os_errors.number_of(error) == number


def test_each_known_text_has_one_number():
  """Also that of ENFILE, which begins with that of EMFILE."""
  for number in os_errors.KNOWN:
    assert os_errors.number_of(ValueError(f"UNKNOWN: {os.strerror(number)} at /a")) == number


def test_the_chain_holds_causes_contexts_and_groups_once():
  try:
    try:
      raise OSError(errno.ESTALE, "x")
    except OSError as cause:
      raise ValueError("layer") from cause
  except ValueError as error:
    group = ExceptionGroup("all", [error, KeyError("other")])
    kinds = [type(found) for found in os_errors.chain(group)]
  assert kinds == [ExceptionGroup, ValueError, KeyError, OSError]


def test_a_bad_sector_is_damage_and_a_lost_mount_is_not(tmp_path):
  """The first may be put aside for an older checkpoint."""
  os_errors.check_is_damage(OSError(errno.EIO, "x"), tmp_path)
  with pytest.raises(OSError) as raised:
    os_errors.check_is_damage(ValueError(os.strerror(errno.ENOTCONN)), tmp_path)
  assert faults.describe(raised.value) == (
    f"{tmp_path}: {os.strerror(errno.ENOTCONN)}; mount its file system again"
  )


def test_each_known_error_has_a_remedy():
  """Also if it comes as text, unlike EPERM."""
  assert {*faults.REMEDIES} == {*os_errors.KNOWN, errno.EPERM}
  assert {*os_errors.ELSEWHERE} <= {*faults.REMEDIES}
