"""Statistics and problems of one example of a data set."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from os import PathLike

import numpy as np

from jaxseg import VOID, UserError
from jaxseg.data.datasets import Subset
from jaxseg.data.decode import DatasetInfo, black_and_white, decode_image, to_picture
from jaxseg.data.encoded import Encoded, place, size_fault
from jaxseg.data.files import inspect
from jaxseg.data.fingerprints import fingerprint, specks
from jaxseg.data.label_faults import is_noisy, mask_fault
from jaxseg.data.labels import LabelMap, Value
from jaxseg.data.levels import levels
from jaxseg.data.masks import json_place, read_mask
from jaxseg.data.raster import Header

MAX_VALUES = 1000  # kept of a mask whose values are no labels
UNKNOWN = 254  # label of pixels whose value is no class, in pictures
# Specks of a mask that are worth a warning. A fifth of CamVid's masks have as many, those of Pets,
# of VOC, and generated cells fewer: at most 0.2, 0.9 and 0.6 per 10,000 px.
MIN_SPECKS, SPECKS_PER_PIXEL = 3, 2e-4


@dataclasses.dataclass(frozen=True)
class Finding:
  """A problem of a data set.

  Attributes:
    severity: "error" if training would stop at it, else "warning".
    kind: heading under which it is listed.
    file: which it concerns; "" for a whole split.
    text: one line with the remedy.
    detail: what differs from file to file, if the text is the same for many.
    pair: the two files, if it concerns two; `file` names both then.
  """

  severity: str
  kind: str
  file: str
  text: str
  detail: str = ""
  pair: tuple[str, ...] = ()

  @property
  def listed(self) -> str:
    """The file, with the detail."""
    return self.file + (f": {self.detail}" if self.detail else "")


@dataclasses.dataclass(frozen=True)
class Parts:
  """Image and mask of an example, read separately: a bad image does not hide a bad mask.

  Attributes:
    file: its name in errors.
    image: [H,W,D], see `decode.decode_image`; None if it cannot be read.
    index: whole numbers [h,w], positions in `values`; len(values) for NaN and "no data". None if
      the mask cannot be read.
    values: {stored value: pixels} of the mask.  mask_format: of its file.
    labels: what values mean.
    headers: {"image", "mask": Header}, of what is a file that can be read.
    errors: ((kind, file, text), ...) of what cannot be read.
    notes: what is not used of the files.
    size_fault: the problem if the sizes differ, see `encoded.size_fault`.
    orient: whether EXIF orientations count.
    value_range: see `ImageFormat`.
    json: of the mask, see `masks.json_place`.
  """

  file: str
  image: np.ndarray | None
  index: np.ndarray | None
  values: Mapping[Value, int]
  mask_format: str
  labels: LabelMap
  headers: Mapping[str, Header]
  errors: tuple[tuple[str, str, str], ...]
  notes: tuple[str, ...] = ()
  size_fault: str = ""
  orient: bool = False
  value_range: tuple = ()
  json: str = ""

  def label_map(self) -> np.ndarray:
    """The mask as u8[h,w]: classes, VOID, and UNKNOWN where the value is no class."""
    found = self.labels.look_up(self.values)
    table = np.array([*(UNKNOWN if x is None else x for x in found), VOID], np.uint8)
    return table[self.index]


@dataclasses.dataclass(frozen=True)
class Example:
  """What the check keeps of an example, without its pixels.

  Attributes:
    index: in its source.  file: its name in errors.
    findings: tuple of Finding, of this example alone.
    size: (width, height) of the image, px; None if the image cannot be read.
    formats: {"image", "mask": see `raster.Header.text`}, of those that can be read.
    digest: of the image's pixels and shape; b"" if all pixels are the same or cannot be read.
    brightest: largest value of the image; 0 is black, 1 is white.
    values: {stored value: pixels} of the mask; not all if they cannot be labels.
    fault: the problem with these values, see `label_faults.mask_fault`.
    counts: i64[C+1], pixels of each class and of VOID.
    orientation: EXIF orientation of the image, 1 to 8.
    depth: of the image's samples, as in "16 bit"; "" if it is no file.
    hash: u64[4], see `fingerprints.fingerprint`.
    specks: see `fingerprints.specks`.
    json: of the mask, see `masks.json_place`.
    levels: see `levels.levels`; None if there is no value_range.
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
  orientation: int = 1
  depth: str = ""
  hash: np.ndarray | None = None
  specks: tuple[int, list[tuple[int, int, int, int]]] = (0, [])
  json: str = ""
  levels: np.ndarray | None = None


