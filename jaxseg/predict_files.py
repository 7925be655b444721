"""Image files in, label maps and overlays out."""

import contextlib
import dataclasses
import errno
import functools
import pathlib
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import tqdm
from PIL import Image

from jaxseg import UserError, faults
from jaxseg.data.decode import DatasetInfo, decode_image, to_picture
from jaxseg.data.encoded import Notes, read_as_trained
from jaxseg.data.files import num_pages
from jaxseg.data.levels import depth_notes
from jaxseg.data.windows import ZARR, is_large, open_windows
from jaxseg.large import mark_of_large
from jaxseg.listing import OVERLAYS
from jaxseg.listing import Image as ImageFile
from jaxseg.marks import mark_of, write_png
from jaxseg.predict import most_likely
from jaxseg.settings import with_keys
from jaxseg.visualize import label_map, legend, overlay

MUCH = 16  # times the size of the network's input, beyond which a note says so
MAX_NAMED = 10  # failed files in the summary
MAX_SAID = 100  # failed files that get a line, in a process
LEGEND = "legend of jaxseg"  # mark of a legend
# Errors of a disk, which the next file would meet as well.
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
quiet = functools.partial(tqdm.tqdm, disable=True)


@dataclasses.dataclass
class Outcome:
  """What became of the files of a process.

  Attributes:
    written, skipped: label maps; those that were there.
    replaced: of the written, those in whose place there was one of another network.
    kept: files without a mark that are called like a label map.  overlays: like an overlay.
    failed: images.  names: of the first of these.  reason: why the first of them did.
    error: what stopped it; "" for nothing.
    seen: see `Listing`.
  """

  written: int = 0
  skipped: int = 0
  replaced: int = 0
  kept: int = 0
  overlays: int = 0
  failed: int = 0
  names: list[str] = dataclasses.field(default_factory=list)
  reason: str = ""
  error: str = ""
  seen: tuple[int, int] = (0, 0)


class Page(NamedTuple):
  """An image of a file, and the relative path of its label map."""

  file: pathlib.Path
  number: int
  where: str  # in messages
  name: str
  picture: pathlib.Path | None  # its overlay, unless somebody else's file is there


