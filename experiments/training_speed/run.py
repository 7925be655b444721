"""Images per second of one training step: forward, backward, Adam.

python experiments/training_speed/run.py [NAME ...] [--precision=bfloat16]
"""

import argparse
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxseg import losses, models, train_state
from jaxseg.augment import Augmentation
from jaxseg.train_step import make_train_step

NUM_CLASSES, REPEATS = 3, 10
# name: (network, options, batch, height and width in px)
CASES = {
  "unet, base 32": ("unet", {"widths": (32, 64, 128, 256, 512)}, 4, 128),
  "encoder_unet, MobileNetV2": ("encoder_unet", {"encoder": "mobilenet_v2"}, 8, 128),
  "deeplabv3plus, MobileNetV2": ("deeplabv3plus", {"encoder": "mobilenet_v2"}, 8, 128),
  "deeplabv3plus, ResNet-50": ("deeplabv3plus", {"encoder": "resnet50"}, 8, 128),
}


def seconds(name, kwargs, batch, size, precision):
  """(fastest, median) of several steps after one that compiles."""
  model = models.build(name, NUM_CLASSES, precision=precision, **kwargs)
  optimizer = optax.adam(1e-3)
  step = make_train_step(
    model,
    optimizer,
    losses=losses.select({"cross_entropy": 1.0}),
    class_weights=jnp.ones(NUM_CLASSES),
    augmentation=Augmentation(),
  )
  step = jax.jit(step, donate_argnums=0)
  state = train_state.create(models.init(model), optimizer)
  rng = np.random.default_rng(0)
  examples = {
    "image": rng.integers(0, 256, (batch, size, size, 3), np.uint8),
    "mask": rng.integers(0, NUM_CLASSES, (batch, size, size), np.uint8),
    "index": np.arange(batch, dtype=np.int32),
  }
  key, times = jax.random.key(0), []
  for _ in range(REPEATS + 1):
    start = time.perf_counter()
    state, metrics = step(state, examples, key)
    metrics["loss"].block_until_ready()
    times.append(time.perf_counter() - start)
  return min(times[1:]), float(np.median(times[1:]))


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("names", nargs="*", default=list(CASES), metavar="NAME")
  parser.add_argument("--precision", default="float32", choices=models.PRECISIONS)
  flags, results = parser.parse_args(), {}
  for name in flags.names:
    network, kwargs, batch, size = CASES[name]
    best, median = seconds(network, kwargs, batch, size, flags.precision)
    results[name] = {"step_seconds": median, "images_per_second": batch / median}
    rates = f"{batch / median:.1f} images/s (best step {batch / best:.1f})"
    print(f"{name}, {batch}x{size}x{size}, {flags.precision}: {rates}", flush=True)
  file = pathlib.Path(__file__).with_name(f"results_{jax.default_backend()}_{flags.precision}.json")
  file.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
  main()
