"""A data set and a config that train in seconds, for the tests of whole runs.

Runs that share the config's numbers share their compiled programs, which take most of the time.
"""

import io

import numpy as np
import pytest
from PIL import Image

from configs import default
from jaxseg import VOID, UserError
from jaxseg.data import datasets
from jaxseg.data.labels import LabelMap

INFO = datasets.DatasetInfo(
  ("sky", "road", "nowhere"), ((0, 0, 255), (99, 99, 99), (255, 0, 0)), channels=3
)
NUM_PHOTOS = {"train": 20, "test": 9}


def error_of(function, *arguments, **options):
  """The message of the UserError that a call raises: one line that names no Python object."""
  with pytest.raises(UserError) as error:
    function(*arguments, **options)
  message = str(error.value)
  assert "\n" not in message and " object at 0x" not in message, message
  return message


def once(function):
  """A function of one argument that is run for the first one; all modules get that result."""
  results = []

  def get(argument):
    if not results:
      results.append(function(argument))
    return results[0]

  return get


def encode(array):
  buffer = io.BytesIO()
  Image.fromarray(array).save(buffer, "PNG")
  return buffer.getvalue()


def make_photo(split, i):
  """A picture with bluish sky on the left and yellowish road on the right; all sizes differ."""
  rng = np.random.default_rng((split == "train", i))
  height, width = 26 + i, 44 - i
  mask = np.zeros((height, width), np.uint8)
  mask[:, int(rng.integers(8, width - 8)) :] = 1
  image = rng.integers(60, 196, (height, width, 3))
  image[..., 2] += np.where(mask == 0, 40, -40)
  mask[0] = VOID
  return {"image": encode(image.astype(np.uint8)), "mask": encode(mask), "name": f"{split}{i}.png"}


def load_photos(split, data_dir, image_size, seed):
  """A loader for datasets.DATASETS."""
  records = [make_photo(split, i) for i in range(NUM_PHOTOS[split])]
  return INFO, datasets.Encoded(records, INFO.image_format("uint8"), LabelMap({0: 0, 1: 1}))


def write_parquet(folder, num_photos):
  """The photos as `load_photos` reads them, for the data set "huggingface": {split: number}."""
  pa = pytest.importorskip("pyarrow", reason="pip install -e '.[huggingface]'")
  from pyarrow import parquet

  for split, number in num_photos.items():
    photos = [make_photo(split, i) for i in range(number)]
    rows = [
      {"image": {"bytes": photo["image"], "path": None},
       "segmentation_mask": {"bytes": photo["mask"], "path": None}, "file_name": photo["name"]}
      for photo in photos
    ]  # fmt: skip
    parquet.write_table(pa.Table.from_pylist(rows), folder / f"{split}.parquet")


def make_config(num_steps, *, eval_every=1000, checkpoint_every=1000, **changes):
  """A config of the photos with all that a resumed run has to get right.

  Args:
    num_steps, eval_every, checkpoint_every: in steps.
    changes: other keys, with __ for the dot.
  """
  config = default.get_config()
  values = {
    "data.name": "photos",
    "data.image_size": 32,
    "data.fit": "crop",
    "augment.scale": (0.8, 1.25),
    "augment.brightness": 0.1,
    "augment.contrast": (0.8, 1.25),
    "model.widths": (4, 8),
    "model.dropout": 0.2,
    "train.batch_size": 8,
    "train.learning_rate": 1e-2,
    "train.ema_decay": 0.9,
    "train.log_every_steps": 1,
    "eval.num_samples": 0,
  }
  config.update_from_flattened_dict(values)
  config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
  num_images = datasets.CELLS_SPLITS if config.data.name == "cells" else NUM_PHOTOS
  epochs = config.train.batch_size / num_images["train"]  # a step
  config.train.num_epochs = num_steps * epochs
  config.train.eval_every_epochs = eval_every * epochs
  config.train.checkpoint_every_epochs = checkpoint_every * epochs
  return config
