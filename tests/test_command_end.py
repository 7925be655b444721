"""The end of a command: one line, a status, and a traceback for a bug alone."""

import threading

import pytest

from jaxseg import UserError, command_end, interrupts, peers


def test_the_end_of_a_single_process(monkeypatch, capsys):
  monkeypatch.setattr(interrupts, "_ending", threading.Lock())
  full = OSError(28, "No space left on device", "/a")
  errors = KeyboardInterrupt(), UserError("a\x1b"), full
  assert [command_end.leave(error) for error in errors] == [130, 1, 1]
  with pytest.raises(ZeroDivisionError):
    command_end.leave(ZeroDivisionError("a bug"))
  assert capsys.readouterr().err == (
    "interrupted\nerror: a\\x1b\nerror: /a: No space left on device; make room on the disk\n"
  )


@pytest.mark.parametrize(
  "error, reason, told",
  [
    (UserError("a\nb"), None, ("a", 1)),
    (KeyboardInterrupt(), None, ("interrupted", 130)),
    (ValueError("a bug\nmore"), None, ("ValueError: a bug", 1)),
    (BrokenPipeError(), None, ("its output was closed", 141)),
    (ValueError("gloo"), "process 1 ended: x", (None, 1)),
    (BrokenPipeError(), "process 1 ended: x", (None, 1)),
  ],
)
def test_one_of_several_tells_the_others(monkeypatch, capsys, error, reason, told):
  """The first line of why; a bug also shows its traceback, but not what another process caused."""

  def end(*given):
    raise SystemExit(given)

  monkeypatch.setattr(command_end.start, "leave_pipe", lambda: 141)
  monkeypatch.setattr(interrupts, "_ending", threading.Lock())
  monkeypatch.setattr(peers, "are_several", lambda: True)
  monkeypatch.setattr(peers, "reason", lambda error: reason)
  monkeypatch.setattr(peers, "end", end)
  with pytest.raises(SystemExit) as ended:
    command_end.leave(error)
  assert ended.value.code == told
  assert ("ValueError: a bug" in capsys.readouterr().err) == (told[0] == "ValueError: a bug")
