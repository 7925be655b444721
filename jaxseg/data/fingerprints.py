"""What is kept of images to know them again: hashes of looks, areas of noise, digests of chunks."""

import contextlib
import os
import zlib

import numpy as np
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from jaxseg import VOID

SIDE = 16  # cells of the grid that a hash compares
NEAR = 24  # bits of 256 in which two pictures of the same scene differ at most
SPECK = 3  # px of the largest area that is a slip of the hand
BLOCK = 64  # rows of the distance matrix at a time


def fingerprint(picture: np.ndarray) -> np.ndarray | None:
  """A difference hash: whether each cell of a 16 x 16 grid is brighter than its left neighbour.

  It hardly changes when a picture is resized, compressed or brightened (Krawetz 2013, "dHash").
  Bits of 256 that differ, median and 90th percentile, on CamVid | Pets | ISBI 2012:
    JPEG of quality 40: 5, 9 | 3, 11 | 2, 3        half the size: 5, 9 | 5, 10 | 4, 5
    20% brighter, +10: 8, 14 | 5, 10 | 3, 4        noise of 10 levels: 6, 12 | 5, 12 | 3, 4
    4 px cut off at the left and the top: 14, 20 | 16, 25 | 20, 23
  Different images: of the 44,850 pairs in the training split of Pets, two are within NEAR, and are
  copies; the next differ in 65 bits. All 435 pairs of ISBI 2012 differ in 64 or more. In CamVid,
  127 pairs of 109,278 are within NEAR, neighbouring frames of its videos.

  Args:
    picture: u8[H,W,1] or u8[H,W,3].
  Returns:
    u64[4]; None if fewer than half of the neighbours differ, as on an empty background, where
    different pictures would have the same bits. On the three data sets, 57% or more do.
  """
  grey = Image.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture).convert("L")
  small = np.asarray(grey.resize((SIDE + 1, SIDE), Image.Resampling.BOX))
  left, right = small[:, :-1], small[:, 1:]
  if 2 * (left != right).sum() < SIDE * SIDE:
    return None
  return np.packbits(right > left).view(np.uint64)


def nearest(
  hashes: np.ndarray, others: np.ndarray | None = None
) -> list[tuple[int, int, int]]:
  """For each hash the most similar other one, if at most NEAR bits differ.

  Args:
    hashes: u64[N,4], see `fingerprint`.
    others: u64[M,4]; None for the hashes that come before in `hashes` itself.
  Returns:
    [(i, j, number of bits that differ)]: the pair hashes[i] and others[j], the first j of several.
  """
  itself = others is None
  words = np.ascontiguousarray((hashes if itself else others).T)
  found = []
  for start in range(0, len(hashes), BLOCK):
    block = hashes[start : start + BLOCK]
    stop = start + len(block) if itself else words.shape[1]
    bits = np.zeros((len(block), stop), np.uint16)
    for word, column in zip(words, block.T, strict=True):
      bits += np.bitwise_count(column[:, None] ^ word[None, :stop])
    if itself:
      bits[:, start:][np.triu_indices(len(block))] = 4 * 64 + 1
    if not stop:
      break
    best = bits.argmin(1)
    for i in np.flatnonzero(bits.min(1) <= NEAR):
      found.append((start + int(i), int(best[i]), int(bits[i, best[i]])))
  return found


def specks(labels: np.ndarray) -> tuple[int, list[tuple[int, int, int, int]]]:
  """Areas of a label map of at most SPECK pixels: slips of the hand, traces of resizing.

  An area is what is 8-connected and of one label; areas of VOID do not count.

  Args:
    labels: u8[H,W].
  Returns:
    (number of areas, boxes (left, top, right, bottom) px of up to 100 of them, from the top)
  """
  height, width = labels.shape
  shifts = ((0, 1), (1, 0), (1, 1), (1, -1))
  equal = np.zeros(labels.shape, np.uint8)  # number of neighbours of the same label
  for down, right in shifts:
    here = np.s_[: height - down, max(0, -right) : width - max(0, right)]
    there = np.s_[down:, max(0, right) : width - max(0, -right)]
    same = labels[here] == labels[there]
    equal[here] += same
    equal[there] += same
  # No pixel of such an area has more equal neighbours than this: few pixels are left to look at.
  few = ((equal < SPECK) & (labels != VOID)).ravel()
  pixels = np.flatnonzero(few)
  if not len(pixels):
    return 0, []
  flat, (rows, cols) = labels.ravel(), np.divmod(pixels, width)
  tails, heads = [], []
  for down, right in shifts:
    inside = (rows + down < height) & (0 <= cols + right) & (cols + right < width)
    tail = np.flatnonzero(inside)
    there = pixels[tail] + down * width + right
    joined = few[there] & (flat[there] == flat[pixels[tail]])
    tails.append(tail[joined])
    heads.append(np.searchsorted(pixels, there[joined]))
  tails, heads = np.concatenate(tails), np.concatenate(heads)
  graph = coo_array((np.ones(len(tails), bool), (tails, heads)), shape=2 * (len(pixels),))
  count, area = connected_components(graph, directed=False)
  # An area is complete if all its equal neighbours are among these pixels.
  inner = np.bincount(area[tails], minlength=count) * 2
  outer = np.bincount(area, weights=equal.ravel()[pixels], minlength=count)
  sizes = np.bincount(area, minlength=count)
  found = np.flatnonzero((sizes <= SPECK) & (inner == outer))
  boxes = []
  for i in found[:100]:
    ys, xs = rows[area == i], cols[area == i]
    boxes.append((int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1))
  return len(found), boxes


def chunks_digest(folder: str | os.PathLike) -> int:
  """A number that is another one if a chunk is; from names, sizes and times, without reading."""
  found, folders = [], [os.fspath(folder)]
  while folders:
    with os.scandir(folders.pop()) as entries:
      for entry in entries:
        if entry.is_dir(follow_symlinks=False):
          folders.append(entry.path)
        elif entry.name[0] != "." or entry.name.startswith(".z"):  # .zarray, but not .DS_Store
          with contextlib.suppress(OSError):  # a link to nowhere, which is no chunk
            stat = entry.stat()
            found.append(f"{entry.path} {stat.st_size} {stat.st_mtime_ns}")
  return zlib.crc32(os.fsencode("\n".join(sorted(found))))
