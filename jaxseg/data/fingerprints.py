"""What a check of many images keeps of each: a perceptual hash, and pixels that look like noise."""

from collections.abc import Iterator

import numpy as np
from PIL import Image
from scipy import ndimage

SIDE = 16  # cells of the grid that a hash compares
NEAR = 24  # bits of 256 in which two pictures of the same scene differ at most


def fingerprint(picture: np.ndarray) -> np.ndarray:
  """A difference hash: whether each cell of a 16 x 16 grid is brighter than its left neighbour.

  It hardly changes when a picture is resized, compressed or brightened (Krawetz 2013, "dHash").

  Args:
    picture: u8[H,W,1] or u8[H,W,3].
  Returns:
    u64[4]
  """
  grey = Image.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture).convert("L")
  small = np.asarray(grey.resize((SIDE + 1, SIDE), Image.Resampling.BOX, reducing_gap=3.0))
  bits = small[:, 1:] > small[:, :-1]
  return np.packbits(bits).view(np.uint64)


def near_pairs(hashes: np.ndarray) -> Iterator[tuple[int, int, int]]:
  """Pairs of hashes that differ in at most NEAR bits.

  Args:
    hashes: u64[N,4], see `fingerprint`.
  Yields:
    (i, j, number of bits that differ), i < j
  """
  for i in range(len(hashes) - 1):
    bits = np.bitwise_count(hashes[i + 1 :] ^ hashes[i]).sum(-1)
    for j in np.flatnonzero(bits <= NEAR):
      yield i, i + 1 + int(j), int(bits[j])


def specks(mask: np.ndarray, largest: int = 3) -> tuple[int, list[tuple[int, int, int, int]]]:
  """Areas of a label map of at most `largest` pixels: slips of the hand, traces of resizing.

  An area is what is 8-connected and of one value.

  Args:
    mask: whole numbers [H,W].
  Returns:
    (number of pixels, boxes (left, top, right, bottom) px of up to 100 specks)
  """
  equal = np.zeros(mask.shape, np.uint8)
  for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
    here = mask[: mask.shape[0] - down, max(0, -right) : mask.shape[1] - max(0, right)]
    there = mask[down:, max(0, right) : mask.shape[1] - max(0, -right)]
    same = (here == there).astype(np.uint8)
    equal[: mask.shape[0] - down, max(0, -right) : mask.shape[1] - max(0, right)] += same
    equal[down:, max(0, right) : mask.shape[1] - max(0, -right)] += same
  alone = equal < largest  # where such an area may be: it leaves no pixel more equal neighbours
  if not alone.any():
    return 0, []
  total, boxes = 0, []
  for value in np.unique(mask[alone]):
    areas, _ = ndimage.label(mask == value, np.ones((3, 3)))
    sizes = np.bincount(areas.ravel())
    small = np.flatnonzero(sizes <= largest)
    small = small[small > 0]
    total += int(sizes[small].sum())
    if len(small) and len(boxes) < 100:
      found = ndimage.find_objects(areas)
      for label in small[: 100 - len(boxes)]:
        rows, cols = found[label - 1]
        boxes.append((cols.start, rows.start, cols.stop, rows.stop))
  return total, boxes
