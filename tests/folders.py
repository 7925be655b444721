"""Folders of empty files, and what opening them gives or says."""

from tiny import error_of

from jaxseg.data.folder import FolderFormat, open_folder
from jaxseg.data.layouts import Layout

FORMAT = FolderFormat(("a", "b"))
CITYSCAPES = {
  "images": "leftImg8bit/{split}/{city}/{name}_leftImg8bit.png",
  "masks": "gtFine/{split}/{city}/{name}_gtFine_labelIds.png",
}
VOC = {"images": "JPEGImages/{name}.jpg", "masks": "SegmentationClass/{name}.png"}


def touch(root, *paths):
  for path in paths:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).touch()


def opened(root, split="all", **layout):
  """[(image, mask)] of a split, relative to the folder."""

  def name(path):
    return str(path.relative_to(root))

  records = open_folder(root, split, FORMAT, layout=Layout(**layout))[1].records
  return [(name(r["image"]), name(r["mask"])) for r in records]


def error(root, split="all", **layout):
  return error_of(open_folder, root, split, FORMAT, layout=Layout(**layout))


def problems_of(root, split="all", **layout):
  """[(kind, relative path)]."""
  problems = []
  open_folder(root, split, FORMAT, problems, layout=Layout(**layout))
  for _, file, text in problems:
    assert file.name in text and "\n" not in text
  return [(kind, str(file.relative_to(root))) for kind, file, _ in problems]


def fill_cityscapes(root):
  for split, city, i in (("train", "ulm", 0), ("train", "bonn", 3), ("val", "jena", 1)):
    stem = f"{split}/{city}/{city}_{i:06}_000019"
    touch(root, f"leftImg8bit/{stem}_leftImg8bit.png")
    touch(root, *(f"gtFine/{stem}_gtFine_{x}.png" for x in ("color", "instanceIds", "labelIds")))
