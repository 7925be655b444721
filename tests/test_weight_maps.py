"""Class weights by hand; border weights against scipy's distance transform, one cell at a time."""

import math

import chex
import jax
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from jaxseg import VOID, weight_maps
from jaxseg.data.cells import generate_cells


def reference_distances(instances, radius=math.inf):
  """f64[H,W] twice: the two smallest of one distance transform per cell, inf without a cell.

  Each transform sees no more than `radius` px around its cell; what is farther may be too large.
  """
  distances = np.full((2, *instances.shape), np.inf)
  margin = int(min(radius, max(instances.shape)))
  for i, box in enumerate(ndimage.find_objects(instances), start=1):
    if box:  # ids may have gaps
      box = tuple(slice(max(x.start - margin, 0), x.stop + margin) for x in box)
      mine = ndimage.distance_transform_edt(instances[box] != i)
      distances[(slice(None), *box)] = np.sort([*distances[(slice(None), *box)], mine], axis=0)[:2]
  return distances


def reference_weight(instances, w0, sigma, radius=math.inf):
  nearest, second = reference_distances(instances, radius)
  return w0 * np.exp(-((nearest + second) ** 2) / (2 * sigma**2)) * (instances == 0)


def hand_made():
  empty = np.zeros((40, 50), np.int32)
  one, two, touching, border, gaps = (empty.copy() for _ in range(5))
  one[10:20, 10:20] = 1
  two[10:20, 10:20], two[10:20, 21:30] = 1, 2
  touching[10:20, 10:20], touching[12:25, 20:30] = 1, 2
  border[:, 0], border[:, -1], border[0, 20:30] = 1, 2, 3
  gaps[5:9, 5:9], gaps[5:9, 11:15], gaps[30:35, 7:30] = 900, 7, 12345
  return {"no cell": empty, "one": one, "two": two, "touching": touching, "border": border,
          "gaps": gaps}  # fmt: skip


@pytest.mark.parametrize("name", hand_made())
@pytest.mark.parametrize("sigma", [2.0, 5.0])
def test_hand_made_cases(name, sigma):
  instances = hand_made()[name]
  weight = weight_maps.border_weight(instances, sigma=sigma)
  np.testing.assert_allclose(weight, reference_weight(instances, 10.0, sigma), atol=1e-5)
  if name in ("no cell", "one"):
    assert not weight.any()


@pytest.mark.parametrize("name, sigma", [("two", 100.0), ("one", 2e5)])
def test_weights_wider_than_the_image(name, sigma):
  instances = hand_made()[name]
  weight = weight_maps.border_weight(instances, sigma=sigma)
  expected = reference_weight(instances, 10.0, sigma) if name == "two" else 0
  np.testing.assert_allclose(weight, np.broadcast_to(expected, weight.shape), atol=1e-4)


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


FORMS = weight_maps.two_nearest, weight_maps.two_nearest_by_windows


@pytest.mark.parametrize("two_nearest", FORMS, ids=["scans", "windows"])
def test_distances_within_the_radius_are_exact(two_nearest):
  instances = generate_cells((0, 0, 9), 64, 64)["instances"]
  for ours, expected in zip(
    two_nearest(instances, 9), reference_distances(instances), strict=True
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


@pytest.mark.parametrize("every", [10, pytest.param(1, marks=pytest.mark.slow)])
def test_isbi_slices(data_dir, every):
  border_weight = jax.jit(weight_maps.border_weight)
  files = sorted((data_dir / "isbi2012" / "train" / "masks").iterdir())
  assert len(files) == 30
  for file in files[::every]:
    instances, num_cells = ndimage.label(np.asarray(Image.open(file)) == 255)
    assert instances.shape == (512, 512) and num_cells > 50
    # Beyond 32 px = 6.4 sigma the weight is below 1e-7.
    expected = reference_weight(instances, 10.0, 5.0, radius=32)
    np.testing.assert_allclose(border_weight(instances), expected, atol=1e-5)
    assert expected.max() > 5


@pytest.mark.parametrize(
  "counts, expected",
  [
    ([75, 25], [2 / 3, 2]),  # 1 / (2 * 0.75), 1 / (2 * 0.25)
    ([6, 3, 1], [10 / 18, 10 / 9, 10 / 3]),
    ([30, 0, 10], [2 / 3, 1, 2]),  # an absent class does not count
    ([0, 7], [1, 1]),
    ([2**40, 3 * 2**40], [2, 2 / 3]),
  ],
)
def test_inverse_frequency(counts, expected):
  weights = weight_maps.inverse_frequency(counts)
  np.testing.assert_allclose(weights, expected, rtol=1e-12)
  assert np.average(weights, weights=counts) == pytest.approx(1, rel=1e-12)


def test_count_classes():
  masks = [np.uint8([[0, 0, 1], [VOID, 0, 0]]), np.uint8([[2, 0, VOID]]), np.uint8([[1, 1, 1]])]
  assert weight_maps.count_classes(masks, ("a", "b", "c", "none")) == {
    "pixels": {"a": 5, "b": 4, "c": 1, "none": 0},
    "pixels_of_their_images": {"a": 7, "b": 8, "c": 2, "none": 0},
    "examples": {"a": [0, 1], "b": [0, 2], "c": [1], "none": []},
    "num_examples": 3,
  }


@pytest.mark.parametrize(
  "pixels, of_images, expected",
  [
    # Frequencies 5/10, 3/20, 1/4: the median is 1/4. Of an even number, the middle of two.
    ([5, 3, 1], [10, 20, 4], [0.5, 5 / 3, 1]),
    ([5, 0, 1], [10, 0, 4], [0.75, 1, 1.5]),
    ([7], [7], [1]),
  ],
)
def test_median_frequency(pixels, of_images, expected):
  weights = weight_maps.median_frequency(pixels, of_images)
  np.testing.assert_allclose(weights, expected, rtol=1e-12)


@pytest.mark.parametrize("name", hand_made())
def test_windows_are_scans(name):
  """Bit for bit: both take square roots of whole numbers. Beyond the radius they may differ."""
  instances, radius = hand_made()[name], 12
  forms = weight_maps.two_nearest_by_scans, weight_maps.two_nearest_by_windows
  scans, windows = (
    [np.where(x <= radius, x, np.inf) for x in form(instances, radius)] for form in forms
  )
  np.testing.assert_array_equal(scans, windows)


def test_a_gpu_takes_windows():
  trace = jax.jit(lambda x: weight_maps.two_nearest(x, 4)).trace(np.zeros((16, 16), np.int32))
  loops = [trace.lower(lowering_platforms=(x,)).as_text().count("while") for x in ("cpu", "cuda")]
  assert loops[0] > loops[1] == 0  # 9 offsets fit into one turn
