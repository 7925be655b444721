"""3x3 convolution in the form that suits the platform.

`experiments/accelerators` has the figures.
"""

import contextlib
import contextvars
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_PLAIN = contextvars.ContextVar("plain", default=False)


@contextlib.contextmanager
def plain_forms() -> Iterator[None]:
  """What is traced in this block has one form for all platforms, as ONNX needs."""
  token = _PLAIN.set(True)
  try:
    yield
  finally:
    _PLAIN.reset(token)


def pixel_pairs(x: jax.Array) -> jax.Array:
  """Two pixels side by side as channels, in order.  [B,H,W,C] -> [B,H,W/2,2C]"""
  b, h, w, c = x.shape
  return x.reshape(b, h, w // 2, 2 * c)


def conv_3x3(
  x: jax.Array, kernel: jax.Array, padding: str = "same", dilation: int = 1
) -> jax.Array:
  """3x3 convolution.  [B,H,W,C], [3,3,C,D] -> [B,h,w,D]

  On a TPU one of at most 64 channels runs on pairs of pixels: its vectors and matrices are 128
  wide, and would be half empty. `experiments/accelerators` has the figures. On a CPU its gradients
  are `gradients_in_order`.

  Args:
    padding: "same", h, w = H, W, or "valid", h, w = H - 2, W - 2 (times `dilation`).
    dilation: px from one tap to the next.
  """
  if _PLAIN.get():
    return conv_3x3_plain(x, kernel, padding, dilation)
  return _conv(x, kernel, padding, dilation)


def conv_3x3_plain(
  x: jax.Array, kernel: jax.Array, padding: str, dilation: int = 1
) -> jax.Array:
  """`conv_3x3` as XLA has it."""
  numbers = ("NHWC", "HWIO", "NHWC")
  steps = (dilation, dilation)
  return lax.conv_general_dilated(
    x, kernel, (1, 1), padding.upper(), rhs_dilation=steps, dimension_numbers=numbers
  )


def gradients_in_order(
  x: jax.Array, kernel: jax.Array, g: jax.Array, padding: str, dilation: int = 1
) -> tuple[jax.Array, jax.Array]:
  """Gradients of `conv_3x3` as convolutions whose axes are in the order of a forward pass.

  XLA's compiler for CPUs hands convolutions in this order to Eigen. Others it brings into the order
  only outside of loops; inside, it takes slow code on one core.

  Args:
    g: [B,h,w,D], gradient of the output.
  Returns:
    (gradient of x [B,H,W,C], of the kernel [3,3,C,D])
  """
  conv = functools.partial(lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC"))
  edge, steps = dilation if padding == "same" else 0, (dilation, dilation)
  flipped, around = kernel[::-1, ::-1].swapaxes(2, 3), [(2 * dilation - edge,) * 2] * 2
  dx = conv(g, flipped, (1, 1), around, rhs_dilation=steps)
  # The channels are the batch, and the output's gradient is the kernel.
  dk = conv(x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3), steps, [(edge, edge)] * 2)
  return dx, dk.transpose(1, 2, 0, 3)


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
  spread = jnp.einsum("pioT,kTcd->kpicod", taps.astype(kernel.dtype), kernel)
  spread = spread.reshape(3, len(pairs), 2 * c, 2 * d)
  y = conv_3x3_plain(pixel_pairs(x), spread, padding)
  b, h, w, _ = y.shape
  return y.reshape(b, h, 2 * w, d)


def _on_pairs(x, kernel, dilation):
  """Whether a TPU takes `conv_3x3_on_pairs`."""
  return dilation == 1 and x.shape[2] % 2 == 0 and max(kernel.shape[2:]) <= 64


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv(x, kernel, padding, dilation):
  plain = functools.partial(conv_3x3_plain, padding=padding, dilation=dilation)
  if not _on_pairs(x, kernel, dilation):
    return plain(x, kernel)
  pairs = functools.partial(conv_3x3_on_pairs, padding=padding)
  return lax.platform_dependent(x, kernel, tpu=pairs, default=plain)


def _conv_bwd(padding, dilation, residuals, g):
  def pull(form, *options):
    return lambda x, kernel, g: jax.vjp(lambda *a: form(*a, *options), x, kernel)[1](g)

  forms = {"cpu": functools.partial(gradients_in_order, padding=padding, dilation=dilation)}
  if _on_pairs(*residuals, dilation):
    forms["tpu"] = pull(conv_3x3_on_pairs, padding)
  default = pull(conv_3x3_plain, padding, dilation)
  return lax.platform_dependent(*residuals, g, default=default, **forms)


# Differentiated as a whole, `platform_dependent` would keep what either form needs.
_conv.defvjp(lambda x, kernel, *options: (_conv(x, kernel, *options), (x, kernel)), _conv_bwd)
