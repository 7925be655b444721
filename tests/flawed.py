"""A folder of images and masks without a fault, and every fault that can be planted in it."""

import json

import numpy as np
import pytest
from PIL import Image

from configs import default

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
