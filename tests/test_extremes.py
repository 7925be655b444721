"""Pictures of the worst images and the best."""

import io

import numpy as np
from PIL import Image

from jaxseg import VOID, extremes
from jaxseg.data.decode import DatasetInfo

CLASSES = ("sky", "<b>road</b>")
INFO = DatasetInfo(CLASSES, ((0, 0, 255), (99, 99, 99)), 3)


def test_extremes_are_those_of_all_images():
  rng = np.random.default_rng(0)
  miou = rng.integers(0, 30, 100) / 30
  miou[rng.random(100) < 0.2] = np.nan
  found = extremes.Extremes(lambda example, *_: {"input": str(example).encode()})

  class Maps:
    labels = confidence = staticmethod(lambda: None)

  for i, value in enumerate(miou):
    found.add(value, i, Maps)
  worst, best = extremes.ends(miou)
  order = sorted((value, i) for i, value in enumerate(miou) if value == value)
  assert worst == [i for _, i in order[:8]]
  assert best == [i for _, i in order[:-5:-1]]
  shown = found.of_all([*worst, *best])
  assert {i: panels["input"] for i, panels in shown.items()} == {
    i: str(i).encode() for i in (*worst, *best)
  }
  few = [0.5, np.nan, 0.25]
  assert extremes.ends(few) == ([2, 0], [])


def test_panels():
  """Errors are red, VOID is white, and black is no better than chance."""
  mask = np.array([[0, 1, VOID]] * 2, np.uint8).repeat(60, 0).repeat(60, 1)
  labels = np.zeros_like(mask)
  confidence = np.full(mask.shape, 128, np.uint8)
  confidence[:60] = 255
  example = {"image": np.full((*mask.shape, 3), 200, np.uint8), "mask": mask}
  files = extremes.draw_panels(example, labels, confidence, INFO)
  found = {name: np.asarray(Image.open(io.BytesIO(x))) for name, x in files.items()}
  assert list(found) == list(extremes.PANELS)
  at = np.s_[20, [20, 80, 150]]
  close = {"atol": 12}  # JPEG
  np.testing.assert_allclose(found["truth"][at], [(0, 0, 255), (99,) * 3, (255,) * 3], **close)
  np.testing.assert_allclose(found["prediction"][at], [(0, 0, 255)] * 2 + [(255,) * 3], **close)
  expected = [(140,) * 3, extremes.WRONG, (255,) * 3]
  np.testing.assert_allclose(found["errors"][at], expected, **close)
  np.testing.assert_allclose(found["confidence"][[20, 100], 20], [(255,) * 3, (0,) * 3], **close)
