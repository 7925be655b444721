"""Memory stays the same over thousands of steps and predictions, and sizes compile few programs.

python -m pytest -s --slow tests/test_flat.py      # prints what docs/scale.md says
"""

import json
import os
import subprocess
import sys

import command
import numpy as np
import pytest
from PIL import Image

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, calls malloc_trim"),
]
NUMBER, NUM_SIZES, BATCH_SIZE, IMAGE_SIZE = 2000, 200, 16, 32
# MiB per thousand. Up to 1.5 was measured. What a leak would hold is more: a label map is 20 KiB on
# average, 20 MiB per thousand; the images of a training batch are 16 KiB, as float32.
LIMIT = 4
VALUES = {
  "data.image_size": IMAGE_SIZE,
  "data.fit": "crop",
  "data.num_threads": 2,
  "model.widths": (4, 8),
  "train.batch_size": 4,
  "eval.batch_size": BATCH_SIZE,
}


def start(*arguments):
  """What flat.py prints."""
  process = subprocess.Popen(
    [sys.executable, "tests/flat.py", *map(str, arguments)],
    cwd=command.ROOT,
    # One heap: those of threads grow at different times.
    env={**os.environ, "XLA_FLAGS": command.FAST, "PYTHONPATH": ".", "MALLOC_ARENA_MAX": "1"},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )
  text = process.communicate(timeout=900)[0]
  assert process.returncode == 0, text[-3000:]
  return json.loads(text.splitlines()[-1])


def growth(memory):
  """MiB per thousand from the 500th to the last; medians, as threads come and go."""
  numbers, values = np.transpose(memory)
  early, late = (numbers >= 500) & (numbers <= 700), numbers >= NUMBER - 200
  found = np.median(values[late]) - np.median(values[early])
  per_thousand = 1000 * found / (np.median(numbers[late]) - np.median(numbers[early]))
  print(f"{np.median(values[early]):.1f} MiB, {per_thousand:+.2f} MiB per thousand", end="; ")
  return per_thousand


def train(workdir, num_steps, **values):
  return start("train", workdir, num_steps, json.dumps(VALUES | values))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """Work directory of a run."""
  workdir = tmp_path_factory.mktemp("run")
  train(workdir, 2)
  return workdir


@pytest.fixture(scope="module")
def sizes():
  """200 different sizes, (H, W) px."""
  found = np.random.default_rng(0).choice(224 * 224, NUM_SIZES, replace=False)
  return [(int(h) + 33, int(w) + 33) for h, w in zip(*divmod(found, 224), strict=True)]


@pytest.fixture(scope="module")
def images(sizes, tmp_path_factory):
  """Folder of an image of each size, several times."""
  folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(1)
  for i, size in enumerate(sizes):
    first = folder / f"0{i:03}.png"
    Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(first)
    for j in range(1, NUMBER // NUM_SIZES):
      os.link(first, folder / f"{j}{i:03}.png")
  return folder


def shapes(sizes):
  """What the network sees of these: multiples of 64 px."""
  return {(-(-h // 64) * 64, -(-w // 64) * 64) for h, w in sizes}


@pytest.mark.parametrize("often", [False, True], ids=["steps", "evaluations and checkpoints"])
def test_training(often, tmp_path):
  epochs = 100 / 128 if often else 1000  # every 100 steps
  periods = {"train.eval_every_epochs": epochs, "train.checkpoint_every_epochs": epochs}
  memory = train(tmp_path, NUMBER, **periods)["memory"]
  assert memory[-1][0] == NUMBER and growth(memory) < LIMIT


def test_calls(run, images, sizes):
  found = start("load", run, images, NUMBER)
  assert found["memory"][-1][0] == NUMBER and growth(found["memory"]) < LIMIT
  bound = len(shapes(sizes))  # one image a call: one program for each shape
  print(f"{found['programs']} programs of at most {bound} for {NUM_SIZES} sizes")
  assert bound <= 16 and found["programs"] == bound


def test_folder(run, images, sizes, tmp_path):
  found = start("folder", run, images, tmp_path)
  assert found["memory"][-1][0] == NUMBER and growth(found["memory"]) < LIMIT
  # Windows of one shape go together if they are not larger than 16 of 32 x 32 px: 1, 2 or 4.
  most = [max(1, BATCH_SIZE * IMAGE_SIZE**2 // (h * w)) for h, w in shapes(sizes)]
  bound = sum(number.bit_length() for number in most)
  print(f"{found['programs']} programs of at most {bound} for {NUM_SIZES} sizes")
  assert bound <= 16 + 2 + 1 + 1 and 16 <= found["programs"] <= bound
