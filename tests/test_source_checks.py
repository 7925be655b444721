"""Sources of the user's own: what their examples have to be, and that training looks at each."""

import dataclasses
import pickle

import numpy as np
import pytest
import tiny
from tiny import error_of

from jaxseg import VOID
from jaxseg.data import datasets
from jaxseg.data.datasets import DatasetInfo, Subset
from jaxseg.data.source_checks import check_source, with_checks
from jaxseg.training import train


@pytest.mark.parametrize(
  "changes, words",
  [
    ({"image": np.zeros((4, 5), np.uint8)}, "image is uint8"),
    ({"image": np.zeros((4, 5, 1), np.uint8)}, "uint8[4, 5, 3]"),
    ({"image": np.zeros((4, 5, 3), np.float32)}, "float32"),
    ({"mask": np.zeros((4, 6), np.uint8)}, "uint8[4, 5, 3]"),
    ({"mask": np.zeros((4, 5), np.int32)}, "mask is int32"),
    ({"mask": np.full((4, 5), 3, np.uint8)}, "holds 3, which is no label of 3 classes"),
    ({"mask": None}, "no mask"),
  ],
)
def test_examples_of_the_users_own(changes, words):
  good = {"image": np.zeros((4, 5, 3), np.uint8), "mask": np.full((4, 5), VOID, np.uint8)}
  example = {"name": "a", **good}
  info = DatasetInfo(("x", "y", "z"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)), 3)
  check_source([example], info)
  example = {k: v for k, v in {**example, **changes}.items() if v is not None}
  assert words in error_of(check_source, [example], info)
  assert "no examples" in error_of(check_source, [], info)
  one = DatasetInfo(("x",), ((0, 0, 0),), 3)
  assert "1 classes" in error_of(check_source, [example], one)


def test_floats_are_in_the_unit_range_unless_there_is_another():
  info = DatasetInfo(("x", "y"), ((0, 0, 0), (1, 1, 1)), 1, dtype="float32")
  image, mask = np.full((4, 5, 1), 255, np.float32), np.zeros((4, 5), np.uint8)
  example = {"name": "a", "image": image, "mask": mask}
  assert "values from 255 to 255 are not in [0, 1]" in error_of(check_source, [example], info)
  wide = dataclasses.replace(info, value_range=(0, 255))
  check_source([example], wide)
  image[2, 3] = np.nan
  for kind in info, wide:
    assert "'a': " in error_of(check_source, [example], kind)
  other = {**example, "image": np.zeros((4, 5, 1), np.float32)}
  checked = with_checks([other, example], info)
  assert checked[0] is other and "holds NaN" in error_of(lambda: checked[1])


def test_a_label_that_is_no_class_ends_training(tmp_path, monkeypatch):
  """Not only that of the first example."""
  examples = [
    {"name": f"{i}", "image": np.zeros((32, 32, 3), np.uint8), "mask": np.zeros((32, 32), np.uint8)}
    for i in range(20)
  ]
  examples[7]["mask"][3, 4] = VOID
  checked = pickle.loads(pickle.dumps(with_checks(examples, tiny.INFO)))
  assert len(list(checked)) == 20
  examples[7]["mask"][3, 4] = 3
  splits = {"train": examples, "test": examples[:5]}
  monkeypatch.setitem(datasets.DATASETS, "photos", lambda split: (tiny.INFO, splits[split]))
  message = error_of(train, tiny.make_config(9), tmp_path)
  assert "example '7': its mask holds 3, which is no label of 3 classes" in message


def test_what_is_decoded_is_checked_already():
  _, source = tiny.load_photos("train", "", 32, 0)
  for decoded in source, Subset(source, [1, 2]):
    assert with_checks(decoded, tiny.INFO) is decoded
