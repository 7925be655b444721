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


def open_folder(data_dir, split, fmt, problems=None):
  """Opens a split of a folder; only the headers of TIFFs are read.

  Args:
    data_dir: path.  split: name of a subfolder; "" or "all" for data_dir itself.
    fmt: FolderFormat.
    problems: a list to which all is added that hinders files from pairing, see `_pairs`; they are
      then left out. None: an error.
  Returns:
    (DatasetInfo, source), in the natural order of the names: 2.png before 10.png.
  Raises:
    UserError: the format contradicts itself, a folder is missing, or images and masks do not pair.
  """
  labels = _labels(fmt)
  if not data_dir:
    raise UserError("`data_dir` is not set: give it the folder of the data set")
  root = pathlib.Path(data_dir).expanduser()
  folder = root if split in ("", "all") else root / split
  for part in ("images", "masks"):
    if not (folder / part).is_dir():
      found = sorted(path.parent.name for path in root.glob("*/masks"))
      found += ["all"] if (root / "masks").is_dir() else []
      raise UserError(
        f"no folder {folder / part}: put it there, or correct `data_dir` or the split "
        f"(there are {', '.join(found) or 'none'}; all is images/ and masks/ in data_dir itself)"
      )
  pairs, found = _pairs(folder)
  if problems is not None:
    problems += found
  elif found:
    raise UserError(found[0][-1])
  records = [
    {
      "image": image,
      "mask": mask,
      "page": page,
      "name": image.name + (f" page {page + 1}" if pages > 1 else ""),
      "where": str(image) + (f" page {page + 1}" if pages > 1 else ""),
    }
    for image, mask, pages in pairs
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
      f"`classes` has {num_classes} names: name 2 to {VOID}, such as "
      "('background','cell')"
    )
  if len(set(fmt.classes)) < num_classes:
    raise UserError(f"`classes`={fmt.classes} has a name twice")
  for key in ("mask_values", "palette"):
    if len(getattr(fmt, key)) not in (0, num_classes):
      raise UserError(
        f"`{key}` has {len(getattr(fmt, key))} entries for {num_classes} classes: give "
        "one for each"
      )
  if not all(len(c) == 3 and all(v in range(256) for v in c) for c in fmt.palette):
    raise UserError(f"`palette`={fmt.palette}: use (R,G,B) of 0 to 255")
  if fmt.channels not in (1, 3):
    raise UserError(f"`channels` is {fmt.channels}: use 1 (grey) or 3 (RGB)")
  if fmt.value_range and not (
    len(fmt.value_range) == 2 and fmt.value_range[0] < fmt.value_range[1]
  ):
    raise UserError(f"`value_range`={fmt.value_range}: use (low,high) with low < high")
  entries = [(values, i) for i, values in enumerate(fmt.mask_values or range(num_classes))]
  labels = {}
  for values, label in [*entries, (fmt.void_values, VOID)]:
    for value in values if isinstance(values, tuple | list) else (values,):
      if not isinstance(value, int):
        raise UserError(f"`mask_values` and `void_values`: {value!r} is no whole number")
      if value in labels:
        raise UserError(
          f"value {value} of masks has two meanings: correct `mask_values` or `void_values`"
        )
      labels[value] = label
  return labels


def _pairs(folder):
  """Images and masks of a folder that belong together, and whatever hinders others from that.

  Returns:
    ([(image, mask, number of pages)] in natural order,
     [(kind of problem, file, what to tell the user)])
  """
  problems = []
  images, masks = (_files(folder / part, problems) for part in ("images", "masks"))
  pages = {path: _num_pages(path, problems) for path in (*images.values(), *masks.values())}
  if len(images) == len(masks) == 1:
    # A volume and its labels need no common name: ISBI 2012 has train-volume and train-labels.
    (image,), (mask,) = images.values(), masks.values()
    if min(pages[image], pages[mask]) > 1:
      masks = {image.stem: mask}
  for some, others, part, kind in (
    (images, masks, "masks", "images without a mask"),
    (masks, images, "images", "masks without an image"),
  ):
    alone = [path for stem, path in some.items() if stem not in others]
    text = f"has no file of that name in {folder / part} ({len(alone)} of {len(some)} have none)"
    problems += [(kind, path, f"{path} {text}: add or remove") for path in alone if others]
  pairs = []
  for stem in sorted(images.keys() & masks.keys(), key=_natural):
    image, mask = images[stem], masks[stem]
    if pages[image] == pages[mask]:
      pairs.append((image, mask, pages[image]))
    elif pages[image] and pages[mask]:
      text = f"{image} has {pages[image]} pages and {mask} {pages[mask]}: there must be as many"
      problems.append(("volumes of different lengths", image, text))
  return pairs, problems


def _num_pages(path, problems):
  """See `num_pages`; 0 for a damaged file."""
  try:
    return num_pages(path)
  except UserError as error:
    problems.append(("files that cannot be read", path, str(error)))
    return 0


def _files(folder, problems):
  """{name without suffix: path} of the images in a folder."""
  files = {}
  for path in sorted(folder.iterdir()):
    if path.suffix.lower() in SUFFIXES and path.name[0] != "." and path.is_file():
      if path.stem in files:
        text = f"{files[path.stem]} and {path.name} have one name: keep one of them"
        problems.append(("files of one name", path, text))
      else:
        files[path.stem] = path
  if not files:
    text = f"no images in {folder}: none of its files ends in {', '.join(SUFFIXES)}"
    problems.append(("folders without images", folder, text))
  return files


def _natural(name):
  parts = re.split(r"(\d+)", name)
  return [int(part) if part.isdecimal() else part.lower() for part in parts], name
