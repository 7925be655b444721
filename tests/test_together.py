"""One process; tests/test_shared_files.py has two."""

import pytest

from jaxseg import UserError
from jaxseg.together import agreed, json_from_all


def test_one_process():
  for value in (None, [], {"a": [1, "é\n"]}, "x" * 7, "x" * 8, "x" * 9):
    assert json_from_all(value) == [value]
  with agreed():
    pass
  with pytest.raises(UserError, match="^mine$"), agreed():
    raise UserError("mine")
  with pytest.raises(UserError, match="^nowhere/x: No such file or directory$"), agreed():
    open("nowhere/x")
  with pytest.raises(UserError, match="^No space left on device; make room on the disk$"), agreed():
    raise OSError(28, "No space left on device")
  with pytest.raises(UserError, match="^out: No space left on device;"), agreed("out"):
    raise OSError(28, "No space left on device")
  with pytest.raises(ZeroDivisionError), agreed():  # a bug is not caught
    raise ZeroDivisionError
