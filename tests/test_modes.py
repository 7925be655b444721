"""What is done with a trained work directory: scoring it and using it, by its own config."""

import dataclasses
import json
import os

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tiny
from PIL import Image
from tiny import error_of

from jaxseg import (
  VOID,
  build,
  checkpoint,
  each_seed,
  evaluation,
  models,
  modes,
  optim,
  prediction,
  results,
  train_state,
  workdirs,
)
from jaxseg.crf import dense_crf
from jaxseg.data import datasets
from jaxseg.evaluation import score_table
from jaxseg.per_image import PerImage
from jaxseg.predict import make_predictor
from jaxseg.report_page import Evaluation
from jaxseg.segmenter import load_run
from jaxseg.training import train

pytestmark = pytest.mark.usefixtures("photos")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """(work directory after 3 steps with an evaluation after each and a bad fourth one, config)."""
  workdir, config = tmp_path_factory.mktemp("run"), tiny.make_config(3, eval_every=1)
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(datasets.DATASETS, "photos", tiny.load_photos)
    assert train(config, workdir) is True
  with checkpoint.open_manager(workdir) as manager:
    optimizer = optim.make_optimizer("adam", optim.schedule("constant", 1e-2, 3))
    model = build.build_model(config, tiny.INFO)
    state = jax.eval_shape(lambda: train_state.create(models.init(model, 3, 0), optimizer))
    state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), state).replace(step=np.int32(4))
    meta = {"config": config.to_dict(), "info": dataclasses.asdict(tiny.INFO)}
    checkpoint.save(manager, state, {}, meta, {"miou": 0.0})
  return workdir, config


@pytest.fixture
def best(trained):
  """The line of metrics.jsonl with the highest score."""
  lines = [line for line in workdirs.read_metrics(trained[0]) if line["split"] == "test"]
  return max(lines, key=lambda line: line["miou"])


def changed(config, **changes):
  config = config.copy_and_resolve_references()
  config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
  return config


def assert_same_scores(result, expected):
  assert result["loss"] == pytest.approx(expected["loss"], abs=1e-5)
  for name in ("pixel_accuracy", "miou", "iou", "num_images"):
    assert result[name] == expected[name], name


def test_evaluate_reproduces_the_scores_of_training(trained, best, capsys):
  workdir, config = trained
  each_seed.print_scores(modes.evaluate(workdir, {"eval.num_samples": 2}))
  result = json.loads((workdir / "evaluation.json").read_text())
  assert (result["step"], result["split"]) == (best["step"], "test")
  assert_same_scores(result, best)
  out, err = capsys.readouterr()
  shown = {k: v for k, v in result.items() if k not in ("confusion", "reliability", "overrides")}
  assert json.loads(out) == shown and "overrides" not in result
  assert f"split test, step {best['step']}\n\n{score_table(result)}" in err
  sheet = workdir / "plots" / f"predictions_{best['step']:06d}.png"
  assert Image.open(sheet).size[0] == 750


def test_evaluate_on_other_data_with_other_batches(trained, best, capsys):
  workdir, config = trained
  modes.evaluate(workdir, config=changed(config, eval__batch_size=2))
  assert_same_scores(json.loads((workdir / "evaluation.json").read_text()), best)
  modes.evaluate(workdir, config=changed(config, data__eval_split="train"))
  result = json.loads((workdir / "evaluation.json").read_text())
  assert (result["split"], result["num_images"]) == ("train", 20)
  assert result["miou"] != best["miou"]
  capsys.readouterr()


def test_precision_is_noted(trained, tmp_path):
  result = modes.evaluate(trained[0], {"train.precision": "bfloat16"}, output=tmp_path)
  assert result["overrides"] == {"train.precision": "bfloat16"}


def test_another_split_of_a_run_with_folds(trained, tmp_path):
  """The default of `eval_split`, too, if it is asked for."""
  values = {"data.num_folds": 4, "data.eval_split": "test"}
  message = error_of(modes.evaluate, trained[0], values, output=tmp_path)
  assert message.endswith("eval_split='test' is not used, folds are: set config.data.num_folds=0")


