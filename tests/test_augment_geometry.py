"""Flips, turns, zoom, shifts and warps: exact, or as SciPy resamples; and how they are drawn."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage
from views import GEOMETRY, affine, ids, keys, noise, positions, quick_jit, ramps, views

from jaxseg import VOID
from jaxseg.augment import Augmentation, elastic_field
from jaxseg.ops import sample_bilinear


def quadrants(h, w):
  """Labels 0..3 by the half a pixel lies in; the image shows 2 x the row's half + the column's.

  Returns:
    f32[h,w,2] of 0 and 1, u8[h,w].
  """
  lower, right = np.mgrid[:h, :w]
  lower, right = (lower >= 0.4 * h), (right >= 0.6 * w)
  return np.stack([lower, right], -1).astype(np.float32), (2 * lower + right).astype(np.uint8)


@pytest.mark.parametrize("border", ["mirror", "void"])
@pytest.mark.parametrize(
  "config",
  [
    Augmentation(flip=True, scale=(0.4, 0.9)),
    Augmentation(flip=True, scale=(1.1, 3.0)),
    GEOMETRY,
  ],
  ids=["shrink", "grow", "everything"],
)
def test_image_and_labels_stay_together(config, border):
  """The augmented image, read as labels again, is the augmented mask, and so are the instances."""
  image, mask = quadrants(40, 40)
  config = dataclasses.replace(config, border=border)
  images, masks, labels = views(config, 60, image, mask, instances=mask.astype(np.int32) + 7)
  np.testing.assert_array_equal(
    labels["instances"], np.where(masks == VOID, 0, masks.astype(int) + 7)
  )
  seen = 2 * (images[..., 0] > 0.5) + (images[..., 1] > 0.5)
  # A pixel whose centre falls half-way between two source pixels may go either way.
  clear = (abs(images - 0.5) > 1e-3).all(-1) & (masks != VOID)
  assert clear[masks != VOID].mean() > 0.9
  np.testing.assert_array_equal(masks[clear], seen[clear])
  assert len({m.tobytes() for m in masks}) > 30


def test_borders_differ_only_outside():
  """Where "void" has something to show, "mirror" shows the same; it leaves nothing VOID."""
  image, mask = ramps(24, 24), noise(24, 24)[1]
  mask[mask == VOID] = 0
  mirrored, void = (
    views(dataclasses.replace(GEOMETRY, border=border), 60, image, mask, instances=ids(24, 24))
    for border in ("mirror", "void")
  )
  inside = void[1] != VOID
  assert 0.5 < inside.mean() < 0.9 and (mirrored[1] != VOID).all()
  np.testing.assert_array_equal(void[2]["instances"] > 0, inside)
  assert (mirrored[2]["instances"] > 0).all()
  np.testing.assert_allclose(mirrored[0][inside], void[0][inside], atol=1e-5)
  clear = inside & (abs(positions(void[0]) % 1 - 0.5) > 1e-3).all(0)
  for a, b in zip(*map(jax.tree.leaves, (mirrored[1:], void[1:])), strict=True):
    np.testing.assert_array_equal(a[clear], b[clear])


SYMMETRIES = ("flip_vertical", "flip", "transpose")


@pytest.mark.parametrize(
  "names", [("flip",), ("flip_vertical",), ("transpose",), SYMMETRIES], ids="+".join
)
def test_symmetries_are_exact_and_drawn_alike(names):
  """Bit for bit, labels with the image; all eight of two flips and the transposition."""
  image, mask = noise(6, 6)
  example = image, mask, ids(6, 6)
  expected = [example]
  for turn, name in zip(
    (lambda x: x[::-1], lambda x: x[:, ::-1], lambda x: x.swapaxes(0, 1)), SYMMETRIES, strict=True
  ):
    if name in names:
      expected += [tuple(map(turn, x)) for x in expected]
  expected = {b"".join(map(np.ndarray.tobytes, x)): 0 for x in expected}
  assert len(expected) == 2 ** len(names)
  config = Augmentation(**dict.fromkeys(names, True))
  images, masks, labels = views(config, 2000, image, mask, instances=example[2])
  for view in zip(images, masks, labels["instances"], strict=True):
    expected[b"".join(map(np.ndarray.tobytes, view))] += 1  # fails if it is none of them
  # Four standard deviations of a fair draw.
  mean = 2000 / len(expected)
  assert all(abs(num - mean) < 4 * math.sqrt(mean) for num in expected.values())


@pytest.mark.parametrize("border", ["mirror", pytest.param("void", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
  "config",
  [
    Augmentation(rotation=180.0),
    Augmentation(shift=3.0),
    Augmentation(rotation=40.0, shift=2.0, scale=(1.1, 1.5), flip=True, flip_vertical=True),
  ],
  ids=["rotation", "shift", "together"],
)
def test_affine_views_equal_scipy(config, border):
  """Resampling of the image as np.pad continues it. The map is read off from two ramps."""
  h, w = 20, 26
  image, mask = np.concatenate([ramps(h, w), noise(h, w)[0]], -1), noise(h, w)[1]
  config = dataclasses.replace(config, border=border)
  images, masks, labels = views(config, 30, image, mask, instances=ids(h, w))
  maps = affine(images, 5)
  middle = (h - 1) / 2, (w - 1) / 2
  if config == Augmentation(rotation=config.rotation, border=border):
    angles = np.rad2deg(np.arctan2(maps[:, 0, 1], maps[:, 0, 0]))
    assert abs(angles).max() <= config.rotation and np.ptp(angles) > 1.5 * config.rotation
    np.testing.assert_allclose(maps[:, 2], np.broadcast_to(middle, (30, 2)), atol=1e-4)
    np.testing.assert_allclose(
      maps[:, :2] @ maps[:, :2].swapaxes(1, 2), np.tile(np.eye(2), (30, 1, 1)), atol=1e-5
    )
    assert (np.linalg.det(maps[:, :2]) > 0).all()  # none is mirrored
  if config == Augmentation(shift=config.shift, border=border):
    np.testing.assert_allclose(maps[:, :2], np.tile(np.eye(2), (30, 1, 1)), atol=1e-5)
    shifts = maps[:, 2] - middle
    assert abs(shifts).max() <= 3.0001 and (np.ptp(shifts, axis=0) > 4.5).all()
    assert abs(np.corrcoef(shifts.T)[0, 1]) < 4 / math.sqrt(30)

  margin = 20

  def padded(x, mode, **options):
    return np.pad(x, [(margin, margin)] * 2 + [(0, 0)] * (x.ndim - 2), mode=mode, **options)

  if border == "mirror":
    expected = [padded(x, "symmetric") for x in (image, mask, ids(h, w))]
  else:
    expected = [padded(image, "edge")]
    expected += [
      padded(x, "constant", constant_values=fill) for x, fill in ((mask, VOID), (ids(h, w), 0))
    ]
  i, j = np.mgrid[:h, :w] - np.reshape(middle, (2, 1, 1))
  places = np.einsum("hwk,nkd->dnhw", np.stack([i, j, np.ones((h, w))], -1), maps) + margin
  for d in range(image.shape[-1]):
    twin = ndimage.map_coordinates(expected[0][..., d].astype(float), places, order=1)
    np.testing.assert_allclose(images[..., d], twin, atol=2e-4)
  nearest = np.floor(places + 0.5).astype(int)
  clear = (abs(places % 1 - 0.5) > 1e-4).all(0)
  assert clear.mean() > 0.98
  for result, source in zip((masks, labels["instances"]), expected[1:], strict=True):
    np.testing.assert_array_equal(result[clear], source[tuple(nearest)][clear])


def test_elastic_views_are_displaced_in_px():
  """Half-way between two of five nodes the weights are (-1, 9, 9, -1) / 16, at a node 1."""
  size, num = 33, 500
  image, mask = np.concatenate([ramps(size, size), noise(size, size)[0]], -1), noise(size, size)[1]
  config = Augmentation(elastic=1.5, elastic_grid=5)
  images, masks, labels = views(config, num, image, mask, instances=ids(size, size))
  places = positions(images)
  displacements = places - np.mgrid[:size, :size][:, None]
  half_way = 1.5 * math.sqrt(164) / 16
  for row, col, std in (16, 16, 1.5), (8, 24, 1.5), (12, 16, half_way), (16, 20, half_way):
    spread = displacements[:, :, row, col].std(axis=1)
    np.testing.assert_allclose(spread, std, rtol=4 / math.sqrt(2 * num))
    assert abs(np.corrcoef(displacements[:, :, row, col])[0, 1]) < 4 / math.sqrt(num)
  twin = ndimage.map_coordinates(image[..., 3].astype(float), places[:, :50], order=1)
  np.testing.assert_allclose(images[:50, ..., 3], twin, atol=1e-4)
  clear = (abs(places % 1 - 0.5) > 1e-4).all(0)
  rows, cols = np.floor(places + 0.5).astype(int)
  np.testing.assert_array_equal(masks[clear], mask[rows, cols][clear])
  np.testing.assert_array_equal(labels["instances"][clear], ids(size, size)[rows, cols][clear])


def test_elastic_field_is_normal_at_nodes_and_bicubic_between():
  """Keys' weights (a = -1/2), the edge node repeated: (8, 9, -1) / 16 half-way to the next."""
  sigma, num, shape = 2.0, 4000, (33, 21)
  fields = quick_jit(jax.vmap(lambda key: elastic_field(key, shape, sigma)))(keys(num))
  assert fields.shape == (num, 2, *shape)
  fields = np.asarray(fields, float)
  nodes = fields[:, :, ::16, ::10]  # corner nodes at image corners
  flat = nodes.reshape(num, -1)
  assert flat.shape[1] == 18
  # Mean, spread and independence of all nodes and components within 4.5 standard errors.
  assert abs(flat.mean(0)).max() < 4.5 * sigma / math.sqrt(num)
  assert abs(flat.std(0) / sigma - 1).max() < 4.5 / math.sqrt(2 * num)
  assert abs(np.corrcoef(flat.T) - np.eye(18)).max() < 4.5 / math.sqrt(num)
  assert abs((abs(flat) < sigma).mean() - math.erf(0.5**0.5)) < 0.01
  half = np.array([8, 9, -1]) / 16
  between = np.einsum("h,w,ndhw->nd", half, half, nodes)
  np.testing.assert_allclose(fields[:, :, 8, 5], between, atol=1e-5)
  np.testing.assert_allclose(fields[:, :, 8, 5].std(0), sigma * half @ half, rtol=0.05)
  # At most 12 x the largest node over squared distance of nodes: the sum of |w''| of the kernel.
  # Linear interpolation would bend by twice the largest node over the distance, at one pixel.
  largest = abs(nodes).max((2, 3), keepdims=True)
  for axis, distance in (2, 16), (3, 10):
    bend = abs(np.diff(fields, 2, axis)) / largest
    assert bend.max() < 12 / distance**2


