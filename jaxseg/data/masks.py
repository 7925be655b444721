"""Reads masks of any kind: images in numbers or colours, polygons, a file per label."""

import dataclasses
from collections.abc import Mapping, Sequence
from os import PathLike

import numpy as np
from PIL import Image

from jaxseg import VOID, UserError
from jaxseg.data import polygons
from jaxseg.data.files import TRANSPARENCY, few, read_raster
from jaxseg.data.label_faults import mask_fault
from jaxseg.data.labels import BACKGROUND, LabelMap, Value
from jaxseg.data.raster import Path, Raster

COLORS = tuple("RGB")

# Bytes of an image; the path of an image or of labelme's JSON; a part of COCO's JSON; or the images
# of each label.
MaskFile = bytes | Path | polygons.CocoMask | Mapping[str, Sequence[Path]]


@dataclasses.dataclass(frozen=True)
class StoredMask:
  """A mask as it is stored.

  Attributes:
    counts: {value: pixels}; a value is a number, an (R, G, B) or the name of a label.
    index: whole numbers [H,W], positions in `counts`; len(counts) for NaN and "no data".
    format: of the file: "PNG", "labelme" ...
  """

  counts: dict[Value, int]
  index: np.ndarray
  format: str


def decode_mask(
  data: MaskFile,
  name: str,
  labels: LabelMap,
  *,
  page: int = 0,
  orient: bool = True,
  notes: list[str] | None = None,
) -> np.ndarray:
  """A mask -> u8[H,W] of classes and VOID.

  Args:
    data: see MaskFile.  labels: what values mean.
    name: in errors, except those about outlines, which name the JSON file.
    page: of a file of several.  orient: turns it upright as its EXIF orientation says.
    notes: list that collects what is not used of the file.
  Raises:
    UserError: it cannot be decoded, or holds a value without a meaning.
  """
  stored = read_mask(data, name, labels, page=page, orient=orient, notes=notes)
  fault = mask_fault(stored.counts, labels, stored.format)
  if fault:
    raise UserError(f"{json_place(data) or name}: {fault}")
  return _look_up(np.array([*labels.look_up(stored.counts), VOID], np.uint8), stored.index)


def json_place(data: MaskFile) -> str:
  """The JSON file with the outlines of a mask, and the image in it if it has many; else ""."""
  if isinstance(data, polygons.CocoMask):
    return data.where
  is_json = isinstance(data, str | PathLike) and str(data).lower().endswith(".json")
  return str(data) if is_json else ""


def read_mask(
  data: MaskFile,
  name: str,
  labels: LabelMap,
  *,
  page: int = 0,
  orient: bool = True,
  notes: list[str] | None = None,
) -> StoredMask:
  """A mask -> its values as stored; `labels` says whether these are colours or numbers.

  Raises:
    UserError: it cannot be decoded, or does not have one label per pixel.
  """
  if isinstance(data, polygons.CocoMask):
    return _drawn(*polygons.draw_coco(data, json_place(data), notes), "COCO")
  if isinstance(data, Mapping):
    return _drawn(*_draw_layers(data, name, labels, page, orient, notes), "PNG per label")
  if path := json_place(data):
    return _drawn(*polygons.draw_labelme(data, path), "labelme")
  raster = read_raster(data, name, page=page, orient=orient)
  numbers, colors = _single_layer(raster, name, labels)
  if notes is not None:
    # Where the values are places in a palette, its colours do not matter.
    is_index = raster.header.names == ("index",) and not labels.by_color
    notes += [x for x in raster.header.notes if not (is_index and x == TRANSPARENCY)]
    if labels.by_color and colors is None:
      notes.append("the mask holds numbers, to which `mask_colors` does not apply")
    if "A" in raster.header.names and not _is_constant(
      raster.samples[..., raster.header.names.index("A")]
    ):
      notes.append("transparency (alpha) of the mask is not used")
  if colors is None:
    found = _stored(numbers, raster, lambda v: _number(v, raster, labels))
    if notes is not None and (nodata := _class_without_data(found, numbers, raster, labels)):
      notes.append(f"its value of no data, {nodata}, is void: list it in `mask_values` if it is "
                   "that of a class")  # fmt: skip
    return found
  packed, bits = _packed(colors, name)
  channel = (1 << bits) - 1
  return _stored(packed, raster, lambda v: (v >> 2 * bits, v >> bits & channel, v & channel))


def _drawn(names, index, file_format):
  nums = _count(index, len(names)).tolist()
  return StoredMask(dict(zip(names, nums, strict=True)), index, file_format)


def _stored(pixels, raster, convert):
  """StoredMask of one number per pixel; `convert` gives the value, or None for no data."""
  is_small = pixels.dtype in (np.uint8, np.uint16)  # faster than sorting
  if is_small:
    all_nums = _count(pixels, np.iinfo(pixels.dtype).max + 1)
    found = np.flatnonzero(all_nums)
    nums = all_nums[found]
  else:
    found, nums = np.unique(pixels, return_counts=True)
  values = [convert(value) for value in found.tolist()]
  counts = {v: num for v, num in zip(values, nums.tolist(), strict=True) if v is not None}
  place = {value: i for i, value in enumerate(counts)}
  places = np.array([place.get(v, len(counts)) for v in values], np.min_scalar_type(len(counts)))
  if is_small:
    table = np.zeros(found.max(initial=0) + 1, places.dtype)
    table[found] = places
    return StoredMask(counts, _look_up(table, pixels), raster.header.format)
  return StoredMask(counts, places[np.searchsorted(found, pixels)], raster.header.format)


