"""Functions of arrays in a form for each platform; `experiments/accelerators` has the figures."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator

import jax
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint

_PLAIN = contextvars.ContextVar("plain", default=False)


@contextlib.contextmanager
def plain_forms() -> Iterator[None]:
  """What is traced in this block has one form for all platforms, as ONNX needs."""
  token = _PLAIN.set(True)
  try:
    yield
  finally:
    _PLAIN.reset(token)


def by_platform(*, tpu: Callable, default: Callable) -> Callable:
  """One function of arrays in two forms: value and gradient take that of the platform.

  Reverse mode only. Differentiated by itself, `lax.platform_dependent` would keep what either form
  needs.
  """

  def choose(tpu, default, *args):
    if _PLAIN.get():
      return default(*args)
    return lax.platform_dependent(*args, tpu=tpu, default=default)

  @jax.custom_vjp
  def run(*args):
    return choose(tpu, default, *args)

  def backward(args, g):
    def pull(form):
      return lambda *args: jax.vjp(form, *args[:-1])[1](args[-1])

    return choose(pull(tpu), pull(default), *args, g)

  run.defvjp(lambda *args: (run(*args), args), backward)
  return run


def classes_apart(x: jax.Array) -> jax.Array:
  """The same [B,H,W,C]; on a TPU it lies as [B,C,H,W] in memory.

  For few channels, of which 128 lanes would be mostly empty: the losses of logits take a fraction
  of the time.
  """
  order = Layout((0, 3, 1, 2))
  return by_platform(tpu=lambda x: with_layout_constraint(x, order), default=lambda x: x)(x)
