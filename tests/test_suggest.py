"""What is said about a folder whose files do not fit a layout, and that its remedy works."""

import json
import re

import pytest
from folders import CITYSCAPES, VOC, error, fill_cityscapes, opened, problems_of, touch

from jaxseg.data import suggest


@pytest.mark.parametrize(
  "split, images, masks, offer",
  [
    ("all", ["x.png", "y.png"], ["x_mask.png", "y_mask.png"],
     "`images`='images/{name}' and `masks`='masks/{name}_mask'"),
    ("all", ["x.png"], ["seg-x.png"], "`images`='images/{name}' and `masks`='masks/seg-{name}'"),
    ("train", ["1_image.png", "11_image.png", "2_image.png"],
     ["1_target.png", "11_target.png", "2_target.png", "3_target.png"],
     "`images`='{split}/images/{name}_image' and `masks`='{split}/masks/{name}_target'"),
    ("all", ["img_01.png", "img_02.png"], ["mask_01.png", "mask_02.png"],
     "`images`='images/img_{name}' and `masks`='masks/mask_{name}'"),
    ("all", ["d/x.png", "e/y.png"], ["d/x_m.png", "e/y_m.png"],
     "`images`='images/{name}' and `masks`='masks/{name}_m'"),
    ("all", ["x.png", "y.png"], ["x_mask.png", "y_label.png"], "add it or remove this"),
    ("all", ["x.png", "y.png"], ["p.png", "q.png"], "add it or remove this"),
  ],
)  # fmt: skip
def test_names_that_all_differ_alike(tmp_path, split, images, masks, offer):
  place = "" if split == "all" else f"{split}/"
  touch(tmp_path, *(f"{place}images/{name}" for name in images))
  touch(tmp_path, *(f"{place}masks/{name}" for name in masks))
  message = error(tmp_path, split)
  assert message.endswith(offer), message
  if offer.startswith("`"):  # which works
    _, image, _, mask, _ = offer.split("'")
    touch_masks = {"images": image, "masks": mask}
    problems = problems_of(tmp_path, split, **touch_masks)
    assert problems == [("masks without an image", f"train/masks/{masks[-1]}")] * (len(masks) > 3)


