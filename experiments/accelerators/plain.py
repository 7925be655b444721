"""The networks with the operations of flax.linen in place of ours, for the comparison in README.md.

Convolutions are `lax.conv_general_dilated`, grouped for depthwise ones, as `nn.Conv` calls it;
`nn.ConvTranspose`'s `lax.conv_transpose`, `nn.max_pool`, `nn.relu`, `nn.BatchNorm` and
`jax.image.resize`; concatenations are made, and the loss is that of Optax. No compiler options for
TPUs.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxseg import VOID, convolution, losses, ops, parallel, train_step
from jaxseg.models import conv_norm, deeplab, fcn, layers, mobilenet_v2, resnet, unet, xception

NUMBERS = ("NHWC", "HWIO", "NHWC")


def conv(x, kernel, strides=(1, 1), padding="SAME", **options):
  options.setdefault("dimension_numbers", NUMBERS)
  return lax.conv_general_dilated(x, kernel, strides, padding, **options)


def conv_1x1(x, kernel):
  return jnp.dot(x, kernel)


def conv_3x3(x, kernel, padding="same", dilation=1):
  dilations = (dilation, dilation)
  return lax.conv_general_dilated(
    x, kernel, (1, 1), padding.upper(), rhs_dilation=dilations, dimension_numbers=NUMBERS
  )


def stem_conv(x, kernel):
  return lax.conv_general_dilated(x, kernel, (2, 2), ((3, 3),) * 2, dimension_numbers=NUMBERS)


def depthwise_conv(x, kernel, stride=1, dilation=1, padding="same"):
  edge = dilation * (kernel.shape[0] // 2)
  return lax.conv_general_dilated(
    x,
    kernel[:, :, None],
    (stride, stride),
    "SAME" if padding == "same" else ((edge, edge),) * 2,
    rhs_dilation=(dilation, dilation),
    dimension_numbers=NUMBERS,
    feature_group_count=x.shape[-1],
  )


def up_conv(x, kernel, stride):
  return lax.conv_transpose(x, kernel, (stride, stride), "VALID", dimension_numbers=NUMBERS)


def up_conv_3x3(parts, kernel):
  x = jnp.concatenate(parts, axis=-1)
  return lax.conv_transpose(x, kernel, (2, 2), "SAME", dimension_numbers=NUMBERS)


def max_pool_3x3(x):
  return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))


def center_crop(x, size):
  top, left = ((n - m) // 2 for n, m in zip(x.shape[1:3], size, strict=True))
  return x[:, top : top + size[0], left : left + size[1]]


def resize(x, size, corners=False):
  assert not corners  # which `jax.image.resize` cannot do
  return jax.image.resize(x, (x.shape[0], *size, x.shape[3]), "bilinear")


def concatenated(module):
  """A layer of several parts as one of their concatenation."""

  def call(*fields, **options):
    layer = module(*fields, **options)
    return lambda *parts: layer(jnp.concatenate(parts, axis=-1))

  return call


def batch_norm(train, axis_name=None, on_pairs=False, **options):
  norm = nn.BatchNorm(not train, **{"momentum": 0.9, "epsilon": 1e-3, **options})
  return lambda x: [norm(x)]


def cross_entropy(logits, mask):
  labels = jnp.where(mask == VOID, 0, mask).astype(jnp.int32)
  ce = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  return jnp.where(mask == VOID, 0.0, ce)


def use() -> None:
  """From now on, in this process."""
  for name in ("conv_1x1", "conv_3x3", "stem_conv", "depthwise_conv", "up_conv", "up_conv_3x3"):
    setattr(layers, name, globals()[name])
  for module in (convolution, mobilenet_v2, xception, fcn):
    module.conv = conv
  for module in (conv_norm, mobilenet_v2, resnet, unet, xception):
    module.BatchNorm = batch_norm
  for module in (conv_norm, deeplab, fcn, mobilenet_v2, resnet, unet, xception):
    for name in ("Conv1x1", "Conv3x3", "DepthwiseConv"):
      if hasattr(module, name):
        setattr(module, name, concatenated(getattr(layers, name)))
  ops.relu, ops.max_pool_2x2 = nn.relu, lambda x: nn.max_pool(x, (2, 2), (2, 2))
  ops.max_pool_3x3, ops.center_crop, ops.resize = max_pool_3x3, center_crop, resize
  losses.LOSSES["cross_entropy"] = losses.Loss(cross_entropy)
  train_step.classes_apart = train_step.in_memory_order = lambda x: x
  parallel.TPU_OPTIONS.clear()  # without that for GPUs, `jax.image.resize` does not compile
