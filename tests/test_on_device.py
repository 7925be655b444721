"""Batches that are cut on the devices: those of the host pipeline, bit for bit."""

import itertools
import math

import jax
import numpy as np
import pytest
from jax import lax
from test_input_pipeline import LARGE, SMALL, join

from jaxseg import on_device, parallel, spatial
from jaxseg.data import stored
from jaxseg.data.input_pipeline import Sampling, train_batches

ONE = jax.sharding.Mesh(np.asarray(jax.devices()[:1]), (parallel.AXIS,))
ALL = spatial.make_mesh()
RUNS = {"one": (ONE, "jit"), "jit": (ALL, "jit"), "pmap": (ALL, "pmap")}
BATCH, NUM_BATCHES = 8, 3  # two passes over ten examples, and the next


def with_values(dtype):
  """The examples with images of another type, among them values that sums would change."""
  rng = np.random.default_rng(0)

  def image(x):
    bits = rng.integers(0, 256, (*x.shape, np.dtype(dtype).itemsize), np.uint8)
    return bits.view(dtype)[..., 0]  # of floats: also -0.0, NaN, infinity, subnormal

  return [{**example, "image": image(example["image"])} for example in LARGE]


BY_CLASS = Sampling(0.5, (7, 40), 0.5, [[0, 1], [2, 3, 4], [9]])
CASES = {
  "resize": (SMALL, {}),
  "resize, margin": (LARGE, {"size": 12, "margin": 2}),
  "crop": (LARGE, {"fit": "crop", "instances": True}),
  "crop, larger than images": (LARGE, {"fit": "crop", "size": 25}),
  "crop, margin, by classes": (
    LARGE, {"fit": "crop", "size": 14, "margin": 3, "instances": True, "sampling": BY_CLASS}
  ),
  "u16": (with_values("u2"), {"fit": "crop"}),
  "f32": (with_values("f4"), {"fit": "crop"}),
}  # fmt: skip


def options_of(case):
  source, options = CASES[case]
  return source, {"size": 8, "fit": "resize", **options}


def put(case, run, keep_masks=True):
  source, options = options_of(case)
  options = {name: x for name, x in options.items() if name != "sampling"}
  mesh, strategy = RUNS[run]
  return stored.store(source, mesh, strategy=strategy, keep_masks=keep_masks, **options)


def draw(case, examples=None):
  """The host's batches, or with examples of `Stored`, where they lie."""
  source, options = options_of(case)
  options |= {"batch_size": BATCH, "seed": 3, "positions": examples is not None}
  return train_batches(examples or source, **options)


def shown(state, batch, key, axis_name=None):
  """A step whose metrics are its batch."""
  return state, lax.all_gather(batch, axis_name, tiled=True) if axis_name else batch


def cut(batches, run, what, size):
  mesh, strategy = RUNS[run]
  step = on_device.from_stored(shown, mesh, size, what.is_split)
  step = parallel.distribute_step(step, mesh, strategy)
  for batch in batches:
    batch = parallel.put_on_mesh(mesh, batch, strategy)
    yield jax.tree.map(np.asarray, step(0, {**batch, "stored": what.arrays}, 0)[1])


def assert_same_bits(batch, expected):
  assert batch.keys() == expected.keys()
  for name, x in expected.items():
    assert batch[name].dtype == x.dtype and batch[name].tobytes() == x.tobytes(), name


@pytest.mark.parametrize(
  "run, is_split",
  [("one", False), ("jit", True), ("pmap", False),
   *(pytest.param(*x, marks=pytest.mark.slow) for x in (("jit", False), ("pmap", True)))],
)  # fmt: skip
@pytest.mark.parametrize("case", CASES)
def test_batches_are_those_of_the_host(case, run, is_split, monkeypatch):
  if is_split:
    whole, _ = put(case, "one")
    num_bytes = sum(x.nbytes for x in whole.arrays.values())
    # Two tenths of the examples, as ten are for eight devices, but not all.
    monkeypatch.setattr(stored, "free_bytes", lambda: (3 * 0.2 * num_bytes, math.inf))
  what, about = put(case, run)
  assert what.is_split == is_split
  assert ("2 of 10 images" if is_split else ": 10 images") in about
  expected = list(itertools.islice(draw(case), NUM_BATCHES))
  positions = itertools.islice(draw(case, what.examples), NUM_BATCHES)
  found = list(cut(positions, run, what, options_of(case)[1]["size"]))
  assert_same_bits(join(found), join(expected))
