"""The check of a data set: every fault that can be planted, and that training agrees."""

import sys

import numpy as np
import pytest
import tifffile
from absl import flags
from absl.testing import flagsaver
from flawed import (
  FAULTS,
  MASK,
  NOISE,
  SIZES,
  cut_image,
  image,
  make_config,
  mask,
  nothing,
  off_by_one,
  save,
  twice,
  with_orientation,
)
from flawed import root as root
from PIL import Image

from jaxseg import UserError, main
from jaxseg.build import open_split
from jaxseg.check_data import check_data, listing
from jaxseg.data.examine import Finding
from jaxseg.data.input_pipeline import eval_examples, train_batches
from jaxseg.evaluation import score


def training_error(config):
  """What training and scoring raise when they come to the bad example, or ""."""
  try:
    sources = {role: open_split(config, role)[1] for role in ("train", "eval")}
    for _ in eval_examples(sources["train"], num_threads=0):
      pass
    data = config.data
    next(train_batches(sources["train"], size=data.image_size, fit=data.fit, batch_size=2, seed=0,
                       num_threads=0))  # fmt: skip
    uniform = np.full(len(config.data.classes), 1 / len(config.data.classes), np.float32)

    def predict(examples):
      for example in examples:
        yield example, np.broadcast_to(uniform, (*example["mask"].shape, len(uniform)))

    score(predict, eval_examples(sources["eval"], num_threads=0), config.data.classes)
  except UserError as error:
    return str(error)
  return ""


@pytest.mark.filterwarnings("ignore::jaxseg.DataWarning")  # of training, which reads them, too
@pytest.mark.parametrize("plant, changes, severity, kind, files, words", FAULTS)
def test_faults(root, tmp_path, capsys, plant, changes, severity, kind, files, words):
  plant(root)
  config = make_config(root, **changes)
  findings = check_data(config, tmp_path / "run")
  found = [finding for finding in findings if finding.kind == kind]
  assert found, findings
  assert {finding.severity for finding in found} == {severity}
  named = ["".join(word.split("/")[-1] for word in f.file.split()) for f in found if f.file]
  named = [name.removeprefix("maskof") for name in named]
  assert sorted(named) == files.split()
  for finding in found:
    assert "\n" not in finding.text
    assert all(word in finding.text for word in words.split()), finding.text
  # Nothing else is wrong, and training says the same.
  assert {finding.kind for finding in findings} == {kind}
  message = training_error(config)
  assert bool(message) == (severity == "error"), message
  names = [name.rpartition(".")[0] for name in named]  # of outlines, training names the JSON file
  assert not message or not named or any(name in message for name in names)
  out = capsys.readouterr().out
  assert f"{severity}: {kind}" in out
  counts = {name: sum(x.severity == name for x in findings) for name in ("error", "warning")}
  assert f"errors: {counts['error']}" in out and f"warnings: {counts['warning']}" in out


@pytest.mark.parametrize(
  "changes, lines",
  [
    ({"train_split": "train[2:]"}, {"train: train, 2 images, without what has problems"}),
    ({"num_folds": 3}, {"train: train, 2 images, without what has problems"}),
    # Of these two parts, the first is read as a part: else images would be in both.
    ({"train_split": "train[:2]", "eval_split": "train[2:]"},
     {"train: train[:2], 2 images, without what has problems"}),
    ({"train_split": "train[2:]", "eval_split": "train[:2]"},
     {"train: train, 2 images, without what has problems"}),
    # The other split is read under its own name, though nothing of the first is.
    ({"train_split": "val[5:]", "eval_split": "train[2:]"},
     {"eval: train, 2 images, without what has problems"}),
  ],
)  # fmt: skip
def test_a_missing_mask_does_not_hide_other_faults(root, tmp_path, capsys, changes, lines):
  """Without its image, too few are left for a part or for the folds of three images."""
  mask(root, 1).unlink()
  array = MASK.copy()
  array[0, 0] = 7
  save(mask(root, 2), array)
  kinds = {finding.kind for finding in check_data(make_config(root, **changes), tmp_path)}
  own = {"splits that cannot be opened"} if "val[5:]" in changes.values() else set()
  assert kinds - own == {"images without a mask", "masks with values that are not classes"}
  out = capsys.readouterr().out.splitlines()
  assert {line for line in out if line.startswith(("train: train", "eval: "))} >= lines
  assert ("eval: train, 2 images, without what has problems" in out) == bool(own)


