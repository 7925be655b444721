"""Data sets that are folders of images and of masks.

Without patterns, the split SPLIT is DATA_DIR/SPLIT/images and DATA_DIR/SPLIT/masks, and the split
"" or "all" is DATA_DIR/images and DATA_DIR/masks. An image and its mask have the same path there,
up to the suffix. `layouts` has the patterns of other folders, `splits` what a split may be. A TIFF
of several pages is a volume: each page is an example.
"""

import collections
import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence

from jaxseg import VOID, UserError
from jaxseg.data import layouts, splits, suggest
from jaxseg.data.decode import DatasetInfo, ImageFormat, check_format, check_palette
from jaxseg.data.encoded import Encoded, common_dtype
from jaxseg.data.files import num_pages
from jaxseg.data.label_spaces import fill_in
from jaxseg.data.labels import LabelMap, label_map
from jaxseg.data.layouts import PLAIN, Layout, Pair, Problems, nfc

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
    images: how images are read; a dtype of "" becomes that of the first files.
    display_bands: see `DatasetInfo`.
    mask_values: stored value, or tuple of values, of each class; () = 0, 1, ...
    void_values: stored values that count as VOID; so does 255, unless it is a class.
    mask_colors, void_colors, color_tolerance, reduce_zero_label: see `labels.label_map`.
    label_space: key of `label_spaces.LABEL_SPACES`, which gives what is () here.
  """

  classes: tuple[str, ...]
  palette: tuple = ()
  images: ImageFormat = ImageFormat(3)
  display_bands: tuple = ()
  mask_values: tuple = ()
  void_values: tuple = ()
  mask_colors: tuple = ()
  void_colors: tuple = ()
  color_tolerance: int = 0
  reduce_zero_label: bool = False
  label_space: str = ""


def default_palette(num_classes: int) -> tuple[tuple[int, int, int], ...]:
  """A different (R, G, B) for each of up to 255 classes; the first is black."""
  more = [(20 + 67 * i % 193, 20 + 29 * i % 197, 20 + 151 * i % 199) for i in range(num_classes)]
  return ((0, 0, 0), *COLOURS, *more)[:num_classes]


def resolve(fmt: FolderFormat) -> tuple[FolderFormat, LabelMap]:
  """The format with what its label space fills in, and what the values of masks mean.

  Raises:
    UserError: it contradicts itself.
  """
  fmt = dataclasses.replace(fmt, **fill_in(fmt.label_space, vars(fmt)))
  _check(fmt)
  labels = label_map(
    fmt.classes, palette=fmt.palette, mask_values=fmt.mask_values, void_values=fmt.void_values,
    mask_colors=fmt.mask_colors, void_colors=fmt.void_colors, color_tolerance=fmt.color_tolerance,
    reduce_zero_label=fmt.reduce_zero_label,
  )  # fmt: skip
  return fmt, labels


def decoded(
  records: Sequence, fmt: FolderFormat, labels: LabelMap
) -> tuple[DatasetInfo, Encoded]:
  """(DatasetInfo, source) of records for `Encoded`, of a format that `resolve` returned."""
  images = fmt.images
  if not images.dtype:
    images = dataclasses.replace(images, dtype=common_dtype(records, images))
  palette = fmt.palette or default_palette(len(fmt.classes))
  options = {**dataclasses.asdict(images), "display_bands": fmt.display_bands}
  return DatasetInfo(fmt.classes, palette, **options), Encoded(records, images, labels)


def open_folder(
  data_dir: str | os.PathLike,
  split: str,
  fmt: FolderFormat,
  problems: list | None = None,
  *,
  layout: Layout = PLAIN,
) -> tuple[DatasetInfo, Encoded]:
  """Opens a split of a folder; reads nothing but the headers of TIFFs.

  Args:
    data_dir: path.
    split: what {split} in the layout stands for; "" or "all" for everything. NAME[:80%] and the
      like are parts, see `splits.part_indices`.
    problems: a list that collects the problems of files that do not pair, as (kind, file, message);
      these files are left out. None: the first problem is an error.
    layout: which files are images and masks.
  Returns:
    (DatasetInfo, source), in the natural order of the names: 2.png before 10.png; with
    `layout.group_by`, of the groups first. Its records hold "group" then.
  Raises:
    UserError: the format or the layout contradicts itself, a folder is missing, or images and masks
      do not pair.
  """
  fmt, labels = resolve(fmt)
  if not data_dir:
    raise UserError("`data_dir` is empty: set it to the folder of the data set")
  root = pathlib.Path(os.path.expanduser(data_dir))
  name, part = splits.parse_split(split)
  found: Problems = []
  pairs = _pairs(root, name, layout, found)
  if layout.group_by:
    pairs = sorted(pairs, key=lambda pair: layouts.natural(_group(pair, layout)))
  records = _records(root, pairs, layout, fmt.images.pages, found)
  if problems is not None:
    problems += found
  elif found:
    raise UserError(found[0][-1])
  if part and records:
    groups = [record["group"] for record in records] if layout.group_by else ()
    records = [records[i] for i in splits.part_indices(len(records), part, split, groups)]
  return decoded(records, fmt, labels)


def _group(pair, layout):
  """The group of an image, by the fields that `layout.group_by` names."""
  values = []
  for field in layout.group_by.split(","):
    field = field.strip()
    if field == "folder" and not layout.images and "name" in pair.fields:
      values.append(pair.fields["name"].rpartition("/")[0].partition("/")[0])
    elif field in pair.fields and layout.images:
      values.append(pair.fields[field])
    else:
      known = list(pair.fields) if layout.images else ["folder"] * ("name" in pair.fields)
      choose = f"choose from {', '.join(known)}, or " if known else ""
      raise UserError(
        f"`group_by`={layout.group_by!r}: {field!r} is no field of `images`={layout.images!r}; "
        f"{choose}write {{{field}}} in `images`"
      )
  return "/".join(values)


def _pairs(root, split, layout, problems):
  """[Pair] of a split in natural order; adds the problems of files that do not pair."""
  rows = None
  if layout.split_file:
    list_path, rows = splits.read_list(root, layout.split_file, split)
    if len(rows[0][1]) == 2:
      listed = splits.listed_pairs(root, list_path, rows, problems)
      return _with_fields(root, split, layout, listed, problems)
  images, masks = layouts.patterns(layout, split, root)
  for key, pattern in ("images", images), ("masks", masks):
    if not getattr(layout, key) and not (root / pattern.base).is_dir():
      raise UserError(f"no folder {root / pattern.base}: {suggest.folder(root, layout, split)}")
  # Whether a single one is a fault: without {split}, some are of other splits; a list is of some.
  is_whole = split in layouts.WHOLE
  image_counts = rows is not None or is_whole or images.by_split or not masks.by_split
  mask_counts = rows is None and (is_whole or masks.by_split or not images.by_split)
  lost: list[str] = []
  paths = list(layouts.walk(root, (images.base, masks.base), lost))
  found, labels = layouts.match_files(paths, images, masks)
  if rows is None:
    counts, files = (image_counts, mask_counts), (found, labels)
    problems += suggest.lost_links(root, lost, (images, masks), files, counts)
  for pattern, matched in (images, found), (masks, labels):
    if not matched:
      is_own = getattr(layout, pattern.key)
      text = (suggest.no_match if is_own else suggest.no_images)(root, pattern)
      if pattern is masks and any(masks.match(path) is not None for path in found):
        text = f"all files that fit `images`={images.text!r} also fit `masks`={masks.text!r}"
        text += ": correct one of them"
      kind = "patterns that match no file" if is_own else "folders without images"
      problems.append((kind, root if is_own else root / pattern.base, text))
  if not (found and labels):
    return []
  if rows is not None:
    chosen = splits.listed_images(root, found, list_path, rows, problems)
    found = {path: fields for path, fields in found.items() if path in chosen}
    problems += suggest.lost_links(root, lost, (images, masks), (found, labels))
  if masks.is_coco:
    matched = _coco_pairs(root, found, next(iter(labels)), problems)
  else:
    matched = layouts.pair(*_one_volume(root, layout, found, labels), images, masks, root, problems)
  pairs, alone, strays = matched
  remedy = ""
  texts = images.text, masks.text
  if not pairs and masks.is_coco and strays:
    remedy = f"correct `file_name`, as in {strays[0]}"
  elif not pairs and images.fields == masks.fields and "name" in images.fields:
    remedy = suggest.rename(texts, found, labels)
  if not pairs:
    remedy = remedy or suggest.known_layout(root, split, but=texts)
  alone, strays = alone if image_counts else [], strays if mask_counts else []
  for paths, total, part, pattern, kind in (
    (alone, len(found), "mask", masks, "images without a mask"),
    (strays, len(pairs) + len(strays), "image", images, "masks without an image"),
  ):
    text = f"has no {part} {pattern.shown} in {root} ({len(paths)} of {total} have none)"
    text = f"{text}: {remedy or 'add it or remove this'}"
    problems += [(kind, root / path, f"{root / path} {text}") for path in paths]
  return pairs


def _with_fields(root, split, layout, listed, problems):
  """[Pair] of [(image, mask)] from a list; adds the problems of files that fit no pattern."""
  fields = [{}, {}]
  for i, key in enumerate(("images", "masks")):
    if text := getattr(layout, key):
      pattern = layouts.compile_pattern(key, text, split)
      fields[i] = {pair[i]: pattern.match(pair[i]) for pair in listed}
      for path in (path for path, found in fields[i].items() if found is None):
        text = f"{root / path} is listed, but does not fit `{key}`={pattern.text!r}: correct one"
        problems.append(("entries of a list that fit no pattern", root / path, text))
  return [
    Pair(image, root / mask, fields[0].get(image, {}))
    for image, mask in listed
    if None not in (fields[0].get(image, {}), fields[1].get(mask, {}))
  ]


def _one_volume(root, layout, found, labels):
  """Gives a single volume and its labels a name in common, as ISBI 2012 has none."""
  if layout == Layout(group_by=layout.group_by) and len(found) == len(labels) == 1:
    (image,), (mask,) = found, labels
    if min(_num_pages(root / path, []) for path in (image, mask)) > 1:
      return found, {mask: found[image]}
  return found, labels


def _coco_pairs(root, found, json, problems):
  """`layouts.pair` with the masks in a COCO file, by the longest path of an image that it knows."""
  from jaxseg.data.polygons import coco_masks

  known = {nfc(name): mask for name, mask in coco_masks(root / json).items()}
  pairs, alone, used = [], [], {}
  for image in sorted(found, key=lambda path: layouts.natural(layouts.without_suffix(path))):
    parts = nfc(image).split("/")
    name = next((x for i in range(len(parts)) if (x := "/".join(parts[i:])) in known), None)
    if name is None:
      alone.append(image)
    elif name in used:
      text = f"{root / used[name]} and {image} are both {name!r} in {json}: rename or remove one"
      problems.append(("files that share a name", root / image, text))
    else:
      used[name] = image
      pairs.append(Pair(image, known[name], found[image]))
  return pairs, alone, [f"{json}: {name}" for name in known if name not in used]


def _records(root, pairs, layout, kind, problems):
  """Records for `Encoded`, one for each page; adds the problems of files that cannot be read."""
  names = collections.Counter(pair.image.rpartition("/")[2] for pair in pairs)
  are_unique = max(names.values(), default=1) == 1
  records = []
  for pair in pairs:
    image, mask = root / pair.image, pair.mask
    pages = _num_pages(image, problems, kind)
    files = mask.values() if isinstance(mask, Mapping) else [[mask]]
    files = [file for part in files for file in part if isinstance(file, pathlib.Path)]
    counts = [_num_pages(file, problems) for file in files]
    for file, count in zip(files, counts, strict=True):
      if pages and count and pages != count:
        text = suggest.same_pages(image, file, pages, count, kind)
        problems.append(("volumes of different lengths", image, text))
    if {pages} != {*(counts or [1])}:
      continue
    for page in range(pages):
      at = f" page {page + 1}" if pages > 1 else ""
      name = image.name if are_unique else pair.image
      record = {"image": image, "mask": mask, "page": page, "name": name + at}
      records.append({**record, "where": f"{image}{at}"})
      if layout.group_by:
        records[-1]["group"] = _group(pair, layout)
  return records


def _num_pages(path, problems, kind="auto"):
  """`num_pages`, but 0 for a damaged file, which is added to `problems`."""
  try:
    return num_pages(path, kind)
  except UserError as error:
    problems.append(("files that cannot be read", path, str(error)))
    return 0


def _check(fmt):
  """Raises UserError for a FolderFormat that contradicts itself."""
  num_classes = len(fmt.classes)
  if not 2 <= num_classes <= VOID:
    raise UserError(
      f"`classes` has {num_classes} names: give 2 to {VOID}, such as ('background','cell')"
    )
  if len(set(fmt.classes)) < num_classes or not all(map(str.strip, fmt.classes)):
    raise UserError(f"`classes`={fmt.classes} has a name twice or an empty one: correct it")
  check_palette(fmt.palette, fmt.classes)
  images = fmt.images
  check_format(images.channels, images.value_range, images.bands, fmt.display_bands)
