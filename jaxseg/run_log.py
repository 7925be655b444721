"""What a run reports while it trains: progress bar, metrics.jsonl, TensorBoard, pictures."""

import pathlib
import sys
import uuid

import numpy as np
from PIL import Image
from tensorboardX import SummaryWriter

from jaxseg import notebook, workdirs
from jaxseg.visualize import curves


class RunLog:
  """Open while a run trains; use it in a `with` block."""

  def __init__(self, workdir, step, num_steps):
    """Lines of a killed run after `step`, from which this one goes on, are dropped."""
    self._workdir = pathlib.Path(workdir)
    workdirs.forget_metrics_after(workdir, step)
    self._events = SummaryWriter(str(workdir), purge_step=step + 1)
    self._bar = notebook.progress(initial=step, total=num_steps, unit="step")
    self._places = {}  # {name of a picture: display_id of its place in a notebook}

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._bar.close()
    self._events.close()

  def advance(self, step, loss, images_per_second):
    """Moves the bar to a step; `loss` is the latest known."""
    text = f"loss {loss:.4f}, {images_per_second:.1f} images/s"
    self._bar.set_postfix_str(text, refresh=False)
    self._bar.update(step - self._bar.n)

  def write(self, line, sheet=None):
    """Records numbers.

    Args:
      line: {"step", "epoch", "split", names: numbers or {class: number or None}}.
      sheet: path of a picture that belongs to it.
    """
    workdirs.append_metrics(self._workdir, line)
    step, split = line["step"], line["split"]
    for name, value in line.items():
      if name in ("step", "split"):
        continue
      values = {f"{name}/{k}": v for k, v in value.items()} if isinstance(value, dict) else None
      for tag, number in (values or {name: value}).items():
        if number is not None:
          self._events.add_scalar(f"{split}/{tag}", number, step)
    if sheet:
      picture = np.asarray(Image.open(sheet).convert("RGB"))
      self._events.add_image(f"{split}/predictions", picture, step, dataformats="HWC")
    if "miou" in line:
      path = self._workdir / "plots" / "curves.png"
      curves(path, workdirs.read_metrics(self._workdir))
      scores = f"mean IoU {line['miou']:.4f}, pixel accuracy {line['pixel_accuracy']:.4f}"
      self._bar.write(f"step {step} ({split}): {scores}, loss {line['loss']:.4f}", file=sys.stderr)
      self._show("curves", path)
      if sheet:
        self._show("predictions", sheet)

  def _show(self, name, path):
    """Shows a picture in a notebook, in the place of the previous one of that name."""
    is_new = name not in self._places
    place = self._places.setdefault(name, uuid.uuid4().hex)
    notebook.show(path, place, update=not is_new)
