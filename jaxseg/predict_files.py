"""Folders of image files in, label maps and overlays out."""

import collections
import os
import pathlib
from collections.abc import Callable, Sequence

from PIL import Image

from jaxseg import UserError
from jaxseg.data.decode import DatasetInfo, decode_image, to_picture
from jaxseg.data.encoded import Notes
from jaxseg.data.files import SUFFIXES, few, num_pages
from jaxseg.data.layouts import compile_pattern, match_files
from jaxseg.predict import most_likely
from jaxseg.visualize import legend, overlay, save_label_map
from jaxseg.workdirs import make_folder

Page = tuple[pathlib.Path, int, str]  # (file, page, tag); tag is "_000", ... in a file of several


def list_images(
  path: str | pathlib.Path, output: str | pathlib.Path | None = None
) -> list[pathlib.Path]:
  """The image files of a folder and its sub-folders, sorted, or the file itself.

  Hidden files and folders do not count, nor does what lies in `output`.

  Raises:
    UserError: no such file or folder, or a folder without images.
  """
  path = pathlib.Path(path)
  if path.is_file():
    return [path]
  if not path.is_dir():
    raise UserError(f"no file or folder {path}; correct --input")
  files = sorted(f for f in _walk(path, output) if f.suffix.lower() in SUFFIXES)
  if not files:
    raise UserError(f"no images in {path}: none of its files ends in {', '.join(SUFFIXES)}")
  return files


def _walk(path, output):
  """Files below a folder that are not hidden; hidden are ._a.jpg of macOS and .thumbnails/."""
  skip = output and pathlib.Path(output).resolve()
  for folder, folders, names in os.walk(path, followlinks=True):
    here = pathlib.Path(folder)
    folders[:] = [f for f in folders if f[0] != "." and (here / f).resolve() != skip]
    yield from (here / name for name in names if name[0] != "." and (here / name).is_file())


def without_masks(
  files: Sequence[pathlib.Path], root: str | pathlib.Path, images: str, masks: str
) -> tuple[list[pathlib.Path], list[str]]:
  """Tells masks that lie beside images apart by the patterns of the training data.

  Args:
    files: paths below `root`.  images, masks: see `layouts.Layout`.
  Returns:
    (the files that are no masks, relative paths of the masks); no masks if all files are, or if
    there are no patterns.
  """
  if not (images and masks):
    return list(files), []
  patterns = (compile_pattern("images", images, "all"), compile_pattern("masks", masks, "all"))
  places = {file.relative_to(root).as_posix(): file for file in files}
  _, labels = match_files(list(places), *patterns)
  if len(labels) == len(places):
    return list(files), []
  return [file for place, file in places.items() if place not in labels], sorted(labels)


def left_out(
  path: str | pathlib.Path,
  files: Sequence[pathlib.Path],
  output: str | pathlib.Path | None = None,
) -> str:
  """Names the files of a folder that are no images; "" if there are none."""
  path = pathlib.Path(path)
  others = sorted(set(_walk(path, output)) - set(files)) if path.is_dir() else []
  names = [str(other.relative_to(path)) for other in others]
  return f"not read, as they are no images: {few(names, 5)}" if names else ""


def list_pages(files: Sequence[pathlib.Path], pages: str = "auto") -> list[Page]:
  """All images in the files.  pages: see `files.read_raster`.

  Raises:
    UserError: a TIFF is damaged.
  """
  found = []
  for file in files:
    count = num_pages(file, pages)
    found += [(file, page, f"_{page:03}" if count > 1 else "") for page in range(count)]
  return found


def output_names(pages: Sequence[Page], root: str | pathlib.Path) -> list[str]:
  """A PNG name per page: that of its file, with the old suffix kept if two would collide.

  Files in sub-folders of `root` keep these.
  """
  places = [file.relative_to(root) for file, _, _ in pages]
  tags = [tag for _, _, tag in pages]
  short = [f"{place.with_suffix('')}{tag}.png" for place, tag in zip(places, tags, strict=True)]
  full = [f"{place}{tag}.png" for place, tag in zip(places, tags, strict=True)]
  uses = collections.Counter(short)
  names = [b if uses[a] > 1 else a for a, b in zip(short, full, strict=True)]
  return names if len(set(names)) == len(names) else full  # a.jpg, a.png and a.jpg.bmp


def predict_files(
  predict: Callable,
  files: Sequence[pathlib.Path],
  root: str | pathlib.Path,
  output: str | pathlib.Path,
  info: DatasetInfo,
  progress: Callable = lambda iterable, **_: iterable,
) -> None:
  """Writes output/NAME.png, the label map, and output/overlays/NAME.png for each image.

  output/overlays/legend.png names the colours; if an image is called legend, legend_of_classes.png
  does. A TIFF of several pages gives NAME_000.png, NAME_001.png, ...; overlays of large images are
  smaller, see `visualize.overlay`.

  Args:
    predict: function of examples, `reduce` and `progress`, see `predict.make_predictor`.
    files: paths below `root`, whose sub-folders the output has as well.
    output: folder, created if missing.
    info: of the training data.  progress: called like `tqdm`, with the images, and by `predict`.
  Raises:
    UserError: an image cannot be decoded, `output` cannot be written or would overwrite an image.
  """
  fmt, notes = info.image_format(), Notes(is_trained=True)
  output, pages = pathlib.Path(output), list_pages(files, fmt.pages)
  names, inputs = output_names(pages, root), {file.resolve() for file in files}
  for name in names:
    for path in (output / name, output / "overlays" / name):
      if path.resolve() in inputs:
        raise UserError(f"{path} is an input and would be overwritten; correct --output")
  make_folder(output / "overlays", "--output")
  key = "legend_of_classes.png" if "legend.png" in names else "legend.png"
  legend(output / "overlays" / key, info.classes, info.palette)

  def examples():
    for (file, page, tag), name in zip(pages, names, strict=True):
      where = f"{file} page {page + 1}" if tag else str(file)
      found = []
      image = decode_image(file, where, fmt, page=page, notes=found)
      notes.warn(where, found)
      yield {"image": image, "file_name": name}

  predictions = predict(examples(), reduce=most_likely, progress=progress)
  for example, labels in progress(predictions, total=len(names), unit="image"):
    for folder in {(output / part / example["file_name"]).parent for part in ("", "overlays")}:
      folder.mkdir(parents=True, exist_ok=True)
    save_label_map(output / example["file_name"], labels, info.palette)
    picture = overlay(to_picture(example["image"], info), labels, info.palette)
    Image.fromarray(picture).save(output / "overlays" / example["file_name"])