@pytest.mark.parametrize(
  "own, now, words",
  [
    ({}, {}, ""),
    ({}, {"eval_split": "train"}, "was trained on these images"),
    ({}, {"num_folds": 4}, "was trained on these images"),
    ({}, {"eval_split": "train", "data_dir": "other"}, ""),
    ({"num_folds": 4}, {"num_folds": 4}, ""),
    ({"num_folds": 4}, {"num_folds": 4, "fold": 2}, "was trained on these images"),
    ({"num_folds": 4}, {"num_folds": 3}, "on most of these images"),
    ({"num_folds": 4}, {"eval_split": "train"}, "on most of these images"),
    ({"num_folds": 4}, {}, ""),
    ({"data_dir": "/a/b"}, {"data_dir": "/a/x/../b", "eval_split": "train"}, "on these images"),
    ({"data_dir": os.path.abspath("x")}, {"data_dir": "x", "eval_split": "train"}, "on these"),
    ({"images": "a/{name}.png"}, {"images": "b/{name}.png", "eval_split": "train"}, ""),
    ({"source": "a"}, {"source": "b", "eval_split": "train"}, ""),
  ],
)
def test_scores_of_what_a_run_was_trained_on(own, now, words):
  own, now = (
    tiny.make_config(1, **{f"data__{name}": x for name, x in part.items()}).data
    for part in (own, now)
  )
  found = evaluation.trained_on(now, own)
  assert words in found and bool(words) == bool(found)


def test_restored_predictor_is_the_best_network(trained, best):
  workdir, config = trained
  segmenter = load_run(workdir, {})
  predict, step, info = segmenter.predict, segmenter.step, segmenter.info
  assert step == best["step"]
  assert info.channels == 3 and tuple(info.classes) == tiny.INFO.classes
  with ocp.StandardCheckpointer() as checkpointer:
    variables = checkpointer.restore(workdir.absolute() / "checkpoints" / str(step) / "variables")
  by_hand = make_predictor(build.build_model(config, info), fit="crop", size=32, batch_size=16)
  _, source = tiny.load_photos("test", "", 32, 0)
  examples = [source[i] for i in range(3)]
  for (_, probs), (_, expected) in zip(
    predict(examples), by_hand(variables, examples), strict=True
  ):
    np.testing.assert_array_equal(probs, expected)


def test_predict_folder(trained, tmp_path, capsys):
  workdir, config = trained
  folder, output = tmp_path / "in", tmp_path / "out"
  folder.mkdir()
  pictures = {}
  for i in range(3):
    picture = Image.fromarray(tiny.load_photos("test", "", 32, 0)[1][i]["image"])
    picture.save(folder / f"photo{i}.png")
    pictures[f"photo{i}"] = np.asarray(picture)
  Image.fromarray(pictures["photo0"]).convert("L").save(folder / "grey.jpg")
  pictures["grey"] = np.asarray(Image.open(folder / "grey.jpg").convert("RGB"))
  prediction.predict_folder(workdir, folder, output)
  assert str(output) in capsys.readouterr().out
  predict = load_run(workdir, {}).predict
  for name, image in pictures.items():
    labels = Image.open(output / f"{name}.png")
    ((_, probs),) = predict([{"image": image}])
    np.testing.assert_array_equal(np.asarray(labels), probs.argmax(-1))
    colours = np.array(tiny.INFO.palette)[np.asarray(labels)]
    np.testing.assert_array_equal(np.asarray(labels.convert("RGB")), colours)
    assert Image.open(output / "overlays" / f"{name}.png").size == labels.size
  assert len(list(output.iterdir())) == 5


def test_crf_in_evaluation_and_prediction(trained, best, tmp_path, capsys):
  """It may be switched on for a work directory that was trained without."""
  workdir, config = trained
  config = changed(config, crf__num_iterations=3, crf__color_sigma=30.0)
  modes.evaluate(workdir, config=config)
  result = json.loads((workdir / "evaluation.json").read_text())
  assert result["loss"] != best["loss"]
  _, source = tiny.load_photos("test", "", 32, 0)
  Image.fromarray(source[0]["image"]).save(tmp_path / "a.png")
  prediction.predict_folder(workdir, tmp_path / "a.png", tmp_path / "out", config=config)
  predict = load_run(workdir, {"crf.num_iterations": 0}).predict
  ((_, probs),) = predict([source[0]])
  expected = dense_crf(probs, source[0]["image"], num_iterations=3, color_sigma=30.0).argmax(-1)
  assert (expected != probs.argmax(-1)).any()
  np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / "a.png")), expected)
  capsys.readouterr()


def test_work_directory_of_another_network(trained, tmp_path):
  workdir, config = trained
  for key, value in ("model.widths", (4, 9)), ("data.image_size", 64), ("data.fit", "resize"):
    message = error_of(modes.evaluate, workdir, config=changed(config, **{key: value}))
    assert str(workdir) in message and key in message and "--workdir" in message
    assert error_of(modes.evaluate, workdir, {key: value}) == message
  # What does not change the network may differ.
  load_run(workdir, {}, changed(config, train__learning_rate=9.0, seed=3))


