"""Layouts: which paths a pattern matches, and what pairs."""

import sys
import types
import unicodedata

import pytest
from folders import CITYSCAPES, FORMAT, VOC, error, fill_cityscapes, opened, problems_of, touch

from jaxseg.data.folder import open_folder
from jaxseg.data.layouts import Layout, compile_pattern, natural, without_suffix


@pytest.mark.parametrize(
  "pattern, split, path, fields",
  [
    ("images/{name}", "all", "images/x.jpg", {"name": "x"}),
    ("images/{name}", "all", "images/X.JPG", {"name": "X"}),
    ("images/{name}", "all", "images/x.txt", None),
    ("images/{name}", "all", "images/sub/x.jpg", {"name": "sub/x"}),
    ("images/{slice}", "all", "images/sub/x.jpg", None),
    ("images/{name}", "all", "old/images/x.jpg", None),
    ("images/{name}.png", "all", "images/x.jpg", None),
    ("images/{name}.png", "all", "images/x.PNG", {"name": "x"}),
    ("images/{name}.v1", "all", "images/x.v1.png", {"name": "x"}),
    ("{name}", "all", "x.ome.tif", {"name": "x"}),
    ("{name}", "all", "x.OME.tiff", {"name": "x"}),
    ("{name}.tif", "all", "x.ome.tif", {"name": "x"}),
    ("{name}.ome.tif", "all", "x.tif", None),
    ("{name}", "all", "x.ome.png", {"name": "x.ome"}),
    ("{name}_mask", "all", "a_mask_mask.png", {"name": "a_mask"}),
    ("{split}/{name}", "train", "train/x.png", {"name": "x"}),
    ("{split}/{name}", "train", "val/x.png", None),
    ("{split}/{name}", "fold/a", "fold/a/x.png", {"name": "x"}),
    ("{split}/{name}", "a.c", "abc/x.png", None),
    ("{split}/{name}", "all", "val/x.png", {"split": "val", "name": "x"}),
    ("{city}/{city}_{slice}", "all", "ulm/ulm_7.png", {"city": "ulm", "slice": "7"}),
    ("{city}/{city}_{slice}", "all", "ulm/bonn_7.png", None),
    ("{patient}_{name}.png", "all", "p1_t0_07.png", {"patient": "p1", "name": "t0_07"}),
    ("{name}/{patient}/{slice}", "all", "a/b/c/1.png",
     {"name": "a/b", "patient": "c", "slice": "1"}),
    ("task-{name}-annotation-{annotation}-by-{user}-tag-{class}-{part}.png", "all",
     "task-7-annotation-3-by-1-tag-traffic-light-0.png",
     {"name": "7", "annotation": "3", "user": "1", "class": "traffic-light", "part": "0"}),
    ("{name}.json", "all", "x.json", {"name": "x"}),
    ("a(1)/{name}", "all", "a(1)/x.png", {"name": "x"}),
    ("{name}", "all", "e\u0301.png", {"name": "\u00e9"}),
    ("e\u0301/{name}", "all", "\u00e9/x.png", {"name": "x"}),
  ],
)  # fmt: skip
def test_patterns(pattern, split, path, fields):
  assert compile_pattern("masks", pattern, split).match(path) == fields


