"""Times forms of convolutions and pools against XLA's own, forward and with gradients.

python experiments/convolution_forms/run.py
"""

import functools
import json
import pathlib
import time

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from jaxseg import ops, up_convolution
from jaxseg.depthwise import depthwise_conv

LAYOUT = ("NHWC", "HWIO", "NHWC")


def grouped(x, kernel, dilation=1):
  return lax.conv_general_dilated(
    x,
    kernel[:, :, None],
    (1, 1),
    "SAME",
    rhs_dilation=(dilation, dilation),
    feature_group_count=x.shape[-1],
    dimension_numbers=LAYOUT,
  )


def transposed(x, kernel):
  return lax.conv_transpose(x, kernel[::-1, ::-1], (2, 2), "SAME")


def dilated(x, kernel, rate=4):
  return lax.conv_general_dilated(
    x, kernel, (1, 1), "SAME", rhs_dilation=(rate, rate), dimension_numbers=LAYOUT
  )


def space_to_batch(x, kernel, rate=4):
  """The same as a plain convolution of rate^2 images, each of every rate-th pixel."""
  b, h, w, c = x.shape
  x = jnp.pad(x, ((0, 0), (0, -h % rate), (0, -w % rate), (0, 0)))
  rows, cols = (n // rate for n in x.shape[1:3])
  x = x.reshape(b, rows, rate, cols, rate, c).transpose(2, 4, 0, 1, 3, 5)
  x = x.reshape(-1, rows, cols, c)
  y = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=LAYOUT)
  y = y.reshape(rate, rate, b, rows, cols, -1).transpose(2, 3, 0, 4, 1, 5)
  return y.reshape(b, rate * rows, rate * cols, -1)[:, :h, :w]


# name: (our form, XLA's, image shape, kernel shape or None)
CASES = {
  "depthwise 3x3, 4x64x64x128": (depthwise_conv, grouped, (4, 64, 64, 128), (3, 3, 128)),
  "depthwise 3x3 rate 6, 4x64x64x128": (
    functools.partial(depthwise_conv, dilation=6),
    functools.partial(grouped, dilation=6),
    (4, 64, 64, 128),
    (3, 3, 128),
  ),
  # Not ours: what the encoders would use if it were faster.
  "space-to-batch for 3x3 rate 4, 2x33x33x256 -> 256": (
    space_to_batch,
    dilated,
    (2, 33, 33, 256),
    (3, 3, 256, 256),
  ),
  "transposed 3x3 stride 2, 16x16x16x448 -> 128": (
    lambda x, kernel: up_convolution.up_conv_3x3([x], kernel),
    transposed,
    (16, 16, 16, 448),
    (3, 3, 448, 128),
  ),
  "transposed 2x2 stride 2, 4x64x64x64 -> 32": (
    functools.partial(up_convolution.up_conv, stride=2),
    transposed,
    (4, 64, 64, 64),
    (2, 2, 64, 32),
  ),
  "max-pool 2x2, 4x128x128x64": (
    ops.max_pool_2x2,
    lambda x: nn.max_pool(x, (2, 2), (2, 2)),
    (4, 128, 128, 64),
    None,
  ),
}


def milliseconds(function, *arguments, repeats=7):
  """The fastest of several runs after one that compiles."""
  function = jax.jit(function)
  jax.block_until_ready(function(*arguments))
  times = []
  for _ in range(repeats):
    start = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    times.append(time.perf_counter() - start)
  return 1e3 * min(times)


def main():
  rows = []
  for name, (ours, xla, image_shape, kernel_shape) in CASES.items():
    keys = jax.random.split(jax.random.key(0), 2)
    shapes = [shape for shape in (image_shape, kernel_shape) if shape]
    arguments = [jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=False)]
    row = {"operation": name}
    for form, function in (("ours", ours), ("xla", xla)):

      def both(*arguments, function=function):
        y, pull = jax.vjp(function, *arguments)
        return pull(y)

      row[f"{form} forward"] = milliseconds(function, *arguments)
      row[f"{form} forward+backward"] = milliseconds(both, *arguments)
    difference = jnp.abs(ours(*arguments) - xla(*arguments)).max()
    row["largest difference"] = float(difference / jnp.abs(xla(*arguments)).max())
    rows.append(row)
    print({k: round(v, 2) if k.endswith("ward") else v for k, v in row.items()}, flush=True)
  device = jax.devices()[0].device_kind
  path = pathlib.Path(__file__).with_name("results.json")
  path.write_text(json.dumps({"device": device, "jax": jax.__version__, "rows": rows}, indent=2))


if __name__ == "__main__":
  main()