def read_parts(source: Sequence, num_classes: int, index: int) -> Parts:
  """Reads an example of a source as `datasets.load` returns it.

  Args:
    num_classes: C, for sources that do not decode files.
  """
  errors, notes, headers = [], [], {}

  def attempt(kind, name, function, *arguments, **options):
    try:
      return function(*arguments, **options)
    except UserError as error:
      errors.append((kind, name, str(error).removeprefix(f"{name}: ")))

  while isinstance(source, Subset):
    source, index = source.source, source.indices[index]
  if not isinstance(source, Encoded):
    file, labels = f"example {index}", LabelMap({label: label for label in range(num_classes)})
    example = attempt("examples that cannot be read", file, source.__getitem__, index)
    if not example:
      return Parts(file, None, None, {}, "", labels, {}, tuple(errors))
    image, mask = example["image"], example["mask"]
    values, positions, nums = np.unique(mask, return_inverse=True, return_counts=True)
    values = dict(zip(values.tolist(), nums.tolist(), strict=True))
    fault, positions = size_fault(image.shape[:2], mask.shape), positions.reshape(mask.shape)
    return Parts(example["name"], image, positions, values, "", labels, {}, (), size_fault=fault)
  fmt, file = source.fmt, f"example {index}"
  read = source.records.__getitem__
  record = attempt("examples that cannot be read", file, read, index)
  if record is None:
    return Parts(file, None, None, {}, "", source.labels, headers, tuple(errors))
  file, page = place(record)
  name = f"mask of {file}"
  image = attempt("images that cannot be read", file, decode_image, record["image"], file, fmt,
                  page=page, notes=notes)  # fmt: skip
  stored = attempt("masks that cannot be read", name, read_mask, record["mask"], name,
                   source.labels, page=page, orient=fmt.orient, notes=notes)  # fmt: skip
  if image is not None:
    headers["image"] = inspect(record["image"], file, page=page, pages=fmt.pages)
  if stored is None:
    return Parts(file, image, None, {}, "", source.labels, headers, tuple(errors), tuple(notes))
  if isinstance(record["mask"], bytes | str | PathLike) and stored.format != "labelme":
    headers["mask"] = inspect(record["mask"], name, page=page)
  fault = "" if image is None else size_fault(
    image.shape[:2], stored.index.shape, record["image"], fmt
  )
  return Parts(
    file, image, stored.index, stored.counts, stored.format, source.labels, headers, tuple(errors),
    tuple(notes), fault, fmt.orient, fmt.value_range, json_place(record["mask"]),
  )  # fmt: skip