def _count(values, size):
  """i64[size], how often each whole number occurs."""
  if values.dtype == np.uint8 and size == 256:  # which Pillow counts in half the time
    return np.array(Image.fromarray(values).histogram(), np.int64)
  flat, block = values.ravel(), 1 << 20  # np.bincount needs 8 bytes a pixel
  parts = (flat[i : i + block] for i in range(0, flat.size, block))
  return sum((np.bincount(part, minlength=size) for part in parts), np.zeros(size, np.int64))


def _look_up(table, index):
  """table[index]"""
  if table.dtype == index.dtype == np.uint8:  # which Python does five times as fast
    found = bytearray(index.tobytes()).translate(table[:256].tobytes().ljust(256))
    return np.frombuffer(found, np.uint8).reshape(index.shape)
  return table[index]


def _number(value, raster, labels):
  """A stored number: int where it is whole; None if it is NaN or "no data"."""
  if value != value:
    return None
  whole = isinstance(value, int) or (value.is_integer() and abs(value) < 1 << 53)
  if raster.header.nodata is not None and not (labels.is_listed and value in labels.values):
    with np.errstate(over="ignore"):
      nodata = raster.header.nodata
      rounded = None if isinstance(value, int) else raster.samples.dtype.type(nodata)
    if value in (nodata, rounded):
      return None
  return int(value) if whole else value


def _class_without_data(found, numbers, raster, labels):
  """The value of no data as text, if it occurs and would else be a class; "" if not."""
  nodata = raster.header.nodata
  if nodata is None or nodata != nodata or not float(nodata).is_integer():
    return ""
  if labels.is_listed and nodata in labels.values:
    return ""
  label = labels.look_up([int(nodata)])[0]
  is_void = sum(found.counts.values()) < numbers.size and bool((numbers == nodata).any())
  return f"{nodata:g}" if is_void and label not in (None, VOID) else ""


def _single_layer(raster: Raster, name, labels):
  """(numbers [H,W], None) or (None, colours [H,W,3]) of a file."""
  samples, names = raster.samples, raster.header.names
  if names == ("index",):
    # A GIF writer may renumber the palette: there the colour is the label, elsewhere the index.
    if raster.header.format != "GIF" and not labels.by_color:
      return samples[..., 0], None
    if samples.max(initial=0) >= len(raster.palette):
      raise UserError(f"{name}: cannot be decoded (its palette lacks a colour): save it again")
    samples, names = raster.palette[samples[..., 0]], COLORS
  if "A" in names:
    keep = [i for i, part in enumerate(names) if part != "A"]
    alpha, samples = samples[..., names.index("A")], samples[..., keep]
    names = tuple(names[i] for i in keep)
    if samples.size and _is_constant(samples) and not _is_constant(alpha[..., None]):
      raise UserError(
        f"{name}: all pixels have the same colour and only alpha differs, so the labels seem to be "
        "in the alpha channel: save that channel as a grey PNG"
      )
  grey = samples[..., 0]
  is_grey = all(np.array_equal(grey, samples[..., i]) for i in range(1, samples.shape[-1]))
  if names != COLORS:
    if not is_grey:
      raise UserError(
        f"{name}: a mask needs one label per pixel, but this has {len(names)} channels "
        f"({', '.join(names)}): save the one with the labels"
      )
    return grey, None
  if labels.by_color or not is_grey:
    return None, samples
  if labels.colors and samples.dtype.kind in "ui":
    # Grey stored as colours, but black and white may also be two of the colours.
    values = np.unique(grey).tolist()
    as_numbers, as_colors = (labels.look_up(x) for x in (values, [(v,) * 3 for v in values]))
    if None not in as_colors and as_numbers != as_colors:
      if None not in as_numbers:
        raise UserError(
          f"{name}: the colours {few([(v,) * 3 for v in values])} can be numbers or colours of "
          "classes: save it with one channel, or set `mask_colors`"
        )
      return None, samples
  return grey, None


def _is_constant(samples):
  return bool((samples == samples[:1, :1]).all())


def _packed(colors, name):
  """([H,W,3] -> u32 or u64[H,W], bits per channel)"""
  if colors.dtype.kind not in "ui" or colors.dtype.itemsize > 2:
    raise UserError(f"{name}: its colours are {colors.dtype}: save masks in colour with 8 bits")
  bits = 8 * colors.dtype.itemsize
  red, green, blue = np.moveaxis(colors, -1, 0).astype(np.uint32 if bits == 8 else np.uint64)
  return (red << bits | green) << bits | blue, bits


def _draw_layers(files, name, labels, page, orient, notes):
  """(names, u8[H,W] of their positions) of one image per label; a later class lies on top."""
  order = sorted(files, key=lambda label: (labels.look_up([label])[0] or 0, label))
  names = list(dict.fromkeys([BACKGROUND, *order]))
  if len(names) > polygons.MAX_NAMES:
    raise UserError(f"{name}: has more than {polygons.MAX_NAMES} labels: name fewer classes")
  index = None
  for label in order:
    for path in files[label]:
      where = f"{name} ({path})"
      raster = read_raster(path, where, page=page, orient=orient)
      if notes is not None:
        notes += [note for note in raster.header.notes if note != TRANSPARENCY]
      numbers, colors = _single_layer(raster, where, LabelMap({}))
      pixels = colors.any(-1) if numbers is None else (numbers != 0) & (numbers == numbers)
      if numbers is not None and raster.header.nodata is not None:
        pixels &= numbers != raster.header.nodata
      if index is None:
        index = np.zeros(pixels.shape, np.uint8)
      if index.shape != pixels.shape:
        sizes = ["x".join(map(str, x.shape[::-1])) for x in (pixels, index)]
        raise UserError(f"{where}: is {sizes[0]} px, but another label is {sizes[1]} px")
      index[pixels] = names.index(label)
  if index is None:
    raise UserError(f"{name}: no label has a file: add one, even if it is black")
  return names, index
