"""Messages about a folder whose files do not fit a layout: what is there, and which layout fits."""

import collections
import itertools
import pathlib
import re
from collections.abc import Mapping, Sequence

from jaxseg.data.files import SUFFIXES, few
from jaxseg.data.layouts import (
  WHOLE,
  Layout,
  Pattern,
  Problems,
  compile_pattern,
  match_files,
  natural,
  pair,
  walk,
  without_suffix,
)

Files = Mapping[str, Mapping[str, str]]  # {path: {field: value}}
MAX_FILES = 50_000  # looked at for an error message
# Pascal VOC; Cityscapes; ADE20K with and without splits; CamVid as Cambridge, SegNet and Kaggle
# have it; labelme; masks beside their images.
KNOWN = (
  Layout("JPEGImages/{name}.jpg", "SegmentationClass/{name}.png",
         "ImageSets/Segmentation/{split}.txt"),
  Layout("leftImg8bit/{split}/{city}/{name}_leftImg8bit.png",
         "gtFine/{split}/{city}/{name}_gtFine_labelIds.png"),
  Layout("images/{split}/{name}", "annotations/{split}/{name}"),
  Layout("images/{name}", "annotations/{name}"),
  Layout("701_StillsRaw_full/{name}", "LabeledApproved_full/{name}_L"),
  Layout("{split}/{name}", "{split}annot/{name}"),
  Layout("{split}/{name}", "{split}_labels/{name}_L"),
  Layout("{name}", "{name}.json"),
  Layout("{name}", "{name}_mask"),
)  # fmt: skip
SEPARATORS = "_-. "
MASK_WORDS = re.compile("mask|label|annot|target|truth|gt|seg|lbl|class", re.IGNORECASE)


def contents(folder: pathlib.Path) -> str:
  """What a folder holds: "3 files of .npy, a/, b/"."""
  paths = [path for path in folder.iterdir() if path.name[0] != "."]
  kinds = collections.Counter(path.suffix or "no suffix" for path in paths if path.is_file())
  parts = [f"{count} file{'s'[: count > 1]} of {kind}" for kind, count in kinds.most_common(5)]
  parts += sorted((f"{path.name}/" for path in paths if path.is_dir()), key=natural)
  return few(parts) or "nothing"


def no_images(root: pathlib.Path, pattern: Pattern) -> str:
  """The message about a folder of the layout without patterns that holds no image."""
  folder = root / pattern.base
  return (
    f"no images in {folder}: it holds {contents(folder)}, and none of its files, or of those in "
    f"its sub-folders, ends in {', '.join(SUFFIXES)}"
  )


def no_match(root: pathlib.Path, pattern: Pattern) -> str:
  """The message about a pattern that no file matches: its first part that fails, what is there."""
  parts = pattern.shown.split("/")
  paths = list(itertools.islice(walk(root), MAX_FILES))
  failing = parts[-1]
  for i in range(1, len(parts)):
    inside = _inside(paths, "/".join(parts[:i]))
    if not inside:
      failing = parts[i - 1]
      break
    paths = inside
  more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
  there = f"there are {', '.join(paths[:3])}{more}" if paths else f"{root} holds no files"
  return (
    f"`{pattern.key}`={pattern.text!r} matches no file in {root}: nothing fits its part "
    f"{failing!r}; {there}"
  )


def _inside(paths, folder):
  """The paths in a folder that is written as a pattern."""
  regex = "".join(
    re.escape(text) if i % 2 == 0 else ".+?" if text == "name" else "[^/]+?"
    for i, text in enumerate(re.split(r"\{(\w+)\}", folder))
  )
  found = re.compile(f"{regex}/.*", re.DOTALL)
  return [path for path in paths if found.fullmatch(path)]


def folder(root: pathlib.Path, layout: Layout, split: str) -> str:
  """What to do if a folder of the layout without patterns is missing."""
  places = [path.parent for path in (*sorted(root.glob("*/masks")), *root.glob("masks"))]
  places = [place for place in places if layout.images or (place / "images").is_dir()]
  names = ["all" if place == root else place.name for place in places]
  if names:
    shown = ", ".join(map(repr, names))
    return f"correct the split, {root} has {shown} ('all' is its own images/ and masks/)"
  return known_layout(root, split) or (
    f"{root} holds {contents(root)}: say by `images` and `masks` where they are, such as "
    "images='scans/{name}.png', or correct `data_dir` or the split"
  )


def lost_links(
  root: pathlib.Path,
  lost: Sequence[str],
  patterns: tuple[Pattern, Pattern],
  files: tuple[Files, Files],
  counts: tuple[bool, bool] = (False, False),
) -> Problems:
  """Problems of links that lead nowhere, where an image or a mask should be.

  Args:
    lost: see `layouts.walk`.  patterns, files: of images and masks.
    counts: whether an image, or a mask, counts although the other one of its pair is not there.
  """
  common = [field for field in patterns[0].fields if field in patterns[1].fields]
  keys = [{tuple(map(fields.get, common)) for fields in part.values()} for part in files]
  keys[1] = set() if patterns[1].is_coco else keys[1]  # it says which images it is of
  problems = []
  for path, i in itertools.product(lost, (0, 1)):
    fields = patterns[i].match(path)
    is_fault = fields is not None and tuple(map(fields.get, common)) in keys[1 - i]
    if counts[i] and without_suffix(path) == path:  # of a folder, maybe
      fields = patterns[i].match(f"{path}/x.png")
    if is_fault or (counts[i] and fields is not None):
      text = f"{root / path} is a link that leads nowhere: fetch its file, or remove it"
      problems.append(("links that lead nowhere", root / path, text))
  return problems


