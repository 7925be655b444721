"""What has a form for each platform takes it, in value and gradient, and keeps one when asked."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import jaxseg
from jaxseg import convolution, depthwise, ops, platforms, up_convolution


def lowered(function, platform, *shapes):
  """StableHLO of the value and the gradients of a function for a platform that need not exist."""

  def both(*args):
    y, pull = jax.vjp(function, *args)
    return y, pull(y)

  args = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
  return jax.jit(both).trace(*args).lower(lowering_platforms=(platform,)).as_text()


DILATED = "lhs_dilate = [2, 2]"


@pytest.mark.parametrize(
  "function, shapes, mark, number",
  [
    (depthwise.depthwise_conv, [(1, 8, 8, 5), (3, 3, 5)], "feature_group_count = 5", 2),
    (lambda x, k: up_convolution.up_conv(x, k, 2), [(1, 4, 4, 3), (4, 4, 3, 5)], DILATED, 1),
    (lambda x, k: up_convolution.up_conv(x, k, 2), [(1, 4, 4, 3), (2, 2, 3, 5)], "[2, 1]", 1),
    (lambda x, k: up_convolution.up_conv(x, k, 16), [(1, 4, 4, 3), (32, 32, 3, 5)], "[16, 2]", 1),
    (lambda x, k: up_convolution.up_conv_3x3([x], k), [(1, 4, 4, 3), (3, 3, 3, 5)], DILATED, 1),
    (convolution.conv_3x3, [(1, 8, 8, 64), (3, 3, 64, 64)], "tensor<1x8x4x128xf32>", 4),
    (convolution.conv_1x1, [(1, 8, 8, 64), (64, 2)], "tensor<1x8x4x128xf32>", 4),
    (convolution.stem_conv, [(1, 8, 8, 3), (7, 7, 3, 64)], "tensor<1x4x2x128xf32>", 1),
    (platforms.classes_apart, [(1, 8, 8, 3)], "LayoutConstraint", 2),
  ],
)
def test_tpu_and_cpu_take_forms_of_their_own(function, shapes, mark, number):
  assert lowered(function, "tpu", *shapes).count(mark) >= number
  assert mark not in lowered(function, "cpu", *shapes)
  with platforms.plain_forms():
    assert mark not in lowered(lambda *args: function(*args), "tpu", *shapes)


def test_both_forms_have_their_own_gradient():
  """3 on TPUs, 2 elsewhere: a value and a gradient that tell which form they are of."""
  function = platforms.by_platform(lambda x: 2 * x, tpu=lambda x: 3 * x)
  y, pull = jax.vjp(function, jnp.ones(4))
  np.testing.assert_array_equal(y, 2 * np.ones(4))
  np.testing.assert_array_equal(pull(y)[0], 4 * np.ones(4))
  text = lowered(function, "tpu", (4,))
  assert "3.0" in text and "2.0" not in text


def test_a_platform_may_have_a_gradient_alone():
  function = platforms.by_platform(lambda x: 2 * x, gradients={"cpu": lambda args, g: (5 * g,)})
  y, pull = jax.vjp(function, jnp.ones(4))
  np.testing.assert_array_equal(y, 2 * np.ones(4))
  np.testing.assert_array_equal(pull(y)[0], 10 * np.ones(4))
  assert "5.0" not in lowered(function, "tpu", (4,))


@pytest.mark.parametrize(
  "function, shapes, mark",
  [
    (convolution.conv_1x1, [(1, 3, 3, 8), (8, 2)], "across dimensions = [0, 1, 2]"),
    (lambda x, k: up_convolution.up_conv(x, k, 2), [(1, 4, 4, 3), (2, 2, 3, 5)], DILATED),
    (platforms.in_memory_order, [(3, 3, 8, 4)], "optimization_barrier"),
  ],
)
def test_a_gpu_takes_its_form(function, shapes, mark):
  if function is platforms.in_memory_order:  # of gradients, and not to be differentiated itself
    args = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    texts = [jax.jit(function).trace(*args).lower(lowering_platforms=(p,)).as_text()
             for p in ("cuda", "cpu")]  # fmt: skip
  else:
    texts = [lowered(function, platform, *shapes) for platform in ("cuda", "cpu")]
  assert mark in texts[0] and mark not in texts[1]


def test_memory_order_changes_no_value():
  tree = {"kernel": jnp.arange(24.0).reshape(2, 1, 3, 4), "bias": jnp.arange(3.0)}
  chex.assert_trees_all_equal(platforms.in_memory_order(tree), tree)


def test_the_gradient_of_the_pool():
  """In one pass, but on TPUs with the rows of the result put between zeros."""
  marks = "stablehlo.reverse", "interior = [0, 1, 0, 0]"
  for platform, expected in (("cpu", [1, 0]), ("cuda", [1, 0]), ("tpu", [0, 1])):
    text = lowered(ops.max_pool_2x2, platform, (1, 4, 4, 8))
    assert [mark in text for mark in marks] == expected


@pytest.mark.slow
def test_stricter_rules_of_the_user_are_not_for_our_code(photos, tmp_path):
  """As set by $JAX_NUMPY_DTYPE_PROMOTION=strict and the like."""
  rules = jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise")
  with rules[0], rules[1], jax.transfer_guard("disallow"):
    jaxseg.train(tiny.make_config(1), tmp_path)
    labels = jaxseg.load(tmp_path)(np.zeros((40, 40, 3), np.uint8))
  assert labels.shape == (40, 40)
