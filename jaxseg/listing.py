"""The images of a folder and its sub-folders, a folder at a time, however many there are."""

import collections
import os
import pathlib
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from jaxseg import UserError
from jaxseg.data.files import SUFFIXES, TIFF_SUFFIXES
from jaxseg.data.layouts import compile_pattern
from jaxseg.data.windows import ZARR

MAX_KINDS = 100  # of files that are not read; others are counted together
OVERLAYS = "overlays"  # sub-folder of the output


class Image(NamedTuple):
  """A file of images.

  Attributes:
    path: of the file.
    folder: relative to the folder that is read; "" for itself.
    stem: what its output is called in there, without ".png".
    stems: those of all images of the folder, in lower case, if it has TIFF files.
  """

  path: pathlib.Path
  folder: str
  stem: str
  stems: frozenset[str]

  def outputs(self, count: int) -> list[str]:
    """Relative paths of the outputs, one for each of `count` pages.

    Raises:
      UserError: a page would be called like another image.
    """
    if count == 1:
      return [os.path.join(self.folder, f"{self.stem}.png")]
    for stem in (self.stem, self.path.name):
      pages = [f"{stem}_{page:03}" for page in range(count)]
      if self.stems.isdisjoint(page.casefold() for page in pages):
        return [os.path.join(self.folder, f"{page}.png") for page in pages]
    raise UserError(f"{self.path}: its page {pages[0]} is called like another image; rename it")


def output_stems(names: Sequence[str]) -> list[str]:
  """The names of a folder's images without their suffix; with it where two would be the same.

  Upper and lower case count as the same, as they do on the disks of macOS and Windows.
  """
  stems = [os.path.splitext(name)[0] for name in names]
  seen, twice = set(), set()
  for stem in stems:
    key = stem.casefold()
    key = stem if key == stem else key  # one object rather than two: there may be a million
    (twice if key in seen else seen).add(key)
  # a.jpg.png may be that of a.jpg or a.jpg.bmp
  twice.update(key for name in names if (key := name.casefold()) in seen)
  return [name if stem.casefold() in twice else stem
          for name, stem in zip(names, stems, strict=True)]  # fmt: skip


class Listing:
  """The images of a folder and its sub-folders, or a single file.

  The folders are walked when the object is made, to count, and again by `share`; in between, no
  names are kept. Hidden files and folders are not read: ._a.jpg of macOS, .thumbnails/.

  Args:
    path: of the folder or file.  output: folder; see `check_paths`.
    images, masks: patterns of the training data, by which masks that lie beside images are left
      out; see `layouts.Layout`. If all are masks, or there are no patterns, none is left out.
  Attributes:
    root: the folder, or that of the file.
    total: number of images.
    left_out: {kind: number} of what is not read; kinds are suffixes or words.
    legends: names of outputs, in the folder itself, that start like the legend's.
    seen: (number, checksum of the names) of the images that `share` went through.
  Raises:
    UserError: a link in the folder leads to the output.
  """

  def __init__(
    self, path: str | pathlib.Path, output: str | pathlib.Path, images: str = "", masks: str = ""
  ):
    self._path, self._output = pathlib.Path(path), os.path.realpath(output)
    self.root = self._path if is_folder(self._path) else self._path.parent
    self._patterns = ()
    if images and masks:
      texts = {"images": images, "masks": masks}
      self._patterns = tuple(compile_pattern(key, text, "all") for key, text in texts.items())
    self.left_out, kinds, self.seen = collections.Counter(), collections.Counter(), (0, 0)
    self.legends = set()
    for folder, names, others in self._folders():
      kinds.update(self._kind(folder + name) for name in names)
      if not folder:
        near = (name for name in names if name.casefold().startswith("legend"))
        self.legends = {f"{x}.png" for name in near for x in (name, os.path.splitext(name)[0])}
      for kind, number in others.items():
        known = kind in self.left_out or len(self.left_out) < MAX_KINDS
        self.left_out[kind if known else "of other kinds"] += number
    # As in `layouts.match_files`: what fits both patterns is a mask, unless all images do.
    self._masks = {"mask", "both"} if kinds["image"] else {"mask"}
    if not sum(number for kind, number in kinds.items() if kind not in self._masks):
      self._masks = set()
    num_masks = sum(kinds[kind] for kind in self._masks)
    self.total = kinds.total() - num_masks
    if num_masks:
      self.left_out["masks, which fit config.data.masks"] = num_masks

  def share(self, number: int, count: int) -> Iterator[Image]:
    """Yields the images of process `number` of `count`: each of all images belongs to one."""
    position = checksum = 0
    for folder, names, _ in self._folders():
      names = [name for name in names if self._kind(folder + name) not in self._masks]
      stems, known = output_stems(names), frozenset()
      if any(name.lower().endswith(TIFF_SUFFIXES) for name in names):  # others have one page
        known = frozenset(stem.casefold() for stem in stems)
      for name, stem in zip(names, stems, strict=True):
        if position % count == number:
          yield Image(self.root / f"{folder}{name}", folder, stem, known)
        position += 1
        checksum = zlib.crc32(os.fsencode(folder + name), checksum)
    self.seen = position, checksum

  def _folders(self):
    if is_folder(self._path):
      real = os.path.realpath(self.root)
      return _walk(str(self.root), "", real, frozenset([real]), self._output)
    return iter([("", [self._path.name], {})])

  def _kind(self, name):
    if not self._patterns:
      return "image"
    images, masks = (pattern.match(name) is not None for pattern in self._patterns)
    return ("both" if images else "mask") if masks else "image" if images else "other"


