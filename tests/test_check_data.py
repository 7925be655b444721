"""The check of a data set: every fault that can be planted, and that training agrees."""

import json
import sys

import numpy as np
import pytest
import tifffile
import tiny
from absl import flags
from absl.testing import flagsaver
from PIL import Image
from scipy import ndimage

from configs import default
from jaxseg import UserError, main
from jaxseg.build import open_split
from jaxseg.check_data import check_data, listing
from jaxseg.data import datasets
from jaxseg.data.examine import Example, Finding
from jaxseg.data.input_pipeline import Mapped, eval_examples, train_batches
from jaxseg.data_findings import find_missing_classes
from jaxseg.evaluation import score

SIZES = {"train": 3, "val": 2}
NOISE = np.random.default_rng(0).integers(0, 256, (9, 12, 16, 3), dtype=np.uint8)
MASK = np.repeat(np.arange(3, dtype=np.uint8), 64).reshape(12, 16)  # 64 pixels of each class


def save(path, *arrays, **options):
  first, *rest = [Image.fromarray(array) for array in arrays]
  first.save(path, **options, **({"save_all": True, "append_images": rest} if rest else {}))


def image(root, i=0, split="train"):
  return root / split / "images" / f"{split}{i}.png"


def mask(root, i=0, split="train"):
  return root / split / "masks" / f"{split}{i}.png"


def all_masks(root):
  return [mask(root, i, split) for split, count in SIZES.items() for i in range(count)]


@pytest.fixture
def root(tmp_path):
  """A folder without a fault."""
  number = iter(range(9))
  for split, count in SIZES.items():
    for part in ("images", "masks"):
      (tmp_path / "data" / split / part).mkdir(parents=True)
    for i in range(count):
      save(image(tmp_path / "data", i, split), NOISE[next(number)])
      save(mask(tmp_path / "data", i, split), MASK)
  return tmp_path / "data"


def make_config(root, **changes):
  """Of the folder; changes are other keys of config.data."""
  config = default.get_config()
  config.data.name, config.data.data_dir = "folder", str(root)
  config.data.eval_split = "val"
  config.data.classes = ("a", "b", "c")
  config.data.image_size = 8
  config.model.widths = (4, 8)
  config.data.fit = "crop"
  config.data.num_threads = 0
  config.eval.num_samples = 0
  for key, value in changes.items():
    config.data[key] = value
  return config


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


def no_mask(root):
  mask(root, 1).unlink()


def no_image(root):
  image(root, 1, "val").unlink()


def one_name(root):
  save(image(root).with_suffix(".tif"), NOISE[8])


def no_split(root):
  (root / "val").rename(root / "test")


def no_files(root):
  for i in range(SIZES["val"]):
    image(root, i, "val").unlink()


def sizes_differ(root):
  save(mask(root, 2), MASK.T)


def cut_image(root):
  image(root, 1).write_bytes(image(root, 1).read_bytes()[:200])


def no_image_at_all(root):
  for split, count in SIZES.items():
    for i in range(count):
      image(root, i, split).write_text("<html>404</html>")


def text_as_mask(root):
  mask(root, 0, "val").write_text("<html>404</html>")


def broken_tiff(root):
  image(root, 1).unlink()
  image(root, 1).with_suffix(".tif").write_bytes(b"II*\0 and no more")


def floats(root):
  image(root, 1).unlink()
  save(image(root, 1).with_suffix(".tif"), NOISE[1, ..., 0].astype(np.float32))


def colours(root):
  save(mask(root, 1), NOISE[1])


def stray_values(root):
  for i, value in ((0, 7), (2, 9)):
    array = MASK.copy()
    array[3, [4, 7, 10]] = value
    save(mask(root, i), array)


def off_by_one(root):
  for path in all_masks(root):
    save(path, MASK + 1)


def zero_and_255(root):
  for path in all_masks(root):
    save(path, 255 * (MASK > 0).astype(np.uint8))


def jpeg_masks(root):
  mask(root, 1).unlink()
  save(mask(root, 1).with_suffix(".jpg"), 90 * MASK)


def pages_differ(root):
  for path, count in ((image(root, 1), 3), (mask(root, 1), 2)):
    path.unlink()
    save(path.with_suffix(".tif"), *[MASK] * count)


def void_scores(root):
  for i in range(SIZES["val"]):
    save(mask(root, i, "val"), np.full_like(MASK, 255))


def void_mask(root):
  save(mask(root, 1), np.full_like(MASK, 255))


def twice(root):
  save(image(root, 2), NOISE[0], optimize=True)  # other bytes of the same pixels


def leak(root):
  save(image(root, 1, "val"), NOISE[2])


def small(root):
  for path in image(root, 1), mask(root, 1):
    save(path, np.asarray(Image.open(path))[:7])


