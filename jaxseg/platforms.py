"""Functions of arrays in a form for each platform; `experiments/accelerators` has the figures."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint

_PLAIN = contextvars.ContextVar("plain", default=False)
_LOOP = contextvars.ContextVar("loop", default=False)


@contextlib.contextmanager
def _holds(variable: contextvars.ContextVar) -> Iterator[None]:
  token = variable.set(True)
  try:
    yield
  finally:
    variable.reset(token)


def plain_forms() -> contextlib.AbstractContextManager:
  """What is traced in this block has one form for all platforms, as ONNX and `jax.jvp` need."""
  return _holds(_PLAIN)


def in_loop() -> contextlib.AbstractContextManager:
  """What is traced in this block is inside a loop, where CPUs need other forms."""
  return _holds(_LOOP)


def is_in_loop() -> bool:
  """Whether this is traced in a block of `in_loop`."""
  return _LOOP.get()


@contextlib.contextmanager
def usual_rules() -> Iterator[None]:
  """JAX's own rules for mixed types, broadcasting, transfers, in a block or decorated function.

  A user's stricter ones, such as $JAX_NUMPY_DTYPE_PROMOTION=strict, are for code of the user's own.
  """
  promotion = jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow")
  with promotion[0], promotion[1], jax.transfer_guard("allow"):
    yield


def by_platform(
  default: Callable, *, gradients: Mapping[str, Callable] | None = None, **forms: Callable
) -> Callable:
  """One function of arrays in several forms: value and gradient take that of the platform.

  It has gradients (`jax.grad`, also of gradients) but no forward mode (`jax.jvp`). Differentiated
  by itself, `lax.platform_dependent` would keep what any of the forms needs.

  Args:
    default: where none of `forms` is given, {platform: function}; names as in JAX: "tpu", "cuda".
    gradients: {platform: function of (arguments, output's gradient)} to the gradients of the
      arguments, in place of that of the form.
  """
  if _PLAIN.get() or not (forms or gradients):
    return default

  @jax.custom_vjp
  def run(*args):
    return lax.platform_dependent(*args, default=default, **forms)

  def backward(args, g):
    def pull(form):
      return lambda args, g: jax.vjp(form, *args)[1](g)

    pulls = {platform: pull(form) for platform, form in forms.items()} | (gradients or {})
    return lax.platform_dependent(args, g, default=pull(default), **pulls)

  run.defvjp(lambda *args: (run(*args), args), backward)
  return run


def classes_apart(x: jax.Array) -> jax.Array:
  """The same [B,H,W,C]; on a TPU it lies as [B,C,H,W] in memory.

  For few channels, of which 128 lanes would be mostly empty: the losses of logits take a fraction
  of the time.
  """
  order = Layout((0, 3, 1, 2))
  return by_platform(lambda x: x, tpu=lambda x: with_layout_constraint(x, order))(x)


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
