"""Data sets as random-access sources of images with label maps.

A source has a length and gives `source[i]` = {"image": [H,W,D] of the type that its DatasetInfo
names, "mask": u8[H,W], "name": str} with labels 0..C-1 or VOID; sizes may differ from image to
image. Generated data sets also give "instances", i32[H,W].
"""

import contextlib
import dataclasses
import inspect
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from jaxseg import VOID, UserError
from jaxseg.data.cells import MIN_SIZE, generate_cells
from jaxseg.data.decode import DatasetInfo, ImageFormat
from jaxseg.data.encoded import Encoded
from jaxseg.data.folder import (
  FolderFormat,
  decoded,
  default_palette,
  open_folder,
  resolve,
)
from jaxseg.data.label_spaces import LABEL_SPACES, fill_in
from jaxseg.data.labels import label_map
from jaxseg.data.layouts import Layout
from jaxseg.data.sources import open_huggingface, open_tfds

CELLS = DatasetInfo(("background", "cell"), ((0, 0, 0), (255, 200, 60)), channels=1)
CELLS_SPLITS = {"train": 512, "test": 64}  # number of images

PETS = DatasetInfo(LABEL_SPACES["pets"].classes, LABEL_SPACES["pets"].palette, channels=3)
PETS_LABELS = label_map(PETS.classes, mask_values=LABEL_SPACES["pets"].mask_values)

# Label spaces of data sets whose names have these parts.
KNOWN_SOURCES = {"scene_parse": "ade20k", "ade20k": "ade20k", "cityscapes": "cityscapes",
                 "voc": "voc", "camvid": "camvid", "oxford_iiit_pet": "pets"}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Cells(Sequence):
  """Generated images of touching cells; the same seed, split and index give the same image."""

  split: str
  size: int
  seed: int

  def __len__(self) -> int:
    return CELLS_SPLITS[self.split]

  def __getitem__(self, i: int) -> dict[str, Any]:
    if not 0 <= i < len(self):
      raise IndexError(f"example {i} of {len(self)}")
    example = generate_cells(
      (self.seed, list(CELLS_SPLITS).index(self.split), i), *2 * (self.size,)
    )
    return {**example, "name": f"cells {self.split} {i}"}


@dataclasses.dataclass(frozen=True)
class Subset(Sequence):
  """The examples of another source at `indices`, in that order."""

  source: Sequence
  indices: Sequence[int]

  def __len__(self) -> int:
    return len(self.indices)

  def __getitem__(self, i: int) -> dict[str, Any]:
    return self.source[self.indices[i]]


def groups_of(source: Sequence) -> list[str]:
  """The group of each example of a folder that is opened with `group_by`.

  Raises:
    UserError: the data set has no groups.
  """
  if isinstance(source, Subset):
    groups = groups_of(source.source)
    return [groups[i] for i in source.indices]
  records = getattr(source, "records", ({},))
  if not all("group" in record for record in records):
    raise UserError("`group_by` needs the data set 'folder': set it to ''")
  return [record["group"] for record in records]


def connected_components(mask: np.ndarray) -> np.ndarray:
  """Instances of a label map: the 4-connected areas of each class but 0.

  Args:
    mask: u8[H,W].
  Returns:
    i32[H,W], one id of 1..n per area; 0 where the mask is 0 or VOID
  """
  instances, num_instances = np.zeros(mask.shape, np.int32), 0
  for label in np.unique(mask):
    if label not in (0, VOID):
      areas, num_areas = ndimage.label(mask == label)
      instances[areas > 0] = areas[areas > 0] + num_instances
      num_instances += num_areas
  return instances


def _load_cells(split, *, image_size=128, seed=0):
  if split not in CELLS_SPLITS:
    raise UserError(f"cells has no split {split!r}; choose from {', '.join(CELLS_SPLITS)}")
  if image_size < MIN_SIZE:
    raise UserError(f"`image_size` is {image_size}, but cells needs {MIN_SIZE} px or more")
  return CELLS, Cells(split, image_size, seed)


@contextlib.contextmanager
def _extra(name, what, packages):
  """Says which extra of jaxseg brings a package that is missing."""
  try:
    yield
  except ModuleNotFoundError as error:
    package = (error.name or "").split(".")[0]
    if package not in packages:
      raise
    raise UserError(
      f"{what} needs {package}: run pip install -e '.[{name}]' in the checkout of jaxseg"
    ) from error


def _tfds_extra(what):
  return _extra("tfds", what, ("tensorflow_datasets", "array_record", "importlib_resources"))


def _load_pets(split, *, data_dir=""):
  with _tfds_extra("oxford_iiit_pet"):
    from jaxseg.data.pets import open_pets  # TFDS takes a second to import

    return PETS, Encoded(open_pets(data_dir, split), PETS.image_format("uint8"), PETS_LABELS)


