"""The progress bar, warnings above it, and pictures below the cell of a notebook."""

import importlib.util
import sys
import warnings
from collections.abc import Iterable
from os import PathLike
from typing import Any

import tqdm

from jaxseg import DataWarning
from jaxseg.printing import printable

_said = {}  # of `warnings`, which says the same once


def in_notebook() -> bool:
  """Whether an IPython kernel runs this: Jupyter, Colab, VS Code; not the IPython terminal."""
  ipython = sys.modules.get("IPython")
  return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


def progress(iterable: Iterable | None = None, **options: Any) -> tqdm.tqdm:
  """A progress bar that takes what `tqdm` takes, as a widget where a notebook can show one.

  A terminal gets a text bar that moves, a log file a line every ten seconds.
  """
  if in_notebook() and importlib.util.find_spec("ipywidgets"):
    from tqdm.notebook import tqdm as bar
  else:
    bar = tqdm.tqdm
    moves = sys.stderr.isatty() or in_notebook()
    options = {"dynamic_ncols": True, "mininterval": 0.5 if moves else 10, **options}
  return bar(iterable, **options)


def warn(text: str, note: str = "") -> None:
  """A DataWarning above the progress bar, without a line of jaxseg's own code.

  Args:
    note: what it says without the name of the file, by which `data.workers` knows it again.
  """
  warning = DataWarning(printable(text))
  warning.note = note or text
  with tqdm.tqdm.external_write_mode():
    warnings.warn_explicit(warning, None, "jaxseg", 1, registry=_said)


def show(path: str | PathLike, display_id: str = "", update: bool = False) -> None:
  """Shows a PNG below the running cell of a notebook; does nothing elsewhere.

  Args:
    display_id: name of the place where it appears, for later updates.
    update: replaces the picture in that place instead of adding one.
  """
  if not in_notebook():
    return
  from IPython.display import Image, display

  place = {"display_id": display_id, "update": update} if display_id else {}
  display(Image(filename=str(path)), **place)
