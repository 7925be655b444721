"""The page of an evaluation: what it says, that it stands alone, and how it behaves."""

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from test_data_page import EVIL, Reader

from jaxseg import (
  extremes,
  report_page,
)
from jaxseg.charts import draw_curves
from jaxseg.data.decode import DatasetInfo
from jaxseg.per_image import PerImage
from jaxseg.report_page import Evaluation, write_report
from jaxseg.tally import NUM_BINS

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


def title_in_browser(page, folder, *options):
  """The title of a page after its scripts have run in Chromium; folder: for its files."""
  fixed = "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/profile"
  command = [CHROMIUM, *fixed, *options, "--dump-dom", f"file://{page}"]
  out = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
  return html.unescape(re.search("<title>(.*?)</title>", out)[1])


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


def test_the_advice_about_a_temperature(tmp_path):
  """None is in use with 1."""
  texts = []
  for value in None, 1.0, 2.5:
    recipe = {"predict.temperature": value} if value else {}
    write_report(tmp_path / "x.html", "run", [], make_evaluation(), INFO, recipe=recipe)
    texts.append((tmp_path / "x.html").read_text())
  assert ["<code>--mode=calibrate</code> fits" in text for text in texts] == [True, True, False]
  assert "Probabilities are at temperature 2.5; if it was fitted on these" in texts[2]


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
  """By number, by text, down on the second click; the keyboard reaches them; NaN stays last."""
  clicks = """
    const done = [];
    const names = () => [...document.querySelectorAll("tbody th")].map(x => x.textContent);
    const [first, second] = document.querySelectorAll("thead button");
    second.click(); done.push(names());
    second.click(); done.push(names());
    first.click(); done.push(names());
    done.push([document.querySelector("[aria-sort]").getAttribute("aria-sort")]);
    first.focus(); done.push([document.activeElement === first, first.tabIndex]);
    document.title = JSON.stringify(done);
  """
  monkeypatch.setattr(report_page, "SCRIPT", report_page.SCRIPT + clicks)
  rows = [["b10", "2.5"], ["b9", "-"], ["a", "1,000"], ["c", "-0.5"]]
  path = tmp_path / "x.html"
  lines = report_page.table(["name", "number"], rows, "label")
  report_page.write_sections(path, "x", [], {"A": lines})
  up, down, by_name, state, focus = json.loads(title_in_browser(path, tmp_path))
  assert up == ["c", "b10", "a", "b9"] and down == ["a", "b10", "c", "b9"]
  assert by_name == ["a", "b9", "b10", "c"] and state == ["ascending"]
  assert focus == [True, 0]
