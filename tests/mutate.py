"""Reads files that were damaged at random, in a process of its own: python tests/mutate.py NUMBER

Prints as JSON how many were read and refused, what else was raised, the longest time a file took,
and the largest memory of the process.
"""

import io
import json
import pathlib
import resource
import sys
import tempfile
import time
import warnings
import zlib

import numpy as np
from encoders import encode, npy, tiff
from PIL import Image

from jaxseg import UserError
from jaxseg.data import polygons
from jaxseg.data.decode import ImageFormat, decode_image
from jaxseg.data.labels import label_map
from jaxseg.data.masks import decode_mask

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
LABELS = label_map(("background", "cell", "c"), palette=((0, 0, 0), (200, 0, 0), (0, 0, 200)))
MASK = (np.arange(600) % 3).astype(np.uint8).reshape(20, 30)
LABELME = {"imageHeight": 20, "imageWidth": 30, "shapes": [
  {"label": "cell", "shape_type": "polygon", "points": [[1, 1], [20, 2], [9.5, 15]]},
  {"label": "c", "shape_type": "circle", "points": [[9, 9], [12, 9]]}]}  # fmt: skip
COCO = {
  "images": [{"id": 1, "file_name": "a.jpg", "height": 20, "width": 30}],
  "categories": [{"id": 7, "name": "cell"}],
  "annotations": [
    {"id": 1, "image_id": 1, "category_id": 7, "segmentation": [[1, 1, 20, 2, 9.5, 15]]},
    {"id": 2, "image_id": 1, "category_id": 7, "iscrowd": 1,
     "segmentation": {"size": [20, 30], "counts": [100, 50, 450]}},
  ],
}  # fmt: skip


def images():
  """(encoded image, number of channels) of every kind."""
  exif = Image.Exif()
  exif[0x0112] = 6
  for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF"):
    yield encode(RGB, kind), 3
  yield encode(RGB, "JPEG", exif=exif), 1
  yield encode(RGB, "PNG", exif=exif), 3
  deep = RGB.astype(np.uint16) * 257
  yield tiff(deep, photometric="rgb", planarconfig="contig", compression="lzw"), 3
  yield tiff(np.moveaxis(deep, -1, 0), photometric="rgb", planarconfig="separate"), 3
  yield tiff(np.moveaxis(deep, -1, 0), imagej=True, metadata={"axes": "CYX"}), 3
  yield tiff(np.moveaxis(deep, -1, 0), ome=True, metadata={"axes": "CYX"}), 3
  yield tiff(RGB[..., 0].astype(np.float32), tile=(16, 16), compression="zlib"), 1
  yield tiff(RGB, photometric="rgb", compression="jpeg", tile=(16, 16)), 3
  yield encode(RGB, "TIFF", compression="tiff_lzw"), 3
  yield encode(deep[..., 0], "PNG"), 1
  yield npy(deep), 3


def masks():
  """Encoded masks of every kind."""
  palette = Image.fromarray(MASK)
  palette.putpalette([0, 0, 0, 200, 0, 0, 0, 0, 200])
  yield from (encode(MASK, kind) for kind in ("PNG", "TIFF", "BMP", "GIF"))
  yield encode(np.asarray(palette.convert("RGB")), "PNG")
  buffer = io.BytesIO()
  palette.save(buffer, "PNG")
  yield buffer.getvalue()
  yield tiff(MASK.astype(np.float64), byteorder=">")
  yield tiff(MASK.astype(np.int64), compression="zlib")


def damaged(data):
  """Cuts, flips, repeats or overwrites bytes; half of the PNGs keep right check sums."""
  data, kind = bytearray(data), RNG.integers(5)
  place = int(RNG.integers(len(data)))
  if kind == 0:
    del data[place:]
  elif kind == 1:
    for i in RNG.integers(min(len(data), 400), size=RNG.integers(1, 6)):  # headers
      data[i] = RNG.integers(256)
  elif kind == 2:
    for i in RNG.integers(len(data), size=RNG.integers(1, 20)):
      data[i] ^= 1 << RNG.integers(8)
  elif kind == 3:
    data[place:place] = data[place : place + int(RNG.integers(1, 50))]
  else:
    data[place : place + 4] = RNG.choice([b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\xff\xff\xff\xff"])
  if data[:4] == b"\x89PNG" and RNG.random() < 0.5:
    end = 8
    while end + 12 <= len(data):
      size = int.from_bytes(data[end : end + 4], "big")
      stop = end + 8 + size
      if stop + 4 > len(data):
        break
      data[stop : stop + 4] = zlib.crc32(data[end + 4 : stop]).to_bytes(4, "big")
      end = stop + 4
  return bytes(data)


def damaged_json(document):
  """JSON with other values, of other types, without a member, or with damaged text."""
  text = json.dumps(document)
  if RNG.random() < 0.3:
    return damaged(text.encode())
  document = json.loads(text)
  places, stack = [], [document]
  while stack:
    node = stack.pop()
    keys = node.keys() if isinstance(node, dict) else range(len(node))
    places += [(node, key) for key in keys]
    stack += [node[key] for key in keys if isinstance(node[key], dict | list)]
  node, key = places[RNG.integers(len(places))]
  values = [None, -1, 1e300, float("nan"), 10**30, "x" * 9, [], {}, [[[]]], True, 1 << 31]
  if RNG.random() < 0.2:
    del node[key]
  else:
    node[key] = values[RNG.integers(len(values))]
  return json.dumps(document).encode()


def read_coco(path):
  for mask in polygons.coco_masks(path).values():
    decode_mask(mask, str(path), LABELS)


def cases(folder):
  """Yields (name, function that reads a damaged file), for ever."""
  pictures, maps = list(images()), list(masks())
  labelme, coco = folder / "labelme.json", folder / "coco.json"
  while True:
    for data, channels in pictures:
      bad, fmt = damaged(data), ImageFormat(channels, value_range=(0, 255))
      yield "image", lambda bad=bad, fmt=fmt: decode_image(bad, "image", fmt)
    for data in maps:
      bad = damaged(data)
      yield "mask", lambda bad=bad: decode_mask(bad, "mask", LABELS)
    labelme.write_bytes(damaged_json(LABELME))
    yield "labelme", lambda: decode_mask(labelme, str(labelme), LABELS)
    coco.write_bytes(damaged_json(COCO))
    yield "coco", lambda: read_coco(coco)


def largest_memory():
  """GiB. (What getrusage gives includes the parent, before this program replaced its copy.)"""
  status = pathlib.Path("/proc/self/status")
  if status.exists():
    line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) / 2**20
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**30  # macOS counts bytes


def main(number):
  found = {"read": 0, "refused": 0, "wrong": [], "longest": 0.0}
  warnings.simplefilter("ignore")
  with tempfile.TemporaryDirectory() as folder:
    stream = cases(pathlib.Path(folder))
    for i in range(number):
      name, read = next(stream)
      start = time.perf_counter()
      try:
        read()
        found["read"] += 1
      except UserError as error:
        found["refused"] += 1
        if "\n" in str(error) or "object at 0x" in str(error):
          found["wrong"].append(f"{i} {name}: {error}")
      except BaseException as error:
        found["wrong"].append(f"{i} {name}: {type(error).__name__} {error}")
      found["longest"] = max(found["longest"], time.perf_counter() - start)
  found["gib"] = largest_memory()
  print(json.dumps(found))


if __name__ == "__main__":
  main(int(sys.argv[1]))
