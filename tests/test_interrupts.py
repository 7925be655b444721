"""Ctrl-C where no exception arrives; test_faults has whole commands."""

import sys
import types

import pytest

from jaxseg import interrupts


def test_control_c_in_a_callback_is_no_traceback(monkeypatch):
  """As of JAX, which the garbage collector calls."""

  def end():
    raise SystemExit(interrupts.STATUS)

  shown = []
  monkeypatch.setattr(interrupts, "end", end)
  monkeypatch.setattr(sys, "__unraisablehook__", shown.append)
  with pytest.raises(SystemExit):
    interrupts._unraisable(types.SimpleNamespace(exc_type=KeyboardInterrupt))
  assert not shown
  other = types.SimpleNamespace(exc_type=ValueError)
  interrupts._unraisable(other)
  assert shown == [other]
