"""Reads files that were damaged at random, in processes of their own.

    python tests/mutate.py NUMBER [SEED]        NUMBER files in this process
    python tests/mutate.py NUMBER SEED COUNT    as many in each of COUNT processes, SEED and on

Prints as JSON how many were read and refused, what went wrong (anything else raised; a result
that is not what was saved, where a check sum says so; not what another library reads; 20 s of
computing), the longest time a file took, and the largest memory of a process.
"""

import functools
import io
import json
import pathlib
import resource
import signal
import subprocess
import sys
import tempfile
import time
import warnings
import zlib

import h5py
import numpy as np
import safetensors.numpy
from encoders import encode, npy, tiff
from PIL import Image
from weight_files import write_keras_h5, write_pth

from jaxseg import UserError
from jaxseg.data import polygons
from jaxseg.data.decode import ImageFormat, decode_image
from jaxseg.data.files import read_raster
from jaxseg.data.labels import label_map
from jaxseg.data.masks import decode_mask
from jaxseg.models.keras_files import _text
from jaxseg.models.pretrained import read_weights
from jaxseg.models.torch_files import to_keras

MOST_SECONDS = 20

RNG = np.random.default_rng(0)  # of what is damaged; `main` sets that of the damage
KINDS = ("cut", "header", "flip", "insert", "remove", "swap", "number")
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
  """(bytes that are cut, flipped, repeated or overwritten, how); half of the PNGs get new sums."""
  data, kind = bytearray(data), KINDS[RNG.integers(len(KINDS))]
  place = int(RNG.integers(len(data)))
  if kind == "cut":
    del data[place:]
  elif kind == "header":
    for i in RNG.integers(min(len(data), 400), size=RNG.integers(1, 6)):
      data[i] = RNG.integers(256)
  elif kind == "flip":
    for i in RNG.integers(len(data), size=RNG.integers(1, 20)):
      data[i] ^= 1 << RNG.integers(8)
  elif kind == "insert":
    data[place:place] = data[place : place + int(RNG.integers(1, 50))]
  elif kind == "remove":
    del data[place : place + int(RNG.integers(1, 50))]
  elif kind == "swap":  # of two parts
    size, other = int(RNG.integers(1, 50)), int(RNG.integers(len(data)))
    first, second = data[place : place + size], data[other : other + size]
    data[place : place + len(second)], data[other : other + len(first)] = second, first
  else:
    data[place : place + 4] = RNG.choice([b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\xff\xff\xff\xff"])
  if data[:4] == b"\x89PNG" and RNG.random() < 0.5:
    kind, end = "new sums", 8
    while end + 12 <= len(data):
      size = int.from_bytes(data[end : end + 4], "big")
      stop = end + 8 + size
      if stop + 4 > len(data):
        break
      data[stop : stop + 4] = zlib.crc32(data[end + 4 : stop]).to_bytes(4, "big")
      end = stop + 4
  return bytes(data), kind


def damaged_json(document):
  """JSON with other values, of other types, without a member, or with damaged text."""
  text = json.dumps(document)
  if RNG.random() < 0.3:
    return damaged(text.encode())[0]
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


def weights(folder):
  """(name, writer's file) of every kind of weight file."""
  tensors = {"a/kernel": RGB[:3, :3, None, :2].astype(np.float32), "a/bias": np.ones(2, np.float32)}
  write_keras_h5(folder / "a.h5", tensors)
  state = {"a.weight": np.arange(54, dtype=np.float32).reshape(2, 3, 3, 3), "a.bias": np.ones(2)}
  state["a.bias"] = state["a.bias"].astype(np.float32)
  write_pth(folder / "a.pth", state)
  safetensors.numpy.save_file(state, folder / "a.safetensors")
  return [(kind, (folder / f"a.{kind}").read_bytes()) for kind in ("h5", "pth", "safetensors")]


def same(one, other):
  """Whether two dicts of arrays are equal to the last bit."""
  return one.keys() == other.keys() and all(
    one[k].shape == other[k].shape and one[k].tobytes() == other[k].tobytes() for k in one
  )


def check_weights(path, right, how):
  """Reads damaged weights and compares them with those of another library, or those saved."""
  found = read_weights(path)
  if path.suffix == ".safetensors":
    right = to_keras(safetensors.numpy.load_file(path), path)
  elif path.suffix == ".h5":
    with h5py.File(path) as file:
      right = {}
      for layer in dict.fromkeys(key.rpartition("/")[0] for key in found):
        for weight in map(_text, file[layer].attrs["weight_names"]):
          key = f"{layer}/{weight.removesuffix(':0').rsplit('/', 1)[-1]}"
          right[key] = file[layer][weight][...].astype(np.float32)
  if not same(found, right):
    raise AssertionError(f"{how}: other weights than those of the file")


def check_image(data, how, original):
  """Reads a damaged image; what a check sum covers, and what is cut, is as saved or refused."""
  raster = read_raster(data, "image")
  is_png = data.startswith(b"\x89PNG") and original.startswith(b"\x89PNG")
  if how == "cut" or is_png and how != "new sums":
    right = read_raster(original, "image").samples
    if not np.array_equal(raster.samples, right):
      raise AssertionError(f"{how}: other pixels than were saved")
  if data.startswith(b"\x93NUMPY"):
    right = np.load(io.BytesIO(data)).reshape(raster.samples.shape)
    np.testing.assert_array_equal(raster.samples, right)


def cases(folder):
  """Yields (name, function that reads a damaged file), for ever."""
  pictures, maps, stored = list(images()), list(masks()), weights(folder)
  right = {kind: read_weights(folder / f"a.{kind}") for kind, _ in stored}
  labelme, coco = folder / "labelme.json", folder / "coco.json"

  def image(bad, how, data, fmt):
    check_image(bad, how, data)
    decode_image(bad, "image", fmt)

  def mask(bad, how, data):
    check_image(bad, how, data)
    decode_mask(bad, "mask", LABELS)

  while True:
    for data, channels in pictures:
      bad, how = damaged(data)
      yield "image", functools.partial(image, bad, how, data, ImageFormat(channels, (), (0, 255)))
    for data in maps:
      bad, how = damaged(data)
      yield "mask", functools.partial(mask, bad, how, data)
    for kind, data in 3 * stored:
      bad, how = damaged(data)
      (folder / f"bad.{kind}").write_bytes(bad)
      yield kind, functools.partial(check_weights, folder / f"bad.{kind}", right[kind], how)
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


def main(number, seed=0):
  """Reads `number` files in this process."""
  global RNG
  RNG = np.random.default_rng(seed)
  found = {"read": 0, "refused": 0, "wrong": [], "longest": 0.0}
  warnings.simplefilter("ignore")
  signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process
  with tempfile.TemporaryDirectory() as folder:
    stream = cases(pathlib.Path(folder))
    for i in range(number):
      name, read = next(stream)
      signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
      start = time.process_time()
      try:
        read()
        found["read"] += 1
      except UserError as error:
        found["refused"] += 1
        if "\n" in str(error) or "object at 0x" in str(error):
          found["wrong"].append(f"{seed}:{i} {name}: {error}")
      except BaseException as error:
        found["wrong"].append(f"{seed}:{i} {name}: {type(error).__name__} {error}")
      found["longest"] = max(found["longest"], time.process_time() - start)
    signal.setitimer(signal.ITIMER_PROF, 0)
  return {**found, "gib": largest_memory()}


def in_processes(number, seed, count):
  """`main` in a process for each seed; one that dies is wrong, too."""
  total = {"read": 0, "refused": 0, "wrong": [], "longest": 0.0, "gib": 0.0, "seeds": count}
  for one in range(seed, seed + count):
    command = [sys.executable, __file__, str(number), str(one)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode:
      total["wrong"].append(f"{one}: exit {done.returncode}: {done.stderr[-1500:]}")
      continue
    for key, value in json.loads(done.stdout).items():
      total[key] = max(total[key], value) if key in ("longest", "gib") else total[key] + value
  return total


if __name__ == "__main__":
  arguments = list(map(int, sys.argv[1:]))
  print(json.dumps((in_processes if len(arguments) == 3 else main)(*arguments)))