def test_no_checkpoint(trained, tmp_path):
  _, config = trained
  Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
  for run in (
    lambda: modes.evaluate(tmp_path / "new", config=config),
    lambda: prediction.predict_folder(tmp_path / "new", tmp_path / "a.png", tmp_path / "out"),
  ):
    message = error_of(run)
    assert "no checkpoint" in message and str(tmp_path / "new") in message
  assert not (tmp_path / "new").exists() and not (tmp_path / "out").exists()


def certain(examples):
  """Predicts the class 0 everywhere, without doubt."""
  for example in examples:
    yield example, np.eye(3, dtype=np.float32)[example["mask"] * 0]


@pytest.mark.parametrize(
  "wanted, positions", [(0, []), (1, [0]), (3, [0, 3, 6]), (4, [0, 2, 4, 6]), (99, range(9))]
)
def test_samples_are_spread_over_the_split(wanted, positions):
  _, source = tiny.load_photos("test", "", 32, 0)
  config = tiny.make_config(1, eval__num_samples=wanted, eval__boundary_f1=True)
  evaluation = modes.evaluate_split(certain, source, tiny.INFO, config)
  result, samples = evaluation.result, evaluation.samples
  assert result["num_images"] == 9 and result["boundary_f1"] == 0  # no boundary is predicted
  masks = np.concatenate([source[i]["mask"].ravel() for i in range(9)])
  assert result["pixel_accuracy"] == pytest.approx((masks == 0).sum() / (masks != VOID).sum())
  assert len(samples) == len(positions)
  for (image, mask, labels), i in zip(samples, positions, strict=True):
    np.testing.assert_array_equal(image, source[i]["image"])
    np.testing.assert_array_equal(mask, source[i]["mask"])
    assert labels.max() == 0


def test_results(tmp_path):
  result = {"miou": 0.5, "iou": {"sky": 0.5}, "confusion": [[3, 0, 1], [0, 2, 0], [0, 0, 0]]}
  images = PerImage([], tiny.INFO.classes, np.zeros((0, 3, 3), np.int64), {"loss": np.zeros(0)})
  place = tmp_path, "test", 7, tiny.INFO
  assert results.write(*place, Evaluation(result, images)) is None
  written = json.loads((tmp_path / "evaluation.json").read_text())
  assert written == {"split": "test", "step": 7, **result}
  assert [path.name for path in (tmp_path / "plots").iterdir()] == ["confusion.png"]
  mask = np.zeros((9, 9), np.uint8)
  sample = (np.zeros((9, 9, 3), np.uint8), mask, mask)
  sheet = results.write(*place, Evaluation(result, images, [sample]))
  assert sheet == tmp_path / "plots" / "predictions_000007.png" and sheet.is_file()
  assert (tmp_path / "plots" / "confusion.png").is_file()


def test_pictures_of_a_prediction_follow_the_flags(trained, tmp_path):
  """Colours and bands may differ from those of training; channels and classes may not."""
  workdir, _ = trained
  image = tiny.load_photos("test", "", 32, 0)[1][0]["image"]
  Image.fromarray(image).save(tmp_path / "a.png")
  palette = ((1, 2, 3), (4, 5, 6), (7, 8, 9))
  flags = {"data.palette": palette, "data.display_bands": (2, 2, 2)}
  prediction.predict_folder(workdir, tmp_path / "a.png", tmp_path / "out", flags)
  labels = Image.open(tmp_path / "out" / "a.png")
  overlay = np.asarray(Image.open(tmp_path / "out" / "overlays" / "a.png"))
  colours = np.array(palette)[np.asarray(labels)]
  np.testing.assert_array_equal(np.asarray(labels.convert("RGB")), colours)
  expected = 0.55 * image[..., [2, 2, 2]] + 0.45 * colours
  assert (np.abs(overlay - expected) <= 1).mean() > 0.9  # all but the lines between classes
  for flags, words in (
    ({"data.display_bands": (9,)}, "config.data.display_bands=(9,)"),
    ({"data.palette": ((1, 2, 3),)}, "config.data.palette has 1 entries for 3 classes"),
    ({"data.channels": 4}, "config.data.channels=3, not 4"),
    ({"data.classes": ("a", "b", "c")}, "config.data.classes"),
  ):
    paths = tmp_path / "a.png", tmp_path / "out"
    assert words in error_of(prediction.predict_folder, workdir, *paths, flags)
    assert words in error_of(modes.evaluate, workdir, flags)


def test_evaluation_data_with_other_classes(trained, monkeypatch):
  info = dataclasses.replace(tiny.INFO, classes=("sky", "nowhere", "road"))

  def load(split, data_dir, image_size, seed):
    return info, tiny.load_photos(split, data_dir, image_size, seed)[1]

  monkeypatch.setitem(datasets.DATASETS, "photos", load)
  message = error_of(modes.evaluate, trained[0])
  assert "sky, nowhere, road" in message and "sky, road, nowhere" in message
