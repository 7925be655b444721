"""Several seeds in one program: each is its single run; their files, resumption, scores, errors."""

import json
import math
import os
import pathlib
import shutil

import jax
import numpy as np
import pytest
import tiny
from command import checkpoints, read_json, read_lines
from test_resumption import assert_same_bits, saved_state, stop_after
from tiny import error_of

from jaxseg import seed_axis, seed_scores, seeds
from jaxseg.data import datasets
from jaxseg.training import train

pytestmark = pytest.mark.usefixtures("photos")
NUM_STEPS = 6


def make_config(num_seeds, **changes):
  """Batch normalisation, dropout, augmentation and an EMA; an evaluation in the middle."""
  return tiny.make_config(
    NUM_STEPS, eval_every=3, seed=5, train__num_seeds=num_seeds, **changes
  )


def train_singly(folder, seed, **changes):
  config = make_config(1, **changes)
  config.seed = seed
  assert train(config, folder) is True


def assert_close(first, second, tolerance):
  """Each array within a fraction of its own largest value."""
  leaves = jax.tree_util.tree_leaves_with_path(first)
  assert jax.tree.structure(first) == jax.tree.structure(second) and len(leaves) > 20
  for (path, a), b in zip(leaves, jax.tree.leaves(second), strict=True):
    a, b = np.asarray(a), np.asarray(b)
    assert np.abs(a - b).max() <= tolerance * np.abs(b).max(), jax.tree_util.keystr(path)


def test_x(tmp_path):
  num=int(os.environ.get("NS","3"))
  assert train(make_config(num), tmp_path / "group") is True
  for seed in range(5, 5+num):
    train_singly(tmp_path / f"{seed}", seed)
    a, b = saved_state(tmp_path / "group" / f"seed_{seed}", 6), saved_state(tmp_path / f"{seed}", 6)
    la, lb = jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b)
    worst = sorted([(float(np.abs(np.asarray(x)-np.asarray(y)).max()/max(np.abs(np.asarray(y)).max(),1e-30)), jax.tree_util.keystr(p)) for (p,x),y in zip(la,lb)])[-4:]
    print(seed, worst)
  print((tmp_path/"group"/"seeds.json").read_text()[:600])
  import subprocess
  print(subprocess.run(["find", str(tmp_path/"group"), "-maxdepth","2"],capture_output=True,text=True).stdout)
