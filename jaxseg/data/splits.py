"""Which examples of a folder belong to a split: list files, parts, groups and folds."""

import bisect
import csv
import difflib
import itertools
import os
import pathlib
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence

from jaxseg import UserError
from jaxseg.data.files import SUFFIXES, few
from jaxseg.data.layouts import WHOLE, Problems, natural, nfc, without_suffix
from jaxseg.notebook import warn

PART = re.compile(r"(.*)\[(\d{,9}%?):(\d{,9}%?)\]", re.DOTALL)
HEADER = {"image", "images", "img", "mask", "masks", "label", "labels", "annotation", "name",
          "names", "id", "file", "filename", "file_name", "path", "image_path", "mask_path",
          "label_path", "split", "subset", "set", "fold"}  # fmt: skip
MAX_COLUMNS = 3
SIMILAR = 0.8  # of difflib, names of splits that may be misspelt


def parse_split(split: str) -> tuple[str, tuple[str, str] | None]:
  """Reads "train[:80%]" as ("train", ("", "80%")); a split without [] has no part: None.

  Raises:
    UserError: the brackets hold something else.
  """
  if not {"[", "]"} & set(split):
    return split, None
  found = PART.fullmatch(split)
  if not found or "%" in found.groups():
    raise UserError(
      f"the split {split!r} is no part: write NAME[:80%], NAME[80%:], NAME[10%:20%], or counts of "
      "examples, as in NAME[:100]"
    )
  return found[1], (found[2], found[3])


def boundaries(groups: Sequence[str]) -> list[int]:
  """Where a new group begins among the groups of all examples; with 0 and their number."""
  changes = [i for i, (a, b) in enumerate(itertools.pairwise(groups), 1) if a != b]
  return [0, *changes, len(groups)]


def part_indices(
  num_examples: int, part: tuple[str, str], split: str, groups: Sequence[str] = ()
) -> range:
  """The examples of a part of a split; see `parse_split`.

  A part is contiguous, for the reason that `fold_indices` gives. A percentage is rounded to whole
  examples, or with groups to the nearest boundary between two, so [:80%] and [80%:] share none.

  Args:
    split: in errors.  groups: the group of each example, equal ones side by side; () for none.
  Raises:
    UserError: the part is empty or not there, or a count would cut a group in two.
  """
  edges = boundaries(groups) if groups else range(num_examples + 1)
  bounds = []
  for text, default in zip(part, (0, num_examples), strict=True):
    number = int(text.rstrip("%") or default)
    if text.endswith("%"):
      if number > 100:
        raise UserError(f"the split {split!r} has {number}%: use 0% to 100%")
      bounds.append(_nearest(edges, num_examples * number / 100))
      continue
    if number > num_examples:
      raise UserError(f"the split {split!r} has only {num_examples} examples: use a smaller number")
    if number not in edges:
      i = bisect.bisect(edges, number)
      raise UserError(
        f"the split {split!r} cuts a group of `group_by` in two: use {edges[i - 1]} or {edges[i]}, "
        "or a percentage"
      )
    bounds.append(number)
  if bounds[0] >= bounds[1]:
    held = f" in {len(edges) - 1} groups" if groups else ""
    raise UserError(
      f"the split {split!r} holds none of the {num_examples} examples{held}: use wider bounds"
    )
  return range(*bounds)


def _nearest(edges, ideal):
  """The edge that is nearest to a number; of two, the lower."""
  i = bisect.bisect_left(edges, ideal)
  return min(edges[max(i - 1, 0) : i + 1], key=lambda edge: (abs(edge - ideal), edge))


def fold_indices(
  num_examples: int, num_folds: int, fold: int, groups: Sequence[str] = ()
) -> tuple[tuple[int, ...], tuple[int, ...]]:
  """Splits examples for cross-validation; every example is held out in one of the folds.

  A fold is a contiguous block: neighbours, such as the slices of a stack, are alike, and to train
  on some and score others would inflate the score. Block sizes differ by at most one; with groups,
  each cut moves to the nearest boundary between two groups that leaves none of the folds empty.

  Args:
    fold: 0..num_folds-1.
    groups: the group of each example, equal ones side by side; () for none.
  Returns:
    (indices to train on, indices held out), tuples of int
  Raises:
    UserError: no such fold, or more folds than examples or groups.
  """
  edges = boundaries(groups) if groups else range(num_examples + 1)
  if not 2 <= num_folds < len(edges):
    kind = "groups of `group_by`" if groups else "examples"
    limit = len(edges) - 1
    if limit < 2:
      raise UserError(f"`num_folds` is {num_folds}, but there are only {limit} {kind}: "
                      f"add data{' or correct `group_by`' if groups else ''}")  # fmt: skip
    raise UserError(f"`num_folds` is {num_folds}: use 2 to {limit}, the number of {kind}")
  if not 0 <= fold < num_folds:
    raise UserError(f"`fold` is {fold}: use 0 to {num_folds - 1}")
  cuts = [0]
  for i in range(1, num_folds + 1):
    ideal = num_examples * i // num_folds
    free = edges[cuts[-1] + 1 : len(edges) - num_folds + i]
    cuts.append(edges.index(_nearest(free, ideal)))
  start, stop = edges[cuts[fold]], edges[cuts[fold + 1]]
  return (*range(start), *range(stop, num_examples)), tuple(range(start, stop))


