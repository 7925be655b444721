"""The pages of evaluations: what they say, that they stand alone, and how they behave."""

import base64
import html
import io
import json
import math
import re
import shutil
import subprocess

import numpy as np
import pytest
import tiny
from PIL import Image
from test_data_page import EVIL, Reader
from tiny import error_of

from jaxseg import (
  VOID,
  checkpoint,
  extremes,
  modes,
  per_image,
  report_page,
  reports,
  seed_scores,
  temperature,
)
from jaxseg.data.decode import DatasetInfo
from jaxseg.per_image import PerImage
from jaxseg.report_page import Evaluation, write_report
from jaxseg.segmenter import load
from jaxseg.tally import NUM_BINS
from jaxseg.training import train
from jaxseg.visualize import draw_curves

CLASSES = ("sky", "<b>road</b>")
INFO = DatasetInfo(CLASSES, ((0, 0, 255), (99, 99, 99)), 3)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")


def make_evaluation(num=20):
  """An evaluation of images of which the i-th has i% of its pixels right."""
  right = np.arange(num)[:, None] * [[5, 5]]
  truth = np.full((num, 2), 500)
  pixels = np.stack([right, truth, right + (truth - right)[:, ::-1]], axis=1)
  names = [EVIL, *(f"{i}.png" for i in range(1, num))]
  images = PerImage(names, CLASSES, pixels, {"loss": np.linspace(2, 1, num)})
  bins = np.zeros((NUM_BINS, 3))
  bins[10] = 900, 500, 630
  confusion = [[int(right.sum() // 2), 1], [1, int(right.sum() // 2)]]
  result = {
    "loss": 1.5, "loss_interval": [1.4, 1.6], "miou": 0.25, "ece": 0.144,
    **{name: dict.fromkeys(CLASSES, 0.125) for name in ("iou", "dice", "accuracy")},
    "iou_interval": {"sky": [0.1, 0.15], CLASSES[1]: None},
    "num_images": num, "confusion": confusion, "reliability": bins.tolist(),
  }  # fmt: skip
  picture = extremes.html_page.jpeg(np.full((8, 8, 3), 99, np.uint8))
  shown = {i: dict.fromkeys(extremes.PANELS, picture) for i in range(num)}
  return Evaluation(result, images, shown=shown)


@pytest.fixture
def page(tmp_path):
  path = tmp_path / "plots" / "report.html"
  metrics = [{"step": 1, "epoch": 1.0, "split": "train", "loss": 1.0}]
  recipe = {"model.name": "unet", "data.source": EVIL}
  curves = draw_curves(metrics)
  write_report(path, "run", ["a line"], make_evaluation(), INFO, curves, recipe)
  return path


def test_it_stands_alone(page):
  """No address, no event, no script but its own, whose hash the policy names."""
  found = Reader(page.read_text(encoding="utf-8"))
  assert {tag for tag, _ in found.tags}.isdisjoint({"link", "iframe", "object", "form"})
  for tag, attrs in found.tags:
    for name, value in attrs.items():
      assert name[:2] != "on"
      if name in ("src", "href", "xlink:href", "action", "srcset", "data"):
        assert value.startswith(("data:image/", "#")), (tag, name, value)
  assert len(found.of("script")) == 1
  (policy,) = [x["content"] for x in found.of("meta") if "http-equiv" in x]
  assert re.fullmatch(
    r"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-\S{44}'",
    policy,
  )
  ids = [attrs["id"] for _, attrs in found.tags if "id" in attrs]
  anchors = [x["href"][1:] for x in found.of("a")]
  assert set(anchors) <= set(ids) and len(ids) == len(set(ids))
  assert all(attrs["alt"] for attrs in found.of("img"))


def test_what_it_says(page):
  found = Reader(page.read_text(encoding="utf-8"))
  text = " ".join(found.text.split())
  assert "cross-entropy 1.5000 1.4000 to 1.6000".replace(" ", "") in text.replace(" ", "")
  assert "sky0.12500.100 to 0.1500.12500.125050.00%" in text
  assert "<b>road</b>0.1250-" in text and EVIL in text
  # 630 - 500 of 900 pixels.
  assert "is on average 0.144 above the share of pixels that are right" in text
  captions = re.findall(r"confidence([^:]+\.png): mean IoU ([\d.]+)", text)
  worst, best = captions[: extremes.NUM_WORST], captions[extremes.NUM_WORST :]
  assert [x for x, _ in worst[1:]] == [f"{i}.png" for i in range(1, 8)]
  assert [x for x, _ in best] == ["19.png", "18.png", "17.png", "16.png"]
  # 95 of 500 right: 95 / (500 + 500 - 95) for both classes.
  assert float(best[0][1]) == pytest.approx(95 / 905, abs=5e-4)


def test_many_images(tmp_path, monkeypatch):
  monkeypatch.setattr(report_page, "MAX_ROWS", 5)
  write_report(tmp_path / "x.html", "run", [], make_evaluation(), INFO)
  text = (tmp_path / "x.html").read_text()
  assert "The 5 worst of 20 images." in text
  rows = text[text.index('id="all-images"') :].count("<tr><th scope")
  assert rows == 5 and "Curves" not in text and "Recipe" not in text


def test_confusions_of_many_classes_are_a_table(tmp_path, monkeypatch):
  monkeypatch.setattr(report_page, "MAX_NUMBERED", 1)
  evaluation = make_evaluation()
  evaluation.result["confusion"][:] = [[90, 10], [0, 50]]
  write_report(tmp_path / "x.html", "run", [], evaluation, INFO)
  found = Reader((tmp_path / "x.html").read_text())
  assert "skysky" not in found.text and "sky<b>road</b>1010.0%" in found.text.replace("\n", "")


@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")
def test_heads_sort_in_a_browser(tmp_path, monkeypatch):
  """By number, by text, down on the second click, and by the keyboard; NaN stays last."""
  clicks = """
    const done = [];
    const names = () => [...document.querySelectorAll("tbody th")].map(x => x.textContent);
    const [first, second] = document.querySelectorAll("thead button");
    second.click(); done.push(names());
    second.click(); done.push(names());
    first.click(); done.push(names());
    done.push([document.querySelector("[aria-sort]").getAttribute("aria-sort")]);
    document.title = JSON.stringify(done);
  """
  monkeypatch.setattr(report_page, "SCRIPT", report_page.SCRIPT + clicks)
  rows = [["b10", "2.5"], ["b9", "-"], ["a", "1,000"], ["c", "-0.5"]]
  path = tmp_path / "x.html"
  lines = report_page.table(["name", "number"], rows, "label")
  report_page.write_sections(path, "x", [], {"A": lines})
  options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
  command = [CHROMIUM, *options, "--dump-dom", f"file://{path}"]
  out = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
  title = html.unescape(re.search("<title>(.*?)</title>", out)[1])
  up, down, by_name, state = json.loads(title)
  assert up == ["c", "b10", "a", "b9"] and down == ["a", "b10", "c", "b9"]
  assert by_name == ["a", "b9", "b10", "c"] and state == ["ascending"]


def test_extremes_are_those_of_all_images():
  rng = np.random.default_rng(0)
  miou = rng.integers(0, 30, 100) / 30
  miou[rng.random(100) < 0.2] = np.nan
  found = extremes.Extremes(lambda example, *_: {"input": str(example).encode()})

  class Maps:
    labels = confidence = staticmethod(lambda: None)

  for i, value in enumerate(miou):
    found.add(value, i, Maps)
  worst, best = extremes.ends(miou)
  order = sorted((value, i) for i, value in enumerate(miou) if value == value)
  assert worst == [i for _, i in order[:8]]
  assert best == [i for _, i in order[:-5:-1]]
  shown = found.of_all([*worst, *best])
  assert {i: panels["input"] for i, panels in shown.items()} == {
    i: str(i).encode() for i in (*worst, *best)
  }
  few = [0.5, np.nan, 0.25]
  assert extremes.ends(few) == ([2, 0], [])


def test_panels():
  """Errors are red, VOID is white, and black is no better than chance."""
  mask = np.array([[0, 1, VOID]] * 2, np.uint8).repeat(60, 0).repeat(60, 1)
  labels = np.zeros_like(mask)
  confidence = np.full(mask.shape, 128, np.uint8)
  confidence[:60] = 255
  example = {"image": np.full((*mask.shape, 3), 200, np.uint8), "mask": mask}
  files = extremes.draw_panels(example, labels, confidence, INFO)
  found = {name: np.asarray(Image.open(io.BytesIO(x))) for name, x in files.items()}
  assert list(found) == list(extremes.PANELS)
  at = np.s_[20, [20, 80, 150]]
  close = {"atol": 12}  # JPEG
  np.testing.assert_allclose(found["truth"][at], [(0, 0, 255), (99,) * 3, (255,) * 3], **close)
  np.testing.assert_allclose(found["prediction"][at], [(0, 0, 255)] * 2 + [(255,) * 3], **close)
  expected = [(140,) * 3, extremes.WRONG, (255,) * 3]
  np.testing.assert_allclose(found["errors"][at], expected, **close)
  np.testing.assert_allclose(found["confidence"][[20, 100], 20], [(255,) * 3, (0,) * 3], **close)


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


def test_what_was_not_evaluated_is_named(runs):
  (runs[0] / "per_image.csv").unlink()
  message = error_of(reports.report, runs)
  remedy = f"evaluate again: --mode=evaluate --workdir={runs[0]}"
  assert message == f"{runs[0]} has no per_image.csv; {remedy}"
  (runs[0] / "evaluation.json").unlink()
  assert error_of(reports.report, runs) == f"{runs[0]} has no evaluation.json; {remedy}"
  shutil.copy(runs[1] / "per_image.csv", runs[0])
  result = json.loads((runs[1] / "evaluation.json").read_text())
  result["confusion"][0][0] += 1
  (runs[0] / "evaluation.json").write_text(json.dumps(result))
  assert "are of different evaluations" in error_of(reports.report, runs)


@pytest.mark.parametrize(
  "name, value",
  [
    ("miou", "much"), ("miou", math.nan), ("iou", None), ("iou", [1.0]), ("confusion", [[1e30]]),
    ("confusion", [[-1, 0, 0]] * 3), ("miou_interval", [0.5]), ("iou_interval", {"sky": "x"}),
    ("reliability", "x"), ("overrides", None), ("split", 3), ("num_images", 0), ("step", -1),
    ("ece", math.inf),
  ],
)  # fmt: skip
def test_evaluations_that_were_edited(runs, name, value):
  path = runs[0] / "evaluation.json"
  result = json.loads(path.read_text())
  path.write_text(json.dumps({**result, name: value}))
  remedy = f"evaluate again: --mode=evaluate --workdir={runs[0]}"
  for use in (lambda: reports.report(runs), lambda: seed_scores.summarize({0: runs[0]})):
    message = error_of(use)
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
  assert "was made with other options ({'predict.tta': 'flip'})" in message


def test_calibrate(runs):
  """Probabilities change, labels do not; another checkpoint does not take the temperature."""
  picture = tiny.load_photos("test", "", 32, 0)[1][0]["image"]
  before = load(runs[1])
  found = temperature.calibrate(runs[1])
  assert json.loads((runs[1] / "calibration.json").read_text()) == found
  assert (found["step"], found["split"], found["num_images"]) == (3, "test", 9)
  assert found["temperature"] not in (0.05, 1.0, 20.0)
  assert found["before"]["loss"] > found["after"]["loss"] - 0.05
  after, fitted = load(runs[1]), found["temperature"]
  assert after.config.predict.temperature == fitted
  np.testing.assert_array_equal(before(picture), after(picture))
  expected = before.probs(picture) ** (1 / fitted)
  expected /= expected.sum(-1, keepdims=True)
  np.testing.assert_allclose(after.probs(picture), expected, atol=1e-5)
  crf = load(runs[1], crf={"num_iterations": 1})
  assert not np.array_equal(crf.probs(picture), after.probs(picture))
  plain = load(runs[1], crf={"num_iterations": 1})
  np.testing.assert_array_equal(crf(picture), plain(picture))
  result = modes.evaluate(runs[1])
  assert result["loss"] < found["before"]["loss"] + 1e-3
  about = json.loads((runs[1] / "evaluation.json").read_text())["overrides"]
  assert about == {"predict.temperature": fitted}
  changed = {**found, "step": 2}
  (runs[1] / "calibration.json").write_text(json.dumps(changed))
  assert load(runs[1]).config.predict.temperature == 0
  (runs[1] / "calibration.json").write_text(json.dumps({**found, "temperature": "hot"}))
  assert "calibration.json is damaged (temperature 'hot')" in error_of(load, runs[1])


def test_calibrate_again_begins_at_one(runs):
  first = temperature.calibrate(runs[1])
  assert temperature.calibrate(runs[1]) == first
  lines = temperature.describe(first)
  assert lines[0].startswith(f"temperature {first['temperature']:.4f}, fitted on ")
  assert checkpoint.best_checkpoint(runs[1])[0] == first["step"]
