"""Pages of runs that were trained, and of what differs between them."""

import base64
import io
import json
import math
import re
import shutil

import jax
import numpy as np
import pytest
import tiny
from PIL import Image
from test_data_page import Reader
from test_report_page import CHROMIUM, title_in_browser
from tiny import error_of

from jaxseg import (
  extremes,
  html_page,
  modes,
  per_image,
  reports,
  seed_scores,
)
from jaxseg.data.folder import default_palette
from jaxseg.training import train


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """Two work directories: of a short run, and of a longer one."""
  root = tmp_path_factory.mktemp("runs")
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(tiny.datasets.DATASETS, "photos", tiny.load_photos)
    for name, steps in (("short", 1), ("long", 3)):
      assert train(tiny.make_config(steps, eval_every=steps), root / name) is True
  return root / "short", root / "long"


@pytest.fixture
def runs(trained, photos, tmp_path):
  """Copies of both."""
  for path in trained:
    shutil.copytree(path, tmp_path / path.name)
  return [tmp_path / path.name for path in trained]


def images_of(path):
  """{alternative text: picture} of a page."""
  found = Reader(path.read_text(encoding="utf-8"))
  return {
    attrs["alt"]: Image.open(io.BytesIO(base64.b64decode(attrs["src"].split(",")[1])))
    for attrs in found.of("img")
  }


def test_training_writes_page_and_table(runs):
  for run in runs:
    result = json.loads((run / "evaluation.json").read_text())
    table = per_image.read(run / "per_image.csv", tiny.INFO.classes, "")
    assert table.names == [f"test{i}.png" for i in range(9)]
    assert table.pixels[:, 1].sum() == np.sum(result["confusion"])
    assert len(images_of(run / "plots/report.html")) == 9 * len(extremes.PANELS)


def test_distances_of_surfaces_are_in_all_three_files(runs):
  """The tolerance counts: at the image's diagonal, what has a boundary in both maps is near."""
  found = []
  for tolerance in 0.0, 99.0:
    keys = {"eval.surface_distances": True, "eval.surface_tolerance": tolerance}
    scores = modes.evaluate(runs[1], keys)
    result = json.loads((runs[1] / "evaluation.json").read_text())
    table = per_image.read(runs[1] / "per_image.csv", tiny.INFO.classes, "").of_images()
    text = Reader((runs[1] / "plots/report.html").read_text()).text.replace("\n", "")
    for name, title, digits in ("hd95", "HD95, px", 2), ("nsd", "normalised surface distance", 4):
      assert result[name] == scores[name] == pytest.approx(np.nanmean(table[name]))
      assert f"{title}{result[name]:.{digits}f}" in text
    found.append(result)
  assert found[0]["hd95"] == found[1]["hd95"] > 0 and found[0]["nsd"] < found[1]["nsd"]


def test_report_is_made_again_from_the_files(runs):
  path = runs[1] / "plots/report.html"
  before = path.read_text()
  path.unlink()
  assert reports.report([runs[1]]) == path
  one, two = (re.sub("<svg.*?</svg>", "", x, flags=re.DOTALL) for x in (before, path.read_text()))
  assert one == two and before.count("<svg") == path.read_text().count("<svg") == 3
  shutil.rmtree(runs[1] / "checkpoints")
  text = reports.report(runs[1]).read_text()
  assert f"No pictures: checkpoint 3 of {runs[1]} is not kept any more" in text


def test_comparison(runs, tmp_path):
  modes.evaluate(runs[1], {"predict.tta": "flip"})
  path = reports.report(runs, output=tmp_path / "out")
  assert path == tmp_path / "out" / "comparison.html"
  found = Reader(path.read_text(encoding="utf-8"))
  assert "long against short" in found.text and "predict.tta='flip'" in found.text
  assert "train.num_epochs" in found.text and "data.name" not in found.text
  scores = [json.loads((run / "evaluation.json").read_text())["miou"] for run in runs]
  gain = f"{scores[1] - scores[0]:+.4f}"
  assert f"mean IoU{scores[0]:.4f}{scores[1]:.4f}{gain}" in found.text.replace("\n", "")
  alts = list(images_of(path))
  assert {alt.rpartition(" of ")[0] for alt in alts} == {
    "input", "truth", "prediction, short", "prediction, long", "errors, short", "errors, long"
  }  # fmt: skip