def read_list(
  root: pathlib.Path, split_file: str, split: str
) -> tuple[pathlib.Path, list[tuple[int, list[str]]]]:
  """The rows of a list file; lines that are blank or begin with # are none.

  Cells are separated by tabs, semicolons, commas or blanks; blanks may also be part of a name. If
  the path of the file does not depend on the split, a last cell that is no file names the split.

  Args:
    root: folder of the data.
    split_file: a path in it, or an absolute one; {split} stands for the name of the split.
  Returns:
    (path of the list, [(line number, [name] or [path of an image, path of its mask])]), the rows of
    this split.
  Raises:
    UserError: it is not there, no UTF-8 text, or its rows contradict each other.
  """
  if ".." in split_file.split("/") or {"{", "}"} & set(split_file.replace("{split}", "")):
    raise UserError(
      f"`split_file`={split_file!r}: use a path without .. and no field but {{split}}"
    )
  path = root / os.path.expanduser(split_file.replace("{split}", split))
  rows = _split_cells(path, root, split)
  if not rows:
    raise UserError(f"{path} lists nothing: add names of images or correct `split_file`")
  width = len(rows[-1][1])
  for number, cells in rows:
    if len(cells) != width or not 1 <= width <= MAX_COLUMNS or not all(cells):
      filled = sum(map(bool, cells))
      raise UserError(
        f"{path} line {number} has {filled} cells, the last line {width}: use one column of names, "
        "or two of paths of images and masks, in each line"
      )
  is_header = HEADER.issuperset(cell.lower() for cell in rows[0][1])
  if is_header and len(rows) == 1 and width > 1:
    raise UserError(_only_header(path))
  data = rows[1:] if is_header and len(rows) > 1 else rows
  has_paths = width > 1 and any(relative(root, cells[1]) for _, cells in data)
  if width == 1 + has_paths:
    if "{split}" not in split_file and split not in WHOLE:
      raise UserError(
        f"{path} does not say which of its examples are in the split {split!r}: write {{split}} in "
        "`split_file`, add a column of splits, or use the split 'all' or parts, such as all[:80%]"
      )
    return path, data if has_paths else rows  # a name may look like a header
  if "{split}" in split_file:
    number, cells = data[0]
    raise UserError(
      f"{path} line {number}: {cells[-1]!r} is no file in {root}: use one column of names, or two "
      "of paths of images and masks"
    )
  if all("/" in cells[-1] or cells[-1].lower().endswith(SUFFIXES) for _, cells in data):
    number, cells = data[0]
    text = f"{path} line {number}: {cells[-1]!r} is no file in {root}"
    raise UserError(f"{text}: correct the paths of the masks in the list, or `data_dir`")
  own = [(number, cells[:-1]) for number, cells in data if split in (*WHOLE, cells[-1])]
  if not own:
    names = few(sorted({cells[-1] for _, cells in data}))
    raise UserError(
      f"{path} has no row of the split {split!r}, and no file in its second column: the last "
      f"holds {names}"
    )
  others = {cells[-1]: number for number, cells in reversed(data) if cells[-1] != split}
  for other in difflib.get_close_matches(split, others, 3, SIMILAR) if split not in WHOLE else ():
    text = f"{path} line {others[other]}: the split {other!r} is not {split!r}, so it is left out"
    warn(text)
  return path, own


def _only_header(path):
  return f"{path} has a header and lists nothing: add images, or correct `split_file`"