@pytest.mark.parametrize(
  "layout, words",
  [
    ({"images": "scans/{name"}, "`images` braces"),
    ({"images": "scans/{}"}, "`images` braces"),
    ({"images": "scans/{name!r}"}, "`images` braces"),
    ({"masks": "scans/{1}"}, "`masks` braces"),
    ({"images": "scans/*.png"}, "`images` {name} *"),
    ({"images": "../scans/{name}"}, "`images` .. `data_dir`"),
    ({"images": "/scans/{name}"}, "`images` `data_dir`"),
    ({"images": "scans//{name}"}, "`images` single"),
    ({"images": r"scans\{name}"}, "`images` /"),
    ({"images": "scans/x.png"}, "`images` field {name}"),
    ({"masks": "labels.png"}, "`masks` field {name}"),
    ({"images": "scans/{a}{b}"}, "`images` between"),
    ({"images": "{name}.json"}, "`images` JSON"),
    ({"images": "scans/{name}", "masks": "labels/{slice}"}, "`images` `masks` common"),
    ({"images": "x/{name}", "masks": "x/{name}"}, "`images` `masks` both"),
    ({"images": "scans/{name}", "masks": "{split}.json"}, "`masks` name 'all'"),
    ({"split_file": "../x.txt"}, "`split_file` .."),
    ({"split_file": "{name}.txt"}, "`split_file` {split}"),
  ],
)
def test_patterns_that_cannot_be(tmp_path, layout, words):
  touch(tmp_path, "images/a.png", "masks/a.png")
  message = error(tmp_path, **layout)
  assert all(word in message for word in words.split()), message


@pytest.mark.parametrize("split", ["../train", "/train", "a/../../b"])
def test_splits_that_leave_the_folder(tmp_path, split):
  touch(tmp_path, "train/images/a.png", "train/masks/a.png")
  message = error(tmp_path / "train", split)
  assert repr(split) in message and "leaves `data_dir`" in message


def test_natural_order_and_suffixes():
  names = ["10.png", "2.png", "B/1.png", "a/30/1.png", "a/4/1.png"]
  assert sorted(names, key=natural) == ["2.png", "10.png", "a/4/1.png", "a/30/1.png", "B/1.png"]
  stems = [without_suffix(x) for x in ("a.png", "a.b.TIF", "a.ome.tiff", "a.txt", "b/.png")]
  assert stems == ["a", "a.b", "a", "a.txt", "b/.png"]


def test_sub_folders_pair_by_relative_path(tmp_path):
  images = ["train/images/p10/a.jpg", "train/images/p2/a.jpg", "train/images/z.png"]
  masks = ["train/masks/p10/a.png", "train/masks/p2/a.png", "train/masks/z.gif"]
  touch(tmp_path, *images, *masks, "train/masks/.hidden/b.png", "train/masks/._z.png")
  order = [1, 0, 2]
  assert opened(tmp_path, "train") == [(images[i], masks[i]) for i in order]
  # Two files are called a.jpg, so names have their folders.
  source = open_folder(tmp_path, "train", FORMAT)[1]
  assert [record["name"] for record in source.records] == [images[i] for i in order]
  touch(tmp_path, "train/masks/p3/a.png")
  assert problems_of(tmp_path, "train") == [("masks without an image", "train/masks/p3/a.png")]
  message = error(tmp_path, "train")
  assert message.endswith("(1 of 4 have none): add it or remove this"), message


def test_a_link_to_a_folder_above_ends(tmp_path):
  touch(tmp_path, "images/a.png", "masks/a.png", "far/b.png")
  (tmp_path / "images/loop").symlink_to(tmp_path)
  (tmp_path / "images/d/e").mkdir(parents=True)
  (tmp_path / "images/d/e/loop").symlink_to(tmp_path / "images/d")
  for part in "images", "masks":  # both are read, though they are one folder
    (tmp_path / part / "far").symlink_to(tmp_path / "far")
  assert opened(tmp_path, images="images/{name}", masks="masks/{name}")[:1] == [
    ("images/a.png", "masks/a.png")
  ]
  assert ("images/far/b.png", "masks/far/b.png") in opened(tmp_path)


def test_voc_by_lists(data_dir):
  root = data_dir / "layouts/voc"
  lists = {"split_file": "ImageSets/Segmentation/{split}.txt"}
  for split, names in ("train", ("2011_000003", "2011_000006")), ("val", ("2011_000025",)):
    expected = [(f"JPEGImages/{x}.jpg", f"SegmentationClass/{x}.png") for x in names]
    assert opened(root, split, **VOC, **lists) == expected
  assert len(opened(root, "all", **VOC)) == 3
  assert "folder holds train.txt, val.txt" in error(root, "test", **VOC, **lists)


