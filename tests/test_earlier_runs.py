"""A work directory that version 0.1 wrote resumes, is scored, predicts and exports as it did there.

fixtures/run_of_version_0_1.zip holds one of its runs, complete, whose config has keys that were
renamed since and lacks those that are new, and its label maps of three images. It was written by

  python -m jaxseg.main --config=configs/unet_cells.py --workdir=run --config.data.image_size=32
    --config.data.fit=crop --config.model.widths=4,8 --config.model.patch=2
    --config.train.rate_factors="(('head',0.5),)" --config.train.ema_decay=0.9
    --config.train.batch_size=8 --config.train.schedule=constant --config.train.log_every_steps=1
    --config.train.num_micro_batches=2 --config.train.num_epochs=0.125
    --config.train.checkpoint_every_epochs=0.0625 --config.train.eval_every_epochs=0.125
    --config.eval.num_samples=1 --config.predict.symmetries=flip

with JAX 0.10.2, and the same with --mode=predict.
"""

import json
import pathlib
import shutil
import zipfile

import chex
import command
import jax
import numpy as np
import pytest
from PIL import Image
from tiny import error_of

import jaxseg
from jaxseg import exporting, modes, prediction, settings

FIXTURE = pathlib.Path(__file__).with_name("fixtures") / "run_of_version_0_1.zip"


@pytest.fixture
def earlier(tmp_path):
  """Folder with run/, photos/ and labels/ of version 0.1."""
  with zipfile.ZipFile(FIXTURE) as archive:
    archive.extractall(tmp_path)
  return tmp_path


def check_scores(found, expected):
  """Another version of XLA may round a pixel to the other side."""
  assert found["num_images"] == expected["num_images"] == 64
  assert found["step"] == expected["step"] == 8
  for name in ("loss", "pixel_accuracy", "miou", "fw_iou"):
    tolerance = 1e-6 if jax.__version__ == "0.10.2" else 2e-4
    assert found[name] == pytest.approx(expected[name], abs=tolerance), name


def test_config_in_todays_keys(earlier):
  config = settings.read_run(earlier / "run")
  assert config.model.stem_stride == 2 and "patch" not in config.model
  assert config.train.lr_multipliers == (("head", 0.5),)
  assert (config.train.accumulation_steps, config.predict.tta) == (2, "flip")
  assert config.train.clip_grad_norm == 0.0  # is newer


def test_scores(earlier):
  expected = json.loads((earlier / "run" / "evaluation.json").read_text())
  check_scores(modes.evaluate(earlier / "run"), expected)


def test_predictions(earlier, capsys):
  prediction.predict_folder(earlier / "run", earlier / "photos", earlier / "out")
  segmenter = jaxseg.load(earlier / "run")
  paths = sorted((earlier / "labels").glob("*.png"))
  assert len(paths) == 3
  for path in paths:
    expected = np.asarray(Image.open(path))
    assert 0.1 < expected.mean() < 0.9
    found = np.asarray(Image.open(earlier / "out" / path.name))
    assert (found != expected).mean() <= (0 if jax.__version__ == "0.10.2" else 1e-3)
    np.testing.assert_array_equal(segmenter(earlier / "photos" / path.name), found)
  capsys.readouterr()


def test_export(earlier, capsys):
  exporting.export_run(earlier / "run", earlier / "export")
  exported = jaxseg.load(earlier / "export" / "model.stablehlo")
  photo = next((earlier / "photos").iterdir())
  agreement = exported(photo) == jaxseg.load(earlier / "run")(photo)
  assert agreement.mean() > 0.999
  capsys.readouterr()


@pytest.mark.slow
def test_resume(earlier):
  """From its checkpoint at step 4, the run ends as it did in version 0.1, on one device."""
  run = earlier / "run"
  expected = command.read_checkpoint(run, 8)
  scores = json.loads((run / "evaluation.json").read_text())
  shutil.rmtree(run / "checkpoints" / "8")
  (run / "evaluation.json").unlink()
  command.finish(command.start(None, run, {}))
  found = command.read_checkpoint(run, 8)
  numbers = {split: x["num_examples"] for split, x in found["data"].pop("examples").items()}
  assert found["data"] == expected["data"] and numbers == {"train": 512, "eval": 64}  # is newer
  chex.assert_trees_all_close(found["variables"], expected["variables"], rtol=1e-4, atol=1e-5)
  check_scores(json.loads((run / "evaluation.json").read_text()), scores)
  saved = json.loads((run / "config.json").read_text())
  assert saved["model"]["stem_stride"] == 2 and "patch" not in saved["model"]


def test_another_value_of_a_new_key_is_named(earlier):
  saved = settings.read_run(earlier / "run")
  config = settings.override(saved, {"train.clip_grad_norm": 1.0})
  message = error_of(settings.check_same, earlier / "run", saved, config)
  assert "config.train.clip_grad_norm=0.0, not 1.0" in message
