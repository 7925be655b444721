"""Cycles of the forms that operations have for TPUs and elsewhere, estimated by the TPU compiler.

python experiments/accelerators/forms.py [--target=tpu:v5e:2x2] [--case=NAME]

Each operation stands between two products and ReLUs, forward and with all gradients, on one chip.
"""

import argparse
import functools
import importlib
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]


def make_cases():
  """{name: (input's shape, kernel's shape, {form: function of both})}"""
  from jaxseg import convolution, depthwise, up_convolution

  def of_depthwise(stride=1, dilation=1):
    edges = ((dilation, dilation),) * 2 if stride == 1 else ((0, 1),) * 2
    form = {"stride": stride, "dilation": dilation, "pads": edges}
    forms = depthwise.shifted_sum, depthwise.grouped_conv
    return {f.__name__: functools.partial(f, **form) for f in forms}

  def one_part(function):
    return lambda x, kernel: function([x], kernel)

  up_3x3 = up_convolution.up_conv_3x3_by_taps, up_convolution.up_conv_3x3_by_parts
  up_2x2 = {
    "up_conv_by_blocks": functools.partial(up_convolution.up_conv_by_blocks, stride=2),
    "transposed_conv": functools.partial(up_convolution.transposed_conv, strides=(2, 2)),
    "up_conv_to_groups": functools.partial(up_convolution.up_conv_to_groups, stride=2, group=2),
  }

  def up_fcn(stride):
    return {
      "up_conv_by_blocks": functools.partial(up_convolution.up_conv_by_blocks, stride=stride),
      "transposed_conv": functools.partial(up_convolution.transposed_conv, strides=(stride,) * 2),
      **{
        f"up_conv_to_groups of {group}": functools.partial(
          up_convolution.up_conv_to_groups, stride=stride, group=group
        )
        for group in (2, 4, 8)
      },
    }

  edges = ((1, 1), (1, 1))
  narrow = {
    "conv_plain": functools.partial(convolution.conv_plain, padding=edges),
    "conv_3x3_on_pairs": functools.partial(convolution.conv_3x3_on_pairs, padding=edges),
  }
  stem = {"conv_plain": functools.partial(convolution.conv_plain, strides=(2, 2),
                                          padding=((3, 3), (3, 3))),
          "stem_conv_on_blocks": convolution.stem_conv_on_blocks}  # fmt: skip
  return {
    "depthwise 16x64x64x32": ((16, 64, 64, 32), (3, 3, 32), of_depthwise()),
    "depthwise 16x32x32x144": ((16, 32, 32, 144), (3, 3, 144), of_depthwise()),
    "depthwise 16x64x64x96, stride 2": ((16, 64, 64, 96), (3, 3, 96), of_depthwise(2)),
    "depthwise 4x32x32x728, dilation 2": ((4, 32, 32, 728), (3, 3, 728), of_depthwise(1, 2)),
    "depthwise 4x128x128x304": ((4, 128, 128, 304), (3, 3, 304), of_depthwise()),
    "up-convolution 3x3, 16x32x32x208 -> 64": (
      (16, 32, 32, 208), (3, 3, 208, 64), {f.__name__: one_part(f) for f in up_3x3}),
    "up-convolution 2x2, 16x64x64x128 -> 64": (
      (16, 64, 64, 128), (2, 2, 128, 64), up_2x2),
    **{
      f"up-convolution {2 * s}x{2 * s}, stride {s}, 4x{224 // s}x{224 // s}x21 -> 21": (
        (4, 224 // s, 224 // s, 21), (2 * s, 2 * s, 21, 21), up_fcn(s)) for s in (8, 16, 32)
    },
    "convolution 3x3, 4x128x128x64": ((4, 128, 128, 64), (3, 3, 64, 64), narrow),
    "stem 7x7, stride 2, 4x512x512x3 -> 64": ((4, 512, 512, 3), (7, 7, 3, 64), stem),
  }  # fmt: skip


def mega_cycles(target, shape, kernel_shape, function):
  """Estimated cycles of value and gradients, in millions."""
  import jax
  import jax.numpy as jnp

  from jaxseg import parallel

  compiling, hlo = (importlib.import_module(name) for name in ("compile", "hlo"))
  device = compiling.find_devices(target)[0]
  sharding = jax.sharding.SingleDeviceSharding(device)
  is_image = shape[-1] == 3

  def loss(params, x):
    first, kernel, last = (param.astype(jnp.bfloat16) for param in params)
    if not is_image:
      x = jax.nn.relu(x.reshape(-1, 32) @ first).reshape(shape)
    y = jax.nn.relu(function(x, kernel))
    return jnp.mean(jnp.square((y.reshape(-1, y.shape[-1]) @ last).astype(jnp.float32)))

  def array(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype, sharding=sharding)

  params = array(32, shape[-1]), array(*kernel_shape), array(kernel_shape[-1], 32)
  x = array(*(shape if is_image else (*shape[:3], 32)), dtype=jnp.bfloat16)
  gradient = jax.grad(loss, 0 if is_image else (0, 1))
  run = jax.jit(gradient, compiler_options=parallel.compiler_options(device))
  text = run.lower(params, x).compile().as_text()
  return sum(cost[0] for cost in hlo.costs(text)) / 1e6


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--target", default="tpu:v5e:2x2")
  parser.add_argument("--case", action="append", help="default: all")
  args = parser.parse_args()
  importlib.import_module("compile").prepare()
  cases = make_cases()
  print("| operation | form | Mcycles |\n|---|---|---|")
  for name in args.case or cases:
    shape, kernel_shape, forms = cases[name]
    for form, function in forms.items():
      cycles = mega_cycles(args.target, shape, kernel_shape, function)
      print(f"| {name} | `{form}` | {cycles:.3f} |", flush=True)


if __name__ == "__main__":
  main()
