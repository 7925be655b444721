"""Layouts of folders: which files are images, which are masks, and which belong together.

A layout is a pair of patterns, paths relative to the folder of the data with fields in braces:
"leftImg8bit/{split}/{city}/{name}_leftImg8bit.png". An image and a mask with the same values of all
common fields are a pair. Nothing here opens an image.
"""

import collections
import dataclasses
import os
import pathlib
import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from jaxseg import UserError
from jaxseg.data.files import SUFFIXES

WHOLE = ("", "all")  # splits that are everything
FIELD = re.compile(r"\{([a-zA-Z_]\w*)\}")
SUFFIX = "|".join(rf"(?:\.ome)?\{s}" if s in (".tif", ".tiff") else rf"\{s}" for s in SUFFIXES)
EXTENT = {"name": ".+?", "class": "[^/]+"}  # others: as little as possible of one component
ENDS = (".ome.tif", ".ome.tiff", *sorted(SUFFIXES, key=len, reverse=True), ".json")

Problems = list[tuple[str, str | os.PathLike, str]]  # kind, file, message


@dataclasses.dataclass(frozen=True)
class Layout:
  """Where the files of a folder are.

  Attributes:
    images, masks: patterns; "" for images/{name} and masks/{name}, in the folder of the split.
    split_file: a list of examples, see `splits.read_list`; "" for none.
    group_by: fields of `images`, joined by ",", whose values name the group of an image.
  """

  images: str = ""
  masks: str = ""
  split_file: str = ""
  group_by: str = ""


@dataclasses.dataclass(frozen=True)
class Pattern:
  """A pattern of a layout for one split; see `compile_pattern`.

  Attributes:
    key: its argument, "images" or "masks".  text: as written.  shown: with the split in its place.
    fields: their names, without a split that is given.
    base: the folder before the first field; "" for the folder of the data.
    regex: of the relative paths that match.
  """

  key: str
  text: str
  shown: str
  fields: tuple[str, ...]
  base: str
  regex: re.Pattern

  def match(self, path: str) -> dict[str, str] | None:
    """{field: value, in NFC} of a relative path; None if it does not match."""
    found = self.regex.fullmatch(nfc(path))
    return found and found.groupdict()

  @property
  def by_split(self) -> bool:
    """Whether it has {split}."""
    return "{split}" in self.text

  @property
  def is_coco(self) -> bool:
    """Whether it is one JSON with the masks of all images."""
    return self.text.lower().endswith(".json") and not self.fields


@dataclasses.dataclass(frozen=True)
class Pair:
  """An image and its mask.

  Attributes:
    image: relative path.
    mask: path; {class: paths}, if the pattern of masks has {class}; or what a COCO file has.
    fields: values of the fields of the image.
  """

  image: str
  mask: Any
  fields: Mapping[str, str]


PLAIN = Layout()


def nfc(text: str) -> str:
  """Text in Unicode's composed form: macOS may store é as two characters."""
  return text if text.isascii() else unicodedata.normalize("NFC", text)


def natural(text: str) -> tuple:
  """Key of the natural order: 2.png before 10.png."""
  parts = re.split(r"(\d+)", text)
  return [int(part) if part.isdecimal() else part.lower() for part in parts], text


def without_suffix(path: str) -> str:
  """A path without the suffix of an image; .ome.tif is one suffix."""
  return re.sub(rf"(?i)(?<=[^/])(?:{SUFFIX})$", "", path, count=1)


