"""What is counted on the training split, and when it is counted anew."""

import json

import numpy as np
import pytest
import tiny
from tiny import error_of

from jaxseg import VOID, first_pass
from jaxseg.data.decode import DatasetInfo

INFO = DatasetInfo(("a", "b"), ((0, 0, 0), (9, 9, 9)), 1)
SOURCE = [{"mask": np.uint8([[0, 0, 1, VOID]])}]
COUNTS = {
  "pixels": {"a": 2, "b": 1},
  "pixels_of_their_images": {"a": 3, "b": 3},
  "examples": {"a": [0], "b": [0]},
  "num_examples": 1,
  "names": "",
}


def count(workdir, reuse):
  config = tiny.make_config(1, train__class_balance="inverse_frequency")
  return first_pass.class_counts(config, INFO, SOURCE, workdir, reuse=reuse)


def test_counts_of_other_data_do_not_count(tmp_path, capsys, monkeypatch):
  """Those of a start that failed, and of another number of examples; other seeds get ours."""
  path = tmp_path / "class_counts.json"
  for number, reuse in (1, False), (5, True):
    nine = dict.fromkeys("ab", 9)
    stale = {**COUNTS, "pixels": nine, "pixels_of_their_images": nine, "num_examples": number}
    path.write_text(json.dumps(stale))
    assert count(tmp_path, reuse) == COUNTS
    assert json.loads(path.read_text()) == COUNTS
    said = "has changed since (5 examples then, 1 now): it is made anew" in capsys.readouterr().err
    assert said == reuse
  monkeypatch.setattr(first_pass, "count_classes", None)  # is not called again
  assert count(tmp_path, True) == COUNTS
  first_pass.share(tmp_path, [tmp_path / "seed_6", tmp_path / "seed_7"])
  for seed in (6, 7):
    (copy,) = (tmp_path / f"seed_{seed}").iterdir()
    assert copy.name == path.name and json.loads(copy.read_text()) == COUNTS


def test_counts_of_an_earlier_version(tmp_path):
  """0.1.0 did not store the examples of each class."""
  old = {name: COUNTS[name] for name in ("pixels", "pixels_of_their_images")}
  (tmp_path / "class_counts.json").write_text(json.dumps(old))
  assert count(tmp_path, True) == old


@pytest.mark.parametrize(
  "edited",
  [
    {"pixels": 3},
    {"pixels": {"b": 1, "a": 2}},  # class weights are taken in this order
    {"pixels_of_their_images": None},
    {"examples": {"a": [0]}},
    {"examples": {"a": [0], "b": [1]}},  # there is one
    {"examples": {"a": 0, "b": []}},
    {"pixels": {"a": "2", "b": 1}},
    {"pixels": {"a": -2, "b": 1}},
    {"pixels": {"a": 4, "b": 1}},  # more than its images have
    {"num_examples": "1"},
  ],
)
def test_counts_that_were_edited(tmp_path, edited):
  path = tmp_path / "class_counts.json"
  path.write_text(json.dumps(COUNTS | edited))
  assert error_of(count, tmp_path, True) == (
    f"{path} does not hold counts of the classes a, b: delete it, and it is made anew"
  )
