"""The page of a check: well-formed, self-contained, safe, and it shows what it says."""

import base64
import html.parser
import io
import os
import re

import numpy as np
import pytest
from flawed import MASK, NOISE, all_masks, image, make_config, mask, nearly_twice, save
from flawed import root as root
from PIL import Image

from jaxseg import data_page, html_page
from jaxseg.check_data import check_data

VOID_TAGS = {"meta", "img", "br", "hr", "link", "input"}
EVIL = "<img src=x onerror=alert(1)>.png"


class Reader(html.parser.HTMLParser):
  """Checks that tags are balanced; collects them, the text, and the texts of list items."""

  def __init__(self, text):
    super().__init__()
    self.open, self.tags, self.text = [], [], ""
    self.feed(text)
    self.close()
    assert not self.open

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    if tag not in VOID_TAGS:
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if "style" not in self.open:
      self.text += data

  def of(self, tag):
    return [attrs for name, attrs in self.tags if name == tag]


def decoded(attrs):
  """The picture of an <img>, u8[h,w,3]."""
  head, data = attrs["src"].split(",")
  assert head == "data:image/jpeg;base64"
  return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


@pytest.fixture
def page(root, tmp_path):
  """Reads the page of a config with changes to config.data."""

  def read(**changes):
    config = make_config(root, **changes)
    config.eval.num_samples = 2
    check_data(config, tmp_path / "run")
    return Reader((tmp_path / "run/plots/data.html").read_text(encoding="utf-8"))

  return read


def enlarge(root):
  """Pictures and masks of a size at which JPEG keeps their colours."""
  for path in [*root.glob("*/images/*"), *root.glob("*/masks/*")]:
    save(path, np.asarray(Image.open(path)).repeat(8, 0).repeat(8, 1))


def test_page_needs_nothing_from_elsewhere(root, page):
  nearly_twice(root)
  image(root, 1).write_bytes(b"no image")
  found = page()
  assert {tag for tag, _ in found.tags}.isdisjoint({"script", "link", "iframe", "object", "form"})
  for tag, attrs in found.tags:
    for name, value in attrs.items():
      assert name[:2] != "on"
      if name in ("src", "href", "action", "srcset", "data"):
        if (tag, value) != ("a", "augmented.png"):  # which lies beside the page
          assert value.startswith(("data:image/", "#")), (tag, name, value)
  assert not re.search(r"https?:|url\(|@import", html_page.STYLE)
  anchors = [attrs["href"][1:] for attrs in found.of("a") if attrs["href"] != "augmented.png"]
  ids = [attrs["id"] for _, attrs in found.tags if "id" in attrs]
  assert set(anchors) <= set(ids) and len(ids) == len(set(ids))
  assert all(attrs["alt"] for attrs in found.of("img"))
  (policy,) = [x["content"] for x in found.of("meta") if "http-equiv" in x]
  assert policy.startswith("default-src 'none'; img-src data:")


NAMES = [EVIL, "escape\x1b[31m.png", os.fsdecode(b"\xff.png"),
         *(pytest.param(name, marks=pytest.mark.slow)
           for name in ('a"b&c.png', "tab\there.png", r"$\frac$.png"))]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names_are_text(root, page, name):
  for part in ("images", "masks"):
    (root / "train" / part / "train0.png").rename(root / "train" / part / name)
  save(root / "train" / "masks" / name, MASK + 5)
  found = page(classes=("<script>a</script>", "b&b", "c"))
  shown = name.replace("\t", "\\t").replace("\x1b", "\\x1b").replace("\udcff", "\\udcff")
  assert shown in found.text and "<script>a</script>" in found.text and "b&b" in found.text
  assert not found.of("script")
  assert all(attrs["src"].startswith("data:") for attrs in found.of("img"))
  assert any(shown in attrs["alt"] for attrs in found.of("img"))


