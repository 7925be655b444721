"""Statistics and problems of one example of a data set."""

import dataclasses
import hashlib
from collections.abc import Sequence
from os import PathLike

import numpy as np

from jaxseg import UserError
from jaxseg.data.datasets import Subset
from jaxseg.data.decode import black_and_white, decode_image
from jaxseg.data.encoded import Encoded, place, size_fault
from jaxseg.data.files import describe_file
from jaxseg.data.label_faults import is_noisy, mask_fault
from jaxseg.data.labels import LabelMap, Value
from jaxseg.data.masks import read_mask

MAX_VALUES = 1000  # kept of a mask whose values are no labels


@dataclasses.dataclass(frozen=True)
class Finding:
  """A problem of a data set.

  Attributes:
    severity: "error" if training would stop at it, else "warning".
    kind: heading under which it is listed.
    file: which it concerns; "" for a whole split.
    text: one line with the remedy.
  """

  severity: str
  kind: str
  file: str
  text: str


@dataclasses.dataclass(frozen=True)
class Example:
  """What the check keeps of an example, without its pixels.

  Attributes:
    index: in its source.  file: its name in errors.
    findings: tuple of Finding, of this example alone.
    size: (width, height) of the image, px; None if the image cannot be read.
    formats: {"image", "mask": see `files.describe_file`}, of those that can be read.
    digest: of the image's pixels and shape; b"" if all pixels are the same or cannot be read.
    brightest: largest value of the image; 0 is black, 1 is white.
    values: {stored value: pixels} of the mask; not all if they cannot be labels.
    fault: the problem with these values, see `label_faults.mask_fault`.
    counts: i64[C+1], pixels of each class and of VOID.
  """

  index: int
  file: str
  findings: tuple[Finding, ...]
  size: tuple[int, int] | None
  formats: dict[str, str]
  digest: bytes
  brightest: float
  values: dict[Value, int]
  fault: str
  counts: np.ndarray


def examine(source: Sequence, num_classes: int, index: int) -> Example:
  """Reads image and mask separately, so that a bad image does not hide a bad mask.

  Args:
    source: as `datasets.load` returns it.  num_classes: C.
  Returns:
    Example; it has errors, in `findings` or as `fault`, exactly if source[index] raises UserError.
  """
  findings, formats, notes = [], {}, []

  def attempt(kind, name, function, *arguments, **options):
    try:
      return function(*arguments, **options)
    except UserError as error:
      text = str(error).removeprefix(f"{name}: ")
      findings.append(Finding("error", kind, name, text))

  records, i = source, index
  while isinstance(records, Subset):
    records, i = records.source, records.indices[i]
  image, mask, turned = None, None, ()
  values, kind = {}, ""
  is_encoded, file = isinstance(records, Encoded), f"example {i}"
  labels = LabelMap({label: label for label in range(num_classes)})
  labels = records.labels if is_encoded else labels
  read = (records.records if is_encoded else records).__getitem__
  record = attempt("examples that cannot be read", file, read, i)
  if record and is_encoded:
    turned = record["image"], records.fmt
    file, page = place(record)
    names = {"image": file, "mask": f"mask of {file}"}
    image = attempt("images that cannot be read", file, decode_image, record["image"], file,
                    records.fmt, page=page, notes=notes)  # fmt: skip
    stored = attempt("masks that cannot be read", names["mask"], read_mask, record["mask"],
                     names["mask"], labels, page=page, orient=records.fmt.orient)  # fmt: skip
    if image is not None:
      formats["image"] = describe_file(record["image"], names["image"])
    if stored:
      mask, values, kind = stored.index, stored.counts, stored.format
      formats["mask"] = kind
      if isinstance(record["mask"], bytes | str | PathLike) and kind != "labelme":
        formats["mask"] = describe_file(record["mask"], names["mask"])
    findings += [Finding("warning", "parts of files that are not used", file, x) for x in notes]
  elif record:
    image, mask, file = record["image"], record["mask"], record["name"]
    values = dict(zip(*(x.tolist() for x in np.unique(mask, return_counts=True)), strict=True))
  if image is not None and mask is not None and (fault := size_fault(image, mask, *turned)):
    findings.append(Finding("error", "images and masks of different sizes", file, fault))
  fault, counts = mask_fault(values, labels, kind), np.zeros(num_classes + 1, np.int64)
  for label, num in zip(labels.look_up(values), values.values(), strict=True):
    if label is not None:
      counts[min(label, num_classes)] += num
  if mask is not None:
    counts[num_classes] += mask.size - sum(values.values())  # NaN and "no data"
  if fault and is_noisy(values, labels):
    values = {value: values[value] for value in labels.unknown(values)[:MAX_VALUES]}
  size, digest, brightest = None, b"", 0.0
  if image is not None:
    size, value_range = image.shape[1::-1], records.fmt.value_range if turned else ()
    low, high = black_and_white(value_range, image.dtype)
    brightest = float(((image.max((0, 1)) - low) / (high - low)).max())
    if (image.min((0, 1)) < image.max((0, 1))).any():
      pixels = np.ascontiguousarray(image)
      digest = hashlib.blake2b(pixels, digest_size=16, key=str(image.shape).encode()).digest()
    else:
      text = "all pixels have the same value: check the file and `value_range`"
      findings.append(Finding("warning", "images of a single colour", file, text))
  return Example(
    index, file, tuple(findings), size, formats, digest, brightest, values, fault, counts
  )