FRAMES = """
<script>
const frames = [...document.querySelectorAll("iframe")];
addEventListener("load", () => {
  document.title = JSON.stringify(frames.map(frame => {
    const {documentElement: root, body} = frame.contentDocument;
    return [frame.contentWindow.innerWidth, root.scrollWidth,
            frame.contentWindow.getComputedStyle(body).backgroundColor];
  }));
});
</script>
"""


@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")
def test_pages_on_a_phone_and_in_the_dark(runs, tmp_path):
  """A report, a comparison and the page of several seeds: as wide as the screen, in its colours."""
  (tmp_path / "seeds").mkdir()
  for number, path in enumerate(runs):
    shutil.copytree(path, tmp_path / "seeds" / f"seed_{number}")
  config = json.loads((runs[0] / "config.json").read_text())
  config["train"]["num_seeds"] = 2
  (tmp_path / "seeds" / "config.json").write_text(json.dumps(config))
  for dark in False, True:
    others = reports.report(runs), reports.report(tmp_path / "seeds")
    pages = runs[0] / "plots/report.html", *others
    widths = 360, 1200
    frames = (f'<iframe width="{x}" src="{page}"></iframe>' for page in pages for x in widths)
    (tmp_path / "all.html").write_text("<title></title>" + "".join(frames) + FRAMES)
    options = ["--allow-file-access-from-files", "--window-size=1400,1000",
               f"--blink-settings=preferredColorScheme={int(not dark)}"]  # fmt: skip
    found = json.loads(title_in_browser(tmp_path / "all.html", tmp_path, *options))
    assert [width for width, *_ in found] == [360, 1200] * 3
    for width, needed, background in found:
      assert needed <= width
      assert background == ("rgb(22, 24, 27)" if dark else "rgb(255, 255, 255)")


def test_runs_of_one_name_are_told_apart(runs, tmp_path):
  """Folders of one name, one that is called like a panel, and one whose name is HTML."""
  places = [tmp_path / "x" / "truth", tmp_path / "y" / "truth", tmp_path / 'a"><img src=x>&']
  for place, run in zip(places, (*runs, runs[1]), strict=True):
    shutil.copytree(run, place)
  found = Reader(reports.report(places, output=tmp_path).read_text(encoding="utf-8"))
  for name in ("y/truth", f"{tmp_path.name}/{places[2].name}"):
    assert f"Scores of {name}" in found.text
  ids = [attrs["id"] for _, attrs in found.tags if "id" in attrs]
  assert len(ids) == len(set(ids)) and not [x for x in found.of("img") if x.get("src") == "x"]
  assert {x["href"][1:] for x in found.of("a")} <= set(ids)
  alts = [attrs["alt"] for attrs in found.of("img")]
  assert any(alt.startswith("prediction, x/truth of") for alt in alts)
  assert error_of(reports.report, [runs[0], runs[0]]) == "a run is named twice: leave it out once"
  assert "names no run" in error_of(reports.report, [runs[0], ""])


def test_pictures_that_cannot_be_made_are_named(runs, monkeypatch):
  monkeypatch.setattr(tiny, "NUM_PHOTOS", {"train": 20, "test": 8})
  text = reports.report([runs[0]]).read_text()
  assert "No pictures: " in text and "was evaluated on 9 images, not 8" in text
  assert "<img" not in text


