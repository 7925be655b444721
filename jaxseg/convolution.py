"""Convolutions in the form that suits the platform.

The forms were chosen by measurement on CPU (`experiments/convolution_forms`) and by the estimate of
the compiler for TPU (`experiments/accelerators`).
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxseg.platforms import by_platform


def pixel_pairs(x: jax.Array) -> jax.Array:
  """Two pixels side by side as channels, in order.  [B,H,W,C] -> [B,H,W/2,2C]"""
  b, h, w, c = x.shape
  return x.reshape(b, h, w // 2, 2 * c)


def conv_3x3(
  x: jax.Array, kernel: jax.Array, padding: str = "same", dilation: int = 1
) -> jax.Array:
  """3x3 convolution.  [B,H,W,C], [3,3,C,D] -> [B,h,w,D]

  On a TPU one of at most 64 channels runs on pairs of pixels: its vectors and matrices are 128
  wide, and would be half empty. `experiments/accelerators` has the figures.

  Args:
    padding: "same", h, w = H, W, or "valid", h, w = H - 2, W - 2 (times `dilation`).
    dilation: px from one tap to the next.
  """
  plain = functools.partial(conv_3x3_plain, padding=padding, dilation=dilation)
  if dilation > 1 or x.shape[2] % 2 or max(kernel.shape[2:]) > 64:
    return plain(x, kernel)
  pairs = functools.partial(conv_3x3_on_pairs, padding=padding)
  return by_platform(plain, tpu=pairs)(x, kernel)


def conv_3x3_plain(x: jax.Array, kernel: jax.Array, padding: str, dilation: int = 1) -> jax.Array:
  """`conv_3x3` as XLA has it."""
  numbers = ("NHWC", "HWIO", "NHWC")
  steps = (dilation, dilation)
  return lax.conv_general_dilated(
    x, kernel, (1, 1), padding.upper(), rhs_dilation=steps, dimension_numbers=numbers
  )


def conv_3x3_on_pairs(x: jax.Array, kernel: jax.Array, padding: str) -> jax.Array:
  """`conv_3x3` on pairs of pixels, for even width: twice the products, half of them with zeros."""
  c, d = kernel.shape[2:]
  first = -1 if padding == "same" else 0  # column that the first tap of the first pixel sees
  # Column `tap` for pixel `out` of a pair sees pixel `out + tap + first`, counted from the pair.
  pairs = range(-1, 2) if padding == "same" else range(2)
  taps = np.zeros((len(pairs), 2, 2, 3), np.float32)
  for out in range(2):
    for tap in range(3):
      pair, pixel = divmod(out + tap + first, 2)
      taps[pairs.index(pair), pixel, out, tap] = 1
  # A choice, not a sum: its values and gradients are not to be rounded, as TPUs do by default.
  product = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)
  spread = product("pioT,kTcd->kpicod", taps.astype(kernel.dtype), kernel)
  spread = spread.reshape(3, len(pairs), 2 * c, 2 * d)
  y = conv_3x3_plain(pixel_pairs(x), spread, padding)
  b, h, w, _ = y.shape
  return y.reshape(b, h, 2 * w, d)


def stem_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """7x7 convolution, stride 2, three zeros around the image.  [B,H,W,C], [7,7,C,D] -> [B,h,w,D]

  h, w = H / 2, W / 2, rounded up. For a TPU `stem_conv_on_blocks`, if the size divides.
  """
  if x.shape[1] % 2 or x.shape[2] % 4:
    return stem_conv_plain(x, kernel)
  return by_platform(stem_conv_plain, tpu=stem_conv_on_blocks)(x, kernel)


def stem_conv_plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """`stem_conv` as XLA has it."""
  numbers = ("NHWC", "HWIO", "NHWC")
  return lax.conv_general_dilated(x, kernel, (2, 2), ((3, 3),) * 2, dimension_numbers=numbers)


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
  spread, numbers = spread.reshape(4, 3, 8 * c, 2 * d), ("NHWC", "HWIO", "NHWC")
  pads = ((2, 1), (1, 1))
  y = lax.conv_general_dilated(x, spread, (1, 1), pads, dimension_numbers=numbers)
  return y.reshape(b, h // 2, w // 2, d)


def interleave_2x2(phases: Sequence[Sequence[jax.Array]]) -> jax.Array:
  """Four phases to one image of twice the size.

  Args:
    phases: ((even-even, even-odd), (odd-even, odd-odd)), row parity first, each [B,H,W,D].
  Returns:
    [B,2H,2W,D]
  """
  b, h, w, d = phases[0][0].shape
  rows = [jnp.stack(row, axis=3).reshape(b, h, 2 * w, d) for row in phases]
  return jnp.stack(rows, axis=2).reshape(b, 2 * h, 2 * w, d)


def transposed_conv(x: jax.Array, kernel: jax.Array, stride: int, cut: int = 0) -> jax.Array:
  """Transposed convolution as XLA has it, with gradients that are strided convolutions.

  XLA's own gradient of the kernel mirrors the whole map first.

  Args:
    x: [B,H,W,C].  kernel: [k,k,C,D].  cut: px to leave out at the lower and the right edge.
  Returns:
    [B,h,w,D], h = (H-1)*stride+k-cut, where x[i,j] @ kernel[k,l] adds to out[s*i+k, s*j+l].
  """

  def strided(y, kernel):
    numbers = ("NHWC", "HWOI", "NHWC")
    steps, pads = (stride, stride), ((0, cut), (0, cut))
    return lax.conv_general_dilated(y, kernel, steps, pads, dimension_numbers=numbers)

  @jax.custom_vjp
  def run(x, kernel):
    k, _, _, d = kernel.shape
    h, w = (stride * (n - 1) + k - cut for n in x.shape[1:3])
    like = jax.ShapeDtypeStruct((x.shape[0], h, w, d), x.dtype)
    return jax.linear_transpose(lambda y: strided(y, kernel), like)(x)[0]

  def backward(residuals, g):
    x, kernel = residuals
    (kernel_gradient,) = jax.vjp(lambda kernel: strided(g, kernel), kernel)[1](x)
    return strided(g, kernel), kernel_gradient

  run.defvjp(lambda *args: (run(*args), args), backward)
  return run(x, kernel)


def up_conv(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
  """Transposed convolution whose kernel is a multiple of the stride.

  One matrix product and a change of order; on a TPU, where that order is another layout,
  `transposed_conv`.

  The output is not cropped: U-Net's 2x2 "up-convolution" at stride 2 exactly doubles the size; the
  2s x 2s kernels of FCN at stride s extend s / 2 px beyond that on each side.

  Args:
    x: [B,H,W,C].  kernel: [k,k,C,D], k = m * stride.
  Returns:
    [B,(H+m-1)*stride,(W+m-1)*stride,D], where x[i,j] @ kernel[k,l] adds to out[s*i+k, s*j+l].
  """
  if kernel.shape[0] % stride:
    raise ValueError(f"a kernel of {kernel.shape[0]} px is not a multiple of the stride {stride}")
  by_blocks = functools.partial(up_conv_by_blocks, stride=stride)
  return by_platform(by_blocks, tpu=functools.partial(transposed_conv, stride=stride))(x, kernel)


def up_conv_by_blocks(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
  """`up_conv` as a matrix product whose columns are placed."""
  m = kernel.shape[0] // stride
  b, h, w, c = x.shape
  d = kernel.shape[-1]
  kernel = kernel.reshape(m, stride, m, stride, c, d).transpose(4, 0, 2, 1, 3, 5)
  blocks = (x.reshape(-1, c) @ kernel.reshape(c, -1)).reshape(b, h, w, m * m, stride, stride, d)

  def place(i, j):
    pads = ((0, 0), (i, m - 1 - i), (j, m - 1 - j), (0, 0), (0, 0), (0, 0))
    return jnp.pad(blocks[:, :, :, m * i + j], pads)

  y = sum(place(i, j) for i in range(m) for j in range(m)).transpose(0, 1, 3, 2, 4, 5)
  return y.reshape(b, (h + m - 1) * stride, (w + m - 1) * stride, d)


def up_conv_3x3(parts: Sequence[jax.Array], kernel: jax.Array) -> jax.Array:
  """Transposed convolution, 3x3 kernel, stride 2, "same" padding, of a channel concatenation.

  The same output as TensorFlow's and Keras' Conv2DTranspose: out[2i+k, 2j+l] sums
  x[i,j] @ kernel[k,l], cut to twice the input's size. The parts are never concatenated, so a part
  without gradient (the skip of a frozen encoder) costs no backward product.

  Args:
    parts: arrays [B,H,W,C_i].  kernel: [3,3,sum of C_i,D].
  Returns:
    [B,2H,2W,D]
  """
  channels = [part.shape[-1] for part in parts]
  if sum(channels) != kernel.shape[2]:
    raise ValueError(f"kernel takes {kernel.shape[2]} channels, the parts have {channels}")
  return by_platform(up_conv_3x3_by_taps, tpu=up_conv_3x3_by_parts)(parts, kernel)


def up_conv_3x3_by_parts(parts: Sequence[jax.Array], kernel: jax.Array) -> jax.Array:
  """`up_conv_3x3` as a sum of `transposed_conv`."""
  starts = np.cumsum([part.shape[-1] for part in parts])[:-1]
  kernels = jnp.split(kernel, starts, axis=2)
  return sum(transposed_conv(*pair, 2, cut=1) for pair in zip(parts, kernels, strict=True))


def up_conv_3x3_by_taps(parts: Sequence[jax.Array], kernel: jax.Array) -> jax.Array:
  """`up_conv_3x3` with 9/16 of the products of a 2x2-window convolution to four phases.

  One matrix product per part gives all nine taps, and shifted sums place them.
  """
  b, h, w, _ = parts[0].shape
  d = kernel.shape[-1]
  taps, start = 0, 0
  for part in parts:
    c = part.shape[-1]
    matrix = kernel[:, :, start : start + c].transpose(2, 0, 1, 3).reshape(c, 9 * d)
    taps += part.reshape(-1, c) @ matrix
    start += c

  def tap(k, m):
    y = taps[:, (3 * k + m) * d : (3 * k + m + 1) * d].reshape(b, h, w, d)
    # Row (column) 2 of the kernel lands on the even phase of the next row (column).
    down, right = k // 2, m // 2
    return jnp.pad(y, ((0, 0), (down, 0), (right, 0), (0, 0)))[:, :h, :w]

  even_even = tap(0, 0) + tap(0, 2) + tap(2, 0) + tap(2, 2)
  even_odd, odd_even = tap(0, 1) + tap(2, 1), tap(1, 0) + tap(1, 2)
  return interleave_2x2(((even_even, even_odd), (odd_even, tap(1, 1))))
