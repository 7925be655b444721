"""One section of run.py in this process: prints a line of JSON for each figure.

python experiments/gpu/sections.py matmul|border_weight|crf|input|on_device|training [--quick]
python experiments/gpu/sections.py train NETWORK PRECISION [--quick]
"""

import argparse
import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.extend(
  str(pathlib.Path(__file__).resolve().parents[1] / name)
  for name in ("gpu", "accelerators", "on_device")
)

import jax
import jax.numpy as jnp
import measure
import numpy as np
import programs
from PIL import Image
from programs_of_gpu import CRF_CLASSES, CRF_SHAPE, TRAINED

from configs import default
from jaxseg import build, models, parallel, settings, spatial, train_state, weight_maps
from jaxseg.crf import dense_crf


def seconds(function, repeats, start=None):
  """Median time of a call, after two; `function(state)` returns the state of the next call."""
  state, times = start, []
  for _ in range(repeats + 2):
    began = time.perf_counter()
    state = jax.block_until_ready(function(state))
    times.append(time.perf_counter() - began)
  return statistics.median(times[2:])


def matmul(quick):
  """TFLOP/s of a large square product: the best that a network can hope for."""
  n = 256 if quick else 8192
  product = jax.jit(jnp.matmul)
  for precision in ("bfloat16", "float32"):
    a = jnp.eye(n, dtype=precision)
    rate = 2 * n**3 / seconds(lambda x, a=a: product(a if x is None else x, a), 20)
    yield {"precision": precision, "matmul_tflops": rate / 1e12}


