"""Building blocks of the networks. Images are [B,H,W,C], kernels [k,k,C,D]."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.convolution import conv_1x1, conv_3x3, stem_conv
from jaxseg.depthwise import depthwise_conv
from jaxseg.up_convolution import up_conv, up_conv_3x3

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's red, green and blue


def place_strides(
  strides: Sequence[int], output_stride: int, at_once: bool = False
) -> list[tuple[int, int]]:
  """Turns the strides of a chain of layers beyond `output_stride` into dilations ("atrous").

  A layer that loses its stride computes all the places between those that it would have kept; what
  follows skips these places by its dilation.

  Args:
    at_once: that layer is dilated itself, as in segmentation_models.pytorch. Then the values of a
      larger output stride are not among those of a smaller one.
  Returns:
    [(stride, dilation)] of the layers, whose strides multiply to at most `output_stride`.
  """
  placed, total, dilation = [], 1, 1
  for stride in strides:
    if total * stride <= output_stride:
      placed.append((stride, dilation))
      total *= stride
    else:
      placed.append((1, dilation * stride if at_once else dilation))
      dilation *= stride
  return placed


def encoder_stages(model: nn.Module, image: jax.Array, *, train: bool) -> dict[str, jax.Array]:
  """{name: [B,h,w,C]} of a network's encoder, as its `freeze_encoder` and `freeze_norm` ask."""
  frozen = model.freeze_encoder
  stages = model.encoder(image, train=train and not (frozen or model.freeze_norm))
  return jax.lax.stop_gradient(stages) if frozen else stages


def block(module: nn.Module, function: Callable[..., Any], *arguments: Any) -> Any:
  """`function(*arguments)`; with `module.remat`, its intermediate results are not kept.

  The gradient needs them, and computes them again from the arguments: less memory, more work (Chen
  et al. 2016, "Training deep nets with sublinear memory cost").

  Args:
    module: the one that is being called; submodules that `function` makes are its own.
    function: arrays, whole numbers and strings to arrays. What it closes over is kept, too.
  """
  if not module.remat:
    return function(*arguments)
  fixed = tuple(i for i, x in enumerate(arguments, start=1) if isinstance(x, int | str))
  return nn.remat(lambda _, *x: function(*x), static_argnums=fixed)(module, *arguments)


def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
  """Sum of a map and f32[C], in the map's type.

  The gradient of the bias, a sum over all pixels, is summed in float32: in bfloat16 it may end at
  256 times a value. Added in float32, the bias would keep cuDNN from adding it while it convolves.
  """
  return x + jnp.broadcast_to(bias, x.shape).astype(x.dtype)


class Conv3x3(nn.Module):
  """3x3 convolution of a channel concatenation.  [B,H,W,C_i], ... -> [B,h,w,features]

  The parts are convolved one by one, each with its rows of the kernel, and never concatenated: on
  CPU, XLA needs twice as long for one convolution of 32 channels as for two of 16.

  `padding` "same": h, w = H, W.  "valid": h, w = H - 2, W - 2.  `dilation`: px from one tap to the
  next.  `gain` scales the random start.
  """

  features: int
  padding: str = "same"
  use_bias: bool = True
  dilation: int = 1
  gain: float = 1.0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, *parts: jax.Array) -> jax.Array:
    c = sum(part.shape[-1] for part in parts)
    init = nn.initializers.variance_scaling(2.0 * self.gain**2, "fan_in", "truncated_normal")
    kernel = self.param("kernel", init, (3, 3, c, self.features)).astype(self.dtype)
    y, start = 0, 0
    for part in parts:
      rows = kernel[:, :, start : start + part.shape[-1]]
      start += part.shape[-1]
      y += conv_3x3(part.astype(self.dtype), rows, self.padding, self.dilation)
    if self.use_bias:
      y = add_bias(y, self.param("bias", nn.initializers.zeros, (self.features,)))
    return y


class Conv1x1(nn.Module):
  """1x1 convolution of a channel concatenation that is never made, as matrix products.

  [B,H,W,C_i], ... -> [B,H,W,features]
  """

  features: int
  use_bias: bool = True
  kernel_init: nn.initializers.Initializer = nn.initializers.he_normal()
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, *parts: jax.Array) -> jax.Array:
    c = sum(part.shape[-1] for part in parts)
    kernel = self.param("kernel", self.kernel_init, (1, 1, c, self.features)).astype(self.dtype)
    y, start = 0, 0
    for part in parts:
      c = part.shape[-1]
      y += conv_1x1(part.astype(self.dtype), kernel[0, 0, start : start + c])
      start += c
    if self.use_bias:
      y = add_bias(y, self.param("bias", nn.initializers.zeros, (self.features,)))
    return y


class StemConv(nn.Module):
  """7x7 convolution, stride 2, no bias.  [B,H,W,C] -> [B,H/2,W/2,features], rounded up"""

  features: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    kernel = self.param("kernel", nn.initializers.he_normal(), (7, 7, x.shape[-1], self.features))
    return stem_conv(x.astype(self.dtype), kernel.astype(self.dtype))