def test_warp_by_nothing_is_identity():
  image, mask = noise(9, 14)

  @quick_jit
  def warp(key, image):
    rows, cols = jnp.mgrid[:9, :14] + elastic_field(key, (9, 14), 0.0)
    return sample_bilinear(image, rows, cols)

  np.testing.assert_array_equal(warp(keys(1)[0], image), image)
  # Nearly nothing takes the same way as any warp.
  config = Augmentation(rotation=1e-5, elastic=1e-6)
  images, masks, labels = views(config, 3, image, mask, instances=ids(9, 14))
  np.testing.assert_allclose(images, np.tile(image, (3, 1, 1, 1)), atol=2e-5)
  np.testing.assert_array_equal(masks, np.tile(mask, (3, 1, 1)))
  np.testing.assert_array_equal(labels["instances"], np.tile(ids(9, 14), (3, 1, 1)))


def test_zoom_out_leaves_a_void_border_and_no_content_out():
  """At zoom 1/2 exactly the 8 x 10 middle pixels of every second row and column remain."""
  image, mask = noise(16, 20)
  mask[mask == VOID] = 0
  config = Augmentation(scale=(0.5, 0.5), border="void")
  _, masks, _ = views(config, 100, image, mask)
  first_rows = set()
  for result in masks:
    rows, cols = ((result != VOID).any(axis) for axis in (1, 0))
    assert (rows.sum(), cols.sum()) == (8, 10)
    np.testing.assert_array_equal(result != VOID, rows[:, None] & cols)
    first_rows.add(int(rows.argmax()))
    inside = result[rows][:, cols]
    # Every label comes from the 2x2 source pixels that became one.
    sources = mask.reshape(8, 2, 10, 2).transpose(0, 2, 1, 3).reshape(8, 10, 4)
    assert (inside[..., None] == sources).any(-1).all()
  assert first_rows >= {0, 4, 8}  # anywhere, both edges included


