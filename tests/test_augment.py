"""What augmentation may change, and that image and labels stay together."""

import dataclasses
import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jaxseg import VOID, UserError
from jaxseg import augment as augmentations
from jaxseg.augment import Augmentation, augment, elastic_field
from jaxseg.ops import sample_bilinear

GEOMETRY = Augmentation(
  flip=True,
  flip_vertical=True,
  transpose=True,
  scale=(0.6, 1.7),
  rotation=40.0,
  shift=4.0,
  elastic=1.0,
)
EVERYTHING = dataclasses.replace(GEOMETRY, brightness=0.1, contrast=(0.8, 1.25))


def keys(num):
  data = np.random.default_rng(num).integers(0, 2**32, (num, 2), np.uint32)
  return jax.random.wrap_key_data(data, impl="threefry2x32")


# Random numbers compile much faster without optimisation.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@functools.cache
def mapped(config, shared_example=True):
  """Compiled augment over keys, of one example for all or one each."""
  axes = (0, None, None) if shared_example else (0, 0, 0)
  run = jax.vmap(lambda key, image, labels: augment(key, image, labels, config), axes)
  return quick_jit(run)


def views(config, num, image, mask, **labels):
  """As many views of an example.  -> images, masks, {other labels}, as numpy"""
  images, labels = mapped(config)(keys(num), image, {"mask": mask, **labels})
  images, labels = jax.tree.map(np.asarray, (images, labels))
  return images, labels.pop("mask"), labels


def noise(h, w, d=3, seed=0):
  """An image as it comes from bytes, f32 in [0, 1], and a mask with four labels and VOID."""
  rng = np.random.default_rng(seed)
  image = rng.integers(0, 256, (h, w, d)).astype(np.float32) / np.float32(255)
  labels = np.array([0, 1, 2, 3, VOID], np.uint8)
  return image, rng.choice(labels, (h, w))


def ids(h, w):
  """Instances with another id at every pixel, i32[h,w]."""
  return np.arange(1, h * w + 1, dtype=np.int32).reshape(h, w)


def quadrants(h, w):
  """Labels 0..3 by the half a pixel lies in; the image shows 2 x the row's half + the column's.

  Returns:
    f32[h,w,2] of 0 and 1, u8[h,w].
  """
  lower, right = np.mgrid[:h, :w]
  lower, right = (lower >= 0.4 * h), (right >= 0.6 * w)
  return np.stack([lower, right], -1).astype(np.float32), (2 * lower + right).astype(np.uint8)


def ramps(h, w):
  """Rows and columns as two channels from 0 to 1: a view of them says where it was sampled."""
  return np.stack(np.mgrid[:h, :w] / np.array([h - 1, w - 1])[:, None, None], -1).astype("f4")


def positions(images):
  """Where views of `ramps` were sampled, px.  [N,h,w,2] -> f64[2,N,h,w]"""
  h, w = images.shape[1:3]
  return np.moveaxis(images[..., :2].astype(float), -1, 0) * np.reshape(
    [h - 1, w - 1], (2, 1, 1, 1)
  )


def affine(images, reach):
  """The affine maps (i, j, 1) -> (row, column) of views, from their middle 2 reach x 2 reach px.

  f64[N,3,2]; i and j count from the middle.
  """
  places = np.moveaxis(positions(images), 0, -1)
  h, w = places.shape[1:3]
  i, j = np.mgrid[:h, :w] - np.array([h - 1, w - 1])[:, None, None] / 2
  middle = (abs(i) < reach) & (abs(j) < reach)
  inputs = np.stack([i, j, np.ones((h, w))], -1)[middle]
  return np.stack([np.linalg.lstsq(inputs, x[middle], rcond=None)[0] for x in places])


