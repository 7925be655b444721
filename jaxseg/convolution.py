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


def is_plain() -> bool:
  """Whether this is traced under `plain_forms`."""
  return _PLAIN.get()


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
  if _PLAIN.get() or dilation > 1 or x.shape[2] % 2 or max(kernel.shape[2:]) > 64:
    return conv_3x3_plain(x, kernel, padding, dilation)
  return _narrow_conv(x, kernel, padding)


def conv_3x3_plain(
  x: jax.Array, kernel: jax.Array, padding: str, dilation: int = 1
) -> jax.Array:
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
  spread = jnp.einsum("pioT,kTcd->kpicod", taps.astype(kernel.dtype), kernel)
  spread = spread.reshape(3, len(pairs), 2 * c, 2 * d)
  y = conv_3x3_plain(pixel_pairs(x), spread, padding)
  b, h, w, _ = y.shape
  return y.reshape(b, h, 2 * w, d)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _narrow_conv(x, kernel, padding):
  forms = conv_3x3_on_pairs, conv_3x3_plain
  pairs, plain = (functools.partial(form, padding=padding) for form in forms)
  return lax.platform_dependent(x, kernel, tpu=pairs, default=plain)


def _narrow_conv_bwd(padding, residuals, g):
  def pull(form):
    return lambda x, kernel, g: jax.vjp(lambda *a: form(*a, padding), x, kernel)[1](g)

  pairs, plain = pull(conv_3x3_on_pairs), pull(conv_3x3_plain)
  return lax.platform_dependent(*residuals, g, tpu=pairs, default=plain)


# Differentiated as a whole, `platform_dependent` would keep what either form needs.
_narrow_conv.defvjp(lambda x, kernel, padding: (_narrow_conv(x, kernel, padding), (x, kernel)),
                    _narrow_conv_bwd)  # fmt: skip