def test_zoom_in_leaves_no_void_and_crops_anywhere():
  """At zoom 2 the rows shown are the middle of a half, wherever that lies."""
  ramp = np.linspace(0, 1, 33, dtype=np.float32)
  image = np.stack(np.meshgrid(ramp, ramp, indexing="ij"), -1)
  mask = np.ones((33, 33), np.uint8)
  config = Augmentation(scale=(2.0, 2.0))
  images, masks, _ = views(config, 200, image, mask)
  np.testing.assert_array_equal(masks, 1)
  for axis in 0, 1:
    ramps = images[..., axis].mean(axis=2 - axis)
    steps = np.diff(ramps, axis=1)[:, 2:-2]
    np.testing.assert_allclose(steps, 1 / 64, atol=1e-5)
    # The window is half the image; its middle lies uniformly in the middle half.
    middles = ramps[:, 16]
    assert middles.min() < 0.28 and middles.max() > 0.72 and abs(middles.mean() - 0.5) < 0.05


def test_zoom_is_drawn_log_uniformly():
  """From 1/2 to 2: half of the draws shrink. (Uniformly it would be a third.)"""
  image, mask = np.zeros((64, 64, 1), np.float32), np.zeros((64, 64), np.uint8)
  _, masks, _ = views(Augmentation(scale=(0.5, 2.0), border="void"), 600, image, mask)
  side = np.sqrt((masks != VOID).sum((1, 2)))
  assert side.min() < 34 and abs((side < 63).mean() - 0.49) < 0.08
  # A quarter of them shrink below 2^-1/2.
  assert abs((side < 64 * 0.5**0.5).mean() - 0.25) < 0.07