@pytest.mark.parametrize(
  "folder, layout, expected",
  [
    ("colour_masks", {"images": "images/{name}_image.png", "masks": "masks/{name}_target.png"},
     [(f"images/{i}_image.png", f"masks/{i}_target.png") for i in (1, 23, 114)]),
    ("ade20k", {"masks": "annotations/{name}"},
     [(f"images/ADE_val_0000000{i}.jpg", f"annotations/ADE_val_0000000{i}.png")
      for i in (1, 2, 3)]),
    ("labelme", {"images": "{name}.jpg", "masks": "{name}.json"},
     [(f"2011_0000{i}.jpg", f"2011_0000{i}.json") for i in ("03", "06", "25")]),
  ],
)  # fmt: skip
def test_real_folders(data_dir, folder, layout, expected):
  assert opened(data_dir / "layouts" / folder, **layout) == expected


def test_cityscapes(tmp_path):
  fill_cityscapes(tmp_path)
  touch(tmp_path, "README.md")

  def expected(split, *names):
    return [
      (f"leftImg8bit/{split}/{x.split('_')[0]}/{x}_leftImg8bit.png",
       f"gtFine/{split}/{x.split('_')[0]}/{x}_gtFine_labelIds.png") for x in names
    ]  # fmt: skip

  train = expected("train", "bonn_000003_000019", "ulm_000000_000019")
  val = expected("val", "jena_000001_000019")
  assert opened(tmp_path, "train", **CITYSCAPES) == train
  assert opened(tmp_path, "val", **CITYSCAPES) == val
  assert opened(tmp_path, "all", **CITYSCAPES) == train + val  # any split
  assert opened(tmp_path, "train[50%:]", **CITYSCAPES) == train[1:]


@pytest.mark.parametrize(
  "images, masks, image, mask",
  [
    ("{name}.jpg", "{name}_mask.png", "{}.jpg", "{}_mask.png"),
    ("{name}.png", "{name}_mask.png", "{}.png", "{}_mask.png"),
    ("{name}_rgb.png", "{name}.png", "{}_rgb.png", "{}.png"),
    ("img{name}", "msk{name}", "img{}.png", "msk{}.png"),
  ],
)
def test_masks_beside_their_images(tmp_path, images, masks, image, mask):
  pairs = [(image.format(i), mask.format(i)) for i in (1, 2)]
  touch(tmp_path, *sum(pairs, ()))
  assert opened(tmp_path, images=images, masks=masks) == pairs


def test_names_pair_in_any_unicode_form(tmp_path):
  composed, decomposed = (unicodedata.normalize(form, "Fußgänger é") for form in ("NFC", "NFD"))
  assert composed != decomposed
  touch(tmp_path, f"images/{composed}.png", f"masks/{decomposed}.png")
  assert opened(tmp_path) == [(f"images/{composed}.png", f"masks/{decomposed}.png")]


def test_one_mask_for_several_images_but_not_the_reverse(tmp_path):
  layout = {"images": "{patient}/{name}_{modality}.png", "masks": "{patient}/{name}_seg.png"}
  touch(tmp_path, "p1/a_t1.png", "p1/a_t2.png", "p1/a_seg.png", "p2/a_t1.png", "p2/a_seg.png")
  assert opened(tmp_path, **layout) == [
    ("p1/a_t1.png", "p1/a_seg.png"),
    ("p1/a_t2.png", "p1/a_seg.png"),
    ("p2/a_t1.png", "p2/a_seg.png"),
  ]
  layout = {"images": "i/{name}", "masks": "m/{name}-by-{user}"}
  touch(tmp_path, "i/a.png", "m/a-by-eva.png", "m/a-by-jo.png")
  message = error(tmp_path, **layout)
  assert "m/a-by-eva.png" in message and "m/a-by-jo.png" in message
  touch(tmp_path, "i/a.jpg")
  assert problems_of(tmp_path, **layout) == [
    ("files that share a name", "m/a-by-jo.png"),
    ("files that share a name", "i/a.png"),
  ]
  layout["images"] = "j/{name}-at-{time}"
  touch(tmp_path, "j/a-at-1.png", "j/a-at-2.png")
  assert problems_of(tmp_path, **layout) == [("files that share a name", "m/a-by-jo.png")]


