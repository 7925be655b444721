"""Sources that decode the files of an image and its mask."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxseg import UserError
from jaxseg.data.decode import decode_image
from jaxseg.data.labels import LabelMap
from jaxseg.data.masks import decode_mask


@dataclasses.dataclass(frozen=True)
class Encoded(Sequence):
  """Decodes the records of another sequence.

  Attributes:
    records: {"image": bytes or path, "mask": see `masks.MaskFile`, "name": str} and, where needed,
      "page": int of both files and "where": str, the name in errors.
    channels, value_range: see `decode_image`.  labels: see `decode_mask`.
  """

  records: Sequence[Mapping[str, Any]]
  channels: int
  labels: LabelMap
  value_range: Sequence[float] = ()

  def __len__(self) -> int:
    return len(self.records)

  def __getitem__(self, i: int) -> dict[str, Any]:
    record = self.records[i]
    where, page = place(record)
    image = decode_image(
      record["image"], where, self.channels, page=page, value_range=self.value_range
    )
    mask = decode_mask(record["mask"], f"mask of {where}", self.labels, page=page)
    if fault := size_fault(image, mask):
      raise UserError(f"{where}: {fault}")
    return {"image": image, "mask": mask, "name": record["name"]}


def place(record: Mapping[str, Any]) -> tuple[str, int]:
  """(name in errors, page) of a record of `Encoded`."""
  return record.get("where", record["name"]), record.get("page", 0)


def size_fault(image: np.ndarray, mask: np.ndarray) -> str:
  """The problem if an image [H,W,D] and its mask [h,w] differ in size; "" if they do not."""
  sizes = ["x".join(map(str, x.shape[1::-1])) for x in (image, mask)]
  if sizes[0] == sizes[1]:
    return ""
  return f"the image is {sizes[0]} px, but its mask is {sizes[1]} px: make them the same size"