def _format(
  *,
  classes=(),
  palette=(),
  channels=3,
  mask_values=(),
  void_values=(),
  value_range=(),
  bands=(),
  dtype="",
  exif_orientation=True,
  pages="auto",
  display_bands=(),
  mask_colors=(),
  void_colors=(),
  color_tolerance=0,
  reduce_zero_label=False,
  label_space="",
  **_,
):
  """The FolderFormat that keys of config.data describe; other keys do not matter."""
  return FolderFormat(
    classes, palette, ImageFormat(channels, bands, value_range, dtype, exif_orientation, pages),
    display_bands, mask_values, void_values, mask_colors, void_colors, color_tolerance,
    reduce_zero_label, label_space,
  )  # fmt: skip


def _load_folder(
  split,
  *,
  data_dir="",
  images="",
  masks="",
  split_file="",
  group_by="",
  problems=None,
  **options,
):
  layout = Layout(images, masks, split_file, group_by)
  return open_folder(data_dir, split, _format(**options), problems, layout=layout)


def _load_tfds(
  split, *, source="", data_dir="", image_field="image", mask_field="segmentation_mask", **options
):
  with _tfds_extra("tfds"):
    records = open_tfds(source, data_dir, split, image_field, mask_field)
    return _decoded(records, source, **options)


def _load_huggingface(
  split, *, source="", data_dir="", image_field="image", mask_field="segmentation_mask", **options
):
  with _extra("huggingface", "huggingface", ("datasets",)):
    records = open_huggingface(source, data_dir, split, image_field, mask_field)
  return _decoded(records, source or data_dir, **options)


def _decoded(records, source, **options):
  """`folder.decoded` of `sources.Records`."""
  for key in ("images", "masks", "split_file"):
    if options.get(key):
      raise UserError(f"`{key}` is for the data set 'folder': set it to ''")
  fmt = _format(**options)
  if not (fmt.classes or fmt.label_space):
    space = next((space for part, space in KNOWN_SOURCES.items() if part in source.lower()), "")
    if records.classes:
      remedy = f"the data set has {len(records.classes)}, set it to {records.classes}"
    else:
      remedy = f"set `label_space`={space!r}" if space else "give 2 or more names"
    raise UserError(f"`classes` is empty: {remedy}")
  return decoded(records, *resolve(fmt))


# name: function(split, *, options) -> (DatasetInfo, source); see `load`. Add your own.
DATASETS = {
  "cells": _load_cells,
  "oxford_iiit_pet": _load_pets,
  "folder": _load_folder,
  "tfds": _load_tfds,
  "huggingface": _load_huggingface,
}


INFOS = {"cells": CELLS, "oxford_iiit_pet": PETS}


def options_of(name: str) -> frozenset[str] | None:
  """The keys of config.data that a data set reads; None for one of your own that takes any."""
  loader = DATASETS[name]
  if loader in (_load_folder, _load_tfds, _load_huggingface):
    return _keywords(loader) | _keywords(_format)
  return None if _takes_all(loader) else _keywords(loader)


def reading_keys() -> frozenset[str]:
  """The keys of config.data that only some data sets read; any may be given size and place."""
  loaders = (_load_cells, _load_pets, _load_folder, _load_tfds, _load_huggingface, _format)
  return frozenset().union(*map(_keywords, loaders)) - {"image_size", "data_dir"}


def _keywords(function):
  return frozenset(inspect.signature(function).parameters)


def _takes_all(function):
  return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(function).parameters.values())


def describe(name: str, split: str, **options: Any) -> DatasetInfo:
  """The DatasetInfo that `load` returns; does not open a data set that is built in."""
  if name in INFOS:
    return INFOS[name]
  if name in ("folder", "tfds", "huggingface") and (options["classes"] or options["label_space"]):
    known = fill_in(options["label_space"], {key: options[key] for key in ("classes", "palette")})
    classes, palette = known["classes"], known["palette"]
    palette = palette or default_palette(len(classes))
    return DatasetInfo(classes, palette, options["channels"], options["value_range"])
  return load(name, split, **options)[0]


def load(
  name: str, split: str, *, problems: list | None = None, **options: Any
) -> tuple[DatasetInfo, Sequence]:
  """Opens a split of a data set.

  Args:
    name: key of DATASETS.  split: a name that the data set knows.
    problems: for "folder", a list that collects the problems of files instead of an error, see
      `open_folder`.
    options: named like the keys of config.data: data_dir, image_size, seed, classes and so on. The
      data set's function gets those that it has a keyword for, or all if it has **keywords.
  Returns:
    (DatasetInfo, source)
  Raises:
    UserError: no such data set, split or folder.
  """
  if name not in DATASETS:
    raise UserError(f"unknown data set {name!r}; choose from {', '.join(DATASETS)}")
  if folder := options.get("data_dir"):
    options["data_dir"] = os.path.expanduser(folder)
    if not os.path.isdir(options["data_dir"]):
      raise UserError(f"no folder {folder}: create it or correct `data_dir`")
  loader = DATASETS[name]
  parameters, takes_all = inspect.signature(loader).parameters, _takes_all(loader)
  options = {**options, "problems": problems}
  accepted = {key: value for key, value in options.items() if takes_all or key in parameters}
  return loader(split, **accepted)