def single_colour(root):
  for path in image(root, 0), image(root, 1):
    save(path, np.full_like(NOISE[0], 77))


def dark(root):
  for i, (split, number) in enumerate(((s, i) for s, n in SIZES.items() for i in range(n))):
    save(image(root, number, split), NOISE[i, ..., 0].astype(np.uint16) * 16)  # 12 bits


def nothing(root):
  pass


def absent(root):
  for i in range(SIZES["train"]):
    save(mask(root, i), np.minimum(MASK, 1))


def with_orientation(number):
  exif = Image.Exif()
  exif[0x0112] = number
  return exif


def exif_unturned(root):
  save(image(root), NOISE[0], exif=with_orientation(6))  # decodes to 12 x 16, its mask is 16 x 12


def upside_down(root):
  save(image(root), NOISE[0], exif=with_orientation(3))


def alpha_image(root):
  save(image(root, 1), np.dstack([NOISE[1], NOISE[2, ..., :1]]))


def alpha_mask(root):
  save(mask(root, 1), np.dstack([*[0 * MASK] * 3, 80 * MASK]))


def three_colours(root):
  save(mask(root, 1), np.array([(9, 0, 0), (0, 9, 0), (0, 0, 9)], np.uint8)[MASK])


def mixed_masks(root):
  save(mask(root, 1), np.array([(0, 0, 0), (9, 0, 0), (0, 9, 0)], np.uint8)[MASK])


def sixteen_bits(root):
  save(image(root, 1), NOISE[1, ..., 0].astype(np.uint16) * 257)


def pages_of_one_mask(root):
  image(root, 1).unlink()
  save(image(root, 1).with_suffix(".tif"), *[MASK] * 3)


def broken_json(root):
  for path in all_masks(root):
    path.unlink()
    shapes = [{"label": label, "shape_type": "rectangle", "points": [[0, 4 * i], [16, 4 * i + 4]]}
              for i, label in enumerate("abc")]  # fmt: skip
    text = json.dumps({"shapes": shapes, "imageWidth": 16, "imageHeight": 12})
    path.with_suffix(".json").write_text(text[:-9] if path == mask(root, 1) else text)


def nearly_twice(root):
  save(image(root, 2), np.maximum(NOISE[0], 3))


def near_leak(root):
  save(image(root, 1, "val"), np.maximum(NOISE[2], 3))


def isolated_pixels(root):
  array = MASK.copy()
  array[1, [1, 5, 9]] = 2
  save(mask(root, 1), array)