def test_a_png_for_each_class(tmp_path):
  """As Label Studio exports them."""
  masks = "masks/task-{name}-annotation-{annotation}-by-{user}-tag-{class}-{part}.png"
  names = ["task-7-annotation-3-by-1-tag-car-0", "task-7-annotation-3-by-1-tag-car-1",
           "task-7-annotation-4-by-2-tag-traffic-light-0",
           "task-70-annotation-5-by-1-tag-car-0"]  # fmt: skip
  paths = [f"masks/{name}.png" for name in names]
  touch(tmp_path, "images/7.jpg", "images/70.jpg", *paths)
  source = open_folder(tmp_path, "all", FORMAT, layout=Layout(masks=masks))[1]
  full = [tmp_path / path for path in paths]
  assert [record["mask"] for record in source.records] == [
    {"car": full[:2], "traffic-light": full[2:3]},
    {"car": full[3:]},
  ]
  touch(tmp_path, "images/8.jpg")
  assert problems_of(tmp_path, masks=masks) == [("images without a mask", "images/8.jpg")]


@pytest.fixture
def coco(monkeypatch):
  """Stands in for the reader of COCO files: a JSON is a list of file names, one a line."""
  stub = types.ModuleType("polygons")
  stub.coco_masks = lambda path: {x: f"mask of {x}" for x in path.read_text().splitlines()}
  monkeypatch.setitem(sys.modules, "jaxseg.data.polygons", stub)


def test_coco(tmp_path, coco):
  (tmp_path / "all.json").write_text("a.jpg\nsub/b.jpg\nscans/c.jpg\n")
  touch(tmp_path, "scans/a.jpg", "scans/sub/b.jpg", "scans/c.jpg")
  layout = {"images": "scans/{name}", "masks": "all.json"}
  records = open_folder(tmp_path, "all", FORMAT, layout=Layout(**layout))[1].records
  assert [(record["name"], record["mask"]) for record in records] == [
    ("a.jpg", "mask of a.jpg"),
    ("c.jpg", "mask of scans/c.jpg"),
    ("b.jpg", "mask of sub/b.jpg"),
  ]
  touch(tmp_path, "scans/d.jpg", "scans/sub/a.jpg")
  (tmp_path / "scans/c.jpg").unlink()
  assert problems_of(tmp_path, **layout) == [
    ("files that share a name", "scans/sub/a.jpg"),
    ("images without a mask", "scans/d.jpg"),
    ("masks without an image", "all.json: scans/c.jpg"),
  ]
  (tmp_path / "train.json").write_text("d.jpg")
  layout["masks"] = "{split}.json"  # which says what is in the split
  records = open_folder(tmp_path, "train", FORMAT, layout=Layout(**layout))[1].records
  assert [record["mask"] for record in records] == ["mask of d.jpg"]


@pytest.mark.parametrize(
  "layout, expected",
  [
    ({"images": "{split}/{name}", "masks": "labels/{name}"}, ["train/a.png"]),
    ({"images": "pictures/{name}", "masks": "{split}_masks/{name}"}, ["pictures/b.png"]),
  ],
)
def test_one_pattern_may_hold_the_files_of_all_splits(tmp_path, layout, expected):
  touch(tmp_path, "train/a.png", "val/b.png", "labels/a.png", "labels/b.png")
  touch(tmp_path, "pictures/a.png", "pictures/b.png", "train_masks/b.png")
  assert [image for image, _ in opened(tmp_path, "train", **layout)] == expected
  touch(tmp_path, "train/c.png", "train_masks/c.png")
  assert "/c.png has no" in error(tmp_path, "train", **layout)


