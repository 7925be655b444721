"""Pictures of the worst images of an evaluation, and of the best."""

import base64
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxseg import VOID, html_page
from jaxseg.data.decode import DatasetInfo, to_picture
from jaxseg.html_page import as_rgb, scaled
from jaxseg.together import json_from_all
from jaxseg.visualize import VOID_COLOUR, colour_labels

NUM_WORST, NUM_BEST = 8, 4
WRONG = (214, 39, 40)
PANELS = ("input", "truth", "prediction", "errors", "confidence")


def ends(miou: Sequence[float]) -> tuple[list[int], list[int]]:
  """Numbers of the NUM_WORST images, the worst first, and of up to NUM_BEST others, the best first.

  Args:
    miou: of each image; NaN is neither.
  """
  order = [int(i) for i in np.argsort(miou, kind="stable") if np.isfinite(miou[i])]
  worst, rest = order[:NUM_WORST], order[NUM_WORST:]
  return worst, rest[: -NUM_BEST - 1 : -1]


class Extremes:
  """Draws the images that are among the worst or best so far, and forgets those that no longer are.

  Args:
    draw: function of (example, labels u8[H,W], confidence u8[H,W]) to {panel: JPEG file}.
  """

  def __init__(self, draw: Callable[..., dict[str, bytes]]):
    self._draw, self._count, self._miou, self._drawn = draw, 0, {}, {}

  def add(self, miou: float, example: Mapping[str, Any], found: Any) -> None:
    """Takes the next image.  found: its `tally.Tally`."""
    new, self._count = self._count, self._count + 1
    self._miou[new] = miou
    numbers = list(self._miou)
    kept = {numbers[i] for part in ends(list(self._miou.values())) for i in part}
    self._miou = {i: x for i, x in self._miou.items() if i in kept}
    self._drawn = {i: x for i, x in self._drawn.items() if i in kept}
    if new in kept:
      self._drawn[new] = self._draw(example, found.labels(), found.confidence())

  def of_all(self, rows: Collection[int]) -> dict[int, dict[str, bytes]]:
    """The pictures of some rows of the table of all processes, from the process that has each."""
    number, count = jax.process_index(), jax.process_count()
    mine = {i * count + number: panels for i, panels in self._drawn.items()}
    texts = {
      i: {name: base64.b64encode(file).decode() for name, file in mine[i].items()}
      for i in rows if i in mine
    }  # fmt: skip
    return {
      int(i): {name: base64.b64decode(text) for name, text in panels.items()}
      for part in json_from_all(texts)
      for i, panels in part.items()
    }


def draw_panels(
  example: Mapping[str, Any], labels: np.ndarray, confidence: np.ndarray, info: DatasetInfo
) -> dict[str, bytes]:
  """Small pictures of an example and its prediction: {name of PANELS: JPEG file}.

  Args:
    example: "image" [H,W,D] and "mask" u8[H,W].  labels: u8[H,W].
    confidence: u8[H,W], the probability of the predicted class in steps of 1/255.
  """
  image, mask = example["image"], example["mask"]
  step = -(-max(mask.shape) // (2 * html_page.SIDE))
  image, mask, labels, confidence = (x[::step, ::step] for x in (image, mask, labels, confidence))
  picture, valid = as_rgb(to_picture(image, info)), (mask != VOID)[..., None]
  chance = 1 / len(info.classes)
  certain = (confidence / 255 - chance) / (1 - chance)
  gray = as_rgb((picture.mean(-1, keepdims=True) * 0.7).astype(np.uint8))
  wrong = np.where((mask != labels)[..., None], np.uint8(WRONG), gray)
  drawn = (
    picture,
    colour_labels(mask, info.palette),
    np.where(valid, colour_labels(labels, info.palette), np.uint8(VOID_COLOUR)),
    np.where(valid, wrong, np.uint8(VOID_COLOUR)),
    as_rgb((255 * certain.clip(0, 1)).astype(np.uint8)[..., None]),
  )
  return {name: html_page.jpeg(scaled(x)) for name, x in zip(PANELS, drawn, strict=True)}
