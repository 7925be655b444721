"""Convolutions in the form that suits the platform.

`experiments/accelerators` has the figures.
"""

import contextlib
import contextvars
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_PLAIN = contextvars.ContextVar("plain", default=False)
_LOOP = contextvars.ContextVar("loop", default=False)


@contextlib.contextmanager
def plain_forms() -> Iterator[None]:
  """What is traced in this block has one form for all platforms, as ONNX needs."""
  token = _PLAIN.set(True)
  try:
    yield
  finally:
    _PLAIN.reset(token)


@contextlib.contextmanager
def in_loop() -> Iterator[None]:
  """What is traced in this block is inside a loop; on CPUs, gradients are `gradients_in_order`."""
  token = _LOOP.set(True)
  try:
    yield
  finally:
    _LOOP.reset(token)


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
  edge = dilation if padding == "same" else 0
  options = (1, 1), ((edge, edge),) * 2, (dilation, dilation)
  if _PLAIN.get():
    return _plain(x, kernel, *options)
  on_pairs = dilation == 1 and x.shape[2] % 2 == 0 and max(kernel.shape[2:]) <= 64
  return _conv(x, kernel, on_pairs, *options)


def conv(
  x: jax.Array,
  kernel: jax.Array,
  strides: Sequence[int],
  padding: str | Sequence[tuple[int, int]],
  *,
  rhs_dilation: Sequence[int] = (1, 1),
  **rest: Any,
) -> jax.Array:
  """`lax.conv_general_dilated` of [B,H,W,C] and [k,l,C,D]; `nn.Conv` takes it.

  Args:
    rest: more that `nn.Conv` passes on: without groups and dilation of the input.
  """
  assert rest.get("feature_group_count", 1) == 1
  assert set(rest.get("lhs_dilation") or (1,)) == {1}
  if isinstance(padding, str):
    reach = [(k - 1) * r + 1 for k, r in zip(kernel.shape[:2], rhs_dilation, strict=True)]
    padding = lax.padtype_to_pads(x.shape[1:3], reach, strides, padding)
  options = tuple(strides), tuple(map(tuple, padding)), tuple(rhs_dilation)
  return _plain(x, kernel, *options) if _PLAIN.get() else _conv(x, kernel, False, *options)


def _plain(x, kernel, strides=(1, 1), padding=((0, 0), (0, 0)), dilation=(1, 1), **more):
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
  dx = _plain(g, flipped, padding=around, dilation=dilation, lhs_dilation=strides)
  # The channels are the batch, and the output's gradient is the kernel.
  dk = _plain(x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3), dilation, beyond, strides)
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
  spread = jnp.einsum("pioT,kTcd->kpicod", taps.astype(kernel.dtype), kernel)
  spread = spread.reshape(3, len(pairs), 2 * c, 2 * d)
  y = _plain(pixel_pairs(x), spread, padding=padding)
  b, h, w, _ = y.shape
  return y.reshape(b, h, 2 * w, d)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def _conv(x, kernel, on_pairs, strides, padding, dilation):
  plain = functools.partial(_plain, strides=strides, padding=padding, dilation=dilation)
  if not on_pairs:
    return plain(x, kernel)
  pairs = functools.partial(conv_3x3_on_pairs, padding=padding)
  return lax.platform_dependent(x, kernel, tpu=pairs, default=plain)


def _conv_bwd(on_pairs, strides, padding, dilation, residuals, g):
  def pull(form, *options):
    return lambda x, kernel, g: jax.vjp(lambda *a: form(*a, *options), x, kernel)[1](g)

  options = strides, padding, dilation
  plain, forms = pull(_plain, *options), {}
  if _LOOP.get():
    forms["cpu"] = lambda *a: gradients_in_order(*a, *options)
  if on_pairs:
    forms["tpu"] = pull(conv_3x3_on_pairs, padding)
  if not forms:
    return plain(*residuals, g)
  return lax.platform_dependent(*residuals, g, default=plain, **forms)


# Differentiated as a whole, `platform_dependent` would keep what either form needs.
_conv.defvjp(lambda x, kernel, *options: (_conv(x, kernel, *options), (x, kernel)), _conv_bwd)