def _split_cells(path, root, split):
  """[(line number, cells)]."""
  try:
    lines = path.read_text("utf-8-sig").splitlines()
  except FileNotFoundError as error:
    there = few(sorted((x.name for x in path.parent.glob("*") if x.is_file()), key=natural), 3)
    raise UserError(
      f"no file {path}: correct `split_file` or the split; the folder holds {there or 'no file'}"
    ) from error
  except (OSError, ValueError) as error:
    raise UserError(f"{path} cannot be read as UTF-8 text: correct `split_file`") from error
  lines = [(number, line.strip()) for number, line in enumerate(lines, 1)]
  lines = [(number, line) for number, line in lines if line and line[0] != "#"]
  separator = next((x for x in "\t;," if lines and x in lines[0][1]), "")
  rows = []
  for number, line in lines:
    try:
      cells = next(csv.reader([line], delimiter=separator or "\x1f", skipinitialspace=True))
    except csv.Error as error:
      raise UserError(f"{path} line {number}: {error}: correct the line") from error
    cells = [cell.strip() for cell in cells]
    while len(cells) > 1 and not cells[-1]:  # a separator at the end of the line
      cells.pop()
    rows.append((number, cells))
  if separator:
    return rows
  parts = [(number, line.split()) for number, line in lines]
  names = {split, "train", "val", "test"} - set(WHOLE)
  if {len(cells) for _, cells in parts} in ({2}, {3}) and any(
    relative(root, cells[1]) or cells[-1] in names for _, cells in parts
  ):
    return parts
  return rows


def relative(root: pathlib.Path, cell: str) -> str:
  """The path of a file in a list, relative to the folder of the data; "" if it is not there."""
  path = posixpath.normpath(cell.lstrip("/"))
  if not path.startswith("../") and os.path.isfile(root / path):
    return path
  absolute, root = pathlib.Path(cell), root.absolute()
  is_inside = absolute.is_relative_to(root) and os.path.isfile(absolute)
  return absolute.relative_to(root).as_posix() if is_inside else ""


def listed_pairs(
  root: pathlib.Path,
  path: pathlib.Path,
  rows: Sequence[tuple[int, Sequence[str]]],
  problems: Problems,
) -> list[tuple[str, str]]:
  """The rows of a list of two columns as [(image, mask)], relative paths in natural order."""
  pairs = {}
  for number, cells in rows:
    image, mask = (relative(root, cell) for cell in cells)
    for cell, found in zip(cells, (image, mask), strict=True):
      if not found:
        text = f"{path} line {number}: no file {cell!r} in {root}: add it or remove the line"
        problems.append(("entries of a list without a file", path, text))
    if image in pairs:
      _listed_twice(path, number, image, problems)
    elif image and mask:
      pairs[image] = mask
  return sorted(pairs.items(), key=lambda pair: natural(without_suffix(pair[0])))


def _listed_twice(path, number, entry, problems):
  text = f"{path} line {number}: {entry!r} is listed twice: remove one of the lines"
  problems.append(("entries that are listed twice", path, text))


def listed_images(
  root: pathlib.Path,
  images: Mapping[str, Mapping[str, str]],
  path: pathlib.Path,
  rows: Iterable[tuple[int, Sequence[str]]],
  problems: Problems,
) -> set[str]:
  """The images that a list of one column names.

  An entry is the value of {name} or a path, of which leading folders and the suffix may be left
  out.

  Args:
    root: folder of the data.  images: {relative path: {field: value}}.
  """
  exact, tails = {}, {}
  for image, fields in images.items():
    whole = nfc(image)
    for text in {fields.get("name", whole), whole, without_suffix(whole)}:
      exact.setdefault(text, []).append(image)
    parts = whole.split("/")
    for text in ("/".join(parts[i:]) for i in range(1, len(parts))):
      for tail in {text, without_suffix(text)}:
        tails.setdefault(tail, []).append(image)
  chosen, rows = set(), list(rows)
  for i, (number, (entry,)) in enumerate(rows):
    text = nfc(relative(root, entry) or posixpath.normpath(entry.lstrip("/")))
    found = exact.get(text) or tails.get(text) or ()
    if not found and i == 0 and entry.lower() in HEADER:
      if len(rows) == 1:
        problems.append(("lists without images", path, _only_header(path)))
      continue
    if not found:
      text = f"{path} line {number}: {entry!r} is none of the images: correct or remove the line"
      problems.append(("entries of a list without a file", path, text))
    elif len(found) > 1:
      text = f"{path} line {number}: {entry!r} is {found[0]} or {found[1]}: write more of the path"
      problems.append(("entries of a list with two files", path, text))
    elif found[0] in chosen:
      _listed_twice(path, number, entry, problems)
    chosen.update(found[:1])
  return chosen
