"""Depthwise convolution in a form that XLA runs fast, with a gradient of its own.

The forms were chosen by measurement; `experiments/convolution_forms` has the figures.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from jaxseg.platforms import by_platform

Pads = tuple[tuple[int, int], tuple[int, int]]  # ((above, below), (left, right)), px


def depthwise_conv(
  x: jax.Array, kernel: jax.Array, stride: int = 1, dilation: int = 1, padding: str = "same"
) -> jax.Array:
  """Depthwise convolution: shifted multiply-adds, on a TPU XLA's grouped convolution.

  As a grouped convolution, XLA runs it about fifty times slower on CPU.

  Args:
    x: [B,H,W,C].  kernel: [k,k,C], k odd.
    stride: 1 or 2.  dilation: px from one tap to the next ("rate" in DeepLab).
    padding: zeros around the image, "same" as in TensorFlow, where a strided window may begin on
      the first pixel; "symmetric", as many on each side, which centres the first window on it.
  Returns:
    [B,ceil(H/stride),ceil(W/stride),C]
  """
  reach = dilation * (kernel.shape[0] - 1)
  if padding == "symmetric":
    pads = ((reach // 2, reach // 2),) * 2
  else:
    pads = tuple(_same_padding(n, reach + 1, stride) for n in x.shape[1:3])
  form = {"stride": stride, "dilation": dilation, "pads": pads}
  shifted = functools.partial(shifted_sum, **form)
  return by_platform(shifted, tpu=functools.partial(grouped_conv, **form))(x, kernel)


def grouped_conv(
  x: jax.Array, kernel: jax.Array, *, stride: int, dilation: int, pads: Pads
) -> jax.Array:
  """`depthwise_conv` as XLA has it; `pads` are the zeros around the image."""
  return lax.conv_general_dilated(
    x, kernel[:, :, None], (stride, stride), pads, rhs_dilation=(dilation, dilation),
    dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=x.shape[-1],
  )  # fmt: skip


def _same_padding(size, span, stride):
  total = max((-(-size // stride) - 1) * stride + span - size, 0)
  return total // 2, total - total // 2


def _pad(x, pads):
  return jnp.pad(x, ((0, 0), *pads, (0, 0)))


def _windows(xp, k, stride, dilation, h, w):
  """What each of the k x k taps sees of the padded `xp`, in rows: [B,h,w,C] each."""
  rows, cols = stride * (h - 1) + 1, stride * (w - 1) + 1
  starts = range(0, k * dilation, dilation)
  return [xp[:, i : i + rows : stride, j : j + cols : stride] for i in starts for j in starts]


def _weighted_sum(windows, kernel):
  return sum(x * tap for x, tap in zip(windows, kernel.reshape(-1, kernel.shape[2]), strict=True))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def shifted_sum(
  x: jax.Array, kernel: jax.Array, stride: int, dilation: int, pads: Pads
) -> jax.Array:
  """`depthwise_conv` as a sum of shifted products."""
  h, w = (-(-n // stride) for n in x.shape[1:3])
  return _weighted_sum(_windows(_pad(x, pads), kernel.shape[0], stride, dilation, h, w), kernel)


def _depthwise_fwd(x, kernel, stride, dilation, pads):
  return shifted_sum(x, kernel, stride, dilation, pads), (x, kernel)


def _depthwise_bwd(stride, dilation, pads, residuals, g):
  x, kernel = residuals
  k = kernel.shape[0]
  b, h, w, c = x.shape
  # Gradient of the image: the flipped kernel over the gradient with stride - 1 zeros between.
  edges = [(0, 0, 0)]
  for n, (before, _) in zip((h, w), pads, strict=True):
    spread = stride * (-(-n // stride) - 1) + 1
    edges.append((dilation * (k - 1) - before, n + before - spread, stride - 1))
  spread_g = lax.pad(g, jnp.zeros((), g.dtype), [*edges, (0, 0, 0)])
  dx = _weighted_sum(_windows(spread_g, k, 1, dilation, h, w), kernel[::-1, ::-1])
  form = {"k": k, "stride": stride, "dilation": dilation}
  dk = lax.platform_dependent(
    _pad(x, pads),
    g,
    cpu=functools.partial(_kernel_gradient_by_rows, **form),
    default=functools.partial(_kernel_gradient, **form),
  )
  return dx, dk.astype(kernel.dtype)


def _kernel_gradient(xp, g, *, k, stride, dilation):
  """f32[k,k,C]: each tap's window times the gradient, summed; nine full reductions."""
  _, h, w, c = g.shape
  windows = _windows(xp, k, stride, dilation, h, w)
  sums = [jnp.sum(x * g, axis=(0, 1, 2), dtype=jnp.float32) for x in windows]
  return jnp.stack(sums).reshape(k, k, c)


def _kernel_gradient_by_rows(xp, g, *, k, stride, dilation):
  """The same, one image row at a time: what nine reductions read stays in a CPU's cache."""
  _, h, w, c = g.shape

  def add_row(total, i):
    row = lax.dynamic_slice_in_dim(g, i, 1, axis=1)
    rows = lax.dynamic_slice_in_dim(xp, stride * i, dilation * (k - 1) + 1, axis=1)
    return total + _kernel_gradient(rows, row, k=k, stride=stride, dilation=dilation), None

  return lax.scan(add_row, jnp.zeros((k, k, c), jnp.float32), jnp.arange(h))[0]


shifted_sum.defvjp(_depthwise_fwd, _depthwise_bwd)
