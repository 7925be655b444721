"""Depthwise convolution against loops and XLA's grouped convolution."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from absl.testing import parameterized
from jax.test_util import check_grads
from reference import normal, pull_both

from jaxseg import depthwise


class Values(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  @parameterized.parameters(
    (1,), (2,), (1, 3), (2, 2), (2, 1, "symmetric"), (2, 2, "symmetric"), (1, 9)
  )
  def test_depthwise_conv(self, *form):
    """Stride, dilation and padding; a dilation larger than the image leaves the middle tap."""
    depthwise_conv = self.variant(depthwise.depthwise_conv, static_argnums=(2, 3, 4))
    kernel = normal(3, 3, 4, seed=1)
    for h, w in (4, 6), (7, 5):
      x = normal(2, h, w, 4)
      expected = reference.depthwise_conv(x, kernel, *form)
      chex.assert_trees_all_close(depthwise_conv(x, kernel, *form), expected, atol=1e-5)


def grouped_conv(x, kernel, stride, dilation, padding):
  """The form for TPUs: XLA's depthwise convolution, whose paddings are found by XLA here."""
  reach = dilation * (kernel.shape[0] // 2)
  pads = ((reach, reach),) * 2 if padding == "symmetric" else "SAME"
  return depthwise.grouped_conv(x, kernel, stride=stride, dilation=dilation, pads=pads)


FORMS = [(1, 1, "same"), (2, 1, "same"), (1, 2, "same"), (1, 6, "same"), (2, 3, "same"),
         (2, 1, "symmetric"), (2, 2, "symmetric")]  # fmt: skip


@pytest.mark.parametrize("kernel_size", [3, pytest.param(5, marks=pytest.mark.slow)])
@pytest.mark.parametrize("stride, dilation, padding", FORMS)
def test_depthwise_conv_equals_grouped_convolution(stride, dilation, padding, kernel_size):
  """Values and both gradients, at even, odd and tiny sizes."""
  kernel, form = normal(kernel_size, kernel_size, 3, seed=1), (stride, dilation, padding)
  ours, theirs = (
    lambda *args, f=f: f(*args, *form) for f in (depthwise.depthwise_conv, grouped_conv)
  )
  for h, w in [(8, 6), (7, 5), (1, 2)] if kernel_size == 3 else [(7, 6)]:
    x, g = normal(2, h, w, 3), normal(2, -(-h // stride), -(-w // stride), 3, seed=2)
    results = jax.jit(lambda *args: pull_both(ours, theirs, args[:2], args[2]))(x, kernel, g)
    chex.assert_trees_all_close(*results, atol=1e-4)


@pytest.mark.parametrize("stride, dilation", [(1, 1), (2, 1), (1, 3), (2, 2)])
def test_depthwise_kernel_gradients(stride, dilation):
  """Both forms, only one of which a machine runs, against the convolution with single taps."""
  x, g = normal(2, 7, 6, 3), normal(2, -(-7 // stride), -(-6 // stride), 3, seed=1)
  expected = np.zeros((3, 3, 3))
  for k, m in np.ndindex(3, 3):  # linear in the kernel: one tap at a time
    tap = np.zeros((3, 3, 3))
    tap[k, m] = 1.0
    output = reference.depthwise_conv(x, tap, stride, dilation, "symmetric")
    expected[k, m] = (output * g).sum((0, 1, 2))
  padded, options = (
    depthwise._pad(x, ((dilation, dilation),) * 2),
    {"stride": stride, "dilation": dilation},
  )
  for form in depthwise._kernel_gradient, depthwise._kernel_gradient_by_rows:
    chex.assert_trees_all_close(form(padded, g, k=3, **options), expected, atol=1e-5)


def test_depthwise_check_grads():
  args = normal(1, 4, 3, 2), normal(3, 3, 2, seed=1)
  for stride in 1, 2:
    conv = jax.jit(lambda *args, stride=stride: depthwise.depthwise_conv(*args, stride))
    check_grads(conv, args, order=1, modes=["rev"], atol=1e-2, rtol=1e-2)


def test_depthwise_kernel_gradient_sums_in_float32():
  """A sum in bfloat16 would stop counting at 256."""
  x = jnp.ones((1, 32, 32, 1), jnp.bfloat16)
  for form in depthwise._kernel_gradient, depthwise._kernel_gradient_by_rows:
    counts = form(depthwise._pad(x, ((1, 1), (1, 1))), x, k=3, stride=1, dilation=1)[..., 0]
    np.testing.assert_array_equal(counts, [[961, 992, 961], [992, 1024, 992], [961, 992, 961]])
