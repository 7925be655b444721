"""Losses by hand, by loop and by their invariants; VOID is free."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from absl.testing import parameterized
from jax.test_util import check_grads

from jaxseg import VOID, UserError
from jaxseg.losses import (
  LOSSES,
  Loss,
  class_logits,
  class_weight_map,
  cross_entropy,
  focal,
  label_maps,
  loss_count,
  loss_sum,
  lovasz_softmax,
  select,
  soft_dice,
)

GAMMA = 1.5
CHOSEN = {
  name: loss for name, (_, loss) in select(dict.fromkeys(LOSSES, 1), focal_gamma=GAMMA).items()
}
PER_PIXEL, PER_IMAGE = ("cross_entropy", "focal"), ("dice", "lovasz")
TWINS = {
  "cross_entropy": reference.cross_entropy,
  "focal": functools.partial(reference.focal, gamma=GAMMA),
  "dice": reference.soft_dice,
  "lovasz": reference.lovasz_softmax,
}

# (logits, label, -log softmax of the label, the same times (1 - softmax)^2), worked out by hand
HAND = (
  ((0.0, 0.0, 0.0), 1, math.log(3), 4 / 9 * math.log(3)),
  ((math.log(2), 0.0, 0.0), 0, math.log(2), math.log(2) / 4),  # softmax 1/2, 1/4, 1/4
  ((math.log(2), 0.0, 0.0), 2, math.log(4), 9 / 16 * math.log(4)),
  ((5.0 + math.log(8), 5.0, 5.0), 1, math.log(10), 0.81 * math.log(10)),  # a shift is free
  ((0.0, 1000.0, 0.0), 0, 1000.0, 1000.0),  # exp(1000) is infinite
  ((0.0, 1000.0, 0.0), 1, 0.0, 0.0),
  ((3.0, -7.0, 1000.0), VOID, 0.0, 0.0),
)

# Images of four pixels in a row: (probabilities, labels, Dice loss, Lovasz-softmax loss).
HAND_IMAGES = (
  # Class 0: Dice 2 * 4/5 / (31/20 + 1) = 32/51. Errors 1/2 and 1/4, of other pixels, and 1/5: the
  # Jaccard loss goes 0, 1/2, 2/3, 1, and 1/2 * 1/2 + 1/4 * 1/6 + 1/5 * 1/3 = 43/120.
  # Class 1: Dice 2 * 5/4 / (29/20 + 2) = 50/69. Errors 1/2 and 1/4 of its own pixels, then 1/5:
  # 0, 1/2, 1, 1, and 1/2 * 1/2 + 1/4 * 1/2 = 45/120.
  (
    ((1 / 4, 3 / 4, 0), (1 / 2, 1 / 2, 0), (1 / 9, 8 / 9, 0), (4 / 5, 1 / 5, 0)),
    (1, 1, VOID, 0),
    (19 / 51 + 19 / 69) / 2,
    (43 / 120 + 45 / 120) / 2,
  ),
  # Dice 2 * 3/4 / (3/4 + 2), errors 3/4 and 1/2, each half of the Jaccard loss. Classes 1 and 2
  # are not in the truth and do not count.
  (
    ((1 / 2, 1 / 4, 1 / 4), (1 / 4, 1 / 4, 1 / 2), (1, 0, 0), (0, 1, 0)),
    (0, 0, VOID, VOID),
    5 / 11,
    5 / 8,
  ),
  (((1 / 2, 1 / 2, 0),) * 4, (VOID,) * 4, 0.0, 0.0),
)


def example(seed=0, void=0.3):
  """Random logits f32[4,5,7,4] and mask u8[4,5,7] with VOID of this share.

  The first image has no class 3, and the last is VOID altogether if VOID there is.
  """
  rng = np.random.default_rng(seed)
  mask = rng.integers(0, 4, (4, 5, 7)).astype(np.uint8)
  mask[0] %= 3
  mask[rng.random(mask.shape) < void] = VOID
  if void:
    mask[-1] = VOID
  return rng.normal(0, 3, (*mask.shape, 4)).astype(np.float32), mask


def random_weight(mask):
  return np.random.default_rng(1).uniform(0.5, 5, mask.shape).astype(np.float32)


def mean_loss(name, logits, mask, weight):
  loss = CHOSEN[name]
  return loss_sum(loss, logits, mask, weight) / loss_count(loss, mask, weight)


def jit_value(name):
  """Mean loss and its gradient by the logits."""
  return jax.jit(jax.value_and_grad(functools.partial(mean_loss, name)))


every_loss = pytest.mark.parametrize("name", LOSSES)


class Values(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  def test_pixels_by_hand(self):
    logits, labels, ce, weighed_down = (np.array(column) for column in zip(*HAND, strict=True))
    for loss, expected in ((cross_entropy, ce), (focal, weighed_down)):
      values = self.variant(loss)(logits.astype(np.float32), labels.astype(np.uint8))
      chex.assert_trees_all_close(values, expected, rtol=1e-6, atol=1e-6)
      assert values[-1] == 0.0

  @chex.variants(with_jit=True, without_jit=True, with_pmap=True)
  def test_images_by_hand(self):
    probs, labels, *expected = (np.array(column) for column in zip(*HAND_IMAGES, strict=True))
    logits = np.log(np.maximum(probs, 1e-30)[:, None]).astype(np.float32)
    mask = labels[:, None].astype(np.uint8)
    values = [self.variant(jax.vmap(loss))(logits, mask) for loss in (soft_dice, lovasz_softmax)]
    chex.assert_trees_all_close(values, expected, rtol=1e-6)

  @chex.variants(with_jit=True, with_pmap=True)
  @parameterized.parameters(*LOSSES)
  def test_sum_and_count_of_a_batch_equal_loops(self, name):
    logits, mask = example()
    weight = random_weight(mask)
    loss = CHOSEN[name]
    sums = self.variant(functools.partial(loss_sum, loss))(logits, mask, weight)
    count = self.variant(functools.partial(loss_count, loss))(mask, weight)
    if name in PER_PIXEL:
      pixels = [place for place in np.ndindex(*mask.shape) if mask[place] != VOID]
      values = TWINS[name](logits, mask)
      expected = sum(weight[p] * values[p] for p in pixels), sum(weight[p] for p in pixels)
    else:
      expected = sum(TWINS[name](*pair) for pair in zip(logits, mask, strict=True)), 3.0
    chex.assert_trees_all_close((sums, count), expected, rtol=1e-5)

  @chex.variants(with_jit=True, without_jit=True)
  def test_class_weights(self):
    mask = np.array([[0, 2, VOID], [1, 1, 2]], np.uint8)
    weights = np.array([0.5, 3.0, 0.0], np.float32)
    weight_map = self.variant(class_weight_map)(mask, weights)
    np.testing.assert_array_equal(weight_map, [[0.5, 0.0, 0.0], [3.0, 3.0, 0.0]])


def test_twins_are_those_of_the_dict():
  assert list(TWINS) == list(LOSSES) == [*PER_PIXEL, *PER_IMAGE]
  assert [LOSSES[name].per for name in LOSSES] == ["pixel", "pixel", "image", "image"]


def test_select():
  """What has a factor, with it, in order; gamma is bound, 2 if it is not given."""
  chosen = select({"lovasz": 0.5, "dice": 0.0, "focal": 2.0}, focal_gamma=GAMMA)
  assert [(name, factor) for name, (factor, _) in chosen.items()] == [("lovasz", 0.5), ("focal", 2)]
  assert chosen["lovasz"][1] is LOSSES["lovasz"]
  logits, mask = example()
  for gamma, found in ((GAMMA, chosen), (2.0, select({"focal": 1.0}))):
    values = found["focal"][1].function(logits, mask)
    chex.assert_trees_all_close(values, reference.focal(logits, mask, gamma), rtol=1e-4, atol=1e-6)
  with pytest.raises(
    UserError, match="^unknown loss 'focus'; choose from cross_entropy, focal, dice"
  ):
    select({"dice": 1.0, "focus": 0.0})
  for nothing in ({}, {"dice": 0.0}):
    with pytest.raises(UserError, match="^no loss has a factor above 0; set one of cross_entropy"):
      select(nothing)
  with pytest.raises(UserError, match="^unknown per 'px' of a loss; choose from pixel, image$"):
    Loss(cross_entropy, per="px")


def test_maps_come_with_their_example():
  """One example at a time, from its labels; a loss per image gets those of its image."""
  logits, mask = example()
  labels = {"mask": mask, "instances": np.arange(mask.size, dtype=np.int32).reshape(mask.shape)}

  def first_row(labels):
    return jnp.where(labels["mask"][:1] == VOID, 7, labels["instances"][:1]).astype(jnp.float32)

  def value(logits, mask, row):
    return row[0, 0] + 0 * logits.sum()

  loss = Loss(value, per="image", maps={"row": first_row}, needs_instances=True)
  maps = label_maps(loss, labels)
  expected = np.where(mask[:, :1] == VOID, 7, labels["instances"][:, :1])
  np.testing.assert_array_equal(maps["row"], expected)
  total = loss_sum(loss, logits, mask, np.ones(mask.shape), maps)
  np.testing.assert_allclose(total, expected[:, 0, 0].sum())
  with pytest.raises(UserError, match="needs instances"):
    label_maps(loss, {"mask": mask})


@every_loss
def test_void_has_no_loss_and_no_gradient(name):
  logits, mask = example()
  moved = logits * np.where(mask == VOID, np.float32(1e4), 1)[..., None]
  ones = np.ones(mask.shape, np.float32)
  (loss, _), (same, gradient) = (jit_value(name)(x, mask, ones) for x in (logits, moved))
  assert loss == same  # whatever the network says there
  gradient = np.asarray(gradient)
  assert (gradient[mask == VOID] == 0).all()
  # (The weight of an error is 0 where all of the class is wrong already: Lovasz-softmax.)
  assert (gradient[mask != VOID] != 0).mean() > (0.8 if name == "lovasz" else 0.99)


@every_loss
def test_loss_with_void_is_the_loss_on_the_kept_pixels(name):
  logits, mask = example()
  weight = random_weight(mask)
  for i in range(3):
    kept = mask[i] != VOID
    loss, gradient = jit_value(name)(logits[i, None], mask[i, None], weight[i, None])
    # Of an image that is a row of the kept pixels.
    row = [x[i][kept][None, None] for x in (logits, mask, weight)]
    kept_loss, kept_gradient = jit_value(name)(*row)
    chex.assert_trees_all_close(loss, kept_loss, rtol=1e-6)
    gradient = np.asarray(gradient)[0, kept]
    chex.assert_trees_all_close(gradient, kept_gradient[0, 0], rtol=1e-5, atol=1e-8)


@every_loss
def test_all_void(name):
  logits, mask = example(void=2.0)
  assert (mask == VOID).all()
  weight = jnp.full(mask.shape, jnp.inf)
  value = jax.value_and_grad(lambda x: loss_sum(CHOSEN[name], x, mask, weight))
  total, gradient = jax.jit(value)(logits)
  assert total == 0.0 and loss_count(CHOSEN[name], mask, weight) == 0.0
  np.testing.assert_array_equal(gradient, 0.0)


@pytest.mark.parametrize("name", PER_PIXEL)
def test_weight_counts_like_repeated_pixels(name):
  logits, mask = example(void=0.2)
  weight = np.random.default_rng(1).integers(0, 4, mask.shape)
  repeated = [np.repeat(x.reshape(mask.size, -1), weight.ravel(), 0) for x in (logits, mask)]
  loss, _ = jit_value(name)(logits, mask, weight.astype(np.float32))
  once, _ = jit_value(name)(repeated[0], repeated[1][:, 0], np.ones(weight.sum(), np.float32))
  chex.assert_trees_all_close(loss, once, rtol=1e-5)


@pytest.mark.parametrize("name", PER_IMAGE)
def test_images_weigh_the_same(name):
  logits, mask = example()
  weighted, one = (mean_loss(name, logits, mask, w) for w in (random_weight(mask), mask * 0.0 + 1))
  assert weighted == one
  # Of labels instead of probabilities, the losses are 1 - Dice and 1 - IoU.
  guess = np.random.default_rng(2).integers(0, 4, mask.shape)
  logits = np.float32(1000) * np.eye(4, dtype=np.float32)[guess]
  for i in range(3):
    ious = [reference.iou(mask[i], guess[i], label) for label in set(mask[i].ravel()) - {VOID}]
    expected = np.mean([1 - (2 * x / (1 + x) if name == "dice" else x) for x in ious])
    np.testing.assert_allclose(LOSSES[name].function(logits[i], mask[i]), expected, rtol=1e-6)


@every_loss
def test_gradient_is_that_of_finite_differences(name):
  logits, mask = example(seed=15)
  logits, mask = logits[:1, :2, :4] / 3, mask[:1, :2, :4]
  assert {VOID, 0, 1, 2} == set(mask.ravel())
  if name == "lovasz":  # no two errors are near enough to change places
    probs = np.asarray(jax.nn.softmax(logits))[mask != VOID]
    errors = np.abs(probs - np.eye(4)[mask[mask != VOID]])[:, :3]
    assert np.diff(np.sort(errors, axis=0), axis=0).min() > 0.015
  ones = np.ones(mask.shape, np.float32)
  total = jax.jit(lambda x: mean_loss(name, x, mask, ones))
  check_grads(total, (logits,), order=1, modes=["rev"], atol=5e-3, rtol=5e-3, eps=1e-2)


def test_gradient_of_cross_entropy():
  """Softmax minus one-hot over the number of pixels."""
  logits, mask = example(void=0.0)
  ones = np.ones(mask.shape, np.float32)
  shares = np.exp(logits.astype(float))
  shares /= shares.sum(-1, keepdims=True)
  expected = (shares - np.eye(4)[mask]) / mask.size
  _, gradient = jit_value("cross_entropy")(logits, mask, ones)
  chex.assert_trees_all_close(gradient, expected, atol=1e-7)


def test_focal_of_gamma_0_is_cross_entropy():
  logits, mask = example()
  logits[0] *= 100  # certainly right or wrong
  both = [
    jax.jit(jax.value_and_grad(lambda x, loss=loss: loss(x, mask).sum()))(logits)
    for loss in (functools.partial(focal, gamma=0.0), cross_entropy)
  ]
  chex.assert_trees_all_close(*both, rtol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_gradient_of_focal_at_both_ends(gamma):
  """Its derivative by p is gamma (1-p)^(gamma-1) log p - (1-p)^gamma / p, and dp/dz p (1-p)."""
  margins = np.array([0.0, 2.0, 40.0, 1000.0, -40.0, -1000.0], np.float32)
  logits = np.stack([margins, 0 * margins], -1)
  mask = np.zeros(len(margins), np.uint8)
  gradient = jax.jit(jax.grad(lambda x: focal(x, mask, gamma=gamma).sum()))(logits)
  p = 1 / (1 + math.exp(-2))
  slopes = [
    -(gamma * math.log(2) * 2.0**-gamma + 2.0**-gamma) / 2,  # p = 1/2
    (gamma * p * math.log(p) - (1 - p)) * (1 - p) ** gamma,
    *(0, 0),  # right: nothing more to gain
    *(-1, -1),  # wrong: as of cross-entropy
  ]
  chex.assert_trees_all_close(gradient, np.outer(slopes, [1, -1]), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", PER_IMAGE)
def test_ties_and_certainty_have_finite_gradients(name):
  mask = np.array([[0, 0, 1, 1, VOID, 2]], np.uint8)
  for scale in (0.0, 1000.0):
    logits = np.float32(scale) * np.eye(4, dtype=np.float32)[[[0, 1, 1, 0, 2, 3]]]
    loss, gradient = jax.jit(jax.value_and_grad(LOSSES[name].function))(logits, mask)
    assert 0.5 < loss < 1
    chex.assert_tree_all_finite(gradient)


# The head of one logit. Logits, labels, and log(1 + e^-z) of label 1 or log(1 + e^z) of label 0.
SIGMOID = (
  (0.0, 1, math.log(2)),
  (math.log(3), 1, math.log(4 / 3)),  # sigmoid 3/4
  (math.log(3), 0, math.log(4)),
  (-math.log(3), 0, math.log(4 / 3)),
  (1000.0, 1, 0.0),
  (1000.0, 0, 1000.0),  # exp(1000) is infinite
  (-1000.0, 1, 1000.0),
  (5.0, VOID, 0.0),
)


@jax.jit
def binary_loss(z, mask):
  return cross_entropy(class_logits(z[..., None]), mask)


def test_sigmoid_head_by_hand():
  z, mask, expected = (np.array(column) for column in zip(*SIGMOID, strict=True))
  z, mask = z.astype(np.float32), mask.astype(np.uint8)
  with np.errstate(over="ignore"):
    sigmoid = 1 / (1 + np.exp(-z))
  probs = jax.jit(lambda z: jax.nn.softmax(class_logits(z[:, None])))(z)
  chex.assert_trees_all_close(probs, np.stack([1 - sigmoid, sigmoid], -1), atol=1e-6)
  chex.assert_trees_all_close(binary_loss(z, mask), expected, rtol=1e-6, atol=1e-6)
  gradient = jax.grad(lambda z: binary_loss(z, mask).sum())(z)
  expected = np.where(mask == VOID, 0, sigmoid - (mask == 1))
  chex.assert_trees_all_close(gradient, expected, atol=1e-6)
  assert gradient[-1] == 0
  check_grads(lambda z: binary_loss(z, mask[:4]), (z[:4],), order=1, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_other_heads_pass_through(num_classes):
  logits = np.ones((2, 5, num_classes), np.float32)
  np.testing.assert_array_equal(class_logits(logits), logits)


@pytest.mark.parametrize(
  "per, function, words",
  [
    ("image", lambda logits, mask: logits[..., 0], r"per image .*f32\[2\], not \(2, 4, 5\)"),
    ("pixel", lambda logits, mask: logits, r"per pixel .*f32\[2, 4, 5\], not \(2, 4, 5, 3\)"),
    ("pixel", lambda logits, mask: None, "not NoneType"),
  ],
)
def test_losses_of_another_shape(per, function, words):
  """What would broadcast, or be summed over too much, is no loss."""
  logits, mask = jnp.zeros((2, 4, 5, 3)), jnp.zeros((2, 4, 5), jnp.uint8)
  with pytest.raises(UserError, match=words):
    loss_sum(Loss(function, per=per), logits, mask, jnp.ones(mask.shape))