class DepthwiseConv(nn.Module):
  """3x3 depthwise convolution of a channel concatenation that is never made, without bias.

  [B,H,W,C_i], ... -> list of [B,H/stride,W/stride,C_i], rounded up. See `depthwise_conv` for
  dilation and padding.
  """

  stride: int = 1
  dilation: int = 1
  padding: str = "same"
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, *parts: jax.Array) -> list[jax.Array]:
    # Small, as Keras starts it (Glorot over all channels). A normalisation follows, so the scale
    # only sets how fast Adam turns the kernel: with the He scale of nine inputs it hardly moves.
    widths = [part.shape[-1] for part in parts]
    init = nn.initializers.normal((2 / (9 * sum(widths) + 9)) ** 0.5)
    kernel = self.param("kernel", init, (3, 3, sum(widths))).astype(self.dtype)
    kernels = jnp.split(kernel, np.cumsum(widths)[:-1], axis=2)
    return [
      depthwise_conv(part.astype(self.dtype), kernel, self.stride, self.dilation, self.padding)
      for part, kernel in zip(parts, kernels, strict=True)
    ]


class UpConv2x2(nn.Module):
  """2x2 transposed convolution, stride 2, with bias.  [B,H,W,C] -> [B,2H,2W,D]"""

  features: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    # Every output pixel sees one input pixel: the fan-in is C, not 4C.
    init = nn.initializers.variance_scaling(2.0, "fan_in", "truncated_normal", 2, 3, (0, 1))
    kernel = self.param("kernel", init, (2, 2, x.shape[-1], self.features))
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    y = up_conv(x.astype(self.dtype), kernel.astype(self.dtype), 2)
    return add_bias(y, bias)


class UpConv3x3(nn.Module):
  """Doubles the size of a concatenation of feature maps by a 3x3 kernel.

  `mode` "transposed": transposed convolution, stride 2, as in pix2pix. "resize": nearest-neighbour
  doubling and a convolution, which cannot leave a checkerboard (Odena et al. 2016).

  [B,H,W,C_i], ... -> [B,2H,2W,features]
  """

  features: int
  mode: str = "transposed"
  use_bias: bool = False
  kernel_init: nn.initializers.Initializer = nn.initializers.he_normal()
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, *parts: jax.Array) -> jax.Array:
    c = sum(part.shape[-1] for part in parts)
    kernel = self.param("kernel", self.kernel_init, (3, 3, c, self.features)).astype(self.dtype)
    parts = [part.astype(self.dtype) for part in parts]
    if self.mode == "transposed":
      y = up_conv_3x3(parts, kernel)
    else:
      x = jnp.concatenate(parts, axis=-1).repeat(2, axis=1).repeat(2, axis=2)
      y = conv_3x3(x, kernel)
    if self.use_bias:
      y = add_bias(y, self.param("bias", nn.initializers.zeros, (self.features,)))
    return y


def interpolation_kernel(size: int, stride: int) -> np.ndarray:
  """Kernel along one axis of the transposed convolution that interpolates.  f32[size]

  Of 2s px at stride s it is linear; of s px, where windows do not overlap, it can only repeat the
  nearest value.
  """
  if size == stride:
    return np.ones(size, np.float32)
  return (1 - np.abs(np.arange(size) - (size - 1) / 2) / stride).astype(np.float32)


class UpScore(nn.Module):
  """Enlarges score maps by a transposed convolution without bias that starts as interpolation.

  [B,H,W,C] -> [B,(H-1)*factor+size,(W-1)*factor+size,C]; `learned`, or a constant kernel.
  """

  factor: int
  size: int
  learned: bool = True
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape = (self.size, self.size, x.shape[-1], x.shape[-1])
    line = interpolation_kernel(self.size, self.factor)
    start = line[:, None, None, None] * line[:, None, None] * jnp.eye(shape[-1])
    kernel = self.param("kernel", lambda _: start) if self.learned else start
    return up_conv(x.astype(self.dtype), kernel.astype(self.dtype), self.factor)


def repeat_rgb(values: Sequence[float], channels: int) -> tuple[float, ...]:
  """Constants of red, green and blue, for images of any number of channels: repeated in turn.

  Those of a grey image stay three: it broadcasts to them.
  """
  return tuple(values[i % 3] for i in range(3 if channels == 1 else channels))


def standardize(image: jax.Array) -> jax.Array:
  """Image in [0, 1] by mean and deviation of ImageNet's colours, as torchvision's weights need."""
  mean, std = (jnp.array(repeat_rgb(x, image.shape[-1])) for x in (MEAN, STD))
  return (image - mean) / std


class Dropout(nn.Module):
  """Dropout whose draws follow the example and not its place in the batch.

  flax.linen.Dropout draws one array for the batch, so that the same example drops other units on
  two devices than on one. Here every example brings its key.

  Args of the call: x [B,H,W,C], keys key[B] or None, which means no dropout.
  """

  rate: float

  @nn.compact
  def __call__(self, x: jax.Array, keys: jax.Array | None) -> jax.Array:
    if keys is None or self.rate == 0.0:
      return x
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - self.rate, x.shape[1:]))(keys)
    return jnp.where(keep, x / (1 - self.rate), 0).astype(x.dtype)
