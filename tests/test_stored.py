"""Training examples in the memory of the devices, against NumPy's padding."""

import jax
import numpy as np
import pytest

from jaxseg import VOID, parallel, spatial
from jaxseg.data import stored

SIZES = (9, 7), (6, 11)


@pytest.fixture
def source():
  rng = np.random.default_rng(0)
  return [
    {"image": rng.integers(0, 65536, (h, w, 2), dtype=np.uint16),
     "mask": rng.integers(0, 3, (h, w), dtype=np.uint8), "name": "a"}
    for h, w in SIZES
  ]  # fmt: skip


def test_every_device_has_all_examples_mirrored_onto_one_canvas(source):
  margin = 2
  options = {"size": 8, "fit": "crop", "strategy": "jit", "margin": margin, "num_threads": 0}
  found, line = stored.store(source, spatial.make_mesh(), **options)
  assert not found.is_split and [x["number"] for x in found.examples] == [0, 1]
  assert "2 images of uint16, 13 x 15 px" in line  # the largest sides, and the margin twice
  image, mask = (np.asarray(found.arrays[name]) for name in ("image", "mask"))
  assert mask.shape == (jax.device_count(), 2, 13, 15)
  image = image.reshape(*mask.shape, 2)
  for i, (example, (h, w)) in enumerate(zip(source, SIZES, strict=True)):
    pads = (margin, 13 - margin - h), (margin, 15 - margin - w)
    expected = np.pad(example["image"], (*pads, (0, 0)), "symmetric")
    labels = np.pad(example["mask"], pads, constant_values=VOID)
    for device in range(jax.device_count()):
      np.testing.assert_array_equal(image[device, i], expected)
      np.testing.assert_array_equal(mask[device, i], labels)


def test_data_that_do_not_fit_stay_on_the_host(source, monkeypatch):
  monkeypatch.setattr(stored, "free_bytes", lambda: (10.0, 10.0))
  found, line = stored.store(source, spatial.make_mesh(), size=8, fit="crop", strategy="jit")
  assert found is None and line.endswith("they come from the host")


def test_free_memory():
  device, host = stored.free_bytes()
  assert 2**20 < host < 2**50 and device == host / jax.local_device_count()


def test_processes_of_a_host_share_its_memory(monkeypatch):
  """Of three processes, two are on this host; the third has the least."""
  free = 12e9

  def from_all(x):
    if x.shape == (1,):  # the host
      return np.stack([x, x, x + 1])
    np.testing.assert_array_equal(x, [free / 2 / jax.local_device_count(), free / 2])
    return np.stack([x, x, [1e9, 5e9]])

  monkeypatch.setattr(parallel, "from_all", from_all)
  monkeypatch.setattr(stored, "free_host_bytes", lambda: free)
  assert stored.free_bytes() == (min(1e9, free / 2 / jax.local_device_count()), 5e9)
