"""Decodes masks: stored values -> labels, and what is wrong with values that are no labels."""

from collections.abc import Mapping, Sequence

import numpy as np

from jaxseg import VOID, UserError
from jaxseg.data.files import few, read_raster
from jaxseg.data.raster import Path

MANY = 20  # this many more values than classes: interpolation or instance ids, not labels


def label_table(
  num_classes: int, mask_values: Sequence = (), void_values: Sequence = ()
) -> dict[int, int]:
  """{stored value: class or VOID}.

  Args:
    num_classes: C.
    mask_values: stored value, or tuple of values, of each class; () = 0, 1, ...
    void_values: stored values that count as VOID.
  Raises:
    UserError: a value has two meanings, or is no whole number.
  """
  entries = [(values, i) for i, values in enumerate(mask_values or range(num_classes))]
  labels = {}
  for values, label in [*entries, (void_values, VOID)]:
    for value in values if isinstance(values, tuple | list) else (values,):
      if not isinstance(value, int):
        raise UserError(f"`mask_values` and `void_values`: {value!r} is not a whole number")
      if value in labels:
        raise UserError(
          f"mask value {value} has two meanings: correct `mask_values` or `void_values`"
        )
      labels[value] = label
  return labels


def decode_mask(
  data: bytes | Path, name: str, labels: Mapping[int, int], *, page: int = 0
) -> np.ndarray:
  """An encoded label map -> u8[H,W] of classes.

  Args:
    data: encoded bytes or a path.  name: in errors.  page: of a file of several.
    labels: {stored value: class or VOID}; a stored 255 is VOID unless it is listed.
  Raises:
    UserError: it cannot be decoded, has colours, or holds a value that is not in `labels`.
  """
  stored, file_format = read_mask(data, name, page=page)
  values = np.unique(stored)
  fault = mask_fault(values.tolist(), labels, file_format)
  if fault:
    raise UserError(f"{name}: {fault}")
  known = {VOID: VOID, **labels}
  table = np.array([known[value] for value in values.tolist()], np.uint8)
  return table[np.searchsorted(values, stored)]


def read_mask(data: bytes | Path, name: str, *, page: int = 0) -> tuple[np.ndarray, str]:
  """An encoded label map -> (values as stored, [H,W] of any number type; format of the file).

  Raises:
    UserError: it cannot be decoded, or has colours.
  """
  raster = read_raster(data, name, page=page)
  array, names = raster.samples, raster.header.names
  if raster.header.format == "GIF":
    array, names = raster.palette[array[..., 0]], "RGB"
  colours = array[..., :-1] if names[-1] == "A" else array
  if (colours != colours[..., :1]).any():
    raise UserError(
      f"{name}: a mask needs one label per pixel, but this has {array.shape[-1]} channels of "
      "different colours: save it as grey values"
    )
  return colours[..., 0], raster.header.format


def mask_fault(values: Sequence[int], labels: Mapping[int, int], file_format: str) -> str:
  """The problem with the values of one or more masks, and its remedy; "" if there is none.

  Args:
    values: sorted list.  labels: see `decode_mask`.  file_format: of the mask.
  """
  known = {VOID: VOID, **labels}
  wrong = [value for value in values if value not in known]
  if wrong:
    more = f" (and {few(wrong[1:])})" if wrong[1:] else ""
    remedy = _remedy(wrong[0], values, labels, file_format)
    return f"label {wrong[0]}{more} is not a class; known values are {sorted(known)}; {remedy}"
  if VOID in values and VOID not in labels and set(values) <= {0, VOID} and set(labels) == {0, 1}:
    # Class 1 would count as void: training would raise no error, and learn nothing.
    return (
      f"holds {' and '.join(map(str, values))}, but no 1: set `mask_values`=(0,{VOID}) if {VOID} "
      f"is a class, or `void_values`=({VOID},) if it is void"
    )
  return ""


def _remedy(value, values, labels, file_format):
  """The remedy for a value that is not a class, in a mask that holds `values`."""
  num_classes = len(set(labels.values()) - {VOID})
  if file_format == "JPEG":
    return "JPEG changes labels: save masks as PNG"
  if len(values) > num_classes + MANY:
    return "so many values suggest interpolation or instance ids: save one value per class"
  if len(values) == num_classes == 2:
    a, b = values
    return f"if {a} and {b} are the classes, set `mask_values`=({a},{b})"
  if values[0] > 0 and max(set(values) - {VOID}) == num_classes:
    numbers = ",".join(str(i + 1) for i in range(num_classes))
    return f"if the classes count from 1, set `mask_values`=({numbers})"
  return f"if it is void, set `void_values`=({value},); if it is a class, set `mask_values`"