def test_groups_in_both_splits(root, tmp_path):
  """Groups by the last letter of the name: 0 and 1 are in train and val, 2 is not."""
  layout = {part: f"{{split}}/{part}/{{name}}l{{patient}}" for part in ("images", "masks")}
  for path in [*root.glob("*/images/*"), *root.glob("*/masks/*")]:
    path.rename(path.with_name(f"xl{path.stem[-1]}.png"))
  (finding,) = check_data(make_config(root, **layout, group_by="patient"), tmp_path)
  assert (finding.severity, finding.kind) == ("warning", "groups in both splits")
  assert finding.text.startswith("0, 1: ")
  folds = {"train_split": "all", "num_folds": 3, "group_by": "patient"}
  assert check_data(make_config(root, **layout, **folds), tmp_path) == []


def test_a_folder_without_a_fault(root, tmp_path, capsys):
  """Every number of the report, counted by hand; 11 of 192 pixels are void."""
  array = MASK.copy()
  array.ravel()[:33:3] = 255  # where it was class 0
  save(mask(root, 1), array)
  save(image(root, 2), NOISE[2, :10, :15])
  save(mask(root, 2), 0 * MASK[:10, :15])
  Image.fromarray(NOISE[2, :10, :15]).convert("L").save(image(root, 2))
  # The bytes of another image in another shape are another image.
  save(image(root, 1, "val"), NOISE[0].reshape(16, 12, 3))
  save(mask(root, 1, "val"), MASK.T)
  config = make_config(root)
  config.eval.num_samples = 2
  assert check_data(config, tmp_path / "run") == []
  assert training_error(config) == ""
  lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
  assert lines[: lines.index("")] == [
    "train: train, 3 images",
    "size 15 x 10 to 16 x 12 px, median 16 x 12, 2 different sizes",
    "image PNG RGB 8 bit (2), PNG grey 8 bit (1)",
    "mask PNG grey 8 bit (3)",
  ]
  at = lines.index("class train share images eval share images")
  assert lines[at + 1 : at + 6] == [
    "a 50.00% 3 33.33% 2",  # 64 + 53 + 150 of 192 + 192 + 150; eval: 64 of 192, twice
    "b 23.97% 2 33.33% 2",
    "c 23.97% 2 33.33% 2",
    "void 2.06% 1 0.00% 0",
    "",
  ]
  assert (
    "eval: val, 2 images" in lines
    and "size 16 x 12 to 12 x 16 px, median 12 x 16, 2 different sizes" in lines
  )
  plots = tmp_path / "run/plots"
  assert lines[-4:] == [
    "errors: 0, warnings: 0",
    f"samples: {plots}/data.png",
    f"windows: {plots}/augmented.png",
    f"report: {plots}/data.html",
  ]
  # Four rows of pictures, three of 250 x 187.5 px and one 250 px high, each with a line of text.
  size = Image.open(tmp_path / "run/plots/data.png").size
  assert size == (750, pytest.approx(3 * 187.5 + 250 + 80 + 4 * 20, abs=1))


def test_samples_are_good_ones_with_their_own_mask(root, tmp_path, monkeypatch):
  sheets = []
  monkeypatch.setattr(
    "jaxseg.check_data.data_sheet", lambda path, samples, *_: sheets.append(samples)
  )
  cut_image(root)
  save(mask(root, 1, "val"), MASK + 5)
  save(image(root, 0), np.repeat(np.repeat(NOISE[0], 100, 0), 100, 1))
  save(mask(root, 0), np.repeat(np.repeat(MASK, 100, 0), 100, 1))
  config = make_config(root)
  config.eval.num_samples = 4
  check_data(config, tmp_path / "run")
  (samples,) = sheets
  names = ["train: train0.png", "train: train2.png", "eval: val0.png"]
  assert [name for name, *_ in samples] == names
  # 1600 x 1200 pixels are too many: every second one is shown.
  assert samples[0][1].shape == (600, 800, 3) and samples[0][2].shape == (600, 800)
  np.testing.assert_array_equal(samples[1][1], NOISE[2])
  np.testing.assert_array_equal(samples[1][2], MASK)


