"""A run packed into a folder, and the folder as a network; test_packed has damaged ones."""

import json
import os
import pathlib
import re
import shlex
import shutil

import numpy as np
import pytest
import safetensors.numpy
import tiny
from PIL import Image
from test_main import error_of as command_error
from test_main import jaxseg as jaxseg_command  # noqa: F401
from test_main import num_steps, trained  # noqa: F401
from test_printing import NASTY, SHOWN
from tiny import error_of

import jaxseg
from jaxseg import (
  DataWarning,
  checkpoint,
  checkpoint_files,
  evaluation,
  metrics,
  model_card,
  models,
  packed,
  packing,
  settings,
  workdirs,
)
from jaxseg.data import datasets
from jaxseg.data.decode import DatasetInfo


@tiny.once  # test_hub and test_packed use them, too
def trained_and_packed(tmp_path_factory):
  """(work directory of a run of the photos, scored at steps 2 and 4, with a data_dir; packed)"""
  workdir = tmp_path_factory.mktemp("run")
  place = tmp_path_factory.mktemp("packed") / "roads"
  data_dir = tmp_path_factory.mktemp("hidden_place")
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(datasets.DATASETS, "photos", tiny.load_photos)
    config = tiny.make_config(
      4, eval_every=2, data__data_dir=str(data_dir), eval__num_samples=1, predict__tta="flip"
    )
    jaxseg.train(config, workdir)
    jaxseg.evaluate(workdir)  # of the best checkpoint
    jaxseg.pack(workdir, place)
  return workdir, place


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  return trained_and_packed(tmp_path_factory)[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """The run, packed."""
  return trained_and_packed(tmp_path_factory)[1]


@pytest.fixture
def copy(folder, tmp_path):
  return pathlib.Path(shutil.copytree(folder, tmp_path / "copy"))


def photo(i=3):
  return tiny.load_photos("test", "", 32, 0)[1][i]["image"]


def contents(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir()}


def rewrite(folder, change_about=lambda about: None, change_tensors=None):
  """Changes a packed network such that its checksum is right."""
  about = json.loads((folder / "config.json").read_text())
  path = folder / "model.safetensors"
  if change_tensors:
    tensors = safetensors.numpy.load_file(path)
    change_tensors(tensors)
    safetensors.numpy.save_file(tensors, path)
  about["sha256"]["model.safetensors"] = packed.digest(path.read_bytes())
  change_about(about)
  (folder / "config.json").write_text(json.dumps(about))


def test_the_folder_is_the_network(run, folder, photos):
  """Bit for bit, with the run's options, and those of `load` on top."""
  assert sorted(contents(folder)) == [
    "README.md", "config.json", "evaluation.json", "model.safetensors"
  ]  # fmt: skip
  ours, theirs = jaxseg.load(folder), jaxseg.load(run)
  assert (ours.step, ours.info.channels, ours.classes) == (theirs.step, 3, tiny.INFO.classes)
  assert ours.palette == tiny.INFO.palette and ours.config.predict.tta == "flip"
  np.testing.assert_array_equal(ours.probs(photo()), theirs.probs(photo()))
  plain = [jaxseg.load(place, tta="none").probs(photo()) for place in (run, folder)]
  np.testing.assert_array_equal(*plain)
  assert np.abs(plain[0] - ours.probs(photo())).max() > 0
  about = json.loads((folder / "config.json").read_text())
  assert about["config"]["train"]["ema_decay"] == 0.9  # the weights are those of the average
  tensors = safetensors.numpy.load_file(folder / "model.safetensors")
  kernel = theirs.variables["params"]["down0_conv1"]["kernel"]
  np.testing.assert_array_equal(tensors["params/down0_conv1/kernel"], kernel)


def test_it_stands_alone(folder, copy, tmp_path):
  """Where its data set and augmentations are not known, it is scored on a folder of images."""
  assert "photos" not in datasets.DATASETS
  rewrite(copy, lambda about: about["config"]["augment"].update(extra=["mine"]))
  assert jaxseg.load(copy)(photo()).shape == photo().shape[:2]
  message = error_of(jaxseg.evaluate, copy)
  assert "config.data.data_dir is empty: set it to the folder" in message
  for i in range(tiny.NUM_PHOTOS["test"]):
    for part in ("image", "mask"):
      place = tmp_path / "test" / f"{part}s" / f"{i}.png"
      place.parent.mkdir(parents=True, exist_ok=True)
      place.write_bytes(tiny.make_photo("test", i)[part])
  with pytest.warns(DataWarning, match="copy is packed and stays as it is"):
    scores = jaxseg.evaluate(copy, {"data.data_dir": str(tmp_path)})
  expected = json.loads((folder / "evaluation.json").read_text())
  assert scores["confusion"] == expected["confusion"] and "overrides" not in scores
  keys = {"data.data_dir": str(tmp_path), "predict.tta": "none"}
  with pytest.warns(DataWarning, match="copy is packed and stays as it is"):
    assert jaxseg.evaluate(copy, keys)["overrides"] == {"predict.tta": "none"}


def test_it_holds_no_place_of_this_machine(run, folder):
  (data_dir,) = {settings.read_run(run).data.data_dir}
  assert os.path.isdir(data_dir)
  for name, content in contents(folder).items():
    for place in (data_dir, run, run.name, pathlib.Path(data_dir).name, run.parent, os.getcwd()):
      assert str(place).encode() not in content, (name, place)


def test_paths_become_names():
  values = {name: declared.default for name, declared in settings.declared_keys().items()}
  changes = {
    "data.data_dir": "/home/me/data",
    "data.source": "sets/mine.parquet",
    "data.split_file": "lists/{split}.txt",
    "data.classes": ("/", "b"),
    "data.eval_split": "~/other",
    "data.mine": "C:\\data\\a.txt",
    "data.more": ("../x/y", 3, ("file:///etc/z",)),
    "model.pretrained": "weights/vgg.h5",
    "model.init_from": "/runs/before",
    "parallel.coordinator": "host:1234",
  }
  expected = {
    "data.data_dir": "",
    "data.source": "mine.parquet",
    "data.split_file": "lists/{split}.txt",
    "data.classes": ("/", "b"),
    "data.eval_split": "other",
    "data.mine": "a.txt",
    "data.more": ("y", 3, ("z",)),
    "model.pretrained": "vgg.h5",
    "model.init_from": "before",
    "parallel.coordinator": "",
  }
  assert packing.shareable({**values, **changes}) == {**values, **expected}
  hub = {"data.source": "owner/name", "model.init_from": "hf:owner/name"}
  assert packing.shareable({**values, **hub}) == {**values, **hub}
  named = {**values, "data.name": "tfds", "data.source": "cityscapes/semantic_segmentation"}
  assert packing.shareable({**named, "data.data_dir": "/home/me/tfds"}) == named


def test_a_split_that_is_a_path(run, photos, tmp_path, monkeypatch):
  scores = json.loads((run / "evaluation.json").read_text())
  monkeypatch.setattr(packing, "scores_of", lambda *_: {**scores, "split": "/home/me/val.txt"})
  jaxseg.pack(run, tmp_path / "out")
  assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["split"] == "val.txt"
  assert not [x for x in contents(tmp_path / "out").values() if b"/home/me" in x]


def header_of(folder):
  text = (folder / "README.md").read_text()
  yaml = pytest.importorskip("yaml", reason="pip install -e '.[hub]'")
  return yaml.safe_load(text.split("---\n")[1]), text


def test_model_card(run, folder):
  header, text = header_of(folder)
  assert header == {
    "library_name": "jaxseg",
    "pipeline_tag": "image-segmentation",
    "tags": ["image-segmentation", "semantic-segmentation", "jax", "flax", "unet"],
  }
  assert "\n# roads\n\n> **Licence: not set.** Before you publish this," in text
  assert "into 3 classes:\n`unet`, " in text and "RGB images (uint8)" in text
  assert "\n| 1 | road | `#636363` | 99, 99, 99 |\n" in text  # 99 = 6 * 16 + 3
  assert "- trained on the split train, 20 images\n- scored on the split test, 9 images\n" in text
  lines = set(text.splitlines())
  assert "config.predict.tta = 'flip'" in lines and "config.model.widths = (4, 8)" in lines
  assert not any(line.startswith("config.augment.flip ") for line in lines)  # a default
  scores = json.loads((run / "evaluation.json").read_text())
  low, high = scores["miou_interval"]
  assert f"| mean IoU | {scores['miou']:.4f} | {low:.4f} to {high:.4f} |" in lines
  row = [scores[name]["sky"] for name in ("iou", "dice", "accuracy")]
  low, high = scores["iou_interval"]["sky"]
  cells = " | ".join(f"{x:.4f}" for x in row)
  assert f"| sky | {cells} | {low:.4f} to {high:.4f} |" in lines
  assert "| nowhere | - | - | - | - |" in lines or scores["iou"]["nowhere"] is not None
  assert any("trained on windows of 32 x 32 px" in line for line in lines)
  assert any("is the best of 2 by its mean IoU" in line for line in lines)
  assert "predictions" not in text and "None" not in text and "nan" not in text
  assert json.loads((folder / "evaluation.json").read_text()) == scores


def test_the_card_says_how_to_use_it(folder, jaxseg_command, tmp_path, monkeypatch):  # noqa: F811
  """Its Python and its command run; the name on the Hub is replaced by the folder's."""
  _, text = header_of(folder)
  text = text.replace("hf:OWNER/roads", str(folder))
  monkeypatch.chdir(tmp_path)
  Image.fromarray(photo()).save("photo.png")
  (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
  names = {}
  exec(program, names)
  assert names["labels"].shape == photo().shape[:2] and names["picture"].shape == photo().shape
  (command,) = re.findall(r"```\npython -m jaxseg.main (.*?)\n```", text)
  (tmp_path / "photos").mkdir()
  Image.fromarray(photo()).save(tmp_path / "photos" / "a.png")
  status, _, err = jaxseg_command(*shlex.split(command))
  assert status == 0, err
  np.testing.assert_array_equal(Image.open(tmp_path / "labels" / "a.png"), names["labels"])


def test_a_card_shows_names_as_they_are():
  """No name becomes markup, steers a terminal, or ends a block."""
  evil = ("a|b", "<script>alert(1)</script>", "[x](http://y)", NASTY, "```", "*_&amp;")
  values = {name: declared.default for name, declared in settings.declared_keys().items()}
  values |= {"data.name": "folder", "data.train_split": "a`b\n# c", "data.classes": evil}
  info = DatasetInfo(evil, ((1, 2, 3),) * 6, 3)
  facts = model_card.Facts(
    "x\n---\ny: 1 # `", values, {"data.classes": evil}, info, 5, 12, {}, None, 0, ["mine"]
  )
  text = model_card.write_card(facts)
  assert text.count("\n---\n") == 1 and text.count("\n```") == 6 and "\x1b" not in text
  for name, shown in {0: r"a\|b", 1: r"\<script\>alert(1)\</script\>", 2: r"\[x\](http://y)",
                      3: re.sub(r"([\\\[\]])", r"\\\1", SHOWN), 4: r"\`\`\`",
                      5: r"\*\_\&amp;"}.items():  # fmt: skip
    assert f"| {name} | {shown} | `#010203` |" in text
  assert "and the file that adds `mine`: import it first, or pass it as `--config`:" in text
  assert "None: the run was not evaluated." in text and "nothing is known of its quality" in text


def edit_json(path, **changes):
  path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def with_more_errors(scores):
  """What an evaluation with other options finds, where they are not noted."""
  counts = np.array(scores["confusion"])
  counts[0, 1] += counts.sum() // 50
  found = metrics.scores(*metrics.class_pixels(counts))
  found = {name: evaluation.readable(x, list(scores["iou"])) for name, x in found.items()}
  return {**found, "confusion": counts.tolist()}


@pytest.mark.parametrize("change", ["step", "miou", "split", "overrides", None])
def test_scores_are_those_of_what_is_packed(run, change, tmp_path, photos):
  """Not of another checkpoint, split, or other options: then those that the checkpoint has."""
  other = pathlib.Path(shutil.copytree(run, tmp_path / "run"))
  scores = json.loads((run / "evaluation.json").read_text())
  if change is None:
    (other / "evaluation.json").unlink()
  else:
    values = {"step": 99, "split": "train", "overrides": {"predict.tta": "none"}}
    edited = {change: values.get(change)} if change != "miou" else with_more_errors(scores)
    edit_json(other / "evaluation.json", **edited)
  with pytest.warns(DataWarning, match="scores of training, without intervals.*--mode=evaluate"):
    jaxseg.pack(other, tmp_path / "out")
  found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
  assert (found["split"], found["step"]) == ("test", scores["step"])
  assert found["miou"] == pytest.approx(scores["miou"], abs=1e-6) and "miou_interval" not in found
  assert f"| mean IoU | {found['miou']:.4f} | - |" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.slow
def test_a_temperature_is_packed(run, jaxseg_command, tmp_path, photos):  # noqa: F811
  """It changes probabilities, and with them two scores, which are then those at it."""
  other = pathlib.Path(shutil.copytree(run, tmp_path / "run"))
  assert jaxseg_command("--mode=calibrate", f"--workdir={other}")[0] == 0
  (found,) = json.loads((other / "calibration.json").read_text()).values()
  assert found["temperature"] != 1
  with pytest.warns(DataWarning, match="scores of training, without intervals"):
    jaxseg.pack(other, tmp_path / "a")
  scores = json.loads((tmp_path / "a" / "evaluation.json").read_text())
  assert "miou" in scores and not {"loss", "ece"} & scores.keys()
  jaxseg.evaluate(other)
  jaxseg.pack(other, tmp_path / "a")
  scores = json.loads((tmp_path / "a" / "evaluation.json").read_text())
  latest = json.loads((other / "evaluation.json").read_text())
  assert latest.pop("overrides") == {"predict.temperature": found["temperature"]}
  assert scores == latest
  new = f"--workdir={tmp_path / 'new'}", f"--config.model.init_from={tmp_path / 'a'}"
  assert jaxseg_command(*new, "--config.train.num_epochs=0.5")[0] == 0
  config = json.loads((tmp_path / "new" / "config.json").read_text())
  assert config["predict"]["temperature"] == 0  # it was that of the other weights
  probs = [jaxseg.load(place).probs(photo()) for place in (tmp_path / "a", other, run)]
  np.testing.assert_array_equal(probs[0], probs[1])
  assert np.abs(probs[0] - probs[2]).max() > 0


def test_a_picture_is_there_if_it_is_asked_for(run, tmp_path, photos):
  jaxseg.pack(run, tmp_path / "a", picture=True)
  step = jaxseg.load(run).step
  picture = (tmp_path / "a" / "predictions.png").read_bytes()
  assert picture == (run / "plots" / f"predictions_{step:06d}.png").read_bytes()
  assert "![Predictions](predictions.png)" in (tmp_path / "a" / "README.md").read_text()
  jaxseg.pack(run, tmp_path / "a")  # and goes away with it
  assert not (tmp_path / "a" / "predictions.png").exists()
  other = pathlib.Path(shutil.copytree(run, tmp_path / "run"))
  shutil.rmtree(other / "plots")
  message = error_of(jaxseg.pack, other, tmp_path / "b", picture=True)
  assert "leave out --picture" in message and not (tmp_path / "b").exists()


def test_a_checkpoint_is_packed_by_its_folder(run, tmp_path, photos):
  best = jaxseg.load(run).step
  (other,) = {2, 4} - {best}
  place = run / "checkpoints" / str(other)
  with pytest.warns(DataWarning, match=f"another checkpoint than {other}"):
    jaxseg.pack(place, tmp_path / "out")
  ours, theirs = jaxseg.load(tmp_path / "out"), jaxseg.load(place)
  assert ours.step == other
  np.testing.assert_array_equal(ours.probs(photo()), theirs.probs(photo()))


def test_what_is_in_the_way_stays(run, folder, copy, tmp_path, photos):
  (tmp_path / "full").mkdir()
  (tmp_path / "full" / "a.txt").touch()
  for place in (tmp_path / "full", run):
    before = sorted(place.iterdir())
    message = error_of(jaxseg.pack, run, place)
    assert message == f"{place} holds something else; give an --output that is new or empty"
    assert sorted(place.iterdir()) == before
  card = copy / "README.md"
  card.write_text(card.read_text().replace("# license", "license"))
  message = error_of(jaxseg.pack, run, copy)
  assert message.startswith(f"{card} was edited after packing; move it away")
  card.rename(tmp_path / "README.md")
  (copy / ".git").mkdir()  # of a clone from the Hub
  jaxseg.pack(run, copy)
  assert card.is_file() and (copy / ".git").is_dir()
  for source in (folder, "torchvision:fcn_resnet50"):
    assert f"{source} is no run of your own" in error_of(jaxseg.pack, source, tmp_path / "x")


@pytest.mark.parametrize(
  "num_done", [0, *(pytest.param(x, marks=pytest.mark.slow) for x in (1, 2)), 3]
)
def test_a_killed_pack_is_none(folder, copy, num_done, monkeypatch):
  """Over one of another network of the same shapes, stopped before each file gets its place."""
  labels = jaxseg.load(folder)(photo())
  (copy / "README.md").write_text("another card")
  own = packed.digest(b"another card")
  rewrite(
    copy,
    lambda about: (about.update(step=1), about["sha256"].update({"README.md": own})),
    lambda tensors: [x.__imul__(-1) for x in tensors.values()],
  )
  assert (jaxseg.load(copy)(photo()) != labels).any()
  replace, done = os.replace, []

  def stop(source, target):
    if len(done) == num_done:
      raise KeyboardInterrupt
    done.append(target)
    replace(source, target)

  files = contents(folder)
  monkeypatch.setattr(os, "replace", stop)
  with pytest.raises(KeyboardInterrupt):
    packing.write(copy, files)
  monkeypatch.undo()
  if num_done == 0:
    assert jaxseg.load(copy).step == 1  # as before
  else:
    assert "is damaged, or of another network" in error_of(jaxseg.load, copy)
  packing.write(copy, files)
  assert contents(copy) == files
  np.testing.assert_array_equal(jaxseg.load(copy)(photo()), labels)


def test_a_pack_that_was_killed_in_a_new_folder(folder, tmp_path):
  place = tmp_path / "new"
  place.mkdir()
  (place / "model.safetensors.tmp").write_bytes(b"half")
  assert not packed.is_packed(place)
  packing.write(place, contents(folder))
  assert contents(place) == contents(folder)


def test_patterns_of_its_files_are_not_for_others(copy, tmp_path):
  def change(about):
    about["config"]["data"] |= {"images": "{name}.jpg", "masks": "{name}.png"}

  rewrite(copy, change)
  (tmp_path / "in").mkdir()
  for name in ("a.jpg", "b.png"):
    Image.fromarray(photo()).save(tmp_path / "in" / name)
  own = {"data.images": "{name}.jpg", "data.masks": "{name}.png"}
  for options, names in ({}, {"a.png", "b.png"}), (own, {"a.png"}):
    output = tmp_path / f"out{len(options)}"
    jaxseg.predict_folder(copy, tmp_path / "in", output, options)
    assert {path.name for path in output.glob("*.png")} == names


def test_scores_of_other_data_are_not_on_the_card(run, tmp_path, monkeypatch):
  """Of a checkpoint that training did not score, those of evaluation.json count, unless..."""
  place = pathlib.Path(shutil.copytree(run, tmp_path / "run"))
  step, read = checkpoint.best_checkpoint(place)[0], checkpoint_files.read
  monkeypatch.setattr(
    checkpoint_files, "read", lambda *args: {} if "metrics" in args else read(*args)
  )
  config = settings.read_run(place)
  found = packing.scores_of(place, step, config, place)
  for overrides in {"data.num_threads": 1}, {"data.data_dir": "/moved"}:
    edit_json(place / "evaluation.json", overrides=overrides)
    assert packing.scores_of(place, step, config, place)["miou"] == found["miou"]
  edit_json(place / "evaluation.json", num_images=7)
  with pytest.warns(DataWarning, match="the card has no scores"):
    assert packing.scores_of(place, step, config, place) is None


@pytest.mark.slow
def test_a_network_of_ones_own(trained, tmp_path, monkeypatch):  # noqa: F811
  """The card says that it is needed, and so does the error."""

  def mine(num_classes, *, widths=()):
    return models.MODELS["unet"](num_classes, widths=widths)

  with monkeypatch.context() as patch:
    patch.setitem(models.MODELS, "mine", mine)
    run = pathlib.Path(shutil.copytree(trained, tmp_path / "run"))
    config = json.loads((run / "config.json").read_text())
    edit_json(run / "config.json", model={**config["model"], "name": "mine"})
    jaxseg.pack(run, tmp_path / "out")
    assert jaxseg.load(tmp_path / "out").config.model.name == "mine"
  assert "and the file that adds `mine`: import" in (tmp_path / "out" / "README.md").read_text()
  message = error_of(jaxseg.load, tmp_path / "out")
  assert "config.model.name is 'mine', which is unknown" in message and "--config file" in message


def test_what_is_packed(run, folder, copy, tmp_path):
  assert packed.is_packed(folder) and packed.is_packed("hf:owner/name")
  assert not packed.is_packed(run) and not packed.is_packed(tmp_path / "none")
  (copy / "config.json").write_text('{"classes": 3, "encoder_name": "resnet34"}')  # of another
  assert not packed.is_packed(copy)
  edit_json(copy / "config.json", format="other")
  assert not packed.is_packed(copy)


@pytest.mark.slow
def test_the_command(jaxseg_command, trained, tmp_path, monkeypatch):  # noqa: F811
  """Train, pack, and every mode of a trained run, which leave the folder as it is."""
  monkeypatch.chdir(tmp_path)
  status, out, err = jaxseg_command("--mode=pack", f"--workdir={trained}", "--output=cells")
  assert status == 0 and not err, err
  assert out == (
    "cells: 0.0 MiB, step 4; see cells/README.md, and set the licence there\n"
    "to share it: hf upload OWNER/cells cells\n"
  )
  before = contents(tmp_path / "cells")
  image = np.random.default_rng(0).integers(0, 256, (40, 33), dtype=np.uint8)
  (tmp_path / "in").mkdir()
  Image.fromarray(image).save("in/a.png")
  found = []
  for number, source in enumerate(("--workdir=cells", "--model=cells")):
    output = f"out{number}"
    assert jaxseg_command("--mode=predict", source, "--input=in", f"--output={output}")[0] == 0
    found.append(np.asarray(Image.open(f"{output}/a.png")))
  np.testing.assert_array_equal(found, [jaxseg.load(trained)(image)] * 2)
  status, out, err = jaxseg_command("--mode=evaluate", "--workdir=cells")
  assert status == 0 and "note: cells is packed and stays as it is" in err
  expected = json.loads((trained / "evaluation.json").read_text())
  scores = json.loads(out)
  assert scores["miou"] == pytest.approx(expected["miou"], abs=1e-6) and scores["step"] == 4
  assert jaxseg_command("--mode=export", "--workdir=cells", "--output=exported")[0] == 0
  np.testing.assert_array_equal(jaxseg.load("exported/model.stablehlo")(image), found[0])
  assert "unet: " in jaxseg_command("--mode=summary", "--workdir=cells")[1]
  more = "--config.model.init_from=cells", num_steps(1)
  status, _, err = jaxseg_command("--workdir=next", *more)
  assert status == 0 and "from cells, step 4: copied all" in err, err
  assert settings.read_run("next").model.init_from == "cells"
  assert contents(tmp_path / "cells") == before


@pytest.mark.parametrize(
  "flags, words",
  [
    (["--workdir=FOLDER"], "stays as it is: train in another --workdir, with config.model.init_"),
    (["--mode=export", "--workdir=FOLDER"], "stays as it is: give --output=DIR"),
    (["--mode=check_data", "--workdir=FOLDER"], "stays as it is: give --config, and another"),
    (["--mode=calibrate", "--workdir=FOLDER"], "stays as it is: calibrate the run, then pack it"),
    (["--mode=report", "--workdir=RUN,FOLDER"], "FOLDER is a packed network, which stays as it"),
    (["--mode=pack", "--workdir=FOLDER", "--output=x"], "is no run of your own: pack the work dir"),
    (["--mode=pack", "--workdir=RUN"], "--mode=pack needs --output=DIR"),
    (["--mode=pack", "--workdir=RUN", "--output=x", "--config.seed=3"], "leave out --config.seed"),
    (["--mode=pack", "--output=x"], "--workdir is missing; give that of a trained run"),
    (["--mode=pack", "--workdir=none", "--output=x"], "none has no checkpoint; correct --workdir"),
    (["--mode=predict", "--model=FOLDER", "--workdir=RUN"], "--model is in place of --workdir: "),
    (["--mode=predict", "--workdir=RUN", "--picture"], "--picture is for --mode=pack; leave it"),
    (["--mode=predict", "--model=hf:a", "--input=a", "--output=b"], "write hf:OWNER/NAME or hf:"),
  ],
)
def test_mistakes(jaxseg_command, flags, words, trained, tmp_path, monkeypatch):  # noqa: F811
  monkeypatch.chdir(tmp_path)
  if any("FOLDER" in flag for flag in flags):
    jaxseg.pack(trained, "FOLDER")
  flags = [flag.replace("RUN", str(trained)) for flag in flags]
  assert words in command_error(jaxseg_command, *flags)
  assert not (tmp_path / "x").exists()


def test_a_run_is_not_taken_for_a_packed_network(run):
  """Although both have a config.json and an evaluation.json."""
  assert {path.name for path in run.iterdir()} & set(packed.NAMES) == {
    "config.json", "evaluation.json"
  }  # fmt: skip
  assert workdirs.saved_config(run).keys().isdisjoint({"format", "version", "info"})
