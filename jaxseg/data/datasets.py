"""Data sets as random-access sources of images with label maps.

A source has a length and gives `source[i]` = {"image": u8[H,W,D], "mask": u8[H,W], "name": str}
with labels 0..C-1 or VOID; sizes may differ from image to image. Generated data have "instances",
i32[H,W], as well.
"""

import collections.abc
import dataclasses
import io
import pathlib

import numpy as np
from PIL import Image, UnidentifiedImageError

from jaxseg import VOID, UserError
from jaxseg.data.cells import MIN_SIZE, generate_cells


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
  """What models and pictures have to know.

  Attributes:
    classes: names, in the order of the labels.
    palette: an (R, G, B) of 0..255 per class.
    channels: of the images; 1 grey, 3 RGB.
  """

  classes: tuple[str, ...]
  palette: tuple[tuple[int, int, int], ...]
  channels: int


CELLS = DatasetInfo(("background", "cell"), ((0, 0, 0), (255, 200, 60)), channels=1)
CELLS_SPLITS = {"train": 512, "test": 64}  # number of images

PETS = DatasetInfo(
  ("pet", "background", "outline"), ((235, 120, 40), (45, 60, 90), (250, 235, 150)), channels=3
)
PETS_LABELS = {1: 0, 2: 1, 3: 2}  # stored value: class


def decode_image(data, name, channels):
  """Any image that Pillow reads -> u8[H,W,channels].

  Grey becomes RGB and back, alpha is dropped, and 16 bits are scaled to 8.

  Args:
    data: encoded bytes or a path.  name: what errors call it.  channels: 1 or 3.
  Raises:
    UserError: it cannot be decoded.
  """
  image = _open(data, name)
  if image.mode.startswith("I"):
    image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
  array = np.asarray(image.convert("RGB" if channels == 3 else "L"))
  return array.reshape(*array.shape[:2], channels)


def decode_mask(data, name, labels):
  """An encoded label map -> u8[H,W] of classes.

  Args:
    data: encoded bytes or a path.  name: what errors call it.
    labels: {stored value: class}; the stored value VOID stays what it is.
  Raises:
    UserError: it cannot be decoded, has colours, or holds a value that is not in `labels`.
  """
  array = np.asarray(_open(data, name))
  array = array.astype(np.uint8) if array.dtype == bool else array  # a PNG of 1 bit
  if array.ndim != 2:
    raise UserError(f"{name}: a mask has one label per pixel, this has {array.shape[-1]} channels")
  table = np.full(256, -1, np.int16)
  table[VOID] = VOID
  table[list(labels)] = list(labels.values())
  values = np.unique(array)
  wrong = [int(v) for v in values if not 0 <= v < 256 or table[v] < 0]
  if wrong:
    raise UserError(
      f"{name}: label {wrong[0]} is not a class; the masks hold {sorted(labels)} and {VOID} (void)"
    )
  return table[array].astype(np.uint8)


def resize_image(image, size):
  """u8[H,W,D] -> u8[size,size,D], antialiased; the aspect ratio is not kept."""
  if image.shape[:2] == (size, size):
    return image
  picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
  resized = picture.resize((size, size), Image.Resampling.BILINEAR)
  return np.asarray(resized).reshape(size, size, image.shape[-1])


def _open(data, name):
  try:
    image = Image.open(io.BytesIO(data) if isinstance(data, bytes) else data)
    image.load()
  except UnidentifiedImageError as error:  # its text has the address of an object
    raise UserError(f"{name}: cannot be decoded (not an image)") from error
  except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    raise UserError(f"{name}: cannot be decoded ({reason})") from error
  return image


@dataclasses.dataclass(frozen=True)
class Cells(collections.abc.Sequence):
  """Generated images of touching cells, the same for the same seed, split and index."""

  split: str
  size: int
  seed: int

  def __len__(self):
    return CELLS_SPLITS[self.split]

  def __getitem__(self, i):
    if not 0 <= i < len(self):
      raise IndexError(f"example {i} of {len(self)}")
    example = generate_cells(
      (self.seed, list(CELLS_SPLITS).index(self.split), i), *2 * (self.size,)
    )
    return {**example, "name": f"cells {self.split} {i}"}


@dataclasses.dataclass(frozen=True)
class Encoded(collections.abc.Sequence):
  """Decodes {"image": bytes, "mask": bytes, "name": str} of another sequence."""

  records: collections.abc.Sequence
  channels: int
  labels: dict

  def __len__(self):
    return len(self.records)

  def __getitem__(self, i):
    record = self.records[i]
    name = record["name"]
    image = decode_image(record["image"], name, self.channels)
    mask = decode_mask(record["mask"], f"mask of {name}", self.labels)
    if mask.shape != image.shape[:2]:
      sizes = ["x".join(map(str, x.shape[1::-1])) for x in (image, mask)]
      raise UserError(f"{name}: the image is {sizes[0]} and its mask {sizes[1]} pixels")
    return {"image": image, "mask": mask, "name": name}


def _load_cells(split, data_dir, image_size, seed):
  if split not in CELLS_SPLITS:
    raise UserError(f"cells has no split {split!r}; there are {', '.join(CELLS_SPLITS)}")
  if image_size < MIN_SIZE:
    raise UserError(f"config.data.image_size is {image_size}, but cells needs {MIN_SIZE} or more")
  return CELLS, Cells(split, image_size, seed)


def _load_pets(split, data_dir, image_size, seed):
  # TFDS takes a second to import and serves only this data set.
  from jaxseg.data.pets import open_pets

  return PETS, Encoded(open_pets(data_dir, split), PETS.channels, PETS_LABELS)


DATASETS = {"cells": _load_cells, "oxford_iiit_pet": _load_pets}


def load(name, split, *, data_dir="", image_size=128, seed=0):
  """Opens a split of a data set.

  Args:
    name: key of DATASETS.  split: a name that the data set knows.
    data_dir: folder of data that are read from disk; "" for the data set's own default.
    image_size: height and width of generated images.  seed: of generated images.
  Returns:
    (DatasetInfo, source)
  Raises:
    UserError: no such data set, split or folder.
  """
  if name not in DATASETS:
    raise UserError(f"unknown config.data.name {name!r}; there are {', '.join(DATASETS)}")
  if data_dir and not pathlib.Path(data_dir).expanduser().is_dir():
    raise UserError(f"no folder {data_dir}: create it or correct config.data.data_dir")
  return DATASETS[name](split, data_dir, image_size, seed)
