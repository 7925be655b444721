"""Small pictures of examples and of what is wrong with them."""

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image, ImageDraw

from jaxseg import VOID
from jaxseg.data.decode import DatasetInfo, to_picture
from jaxseg.data.examine import UNKNOWN, Parts
from jaxseg.html_page import SIDE, as_rgb, scaled
from jaxseg.visualize import overlay

ZOOM = 24  # px around a box, enlarged
UNKNOWN_COLOUR = (255, 0, 255)


def pictures(
  parts: Parts,
  info: DatasetInfo,
  boxes: Sequence[tuple[int, int, int, int]] = (),
  only_image: bool = False,
) -> Iterator[tuple[str, np.ndarray]]:
  """What can be shown of an example: image, mask over it, and the first box enlarged.

  Args:
    info: of its data set.  boxes: (left, top, right, bottom) px of the mask, to be framed.
    only_image: leaves out the mask.
  Yields:
    (alternative text, u8[h,w,3])
  """
  image = labels = None
  if parts.image is not None:
    step = -(-max(parts.image.shape[:2]) // (2 * SIDE))
    image = as_rgb(to_picture(parts.image[::step, ::step], info))
    yield "Image", scaled(image)
  if parts.index is None or only_image:
    return
  labels = parts.label_map()
  palette = [*info.palette, *[UNKNOWN_COLOUR] * (UNKNOWN + 1 - len(info.palette))][:VOID]
  step = -(-max(labels.shape) // (2 * SIDE))
  small = labels[::step, ::step]
  if image is None or parts.image.shape[:2] != labels.shape:
    gap = np.zeros((*small.shape, 1), np.uint8)
    yield "Mask", scaled(overlay(gap, small, palette, opacity=1), nearest=True)
    return
  yield "Mask over the image", _boxed(scaled(overlay(image, small, palette)), boxes, labels.shape)
  if boxes:
    left, top, right, bottom = boxes[0]
    y, x = ((low + high) // 2 for low, high in ((top, bottom), (left, right)))
    y, x = max(0, y - ZOOM), max(0, x - ZOOM)
    crop = np.s_[y : y + 2 * ZOOM, x : x + 2 * ZOOM]
    part = overlay(as_rgb(to_picture(parts.image[crop], info)), labels[crop], palette)
    around = Image.fromarray(part).resize(
      [SIDE * n // max(part.shape[:2]) for n in part.shape[1::-1]], Image.Resampling.NEAREST
    )
    box = left - x, top - y, right - x, bottom - y
    yield "The first speck, enlarged", _boxed(np.asarray(around), [box], part.shape)


def _boxed(picture, boxes, shape):
  """A picture with frames around boxes of an image of another size [H,W,...]."""
  canvas = Image.fromarray(picture)
  draw, factor = ImageDraw.Draw(canvas), picture.shape[1] / shape[1]
  for box in boxes:
    left, top, right, bottom = (round(factor * x) for x in box)
    for grow, color in ((4, "black"), (3, "white"), (2, "black")):
      draw.rectangle((left - grow, top - grow, right + grow, bottom + grow), outline=color)
  return np.asarray(canvas)