class Defaults(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  def test_nothing_changes(self):
    """Bit for bit, so that a network can be compared with and without."""
    image, mask = noise(33, 7)
    for labels in {"mask": mask}, {"mask": mask, "instances": ids(33, 7)}:
      result = self.variant(augment, static_argnums=3)(keys(1)[0], image, labels, Augmentation())
      chex.assert_trees_all_equal(result, (image, labels))
      chex.assert_trees_all_equal_shapes_and_dtypes(result, (image, labels))


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


@pytest.mark.parametrize("border", ["mirror", "void"])
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


def test_extra_augmentations(monkeypatch):
  """They see what the others made, in order, and leave the others' draws as they are."""
  seen = {}

  def roll(key, image, labels):
    step = jax.random.randint(key, (), 1, 9)
    return jax.tree.map(lambda x: jnp.roll(x, step, axis=1), (image, labels))

  def darken(key, image, labels):
    return image * jax.random.uniform(key), labels

  monkeypatch.setitem(augmentations.AUGMENTATIONS, "roll", roll)
  monkeypatch.setitem(augmentations.AUGMENTATIONS, "darken", darken)
  image, mask = noise(24, 24)
  without = views(EVERYTHING, 40, image, mask, instances=ids(24, 24))
  for names in (("roll",), ("roll", "darken"), ("darken", "roll", "roll")):
    config = dataclasses.replace(EVERYTHING, extra=names)
    images, masks, labels = views(config, 40, image, mask, instances=ids(24, 24))
    for i, key in enumerate(keys(40)):
      draws = [jax.random.fold_in(key, 2 + j) for j in range(len(names))]
      steps = [
        int(jax.random.randint(draws[j], (), 1, 9)) for j, n in enumerate(names) if n == "roll"
      ]
      step, factor = sum(steps), 1.0
      if "darken" in names:
        factor = jax.random.uniform(draws[names.index("darken")])
      expected = jax.tree.map(lambda x, i=i, n=step: np.roll(x[i], n, axis=1), without)
      np.testing.assert_array_equal(images[i], expected[0] * np.float32(factor))
      np.testing.assert_array_equal(masks[i], expected[1])
      np.testing.assert_array_equal(labels["instances"][i], expected[2]["instances"])
      seen.setdefault(names, set()).add(step)
  assert seen[("roll",)] == set(range(1, 9))
  assert max(seen[("darken", "roll", "roll")]) > 8


def test_extra_augmentations_have_keys_of_their_own():
  """`fold_in` and `split` of one key may give the same: 0 and 1 are taken."""
  key = keys(1)[0]
  own = [jax.random.fold_in(key, 2 + i) for i in range(3)]
  data = jax.random.key_data(jnp.stack([*jax.random.split(key), *own]))
  assert len(np.unique(data, axis=0)) == 5


def test_wrong_extra_augmentations(monkeypatch):
  with pytest.raises(UserError, match="^unknown augmentation 'blur' in `extra`; add it to"):
    Augmentation(extra=("blur",))
  monkeypatch.setitem(
    augmentations.AUGMENTATIONS, "crop", lambda _, image, labels: (image[1:], labels)
  )
  monkeypatch.setitem(
    augmentations.AUGMENTATIONS,
    "cast",
    lambda _, image, labels: (image, {"mask": labels["mask"] + 0.0}),
  )
  with pytest.raises(
    UserError, match="^unknown augmentation 'blur' in `extra`; choose from crop, cast$"
  ):
    Augmentation(extra=("crop", "blur"))
  image, mask = noise(5, 6)
  for name, change in (
    ("crop", r"float32\[4, 6, 3\].* of .*float32\[5, 6, 3\]"),
    ("cast", "float32.*uint8"),
  ):
    with pytest.raises(UserError, match=f"^augmentation '{name}' makes .*{change}.*keep shapes"):
      augment(keys(1)[0], image, {"mask": mask}, Augmentation(extra=(name,)))


def test_draws_are_independent():
  """Every pair of transposition, flips, zoom, angle and place of the window."""
  num, size = 1000, 24
  config = dataclasses.replace(GEOMETRY, scale=(1.5, 2.5), elastic=0.0)
  maps = affine(views(config, num, ramps(size, size), np.zeros((size, size), np.uint8))[0], 2)
  jacobian = maps[:, :2].swapaxes(1, 2)  # of row and column by i and j
  turned = abs(jacobian[:, 0, 0]) < abs(jacobian[:, 0, 1])
  jacobian = np.where(turned[:, None, None], jacobian[..., ::-1], jacobian)
  up, left = jacobian[:, 0, 0] < 0, jacobian[:, 1, 1] < 0
  zoom = 1 / np.hypot(jacobian[:, 0, 0], jacobian[:, 1, 0])
  angle = np.arctan(jacobian[:, 1, 0] / jacobian[:, 0, 0])
  draws = np.stack([turned, up, left, np.log(zoom), angle, *maps[:, 2].T])
  correlation = np.corrcoef(draws) - np.eye(len(draws))
  assert abs(correlation).max() < 4.5 / math.sqrt(num), correlation.round(2)


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


def test_labels_are_never_invented():
  for seed in range(3):
    image, mask = noise(24, 24, seed=seed)
    mask[mask == 2] = 3
    _, masks, _ = views(EVERYTHING, 20, image, mask)
    assert set(np.unique(masks)) <= {0, 1, 3, VOID}


def test_images_stay_in_range_and_types():
  image, mask = noise(24, 24)
  config = dataclasses.replace(GEOMETRY, brightness=1.0, contrast=(0.0, 9.0))
  images, masks, labels = views(config, 20, image, mask, instances=ids(24, 24))
  chex.assert_type([images, masks, labels["instances"]], [np.float32, np.uint8, np.int32])
  assert images.min() == 0.0 and images.max() == 1.0


def test_brightness_and_contrast():
  """image' = (image - mean) * factor + mean + shift, one factor and one shift an image."""
  rng = np.random.default_rng(0)
  image = rng.uniform(0.4, 0.6, (16, 16, 3)).astype(np.float32)  # far from 0 and 1: no clipping
  mask = np.zeros((16, 16), np.uint8)
  config = Augmentation(brightness=0.2, contrast=(0.5, 1.5))
  images, masks, _ = views(config, 400, image, mask)
  np.testing.assert_array_equal(masks, 0)
  shift = images.mean((1, 2, 3)) - image.mean()
  factor = images.std((1, 2, 3)) / image.std()
  expected = (image - image.mean()) * factor[:, None, None, None] + image.mean()
  np.testing.assert_allclose(images, expected + shift[:, None, None, None], atol=1e-5)
  # Uniform draws: bounds reached, means in the middle (4 standard deviations).
  for values, low, high in (shift, -0.2, 0.2), (factor, 0.5, 1.5):
    assert low - 1e-5 <= values.min() < low + 0.02 * (high - low)
    assert high + 1e-5 >= values.max() > high - 0.02 * (high - low)
    assert abs(values.mean() - (low + high) / 2) < 4 * (high - low) / np.sqrt(12 * 400)
  assert abs(np.corrcoef(shift, factor)[0, 1]) < 4 / np.sqrt(400)


def test_key_decides():
  """Same key, same view, whatever else is in the batch; another key, another view."""
  a, b = (
    (image, {"mask": mask, "instances": ids(24, 24)})
    for image, mask in (noise(24, 24, seed=seed) for seed in (0, 1))
  )
  first, second = keys(2)
  run = mapped(EVERYTHING, shared_example=False)
  stack = functools.partial(jax.tree.map, lambda *x: np.stack(x))
  alone = run(first[None], *stack(a))
  pair = run(jnp.stack([second, first]), *stack(b, a))
  chex.assert_trees_all_close(alone, jax.tree.map(lambda x: x[1:], pair), atol=1e-6)
  other = run(second[None], *stack(a))
  assert all((x != y).any() for x, y in zip(*map(jax.tree.leaves, (alone, other)), strict=True))


def test_vmap_changes_nothing_and_one_trace_serves_all_keys():
  image, mask = noise(16, 16)
  labels = {"mask": mask, "instances": ids(16, 16)}
  expected = mapped(EVERYTHING)(keys(3), image, labels)
  chex.clear_trace_counter()
  run = quick_jit(chex.assert_max_traces(augment, n=1), static_argnums=3)
  for i, key in enumerate(keys(3)):
    one = run(key, image, labels, EVERYTHING)
    chex.assert_trees_all_close(one, jax.tree.map(lambda x, i=i: x[i], expected), atol=1e-5)
