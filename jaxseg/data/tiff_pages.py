"""TIFF: which of its pages are images, and which are the channels of one."""

import os

import numpy as np
import tifffile

from jaxseg.data.raster import Path

REDUCED, MASK = 1, 4  # bits of NewSubfileType
NEEDED = {254, 256, 257, 258, 259, 262, 266, 270, 273, 274, 277, 278, 279, 284, 317, 320, 322, 323,
          324, 325, 338, 339, 347, 530, 42113}  # tags without which pixels are others  # fmt: skip


def images(
  tif: tifffile.TiffFile, data: bytes | Path, pages: str
) -> tuple[list[list[int]], list[str]]:
  """([numbers of the planes that are the channels of an image], notes); cached for files.

  Args:
    data: the file.  pages: see `files.read_raster`.
  Raises:
    ValueError: damaged.
  """
  if isinstance(data, bytes):
    return _list_images(tif, pages)
  stat = os.fstat(tif.filehandle.fileno())  # not of a file that has taken its place
  key = (os.fspath(data), stat.st_mtime_ns, stat.st_size, pages)
  found = _LISTED.get(key)
  if found is None:
    if len(_LISTED) >= 4096:
      _LISTED.clear()
    found = _LISTED[key] = _list_images(tif, pages)
  return found


_LISTED: dict[tuple, tuple] = {}


def _list_images(tif, pages):
  kept, notes = _full_pages(tif)
  _check_pages(tif)
  axes, numbers = _axes(tif, kept, notes)
  if pages == "channels":
    return [numbers.ravel().tolist()], notes
  if pages == "auto" and "C" in axes:
    numbers = np.moveaxis(numbers, axes.index("C"), -1)
    return numbers.reshape(-1, numbers.shape[-1]).tolist(), notes
  return numbers.reshape(-1, 1).tolist(), notes


def _check_pages(tif):
  """Raises ValueError if the list of pages is cut, or a page lacks a tag that is in its list.

  tifffile leaves out what it cannot read, and goes on.
  """
  form, file = tif.tiff, tif.filehandle

  def number(at, size):
    file.seek(at)
    data = file.read(size)
    if len(data) < size:
      raise ValueError("the file is truncated: its list of pages is cut")
    return int.from_bytes(data, "little" if tif.byteorder == "<" else "big")

  for page in tif.pages:
    if not isinstance(page, tifffile.TiffPage):
      continue
    count, start = number(page.offset, form.tagnosize), page.offset + form.tagnosize
    codes = {number(start + i * form.tagsize, 2) for i in range(count)}
    if lost := sorted((codes & NEEDED) - {tag.code for tag in page.tags}):
      raise ValueError(f"its tags {', '.join(map(str, lost))} are damaged")
    end = start + count * form.tagsize
  if tif.pages.next_page_offset == end and number(end, form.offsetsize):
    raise ValueError("the file is truncated: its list of pages is cut")


def _full_pages(tif):
  """(numbers of the pages that are neither overviews nor masks, notes about the others)"""
  kept, seen = [], set()
  reduced = masks = 0
  for number, page in enumerate(tif.pages):
    if page.offset in seen:
      raise ValueError("its list of pages runs in a circle")
    seen.add(page.offset)
    kind = int(page.subfiletype or 0)
    if kind & MASK and number:
      masks += 1
    elif kind & REDUCED and number:
      reduced += 1
    else:
      kept.append(number)
  slide = len(kept) - 1 if tif.is_svs or tif.is_ndpi or tif.is_scn or tif.is_bif else 0
  notes = [
    f"{plural(number, noun)} not read as images"
    for number, noun in (
      (reduced, "page of reduced resolution"),
      (masks, "mask of transparency"),
      (slide, "label or thumbnail of a slide"),
    )
    if number
  ]
  return kept[: len(kept) - slide], notes


def _axes(tif, kept, notes):
  """(axes of the pages as tifffile names them, numbers of the pages as an array of these axes)"""
  series = tif.series[0] if tif.is_imagej or tif.is_ome or tif.is_shaped else None
  if series is not None and series.keyframe is not None:
    count = len(series.axes) - len(series.keyframe.axes)
    axes, shape = series.axes[:count], series.shape[:count]
    total = int(np.prod(shape, dtype=np.int64))
    if tif.is_ome and len(kept) < total:  # a part of it, or one of several files
      notes.append(f"its OME metadata declare {plural(total, 'plane')}, of which "
                   f"{len(kept)} {'is' if len(kept) == 1 else 'are'} read")  # fmt: skip
    elif len(kept) == 1 < total <= 1 << 20:  # ImageJ stores the planes of one page in a row
      kept = range(-total, 0)
    elif tif.is_ome and total <= len(kept):
      if total < len(kept):
        notes.append(f"{plural(len(tif.series) - 1, 'image of a further OME series')} not read")
      # In the order that its metadata declare, which need not be that of the file.
      kept = [getattr(page, "index", None) for page in series]
      if not all(type(number) is int for number in kept):
        raise ValueError("its OME metadata have a plane that is not in the file")
    if total == len(kept):
      return axes, np.array(kept).reshape(shape)
  return "Q", np.array(kept)


def plural(number: int, noun: str) -> str:
  """ "1 page of reduced resolution", "2 pages of reduced resolution"."""
  first, space, rest = noun.partition(" ")
  return f"{number} {first}{'s' * (number != 1)}{space}{rest}"
