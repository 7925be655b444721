"""What a value_range cuts off, in images by hand."""

import numpy as np
import pytest
import tiny
from PIL import Image

from jaxseg.check_data import check_data
from jaxseg.data.levels import levels, range_fault


def test_levels():
  """0, 1 ... 100 of black 20 and white 70: 20 values are below, 30 above; of 101, the 1st
  percentile is 1 and the 99th is 99, both cut off. Of channel 1, nothing is."""
  values = np.arange(101, dtype=np.uint16)
  image = np.stack([values, values + 30], -1)[:, None]
  expected = [[20 / 101, 30 / 101, 0, 1], [0, 0, 0.155, 0.645]]
  np.testing.assert_allclose(levels(image, ((20, 70), (0, 200))), expected, rtol=1e-12)
  large = np.full((3000, 2000, 1), 0.25, np.float32)
  np.testing.assert_array_equal(levels(large, (0, 1)), [[0, 0, 0.25, 0.25]])


@pytest.mark.parametrize("values, words", [
  ([[0.6, 0, 0, 0.5], [0.5, 0, 0, 0.5]], "55% of the pixels are beyond black: "),
  ([[0, 0.6, 0, 1], [0.5, 0.5, 0, 1]], "55% of the pixels are beyond white: "),
  ([[0, 0, 0.31, 0.315], [0, 0, 0.305, 0.31]], "98% of the pixels lie within 1.0% of the range: "),
  ([[0, 0, 0.31, 0.315], [0, 0, 0.10, 0.105]], ""),  # flat ones that differ
  ([[0.5, 0.5, 0, 1], [0.5, 0.5, 0, 1]], ""),
  ([], ""),
])  # fmt: skip
def test_faults_of_a_set(values, words):
  text = range_fault([np.array([x]) for x in values])
  assert text.startswith(words) and bool(text) == bool(words)
  assert not text or text.endswith("or leave it empty and set `normalization`=percentiles")


def test_channels_are_named():
  good, bad = (0, 0, 0, 1), (0, 1, 1, 1)
  text = range_fault([np.array([good, bad, good])])
  assert text.startswith("100% of the pixels of channel 1 are beyond white: ")


@pytest.mark.parametrize("value_range, words", [
  ((0, 500), "100% of the pixels are beyond white"),
  ((3000, 9000), "100% of the pixels are beyond black"),
  ((0, 65535), "98% of the pixels lie within 1.5% of the range"),
  ((1000, 2000), ""),
])  # fmt: skip
def test_check_data_says_so(tmp_path, value_range, words):
  """Two images whose values are 1000, 1001 ... 2023."""
  values = 1000 + np.arange(1024, dtype=np.uint16).reshape(32, 32)
  for split in "train", "test":
    for part in "images", "masks":
      (tmp_path / split / part).mkdir(parents=True)
    image = values if split == "train" else values.T
    Image.fromarray(image).save(f"{tmp_path}/{split}/images/a.png")
    Image.fromarray(values.astype(np.uint8) % 2).save(f"{tmp_path}/{split}/masks/a.png")
  keys = {"name": "folder", "data_dir": str(tmp_path), "classes": ("a", "b"), "channels": 1}
  config = tiny.make_config(
    1, **{f"data__{key}": x for key, x in keys.items()}, data__value_range=value_range
  )
  found = [f for f in check_data(config, tmp_path) if f.kind != "specks in masks"]
  assert len(found) == bool(words)
  if words:
    assert found[0].severity == "warning" and found[0].text.startswith(words)
    assert found[0].text.endswith("set config.data.normalization=percentiles")
    config.data.normalization, config.data.value_range = "percentiles", ()
    assert {f.kind for f in check_data(config, tmp_path)} <= {"specks in masks"}
