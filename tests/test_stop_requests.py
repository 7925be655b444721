"""What asks a training run to stop: signals, and where none can come."""

import signal
import threading

from jaxseg import interrupts, stop_requests


def test_a_second_control_c_is_for_what_was_before():
  """In a notebook it stops the cell; SIGTERM is still a request."""
  numbers = signal.SIGINT, signal.SIGTERM
  before = [signal.getsignal(number) for number in numbers]
  with stop_requests.stop_signals() as stop_requested:
    assert interrupts._saving.is_set() and not stop_requested(1)
    signal.raise_signal(signal.SIGINT)
    assert stop_requested(2) and stop_requested(3)
    assert [signal.getsignal(n) == x for n, x in zip(numbers, before, strict=True)] == [True, False]
  assert not interrupts._saving.is_set()
  assert [signal.getsignal(number) for number in numbers] == before


def test_stop_requests_of_a_thread():
  """Signals can be handled in the main thread alone; elsewhere nothing asks for a stop."""
  found = []

  def work():
    with stop_requests.stop_signals() as stop_requested:
      found.append(stop_requested(3))

  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert found == [False]
