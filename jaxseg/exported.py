"""Exported files (`export`) as functions of images."""

import pathlib
from collections.abc import Callable

import numpy as np

from jaxseg import UserError, export, parallel, workdirs
from jaxseg.data.decode import DatasetInfo, to_picture
from jaxseg.data.encoded import Notes
from jaxseg.data.resize import convert
from jaxseg.packed import digest, wrong_entries
from jaxseg.predict import most_likely


def read_exported(path: pathlib.Path) -> tuple[DatasetInfo, Callable, int | None]:
  """(info, function of examples as `predict.make_predictor` has it, step) of an exported file.

  Raises:
    UserError: there is none, or it is damaged.
  """
  parallel.use_compilation_cache()
  if not path.is_file():
    raise UserError(f"no file {path}: correct the path, or export the run first")
  info, about = _read_description(path)
  notes, content = Notes(is_trained=True), path.read_bytes()
  known = about.get("sha256")  # older ones have none
  if known is not None and digest(content) not in known.values():
    text = f"{path} is damaged, or its classes.json is of another export: export the run again"
    raise UserError(text)
  try:
    call = export.load_stablehlo(content)
  except Exception as error:  # of any kind, for damaged files
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:100]
    text = f"{path} is damaged, or of another JAX ({reason}): export the run again"
    raise UserError(text) from error

  def predict(examples, reduce=None, progress=None):
    for example in examples:
      image = example["image"]
      if np.dtype(info.dtype).itemsize < image.dtype.itemsize:
        notes.warn(path.name, [f"{image.dtype} images are rounded to {info.dtype}, which it takes"])
      if "image_format" not in about["input"]:
        image = to_picture(image, info)
      elif image.dtype != info.dtype:
        image = convert(image, info.dtype, is_full_range=not info.value_range)
      output = np.asarray(call(image[None]))[0]
      if output.ndim == 2 and reduce is not most_likely:
        raise UserError(f"{path} gives labels only: export it with config.export.output=probs")
      yield example, reduce(output) if reduce and output.ndim == 3 else output

  return info, predict, about.get("step")


def _read_description(path):
  """(DatasetInfo, its classes.json) of an exported file."""
  place, remedy = path.with_name("classes.json"), "export the run again"
  about = workdirs.read_json(place, remedy)
  if about is None:
    raise UserError(f"{place} is missing: keep it next to {path.name}")
  try:
    stored = about["input"]
    fmt = stored.get("image_format") or {  # version 0.1 had 8-bit input only
      "channels": stored["shape"][-1],
      "value_range": stored["stored_as_black_and_white"],
      "dtype": "uint8",
    }
    display = {name: stored[name] for name in ("clip", "display_bands") if name in stored}
    about.get("sha256", {}).values()
    info = {"classes": about["classes"], "palette": about["palette"], **fmt, **display}
    if wrong := wrong_entries(info):
      raise KeyError(wrong[0])
    return DatasetInfo(**info), about
  except (AttributeError, IndexError, KeyError, TypeError) as error:
    raise UserError(f"{place} is damaged ({error!r}): {remedy}") from error
