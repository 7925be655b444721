"""Folders of image files in, label maps and overlays out."""

import collections
import pathlib
from collections.abc import Callable, Sequence

from PIL import Image

from jaxseg import UserError
from jaxseg.data.decode import DatasetInfo, decode_image, to_picture
from jaxseg.data.encoded import Notes
from jaxseg.data.files import SUFFIXES, few, num_pages
from jaxseg.predict import most_likely
from jaxseg.visualize import legend, overlay, save_label_map
from jaxseg.workdirs import make_folder

Page = tuple[pathlib.Path, int, str]  # (file, page, tag); tag is "_000", ... in a file of several


def list_images(path: str | pathlib.Path) -> list[pathlib.Path]:
  """The image files of a folder, sorted, or the file itself.

  Raises:
    UserError: no such file or folder, or a folder without images.
  """
  path = pathlib.Path(path)
  if path.is_file():
    return [path]
  if not path.is_dir():
    raise UserError(f"no file or folder {path}; correct --input")
  shown = (f for f in path.iterdir() if not f.name.startswith("."))  # not ._a.jpg of macOS
  files = sorted(f for f in shown if f.suffix.lower() in SUFFIXES and f.is_file())
  if not files:
    raise UserError(f"no images in {path}: none of its files ends in {', '.join(SUFFIXES)}")
  return files


def left_out(path: str | pathlib.Path, files: Sequence[pathlib.Path]) -> str:
  """Names what a folder holds besides its images; "" if there is nothing else."""
  path = pathlib.Path(path)
  others = sorted(set(path.iterdir()) - set(files)) if path.is_dir() else []
  names = [other.name + "/" * other.is_dir() for other in others]
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


def output_names(pages: Sequence[Page]) -> list[str]:
  """A PNG name per page: that of its file, with the old suffix kept if two would collide."""
  short = [f"{file.stem}{tag}.png" for file, _, tag in pages]
  full = [f"{file.name}{tag}.png" for file, _, tag in pages]
  uses = collections.Counter(short)
  names = [b if uses[a] > 1 else a for a, b in zip(short, full, strict=True)]
  return names if len(set(names)) == len(names) else full  # a.jpg, a.png and a.jpg.bmp


def predict_files(
  predict: Callable,
  files: Sequence[pathlib.Path],
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
    files: paths.  output: folder, created if missing.
    info: of the training data.  progress: called like `tqdm`, with the images, and by `predict`.
  Raises:
    UserError: an image cannot be decoded, `output` cannot be written or would overwrite an image.
  """
  fmt, notes = info.image_format(), Notes()
  output, pages = pathlib.Path(output), list_pages(files, fmt.pages)
  names, inputs = output_names(pages), {file.resolve() for file in files}
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
    save_label_map(output / example["file_name"], labels, info.palette)
    picture = overlay(to_picture(example["image"], info), labels, info.palette)
    Image.fromarray(picture).save(output / "overlays" / example["file_name"])
