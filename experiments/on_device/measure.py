"""Training steps per second with batches from the host and from data on the device; evaluations.

python experiments/on_device/measure.py [--pets=DIR] [--camvid=DIR] [--only=training|evaluation]

DIR is config.data.data_dir of configs/unet_pets.py and configs/deeplabv3plus_camvid_small.py.
Networks are narrow, so that the host's share of a step shows. Writes what it measures into
results.json.
"""

import argparse
import functools
import itertools
import json
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from configs import deeplabv3plus_camvid_small, unet_pets
from jaxseg import (
  UserError,
  build,
  models,
  on_device,
  parallel,
  predictors,
  spatial,
  train_state,
  training,
)
from jaxseg.data.input_pipeline import Cached
from jaxseg.data.stored import Kept
from jaxseg.modes import evaluate_split
from jaxseg.tally import for_scores

ROUNDS, NUM_STEPS = 3, 24
NARROW = {
  "model.name": "unet",
  "model.encoder": "",
  "model.pretrained": "",
  "model.widths": (4, 8),
  "model.stem_stride": 2,
  "train.batch_size": 16,
  "train.lr_multipliers": (),
  "predict.output_stride": 0,
  "eval.boundary_f1": False,
  "eval.num_samples": 0,
}
VARIANTS = {
  "host": {"data.on_device": False, "train.steps_per_call": 1},
  "host, 8 steps a call": {"data.on_device": False, "train.steps_per_call": 8},
  "on device": {"data.on_device": True, "train.steps_per_call": 1},
  "on device, 8 steps a call": {"data.on_device": True, "train.steps_per_call": 8},
}


class Steps:
  """Training steps of a config, as `training.train` takes them."""

  def __init__(self, config, info, source):
    self.config, self.mesh = config, spatial.make_mesh()
    model = build.build_model(config, info)
    optimizer, _ = build.build_optimizer(config, 1000, 1.0)
    self.stored = stored = training.store_on_devices(config, source, model.margin, self.mesh)
    source = stored.examples if stored else source
    self.batches = build.build_batches(config, info, source, model.margin, None, bool(stored))
    self.step = build.build_train_step(
      config,
      model,
      optimizer,
      jnp.ones(len(info.classes)),
      self.mesh,
      info,
      lambda step: training.with_less_host(
        step, config=config, mesh=self.mesh, stored=stored, num_steps=config.train.steps_per_call
      ),
    )
    state = train_state.create(models.init(model, info.channels, 0), optimizer)
    self.state, self.key = parallel.replicate(self.mesh, (state, jax.random.key(0)))

  def draw(self, num):
    """A batch for one call, on the device, and its bytes."""
    batch = on_device.stack_batches(list(itertools.islice(self.batches, num)), num)
    num_bytes = sum(x.nbytes for x in batch.values()) / num
    batch = parallel.put_on_mesh(self.mesh, batch, self.config.train.parallel)
    return batch | ({"stored": self.stored.arrays} if self.stored else {}), num_bytes

  def seconds(self, num_steps):
    """Seconds per step."""
    start, num = time.perf_counter(), self.config.train.steps_per_call
    for _ in range(num_steps // num):
      self.state, _ = self.step(self.state, self.draw(num)[0], self.key)
    jax.block_until_ready(self.state)
    return (time.perf_counter() - start) / num_steps


def start_variants(config):
  """{variant: Steps}, warm."""
  info, source = build.open_split(config, "train")
  runs = {}
  for name, changes in VARIANTS.items():
    variant = config.copy_and_resolve_references()
    variant.update_from_flattened_dict(changes)
    runs[name] = Steps(variant, info, source)
    runs[name].seconds(max(16, len(source) // config.train.batch_size // 8 * 8 + 8))  # fills caches
  return runs


def measure(config):
  """{variant: {"steps_per_second", "host_ms": CPU time of drawing a batch, "bytes": of it}}"""
  runs = start_variants(config)
  times = {name: [] for name in runs}
  for _ in range(ROUNDS):
    for name, steps in runs.items():
      times[name].append(steps.seconds(NUM_STEPS))
  results = {}
  for name, steps in runs.items():
    num = steps.config.train.steps_per_call
    start = time.process_time()
    num_bytes = [steps.draw(num)[1] for _ in range(NUM_STEPS // num)][0]
    host = (time.process_time() - start) / NUM_STEPS
    results[name] = {
      "steps_per_second": round(1 / float(np.median(times[name])), 2),
      "host_ms": round(1000 * host, 2),
      "bytes": round(num_bytes),
    }
  return results


def measure_evaluation(config):
  """{variant: {"images_per_second", "cpu_ms": time of all cores for an image}}"""
  info, source = build.open_split(config, "eval")
  source = Cached(source, 4 << 30)
  model = build.build_model(config, info)
  predict = predictors.build_predictor(config, model, info)
  variables = models.init(model, info.channels, 0)
  keep = Kept(lambda line: print(line, flush=True))
  runs = {
    "probabilities to the host": functools.partial(predict, variables),
    "counts to the host": for_scores(predict, variables),
    "counts, images on the device": for_scores(predict, variables, keep),
  }
  times = {name: [] for name in runs}
  for i in range(ROUNDS + 1):
    for name, run in runs.items():
      start = np.array([time.perf_counter(), time.process_time()])
      result = evaluate_split(run, source, info, config).result
      if i:  # the first compiles and fills caches
        times[name].append(np.array([time.perf_counter(), time.process_time()]) - start)
  results = {}
  for name in runs:
    seconds, cpu = np.median(times[name], axis=0) / result["num_images"]
    results[name] = {"images_per_second": round(1 / seconds, 1), "cpu_ms": round(1000 * cpu, 2)}
  return results


PARTS = {"training": measure, "evaluation": measure_evaluation}


def main():
  form = argparse.RawDescriptionHelpFormatter
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
  parser.add_argument("--pets")
  parser.add_argument("--camvid")
  parser.add_argument("--only", action="append", choices=PARTS)
  arguments = parser.parse_args()
  if not (arguments.pets or arguments.camvid):
    parser.error("give --pets=DIR, --camvid=DIR or both")
  cases = {
    "Pets, resized to 128 px": (unet_pets, {"data.data_dir": arguments.pets}),
    "CamVid, windows of 256 px": (
      deeplabv3plus_camvid_small, {"data.data_dir": arguments.camvid, "data.image_size": 256}
    ),
  }  # fmt: skip
  path = pathlib.Path(__file__).with_name("results.json")
  results = json.loads(path.read_text()) if path.exists() else {}
  for name, (file, changes) in cases.items():
    if not changes["data.data_dir"]:
      continue
    config = file.get_config()
    config.update_from_flattened_dict({**NARROW, **changes})
    for part in arguments.only or PARTS:
      try:
        results.setdefault(name, {})[part] = PARTS[part](config)
      except UserError as error:
        sys.exit(f"{name}: {error}")
      print(json.dumps({name: {part: results[name][part]}}, indent=2), flush=True)
    path.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
  main()