def is_folder(path: str | pathlib.Path) -> bool:
  """Whether a path is a folder of images; that of a Zarr array is one image."""
  return os.path.isdir(path) and not os.fspath(path).rstrip("/").endswith(ZARR)


def describe(left_out: collections.Counter) -> str:
  """What is not read, the most frequent kinds first; "" if there is nothing."""
  kinds = left_out.most_common()
  named = [f"{number:,} {kind}" for kind, number in kinds[:10]]
  if rest := sum(number for _, number in kinds[10:]):
    named.append(f"{rest:,} of other kinds")
  return f"not read: {', '.join(named)}" if named else ""


def check_paths(path: str | pathlib.Path, output: str | pathlib.Path) -> None:
  """Raises UserError if there are no images, or if outputs would be written among them.

  These would be read as images next time. Links are followed.
  """
  path, output = pathlib.Path(path), pathlib.Path(output).resolve()
  if not path.exists():
    raise UserError(f"no file or folder {path}; correct --input")
  root = (path if is_folder(path) else path.parent).resolve()
  if is_folder(path) and output.is_relative_to(root):
    raise UserError(f"--output={output} lies in --input={root}; give a folder outside of it")
  if output == root:
    raise UserError(f"--output={output} is the folder of the image; give another")
  if root.is_relative_to(output):
    # Sub-folders of the input become such of the output, and of its overlays.
    place = root.relative_to(output)
    below = place.relative_to(OVERLAYS) if place.parts[0] == OVERLAYS else None
    if is_folder(path):
      is_read = any(sub is not None and (root / sub).is_dir() for sub in (place, below))
    else:
      is_read = below == pathlib.Path()
    if is_read:
      raise UserError(f"some outputs would lie in {root}, which is read; give another --output")
  if is_folder(path) and (root / OVERLAYS).is_dir():
    raise UserError(
      f"{root / OVERLAYS} is called like the output's folder of overlays, where its outputs would "
      "lie; rename it"
    )
  if is_folder(path):
    real = os.path.realpath(path)
    if not any(names for _, names, _ in _walk(str(path), "", real, frozenset([real]), str(output))):
      raise UserError(f"no images in {path}: none of its files ends in {', '.join(SUFFIXES)}")


def _walk(folder, prefix, real, above, output):
  """Yields (prefix, names of images, {kind: number} of what is not read) of folders, in order.

  Args:
    prefix: relative path with a / at its end, or "".
    real, above, output: without links, the folder, those through which it was reached, the output.
  """
  names, folders, others = [], [], collections.Counter()
  try:
    with os.scandir(folder) as entries:
      for entry in entries:
        kind = _kind_of(entry)
        if kind == "image":
          names.append(entry.name)
        elif kind == "folder":
          folders.append(entry.name)
        else:
          others[kind] += 1
  except OSError as error:
    if not prefix:
      text = f"{folder} cannot be listed ({error.strerror}): correct its rights"
      raise UserError(text) from error
    others[f"folders that cannot be listed ({error.strerror})"] += 1
  yield prefix, sorted(names), others
  for name in sorted(folders):
    path, place = os.path.join(folder, name), os.path.join(real, name)
    if is_link := os.path.islink(path):
      place = os.path.realpath(path)
    is_above = f"{real}/".startswith(f"{output}/")
    if place == output or is_link and not is_above and f"{place}/".startswith(f"{output}/"):
      raise UserError(f"{path} leads to the output, {output}; give another --output")
    if place not in above:  # else a link to a folder that it is in
      yield from _walk(path, f"{prefix}{name}/", place, above | {place}, output)


def _kind_of(entry):
  """ "image", "folder", or what else there is in a folder."""
  if entry.name[0] == ".":
    return "hidden"
  try:
    if entry.is_dir():
      return "image" if entry.name.endswith(ZARR) else "folder"
    if not entry.is_file():
      return "that are no files, or links to none"
  except OSError:  # a link to itself
    return "that are no files, or links to none"
  suffix = os.path.splitext(entry.name)[1]
  return "image" if suffix.lower() in SUFFIXES else suffix or "without suffix"