JSON = {"images": "{split}/images/{name}.png", "masks": "{split}/masks/{name}.json"}
TWO = {"classes": ("a", "b")}
FOLDS = {"num_folds": 2, "fold": 1}
# What is planted, changes to config.data, severity, kind, files, what the remedy names.
FAULTS = [
  (no_mask, {}, "error", "images without a mask", "train1.png", "masks (1 of 3 add"),
  (no_image, {}, "error", "masks without an image", "val1.png", "images (1 of 2 add"),
  (one_name, {}, "error", "files that share a name", "train0.tif", "train0.png rename"),
  (no_split, {}, "error", "splits that cannot be opened", "", "val/images test"),
  (no_files, {}, "error", "folders without images", "images", "val/images .png"),
  (sizes_differ, {}, "error", "images and masks of different sizes", "train2.png", "16x12 12x16"),
  (cut_image, {}, "error", "images that cannot be read", "train1.png", "decoded"),
  (no_image_at_all, {}, "error", "images that cannot be read",
   "train0.png train1.png train2.png val0.png val1.png", "decoded"),
  (text_as_mask, {}, "error", "masks that cannot be read", "val0.png", "decoded"),
  (broken_tiff, {}, "error", "files that cannot be read", "train1.tif", "decoded"),
  (floats, {}, "error", "images that cannot be read", "train1.tif", "config.data.value_range"),
  (colours, {}, "error", "masks with values that are not classes", "train1.png",
   "192 colours for 3 classes PNG"),
  (stray_values, {}, "error", "masks with values that are not classes", "train0.png train2.png",
   "7 9 config.data.void_values"),
  (off_by_one, {}, "error", "masks with values that are not classes",
   "train0.png train1.png train2.png val0.png val1.png",
   "count from 1 config.data.mask_values=(1,2,3)"),
  (zero_and_255, TWO, "error", "masks of 0 and 255",
   "train0.png train1.png train2.png val0.png val1.png", "config.data.mask_values=(0,255)"),
  (zero_and_255, {}, "warning", "classes that do not occur", "", "b, c: 0, 255 mask_values"),
  (jpeg_masks, {}, "error", "masks with values that are not classes", "train1.png", "JPEG PNG"),
  (pages_differ, {}, "error", "volumes of different lengths", "train1.tif", "3 2 pages"),
  (void_scores, {}, "error", "no labels", "", "255"),
  (void_mask, {}, "warning", "masks without a label", "train1.png", "void"),
  (twice, {}, "warning", "duplicates in the train split", "train2.png=train0.png", "keep"),
  (leak, {}, "warning", "images in both splits", "val1.png=train2.png", "one split"),
  (twice, {**FOLDS, "fold": 0}, "warning", "images in both splits", "train0.png=train2.png", ""),
  (small, {}, "warning", "small images", "train1.png", "8 px"),
  (single_colour, {}, "warning", "images of a single colour", "train0.png train1.png",
   "config.data.value_range"),
  (dark, {}, "warning", "dark images", "",
   "6.2% config.data.value_range config.data.normalization"),
  (absent, {}, "warning", "classes that do not occur", "", "c: train 0, 1"),
  (nothing, {"eval_split": "train"}, "warning", "same split for training and evaluation", "",
   "config.data.eval_split"),
  (nothing, {"classes": ("a", "a", "c")}, "error", "splits that cannot be opened", "",
   "config.data.classes"),
  (exif_unturned, {}, "error", "images that fit their mask only unturned", "train0.png",
   "12x16 orientation 6 16x12 config.data.exif_orientation=False"),
  (upside_down, {}, "warning", "turned images with masks that are not", "train0.png",
   "EXIF upright config.data.exif_orientation=False"),
  (alpha_image, {}, "warning", "parts of files that are not used", "train1.png", "alpha"),
  (alpha_mask, {}, "error", "masks that cannot be read", "train1.png", "alpha grey"),
  (three_colours, {}, "error", "masks with values that are not classes", "train1.png",
   "config.data.mask_colors=((0,0,9),(0,9,0),(9,0,0))"),
  (mixed_masks, {"palette": ((0, 0, 0), (9, 0, 0), (0, 9, 0))}, "warning",
   "masks of different kinds", "train1.png", "numbers (2), colours (1)"),
  (sixteen_bits, {}, "warning", "images of different depths", "train1.png",
   "8 bit (2), 16 bit (1) config.data.value_range"),
  (pages_of_one_mask, {}, "error", "volumes of different lengths", "train1.tif",
   "3 1 config.data.pages"),
  (broken_json, JSON, "error", "masks that cannot be read", "train1.png", "JSON"),
  (nearly_twice, {}, "warning", "near-duplicates in the train split", "train2.png~train0.png",
   "config.data.group_by"),
  (near_leak, {}, "warning", "near-duplicates in both splits", "val1.png~train2.png",
   "config.data.group_by"),
  (isolated_pixels, {}, "warning", "specks in masks", "train1.png", "3 px"),
  (nothing, {"num_folds": 9}, "error", "splits that cannot be opened", "", "config.data.num_folds"),
]  # fmt: skip


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


@pytest.mark.parametrize("number", range(1, 9))
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
  assert kinds_found == set() and line.replace("is turned", "is not turned") in out or number == 1


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


def test_classes_that_only_names_or_colours_would_bring():
  """What the masks hold, and why a class is missing, for each kind of mask."""

  def text(values):
    counts = np.array([0, 9, 3])
    example = Example(0, "a", (), (4, 3), {}, b"", 9, values, "", counts)
    (finding,) = find_missing_classes("train", [example], ("other", "cell"))
    return finding.text

  assert text({1: 9, 255: 3}).endswith("hold 1, 255 (255 is void, unless config.data.mask_values "
                                       "names it)")  # fmt: skip
  assert text({"cell": 9, "_background_": 3}).endswith(
    "hold _background_, cell (pixels without a shape are void, unless a class is called background)"
  )
  assert text({(9, 9, 9): 9, (0, 0, 0): 3}).endswith("hold (0, 0, 0), (9, 9, 9)")


# Of every data set: splits and the number of their images.
SPLITS = {
  "cells": {"train": 3, "test": 2},
  "oxford_iiit_pet": {"train[:4]": 4, "test[:3]": 3},
  "folder": {"train without fold 1 of 2": 15, "fold 1 of 2": 15},
  "tfds": {"train[:4]": 4, "test[:3]": 3},
  "huggingface": {"train": 3, "test": 2},
}


