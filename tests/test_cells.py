"""Generated cells: what the labels promise, and that the images are neither trivial nor empty."""

import numpy as np
import pytest
from scipy import ndimage

from jaxseg.data.cells import generate_cells

LARGEST_RADIUS = 16  # px
MIN_AREA = 30  # px


@pytest.fixture(scope="module")
def examples():
  return [generate_cells((0, 0, i), 128, 128) for i in range(20)]


def _same_bytes(a, b):
  return {k: v.tobytes() for k, v in a.items()} == {k: v.tobytes() for k, v in b.items()}


def _iou_of_both(pred, mask):
  return np.mean([((pred == c) & (mask == c)).sum() / ((pred == c) | (mask == c)).sum()
                  for c in (0, 1)])  # fmt: skip


@pytest.mark.parametrize("size", [(64, 64), (33, 57)])
def test_same_key_gives_same_bytes(size):
  first = generate_cells((7, 1, 2), *size)
  generate_cells((7, 1, 3), 48, 48)  # what was drawn in between must not matter
  np.random.seed(1)
  assert _same_bytes(first, generate_cells((7, 1, 2), *size))


def test_each_part_of_the_key_matters():
  keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1)]
  drawn = [generate_cells(key, 64, 64) for key in keys]
  for name in ("image", "instances"):
    assert len({example[name].tobytes() for example in drawn}) == len(keys)


@pytest.mark.parametrize("height, width", [(16, 16), (33, 57), (200, 120)])
def test_shapes_and_types(height, width):
  example = generate_cells((3, 0, 0), height, width)
  assert set(example) == {"image", "mask", "instances"}
  image, mask, instances = example["image"], example["mask"], example["instances"]
  assert (image.shape, image.dtype) == ((height, width, 1), np.uint8)
  assert (mask.shape, mask.dtype) == ((height, width), np.uint8)
  assert (instances.shape, instances.dtype) == ((height, width), np.int32)
  np.testing.assert_array_equal(mask, instances > 0)


def test_too_small_is_refused():
  with pytest.raises(ValueError, match="15x64"):
    generate_cells((0, 0, 0), 15, 64)


@pytest.mark.parametrize("height, width", [(128, 128), (33, 57), (200, 120)])
def test_instances_are_the_components_of_the_mask(height, width):
  for i in range(5):
    example = generate_cells((4, 0, i), height, width)
    instances = example["instances"]
    num_cells = instances.max()
    assert num_cells >= 1
    np.testing.assert_array_equal(np.unique(instances[instances > 0]), np.arange(1, num_cells + 1))
    for cell in range(1, num_cells + 1):
      assert ndimage.label(instances == cell)[1] == 1
    components, num_components = ndimage.label(example["mask"])
    assert num_components == num_cells
    # One id per component and one component per id: as many pairs as ids, background included.
    pairs = np.unique(np.stack([components.ravel(), instances.ravel()]), axis=1)
    assert pairs.shape[1] == num_cells + 1


def test_an_instance_has_the_size_of_one_cell(examples):
  # Components of a mask without ridges would be consistent too, but whole clusters.
  areas = np.concatenate([np.bincount(e["instances"].ravel())[1:] for e in examples])
  assert areas.min() >= MIN_AREA
  assert areas.max() < 1.4 * np.pi * LARGEST_RADIUS**2


def test_most_cells_touch_a_neighbour(examples):
  shares = []
  for example in examples[:10]:
    instances = example["instances"]
    close = []
    for cell in range(1, instances.max() + 1):
      others = (instances > 0) & (instances != cell)
      gap = ndimage.distance_transform_edt(instances != cell)[others].min()
      assert gap > 1  # 4-neighbours of two ids would have no background between them
      close.append(gap <= 3)
    shares.append(np.mean(close))
  assert np.median(shares) > 0.6


def test_both_classes_are_well_represented(examples):
  fractions = np.array([e["mask"].mean() for e in examples])
  assert 0.45 < fractions.mean() < 0.6
  assert fractions.min() > 0.3 and fractions.max() < 0.75


def test_cell_size_and_density_do_not_depend_on_image_size():
  def statistics(num_images, size):
    masks = [generate_cells((5, size, i), size, size)["mask"] for i in range(num_images)]
    # Edge pixels per pixel: unlike areas, not biased by cells that the border cuts.
    edges = [np.mean(mask[1:] != mask[:-1]) for mask in masks]
    return np.array([np.mean(masks), np.mean(edges)])

  small, large = statistics(100, 64), statistics(10, 256)
  np.testing.assert_allclose(small, large, rtol=0.12)  # three standard errors


def test_no_threshold_solves_it(examples):
  for example in examples:
    image, mask = example["image"][..., 0], example["mask"]
    best = max(
      max(_iou_of_both(image > t, mask), _iou_of_both(image <= t, mask)) for t in range(0, 255, 2)
    )
    assert best < 0.85


def test_lines_between_cells_are_faintly_visible(examples):
  contrasts = []
  for example in examples:
    image, mask = example["image"][..., 0].astype(float), example["mask"] > 0
    line = ndimage.binary_closing(mask, np.ones((3, 3))) & ~mask
    beside = ndimage.binary_dilation(line, iterations=3) & mask
    contrasts.append(image[line].mean() - image[beside].mean())
  # In grey levels; the noise of one pixel is about 5, the texture of a cell about 17.
  assert min(contrasts) > 10
  assert max(contrasts) < 50
