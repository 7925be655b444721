"""Transposed convolutions ("up-convolutions") in the form that suits the platform.

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


def transposed_conv(
  x: jax.Array, kernel: jax.Array, strides: Sequence[int], cut: int = 0
) -> jax.Array:
  """Transposed convolution as XLA has it, with gradients that are strided convolutions.

  XLA's own gradient of the kernel mirrors the whole map first.

  Args:
    x: [B,H,W,C].  kernel: [k,l,C,D].  strides: (s, t).
    cut: px to leave out at the lower and the right edge.
  Returns:
    [B,h,w,D], h = (H-1)*s+k-cut, where x[i,j] @ kernel[m,n] adds to out[s*i+m, t*j+n].
  """

  def strided(y, kernel):
    numbers = ("NHWC", "HWOI", "NHWC")
    pads = ((0, cut), (0, cut))
    return lax.conv_general_dilated(y, kernel, strides, pads, dimension_numbers=numbers)

  @jax.custom_vjp
  def run(x, kernel):
    d = kernel.shape[3]
    sizes = zip(x.shape[1:3], strides, kernel.shape, strict=False)
    h, w = (stride * (n - 1) + k - cut for n, stride, k in sizes)
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

  One matrix product and a change of order. On TPUs and, if nothing overlaps, on GPUs, where that
  order is another pass over the map, `transposed_conv`; on TPUs by `up_conv_to_groups` to pairs of
  pixels where a kernel of 2x2 has at most 64 channels, see `convolution.conv_3x3`, and to groups of
  8 px at strides from 16 on, of which XLA makes little.

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
  transposed = functools.partial(transposed_conv, strides=(stride, stride))
  is_narrow = kernel.shape[:2] == (2, 2) and stride == 2 and kernel.shape[3] <= 64
  group = 2 if is_narrow else 8 if stride >= 16 and stride % 8 == 0 else 1
  to_groups = functools.partial(up_conv_to_groups, stride=stride, group=group)
  forms = {"tpu": transposed if group == 1 else to_groups}
  forms |= {"cuda": transposed} if kernel.shape[0] == stride else {}
  return by_platform(by_blocks, **forms)(x, kernel)


def up_conv_to_groups(x: jax.Array, kernel: jax.Array, stride: int, group: int) -> jax.Array:
  """`up_conv` of which `group` pixels side by side are channels of one; they divide the stride."""
  k, _, c, d = kernel.shape
  grouped = kernel.reshape(k, k // group, group, c, d).transpose(0, 1, 3, 2, 4)
  grouped = grouped.reshape(k, k // group, c, group * d)
  y = transposed_conv(x, grouped, (stride, stride // group))
  return y.reshape(*y.shape[:2], -1, d)


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
  return sum(transposed_conv(*pair, (2, 2), cut=1) for pair in zip(parts, kernels, strict=True))


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