def rename(texts: tuple[str, str], images: Files, masks: Files) -> str:
  """The remedy if names of images and masks all differ in the same way; "" if they do not.

  Args:
    texts: patterns of images and masks.  images, masks: see `layouts.match_files`.
  """
  names = renamed(*([fields["name"] for fields in part.values()] for part in (images, masks)))
  if not names:
    return ""
  new = []
  for text, name, files in zip(texts, names, (images, masks), strict=True):
    new.append(text.replace("{name}", name))
    if without_suffix(new[-1]) != new[-1] and without_suffix(text) == text:  # as of x.jpg.png
      path = next(iter(files))
      new[-1] += path[len(without_suffix(path)) :]
  return "set `images`={!r} and `masks`={!r}".format(*new)


def known_layout(root: pathlib.Path, split: str, but: tuple[str, str] | None = None) -> str:
  """The remedy if a folder has the layout of a well-known data set, or the like; "" if not.

  Args:
    but: patterns of images and masks that are not offered, as they are set.
  """
  paths = list(itertools.islice(walk(root), MAX_FILES))
  for layout in itertools.chain(KNOWN, _of_folders(paths, split)):
    if (layout.images, layout.masks) == but:
      continue
    name = "all" if layout in KNOWN else split
    images = compile_pattern("images", layout.images, name)
    masks = compile_pattern("masks", layout.masks, name)
    found, labels = match_files(paths, images, masks)
    if not (found and labels):
      continue
    if masks.is_coco:
      texts = f"`images`={layout.images!r} and `masks`={layout.masks!r}"
      return f"if {next(iter(labels))} has polygons of COCO, set {texts}"
    if pair(found, labels, images, masks, root, [])[0]:
      lists = layout.split_file if (root / layout.split_file).parent.is_dir() else ""
      values = {"images": layout.images, "masks": layout.masks, "split_file": lists}
      return "set " + ", ".join(f"`{key}`={value!r}" for key, value in values.items() if value)
    if layout not in KNOWN and (text := rename((layout.images, layout.masks), found, labels)):
      return text
  return ""


def _of_folders(paths, split):
  """Layouts of two folders, one with a name like those of masks, and of COCO files."""
  paths = [path for path in paths if not set("{}*\\") & set(path)]
  folders = collections.Counter(
    path.rpartition("/")[0] for path in paths if without_suffix(path) != path
  )
  names = [folder for folder, _ in folders.most_common(50) if folder]
  for mask, image in itertools.product(filter(MASK_WORDS.search, names), names):
    if not MASK_WORDS.search(image) and image.rpartition("/")[0] == mask.rpartition("/")[0]:
      yield Layout(*(f"{_with_split(folder, split)}/{{name}}" for folder in (image, mask)))
  for path in paths:
    if path.lower().endswith(".json"):
      images = f"{_with_split(names[0], split)}/{{name}}" if names else "{name}"
      yield Layout(images, _with_split(path, split))


def _with_split(text, split):
  return text if split in WHOLE else text.replace(split, "{split}")


def renamed(images: Sequence[str], masks: Sequence[str]) -> tuple[str, str] | None:
  """What to write for {name} so that names which all differ in the same way are pairs.

  Args:
    images, masks: values of {name}.
  Returns:
    ("{name}", "{name}_mask") for x and x_mask; None if there is nothing of the kind.
  """
  if not images:
    return None
  image = min(images, key=natural)
  for mask in sorted(masks, key=natural)[:20]:
    core = _longest_common(image, mask)
    if not image.startswith(core) and "/" in core:
      core = core.partition("/")[2]  # whole names of folders
    core = core.strip(SEPARATORS)
    places = [[m.start() for m in re.finditer(re.escape(core), x)] for x in (image, mask)]
    for i, j in itertools.product(*places) if core else ():
      frames = (image[:i], image[i + len(core) :]), (mask[:j], mask[j + len(core) :])
      cores = [
        {x[len(a) : len(x) - len(b)] for x in names if x.startswith(a) and x.endswith(b)}
        for names, (a, b) in zip((images, masks), frames, strict=True)
      ]
      if len((cores[0] & cores[1]) - {""}) == len(set(images)):
        return tuple(f"{a}{{name}}{b}" for a, b in frames)
  return None


def _longest_common(a, b):
  """The longest text that is in both."""
  starts = range(len(a))
  texts = (a[i : i + n] for n in range(len(a), 0, -1) for i in starts[: len(a) - n + 1])
  return next((text for text in texts if text in b), "")


def same_pages(
  image: pathlib.Path, mask: pathlib.Path, pages: int, mask_pages: int, kind: str
) -> str:
  """The message that an image and its mask differ in the number of their pages.

  Args:
    kind: see `files.read_raster`.
  """
  if kind == "channels" and pages == 1:
    return (
      f"{image} is one image, as `pages`=channels says, but its mask {mask} has {mask_pages} "
      "pages: save it with one, or set `pages`=auto"
    )
  text = f"{image} has {pages} pages, but its mask {mask} has {mask_pages}: they must match"
  if mask_pages == 1:
    text += ", or set `pages`=channels if they are the channels of one image"
  return text
