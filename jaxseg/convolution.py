"""Convolutions in the form that suits the platform.

The forms were chosen by measurement on CPU (`experiments/convolution_forms`) and by the estimate of
the compiler for TPU (`experiments/accelerators`).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxseg.platforms import by_platform, is_in_loop


def pixel_pairs(x: jax.Array) -> jax.Array:
  """Two pixels side by side as channels, in order.  [B,H,W,C] -> [B,H,W/2,2C]"""
  b, h, w, c = x.shape
  return x.reshape(b, h, w // 2, 2 * c)


def _is_even(width):
  return isinstance(width, int) and width % 2 == 0  # a symbol in an export for any size


def conv_3x3(
  x: jax.Array, kernel: jax.Array, padding: str = "same", dilation: int = 1
) -> jax.Array:
  """3x3 convolution.  [B,H,W,C], [3,3,C,D] -> [B,h,w,D]

  On a TPU one of at most 64 channels runs on pairs of pixels: its vectors and matrices are 128
  wide, and would be half empty.

  Args:
    padding: "same", h, w = H, W, or "valid", h, w = H - 2, W - 2 (times `dilation`).
    dilation: px from one tap to the next.
  """
  edge = dilation if padding == "same" else 0
  pads, forms = ((edge, edge),) * 2, {}
  if dilation == 1 and _is_even(x.shape[2]) and max(kernel.shape[2:]) <= 64:
    forms["tpu"] = functools.partial(conv_3x3_on_pairs, padding=pads)
  return _conv(x, kernel, (1, 1), pads, (dilation, dilation), **forms)


def conv(
  x: jax.Array,
  kernel: jax.Array,
  strides: Sequence[int] = (1, 1),
  padding: str | Sequence[tuple[int, int]] = "SAME",
  *,
  rhs_dilation: Sequence[int] = (1, 1),
  **rest: Any,
) -> jax.Array:
  """`lax.conv_general_dilated` of [B,H,W,C] and [k,l,C,D]; `nn.Conv` takes it.

  Args:
    rest: more that `nn.Conv` passes on: without groups, dilation of the input and precision.
  """
  assert rest.get("feature_group_count", 1) == 1
  assert set(rest.get("lhs_dilation") or (1,)) == {1}
  assert rest.get("precision") is None
  return _conv(x, kernel, strides, padding, rhs_dilation)


def _conv(x, kernel, strides, padding, dilation, **forms: Callable):
  options = {"strides": strides, "padding": padding, "dilation": dilation}

  def in_order(args, g):
    pads = padding
    if isinstance(padding, str):  # of a symbolic size, XLA takes only the word
      reach = [(k - 1) * r + 1 for k, r in zip(kernel.shape[:2], dilation, strict=True)]
      pads = lax.padtype_to_pads(x.shape[1:3], reach, strides, padding)
    return gradients_in_order(*args, g, strides, pads, dilation)

  plain = functools.partial(conv_plain, **options)
  gradients = {"cpu": in_order} if is_in_loop() else {}
  return by_platform(plain, gradients=gradients, **forms)(x, kernel)


def conv_plain(
  x: jax.Array,
  kernel: jax.Array,
  strides: Sequence[int] = (1, 1),
  padding: str | Sequence[tuple[int, int]] = "SAME",
  dilation: Sequence[int] = (1, 1),
  **more: Any,
) -> jax.Array:
  """`conv` as XLA has it."""
  numbers = ("NHWC", "HWIO", "NHWC")
  return lax.conv_general_dilated(
    x, kernel, strides, padding, rhs_dilation=dilation, dimension_numbers=numbers, **more
  )


def gradients_in_order(
  x: jax.Array,
  kernel: jax.Array,
  g: jax.Array,
  strides: Sequence[int],
  padding: Sequence[tuple[int, int]],
  dilation: Sequence[int],
) -> tuple[jax.Array, jax.Array]:
  """Gradients of `conv` as convolutions whose axes are in the order of a forward pass.

  XLA's compiler for CPUs hands convolutions in this order to Eigen. Others it brings into the order
  only outside of loops; inside, it takes slow code on one core.

  Args:
    g: [B,h,w,D], gradient of the output.
  Returns:
    (gradient of x [B,H,W,C], of the kernel [k,l,C,D])
  """
  around, beyond = [], []
  for i in range(2):
    low, length = padding[i][0], x.shape[1 + i]
    reach, spread = (kernel.shape[i] - 1) * dilation[i], (g.shape[1 + i] - 1) * strides[i] + 1
    around.append((reach - low, length - spread + low))
    beyond.append((low, reach + spread - length - low))
  flipped = kernel[::-1, ::-1].swapaxes(2, 3)
  dx = conv_plain(g, flipped, padding=around, dilation=dilation, lhs_dilation=strides)
  # The channels are the batch, and the output's gradient is the kernel.
  dk = conv_plain(x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3), dilation, beyond, strides)
  return dx, dk.transpose(1, 2, 0, 3)


def conv_3x3_on_pairs(
  x: jax.Array, kernel: jax.Array, padding: Sequence[tuple[int, int]]
) -> jax.Array:
  """3x3 convolution on pairs of pixels, for even width: twice the products, half with zeros.

  Args:
    padding: ((1, 1), (1, 1)) or ((0, 0), (0, 0)).
  """
  c, d = kernel.shape[2:]
  first = -padding[1][0]  # column that the first tap of the first pixel sees
  # Column `tap` for pixel `out` of a pair sees pixel `out + tap + first`, counted from the pair.
  pairs = range(-1, 2) if first else range(2)
  taps = np.zeros((len(pairs), 2, 2, 3), np.float32)
  for out in range(2):
    for tap in range(3):
      pair, pixel = divmod(out + tap + first, 2)
      taps[pairs.index(pair), pixel, out, tap] = 1
  # A choice, not a sum: its values and gradients are not to be rounded, as TPUs do by default.
  product = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)
  spread = product("pioT,kTcd->kpicod", taps.astype(kernel.dtype), kernel)
  spread = spread.reshape(3, len(pairs), 2 * c, 2 * d)
  y = conv_plain(pixel_pairs(x), spread, padding=padding)
  b, h, w, _ = y.shape
  return y.reshape(b, h, 2 * w, d)


def conv_1x1(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """1x1 convolution as a matrix product.  [B,H,W,C], [C,D] -> [B,H,W,D]

  On a GPU, the gradients of up to four output channels are element-wise work that fuses with what
  is around it: a matrix product would be a pass of its own. On a TPU, few output channels of 64
  input channels come from pairs of pixels: the maps would change their layout for a product.
  """
  gradients = {"cuda": _narrow_gradients} if kernel.shape[1] <= 4 else {}
  is_narrow = 32 < kernel.shape[0] <= 64 and kernel.shape[1] <= 32 and _is_even(x.shape[2])
  forms = {"tpu": conv_1x1_on_pairs} if is_narrow else {}
  return by_platform(conv_1x1_by_product, gradients=gradients, **forms)(x, kernel)


def conv_1x1_by_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """`conv_1x1` as one matrix product."""
  return (x.reshape(-1, x.shape[3]) @ kernel).reshape(*x.shape[:3], kernel.shape[1])


def conv_1x1_on_pairs(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """`conv_1x1` for even width on pairs of pixels: twice the products, half with zeros."""
  y = conv_plain(pixel_pairs(x), jnp.kron(jnp.eye(2, dtype=kernel.dtype), kernel)[None, None])
  return y.reshape(*x.shape[:3], kernel.shape[1])


def _narrow_gradients(args, g):
  """Gradients of `conv_1x1`, one output channel at a time."""
  x, kernel = args
  channels = [g[..., i : i + 1] for i in range(kernel.shape[1])]
  dx = sum(channel * kernel[:, i] for i, channel in enumerate(channels))
  dtype = jnp.promote_types(x.dtype, jnp.float32)
  sums = [jnp.sum(x * channel, axis=(0, 1, 2), dtype=dtype) for channel in channels]
  return dx, jnp.stack(sums, axis=1).astype(kernel.dtype)


def stem_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """7x7 convolution, stride 2, three zeros around the image.  [B,H,W,C], [7,7,C,D] -> [B,h,w,D]

  h, w = H / 2, W / 2, rounded up. For a TPU `stem_conv_on_blocks`, if the size divides.
  """
  _, h, w, _ = x.shape  # symbols in an export for any size
  divides = isinstance(h, int) and isinstance(w, int) and h % 2 == w % 4 == 0
  forms = {"tpu": stem_conv_on_blocks} if divides else {}
  return _conv(x, kernel, (2, 2), ((3, 3), (3, 3)), (1, 1), **forms)


def stem_conv_on_blocks(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """`stem_conv` from blocks of 2x4 pixels, as channels, to pairs of pixels.

  Three channels leave most of a TPU's 128 lanes empty, and strided windows need copies. That of
  blocks is a product with zeros and ones, because lanes are slow to permute.
  """
  b, h, w, c = x.shape
  d = kernel.shape[3]
  columns = np.arange(w)
  place = np.zeros((w, 4, w // 4), np.float32)
  place[columns, columns % 4, columns // 4] = 1
  # Choices, not sums: values and gradients are not to be rounded, as TPUs do by default.
  product = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)
  x = product("bhwc,wqj->bhcqj", x, place.astype(x.dtype))
  x = x.reshape(b, h // 2, 2, c, 4, w // 4).transpose(0, 1, 5, 2, 4, 3)
  x = x.reshape(b, h // 2, w // 4, 8 * c)
  # Column `tap` for pixel `out` of a pair sees pixel 2 * out + tap - 3, counted from the block.
  taps = np.zeros((3, 4, 2, 7), np.float32)
  for out, tap in np.ndindex(2, 7):
    block, pixel = divmod(2 * out + tap - 3, 4)
    taps[block + 1, pixel, out, tap] = 1
  # Row `tap` for a row of the output sees row tap - 3 of the image: the first of a block is odd.
  rows = jnp.pad(kernel, ((1, 0), (0, 0), (0, 0), (0, 0))).reshape(4, 2, 7, c, d)
  spread = product("upTcd,bqoT->ubpqcod", rows, taps.astype(kernel.dtype))
  y = conv_plain(x, spread.reshape(4, 3, 8 * c, 2 * d), padding=((2, 1), (1, 1)))
  return y.reshape(b, h // 2, w // 2, d)
