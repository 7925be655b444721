"""TensorBoard's event files, written at once.

tensorboardX's own writer has a thread; where that fails, on a full disk, the program waits for it
forever.
"""

import dataclasses
import pathlib
import time

import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2


@dataclasses.dataclass(frozen=True)
class Events:
  """An event file in a folder; see `open_events`."""

  writer: EventsWriter
  folder: pathlib.Path

  def scalar(self, tag: str, value: float, step: int) -> None:
    """Adds a point to the curve of a tag."""
    self._write(step, summary=summary.scalar(tag, value))

  def image(self, tag: str, image: np.ndarray, step: int) -> None:
    """Adds a picture.  image: u8[H,W,3]"""
    self._write(step, summary=summary.image(tag, image, dataformats="HWC"))

  def flush(self) -> None:
    """All that was added is in the file."""
    self._named(self.writer.flush)

  def close(self) -> None:
    """Ends the file."""
    self._named(self.writer.close)

  def _write(self, step, **content):
    event = event_pb2.Event(wall_time=time.time(), step=step, **content)
    self._named(self.writer.write_event, event)

  def _named(self, function, *arguments):
    """Calls a function; errors of the system name the folder."""
    try:
      function(*arguments)
    except OSError as error:
      raise OSError(error.errno, error.strerror, str(self.folder / "events*")) from error


def open_events(folder: str | pathlib.Path, purge_step: int) -> Events:
  """A new event file, whose points take the place of those from `purge_step` on."""
  folder = pathlib.Path(folder)
  events = Events(EventsWriter(str(folder / "events")), folder)
  start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
  events._write(purge_step, session_log=start)
  return events