def test_what_the_page_says(root, page):
  """Numbers, classes with shares and bars, findings with remedies, files that cannot be read."""
  enlarge(root)
  image(root, 1).write_bytes(b"no image")
  save(mask(root, 1, "val"), np.zeros((96, 128), np.uint8))
  found = page()
  text = " ".join(found.text.split())
  assert "Errors: 1, warnings: 0." in text and "Training would stop." in text
  assert "PNG RGB 8 bit (2)" in text
  # b: a third of the pixels in train, of val a sixth; a: a third and two thirds.
  assert "a33.33%366.67%2" in text.replace(" ", "") and "b33.33%316.67%1" in text.replace(" ", "")
  bars = [attrs["style"] for attrs in found.of("span") if attrs.get("class") == "bar"]
  assert bars[:4] == ["width:50.0%", "width:100.0%", "width:50.0%", "width:25.0%"]
  assert "b 2.0 x" not in text  # half as many is not worth a mark
  assert "images that cannot be read (1)" in text
  assert "Image cannot be read: cannot be decoded (not an image that Pillow reads)" in text
  alts = [attrs["alt"] for attrs in found.of("img")]
  # The mask of the broken image; then the samples, which are the others.
  assert alts[0] == f"Mask of {image(root, 1)}"
  names = [alt.rpartition(" ")[2] for alt in alts[1:] if "Draw of" not in alt]
  assert names == [x for x in ("train0.png", "train2.png", "val0.png", "val1.png") for _ in "ab"]
  drawn = decoded(found.of("img")[0])
  colors = make_palette()
  for row, color in zip(range(3), colors, strict=True):  # MASK: three stripes
    middle = drawn[round((row + 0.5) * drawn.shape[0] / 3), drawn.shape[1] // 2]
    np.testing.assert_allclose(middle, color, atol=6)


def make_palette():
  from jaxseg.data.folder import default_palette

  return default_palette(3)


def test_pairs_stand_side_by_side(root, page):
  nearly_twice(root)
  enlarge(root)
  found = page()
  alts = [attrs["alt"] for attrs in found.of("img")]
  assert alts[:2] == [f"Image of {image(root, 2)}", f"Image of {image(root, 0)}"]
  for attrs, original in zip(found.of("img"), (np.maximum(NOISE[0], 3), NOISE[0]), strict=False):
    small = np.asarray(Image.fromarray(decoded(attrs)).resize((16, 12), Image.Resampling.BOX))
    assert np.abs(small.astype(int) - original).mean() < 12  # JPEG of noise
  assert re.search(r"train2.png ~ train0.png: \d+ of 256 bits differ", found.text)


def test_specks_have_pictures(root, page):
  enlarge(root)
  labels = MASK.repeat(8, 0).repeat(8, 1)
  labels[3, [5, 50, 90]] = 2
  save(mask(root, 1), labels)
  found = page()
  names = ("Image", "Mask over the image", "The first speck, enlarged")
  alts = [attrs["alt"] for attrs in found.of("img")]
  assert alts[:3] == [f"{name} of {image(root, 1)}" for name in names]
  assert alts[3] == "Image of train: train0.png"  # of the samples
  assert "train1.png: 3: (5, 3, 6, 4), (50, 3, 51, 4) ..." in found.text


def test_pictures_are_limited(root, page, monkeypatch):
  for path in all_masks(root):
    save(path, MASK + 5)
  num_pictures = len(page().of("img"))
  assert num_pictures == 10  # image and mask of 5 files
  monkeypatch.setattr(data_page, "MAX_OF_KIND", 3)
  found = page()
  assert len(found.of("img")) == 6 and "Pictures: 3 of 5 files." in found.text
  monkeypatch.setattr(data_page, "MAX_FIGURES", 2)
  assert len(page().of("img")) == 4
  monkeypatch.setattr(html_page, "MAX_BYTES", 10)
  found = page()
  assert not found.of("img") and "train0.png" in found.text
  monkeypatch.setattr(data_page, "MAX_LISTED", 4)
  assert "and 1 more" in page().text