def compile_pattern(key: str, text: str, split: str) -> Pattern:
  """Reads a pattern.

  {split} stands for the name of the split; if that is "all", for any. {name} may span folders,
  other fields stay within one. Each takes as little as it can, from left to right, only {class}
  as much. Without the suffix of an image at its end, a pattern stands for all of them.

  Raises:
    UserError: it is no such pattern.
  """
  if fault := _fault(key, text):
    raise UserError(f"`{key}`={text!r}: {fault}")
  shown = text if split in WHOLE else text.replace("{split}", split)
  end = next((end for end in ENDS if text.lower().endswith(end)), "")
  regex, fields = "", []
  for i, part in enumerate(FIELD.split(nfc(text[: len(text) - len(end)]))):
    if i % 2 == 0:
      regex += re.escape(part)
    elif part == "split" and split not in WHOLE:
      regex += re.escape(nfc(split))
    elif part in fields:
      regex += f"(?P={part})"
    else:
      regex += f"(?P<{part}>{EXTENT.get(part, '[^/]+?')})"
      fields.append(part)
  if not fields and end != ".json":
    raise UserError(f"`{key}`={text!r}: has no field; write {{name}} where file names differ")
  ome = r"(?:\.ome)?" if end in (".tif", ".tiff") else ""
  regex += f"(?i:{ome}{re.escape(end)})" if end else f"(?i:{SUFFIX})"
  head = FIELD.split(shown)[0] if fields else shown
  return Pattern(key, text, shown, tuple(fields), head.rpartition("/")[0],
                 re.compile(regex, re.DOTALL))  # fmt: skip


def _fault(key, text):
  if "\\" in text or {"", ".", ".."} & set(text.split("/")):
    return "write a path within `data_dir`, such as images/{name}.png, with single / and no .."
  if "*" in text:
    return "write {name} where file names differ, not *"
  if {"{", "}"} & set(FIELD.sub("", text)):
    return "a field is a word in braces, such as {name}"
  if "}{" in text:
    return "two fields need a character between them"
  if key == "images" and text.lower().endswith(".json"):
    return "a JSON holds no image; end it in .jpg, .png or the like"
  return ""


def patterns(layout: Layout, split: str, root: pathlib.Path) -> tuple[Pattern, Pattern]:
  """The patterns of images and masks of a split.

  Args:
    root: folder of the data. If there is a list and no folder of the split in it, images/ and
      masks/ are those of all splits.
  Raises:
    UserError: they cannot pair, or nothing says what is in the split.
  """
  if split.startswith("/") or ".." in split.split("/"):
    raise UserError(f"the split {split!r} leaves `data_dir`: use the name of a folder in it")
  is_listed = layout.split_file and not (root / split).is_dir()
  place = "" if split in WHOLE or is_listed else "{split}/"
  texts = layout.images or f"{place}images/{{name}}", layout.masks or f"{place}masks/{{name}}"
  if split not in WHOLE and not any("{split}" in text for text in (*texts, layout.split_file)):
    if not layout.split_file:
      raise UserError(
        f"nothing says which files are in the split {split!r}: write {{split}} in `images` or "
        "`masks`, set `split_file`, or take parts, such as all[:80%] and all[80%:]"
      )
  images, masks = map(compile_pattern, ("images", "masks"), texts, (split, split))
  if images.text == masks.text:
    raise UserError(f"`images` and `masks` are both {images.text!r}: correct one of them")
  if masks.fields == ("split",) and masks.text.lower().endswith(".json"):
    raise UserError(f"`masks`={texts[1]!r} is a file of each split: name one instead of {split!r}")
  if not masks.is_coco and not set(images.fields) & set(masks.fields):
    raise UserError(
      f"`images`={texts[0]!r} and `masks`={texts[1]!r} have no field in common: write {{name}} in "
      "both"
    )
  return images, masks


def walk(
  root: pathlib.Path, bases: Collection[str] = ("",), lost: list[str] | None = None
) -> Iterator[str]:
  """Yields the relative paths of the files in folders, in their order; no hidden ones.

  Args:
    root: folder.  bases: folders in it, relative; those that are not there hold nothing.
    lost: list that collects links that lead nowhere, as of files that were not fetched.
  Raises:
    UserError: a folder cannot be listed.
  """
  bases = sorted(set(bases))
  for base in bases:
    if any(base != other and f"{base}/".startswith(other and f"{other}/") for other in bases):
      continue  # it is in another one
    folders = [root.joinpath(*base.split("/")[:i]) for i in range(base.count("/") + 2)]
    if folders[-1].is_dir():
      above = frozenset(map(_identity, folders))
      yield from _walk(str(folders[-1]), f"{base}/" if base else "", above, lost)


