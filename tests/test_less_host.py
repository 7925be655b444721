"""Runs with data on the devices and several steps a call are those without, bit for bit."""

import jax
import numpy as np
import pytest
import tiny
from command import checkpoints, read_json, read_lines
from test_resumption import assert_same_bits, saved_state, stop_after

from jaxseg.data import datasets, stored
from jaxseg.training import train

pytestmark = pytest.mark.usefixtures("photos")
NUM_STEPS = 7
RUNS = {
  "on device": {"data__on_device": True},
  "steps": {"train__steps_per_call": 3},
  "both": {"data__on_device": True, "train__steps_per_call": 3},
}


def make_config(strategy="jit", **changes):
  return tiny.make_config(
    NUM_STEPS, eval_every=5, train__log_every_steps=4, train__parallel=strategy, **changes
  )


@pytest.fixture(scope="module", params=["jit", "pmap"])
def plain(request, tmp_path_factory):
  """(jit or pmap, work directory of a run with batches from the host, one step a call)."""
  workdir = tmp_path_factory.mktemp("plain")
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(datasets.DATASETS, "photos", tiny.load_photos)
    assert train(make_config(request.param), workdir) is True
  return request.param, workdir


def assert_same_run(workdir, expected):
  for step in (5, NUM_STEPS):
    assert_same_bits(saved_state(workdir, step), saved_state(expected, step))
  for split in ("train", "test"):
    lines = read_lines(workdir, split, "images_per_second")
    assert lines and lines == read_lines(expected, split, "images_per_second")


@pytest.mark.parametrize("changes", RUNS.values(), ids=RUNS)
def test_same_run(plain, changes, tmp_path, capsys):
  strategy, expected = plain
  assert train(make_config(strategy, **changes), tmp_path) is True
  assert_same_run(tmp_path, expected)
  said = "training data on each of 8 devices: 20 images of uint8, 45 x 44 px" in (
    capsys.readouterr().err
  )
  assert said == ("data__on_device" in changes)
