"""The table of images: scores of each, what adds up, and its file."""

import csv

import numpy as np
import pytest
from tiny import error_of

from jaxseg import per_image
from jaxseg.per_image import PerImage

CLASSES = ("sky", "road, wet")
# Rows of right, true and predicted pixels; the last image has no label.
PIXELS = np.array([[[3, 0], [4, 0], [4, 0]], [[2, 5], [4, 6], [3, 7]], [[0, 0]] * 3])
SCORES = {"loss": np.array([0.5, 0.25, np.nan]), "v_rand": np.array([np.nan, 0.75, np.nan])}
NAMES = ['a,"b".png', "=1+1\nb\rc.png", "\udcff.png"]
TABLE = PerImage(NAMES, CLASSES, PIXELS, SCORES)


def test_scores_of_images():
  found = TABLE.of_images()
  assert list(found) == ["pixels", "pixel_accuracy", "miou", "loss", "v_rand"]
  np.testing.assert_array_equal(found["pixels"], [4, 10, 0])
  np.testing.assert_allclose(found["pixel_accuracy"], [3 / 4, 7 / 10, np.nan])
  # 3 of 5 pixels of the only class; then 2 of 5 and 5 of 8.
  np.testing.assert_allclose(TABLE.iou(), [[3 / 5, np.nan], [2 / 5, 5 / 8], [np.nan] * 2])
  np.testing.assert_allclose(found["miou"], [3 / 5, (2 / 5 + 5 / 8) / 2, np.nan])


def test_totals():
  """The loss is a mean over pixels, other scores are over the images that have one."""
  found = TABLE.totals(TABLE.sums().sum(0))
  assert found["loss"] == pytest.approx((4 * 0.5 + 10 * 0.25) / 14)
  assert found["v_rand"] == 0.75
  np.testing.assert_allclose(found["iou"], [5 / (8 + 7 - 5), 5 / (6 + 7 - 5)])
  twice = TABLE.totals(np.stack([TABLE.sums()[0], TABLE.sums().sum(0)]))
  np.testing.assert_allclose(twice["pixel_accuracy"], [3 / 4, 10 / 14])


def test_file(tmp_path):
  path = tmp_path / "per_image.csv"
  per_image.write(path, TABLE)
  with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
    head, *rows = csv.reader(file)
  assert [row[0] for row in rows] == NAMES
  assert head[1:8] == ["pixels", "pixel_accuracy", "miou", "loss", "v_rand", "iou sky",
                       "iou road, wet"]  # fmt: skip
  assert rows[0][1:8] == ["4", "0.75", "0.6", "0.5", "", "0.6", ""]
  assert head[8:] == [f"{kind} {name}" for kind in ("right", "true", "predicted")
                      for name in CLASSES]  # fmt: skip
  assert rows[1][8:] == ["2", "5", "4", "6", "3", "7"]
  found = per_image.read(path, CLASSES, "")
  assert (found.names, found.classes, list(found.scores)) == (NAMES, CLASSES, list(SCORES))
  np.testing.assert_array_equal(found.pixels, PIXELS)
  for name, values in SCORES.items():
    np.testing.assert_array_equal(found.scores[name], values)
  assert per_image.read(tmp_path / "none.csv", CLASSES, "") is None
  assert [x.name for x in tmp_path.iterdir()] == ["per_image.csv"]


@pytest.mark.parametrize(
  "change",
  [
    lambda text: "",
    lambda text: text.replace("0.75", "much"),
    lambda text: text.replace(",4,", ",", 1),
    lambda text: text.replace("true sky", "true sea"),
    lambda text: text[: len(text) // 2],
    lambda text: "\0" + text,
    lambda text: text.splitlines()[0] + "\n",
    lambda text: text.replace(",pixel_accuracy", ",accuracy"),
    lambda text: text.replace(",5,", ",10000000000000000000000,", 1),
    lambda text: text.replace(",5,", ",-5,", 1),
  ],
)
def test_damaged_files(change, tmp_path):
  path = tmp_path / "per_image.csv"
  per_image.write(path, TABLE)
  path.write_bytes(change(path.read_bytes().decode("latin1")).encode("latin1"))
  message = error_of(per_image.read, path, CLASSES, "evaluate again")
  assert message.startswith(f"{path} is damaged (") and message.endswith("): evaluate again")
