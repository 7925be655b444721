"""Training from a config to a work directory: complete, resumable bit for bit, safe from NaN."""

import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tiny
from tiny import error_of

from jaxseg import VOID, UserError, build, checkpoint, models, optim, parallel, training, workdirs
from jaxseg.data import datasets
from jaxseg.data.labels import LabelMap
from jaxseg.run import Run
from jaxseg.training import train

pytestmark = pytest.mark.usefixtures("photos")


def saved_state(workdir, step):
  """The arrays of a checkpoint, read without our code."""
  folder = workdir.absolute() / "checkpoints" / str(step)
  with ocp.StandardCheckpointer() as checkpointer:
    return [checkpointer.restore(folder / part) for part in ("variables", "optimizer")]


def assert_same_bits(first, second):
  leaves = jax.tree_util.tree_leaves_with_path(first)
  assert jax.tree.structure(first) == jax.tree.structure(second) and len(leaves) > 20
  for (path, a), b in zip(leaves, jax.tree.leaves(second), strict=True):
    a, b = np.asarray(a), np.asarray(b)
    assert (a.dtype, a.tobytes()) == (b.dtype, b.tobytes()), jax.tree_util.keystr(path)


def read_json(text):
  """As another program reads it: NaN and the like are no JSON."""

  def refuse(word):
    raise AssertionError(f"{word} is no JSON")

  return json.loads(text, parse_constant=refuse)


