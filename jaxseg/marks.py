"""PNG files that tell which network they are of."""

import io
import os
import pathlib
import zlib

from PIL import Image
from PIL.PngImagePlugin import PngInfo

MARK = "jaxseg"  # key of the text that tells it
END = b"IEND\xaeB`\x82"  # of a PNG


def mark_of(path: pathlib.Path) -> str:
  """The mark of a label map; "none" of a file without, "broken" of one cut short, "" of no file."""
  try:
    with open(path, "rb") as file:
      start = file.read(512)
      file.seek(-min(len(END), len(start)), os.SEEK_END)
      end = file.read()
  except OSError:
    return ""
  _, is_marked, rest = start.partition(f"tEXt{MARK}\0".encode())
  if not start or is_marked and end != END:
    return "broken"
  return rest[:16].decode("latin-1") if is_marked else "none"


def write_png(path: pathlib.Path, image: Image.Image, mark: str = "") -> None:
  """Writes a file that is whole or not there, even if the process dies. mark: 16 characters."""
  buffer, about = io.BytesIO(), PngInfo()
  if mark:
    about.add_text(MARK, mark)
  image.save(buffer, "PNG", pnginfo=about)
  path.parent.mkdir(parents=True, exist_ok=True)
  # Hidden, so that nobody reads it; the same each time, so that a restart replaces it.
  temporary = path.with_name(f".{zlib.crc32(os.fsencode(path.name)):08x}.png")
  try:
    temporary.write_bytes(buffer.getbuffer())
    os.replace(temporary, path)
  except BaseException:
    temporary.unlink(missing_ok=True)
    raise
