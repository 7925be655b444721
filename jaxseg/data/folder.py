"""Data sets that are folders of images and of masks.

The split SPLIT is DATA_DIR/SPLIT/images and DATA_DIR/SPLIT/masks; the split "" or "all" is
DATA_DIR/images and DATA_DIR/masks. An image and its mask have the same name, up to the suffix. A
TIFF of several pages is a volume: each page is an example.
"""

import dataclasses
import pathlib
import re
from os import PathLike

from jaxseg import VOID, UserError
from jaxseg.data.decode import DatasetInfo
from jaxseg.data.encoded import Encoded
from jaxseg.data.files import SUFFIXES, few, num_pages
from jaxseg.data.label_spaces import fill_in
from jaxseg.data.labels import label_map

# Safe for colour-blind readers: Okabe and Ito's seven, and eight that are 18 CIELAB units or more
# from all others, white, grey and black in normal vision, deuteranopia and protanopia (Machado
# 2009).
COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178),
           (213, 94, 0), (204, 121, 167), (0, 0, 120), (150, 255, 150), (106, 47, 0), (0, 57, 89),
           (132, 0, 205), (0, 79, 57), (255, 190, 190), (0, 141, 249))  # fmt: skip


@dataclasses.dataclass(frozen=True)
class FolderFormat:
  """How to read the files of a folder.

  Attributes:
    classes: names, in the order of the labels.
    palette: an (R, G, B) per class; () for `default_palette`.
    channels: 1 or 3, to which images are converted.
    mask_values: stored value, or tuple of values, of each class; () = 0, 1, ...
    void_values: stored values that count as VOID; so does 255, unless it is a class.
    value_range: of images, see `decode_image`.
    mask_colors, void_colors, color_tolerance, reduce_zero_label: see `labels.label_map`.
    label_space: key of `label_spaces.LABEL_SPACES`, which gives what is () here.
  """

  classes: tuple[str, ...]
  palette: tuple = ()
  channels: int = 3
  mask_values: tuple = ()
  void_values: tuple = ()
  value_range: tuple = ()
  mask_colors: tuple = ()
  void_colors: tuple = ()
  color_tolerance: int = 0
  reduce_zero_label: bool = False
  label_space: str = ""


def default_palette(num_classes: int) -> tuple[tuple[int, int, int], ...]:
  """A different (R, G, B) for each of up to 255 classes; the first is black."""
  more = [(20 + 67 * i % 193, 20 + 29 * i % 197, 20 + 151 * i % 199) for i in range(num_classes)]
  return ((0, 0, 0), *COLOURS, *more)[:num_classes]


def open_folder(
  data_dir: str | PathLike, split: str, fmt: FolderFormat, problems: list | None = None
) -> tuple[DatasetInfo, Encoded]:
  """Opens a split of a folder; reads nothing but the headers of TIFFs.

  Args:
    data_dir: path.  split: name of a subfolder; "" or "all" for data_dir itself.
    problems: a list that collects the problems of files that do not pair, see `_pairs`; these files
      are left out. None: the first problem is an error.
  Returns:
    (DatasetInfo, source), in the natural order of the names: 2.png before 10.png.
  Raises:
    UserError: the format contradicts itself, a folder is missing, or images and masks do not pair.
  """
  fmt = dataclasses.replace(fmt, **fill_in(fmt.label_space, vars(fmt)))
  _check(fmt)
  labels = label_map(
    fmt.classes, palette=fmt.palette, mask_values=fmt.mask_values, void_values=fmt.void_values,
    mask_colors=fmt.mask_colors, void_colors=fmt.void_colors, color_tolerance=fmt.color_tolerance,
    reduce_zero_label=fmt.reduce_zero_label,
  )  # fmt: skip
  if not data_dir:
    raise UserError("`data_dir` is empty: set it to the folder of the data set")
  root = pathlib.Path(data_dir).expanduser()
  folder = root if split in ("", "all") else root / split
  for part in ("images", "masks"):
    if not (folder / part).is_dir():
      raise UserError(f"no folder {folder / part}: {_remedy(root, folder)}")
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


def _remedy(root, folder):
  """What to do if a folder has no images/ or no masks/."""
  splits = sorted(path.parent.name for path in root.glob("*/masks"))
  splits += ["all"] if (root / "masks").is_dir() else []
  if splits:
    names = ", ".join(map(repr, splits))
    return f"correct the split, {root} has {names} ('all' is its own images/ and masks/)"
  names = sorted(f"{path.name}/" for path in folder.glob("*") if path.is_dir())
  held = f"{folder} holds {few(names)}: rename or link two of them" if names else "create it"
  return f"{held} (images/ and masks/ are expected), or correct `data_dir` or the split"


def _check(fmt):
  """Raises UserError for a FolderFormat that contradicts itself."""
  num_classes = len(fmt.classes)
  if not 2 <= num_classes <= VOID:
    raise UserError(
      f"`classes` has {num_classes} names: give 2 to {VOID}, such as ('background','cell')"
    )
  if len(set(fmt.classes)) < num_classes:
    raise UserError(f"`classes`={fmt.classes} has a name twice: give each class its own")
  if len(fmt.palette) not in (0, num_classes):
    raise UserError(
      f"`palette` has {len(fmt.palette)} entries for {num_classes} classes: give one for each"
    )
  if not all(len(c) == 3 and all(v in range(256) for v in c) for c in fmt.palette):
    raise UserError(f"`palette`={fmt.palette}: use (R,G,B) of whole numbers from 0 to 255")
  if fmt.channels not in (1, 3):
    raise UserError(f"`channels` is {fmt.channels}: use 1 (grey) or 3 (RGB)")
  if fmt.value_range and not (
    len(fmt.value_range) == 2 and fmt.value_range[0] < fmt.value_range[1]
  ):
    raise UserError(f"`value_range`={fmt.value_range}: use (low,high) with low < high")


def _pairs(folder):
  """Pairs the images and masks of a folder; lists the problems of files that do not pair.

  Returns:
    ([(image, mask, number of pages)] in natural order, [(kind of problem, file, message)])
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
    problems += [(kind, path, f"{path} {text}: add it or remove this") for path in alone if others]
  pairs = []
  for stem in sorted(images.keys() & masks.keys(), key=_natural):
    image, mask = images[stem], masks[stem]
    if pages[image] == pages[mask]:
      pairs.append((image, mask, pages[image]))
    elif pages[image] and pages[mask]:
      text = f"{image} has {pages[image]} pages, but {mask} has {pages[mask]}: they must match"
      problems.append(("volumes of different lengths", image, text))
  return pairs, problems


def _num_pages(path, problems):
  """`num_pages`, but 0 for a damaged file, which is added to `problems`."""
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
        text = f"{files[path.stem]} and {path.name} share a name: rename or remove one"
        problems.append(("files that share a name", path, text))
      else:
        files[path.stem] = path
  if not files:
    text = f"no images in {folder}: none of its files ends in {', '.join(SUFFIXES)}"
    problems.append(("folders without images", folder, text))
  return files


def _natural(name):
  parts = re.split(r"(\d+)", name)
  return [int(part) if part.isdecimal() else part.lower() for part in parts], name
