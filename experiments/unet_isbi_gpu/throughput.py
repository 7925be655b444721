"""Training images a second of the paper's U-Net, 572 -> 388, and the share of the matmul peak.

python experiments/unet_isbi_gpu/throughput.py [--batch_sizes 1 8 16] [--size=572]
"""

import argparse
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg import losses, models, optim, train_state
from jaxseg.augment import Augmentation
from jaxseg.models.unet import UNet
from jaxseg.train_step import make_train_step

HERE = pathlib.Path(__file__).parent
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def forward_flops(model, size, channels=1):
  """Multiplications and additions of the convolutions for one image."""
  total, c = 0, channels

  def conv(pixels, taps, c_in, c_out):
    return 2 * pixels * taps * c_in * c_out

  for level, width in enumerate(model.widths):
    total += conv((size - 2) ** 2, 9, c, width) + conv((size - 4) ** 2, 9, width, width)
    size, c = size - 4, width
    if level < len(model.widths) - 1:
      size //= 2
  for width in reversed(model.widths[:-1]):
    size *= 2
    total += conv(size**2, 1, c, width)  # 2x2, stride 2: each output sees one input
    total += conv((size - 2) ** 2, 9, 2 * width, width) + conv((size - 4) ** 2, 9, width, width)
    size, c = size - 4, width
  return total + conv(size**2, 1, c, model.num_classes)


def seconds(function, *args, repeats):
  """Mean time of a call; `function` returns what its next call takes in place of `args[0]`."""
  state = jax.block_until_ready(function(*args))
  start = time.perf_counter()
  for _ in range(repeats):
    state = function(state, *args[1:])
  jax.block_until_ready(state)
  return (time.perf_counter() - start) / repeats


def matmul_peak(dtype, repeats, n):
  """FLOP/s of a square matrix product, the best that a convolution can hope for."""
  a = jnp.eye(n, dtype=dtype)
  return 2 * n**3 / seconds(jax.jit(jnp.matmul), a, a, repeats=repeats)


def training_rate(model, size, batch_size, repeats):
  """Images a second of whole training steps: augmentation, weight maps, gradient and update."""
  optimizer = optim.make_optimizer("sgd", 1e-3, momentum=0.99)
  state = train_state.create(models.init(model, channels=1), optimizer)
  augmentation = Augmentation(flip=True, flip_vertical=True, transpose=True, elastic=10.0)
  step = jax.jit(
    make_train_step(
      model,
      optimizer,
      losses=losses.select({"cross_entropy": 1.0}),
      class_weights=jnp.ones(2),
      augmentation=augmentation,
      border_weight=10.0,
    ),
    donate_argnums=0,
  )
  rng = np.random.default_rng(0)
  shape = (batch_size, size, size)
  blocks = rng.integers(0, 99, (batch_size, size // 32 + 1, size // 32 + 1), dtype=np.int32)
  instances = blocks.repeat(32, axis=1).repeat(32, axis=2)[:, :size, :size]
  batch = jax.device_put(
    {
      "image": rng.integers(0, 256, (*shape, 1), dtype=np.uint8),
      "mask": (instances > 0).astype(np.uint8),
      "instances": instances,
      "index": np.arange(batch_size, dtype=np.int32),
    }
  )
  key = jax.random.key(0)
  return batch_size / seconds(lambda s, b: step(s, b, key)[0], state, batch, repeats=repeats)


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--batch_sizes", nargs="*", type=int, default=[1, 8, 16])
  parser.add_argument("--size", type=int, default=572)
  parser.add_argument("--repeats", type=int, default=20)
  parser.add_argument("--widths", nargs="*", type=int, default=[64, 128, 256, 512, 1024])
  parser.add_argument("--matmul", type=int, default=8192)
  options = parser.parse_args()
  rows = []
  for name, dtype in DTYPES.items():
    model = UNet(2, widths=tuple(options.widths), padding="valid", dropout=0.5, dtype=dtype)
    flops = 3 * forward_flops(model, options.size)  # the gradient costs twice the forward pass
    peak = matmul_peak(dtype, options.repeats, options.matmul)
    for batch_size in options.batch_sizes:
      rate = training_rate(model, options.size, batch_size, options.repeats)
      rows.append(
        {
          "device": jax.devices()[0].device_kind,
          "precision": name,
          "batch_size": batch_size,
          "images_per_second": rate,
          "tflop_per_image": flops / 1e12,
          "matmul_peak_tflops": peak / 1e12,
          "share_of_peak": rate * flops / peak,
        }
      )
      print(json.dumps(rows[-1]), flush=True)
  (HERE / "throughput.json").write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
  main()