def read_lines(workdir, split, *left_out):
  """Objects of metrics.jsonl of one split."""
  lines = [read_json(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  return [
    {k: v for k, v in line.items() if k not in left_out} for line in lines if line["split"] == split
  ]


def checkpoints(workdir):
  return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


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


def test_files_of_a_work_directory(trained):
  workdir, config = trained
  names = {path.name for path in workdir.iterdir()}
  events = {name for name in names if name.startswith("events.out.tfevents")}
  assert len(events) == 1
  assert names - events == {
    *("config.json", "metrics.jsonl", "evaluation.json", "checkpoints", "plots")
  }
  assert sorted(path.name for path in (workdir / "plots").iterdir()) == [
    "confusion.png",
    "curves.png",
    "predictions_000004.png",
    "predictions_000008.png",
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
  lists = {name for name, value in result.items() if isinstance(value, list)}
  assert {"confusion", "miou_interval"} <= lists
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


def stop_after(monkeypatch, step, number=signal.SIGTERM):
  """Sends this process a signal when the bar reaches a step; the step after it will be the last."""
  advance = Run.advance

  def advance_and_stop(self, *arguments):
    advance(self, *arguments)
    if arguments[0] == step:
      monkeypatch.setattr(Run, "advance", advance)
      os.kill(os.getpid(), number)

  monkeypatch.setattr(Run, "advance", advance_and_stop)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
  """A work directory after 6 undisturbed steps."""
  workdir = tmp_path_factory.mktemp("straight")
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(datasets.DATASETS, "photos", tiny.load_photos)
    assert train(tiny.make_config(6), workdir) is True
  return workdir


def test_a_stopped_run_goes_on_bit_for_bit(straight, tmp_path, monkeypatch):
  config = tiny.make_config(6)
  handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
  stop_after(monkeypatch, 2)
  assert train(config, tmp_path) is False
  assert checkpoints(tmp_path) == [3]
  assert not (tmp_path / "evaluation.json").exists()
  stop_after(monkeypatch, 4, signal.SIGINT)
  assert train(config, tmp_path) is False
  assert checkpoints(tmp_path) == [3, 5]
  assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == handlers
  assert train(config, tmp_path) is True
  expected = saved_state(straight, 6)
  assert_same_bits(saved_state(tmp_path, 6), expected)
  assert int(expected[1]["step"]) == 6
  # Bits could agree because nothing moves.
  kernels = [saved_state(tmp_path, step)[0]["params"]["head"]["kernel"] for step in (5, 6)]
  assert (np.asarray(kernels[0]) != np.asarray(kernels[1])).all()
  for split in ("train", "test"):
    lines = read_lines(tmp_path, split, "images_per_second")
    assert lines and lines == read_lines(straight, split, "images_per_second")
  evaluations = [(path / "evaluation.json").read_text() for path in (straight, tmp_path)]
  assert evaluations[0] == evaluations[1]


def test_a_run_with_sampling_by_classes_goes_on_bit_for_bit(tmp_path, monkeypatch):
  """The examples that hold a class are those of the run's first start."""
  sampling = {
    "data__class_crops": 0.5, "data__crop_classes": ("road",), "data__class_balanced": 0.5
  }  # fmt: skip
  config = tiny.make_config(4, **sampling)
  assert train(config, tmp_path / "straight") is True
  stop_after(monkeypatch, 1)
  assert train(config, tmp_path / "stopped") is False
  counts = read_json((tmp_path / "stopped" / "class_counts.json").read_text())
  everywhere = list(range(20))  # see tiny.make_photo
  assert counts["examples"] == {"sky": everywhere, "road": everywhere, "nowhere": []}
  with monkeypatch.context() as patch:
    patch.setattr(training, "count_classes", None)  # is not called again
    assert train(config, tmp_path / "stopped") is True
  straight, stopped = (tmp_path / name for name in ("straight", "stopped"))
  assert_same_bits(saved_state(stopped, 4), saved_state(straight, 4))
  shuffled = tiny.make_config(4, data__class_crops=0.5, data__crop_classes=("road",))
  assert "class_balanced" in error_of(train, shuffled, stopped)
  patch_source(monkeypatch, 19)
  message = error_of(train, config, stopped)
  assert "has 19 examples, but had 20" in message and "--workdir" in message


def patch_source(monkeypatch, num_examples):
  """Takes the photos after the first `num_examples` out of the training split."""
  open_split = build.open_split

  def shortened(config, role, **options):
    info, source = open_split(config, role, **options)
    return info, datasets.Subset(source, range(num_examples)) if role == "train" else source

  monkeypatch.setattr(build, "open_split", shortened)


@pytest.mark.parametrize(
  "changes, words",
  [
    ({"data__class_crops": 0.3, "data__fit": "resize"}, "config.data.class_crops is 0.3, but"),
    ({"data__class_crops": 0.5, "data__crop_classes": ("sky", "rode")},
     "has 'rode', which is no class; choose from sky, "),
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
  monkeypatch.setattr(training, "count_classes", lambda *_: {"examples": {"sky": [], "road": []}})
  config = tiny.make_config(3, data__class_balanced=0.5)
  message = error_of(train, config, tmp_path / "run")
  assert "config.data.class_balanced is 0.5, but no training mask has a class" in message


def test_leftovers_of_a_killed_run(straight, tmp_path, monkeypatch):
  """Lines that no checkpoint has, the last one cut short, and half a checkpoint."""
  config = tiny.make_config(6)
  stop_after(monkeypatch, 2)
  assert train(config, tmp_path) is False
  with (tmp_path / "metrics.jsonl").open("a") as file:
    file.write('{"step": 4, "epoch": 1.6, "split": "train", "loss": 99.0}\n{"step": 5, "epo')
  (tmp_path / "checkpoints" / "4.orbax-checkpoint-tmp" / "variables").mkdir(parents=True)
  assert train(config, tmp_path) is True
  lines = read_lines(tmp_path, "train", "images_per_second")
  assert lines == read_lines(straight, "train", "images_per_second")
  assert checkpoints(tmp_path) == [3, 6]


def test_a_signal_at_the_last_step_still_evaluates(tmp_path, monkeypatch):
  stop_after(monkeypatch, 2)
  assert train(tiny.make_config(3), tmp_path) is True
  assert read_json((tmp_path / "evaluation.json").read_text())["step"] == 3


def test_the_loss_falls(tmp_path):
  assert train(tiny.make_config(60, train__log_every_steps=10), tmp_path) is True
  losses = [line["loss"] for line in read_lines(tmp_path, "train")]
  assert len(losses) == 6
  assert losses[-1] < 0.6 * losses[0]
  (result,) = read_lines(tmp_path, "test")
  assert result["loss"] < 0.6 * losses[0] and result["pixel_accuracy"] > 0.9


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


def test_best_checkpoint_outlives_worse_ones(tmp_path, monkeypatch):
  scores = iter([0.2, 0.9, 0.3, 0.4, 0.5])

  def evaluate_split(predict, source, info, config):
    score = next(scores)
    result = {"pixel_accuracy": score, "miou": score, "iou": {"sky": score, "road": None}}
    return {**result, "loss": 1.0, "num_images": 9}, []

  monkeypatch.setattr(training, "evaluate_split", evaluate_split)
  assert train(tiny.make_config(5, eval_every=1), tmp_path) is True
  assert checkpoints(tmp_path) == [2, 4, 5]
  assert checkpoint.best_checkpoint(tmp_path)[0] == 2


@pytest.mark.parametrize(
  "eval_every, what", [(2, "loss nan, gradient norm nan at step 6"), (5, "evaluation at step 5")]
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
    assert read_json((tmp_path / "evaluation.json").read_text())["step"] == 4
    # The last good checkpoint is good: the same command, mended, goes on from it.
    assert train(config, tmp_path) is True
    assert [line["step"] for line in read_lines(tmp_path, "train")] == list(range(1, 9))
  else:
    assert not (tmp_path / "evaluation.json").exists()


def test_not_finite_before_any_checkpoint(tmp_path, monkeypatch):
  monkeypatch.setattr(
    optim, "schedule", lambda *_, **__: lambda count: jnp.where(count < 4, 1e-2, 3e38)
  )
  message = error_of(train, tiny.make_config(8), tmp_path)
  assert "at step 6" in message and "there is no checkpoint yet" in message
  assert checkpoints(tmp_path) == []


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

  with monkeypatch.context() as patch:
    patch.setattr(parallel, "put_on_mesh", fails)
    assert "another key" in error_of(train, config, tmp_path)
  assert (tmp_path / "config.json").exists()
  config.train.learning_rate = 0.5
  assert train(config, tmp_path)
  assert json.loads((tmp_path / "config.json").read_text())["train"]["learning_rate"] == 0.5


def test_work_directory_of_another_config(straight):
  message = error_of(train, tiny.make_config(6, train__learning_rate=2e-2), straight)
  assert str(straight) in message and "--workdir" in message
  assert "config.train.learning_rate=0.01, not 0.02" in message


def test_work_directory_that_cannot_be_made(tmp_path):
  (tmp_path / "file").touch()  # stops root too, unlike permissions
  for path in (tmp_path / "file", tmp_path / "file" / "run"):
    message = error_of(train, tiny.make_config(3), path)
    assert str(path) in message and "--workdir" in message


def test_free_keys_may_change_on_the_way(tmp_path, monkeypatch):
  stop_after(monkeypatch, 2)
  assert train(tiny.make_config(5), tmp_path) is False
  config = tiny.make_config(5, data__num_threads=0, data__cache_mb=0, train__log_every_steps=2)
  assert train(config, tmp_path) is True
  assert json.loads((tmp_path / "config.json").read_text())["data"]["num_threads"] == 0


def test_class_weights(tmp_path):
  """Balanced, 5 pixels of class 0 and 15 of class 1 weigh 20 / (2 * 5) and 20 / (2 * 15)."""
  mask = np.repeat(np.array([0, 1, VOID], np.uint8), (5, 15, 7)).reshape(3, 9)
  source = [{"mask": mask[:2]}, {"mask": mask[2:]}]
  info = datasets.DatasetInfo(("a", "b"), (), 1)

  def get(given, balance, reuse=False):
    config = tiny.make_config(1, train__class_weights=given, train__class_balance=balance)
    examples = [None, None] if reuse else source
    counts = training.class_counts(config, info, examples, tmp_path, reuse=reuse)
    return build.class_weights(config, info.classes, counts)

  assert get((), "").dtype == jnp.float32
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


def test_patience(tmp_path, monkeypatch, capsys):
  """Three evaluations without a better score after the second, also across a stop; for good."""
  found = iter([0.3, 0.5, 0.4, 0.45, 0.1, 0.9])
  evaluate = training.evaluate_split

  def scripted(*arguments):
    result, samples = evaluate(*arguments)
    return {**result, "miou": next(found)}, samples

  monkeypatch.setattr(training, "evaluate_split", scripted)
  config = tiny.make_config(12, eval_every=1, train__patience=3)
  stop_after(monkeypatch, 3)
  assert train(config, tmp_path) is False
  assert train(config, tmp_path) is True
  assert checkpoints(tmp_path) == [2, 5, 6]  # step 4, the stopped one, was not scored
  assert "early stopping at step 6: no better mean IoU in 3 evaluations" in capsys.readouterr().err
  assert train(config, tmp_path) is True and next(found) == 0.9
  assert checkpoints(tmp_path) == [2, 5, 6]


def test_start_from_another_run(straight, tmp_path, capsys):
  """Its best checkpoint's arrays where they fit, and a training of its own."""
  config = tiny.make_config(1, model__init_from=str(straight), model__up="resize")
  config.train.learning_rate = 0.0
  train(config, tmp_path)
  donor, ours = saved_state(straight, 6)[0]["params"], saved_state(tmp_path, 1)[0]["params"]
  assert donor.keys() == ours.keys()
  kernels = [name for name in ours if "kernel" in ours[name]]
  changed = {n for n in kernels if not np.array_equal(ours[n]["kernel"], donor[n]["kernel"])}
  assert changed == {"up0"}  # 1x1 instead of 2x2
  told = " ".join(capsys.readouterr().err.split())
  assert f"from {straight}, step 6: copied down0_conv1, down0_conv2, " in told
  assert "; new: up0; skipped: up0" in told


def test_start_from_what_is_not_there(straight, tmp_path):
  config = tiny.make_config(1, model__init_from=str(tmp_path / "none"))
  message = error_of(train, config, tmp_path / "run")
  assert "none has no checkpoint" in message and "config.model.init_from" in message
  other = {"params": {"conv": {"kernel": np.zeros((1, 2))}}, "batch_stats": {}}
  with pytest.raises(UserError, match=f"no layer of {straight} fits.*config.model.init_from"):
    training.start_from(other, straight)