def random_batch(config, info, size, batch):
  """A batch as `input_pipeline` makes it, with cells of 32 px."""
  rng = np.random.default_rng(0)
  blocks = rng.integers(0, 99, (batch, size // 32 + 1, size // 32 + 1), dtype=np.int32)
  instances = blocks.repeat(32, axis=1).repeat(32, axis=2)[:, :size, :size]
  found = {
    "image": rng.integers(0, 256, (batch, size, size, info.channels), np.uint8),
    "mask": (instances % len(info.classes)).astype(np.uint8),
    "index": np.arange(batch, dtype=np.int32),
  }
  return found | ({"instances": instances} if build.needs_instances(config) else {})


def train(quick, name, precision):
  """Images/s of whole training steps, from batches that lie on the device."""
  batches, values, narrow = TRAINED[name]
  if quick:
    batches, values = (2,), values | narrow
  for batch in batches:
    keys = values | {"train.precision": precision, "train.batch_size": batch}
    config, info = programs.load(name, keys)
    yield {"by": "jaxseg", "program": name, "precision": precision, "batch": batch} | train_steps(
      config, info, 3 if quick else 20
    )


def train_steps(config, info, repeats):
  """The figures of one program."""
  size, batch, channels = config.data.image_size, config.train.batch_size, info.channels
  model, mesh = build.build_model(config, info), spatial.make_mesh()
  optimizer, _ = build.build_optimizer(config, 1000, 10)
  step = build.build_train_step(config, model, optimizer, jnp.ones(len(info.classes)), mesh, info)
  state = train_state.create(models.init(model, channels), optimizer)
  state, key = (parallel.replicate(mesh, x) for x in (state, jax.random.key(0)))
  data = parallel.put_on_mesh(mesh, random_batch(config, info, size, batch), "jit")
  began = time.perf_counter()
  state, _ = jax.block_until_ready(step(state, data, key))
  first = time.perf_counter() - began
  taken = seconds(lambda state: step(state, data, key)[0], repeats, state)
  variables = models.abstract_variables(model, channels)
  forward = models.summary(model, variables, channels, size, compile=False)["flop"]
  return {
    "size": size,
    "images_per_second": batch / taken,
    "first_step_seconds": first,
    "tflop_per_image": 3 * forward / 1e12,  # forward, and two products for the gradient
  }


def border_weight(quick):
  """Milliseconds for the border weights of eight images; by scans, too."""
  size = 44 if quick else 572
  config, info = programs.load("unet_isbi", {})
  instances = jnp.asarray(random_batch(config, info, size, 8)["instances"])
  radius = 29  # of `weight_maps.border_weight` at sigma 5
  forms = {
    "border_weight": weight_maps.border_weight,
    "by windows": lambda x: weight_maps.two_nearest_by_windows(x, radius),
    "by scans": lambda x: weight_maps.two_nearest_by_scans(x, radius),
  }
  for name, form in forms.items():
    call = jax.jit(jax.vmap(form))
    taken = seconds(lambda _, call=call: call(instances), 3 if quick else 20)
    yield {"border_weight": name, "images": 8, "size": size, "ms": taken * 1e3}


def crf(quick):
  """Seconds of the exact dense CRF, all pairs of pixels."""
  h, w = (24, 32) if quick else CRF_SHAPE
  rng = np.random.default_rng(0)
  probs = jax.nn.softmax(jnp.asarray(3 * rng.normal(size=(h, w, CRF_CLASSES)), jnp.float32))
  image = jnp.asarray(rng.integers(0, 256, (h, w, 3)), jnp.float32)
  taken = seconds(lambda _: dense_crf(probs, image, exact=True), 1)
  yield {"crf": "exact", "height": h, "width": w, "classes": CRF_CLASSES, "seconds": taken}


def read_jpegs(quick):
  """Images/s that the host reads: JPEG of 500 x 375 px and PNG masks, cut to windows of 256 px."""
  count, batch = (8, 4) if quick else (128, 16)
  rng = np.random.default_rng(0)
  with tempfile.TemporaryDirectory() as folder:
    for kind in ("images", "masks"):
      (pathlib.Path(folder) / "train" / kind).mkdir(parents=True)
    for i in range(count):
      noise = Image.fromarray(rng.integers(0, 256, (47, 63, 3), np.uint8))
      place = pathlib.Path(folder) / "train"
      noise.resize((500, 375), Image.Resampling.BICUBIC).save(place / "images" / f"{i}.jpg")
      mask = rng.integers(0, 3, (15, 20), np.uint8).repeat(25, 0).repeat(25, 1)
      Image.fromarray(mask).save(place / "masks" / f"{i}.png")
    values = {"data.name": "folder", "data.data_dir": folder, "data.classes": ("a", "b", "c"),
              "data.fit": "crop", "data.image_size": 256, "data.cache_mb": 0,
              "data.num_threads": os.cpu_count(), "train.batch_size": batch}  # fmt: skip
    config = settings.override(default.get_config(), values)
    info, source = build.open_split(config, "train")
    batches = build.build_batches(config, info, source, 0, None, False)
    with contextlib.closing(batches):
      next(batches)
      began, rounds = time.perf_counter(), 4 * count // batch
      for _ in range(rounds):
        next(batches)
      rate = rounds * batch / (time.perf_counter() - began)
  yield {"input": "JPEG 500 x 375", "threads": os.cpu_count(), "images_read_per_second": rate}


def training(quick):
  """Seconds and score of `./launch.sh`'s training, with start-up and compilation."""
  narrow = ["--config.model.widths=4,8", "--config.train.num_epochs=0.1"] if quick else []
  with tempfile.TemporaryDirectory() as folder:
    command = [sys.executable, "-m", "jaxseg.main", "--config=configs/unet_cells.py"]
    began = time.perf_counter()
    root = pathlib.Path(__file__).resolve().parents[2]
    subprocess.run([*command, f"--workdir={folder}/run", *narrow], check=True, cwd=root)
    taken = time.perf_counter() - began
    scores = json.loads((pathlib.Path(folder) / "run" / "evaluation.json").read_text())
  yield {"training": "unet_cells", "seconds": taken, "miou": scores["miou"]}


def on_device(quick):
  """Steps/s with batches from the host and from data on the device, generated cells."""
  narrow = {"model.widths": (4, 8), "data.image_size": 32} if quick else {}
  config, _ = programs.load("unet_cells", {"train.batch_size": 32, **narrow})
  for name, row in measure.measure(config).items():
    yield {"on_device": name, **row}


def main():
  form = argparse.RawDescriptionHelpFormatter
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
  parser.add_argument("section", nargs="+")
  parser.add_argument("--quick", action="store_true")
  args = parser.parse_args()
  name, *options = args.section
  functions = (matmul, train, border_weight, crf, on_device, training)
  sections = {function.__name__: function for function in functions} | {"input": read_jpegs}
  for row in sections[name](args.quick, *options):
    # The device belongs to one process: not to this one where another one trains.
    device = "-" if name == "training" else jax.devices()[0].device_kind
    print(json.dumps({"device": device, **row}), flush=True)


if __name__ == "__main__":
  main()