def predict_files(
  predict: Callable,
  images: Iterable[ImageFile],
  output: str | pathlib.Path,
  info: DatasetInfo,
  outcome: Outcome,
  *,
  mark: str = "",
  overwrite: bool = False,
  side: int = 0,
  large: Callable | None = None,
  agreed: Callable = contextlib.nullcontext,
  bar: tqdm.tqdm | None = None,
  progress: Callable = quiet,
  say: Callable[[str], None] = lambda text: None,
) -> None:
  """Writes output/NAME.png, the label map, and output/overlays/NAME.png for each image.

  A TIFF of several pages gives NAME_000.png, NAME_001.png, ... Overlays of large images are
  smaller, see `visualize.overlay`. A TIFF too large for memory gives NAME.tif, a folder *.zarr one
  of that kind; their overlays are PNG. Each file appears whole or not at all, the label map last. A
  file that cannot be read or predicted gets a line.

  Args:
    predict: function of examples, `reduce` and `progress`, see `predict.make_predictor`.
    images: of a `Listing`.  output: folder, with its overlays/.
    info: of the training data.
    outcome: counts along.
    mark: of the network. Label maps that have it are not made again, nor are files replaced that
      have none: they may be somebody's work. Label maps of another network are replaced. Overlays
      follow their label maps.
    overwrite: replaces all.
    side: px, to which images are resized for the network; 0 if they are not.
    large: function of (image read by windows, path of its label map, path of its overlay) that
      writes these, of images that do not fit into memory; None reads them whole, too.
    agreed: see `large.predict_large`, for what comes before `large`.
    bar: moves by one for each image; its total begins with the files.
    progress: called by `predict`.  say: takes lines.
  Raises:
    OSError: the disk is full or the like.
  """
  bar, fmt, notes = bar or quiet(), info.image_format(), Notes(is_trained=True)
  output = pathlib.Path(output)

  def failed(where, error):
    text = with_keys(str(error)) or type(error).__name__
    text = text if isinstance(error, UserError) else text.splitlines()[0]
    text = text if where in text else f"{where}: {text}"
    bar.update()
    outcome.reason = outcome.reason or text
    outcome.failed += 1
    if len(outcome.names) < MAX_NAMED:
      outcome.names.append(where)
    if outcome.failed <= MAX_SAID:
      say(f"failed: {text}")
    if outcome.failed == MAX_SAID:
      say("more failures are counted, but not named")

  def more_pages(count):
    if bar.total and count:
      bar.total += count
      if hasattr(bar, "container"):  # the widget of a notebook
        bar.container.children[1].max = bar.total

  def pages():
    for image in images:
      try:
        names = image.outputs(num_pages(image.path, fmt.pages))
      except (UserError, OSError) as error:
        failed(str(image.path), error)
        continue
      more_pages(len(names) - 1)
      for number, name in enumerate(names):
        where = f"{image.path} page {number + 1}" if len(names) > 1 else str(image.path)
        try:
          is_windowed = large and is_large(image.path, fmt, page=number)
        except (UserError, OSError) as error:
          failed(where, error)
          continue
        picture = output / OVERLAYS / name
        if is_windowed:
          name = f"{name.removesuffix('.png')}{ZARR if image.path.suffix == ZARR else '.tif'}"
        find_mark = mark_of_large if is_windowed else mark_of
        there = "" if overwrite else find_mark(output / name)
        if there == "none":
          outcome.kept += 1
          bar.update()
          continue
        drawn = "" if overwrite else mark_of(picture)
        if there and there == mark and drawn in (mark, "none"):
          outcome.skipped += 1
          bar.update()
          continue
        outcome.replaced += there not in ("", mark, "broken")
        if drawn == "none":
          outcome.overlays += 1
          picture = None
        page = Page(image.path, number, where, name, picture)
        if is_windowed:
          write_large(page)
        else:
          yield page

  def examples(pages, waiting):
    for page in pages:
      found = []
      try:
        with read_as_trained(info.channels, info.value_range):
          if page.file.suffix == ZARR:
            windowed = open_windows(page.file, fmt)
            image, found = windowed.whole(), windowed.notes
          else:
            image = decode_image(page.file, page.where, fmt, page=page.number, notes=found)
      except (UserError, OSError, MemoryError) as error:
        failed(page.where, error)
        continue
      if side and max(image.shape[:2]) > MUCH * side:
        found.append(f"is far larger than {side} x {side} px, at which the network sees it: small "
                     "things vanish; config.data.fit=crop trains one that sees all")  # fmt: skip
      found += depth_notes(image.dtype, image.max(initial=0), info)
      notes.warn(page.where, found)
      waiting.append(page)
      yield {"image": image, "page": page}

  def write_large(page):
    try:
      with read_as_trained(info.channels, info.value_range):
        with agreed():
          for path in filter(None, (page.picture, output / page.name)):
            path.parent.mkdir(parents=True, exist_ok=True)
          image = open_windows(page.file, fmt, page=page.number)
        outcome.written += large(image, output / page.name, page.picture)
        bar.update()
      dark = depth_notes(image.dtype, image.brightest, info)
      notes.warn(page.where, [*image.notes, *dark])
    except (UserError, MemoryError, jax.errors.JaxRuntimeError) as error:
      if not isinstance(error, UserError) and not faults.describe(error):
        raise
      failed(page.where, error)

  def write(page, image, labels):
    picture = overlay(to_picture(image, info), labels, info.palette)
    try:
      if page.picture:
        write_png(page.picture, Image.fromarray(picture), mark)
      write_png(output / page.name, label_map(labels, info.palette), mark)
      outcome.written += 1
      bar.update()
    except OSError as error:
      if error.errno in DISK:
        error.filename = error.filename or str(output / page.name)
        raise
      failed(page.where, UserError(f"{output / page.name}: {error.strerror}"))

  def run(pages):
    while True:
      waiting = []  # pages that `predict` has, in order
      try:
        for example, labels in predict(
          examples(pages, waiting), reduce=most_likely, progress=progress
        ):
          write(waiting[0], example["image"], labels)
          del waiting[0]
        return
      except (UserError, MemoryError, jax.errors.JaxRuntimeError) as error:
        if not waiting:
          raise
        if len(waiting) == 1:
          failed(waiting[0].where, error)
      if len(waiting) > 1:  # one of these is at fault
        for page in waiting:
          run(iter([page]))

  run(pages())


def write_legend(
  folder: pathlib.Path, info: DatasetInfo, overlays: Iterable[str], overwrite: bool = False
) -> None:
  """Writes legend.png, with names and colours of the classes, into the folder of overlays.

  Args:
    overlays: names of the files there. If one is legend.png, it becomes legend_of_classes.png; so
      it does if somebody else's file has that name, unless this is to overwrite it.
  """
  name, taken = "legend.png", {x.casefold() for x in overlays}  # as in some file systems
  while name in taken or not overwrite and mark_of(folder / name) == "none":
    name = name.replace(".png", "_of_classes.png")
  temporary = folder / ".legend.png"
  legend(temporary, info.classes, info.palette)
  with Image.open(temporary) as picture:
    write_png(folder / name, picture, LEGEND)
  temporary.unlink()