@pytest.mark.parametrize(
  "error, words",
  [
    (MemoryError(), "No pictures: "),
    (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"), "No pictures: "),
    (jax.errors.JaxRuntimeError("INTERNAL: a bug"), None),
  ],
)
def test_want_of_memory_leaves_pictures_out(runs, monkeypatch, error, words):
  def fail(*_, **__):
    raise error

  monkeypatch.setattr(reports, "load_run", fail)
  if words is None:
    with pytest.raises(jax.errors.JaxRuntimeError, match="a bug"):
      reports.report(runs[0])
  else:
    text = reports.report(runs[0]).read_text()
    assert words in text and "memory" in text[text.index(words) :][:300]


def test_keys_of_a_data_set_that_came_later(runs):
  """The evaluation had a config whose data set has a key that the run did not."""
  path = runs[0] / "evaluation.json"
  noted = {**json.loads(path.read_text()), "overrides": {"data.newer": 3}}
  path.write_text(json.dumps(noted))
  text = reports.report(runs[0]).read_text()
  assert "data.newer=3" in text and "<img" in text


def test_checkpoints_that_may_not_be_read_leave_pictures_out(runs, monkeypatch):
  def deny(*_, **__):
    raise PermissionError(13, "Permission denied", str(runs[0]))

  monkeypatch.setattr(reports, "load_run", deny)
  monkeypatch.setattr(reports.checkpoint, "best_checkpoint", deny)
  text = reports.report(runs[0]).read_text()
  assert f"No pictures: {runs[0]}: Permission denied; correct its permissions" in text


def test_what_was_not_evaluated_is_named(runs):
  (runs[0] / "per_image.csv").unlink()
  message = error_of(reports.report, runs)
  remedy = f"evaluate again: --mode=evaluate --workdir={runs[0]}"
  assert message == f"{runs[0]} has no per_image.csv; {remedy}"
  shutil.copy(runs[1] / "per_image.csv", runs[0])
  assert "are of different evaluations" in error_of(reports.report, runs)
  table = runs[1] / "per_image.csv"
  head, row, *rows = table.read_text().splitlines()
  table.write_text("\n".join([head, f"{row}9", *rows, ""]))  # more predicted pixels
  assert "are of different evaluations" in error_of(reports.report, runs[1])
  (runs[0] / "evaluation.json").unlink()
  assert error_of(reports.report, runs) == f"{runs[0]} has no evaluation.json; {remedy}"


@pytest.mark.parametrize(
  "name, value",
  [
    ("miou", "much"), ("miou", math.nan), ("iou", None), ("iou", [1.0]), ("confusion", [[1e30]]),
    ("confusion", [[-1, 0, 0]] * 3), ("miou_interval", [0.5]), ("iou_interval", {"sky": "x"}),
    ("reliability", "x"), ("overrides", None), ("split", 3), ("num_images", 0), ("step", -1),
    ("ece", math.inf), ("confusion", 5), ("ece", 10**400), ("miou", 0.987),
    ("pixel_accuracy", 0.987),
    ("dice", {tiny.INFO.classes[0]: 0.987}),
  ],
)  # fmt: skip
def test_evaluations_that_were_edited(runs, name, value):
  path = runs[0] / "evaluation.json"
  result = json.loads(path.read_text())
  if name == "dice":
    value = result[name] | value
  path.write_text(json.dumps({**result, name: value}))
  remedy = f"evaluate again: --mode=evaluate --workdir={runs[0]}"
  for use, given in (reports.report, runs), (seed_scores.summarize, dict(enumerate(runs))):
    message = error_of(use, given)
    assert message.startswith(f"{path} is damaged (") and " is missing or wrong): " in message
  assert error_of(reports.report, runs).endswith(remedy)
  del result["confusion"]
  path.write_text(json.dumps(result))
  assert "(confusion is missing or wrong)" in error_of(reports.report, runs)
  path.write_text('{"a":' + "[" * 100_000)
  assert f"{path} is damaged" in error_of(reports.report, runs)


def test_seeds_of_other_options(runs):
  modes.evaluate(runs[1], {"predict.tta": "flip"})
  message = error_of(seed_scores.summarize, {0: runs[0], 1: runs[1]})
  assert "was made with other options (predict.tta=flip) than that of another" in message


def test_a_folder_that_an_evaluation_wrote(runs, tmp_path):
  """It compares with a run, and knows what was evaluated; it has a page of its own already."""
  place = tmp_path / "scores"
  modes.evaluate(runs[1], {"predict.tta": "flip"}, output=place)
  text = reports.report([runs[0], place], output=tmp_path).read_text()
  assert "unet after step 3, evaluated on 9 images of photos test, predict.tta=" in text
  assert f"No pictures: {place} holds no network" in text
  assert "<code>model.up</code>" not in text and "<code>train.num_epochs</code>" in text
  assert "scores against short" in text
  before = (place / "plots" / "report.html").read_text()
  message = error_of(reports.report, place)
  assert message.endswith(f"its page is {place / 'plots' / 'report.html'}")
  assert (place / "plots" / "report.html").read_text() == before
  (place / "config.json").write_text('{"name": "of another program"}')
  assert reports.report([runs[0], place], output=tmp_path).read_text().count("photos test") > 1
  message = error_of(reports.report, place)
  assert message.endswith(f"its page is {place / 'plots' / 'report.html'}")
  (place / "config.json").unlink()
  origin = json.loads((place / "origin.json").read_text())
  for name, value in {"data": None, "model": 5, "train": {"num_epochs": "x"}}.items():
    config = {**origin["config"], name: value}
    (place / "origin.json").write_text(json.dumps({**origin, "config": config}))
    message = error_of(reports.report, [runs[0], place])
    assert message.startswith(f"{place}/origin.json is damaged (") and "config." in message
  (place / "evaluation.json").unlink()
  assert error_of(reports.report, [runs[0], place]).endswith(f"--model=... --output={place}")


def test_what_a_report_does_not_take(runs):
  for name, value in {"predict.tta": "flip", "eval.boundary_f1": True}.items():
    message = error_of(reports.report, runs[0], overrides={name: value})
    assert message == f"config.{name} does not change what a report shows: evaluate with it"
  assert reports.report(runs[0], overrides={"eval.batch_size": 2}).is_file()


def test_scores_of_another_run_stay(runs, tmp_path):
  before = (runs[0] / "evaluation.json").read_bytes()
  places = runs[0], runs[0] / "plots", runs[0] / "checkpoints" / "1", runs[1] / "checkpoints"
  for place in places:
    message = error_of(modes.evaluate, runs[1], output=place)
    assert message.startswith(f"{place} is part of the run ")
  assert (runs[0] / "evaluation.json").read_bytes() == before
  (tmp_path / "file").touch()
  assert "correct --output" in error_of(modes.evaluate, runs[1], output=tmp_path / "file")
  shutil.rmtree(runs[0] / "checkpoints")  # the scores stay
  assert "is part of the run" in error_of(modes.evaluate, runs[1], output=runs[0])
  config = runs[0] / "config.json"
  changed = {**json.loads(config.read_text()), "seed": "x"}
  config.write_text(json.dumps(changed))
  assert error_of(reports.report, runs).startswith(f"{config} is damaged (config.seed is 'x'")


def test_a_palette_that_is_none(tmp_path):
  """A config that somebody hands in may hold anything."""
  config = tiny.make_config(1)
  config.data.palette = (('0)"><meta>', 0, 0), (1, 2, 3))
  assert reports._info(tmp_path, config, ("a", "b")).palette == default_palette(2)
  with pytest.raises(ValueError):
    html_page.class_name("a", ('0)">', 0, 0))


def test_evaluations_of_a_checkpoint_are_in_its_run(runs):
  """Not in the folder of the checkpoint, which may be deleted."""
  place = runs[1] / "checkpoints" / "3"
  before = sorted(place.rglob("*"))
  modes.evaluate(place, {"predict.tta": "flip"})
  assert sorted(place.rglob("*")) == before
  result = json.loads((runs[1] / "evaluation.json").read_text())
  assert (result["step"], result["overrides"]) == (3, {"predict.tta": "flip"})
  assert f"give its run, {runs[1]}; its" in error_of(reports.report, place)
