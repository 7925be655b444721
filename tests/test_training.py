"""Training from a config to a work directory: complete, learning, safe from NaN and bad input."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from command import checkpoints, read_json, read_lines
from tiny import error_of

from jaxseg import (
  VOID,
  UserError,
  build,
  checkpoint,
  first_pass,
  models,
  optim,
  parallel,
  training,
  workdirs,
)
from jaxseg.data import datasets
from jaxseg.data.labels import LabelMap
from jaxseg.training import train

pytestmark = pytest.mark.usefixtures("photos")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """A work directory after 8 steps with evaluations after 4 and 8, and its config."""
  config = tiny.make_config(
    8, eval_every=4, checkpoint_every=3, train__log_every_steps=2, eval__num_samples=2
  )
  workdir = tmp_path_factory.mktemp("run") / "new" / "workdir"
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(datasets.DATASETS, "photos", tiny.load_photos)
    assert train(config, workdir) is True
  return workdir, config


@pytest.mark.slow
def test_evaluations_where_an_epoch_has_no_whole_number_of_steps(tmp_path):
  """20 images in batches of 8: after 2.5, 5 and 7.5 steps, rounded, and the last one is the end."""
  config = tiny.make_config(1, augment__scale=(1.0, 1.0))
  config.train.num_epochs, config.train.eval_every_epochs = 3.0, 1.0
  epoch = tiny.NUM_PHOTOS["train"] / config.train.batch_size
  assert train(config, tmp_path) is True
  lines = [line for line in workdirs.read_metrics(tmp_path) if line["split"] == "test"]
  assert [line["step"] for line in lines] == [round(n * epoch) for n in (1, 2, 3)]


def test_files_of_a_work_directory(trained):
  workdir, config = trained
  names = {path.name for path in workdir.iterdir()}
  events = {name for name in names if name.startswith("events.out.tfevents")}
  assert len(events) == 1
  assert names - events == {
    *("config.json", "metrics.jsonl", "evaluation.json", "per_image.csv", "checkpoints", "plots")
  }
  assert sorted(path.name for path in (workdir / "plots").iterdir()) == [
    "confusion.png",
    "curves.png",
    "predictions_000004.png",
    "predictions_000008.png",
    "report.html",
  ]
  assert read_json((workdir / "config.json").read_text()) == json.loads(config.to_json())


def test_lines_of_training(trained):
  lines = read_lines(trained[0], "train")
  # Every second step, before each checkpoint (3, 6) and before each evaluation (4, 8).
  assert [line["step"] for line in lines] == [2, 3, 4, 6, 8]
  for line in lines:
    assert set(line) == {
      *("step", "epoch", "split", "loss", "grad_norm", "num_pixels", "images_per_second"),
      "learning_rate",
    }
    assert line["learning_rate"] == pytest.approx(1e-2)
    assert line["epoch"] == pytest.approx(line["step"] * 8 / 20)
    assert 0 < line["num_pixels"] <= 8 * 32 * 32
    assert line["loss"] > 0 and line["images_per_second"] > 0


def test_evaluations(trained):
  workdir, _ = trained
  lines = read_lines(workdir, "test")
  assert [line["step"] for line in lines] == [4, 8]
  result = read_json((workdir / "evaluation.json").read_text())
  # Curves need neither intervals nor the confusion matrix.
  lists = {x for x, value in result.items() if isinstance(value, list) or x.endswith("_interval")}
  assert {"confusion", "reliability", "miou_interval", "iou_interval"} <= lists
  kept = {name: value for name, value in result.items() if name not in lists}
  assert {**kept, "epoch": 8 * 8 / 20} == lines[-1]
  assert result["num_images"] == 9
  assert list(result["iou"]) == ["sky", "road", "nowhere"]
  # A class that is not in the data is None, or 0 if a pixel was taken for it.
  assert result["iou"]["nowhere"] in (None, 0)
  present = [value for value in result["iou"].values() if value is not None]
  assert result["miou"] == pytest.approx(np.mean(present))


def test_best_and_latest_checkpoints_are_there(trained):
  workdir, config = trained
  scores = {line["step"]: line["miou"] for line in read_lines(workdir, "test")}
  best = max(scores, key=scores.get)
  assert checkpoints(workdir) == sorted({6, 8, best})
  step, meta = checkpoint.best_checkpoint(workdir)
  assert step == best
  assert meta["config"] == json.loads(config.to_json())
  assert meta["info"] == json.loads(json.dumps(vars(tiny.INFO)))


def test_the_same_command_does_nothing_when_complete(trained):
  workdir, config = trained

  def contents():
    files = [path for path in workdir.rglob("*") if path.is_file() and "tfevents" not in path.name]
    return {str(path): path.read_bytes() for path in files}

  before = contents()
  assert train(config, workdir) is True
  assert contents() == before


@pytest.mark.parametrize(
  "changes, words",
  [
    ({"data__class_crops": 0.3, "data__fit": "resize"}, "config.data.class_crops is 0.3, but"),
    ({"data__class_crops": 0.1, "data__crop_classes": ("rode",)}, "has 'rode', which is no class"),
    (
      {"data__name": "cells", "data__fit": "resize", "data__fast_jpeg": True},
      "config.data.fast_jpeg is True, but this data set does not decode files: set it to False",
    ),
    ({"data__class_balanced": 1.5}, "config.data.class_balanced is 1.5, but has to be from 0 to 1"),
    ({"augment__gamma": (2.0, 0.5)}, "config.augment.gamma is (2.0, 0.5), but has to be (smallest"),
    ({"augment__saturation": (1.5, 1.0)}, "config.augment.saturation is (1.5, 1.0), but has to be"),
  ],
)
def test_sampling_and_augmentation_that_cannot_be(tmp_path, changes, words):
  assert words in error_of(train, tiny.make_config(3, **changes), tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_colours_of_images_that_are_not_rgb(tmp_path):
  config = tiny.make_config(3, data__name="cells", augment__hue=0.1)
  message = error_of(train, config, tmp_path / "run")
  assert "config.augment.hue is 0.1, but needs RGB images, and these have 1 channel;" in message


def test_balanced_drawing_needs_a_class(tmp_path, monkeypatch):
  counts = {"examples": {"sky": [], "road": []}}
  monkeypatch.setattr(first_pass, "count_classes", lambda *_: counts)
  config = tiny.make_config(3, data__class_balanced=0.5)
  message = error_of(train, config, tmp_path / "run")
  assert "config.data.class_balanced is 0.5, but no training mask has a class" in message


@pytest.mark.slow
@pytest.mark.parametrize("steps, said", [((3, 4), True), ((2, 9), False)])
def test_a_profile_that_cannot_be_is_said(tmp_path, capfd, steps, said):
  assert train(tiny.make_config(2, train__profile_steps=steps), tmp_path) is True
  line = "config.train.profile_steps=(3, 4) does not begin in steps 1 to 2"
  assert (line in capfd.readouterr().err) == said
  assert (tmp_path / "profile").exists() != said


def test_the_loss_falls(tmp_path):
  assert train(tiny.make_config(60, train__log_every_steps=10), tmp_path) is True
  losses = [line["loss"] for line in read_lines(tmp_path, "train")]
  assert len(losses) == 6
  assert losses[-1] < 0.6 * losses[0]
  (result,) = read_lines(tmp_path, "test")
  assert result["loss"] < 0.6 * losses[0] and result["pixel_accuracy"] > 0.9


@pytest.mark.slow
def test_a_sum_of_losses(tmp_path):
  config = tiny.make_config(
    30, train__log_every_steps=10, train__losses__dice=1.0, train__losses__cross_entropy=0.5
  )
  assert train(config, tmp_path) is True
  lines = read_lines(tmp_path, "train")
  for line in lines:
    assert [name for name in line if "/" in name] == ["loss/cross_entropy", "loss/dice"]
    expected = 0.5 * line["loss/cross_entropy"] + line["loss/dice"]
    assert line["loss"] == pytest.approx(expected, rel=1e-6)
  assert lines[-1]["loss/dice"] < 0.6 * lines[0]["loss/dice"]
  (result,) = read_lines(tmp_path, "test")
  assert result["pixel_accuracy"] > 0.9


@pytest.mark.slow
def test_best_checkpoint_outlives_worse_ones(tmp_path, monkeypatch):
  scores, evaluate = iter([0.2, 0.9, 0.3, 0.4]), training.evaluate_split

  def evaluate_split(*arguments):
    evaluation = evaluate(*arguments)
    return dataclasses.replace(evaluation, result={**evaluation.result, "miou": next(scores)})

  monkeypatch.setattr(training, "evaluate_split", evaluate_split)
  assert train(tiny.make_config(4, eval_every=1), tmp_path) is True
  assert checkpoints(tmp_path) == [2, 3, 4]
  assert checkpoint.best_checkpoint(tmp_path)[0] == 2


@pytest.mark.parametrize(
  "eval_every, what",
  [
    pytest.param(2, "loss nan, gradient norm nan at step 6", marks=pytest.mark.slow),
    (5, "evaluation at step 5"),
  ],
)
def test_numbers_that_are_not_finite(tmp_path, monkeypatch, eval_every, what):
  """The fifth update throws the parameters away; the loss of step 5 itself is still good."""

  def explosion(*_, **__):
    # In the step, where `count` is a tracer; what is logged stays a number.
    return lambda count: 1e-2 if isinstance(count, int) else jnp.where(count < 4, 1e-2, jnp.nan)

  config = tiny.make_config(8, eval_every=eval_every, checkpoint_every=2)
  with monkeypatch.context() as patch:
    patch.setattr(optim, "schedule", explosion)
    message = error_of(train, config, tmp_path)
  assert what in message and "config.train.learning_rate" in message
  assert checkpoints(tmp_path) == [2, 4]
  read_lines(tmp_path, "test")  # is JSON
  assert max(line["step"] for line in read_lines(tmp_path, "train")) == 5
  if eval_every == 2:
    assert "last good checkpoint is 4" in message
    assert f"in another run (--workdir=NEW --config.model.init_from={tmp_path})" in message
    config.train.learning_rate /= 2  # here, it is refused
    assert "leave the key as it was" in error_of(train, config, tmp_path)
    config.train.learning_rate *= 2
    assert read_json((tmp_path / "evaluation.json").read_text())["step"] == 4
    # The last good checkpoint is good: the same command, mended, goes on from it.
    assert train(config, tmp_path) is True
    assert [line["step"] for line in read_lines(tmp_path, "train")] == list(range(1, 9))
  else:
    assert not (tmp_path / "evaluation.json").exists()


@pytest.mark.slow
def test_not_finite_before_any_checkpoint(tmp_path, monkeypatch):
  monkeypatch.setattr(
    optim, "schedule", lambda *_, **__: lambda count: jnp.where(count < 4, 1e-2, 3e38)
  )
  message = error_of(train, tiny.make_config(8), tmp_path)
  assert "at step 6" in message and "there is no checkpoint yet" in message
  assert checkpoints(tmp_path) == []


@pytest.mark.slow
def test_an_image_that_cannot_be_decoded(tmp_path, monkeypatch):
  def load(split, data_dir, image_size, seed):
    records = [tiny.make_photo(split, i) for i in range(9)]
    if split == damaged:
      records[7]["image"] = records[7]["image"][:100]
    labels = LabelMap({0: 0, 1: 1})
    return tiny.INFO, datasets.Encoded(records, tiny.INFO.image_format("uint8"), labels)

  monkeypatch.setitem(datasets.DATASETS, "photos", load)
  damaged = "train"
  message = error_of(train, tiny.make_config(3), tmp_path / "a")
  assert message.startswith("train7.png: cannot be decoded")
  damaged = "test"
  message = error_of(train, tiny.make_config(3), tmp_path / "b")
  assert "test7.png: cannot be decoded" in message


def test_what_failed_before_a_checkpoint_binds_nobody(tmp_path, monkeypatch):
  """The remedy that its error offers may be another config."""
  config = tiny.make_config(2)

  def fails(*arguments, **options):
    raise UserError("set another key")

  monkeypatch.setattr(parallel, "put_on_mesh", fails)
  for rate in (0.25, 0.5):
    config.train.learning_rate = rate
    assert "another key" in error_of(train, config, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["train"]["learning_rate"] == rate


def test_work_directory_that_cannot_be_made(tmp_path):
  (tmp_path / "file").touch()  # stops root too, unlike permissions
  for path in (tmp_path / "file", tmp_path / "file" / "run"):
    message = error_of(train, tiny.make_config(3), path)
    assert str(path) in message and "--workdir" in message


def test_class_weights(tmp_path):
  """Balanced, 5 pixels of class 0 and 15 of class 1 weigh 20 / (2 * 5) and 20 / (2 * 15)."""
  mask = np.repeat(np.array([0, 1, VOID], np.uint8), (5, 15, 7)).reshape(3, 9)
  source = [{"mask": mask[:2]}, {"mask": mask[2:]}]
  info = datasets.DatasetInfo(("a", "b"), (), 1)

  def get(given, balance, reuse=False):
    config = tiny.make_config(1, train__class_weights=given, train__class_balance=balance)
    examples = [None, None] if reuse else source
    counts = first_pass.class_counts(config, info, examples, tmp_path, reuse=reuse)
    return build.class_weights(config, info.classes, counts)

  assert get((), "").dtype == jnp.float32
  for text in ("{", "3", "{}", '{"pixels": {"a": 1}}'):
    (tmp_path / "class_counts.json").write_text(text)
    message = error_of(get, (), "inverse_frequency", True)
    assert "class_counts.json" in message and message.endswith("delete it, and it is made anew")
  (tmp_path / "class_counts.json").unlink()
  np.testing.assert_array_equal(get((), ""), [1, 1])
  np.testing.assert_array_equal(get((0.5, 2), ""), [0.5, 2])
  assert not list(tmp_path.iterdir())
  np.testing.assert_allclose(get((), "inverse_frequency"), [2, 2 / 3], rtol=1e-6)
  # From here on nothing is counted. Frequencies 5/18 (of the first image) and 15/20.
  np.testing.assert_allclose(get((0.5, 2), "inverse_frequency", True), [1, 4 / 3], rtol=1e-6)
  median = (5 / 18 + 15 / 20) / 2
  expected = [median * 18 / 5, median * 20 / 15]
  np.testing.assert_allclose(get((), "median_frequency", True), expected, rtol=1e-6)


@pytest.mark.parametrize("damage", ["missing", "text", "cut", "another network"])
def test_weight_files_that_do_not_fit(tmp_path, monkeypatch, damage):
  import h5py

  def zeros(model, channels, seed):  # random numbers take long to compile
    shapes = jax.eval_shape(lambda: init(model, channels, seed))
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

  init = models.init
  monkeypatch.setattr(models, "init", zeros)
  path = tmp_path / "weights.h5"
  with h5py.File(path, "w") as file:
    file.attrs["layer_names"] = [b"conv9"]
    file.create_group("conv9").attrs["weight_names"] = [b"conv9/kernel:0"]
    file["conv9/conv9/kernel:0"] = np.zeros((3, 3, 3, 8))
  if damage == "missing":
    path.unlink()
  elif damage == "text":
    path.write_text("<html>404</html>")
  elif damage == "cut":
    path.write_bytes(path.read_bytes()[:-200])
  config = tiny.make_config(
    3,
    model__name="encoder_unet",
    model__encoder="mobilenet_v2",
    model__widths=(4, 4, 4, 4),
    model__pretrained=str(path),
  )
  message = error_of(train, config, tmp_path / "workdir")
  assert str(path) in message
  assert ("another network" in message and "conv9/kernel" in message) == (damage[:3] == "ano")
  assert not workdirs.read_metrics(tmp_path / "workdir")
