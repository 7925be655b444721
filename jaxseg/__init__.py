"""Semantic segmentation in JAX: U-Net, FCN and DeepLab as Flax modules.

    import jaxseg

    seg = jaxseg.load("runs/unet_cells")      # a work directory, a packed network, "hf:OWNER/NAME"
    labels = seg("photo.png")                 # u8[H,W]
    picture = seg.overlay("photo.png")        # u8[H,W,3]

Importing the package imports neither JAX nor anything else that is heavy; what is used is imported
when it is used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from jaxseg import models
  from jaxseg.each_seed import calibrate, evaluate
  from jaxseg.packing import pack
  from jaxseg.prediction import predict_folder
  from jaxseg.reports import report
  from jaxseg.segmenter import Segmenter, load
  from jaxseg.training import train

__version__ = "0.2.0"
__all__ = ["DataWarning", "Segmenter", "UserError", "VOID", "calibrate", "evaluate", "load",
           "models", "pack", "predict_folder", "report", "train"]  # fmt: skip

VOID = 255  # the label of every pixel that loss and metrics ignore (the ignore index)


class UserError(ValueError):
  """An error that the user can fix; its text is one line that names the value and the remedy."""


class DataWarning(UserWarning):
  """Something that a file holds and that is not used."""


_MODULES = {
  "Segmenter": "segmenter",
  "load": "segmenter",
  "calibrate": "each_seed",
  "evaluate": "each_seed",
  "report": "reports",
  "pack": "packing",
  "predict_folder": "prediction",
  "train": "training",
}


def __getattr__(name: str) -> Any:
  if name == "models":
    return importlib.import_module("jaxseg.models")
  if name not in _MODULES:
    raise AttributeError(f"module 'jaxseg' has no attribute {name!r}")
  return getattr(importlib.import_module(f"jaxseg.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
  return sorted([*__all__, "__version__"])
