"""What only a further band, or only the low bits, tell apart is learnt, by the command line."""

import json

import command
import numpy as np
import pytest
import tifffile
from PIL import Image

CONFIG = """
from configs import default

def get_config():
  config = default.get_config()
  config.data.name = "folder"
  config.data.classes = ("a", "b")
  config.data.image_size = 32
  config.model.widths = (8, 16)
  config.train.num_epochs = {epochs}
  config.train.batch_size = 8
  config.train.learning_rate = 3e-3
  config.train.eval_every_epochs = 1e9
  return config
"""


def blobs(rng, size=48):
  """i64[size,size] of 0 and 1: discs and boxes."""
  rows, cols = np.mgrid[:size, :size]
  mask = np.zeros((size, size), bool)
  for _ in range(3):
    row, col = rng.integers(4, size - 4, 2)
    radius = rng.integers(4, 12)
    mask |= (rows - row) ** 2 + (cols - col) ** 2 < radius**2
  return mask.astype(int)


def write_set(folder, image_of, number=40):
  rng = np.random.default_rng(0)
  for split, count in (("train", number), ("test", 8)):
    for part in ("images", "masks"):
      (folder / split / part).mkdir(parents=True)
    for i in range(count):
      mask = blobs(rng)
      Image.fromarray(mask.astype(np.uint8)).save(folder / split / "masks" / f"{i}.png")
      image, options = image_of(rng, mask)
      tifffile.imwrite(folder / split / "images" / f"{i}.tif", image, **options)


def rgbx(rng, mask):
  """Noise in RGB; the fourth band has the class."""
  image = rng.integers(0, 256, (*mask.shape, 4), dtype=np.uint8)
  image[..., 3] = rng.normal(90 + 60 * mask, 15).clip(0, 255)
  return image, {"photometric": "rgb", "extrasamples": ["unspecified"]}


def twelve_bands(rng, mask):
  """Planes of 16 bits, of which the last has the class."""
  image = rng.integers(0, 10000, (12, *mask.shape), dtype=np.uint16)
  image[11] = rng.normal(3000 + 2500 * mask, 500).clip(0, 10000)
  return image, {"photometric": "minisblack", "planarconfig": "separate"}


def low_bits(rng, mask):
  """Classes that are 200 of 65,535 apart: less than a step of 8 bits, which is 257."""
  image = rng.normal(30000 + 200 * mask, 30).round().astype(np.uint16)
  return image, {"photometric": "minisblack"}


@pytest.mark.parametrize("image_of, options, least", [
  pytest.param(rgbx, {"data.channels": 4}, 0.95, marks=pytest.mark.slow),
  pytest.param(low_bits, {"data.channels": 1, "data.normalization": "mean_std"}, 0.9,
               marks=pytest.mark.slow),
  pytest.param(twelve_bands, {"data.channels": 12, "data.normalization": "percentiles"}, 0.95,
               marks=pytest.mark.slow),
  pytest.param(low_bits, {"data.channels": 1, "data.value_range": (29500, 30700)}, 0.9,
               marks=pytest.mark.slow),
])  # fmt: skip
def test_bands_and_depth(tmp_path, image_of, options, least):
  write_set(tmp_path / "data", image_of)
  (tmp_path / "mine.py").write_text(CONFIG.format(epochs=30))
  options = {"data.data_dir": tmp_path / "data", **options}
  command.finish(command.start(tmp_path / "mine.py", tmp_path / "run", options))
  result = json.loads((tmp_path / "run" / "evaluation.json").read_text())
  assert result["miou"] >= least
