"""Sources that decode the files of an image and its mask."""

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxseg import UserError
from jaxseg.data.decode import DTYPES, ImageFormat, to_image
from jaxseg.data.files import inspect, read_raster
from jaxseg.data.labels import LabelMap
from jaxseg.data.masks import decode_mask
from jaxseg.data.raster import Path
from jaxseg.notebook import warn

MAX_INSPECTED = 64  # files whose headers tell the type of a data set
FORMAT_KEY = re.compile("`(channels|bands|value_range|normalization|pages|exif_orientation)`")


class Notes:
  """Warns of each kind of thing that is not used of a data set's files, once.

  Args:
    is_trained: the network is trained: notes leave out the keys by which it would see more.
  """

  def __init__(self, is_trained: bool = False):
    self._said, self._is_trained = set(), is_trained

  def warn(self, where: str, notes: Sequence[str]) -> None:
    """Says those of the notes that have not been said.  where: name of the file."""
    for note in notes:
      if self._is_trained and FORMAT_KEY.search(note):
        note = note.rpartition(": ")[0]
      if note not in self._said:
        self._said.add(note)
        warn(f"{where}: {note} (said once)", note)


@contextlib.contextmanager
def read_as_trained(channels: int, value_range: Sequence) -> Iterator[None]:
  """Errors about images say what a trained network reads, not which keys to train with.

  Args:
    channels, value_range: of the network, see `ImageFormat`.
  """
  try:
    yield
  except UserError as error:
    if not FORMAT_KEY.search(str(error)):
      raise
    fault, _, remedy = str(error).rpartition(": ")
    others = [part for part in re.split(", or |; ", remedy) if "`" not in part]
    others = others if "`" in remedy else []  # those that go without a key
    if "`value_range`" in remedy:  # only full ranges were trained on, else it would have one
      text = "this network takes images of 8 or 16 bits: rescale this one to uint8 or uint16"
    else:
      count = "1 channel" if channels == 1 else f"{channels} channels"
      black_and_white = f" from {value_range}" if value_range else ""
      text = f"this network takes {count}{black_and_white}: convert the image"
    text = f": {', '.join(others)}" if others else f"; {text}"
    text = f"{fault}{text}".replace("`", "")
    raise UserError(text).with_traceback(error.__traceback__) from error.__cause__


@dataclasses.dataclass(frozen=True)
class Encoded(Sequence):
  """Decodes the records of another sequence.

  Attributes:
    records: {"image": bytes or path, "mask": see `masks.MaskFile`, "name": str} and, where needed,
      "page": int of both files and "where": str, the name in errors.
    fmt: how images are read.  labels: what the values of masks mean.
    shrink_to: of images, but not of masks, see `files.read_raster`.
  """

  records: Sequence[Mapping[str, Any]]
  fmt: ImageFormat
  labels: LabelMap
  notes: Notes = dataclasses.field(default_factory=Notes, compare=False, repr=False)
  shrink_to: int = 0

  def __len__(self) -> int:
    return len(self.records)

  def __getitem__(self, i: int) -> dict[str, Any]:
    record, notes, mask_notes = self.records[i], [], []
    where, page = place(record)
    fmt, options = self.fmt, {"page": page, "orient": self.fmt.orient}
    raster = read_raster(
      record["image"], where, pages=fmt.pages, shrink_to=self.shrink_to, **options
    )
    notes += raster.header.notes
    image = to_image(raster, where, fmt, notes)
    options["notes"] = mask_notes
    mask = decode_mask(record["mask"], f"mask of {where}", self.labels, **options)
    self.notes.warn(where, notes)
    self.notes.warn(f"mask of {where}", mask_notes)
    if fault := size_fault(raster.size, mask.shape, record["image"], fmt):
      raise UserError(f"{where}: {fault}")
    return {"image": image, "mask": mask, "name": record["name"]}


def place(record: Mapping[str, Any]) -> tuple[str, int]:
  """(name in errors, page) of a record of `Encoded`."""
  return record.get("where", record["name"]), record.get("page", 0)


def common_dtype(records: Sequence[Mapping[str, Any]], fmt: ImageFormat) -> str:
  """The type that holds the images of a data set, by the headers of some files: see `ImageFormat`.

  Files that cannot be read are skipped; reading them is an error of its own.
  """
  number, found = min(len(records), MAX_INSPECTED), set()
  for i in range(number):
    with contextlib.suppress(UserError):
      record = records[i * len(records) // number]
      where, page = place(record)
      header = inspect(record["image"], where, page=page, pages=fmt.pages)
      found.add(str(header.dtype) if header.dtype in (np.uint8, np.uint16) else "float32")
  dtype = max(found, key=DTYPES.index, default=DTYPES[0])
  if len(found) > 1:
    text = f"images are {', '.join(sorted(found))}; all become {dtype}"
    warn(text + ("" if fmt.value_range else ", and the white of each type stays white"))
  return dtype


def size_fault(
  image: Sequence[int],
  mask: Sequence[int],
  file: bytes | Path | None = None,
  fmt: ImageFormat | None = None,
) -> str:
  """The problem if an image and its mask differ in size; "" if they do not.

  Args:
    image, mask: their (H, W).
    file, fmt: of the image, if it was read from a file.
  """
  sizes = [f"{width}x{height}" for height, width in (image, mask)]
  if sizes[0] == sizes[1]:
    return ""
  if file is not None and fmt.orient and tuple(image[::-1]) == tuple(mask):
    if (orientation := inspect(file, "image").orientation) > 4:
      return (
        f"the image is {sizes[0]} px, turned by its EXIF orientation {orientation}, but its mask "
        f"is {sizes[1]} px, as if not turned: set `exif_orientation`=False, or turn the mask"
      )
  return f"the image is {sizes[0]} px, but its mask is {sizes[1]} px: make them the same size"
