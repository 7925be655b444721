"""Data sets that are folders of images and of masks.

DATA_DIR/SPLIT/images and DATA_DIR/SPLIT/masks, or DATA_DIR/images and DATA_DIR/masks for the split
"" or "all", hold files of equal names, but for the suffix. A TIFF of several pages is a volume, and
each of its pages an example.
"""

import dataclasses
import pathlib
import re

from jaxseg import VOID, UserError
from jaxseg.data.decode import SUFFIXES, DatasetInfo, Encoded, num_pages

# For the colour-blind: Okabe and Ito's seven, and eight that are 18 CIELAB units or more from all
# others, white, grey and black under normal vision, deuteranopia and protanopia (Machado 2009).
COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178),
           (213, 94, 0), (204, 121, 167), (0, 0, 120), (150, 255, 150), (106, 47, 0), (0, 57, 89),
           (132, 0, 205), (0, 79, 57), (255, 190, 190), (0, 141, 249))  # fmt: skip


@dataclasses.dataclass(frozen=True)
class FolderFormat:
  """What the files of a folder mean.

  Attributes:
    classes: names, in the order of the labels.
    palette: an (R, G, B) per class; () for `default_palette`.
    channels: 1 or 3, what images are turned into.
    mask_values: per class the value that masks hold, or a tuple of such values; () = 0, 1, ...
    void_values: of masks, that count as VOID; 255 does unless it is a class.
    value_range: of images, see `decode_image`.
  """

  classes: tuple[str, ...]
  palette: tuple = ()
  channels: int = 3
  mask_values: tuple = ()
  void_values: tuple = ()
  value_range: tuple = ()


def default_palette(num_classes):
  """A different (R, G, B) for each of up to 255 classes; the first is black."""
  more = [(20 + 67 * i % 193, 20 + 29 * i % 197, 20 + 151 * i % 199) for i in range(num_classes)]
  return ((0, 0, 0), *COLOURS, *more)[:num_classes]


def open_folder(data_dir, split, fmt):
  """Opens a split of a folder; only the headers of TIFFs are read.

  Args:
    data_dir: path.  split: name of a subfolder; "" or "all" for data_dir itself.
    fmt: FolderFormat.
  Returns:
    (DatasetInfo, source), in the natural order of the names: 2.png before 10.png.
  Raises:
    UserError: the format contradicts itself, a folder is missing, or images and masks do not pair.
  """
  labels = _labels(fmt)
  if not data_dir:
    raise UserError("config.data.data_dir is not set: give it the folder of the data set")
  root = pathlib.Path(data_dir).expanduser()
  folder = root if split in ("", "all") else root / split
  for part in ("images", "masks"):
    if not (folder / part).is_dir():
      found = sorted(path.parent.name for path in root.glob("*/masks"))
      found += ["all"] if (root / "masks").is_dir() else []
      raise UserError(
        f"no folder {folder / part}: put it there, or correct config.data.data_dir or the split "
        f"(there are {', '.join(found) or 'none'}; all is images/ and masks/ in data_dir itself)"
      )
  records = [
    {
      "image": image,
      "mask": mask,
      "page": page,
      "name": image.name + (f" page {page + 1}" if pages > 1 else ""),
      "where": str(image) + (f" page {page + 1}" if pages > 1 else ""),
    }
    for image, mask, pages in _pairs(folder)
    for page in range(pages)
  ]
  palette = fmt.palette or default_palette(len(fmt.classes))
  info = DatasetInfo(fmt.classes, palette, fmt.channels, fmt.value_range)
  return info, Encoded(records, fmt.channels, labels, fmt.value_range)


def _labels(fmt):
  """{stored value: class or VOID} of a FolderFormat, all of which is checked."""
  num_classes = len(fmt.classes)
  if not 2 <= num_classes <= VOID:
    raise UserError(
      f"config.data.classes has {num_classes} names: name 2 to {VOID}, such as "
      "('background','cell')"
    )
  if len(set(fmt.classes)) < num_classes:
    raise UserError(f"config.data.classes={fmt.classes} has a name twice")
  for key in ("mask_values", "palette"):
    if len(getattr(fmt, key)) not in (0, num_classes):
      raise UserError(
        f"config.data.{key} has {len(getattr(fmt, key))} entries for {num_classes} classes: give "
        "one for each"
      )
  if not all(len(c) == 3 and all(v in range(256) for v in c) for c in fmt.palette):
    raise UserError(f"config.data.palette={fmt.palette}: use (R,G,B) of 0 to 255")
  if fmt.channels not in (1, 3):
    raise UserError(f"config.data.channels is {fmt.channels}: use 1 (grey) or 3 (RGB)")
  if fmt.value_range and not (
    len(fmt.value_range) == 2 and fmt.value_range[0] < fmt.value_range[1]
  ):
    raise UserError(f"config.data.value_range={fmt.value_range}: use (low,high) with low < high")
  entries = [(values, i) for i, values in enumerate(fmt.mask_values or range(num_classes))]
  labels = {}
  for values, label in [*entries, (fmt.void_values, VOID)]:
    for value in values if isinstance(values, tuple | list) else (values,):
      if not isinstance(value, int):
        raise UserError(f"config.data.mask_values and void_values: {value!r} is no whole number")
      if value in labels:
        raise UserError(
          f"value {value} of masks has two meanings: correct config.data.mask_values or void_values"
        )
      labels[value] = label
  return labels


def _pairs(folder):
  """[(image, mask, number of pages)] in natural order."""
  images, masks = (_files(folder / part) for part in ("images", "masks"))
  if len(images) == len(masks) == 1:
    # A volume and its labels need no common name: ISBI 2012 has train-volume and train-labels.
    (image,), (mask,) = images.values(), masks.values()
    if min(num_pages(image), num_pages(mask)) > 1:
      masks = {image.stem: mask}
  for some, others, part in ((images, masks, "masks"), (masks, images, "images")):
    alone = [path for stem, path in some.items() if stem not in others]
    if alone:
      raise UserError(
        f"{alone[0]} has no file of that name in {folder / part} ({len(alone)} of {len(some)} have "
        "none): add or remove"
      )
  pairs = []
  for stem in sorted(images, key=_natural):
    image, mask = images[stem], masks[stem]
    pages, mask_pages = num_pages(image), num_pages(mask)
    if pages != mask_pages:
      raise UserError(f"{image} has {pages} pages and {mask} {mask_pages}: there must be as many")
    pairs.append((image, mask, pages))
  return pairs


def _files(folder):
  """{name without suffix: path} of the images in a folder."""
  files = {}
  for path in sorted(folder.iterdir()):
    if path.suffix.lower() in SUFFIXES and path.name[0] != "." and path.is_file():
      if path.stem in files:
        raise UserError(f"{files[path.stem]} and {path.name} have one name: keep one of them")
      files[path.stem] = path
  if not files:
    raise UserError(f"no images in {folder}: none of its files ends in {', '.join(SUFFIXES)}")
  return files


def _natural(name):
  parts = re.split(r"(\d+)", name)
  return [int(part) if part.isdecimal() else part.lower() for part in parts], name
