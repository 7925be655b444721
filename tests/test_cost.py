"""Parameters, operations and memory of a forward pass against arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import UserError, models
from jaxseg.models import cost
from jaxseg.models.layers import Conv1x1, Conv3x3

SIZE, CHANNELS, FEATURES = 20, 8, 16
PIXELS = SIZE**2


class Convolution:
  """One convolution as a network."""

  def __init__(self, layer):
    self.layer = layer

  def apply(self, variables, image, *, train):
    return self.layer.apply(variables, image)


@pytest.mark.parametrize(
  "layer, num_parameters, num_products",
  [
    (Conv1x1(FEATURES, use_bias=False), CHANNELS * FEATURES, PIXELS),
    (Conv3x3(FEATURES, "valid", use_bias=False), 9 * CHANNELS * FEATURES, 9 * (SIZE - 2) ** 2),
    # Padding costs nothing: at the edges a tap of three has no pixel.
    (Conv3x3(FEATURES, use_bias=False), 9 * CHANNELS * FEATURES, (3 * SIZE - 2) ** 2),
  ],
  ids=["1x1", "3x3, valid", "3x3, same"],
)
def test_convolutions_by_hand(layer, num_parameters, num_products):
  """A product of a kernel's tap and a pixel is CHANNELS x FEATURES times two operations."""
  image = jax.ShapeDtypeStruct((1, SIZE, SIZE, CHANNELS), jnp.float32)
  variables = jax.eval_shape(layer.init, jax.random.key(0), image)
  found = models.summary(Convolution(layer), variables, CHANNELS, SIZE)
  assert found["num_parameters"] == num_parameters
  assert found["flop"] == 2 * CHANNELS * FEATURES * num_products
  output = SIZE - 2 * (layer.padding == "valid") if isinstance(layer, Conv3x3) else SIZE
  held = 4 * (num_parameters + PIXELS * CHANNELS + output**2 * FEATURES)
  assert held <= found["memory_bytes"] < 2 * held


def test_published_unet():
  """Figure 1 of Ronneberger et al. (2015), on the smallest image that it takes, 188 -> 4."""
  model = models.build("unet", 2, norm=False, padding="valid")
  variables = models.abstract_variables(model, 1)
  assert models.num_parameters(variables) == 31_030_658
  found = models.summary(model, variables, 1, 188)
  assert found["num_parameters"] == 31_030_658
  size, c, products = 188, 1, 0
  widths = (64, 128, 256, 512, 1024)
  for level, width in enumerate(widths):
    products += 9 * ((size - 2) ** 2 * c * width + (size - 4) ** 2 * width**2)
    size, c = (size - 4) // (2 if level < 4 else 1), width
  for width in widths[-2::-1]:
    size *= 2
    products += size**2 * c * width  # an output of the up-convolution sees one input
    products += 9 * ((size - 2) ** 2 * 2 * width * width + (size - 4) ** 2 * width**2)
    size, c = size - 4, width
  products += size**2 * c * 2
  assert size == 4
  # Biases, ReLU and pooling come on top.
  assert 2 * products < found["flop"] < 2.03 * products
  assert found["memory_bytes"] > 4 * 31_030_658
  with pytest.raises(UserError, match="^190 px"):
    models.summary(model, variables, 1, 190)


def test_batch_statistics_are_no_parameters():
  variables = {"params": {"a": np.zeros((3, 4)), "b": np.zeros(5)}, "batch_stats": np.zeros(9)}
  assert models.num_parameters(variables) == 17


def test_dropout_is_kept_for_the_gradient():
  def kept(dropout):
    model = models.build("unet", 2, widths=(4, 8), dropout=dropout)
    return cost.training_bytes(model, models.abstract_variables(model, 1), 1, 32, 2)

  # At the coarsest level, 16 px and 8 channels: whether each value was kept, at least.
  assert kept(0.5) >= kept(0.0) + 2 * 16 * 16 * 8


def test_backends_that_do_not_tell():
  class Silent:
    def __init__(self, answer):
      self.answer = answer

    def cost_analysis(self):
      if self.answer is NotImplementedError:
        raise NotImplementedError("of this backend")
      return self.answer

    memory_analysis = cost_analysis

  for answer in (None, NotImplementedError):
    assert cost._flop(Silent(answer)) is None and cost._memory_bytes(Silent(answer)) is None
  for answer in ({}, {"flops": -1.0}):
    assert cost._flop(Silent(answer)) is None
