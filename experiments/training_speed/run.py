"""Images per second of training and of prediction, beside PyTorch.

python experiments/training_speed/run.py [NAME ...] [--rounds=3] [--torch=PYTHON]
  [--precision=bfloat16]

--torch names the Python of an environment with PyTorch, see README.md: its networks then run in
turn with ours. Every figure is from a process of its own. results_DEVICE_PRECISION.json keeps them;
those of other networks stay in it.
"""

from jaxseg import spatial, start

if __name__ == "__main__":
  start.tune_allocator()  # as the command does

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxseg import losses, models, parallel, train_state
from jaxseg.augment import Augmentation
from jaxseg.train_step import make_train_step

HERE = pathlib.Path(__file__).parent
SIZE, NUM_CLASSES, REPEATS = 128, 3, 10
# name: (network, options, batch)
CASES = {
  "unet": ("unet", {"widths": (32, 64, 128, 256, 512)}, 4),
  "encoder_unet": ("encoder_unet", {"encoder": "mobilenet_v2"}, 8),
  "deeplabv3plus": ("deeplabv3plus", {"encoder": "mobilenet_v2"}, 8),
  "deeplabv3plus_resnet50": ("deeplabv3plus", {"encoder": "resnet50"}, 8),
}


def rate(function, batch):
  """(images per second by the median of several calls after two, seconds of the first call)."""
  times = []
  for _ in range(REPEATS + 2):
    began = time.perf_counter()
    jax.block_until_ready(function())
    times.append(time.perf_counter() - began)
  return batch / float(np.median(times[2:])), times[0]


def measure(name, precision):
  """{"train", "predict": images per second, "first_step_seconds"}: forward, backward and Adam on
  random images without augmentation, and the forward pass alone."""
  network, options, batch = CASES[name]
  model = models.build(network, NUM_CLASSES, precision=precision, **options)
  optimizer = optax.adam(1e-3)
  step = make_train_step(
    model,
    optimizer,
    losses=losses.select({"cross_entropy": 1.0}),
    class_weights=jnp.ones(NUM_CLASSES),
    augmentation=Augmentation(),
  )
  mesh = spatial.make_mesh()
  step = parallel.distribute_step(step, mesh, "jit")
  rng = np.random.default_rng(0)
  examples = {
    "image": rng.integers(0, 256, (batch, SIZE, SIZE, 3), np.uint8),
    "mask": rng.integers(0, NUM_CLASSES, (batch, SIZE, SIZE), np.uint8),
    "index": np.arange(batch, dtype=np.int32),
  }
  key = parallel.replicate(mesh, jax.random.key(0))
  state = parallel.replicate(mesh, train_state.create(models.init(model), optimizer))

  def train():
    nonlocal state
    state, metrics = step(state, parallel.put_on_mesh(mesh, examples, "jit"), key)
    return metrics["loss"]

  @jax.jit(compiler_options=parallel.compiler_options(jax.devices()[0]))
  def predict(variables, image):
    return model.apply(variables, image, train=False)

  trained, first = rate(train, batch)
  image = jnp.asarray(examples["image"] / np.float32(255))
  predicted, _ = rate(lambda: predict(state.variables, image), batch)
  return {"train": trained, "predict": predicted, "first_step_seconds": first}


def run(command, **environ):
  """The JSON object in the last line that a program prints."""
  environ = {**os.environ, **environ}
  done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
  return json.loads(done.stdout.splitlines()[-1])


def main():
  form = argparse.RawDescriptionHelpFormatter
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
  parser.add_argument("names", nargs="*", default=list(CASES), metavar="NAME")
  parser.add_argument("--precision", default="float32", choices=models.PRECISIONS)
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--torch", default="", help="Python of an environment with PyTorch")
  parser.add_argument("--here", action="store_true", help="measure one network in this process")
  flags = parser.parse_args()
  if flags.here:
    print(json.dumps(measure(flags.names[0], flags.precision)))
    return
  ours = [sys.executable, __file__, "--here", f"--precision={flags.precision}"]
  file = HERE / f"results_{jax.default_backend()}_{flags.precision}.json"
  found = {name: {"jaxseg": [], "torch": []} for name in flags.names}
  for _ in range(flags.rounds):
    for name in flags.names:
      found[name]["jaxseg"].append(run([*ours, name], PYTHONPATH=str(HERE.parents[1])))
      if flags.torch:
        # PyTorch as it comes: without our settings of the allocator.
        result = run([flags.torch, HERE / "peer.py", name], GLIBC_TUNABLES="")
        found[name]["torch"].append(result)
  before = json.loads(file.read_text()) if file.exists() else {}
  file.write_text(json.dumps({**before, **found}, indent=2) + "\n")
  for name, sides in found.items():
    for what in ("train", "predict"):
      medians = [float(np.median([r[what] for r in runs])) for runs in sides.values() if runs]
      ratio = f", ratio {medians[0] / medians[1]:.2f}" if len(medians) == 2 else ""
      print(f"{name}, {what}: {', '.join(f'{m:.1f}' for m in medians)} images/s{ratio}")


if __name__ == "__main__":
  main()