def test_a_lost_mask_of_one_class_is_named(tmp_path):
  """Else its pixels would be background."""
  touch(tmp_path, "train/a.jpg", "masks/a-cat-1.png")
  (tmp_path / "masks" / "a-dog-1.png").symlink_to("nowhere")
  (tmp_path / "masks" / "b-dog-1.png").symlink_to("nowhere")  # of another split
  (tmp_path / "list.txt").write_text("a train\n")
  masks = "masks/{name}-{class}-{part}.png"
  for layout in {"images": "{split}/{name}"}, {"images": "train/{name}", "split_file": "list.txt"}:
    found = problems_of(tmp_path, "train", masks=masks, **layout)
    assert found == [("links that lead nowhere", "masks/a-dog-1.png")]


@pytest.mark.parametrize("images, masks", [("images/{name}", "masks/{split}/{name}"),
                                           ("images/{split}/{name}", "masks/{name}")])
def test_links_of_another_split_do_not_count(tmp_path, images, masks):
  """Of which nothing was fetched."""
  touch(tmp_path, *(text.format(split="train", name="a.png") for text in (images, masks)))
  for text in images, masks:
    link = tmp_path / text.format(split="test", name="b.png")
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to("nothing.png")
  layout = {"images": images, "masks": masks}
  assert len(opened(tmp_path, "train", **layout)) == 1
  assert "leads nowhere" in error(tmp_path, "test", **layout)


@pytest.mark.parametrize("images, masks", [("{split}/{name}", "labels/{name}"),
                                           ("pictures/{name}", "{split}_masks/{name}")])
def test_of_all_splits_no_file_is_left_out_in_silence(tmp_path, images, masks):
  touch(tmp_path, *(text.format(split="train", name="a.png") for text in (images, masks)))
  for pattern in images, masks:
    extra = pattern.format(split="train", name="extra.png")
    touch(tmp_path, extra)
    assert extra in error(tmp_path, images=images, masks=masks)
    (tmp_path / extra).unlink()
  assert len(opened(tmp_path, images=images, masks=masks)) == 1


def test_a_split_that_nothing_names(tmp_path):
  touch(tmp_path, "x/a.png", "y/a.png")
  message = error(tmp_path, "train", images="x/{name}", masks="y/{name}")
  assert "'train'" in message and "all[:80%]" in message and "`split_file`" in message


def test_a_list_over_the_layout_without_patterns(tmp_path):
  """Of folders of splits if there are any, else of images/ and masks/ themselves."""
  touch(tmp_path, "images/a.png", "images/b.png", "masks/a.png", "masks/b.png")
  (tmp_path / "train.txt").write_text("b\n")
  assert opened(tmp_path, "train", split_file="{split}.txt") == [("images/b.png", "masks/b.png")]
  touch(tmp_path, "train/images/b.png", "train/masks/b.png", "train/images/c.png",
        "train/masks/c.png")  # fmt: skip
  assert opened(tmp_path, "train", split_file="{split}.txt") == [
    ("train/images/b.png", "train/masks/b.png")
  ]


def test_links_that_lead_nowhere(tmp_path):
  touch(tmp_path, "images/a.png", "masks/a.png")
  for name, target in (("self", "self"), ("self.png", "self.png"), ("gone.png", "nothing.png"),
                       ("above", "..")):  # fmt: skip
    (tmp_path / "images" / name).symlink_to(target)
  (tmp_path / "masks" / "gone.png").symlink_to("nothing.png")  # else both vanish
  assert problems_of(tmp_path) == [
    ("links that lead nowhere", name)
    for name in ("images/gone.png", "images/self", "images/self.png", "masks/gone.png")
  ]  # the second may be a folder
  (tmp_path / "train.txt").write_text("a\n")
  assert opened(tmp_path, "train", split_file="{split}.txt") == [("images/a.png", "masks/a.png")]
