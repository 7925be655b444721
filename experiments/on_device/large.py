"""What an evaluation of 2048 x 1024 px and 19 classes costs beyond its network.

python experiments/on_device/large.py [--network=unet|deeplab]

Images and masks are generated; networks have random weights. Writes large.json.
"""

import argparse
import functools
import json
import pathlib
import tempfile
import time

import jax
import numpy as np
from PIL import Image

from configs import default
from jaxseg import build, models, parallel, predictors
from jaxseg.modes import evaluate_split
from jaxseg.tally import for_scores

NUM_IMAGES, ROUNDS, HEIGHT, WIDTH, NUM_CLASSES = 4, 2, 1024, 2048, 19
NETWORKS = {
  "unet": {"model.name": "unet", "model.widths": (8, 16, 32), "model.stem_stride": 2},
  "deeplab": {
    "model.name": "deeplabv3plus", "model.encoder": "mobilenet_v2", "model.output_stride": 16
  },
}  # fmt: skip


def write_images(folder):
  """Blocks of random colours with some noise, and masks of the same blocks."""
  rng = np.random.default_rng(0)
  for name in ("images", "masks"):
    (folder / name).mkdir()
  for i in range(NUM_IMAGES):
    mask = rng.integers(0, NUM_CLASSES, (16, 32), dtype=np.uint8).repeat(64, 0).repeat(64, 1)
    image = np.stack([mask * 12, 255 - mask * 12, mask * 7], -1)
    image = np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)
    Image.fromarray(mask).save(folder / "masks" / f"{i}.png")
    Image.fromarray(image).save(folder / "images" / f"{i}.png", compress_level=1)


def measure(network, folder):
  """{what: {"seconds", "cpu_seconds": of all cores}} per image, medians."""
  config = default.get_config()
  config.update_from_flattened_dict({
    "data.name": "folder", "data.data_dir": str(folder), "data.train_split": "all",
    "data.eval_split": "all", "data.fit": "crop", "data.image_size": 512,
    "data.classes": tuple(f"class {i}" for i in range(NUM_CLASSES)), "eval.num_samples": 0,
    "eval.boundary_f1": False, **NETWORKS[network],
  })  # fmt: skip
  info, source = build.open_split(config, "eval")
  model = build.build_model(config, info)
  variables = parallel.put_on_local_devices(models.init(model, info.channels, 0))
  predictor = predictors.build_predictor(config, model, info)
  (batch, *_) = predictor.batches([source[0]], None)
  image = predictor.put(batch)

  def forward():
    for _ in range(len(source)):
      jax.block_until_ready(predictor.forward(variables, image))

  def evaluate(predict):
    evaluate_split(predict, source, info, config)

  runs = {
    "the network alone": forward,
    "evaluation, counts to the host": functools.partial(evaluate, for_scores(predictor, variables)),
    "evaluation, probabilities to the host": functools.partial(
      evaluate, functools.partial(predictor, variables)
    ),
  }
  times = {name: [] for name in runs}
  for i in range(ROUNDS + 1):
    for name, run in runs.items():
      start = np.array([time.perf_counter(), time.process_time()])
      run()
      if i:  # the first compiles
        times[name].append(np.array([time.perf_counter(), time.process_time()]) - start)
  found = {name: (np.median(x, axis=0) / len(source)).round(3) for name, x in times.items()}
  return {name: {"seconds": x[0], "cpu_seconds": x[1]} for name, x in found.items()}


def main():
  form = argparse.RawDescriptionHelpFormatter
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
  parser.add_argument("--network", choices=NETWORKS, action="append")
  parallel.use_compilation_cache()
  path = pathlib.Path(__file__).with_name("large.json")
  results = json.loads(path.read_text()) if path.exists() else {}
  for network in parser.parse_args().network or NETWORKS:
    with tempfile.TemporaryDirectory() as folder:
      write_images(pathlib.Path(folder))
      results[network] = measure(network, pathlib.Path(folder))
    print(network, json.dumps(results[network]), flush=True)
    path.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
  main()
