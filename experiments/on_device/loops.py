"""Gradients of a 3x3 convolution on the CPU, outside and inside of a loop.

python experiments/on_device/loops.py

In the order of axes in which JAX differentiates, and in that of `convolution.gradients_in_order`.
Writes loops.json.
"""

import functools
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxseg.convolution import gradients_in_order
from jaxseg.parallel import compiler_options

SHAPES = {"4 channels, 16 x 64 x 64 px": (16, 64, 4), "32 channels, 4 x 128 x 128 px": (4, 128, 32)}
STEPS, EDGES = (1, 1), ((1, 1), (1, 1))


def as_differentiated(x, kernel, g):
  conv = functools.partial(lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC"))
  return jax.vjp(lambda *args: conv(*args, STEPS, EDGES), x, kernel)[1](g)


def in_order(x, kernel, g):
  return gradients_in_order(x, kernel, g, STEPS, EDGES, STEPS)


def in_loop(gradients, x, kernel, g, num):
  def body(_, state):
    return tuple(a + 1e-9 * b for a, b in zip(state, gradients(*state, g), strict=True))

  return lax.fori_loop(0, num, body, (x, kernel))


def milliseconds(function, *args):
  jax.block_until_ready(function(*args))
  times = []
  for _ in range(3):
    start = time.perf_counter()
    jax.block_until_ready(function(*args))
    times.append(time.perf_counter() - start)
  return round(1000 * float(np.median(times)), 2)


def main():
  jit = functools.partial(jax.jit, compiler_options=compiler_options(jax.devices()[0]))
  results = {}
  for name, (batch, side, channels) in SHAPES.items():
    x, g = (jax.random.normal(jax.random.key(i), (batch, side, side, channels)) for i in range(2))
    kernel = jax.random.normal(jax.random.key(2), (3, 3, channels, channels))
    results[name] = {}
    for gradients in (as_differentiated, in_order):
      loop = jit(functools.partial(in_loop, gradients))
      results[name][gradients.__name__] = {
        "outside_ms": milliseconds(jit(gradients), x, kernel, g),
        "inside_ms": milliseconds(loop, x, kernel, g, jnp.int32(1)),
      }
    print(json.dumps({name: results[name]}, indent=2), flush=True)
  pathlib.Path(__file__).with_name("loops.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
  main()
