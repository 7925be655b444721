"""The recipes of docs/scale.md write what --mode=predict writes."""

import os
import pathlib
import re
import subprocess
import sys

import command
import numpy as np
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "scale.md").read_text()
RECIPES = dict(re.findall(r"^```python\n# (\w+)\.py\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))
ENGINES = {"predict_ray": "ray", "predict_beam": "apache_beam"}


def test_recipes_are_short():
  assert RECIPES.keys() == ENGINES.keys()
  assert all(len(text.splitlines()) <= 25 for text in RECIPES.values())


@pytest.fixture(scope="module")
def predicted(tmp_path_factory):
  """Folder of a run, of images and of their label maps."""
  folder, rng = tmp_path_factory.mktemp("scale"), np.random.default_rng(0)
  (folder / "in").mkdir()
  for i in range(20):
    pixels = rng.integers(0, 256, (30 + i % 3, 40), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "in" / f"{i}.png")
  tiny = {"data.image_size": 32, "model.widths": "(4,8)", "train.num_epochs": 0.05,
          "train.batch_size": 8, "eval.num_samples": 0}  # fmt: skip
  command.finish(command.start("unet_cells", folder / "run", tiny))
  flags = "--mode=predict", f"--input={folder}/in", f"--output={folder}/out"
  command.finish(command.start(None, folder / "run", {}, *flags))
  return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ENGINES)
def test_recipe(predicted, tmp_path, name):
  pytest.importorskip(ENGINES[name], reason="pip install ray apache-beam")
  (tmp_path / f"{name}.py").write_text(RECIPES[name])
  paths = [predicted / "run", predicted / "in", tmp_path / "out"]
  done = subprocess.run(
    [sys.executable, f"{name}.py", *map(str, paths)],
    cwd=tmp_path,
    env={**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": command.FAST},
    capture_output=True,
    text=True,
    timeout=500,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  assert len(list((tmp_path / "out").iterdir())) == 20
  for path in (tmp_path / "out").iterdir():
    expected = Image.open(predicted / "out" / path.name)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), np.asarray(expected))