@pytest.mark.parametrize(
  "number", [1, 3, 6, *(pytest.param(x, marks=pytest.mark.slow) for x in (2, 4, 5, 7, 8))]
)
def test_orientations(root, tmp_path, capsys, number):
  """An image that says how to turn it, and masks that fit it stored, turned, or say so, too."""
  kinds = {"turned": "turned images with masks that are not",
           "sideways": "images that fit their mask only unturned"}  # fmt: skip

  def found(plant, side=16, **changes):
    pixels, labels = NOISE[0][:, :side], MASK[:, :side]
    save(image(root), pixels, exif=with_orientation(number))
    plant(labels)
    capsys.readouterr()
    findings = check_data(make_config(root, **changes), tmp_path)
    assert training_error(make_config(root, **changes)) == "" or number > 4
    return {finding.kind for finding in findings}, capsys.readouterr().out

  def as_stored(labels):
    save(mask(root), labels)

  def as_turned(labels):
    save(mask(root), labels.T if number > 4 else labels)

  def says_so(labels):
    save(mask(root), labels, exif=with_orientation(number))

  line = "turned  1 image is turned by its EXIF orientation"
  expected = set() if number == 1 else {kinds["sideways" if number > 4 else "turned"]}
  kinds_found, out = found(as_stored)
  assert kinds_found == expected and (line in out) == (number > 1)
  # Where width and height are swapped, the size of the mask shows that it is upright.
  assert found(as_turned)[0] == (expected if number <= 4 else set())
  # A square does not show it.
  assert found(as_turned, side=12)[0] == ({kinds["turned"]} if number > 1 else set())
  assert found(says_so)[0] == set()
  kinds_found, out = found(as_stored, exif_orientation=False)
  assert kinds_found == set()
  assert (line.replace("is turned", "is not turned") in out) == (number > 1)


def planes(path, values):
  tifffile.imwrite(path.with_suffix(".tif"), values, photometric="minisblack",
                   planarconfig="separate")  # fmt: skip


@pytest.mark.parametrize("mode", ["range", "percentiles", "mean_std"])
def test_pictures_of_other_bands_and_depths(root, tmp_path, monkeypatch, mode):
  """5 bands: pictures show band 4 from black to white, whatever measures them."""
  sheets, number = [], iter(range(5))
  monkeypatch.setattr(
    "jaxseg.check_data.data_sheet", lambda path, samples, *_: sheets.append(samples)
  )
  ramp = np.linspace(0, 1, 192).reshape(12, 16)
  for split, count in SIZES.items():
    for i in range(count):
      image(root, i, split).unlink()
      bands = np.random.default_rng(next(number)).integers(1000, 2000, (5, 12, 16))
      bands[4] = 1000 + 1000 * ramp
      planes(image(root, i, split), bands.astype(np.uint16))
  keys = {"channels": 5, "display_bands": (4,), "normalization": mode}
  keys |= {"value_range": (1000, 2000)} if mode == "range" else {}
  config = make_config(root, **keys)
  config.eval.num_samples = 1
  assert check_data(config, tmp_path) == []
  black, white = {"range": (0, 1), "percentiles": (0.005, 0.995)}.get(mode, (0, 0))
  if mode == "mean_std":  # 2 standard deviations below and above the mean
    black, white = (ramp.mean() + sign * 2 * ramp.std() for sign in (-1, 1))
  for _, picture, _ in sheets[0]:
    assert picture.dtype == np.uint8 and picture.shape == (12, 16, 1)
    expected = 255 * np.clip((ramp - black) / (white - black), 0, 1)
    np.testing.assert_allclose(picture[..., 0], expected, atol=2)
  assert "data:image/jpeg" in (tmp_path / "plots/data.html").read_text(encoding="utf-8")


def test_near_duplicates_of_other_depths(root, tmp_path):
  """Two 16-bit images that differ by less than a step of 8 bits, and two others."""
  for i in range(SIZES["train"]):
    values = NOISE[0 if i != 1 else 1, ..., 0] / 255 * 50 + 30000 + i
    save(image(root, i), values.astype(np.uint16))
  findings = check_data(make_config(root, channels=1, eval_split="train"), tmp_path)
  near = [finding for finding in findings if "near-duplicates" in finding.kind]
  assert [finding.file for finding in near] == [f"{image(root, 2)} ~ train0.png"]


