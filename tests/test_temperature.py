"""The temperature of a run that was trained, and what uses it."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import tiny
from tiny import error_of

from jaxseg import DataWarning, checkpoint, modes, temperature
from jaxseg.segmenter import load, load_run
from jaxseg.training import train


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """A work directory after three steps."""
  workdir = tmp_path_factory.mktemp("runs") / "run"
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(tiny.datasets.DATASETS, "photos", tiny.load_photos)
    assert train(tiny.make_config(3, eval_every=3), workdir) is True
  return workdir


@pytest.fixture
def run(trained, photos, tmp_path):
  """A copy of it."""
  return shutil.copytree(trained, tmp_path / "run")


def test_calibrate(run):
  """Probabilities change, labels do not; another checkpoint does not take the temperature."""
  picture = tiny.load_photos("test", "", 32, 0)[1][0]["image"]
  before = load(run)
  found = temperature.calibrate(run)
  assert json.loads((run / "calibration.json").read_text()) == {"3": found}
  assert (found["step"], found["split"], found["num_images"]) == (3, "test", 9)
  assert found["temperature"] not in (0.05, 1.0, 20.0)
  assert found["before"]["loss"] > found["after"]["loss"] - 0.05
  after, fitted = load(run), found["temperature"]
  assert after.config.predict.temperature == fitted
  np.testing.assert_array_equal(before(picture), after(picture))
  expected = before.probs(picture) ** (1 / fitted)
  expected /= expected.sum(-1, keepdims=True)
  np.testing.assert_allclose(after.probs(picture), expected, atol=1e-5)
  crf = load(run, crf={"num_iterations": 1})
  assert not np.array_equal(crf.probs(picture), after.probs(picture))
  plain = load_run(run, {"crf.num_iterations": 1, "predict.temperature": 1.0})
  np.testing.assert_array_equal(crf(picture), plain(picture))
  result = modes.evaluate(run)
  assert result["loss"] < found["before"]["loss"] + 1e-3
  about = json.loads((run / "evaluation.json").read_text())["overrides"]
  assert about == {"predict.temperature": fitted}
  (run / "calibration.json").write_text(json.dumps({"2": found}))
  assert load(run).config.predict.temperature == 0
  (run / "calibration.json").write_text(json.dumps(found))  # as it was at first
  assert load(run).config.predict.temperature == fitted
  for damaged in {"3": {**found, "temperature": "hot"}}, {**found, "temperature": "hot"}:
    (run / "calibration.json").write_text(json.dumps(damaged))
    assert "calibration.json is damaged (temperature 'hot')" in error_of(load, run)
  (run / "calibration.json").write_text(json.dumps({"3": [1]}))
  assert "calibration.json is damaged (temperature None)" in error_of(load, run)


def test_calibrate_again_begins_at_one(run):
  first = temperature.calibrate(run)
  assert temperature.calibrate(run) == first
  lines = temperature.describe(first)
  assert lines[0].startswith(f"temperature {first['temperature']:.4f}, fitted on ")
  assert checkpoint.best_checkpoint(run)[0] == first["step"]


def test_data_of_other_classes(run, monkeypatch):
  """A temperature of other data would say nothing; nothing is written."""
  other = dataclasses.replace(tiny.INFO, classes=("sky", "road", "car"))
  monkeypatch.setitem(tiny.datasets.DATASETS, "photos", lambda split, data_dir, image_size, seed: (
    other, tiny.load_photos(split, data_dir, image_size, seed)[1]
  ))  # fmt: skip
  message = error_of(temperature.calibrate, run)
  assert "the evaluation data have the 3 classes sky, road, car, but the network" in message
  assert not (run / "calibration.json").exists()


def test_a_checkpoint_is_calibrated_in_its_run(run):
  found = temperature.calibrate(run / "checkpoints" / "3")
  assert not (run / "checkpoints" / "3" / "calibration.json").exists()
  assert load(run).config.predict.temperature == found["temperature"]


def test_another_checkpoint_keeps_its_temperature(run):
  found = temperature.calibrate(run)
  other = shutil.copytree(run / "checkpoints" / "3", run / "checkpoints" / "2").parent
  assert temperature.calibrate(other / "2")["step"] == 2
  assert {load(path).config.predict.temperature for path in (run, other / "2", other / "3")} == {
    found["temperature"]
  }


def test_other_predictions_have_no_temperature_here(run):
  for name, value in {"predict.tta": "flip", "crf.num_iterations": 2}.items():
    message = error_of(temperature.calibrate, run, {name: value})
    assert message.endswith(f"leave config.{name} as it was")
  given = {"train.precision": "bfloat16"}
  assert "train.precision as it was" in error_of(temperature.calibrate, run, given)
  given = {"predict.temperature": 3.0}
  assert "is what calibrate finds" in error_of(temperature.calibrate, run, given)
  assert temperature.calibrate(run, {"predict.tile": 64})["num_images"] == 9


def test_the_images_are_those_that_evaluate_takes(run):
  values = {"data.num_folds": 4, "data.eval_split": "test"}
  message = error_of(temperature.calibrate, run, values)
  assert message.endswith("eval_split='test' is not used, folds are: set config.data.num_folds=0")
  with pytest.warns(DataWarning, match="was trained on these images: its temperature is too low"):
    temperature.calibrate(run, {"data.eval_split": "train"})


def test_a_run_of_a_fixed_temperature(run):
  saved = json.loads((run / "config.json").read_text())
  saved["predict"]["temperature"] = 2.0
  (run / "config.json").write_text(json.dumps(saved))
  assert "sets predict.temperature=2.0, which comes before" in error_of(temperature.calibrate, run)


@pytest.mark.slow
def test_a_run_that_begins_anew_has_no_temperature(run):
  temperature.calibrate(run)
  shutil.rmtree(run / "checkpoints")
  assert train(tiny.make_config(3, eval_every=3), run) is True
  assert not (run / "calibration.json").exists()


def test_what_cannot_be_calibrated(run, monkeypatch):
  def predict(variables, examples):
    for example in examples:
      yield example, np.full((*example["mask"].shape, 3), np.nan, np.float32)

  with monkeypatch.context() as patch:
    patch.setattr(temperature.predictors, "build_predictor", lambda *_: predict)
    assert "the network's output is not finite" in error_of(temperature.calibrate, run)
  monkeypatch.setattr(temperature.build, "open_split", lambda *_, **__: (tiny.INFO, []))
  assert "there is no image to calibrate on" in error_of(temperature.calibrate, run)
  image, mask = np.zeros((40, 40, 3), np.uint8), np.full((40, 40), 3, np.uint8)
  examples = [{"name": "a", "image": image, "mask": mask}]
  monkeypatch.setattr(temperature.build, "open_split", lambda *_, **__: (tiny.INFO, examples))
  assert "'a': its mask holds 3, which is no label" in error_of(temperature.calibrate, run)


def test_few_pixels_of_many_images(run, monkeypatch):
  """What is kept of the probabilities is bounded."""
  monkeypatch.setattr(temperature, "MAX_VALUES", 9 * 3 * 50)
  assert temperature.calibrate(run)["num_pixels"] == 9 * 50
