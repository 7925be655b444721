"""Border weights against scipy's distance transform, one cell at a time."""

import chex
import jax
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from jaxseg import weight_maps
from jaxseg.data.cells import generate_cells


def reference_distances(instances):
  """f64[H,W] twice: the two smallest of one distance transform per cell, inf without a cell."""
  ids = np.unique(instances[instances > 0])
  distances = [ndimage.distance_transform_edt(instances != i) for i in ids]
  distances += [np.full(instances.shape, np.inf)] * 2
  nearest, second = np.sort(np.stack(distances), axis=0)[:2]
  return nearest, second


def reference_weight(instances, w0, sigma):
  nearest, second = reference_distances(instances)
  return w0 * np.exp(-((nearest + second) ** 2) / (2 * sigma**2)) * (instances == 0)


def hand_made():
  empty = np.zeros((40, 50), np.int32)
  one, two, border, gaps = (empty.copy() for _ in range(4))
  one[10:20, 10:20] = 1
  two[10:20, 10:20], two[10:20, 21:30] = 1, 2
  border[:, 0], border[:, -1], border[0, 20:30] = 1, 2, 3
  gaps[5:9, 5:9], gaps[5:9, 11:15], gaps[30:35, 7:30] = 900, 7, 12345
  return {"no cell": empty, "one": one, "two": two, "border": border, "gaps": gaps}


@pytest.mark.parametrize("name", hand_made())
@pytest.mark.parametrize("sigma", [2.0, 5.0])
def test_hand_made_cases(name, sigma):
  instances = hand_made()[name]
  weight = weight_maps.border_weight(instances, sigma=sigma)
  np.testing.assert_allclose(weight, reference_weight(instances, 10.0, sigma), atol=1e-5)
  if name in ("no cell", "one"):
    assert not weight.any()


def test_the_gap_of_one_pixel():
  # Between two cells one pixel apart d1 = d2 = 1, so the weight is 10 exp(-4 / 50).
  instances = hand_made()["two"]
  weight = weight_maps.border_weight(instances)
  np.testing.assert_allclose(weight[15, 20], 10 * np.exp(-4 / 50), rtol=1e-6)
  assert not weight[instances > 0].any()


def test_generated_cells_under_vmap_and_jit():
  instances = np.stack([generate_cells((0, 0, i), 64, 80)["instances"] for i in range(3)])
  weights = jax.jit(jax.vmap(weight_maps.border_weight))(instances)
  expected = [reference_weight(x, 10.0, 5.0) for x in instances]
  chex.assert_trees_all_close(weights, np.stack(expected).astype(np.float32), atol=1e-5)


def test_distances_within_the_radius_are_exact():
  instances = generate_cells((0, 0, 9), 64, 64)["instances"]
  for ours, expected in zip(
    weight_maps.two_nearest(instances, 9), reference_distances(instances), strict=True
  ):
    near = expected <= 9
    assert near.sum() > 1000
    np.testing.assert_allclose(ours[near], expected[near], rtol=1e-6)
    assert (ours[~near] > 9).all()


def test_relabelling_changes_nothing():
  instances = generate_cells((0, 0, 4), 64, 64)["instances"]
  renamed = np.where(instances > 0, 5000 - 3 * instances, 0)
  np.testing.assert_array_equal(
    weight_maps.border_weight(instances), weight_maps.border_weight(renamed)
  )


def test_isbi_slices(data_dir):
  border_weight = jax.jit(weight_maps.border_weight)
  files = sorted((data_dir / "isbi2012" / "train" / "masks").iterdir())
  assert len(files) == 30
  for file in files[::10]:
    instances = ndimage.label(np.asarray(Image.open(file)) > 0)[0][:256, :256]
    expected = reference_weight(instances, 10.0, 5.0)
    np.testing.assert_allclose(border_weight(instances), expected, atol=1e-5)