KNOWN = {  # split, files, what is offered
  "voc": ("train", ["JPEGImages/1.jpg", "SegmentationClass/1.png",
                    "ImageSets/Segmentation/train.txt"],
          {**VOC, "split_file": "ImageSets/Segmentation/{split}.txt"}),
  "ade20k": ("training", ["images/training/1.jpg", "annotations/training/1.png"],
             {"images": "images/{split}/{name}", "masks": "annotations/{split}/{name}"}),
  "camvid": ("train", ["train/1.png", "trainannot/1.png"],
             {"images": "{split}/{name}", "masks": "{split}annot/{name}"}),
  "camvid_L": ("all", ["701_StillsRaw_full/1.png", "LabeledApproved_full/1_L.png"],
               {"images": "701_StillsRaw_full/{name}", "masks": "LabeledApproved_full/{name}_L"}),
  "labelme": ("all", ["1.jpg", "1.json"], {"images": "{name}", "masks": "{name}.json"}),
  "beside": ("all", ["1.jpg", "1_mask.png"], {"images": "{name}", "masks": "{name}_mask"}),
  "words": ("all", ["scans/1.jpg", "labels/1.png"],
            {"images": "scans/{name}", "masks": "labels/{name}"}),
  "deep": ("val", ["val/imgs/1.jpg", "val/gt/1.png", "train/imgs/2.png"],
           {"images": "{split}/imgs/{name}", "masks": "{split}/gt/{name}"}),
  "deep_suffix": ("val", ["val/imgs/1.jpg", "val/gt/1_gt.png"],
                  {"images": "{split}/imgs/{name}", "masks": "{split}/gt/{name}_gt"}),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_layouts_that_are_known(tmp_path, name):
  split, files, layout = KNOWN[name]
  touch(tmp_path, *files)
  message = error(tmp_path, split)
  assert message.startswith(f"no folder {tmp_path}/")
  for key, pattern in layout.items():
    assert f"`{key}`={pattern!r}" in message
    if key == "split_file":
      (tmp_path / pattern.format(split=split)).write_text("1")
  assert len(opened(tmp_path, split, **layout)) == 1


def test_known_cityscapes_coco_and_nothing(tmp_path):
  fill_cityscapes(tmp_path / "c")
  message = error(tmp_path / "c", "train")
  assert all(f"`{key}`={pattern!r}" in message for key, pattern in CITYSCAPES.items())
  touch(tmp_path / "d", "JPEGImages/1.jpg", "annotations.json")
  assert "COCO, set `images`='JPEGImages/{name}' and `masks`='annotations.json'" in error(
    tmp_path / "d"
  )
  touch(tmp_path / "g", "scans/1.jpg", "notes/train.json")
  assert "and `masks`='notes/{split}.json'" in error(tmp_path / "g", "train")
  touch(tmp_path / "e", "a.nii", "b.nii", "sub/c.jpg")
  assert "holds 2 files of .nii, sub/: say" in error(tmp_path / "e")
  (tmp_path / "f").mkdir()
  assert "holds nothing" in error(tmp_path / "f")


def test_masks_of_two_suffixes_and_folders_by_other_names(tmp_path):
  """What is offered opens the data."""
  touch(tmp_path / "a", "images/1.jpg", "masks/1.jpg.png")
  touch(tmp_path / "b", "imgs/1.jpg", "masks/1.png")
  touch(tmp_path / "c", "train/imgs/1.jpg", "train/masks/1.png")
  touch(tmp_path / "d", "a/img/1.jpg", "a/mask/1.png")
  for folder, split in ("a", "all"), ("b", "all"), ("c", "train"), ("d", "a"):
    message = error(tmp_path / folder, split)
    found = dict(re.findall(r"`(images|masks)`='([^']+)'", message))
    assert len(opened(tmp_path / folder, split, **found)) == 1, message


def test_what_is_set_is_not_offered(tmp_path):
  touch(tmp_path, "images/a.jpg", "images/b.jpg", "masks/b.png")
  (tmp_path / "train.txt").write_text("a\n")
  message = error(tmp_path, "train", split_file="{split}.txt")
  assert "has no mask" in message and "set `" not in message
  about = {"id": 1, "file_name": "upload/1/a.jpg", "height": 2, "width": 2}
  document = {"categories": [], "images": [about], "annotations": []}
  (tmp_path / "ann.json").write_text(json.dumps(document))
  message = error(tmp_path, images="images/{name}", masks="ann.json")
  assert message.endswith("correct `file_name`, as in ann.json: upload/1/a.jpg")


def test_folders_without_images(tmp_path):
  touch(tmp_path, "images/a.mat", "images/b.mat", "images/sub/c.txt", "masks/a.png")
  message = error(tmp_path)
  assert "images: it holds 2 files of .mat, sub/" in message and ".png" in message
  assert problems_of(tmp_path) == [("folders without images", "images")]


@pytest.mark.parametrize(
  "images, part, there",
  [
    ("leftImg/{split}/{city}/{name}.png", "'leftImg'", "gtFine/train/bonn"),
    ("leftImg8bit/{split}/{city}/x/{name}", "'x'", "leftImg8bit/train/bonn/"),
    ("leftImg8bit/{split}/{city}/{name}_left.png", "'{name}_left.png'", "leftImg8bit/train/bonn"),
    ("leftImg8bit/{split}_extra/{city}/{name}", "'train_extra'", "leftImg8bit/train/bonn"),
    ("{name}/bonn/b/{slice}", "'b'", "gtFine/train/bonn/"),
  ],
)
def test_patterns_that_match_nothing(tmp_path, images, part, there):
  fill_cityscapes(tmp_path)
  message = error(tmp_path, "train", images=images, masks=CITYSCAPES["masks"])
  assert f"`images`={images!r} matches no file" in message
  assert f"its part {part};" in message and f"there are {there}" in message
  assert message.count(".png") <= 4  # of the pattern, and three files
  (kind, _), *more = problems_of(tmp_path, "train", images=images, masks=CITYSCAPES["masks"])
  assert kind == "patterns that match no file" and not more


def test_renamed_needs_all_images():
  assert suggest.renamed(["a", "b"], ["a_m", "b_m", "c_m"]) == ("{name}", "{name}_m")
  assert suggest.renamed(["a", "b", "c"], ["a_m", "b_m"]) is None
  assert suggest.renamed([], ["a"]) is None
  names = [[f"t/{part}/c/{i}" for i in range(3)] for part in ("images", "masks")]
  assert suggest.renamed(*names) == ("t/images/{name}", "t/masks/{name}")


def test_patterns_that_blame_the_right_one(tmp_path):
  touch(tmp_path, "s/a.jpg", "s/a_mask.png", "t/a.jpg", "t/a_mask.png")
  message = error(tmp_path, images="{name}.png", masks="{name}_mask.png")
  assert "all files that fit `images`='{name}.png' also fit `masks`" in message
  message = error(tmp_path, images="{shoot}/{name}.jpg", masks="{shot}/{name}_mask.png")
  assert "{shot} of `masks` is no field of `images`" in message
  message = error(tmp_path, images="{shoot}/{name}", masks="{name}_mask.png")
  assert "set `images`='{name}', `masks`='{name}_mask'" in message
