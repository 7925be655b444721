"""Whether the examples of a source are what its DatasetInfo says."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxseg import VOID, UserError
from jaxseg.data.datasets import Subset
from jaxseg.data.decode import DatasetInfo
from jaxseg.data.encoded import Encoded
from jaxseg.data.raster import check_unit_floats


def check_source(source: Sequence, info: DatasetInfo) -> None:
  """Raises UserError unless a source has examples and the first is what `info` says."""
  if not len(source):
    raise UserError("the data set has no examples; correct its split")
  if not 2 <= len(info.classes) == len(info.palette):
    raise UserError(
      f"the data set has {len(info.classes)} classes and {len(info.palette)} colours; it needs two "
      "classes or more, and a colour for each"
    )
  check_example(source[0], info)


def check_example(example: Mapping[str, Any], info: DatasetInfo) -> None:
  """Raises UserError unless an example is what `info` says: types, shapes, values and labels."""
  if missing := {"image", "mask", "name"} - set(example):
    raise UserError(f"an example of the data set has no {' and no '.join(sorted(missing))}")
  image, mask = example["image"], example["mask"]
  kinds = [f"{x.dtype}{list(x.shape)}" for x in (image, mask)]
  where, (height, width) = f"example {example['name']!r}", (*mask.shape, 0, 0)[:2]
  if image.dtype != info.dtype or image.shape != (height, width, info.channels):
    expected = f"{info.dtype}[{height}, {width}, {info.channels}]"
    raise UserError(f"{where}: its image is {kinds[0]}, but has to be {expected}")
  if info.dtype == "float32" and not info.value_range:
    check_unit_floats(image, where)
  elif info.dtype == "float32" and not np.isfinite(image).all():
    raise UserError(f"{where}: its image holds values that are not finite; replace them")
  if mask.dtype != np.uint8 or mask.ndim != 2:
    raise UserError(f"{where}: its mask is {kinds[1]}, not uint8[H,W]")
  check_labels(example, len(info.classes))


def check_labels(example: Mapping[str, Any], num_classes: int) -> None:
  """Raises UserError for a label of the mask that is no class."""
  pixels = np.bincount(example["mask"].ravel(), minlength=VOID)
  if wrong := np.flatnonzero(pixels[num_classes:VOID]).tolist():
    label = num_classes + wrong[0]
    where = f"example {example['name']!r}: its mask" if "name" in example else "a mask"
    raise UserError(f"{where} holds {label}, which is no label of {num_classes} classes")


def with_checks(source: Sequence, info: DatasetInfo) -> Sequence:
  """The source, with `check_example` of each example that is read."""
  decodes = isinstance(source.source if isinstance(source, Subset) else source, Encoded)
  return source if decodes else _Checked(source, info)  # decoding has checked them


@dataclasses.dataclass(frozen=True)
class _Checked(Sequence):
  source: Sequence
  info: DatasetInfo

  def __len__(self):
    return len(self.source)

  def __getitem__(self, i):
    example = self.source[i]
    check_example(example, self.info)
    return example