def _walk(folder, prefix, above, lost):
  try:
    with os.scandir(folder) as scan:
      entries = sorted(scan, key=lambda entry: entry.name)
  except OSError as error:
    raise UserError(f"{folder} cannot be listed ({error.strerror}): correct its rights") from error
  for entry in entries:
    if entry.name[0] == ".":
      continue
    try:
      is_dir, is_file = entry.is_dir(), entry.is_file()
    except OSError:  # a link to itself leads nowhere, like one whose file is gone
      is_dir = is_file = False
    if is_dir:
      here = _identity(entry.path)
      if here not in above:  # else a link to a folder that it is in
        yield from _walk(entry.path, f"{prefix}{entry.name}/", above | {here}, lost)
    elif is_file:
      yield prefix + entry.name
    elif lost is not None and entry.is_symlink():
      lost.append(prefix + entry.name)


def _identity(folder):
  stat = os.stat(folder)
  return stat.st_dev, stat.st_ino


def match_files(
  paths: Sequence[str], images: Pattern, masks: Pattern
) -> tuple[dict[str, dict[str, str]], dict[str, dict[str, str]]]:
  """Images and masks among relative paths: {path: {field: value}} of both.

  A file that fits both patterns is a mask; unless all images do, then it is an image.
  """
  found, labels = (
    {path: fields for path in paths if (fields := pattern.match(path)) is not None}
    for pattern in (images, masks)
  )
  if set(found) - set(labels):
    return {path: fields for path, fields in found.items() if path not in labels}, labels
  return found, {path: fields for path, fields in labels.items() if path not in found}


def pair(
  found: Mapping[str, dict[str, str]],
  labels: Mapping[str, dict[str, str]],
  images: Pattern,
  masks: Pattern,
  root: pathlib.Path,
  problems: Problems,
) -> tuple[list[Pair], list[str], list[str]]:
  """Pairs images and masks whose common fields are equal.

  Args:
    found, labels: see `match_files`.  images, masks: their patterns.  root: of their paths.
    problems: gets two images or two masks that cannot be told apart.
  Returns:
    (pairs in natural order, images without a mask, masks without an image)
  """
  common = [field for field in images.fields if field in masks.fields]
  by_class = "class" in masks.fields and "class" not in common
  by_key = collections.defaultdict(list)
  for path, fields in labels.items():
    by_key[tuple(fields[field] for field in common)].append(path)
  pairs, alone, used, seen = [], [], set(), {}
  for path in sorted(found, key=lambda path: natural(without_suffix(path))):
    fields = found[path]
    other = seen.setdefault(tuple(fields.values()), path)
    if other != path:
      _clash(root, other, path, problems)
      continue
    key = tuple(fields[field] for field in common)
    paths = sorted(by_key.get(key, ()), key=natural)
    if not paths:
      alone.append(path)
    elif by_class:
      mask = {}
      for file in paths:
        mask.setdefault(labels[file]["class"], []).append(root / file)
      pairs.append(Pair(path, mask, fields))
    else:
      for file in paths[1:] if key not in used else ():
        own = next((field for field in masks.fields if field not in images.fields), "")
        _clash(root, paths[0], file, problems, own)
      pairs.append(Pair(path, root / paths[0], fields))
    used.add(key)
  strays = [path for key, paths in by_key.items() if key not in used for path in paths]
  return pairs, alone, strays


def _clash(root, first, second, problems, own=""):
  """Adds the problem of two files that stand for the same image or mask.

  Args:
    own: field of the masks that images do not have.
  """
  remedy = f"{{{own}}} of `masks` is no field of `images`: correct one" if own else ""
  text = f"{root / first} and {second} share a name: {remedy or 'rename or remove one'}"
  problems.append(("files that share a name", root / second, text))
