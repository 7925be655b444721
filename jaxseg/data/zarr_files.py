"""Zarr arrays and OME-Zarr as images that are read window by window."""

import dataclasses
import json
import math
import os
import pathlib
import re
from collections.abc import Callable

import numpy as np
import tensorstore

from jaxseg import UserError
from jaxseg.data.raster import UNNAMED, Header, array_header
from jaxseg.data.tiff_pages import plural

ZARR = ".zarr"  # suffix of a folder
CACHE = 1 << 28  # bytes of decoded tiles that are kept
MAX_TILE = 1 << 28  # bytes of one decoded tile or strip
# Names of axes, as of xarray, beside their letters.
AXES = {
  "y": ("lat", "latitude", "northing", "row", "rows", "height"),
  "x": ("lon", "longitude", "easting", "col", "cols", "column", "columns", "width"),
  "c": ("band", "bands", "channel", "channels"),
  "t": ("time",),
  "z": ("depth",),
}


def open_zarr(path: pathlib.Path) -> tuple[Header, Callable, pathlib.Path]:
  """(Header, function that reads windows, folder) of a Zarr array, or the largest of OME-Zarr.

  Axes are those of its metadata; without any, [H,W] or [H,W,C].

  Raises:
    UserError: axes that are not those of an image; chunks too large to decode one.
    ValueError: it is damaged.
  """
  folder, axes, notes = path, "", []
  try:
    about = _json(path / "zarr.json") or {}
    attributes = _json(path / ".zattrs") or about.get("attributes", {})
    scales = (attributes.get("ome") or attributes).get("multiscales")
    if scales:
      levels, axes = scales[0]["datasets"], scales[0].get("axes", "")
      axes = _named_axes([x["name"] if isinstance(x, dict) else x for x in axes], path) or "tczyx"
      folder = path / levels[0]["path"]
      for count, noun in (len(levels) - 1, "level of lower resolution"), (len(scales) - 1, "image"):
        if count:
          notes.append(f"{plural(count, noun)} of its multiscales not read")
    else:
      axes = _named_axes(about.get("dimension_names") or attributes.get("_ARRAY_DIMENSIONS"), path)
  except (AttributeError, IndexError, KeyError, TypeError) as error:
    raise ValueError("its metadata are damaged") from error
  if scales:
    if path.resolve() not in folder.resolve().parents:
      raise ValueError(f"its largest level is outside of it: {levels[0]['path']}")
  if not scales and (about.get("node_type") == "group" or (path / ".zgroup").is_file()):
    found = (path.glob(f"*/{name}") for name in ("zarr.json", ".zarray", ".zgroup"))
    parts = sorted({file.parent.name for files in found for file in files}) or ["NAME"]
    raise UserError(f"{path}: is a Zarr group of {', '.join(parts[:9])}: give one of these, as by "
                    f"ln -s {path}/{parts[0]} image.zarr")  # fmt: skip
  driver = "zarr3" if (folder / "zarr.json").is_file() else "zarr"
  store = {"driver": driver, "kvstore": {"driver": "file", "path": f"{os.path.abspath(folder)}/"}}
  context = tensorstore.Context({"cache_pool": {"total_bytes_limit": CACHE}})
  array = tensorstore.open(store, read=True, open=True, context=context).result()
  chunk = math.prod(array.chunk_layout.read_chunk.shape) * array.dtype.numpy_dtype.itemsize
  if chunk > MAX_TILE:
    raise UserError(f"{path}: has chunks of {chunk:,} bytes, too large to decode one")
  kind = "Zarr" if axes else UNNAMED
  axes = axes or {2: "yx", 3: "yxc"}.get(array.ndim, "")
  if len(axes) != array.ndim or len({*axes}) < len(axes) or not {"y", "x"} <= {*axes}:
    raise UserError(f"{path}: axes {axes or '?'} of shape {tuple(array.shape)} are not an image")
  for axis, meaning in {"t": "time", "z": "depth"}.items():
    if axis in axes:
      if array.shape[axes.index(axis)] != 1:
        raise UserError(f"{path}: has several planes of {meaning}: give it one")
      array, axes = array[(slice(None),) * axes.index(axis) + (0,)], axes.replace(axis, "")
  if "c" not in axes:
    array, axes = array[..., tensorstore.newaxis], axes + "c"
  array = array.transpose([axes.index(axis) for axis in "yxc"])
  dtype = array.dtype.numpy_dtype
  if dtype.kind not in "uif":
    raise ValueError(f"samples of type {dtype}")
  header = array_header(kind, tuple(array.shape), dtype)
  header = dataclasses.replace(header, notes=tuple(notes))

  def read(rows, cols):
    return np.asarray(array[rows, cols].read().result()).astype(header.dtype, copy=False)

  return header, read, folder


def _named_axes(names, path):
  """The names of a Zarr array's axes as letters; "" if it has none."""
  names = [str(name or "").lower() for name in names or ()]
  if all(not name or re.fullmatch(r"dim_\d+", name) for name in names):
    return ""
  letters = {name: letter for letter, known in AXES.items() for name in (letter, *known)}
  if unknown := [name for name in names if name not in letters]:
    text = f"{path}: has axes {', '.join(names)}"
    raise UserError(f"{text}; {unknown[0]!r} is unknown: call them y, x and c")
  return "".join(letters[name] for name in names)


def _json(path):
  return json.loads(path.read_text()) if path.is_file() else None