def test_volumes_count_pages(root, tmp_path, capsys):
  for part, arrays in ("images", NOISE[5:9]), ("masks", [MASK] * 4):
    for i in range(SIZES["train"]):
      (root / "train" / part / f"train{i}.png").unlink()
    save(root / "train" / part / "v.tif", *arrays)
  assert check_data(make_config(root), tmp_path) == []
  out = capsys.readouterr().out
  assert "train: train, 4 images" in out and "TIFF RGB 8 bit (4)" in out
  bad = [MASK, MASK + 5, MASK, MASK]
  save(root / "train/masks/v.tif", *bad)
  (finding,) = check_data(make_config(root), tmp_path)
  assert finding.file == f"mask of {root}/train/images/v.tif page 2"


def test_many_files_are_counted():
  alike = [Finding("warning", "kind", f"file{i}", "do this") for i in range(1234)]
  unlike = [Finding("error", "other", f"x{i}", f"is {i}: mend it") for i in range(7)]
  assert listing([*alike, *unlike]) == [
    "error: other (7)",
    *[f"    x{i}: is {i}: mend it" for i in range(5)],
    "    and 2 more",
    "",
    "warning: kind (1234)",
    "  do this",
    *[f"    file{i}" for i in range(5)],
    "    and 1,229 more",
    "",
    "errors: 7 (training would stop), warnings: 1,234",
  ]


def test_texts_that_many_files_share_are_said_once():
  """Notes of three kinds, of 3, 2 and 1 files; each kind has 5 // 3 = 1 file at least."""
  notes = [("alpha", 3), ("2 pages", 2), ("4 bands", 1)]
  findings = [Finding("warning", "parts", f"{x[0]}{i}", x) for x, n in notes for i in range(n)]
  assert listing(findings)[:-2] == [
    "warning: parts (6)",
    "  alpha (3)",
    "    a0",
    "    and 2 more",
    "  2 pages (2)",
    "    20",
    "    and 1 more",
    "    40: 4 bands",
  ]
  many = [Finding("error", "k", f"f{i}", f"text {i // 2}", "more") for i in range(16)]
  lines = listing(many)
  assert lines[1:4] == ["  text 0 (2)", "    f0: more", "    and 1 more"]
  assert lines[15:17] == ["    and 1 more", "    and 6 more"]  # of texts 5, 6, 7


def test_control_characters_do_not_reach_the_console():
  (_, _, line, *_) = listing([Finding("error", "kind", "a\x1b[2J\n\u202eé.png", "text")])
  assert line == "    a\\x1b[2J\\n\\u202eé.png"


def test_one_bad_mask_does_not_hide_the_remedy_of_the_others(root, tmp_path):
  off_by_one(root)
  save(mask(root, 1), np.arange(192, dtype=np.uint8).reshape(12, 16))
  texts = {finding.file: finding.text for finding in check_data(make_config(root), tmp_path)}
  bad = texts.pop(f"mask of {image(root, 1)}")
  assert "interpolation" in bad and "count from 1" not in bad
  assert len(texts) == 4 and all("count from 1" in text for text in texts.values())


@pytest.mark.parametrize("plant, status", [(nothing, 0), (twice, 0), (cut_image, 1)])
def test_command(root, tmp_path, monkeypatch, capsys, plant, status):
  plant(root)
  argv = [
    "main.py",
    "--config=configs/default.py",
    "--mode=check_data",
    "--config.data.name=folder",
    f"--config.data.data_dir={root}",
    "--config.data.eval_split=val",
    "--config.data.classes='a','b','c'",
    "--config.data.image_size=8",
    "--config.model.widths=4,8",
    f"--workdir={tmp_path}/run",
  ]
  monkeypatch.setattr(sys, "argv", argv)
  with flagsaver.flagsaver():
    flags.FLAGS.unparse_flags()
    assert main.run(argv) == status
  assert f"samples: {tmp_path}/run/plots/data.png" in capsys.readouterr().out
  assert [path.name for path in (tmp_path / "run").iterdir()] == ["plots"]
