"""Operations in forms that suit a GPU, where convolutions are calls of a library (cuDNN).

What stands between two calls goes through memory once more, so these forms give cuDNN more of the
work, in its own layout, and leave fewer passes. `experiments/accelerators` has the figures.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxseg import ops
from jaxseg.convolution import is_plain

NARROW = 4  # channels up to which products are not worth a matrix product


@jax.custom_vjp
def relu(x: jax.Array) -> jax.Array:
  """max(x, 0), whose gradient needs the result and not the argument.

  The argument need not be kept: cuDNN adds the bias and takes the maximum while it convolves.
  """
  return jnp.maximum(x, 0)


# `y > 0` would be simplified to `x > 0`, which needs the argument again.
relu.defvjp(lambda x: (relu(x),) * 2, lambda y, g: (jnp.where(y != 0, g, 0).astype(g.dtype),))


@jax.custom_vjp
def max_pool_2x2(x: jax.Array) -> jax.Array:
  """`ops.max_pool_2x2`; on a GPU its gradient is one pass over the argument."""
  return ops.max_pool_2x2(x)


def max_pool_2x2_gradient(x: jax.Array, g: jax.Array) -> jax.Array:
  """The gradient of `ops.max_pool_2x2`, ties included.  [B,H,W,D], [B,H/2,W/2,D] -> [B,H,W,D]"""
  b, h, w, d = x.shape
  x = x.reshape(b, h // 2, 2, w // 2, 2, d)
  beside = jnp.flip(x, 4)
  row = jnp.maximum(x, beside)
  share = _share(x, beside) * _share(row, jnp.flip(row, 2))
  return (share * g[:, :, None, :, None]).reshape(b, h, w, d)


def _share(x, other):
  """What x gets of a gradient: all if it is larger, half if both are equal."""
  return jnp.where(x > other, 1.0, jnp.where(x == other, 0.5, 0.0)).astype(x.dtype)


def _pool_bwd(x, g):
  def slices(x, g):
    return jax.vjp(ops.max_pool_2x2, x)[1](g)[0]

  return (lax.platform_dependent(x, g, cuda=max_pool_2x2_gradient, default=slices),)


max_pool_2x2.defvjp(lambda x: (ops.max_pool_2x2(x), x), _pool_bwd)


def up_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """`ops.up_conv` at the stride of the kernel; on a GPU by cuDNN.

  Args:
    x: [B,H,W,C].  kernel: [k,k,C,D].
  Returns:
    [B,kH,kW,D]
  """
  return ops.up_conv(x, kernel, kernel.shape[0]) if is_plain() else _up_conv(x, kernel)


def up_conv_by_convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """`up_conv` as what it is the gradient of: a convolution with that kernel and stride."""
  b, h, w, _ = x.shape
  k, _, _, d = kernel.shape
  like = jax.ShapeDtypeStruct((b, k * h, k * w, d), x.dtype)
  return jax.linear_transpose(lambda y: _down_conv(y, kernel), like)(x)[0]


def up_conv_gradients(x: jax.Array, kernel: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Gradients of `up_conv` in x and kernel, as convolution and as gradient of its kernel."""
  dx, pull = jax.vjp(lambda kernel: _down_conv(g, kernel), kernel)
  return dx, pull(x)[0]


def _down_conv(y, kernel):
  """Convolution whose stride is the size of its kernel.  [B,kH,kW,D], [k,k,C,D] -> [B,H,W,C]"""
  numbers = ("NHWC", "HWOI", "NHWC")
  return lax.conv_general_dilated(y, kernel, kernel.shape[:2], "VALID", dimension_numbers=numbers)


def _product(x, kernel):
  return ops.up_conv(x, kernel, kernel.shape[0])


@jax.custom_vjp
def _up_conv(x, kernel):
  return lax.platform_dependent(x, kernel, cuda=up_conv_by_convolution, default=_product)


def _up_conv_bwd(residuals, g):
  def by_product(x, kernel, g):
    return jax.vjp(_product, x, kernel)[1](g)

  return lax.platform_dependent(*residuals, g, cuda=up_conv_gradients, default=by_product)


_up_conv.defvjp(lambda x, kernel: (_up_conv(x, kernel), (x, kernel)), _up_conv_bwd)


def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Matrix product; on a GPU few columns have gradients that fuse with what is around them.

  Args:
    x: [n,C].  kernel: [C,D].
  Returns:
    [n,D]
  """
  return _narrow_product(x, kernel) if kernel.shape[1] <= NARROW else x @ kernel


def narrow_gradients(x: jax.Array, kernel: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Gradients of a product of few columns, column by column."""
  columns = [g[:, i : i + 1] for i in range(kernel.shape[1])]
  dx = sum(column * kernel[:, i] for i, column in enumerate(columns))
  sums = [jnp.sum(x * column, axis=0) for column in columns]
  return dx, jnp.stack(sums, axis=1).astype(kernel.dtype)


@jax.custom_vjp
def _narrow_product(x, kernel):
  return x @ kernel


def _narrow_bwd(residuals, g):
  def by_product(x, kernel, g):
    return g @ kernel.T, x.T @ g

  return lax.platform_dependent(*residuals, g, cuda=narrow_gradients, default=by_product)


_narrow_product.defvjp(lambda x, kernel: (x @ kernel, (x, kernel)), _narrow_bwd)


def in_memory_order(tree: Any) -> Any:
  """The same arrays; on a GPU, lying in memory as their axes are ordered before they are used.

  cuDNN writes the gradient of a kernel with its output channels first. Mixed into the update of
  the weights, that order would keep it from happening in place: copies of all weights and moments.
  """

  def flat(x):
    return lax.optimization_barrier(x.reshape(-1)).reshape(x.shape)

  return jax.tree.map(
    lambda x: lax.platform_dependent(x, cuda=flat, default=lambda x: x) if x.ndim > 2 else x, tree
  )