@pytest.mark.parametrize("name", datasets.DATASETS)
def test_every_data_set(name, request, tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(datasets, "CELLS_SPLITS", SPLITS["cells"])
  place = {"oxford_iiit_pet": "tfds", "tfds": "tfds", "folder": "isbi2012"}.get(name)
  folder = request.getfixturevalue("data_dir") / place if place else tmp_path
  train, test = SPLITS[name]
  changes = {"train_split": train, "eval_split": test}
  if name == "folder":
    changes = {**FOLDS, "classes": ("membrane", "cell"), "mask_values": (0, 255)}
  elif name == "tfds":
    changes |= {"source": "oxford_iiit_pet", "classes": (), "label_space": "pets"}
  elif name == "huggingface":
    tiny.write_parquet(tmp_path, SPLITS[name])
    changes |= {"classes": ("sky", "road")}
  size = 24 if name == "huggingface" else 64
  config = make_config(folder, name=name, image_size=size, **changes)
  assert check_data(config, tmp_path) == []
  out = capsys.readouterr().out
  for split, count in SPLITS[name].items():
    assert f": {split}, {count} images" in out


VOC = {"images": "JPEGImages/{name}.jpg", "label_space": "voc"}
REAL = [
  ("layouts/voc", {**VOC, "masks": "SegmentationClass/{name}.png"}, "palette"),
  ("layouts/coco", {**VOC, "masks": "annotations.json"}, "COCO"),
  ("layouts/labelme", {**VOC, "images": "{name}.jpg", "masks": "{name}.json"}, "labelme"),
  ("layouts/colour_masks", {**VOC, "images": "images/{name}_image.png",
                            "masks": "masks/{name}_target.png"}, "RGB"),
  ("layouts/ade20k", {"masks": "annotations/{name}", "label_space": "ade20k"}, "grey"),
]  # fmt: skip


@pytest.mark.parametrize("folder, keys, mask_format", REAL)
def test_real_layouts_have_no_errors(data_dir, tmp_path, capsys, folder, keys, mask_format):
  config = make_config(data_dir / folder, classes=(), train_split="all[:2]", eval_split="all[2:]",
                       image_size=64, **keys)  # fmt: skip
  findings = check_data(config, tmp_path)
  assert {finding.kind for finding in findings} <= {"classes that do not occur", "small images"}
  out = capsys.readouterr().out
  assert "train: all[:2], 2 images" in out and "eval: all[2:], 1 images" in out
  assert f"  mask    {'PNG ' * (mask_format in ('palette', 'RGB', 'grey'))}{mask_format}" in out
  table = out[out.index("class ") : out.index("\nwarning:")]
  assert max(map(len, table.splitlines())) <= 100
  if "ade20k" in folder:
    masks = sorted((data_dir / folder / "annotations").iterdir())
    found = {value for path in masks for value in np.unique(Image.open(path))} - {0}
    assert f"{150 - len(found)} of 150 classes do not occur" in table
  page = (tmp_path / "plots/data.html").read_text(encoding="utf-8")
  assert page.endswith("</html>\n")


def test_frames_of_a_video_and_noisy_masks(data_dir, tmp_path, capsys):
  """CamVid: frames of val follow each other closely; specks are checked by scipy."""
  config = make_config(data_dir / "camvid", label_space="camvid", classes=(), image_size=64,
                       train_split="train[14:20]", eval_split="val[:8]")  # fmt: skip
  findings = check_data(config, tmp_path)
  kinds = {"specks in masks", "near-duplicates in the eval split", "classes that do not occur"}
  assert {finding.kind for finding in findings} == kinds
  noisy = [finding for finding in findings if finding.kind == "specks in masks"]
  for finding in noisy:
    path = str(finding.file).removeprefix("mask of ").replace("images", "masks")
    labels = np.array(Image.open(path.replace(".jpg", ".png")))
    number = 0
    for label in range(11):
      areas, _ = ndimage.label(labels == label, np.ones((3, 3)))
      number += (np.bincount(areas.ravel())[1:] <= 3).sum()
    assert finding.detail.startswith(f"{number}: (") and number >= 2e-4 * labels.size
  assert len(capsys.readouterr().out.splitlines()) < 60


def test_encoded_examples_and_sources_that_read_themselves(tmp_path, monkeypatch, capsys):
  """Data sets that somebody adds: bytes instead of files, or no `Encoded` at all."""

  def load(split, *_):
    info, source = tiny.load_photos(split, "", 32, 0)
    source.records[1]["image"] = b"no image"
    return info, source

  def load_lazily(split, *_):
    info, source = load(split)
    return info, Mapped(range(len(source)), source.__getitem__)

  for loader, file in (load, "train1.png"), (load_lazily, "example 1"):
    monkeypatch.setitem(datasets.DATASETS, "photos", loader)
    config = make_config("", name="photos", eval_split="test", image_size=16)
    errors = [f for f in check_data(config, tmp_path) if f.severity == "error"]
    assert [f.file for f in errors][0] == file and "cannot be decoded" in errors[0].text
    assert len(errors) == 2  # one in each split
    assert "train: train, 20 images" in capsys.readouterr().out


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
