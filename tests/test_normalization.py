"""Black and white measured on a data set, against NumPy on all of its pixels."""

import json

import numpy as np
import pytest
import tifffile
from encoders import tiff
from PIL import Image

from configs import default
from jaxseg import build, first_pass, modes, training
from jaxseg.data import normalization
from jaxseg.data.datasets import Subset
from jaxseg.data.decode import ImageFormat
from jaxseg.data.encoded import Encoded
from jaxseg.data.labels import LabelMap
from jaxseg.data.normalization import measure

RNG = np.random.default_rng(0)
LABELS = LabelMap({0: 0, 1: 1})


def source_of(arrays, channels, **options):
  records = [{"image": tiff(x, **options), "mask": b"", "name": "a"} for x in arrays]
  return Encoded(records, ImageFormat(channels, value_range=(0, 1)), LABELS)


def expected(channels, mode):
  """[(low, high)] of lists of values."""
  if mode == "percentiles":
    return [tuple(np.percentile(values, [0.5, 99.5])) for values in channels]
  return [(np.mean(values), np.mean(values) + np.std(values)) for values in channels]


@pytest.mark.parametrize("mode", ["percentiles", "mean_std"])
def test_every_pixel_of_small_data_sets(mode):
  arrays = [RNG.integers(0, 60000, (9, 7, 4), dtype=np.uint16) * np.uint16([1, 0, 1, 1])
            for _ in range(5)]  # fmt: skip
  arrays += [RNG.integers(100, 200, (12, 8, 4), dtype=np.uint16)]
  source = source_of(arrays, 4, photometric="rgb", extrasamples=[0])
  values = [np.concatenate([x[..., c].ravel() for x in arrays]) for c in range(4)]
  np.testing.assert_allclose(measure(source, mode), expected(values, mode), rtol=1e-6)
  values = [np.concatenate([arrays[i][..., c].ravel() for i in (0, 5)]) for c in range(4)]
  found = measure(Subset(source, (0, 5)), mode)
  np.testing.assert_allclose(found, expected(values, mode), rtol=1e-6)


@pytest.mark.parametrize("mode", ["percentiles", "mean_std"])
def test_no_data_do_not_count(mode):
  array = RNG.normal(5, 2, (20, 20)).astype(np.float32)
  holes = array.copy()
  holes[:5], holes[5:10], holes[10, 0] = np.nan, -9999, np.inf
  source = source_of([holes], 1, extratags=[(42113, 2, 0, "-9999", True)])
  kept = np.delete(array[10:].ravel(), 0)
  np.testing.assert_allclose(measure(source, mode), expected([kept], mode), rtol=1e-5)


def test_a_channel_without_contrast():
  assert measure(source_of([np.full((4, 4), 7, np.uint16)], 1), "percentiles") == ((7.0, 8.0),)
  nothing = np.full((4, 4), np.nan, np.float32)
  assert measure(source_of([nothing], 1), "mean_std") == ((0.0, 1.0),)


def test_large_data_sets_are_sampled(monkeypatch):
  """An even share of the images, and of the pixels of each."""
  monkeypatch.setattr(normalization, "MAX_IMAGES", 4)
  monkeypatch.setattr(normalization, "MAX_VALUES", 100)
  arrays = [np.full((40, 40), i, np.uint16) for i in range(8)]
  seen = []

  def progress(iterable, total, **options):
    seen.append(total)
    return iterable

  (low, high), = measure(source_of(arrays, 1), "mean_std", progress)
  assert seen == [4] and low == pytest.approx(3.0)  # of images 0, 2, 4 and 6
  assert high - low == pytest.approx(np.std([0, 2, 4, 6]))


@pytest.fixture
def config(tmp_path):
  for split, count in (("train", 6), ("test", 2)):
    for part in ("images", "masks"):
      (tmp_path / "data" / split / part).mkdir(parents=True)
    for i in range(count):
      mask = np.zeros((32, 32), np.uint8)
      mask[:, 10 + i :] = 1
      Image.fromarray(mask).save(tmp_path / "data" / split / "masks" / f"{i}.png")
      image = RNG.normal(1000 + 300.0 * mask, 50).round().astype(np.int16)  # no full range
      tifffile.imwrite(tmp_path / "data" / split / "images" / f"{i}.tif", image)
  config = default.get_config()
  config.update_from_flattened_dict({
    "data.name": "folder", "data.data_dir": str(tmp_path / "data"), "data.classes": ("a", "b"),
    "data.channels": 1, "data.image_size": 32, "data.normalization": "mean_std",
    "model.widths": (4, 8), "train.num_epochs": 4.0, "train.batch_size": 8,
  })  # fmt: skip
  return config


@pytest.mark.slow
def test_it_is_measured_once_and_kept(config, tmp_path):
  """A run resumes, is scored and predicts with the values that it was trained with."""
  run, data = tmp_path / "run", tmp_path / "data"
  assert training.train(config, run)
  path = run / "normalization.json"
  stored = json.loads(path.read_text())
  images = [tifffile.imread(data / "train" / "images" / f"{i}.tif").ravel() for i in range(6)]
  pair = expected([np.concatenate(images)], "mean_std")[0]
  np.testing.assert_allclose(stored["value_range"], [pair], rtol=1e-6)
  path.write_text('{"value_range": [[0, 1]]}')  # what a run knows is in its checkpoints
  before = modes.evaluate(run)
  for file in (data / "train" / "images").iterdir():
    tifffile.imwrite(file, np.full((32, 32), 5, np.int16))
  assert first_pass.measured_range(config, run, reuse=True) == (tuple(stored["value_range"][0]),)
  after = modes.evaluate(run)
  assert after["loss"] == before["loss"]
  info, source = build.open_split(config, "eval", value_range=((1.0, 2.0),))
  assert (info.value_range, info.clip, info.dtype) == (((1.0, 2.0),), False, "float32")
  assert source.fmt.value_range == ((1.0, 2.0),)


def test_images_of_many_channels_are_sampled_more(monkeypatch):
  """What is kept of all channels and images is bounded."""
  monkeypatch.setattr(normalization, "MAX_TOTAL", 4 * 2 * 25)
  arrays = [np.dstack([np.full((40, 40), i), np.full((40, 40), 9)]).astype(np.uint16)
            for i in range(4)]  # fmt: skip
  source = [{"image": array} for array in arrays]
  assert [len(x) for x in normalization._values(source, 0, 4)] == [25, 25]
  assert measure(source, "percentiles")[1] == (9.0, 10.0)