def examine(source: Sequence, num_classes: int, index: int) -> Example:
  """Statistics and problems of an example of a source.

  Args:
    source: as `datasets.load` returns it.  num_classes: C.
  Returns:
    Example; it has errors, in `findings` or as `fault`, exactly if source[index] raises UserError.
  """
  parts = read_parts(source, num_classes, index)
  image, values, file = parts.image, parts.values, parts.file
  findings = [Finding("error", *error) for error in parts.errors]
  findings += [
    Finding("warning", "parts of files that are not used", file, note) for note in parts.notes
  ]
  findings += _find_orientation(parts)
  fault, counts = mask_fault(values, parts.labels, parts.mask_format), _count(parts, num_classes)
  small = (0, [])
  if parts.index is not None and not fault:
    small = specks(parts.label_map())
    if small[0] >= max(MIN_SPECKS, SPECKS_PER_PIXEL * parts.index.size):
      text = (
        "areas of one label and at most 3 px are slips of the hand, or traces of resizing by "
        "interpolation: look at them, and give them the label of their surroundings. Listed are "
        "their number and the first boxes (left, top, right, bottom)"
      )
      detail = f"{small[0]:,}: {', '.join(map(str, small[1][:2]))} ..."
      findings.append(Finding("warning", "specks in masks", f"mask of {file}", text, detail))
  if fault and is_noisy(values, parts.labels):
    values = {value: values[value] for value in parts.labels.unknown(values)[:MAX_VALUES]}
  size, digest, brightest, bits = None, b"", 0.0, None
  if image is not None:
    size = image.shape[1::-1]
    low, high = black_and_white(parts.value_range, image.dtype)
    lows, highs = image.min(0).min(0), image.max(0).max(0)  # one axis at a time is much faster
    brightest = float(((highs - low) / (high - low)).max())
    if (lows < highs).any():
      pixels = np.ascontiguousarray(image)
      digest = hashlib.blake2b(pixels, digest_size=16, key=str(image.shape).encode()).digest()
      bits = fingerprint(_stretched(image))
    else:
      text = "all pixels have the same value: check the file and `value_range`"
      findings.append(Finding("warning", "images of a single colour", file, text))
  formats = {name: header.text for name, header in parts.headers.items()}
  if parts.index is not None and parts.mask_format:
    formats.setdefault("mask", parts.mask_format)
  header = parts.headers.get("image")
  return Example(
    index, file, tuple(findings), size, formats, digest, brightest, dict(values), fault, counts,
    header.orientation if header else 1, header.depth if header else "", bits, small,
    parts.json, levels(image, parts.value_range) if size and parts.value_range else None,
  )  # fmt: skip


def _find_orientation(parts):
  """Sizes that differ; and turns that no size can confirm."""
  kind = "images and masks of different sizes"
  headers, mask = parts.headers, parts.index
  orientation, of_mask = (headers[x].orientation if x in headers else 1 for x in ("image", "mask"))
  turned = parts.orient and orientation != 1
  if parts.size_fault:
    if turned and orientation > 4 and parts.image.shape[:2] == mask.shape[::-1]:
      kind = "images that fit their mask only unturned"
    return [Finding("error", kind, parts.file, parts.size_fault)]
  if not turned or "mask" not in headers or of_mask != 1 or parts.image is None:
    return []
  if orientation > 4 and mask.shape[0] != mask.shape[1]:  # its size shows that it is upright
    return []
  text = (
    "the image is turned by its EXIF orientation, its mask has none: the masks are taken as "
    "upright. Look whether they fit; if they do not, set `exif_orientation`=False"
  )
  kind = "turned images with masks that are not"
  return [Finding("warning", kind, parts.file, text, f"orientation {orientation}")]


def _count(parts, num_classes):
  """i64[C+1], pixels of each class and of VOID."""
  counts = np.zeros(num_classes + 1, np.int64)
  labels = parts.labels.look_up(parts.values)
  for label, num in zip(labels, parts.values.values(), strict=True):
    if label is not None:
      counts[min(label, num_classes)] += num
  if parts.index is not None:
    counts[num_classes] += parts.index.size - sum(parts.values.values())  # NaN and "no data"
  return counts


def _stretched(image):
  """What a perceptual hash compares: u8[H,W,1 or 3], from the image's own black to its white."""
  if image.dtype == np.uint8 and image.shape[-1] in (1, 3):
    return image
  step = max(1, max(image.shape[:2]) // 512)  # a hash needs no more, and floats take much memory
  image = image[::step, ::step]
  low, high = np.percentile(image[..., :3], (1, 99))
  value_range = (float(low), float(high if high > low else low + 1))
  info = DatasetInfo((), (), image.shape[-1], value_range=value_range)
  return to_picture(image, info)
