"""What augmentation leaves as it is, colours, augmentations that users add, and draws by key."""

import dataclasses
import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from views import EVERYTHING, GEOMETRY, affine, ids, keys, mapped, noise, quick_jit, ramps, views

from jaxseg import VOID, UserError
from jaxseg import augment as augmentations
from jaxseg.augment import Augmentation, augment


class Defaults(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  def test_nothing_changes(self):
    """Bit for bit, so that a network can be compared with and without."""
    image, mask = noise(33, 7)
    for labels in {"mask": mask}, {"mask": mask, "instances": ids(33, 7)}:
      result = self.variant(augment, static_argnums=3)(keys(1)[0], image, labels, Augmentation())
      chex.assert_trees_all_equal(result, (image, labels))
      chex.assert_trees_all_equal_shapes_and_dtypes(result, (image, labels))


@pytest.mark.slow
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
  for name, function in {
    "ndarray": lambda _, image, labels: image, "tuple": lambda _, image, labels: (image, mask)
  }.items():  # fmt: skip
    monkeypatch.setitem(augmentations.AUGMENTATIONS, name, function)
    with pytest.raises(UserError, match=rf"^augmentation '{name}' returns .*, not \(image, labels"):
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
