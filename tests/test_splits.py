"""What belongs to a split: parts, folds and groups, and the entries of list files."""

import itertools
import random
import warnings

import pytest
from folders import touch
from tiny import error_of

from jaxseg import DataWarning, UserError, build
from jaxseg.data import splits
from jaxseg.data.folder import FolderFormat, open_folder
from jaxseg.data.layouts import Layout

FORMAT = FolderFormat(("a", "b"))


@pytest.mark.parametrize("num_examples, num_folds", [(30, 5), (30, 7), (5, 5), (11, 2)])
def test_folds(num_examples, num_folds):
  folds = [splits.fold_indices(num_examples, num_folds, fold) for fold in range(num_folds)]
  held_out = [i for _, indices in folds for i in indices]
  assert held_out == list(range(num_examples))  # blocks, in order, all of them once
  for train, held_out in folds:
    assert len(held_out) in (num_examples // num_folds, -(-num_examples // num_folds))
    assert sorted(train + held_out) == list(range(num_examples)) and list(train) == sorted(train)
  if (num_examples, num_folds) == (30, 5):
    assert folds[4][1] == (24, 25, 26, 27, 28, 29)


@pytest.mark.parametrize(
  "num_folds, fold, words", [(1, 0, "num_folds 1 30"), (31, 0, "num_folds 31 30"),
                             (0, 0, "num_folds 0"), (5, 5, "fold 5 4"), (5, -1, "fold -1 4")]
)  # fmt: skip
def test_folds_that_cannot_be(num_folds, fold, words):
  message = error_of(splits.fold_indices, 30, num_folds, fold)
  assert "`" in message and all(word in message for word in words.split())


def in_groups(*sizes):
  """The group of each example: "0", "0", "1" ... for sizes 2, ..."""
  return [str(i) for i, size in enumerate(sizes) for _ in range(size)]


@pytest.mark.parametrize(
  "sizes, num_folds, expected",
  [
    ((3, 3, 4), 2, [6, 4]),  # the cut at 5 moves to 6, which is nearer than 3
    ((2, 4, 4), 2, [6, 4]),  # 5 is between 2 and 6
    ((9, 1, 1), 3, [9, 1, 1]),  # the cuts at 3 and 7 would leave folds empty
    ((1, 1, 9), 3, [1, 1, 9]),
    ((5, 5, 5, 5), 2, [10, 10]),
    ((1,) * 7, 3, [2, 2, 3]),  # cuts at 7/3 and 14/3, as without groups
  ],
)
def test_folds_of_groups(sizes, num_folds, expected):
  groups = in_groups(*sizes)
  folds = [splits.fold_indices(len(groups), num_folds, i, groups) for i in range(num_folds)]
  assert [len(held_out) for _, held_out in folds] == expected
  assert [i for _, held_out in folds for i in held_out] == list(range(len(groups)))
  for train, held_out in folds:
    assert sorted(train + held_out) == list(range(len(groups)))
    assert not {groups[i] for i in train} & {groups[i] for i in held_out}


def test_folds_of_too_few_groups():
  message = error_of(splits.fold_indices, 10, 3, 0, in_groups(5, 5))
  assert "`num_folds` is 3: use 2 to 2" in message and "groups of `group_by`" in message
  message = error_of(splits.fold_indices, 10, 2, 0, in_groups(10))
  assert "only 1 groups" in message


@pytest.mark.parametrize(
  "split, name, expected",
  [
    ("all[:80%]", "all", range(0, 8)),
    ("all[80%:]", "all", range(8, 10)),
    ("[10%:20%]", "", range(1, 2)),
    ("fold/a[:3]", "fold/a", range(0, 3)),
    ("all[3:]", "all", range(3, 10)),
    ("all[:]", "all", range(0, 10)),
    ("all[2:50%]", "all", range(2, 5)),
    ("all[:33%]", "all", range(0, 3)),
    ("all[:37%]", "all", range(0, 4)),
  ],
)
def test_parts(split, name, expected):
  found, part = splits.parse_split(split)
  assert found == name and splits.part_indices(10, part, split) == expected


def test_parts_with_the_same_bound_share_nothing_and_miss_nothing():
  """For every number of examples, percentage and grouping, whatever the rounding."""
  for sizes in itertools.product((1, 2, 3), repeat=4):
    groups = in_groups(*sizes)
    n = len(groups)
    edges = [0, *itertools.accumulate(sizes)]
    for percent in range(1, 100, 7):
      for some, limits in ((), range(n + 1)), (groups, edges):
        nearest = min(abs(edge - n * percent / 100) for edge in limits)
        bounds = [e for e in limits if abs(e - n * percent / 100) == nearest]
        if bounds[0] in (0, n):  # one part is empty
          continue
        low = splits.part_indices(n, ("", f"{percent}%"), "x", some)
        high = splits.part_indices(n, (f"{percent}%", ""), "x", some)
        assert (low.start, low.stop, high.start, high.stop) == (0, bounds[0], bounds[0], n)


@pytest.mark.parametrize(
  "split, words",
  [
    ("all[80%]", "NAME[:80%]"),
    ("all[:-20%]", "NAME[80%:]"),
    ("all[:x]", "NAME[:100]"),
    pytest.param(f"all[:{'9' * 5000}]", "NAME[:100]", id="5000 digits"),
    ("all[:8.5%]", "NAME[:80%]"),
    ("all[:%]", "NAME[:80%]"),
    ("all]", "NAME[:80%]"),
    ("all[:1]x", "NAME[:80%]"),
    ("all[:101%]", "0% to 100%"),
    ("all[:11]", "only 10 examples"),
    ("all[5:5]", "none of the 10 examples: use"),
    ("all[80%:20%]", "none of the 10 examples: use"),
    ("all[:0%]", "none"),
  ],
)
def test_parts_that_cannot_be(split, words):
  message = error_of(lambda: splits.part_indices(10, splits.parse_split(split)[1], split))
  assert repr(split) in message and words in message


def test_counts_that_cut_a_group():
  groups = in_groups(4, 3, 3)
  assert splits.part_indices(10, ("", "7"), "x", groups) == range(7)
  assert "use 4 or 7, or a percentage" in error_of(
    splits.part_indices, 10, ("", "6"), "x[:6]", groups
  )
  assert "in 1 groups" in error_of(splits.part_indices, 9, ("80%", ""), "x", in_groups(9))


def images_of(root, split="all", **layout):
  records = open_folder(root, split, FORMAT, layout=Layout(**layout))[1].records
  return [str(record["image"].relative_to(root)) for record in records]


@pytest.fixture
def patients(tmp_path):
  """Patients 2, 10 and 9 with 2, 3 and 5 slices."""
  for patient, count in (2, 2), (10, 3), (9, 5):
    for i in range(count):
      name = f"p{patient}_day{i % 2}_{i}"
      touch(tmp_path, f"scans/{name}.png", f"seg/{name}.png")
      touch(tmp_path, f"images/p{patient}/d{i % 2}/{i}.png", f"masks/p{patient}/d{i % 2}/{i}.png")
  return tmp_path


PATTERNS = {"images": "scans/{patient}_{day}_{slice}.png", "masks": "seg/{patient}_{day}_{slice}"}


@pytest.mark.parametrize(
  "layout, patient",
  [
    ({**PATTERNS, "group_by": "patient"}, lambda path: path.split("/")[1].split("_")[0]),
    ({"group_by": "folder"}, lambda path: path.split("/")[1]),
  ],
)
def test_groups_do_not_straddle(patients, layout, patient):
  images = images_of(patients, **layout)
  # Natural order of the patients; whole ones.
  assert [patient(x) for x in images] == ["p2"] * 2 + ["p9"] * 5 + ["p10"] * 3
  # 80% of 10 examples is nearer to 7 than to 10; half is nearer to 7 than to 2.
  assert images_of(patients, "all[:80%]", **layout) == images[:7]
  assert images_of(patients, "all[80%:]", **layout) == images[7:]
  assert images_of(patients, "all[:50%]", **layout) == images[:7]
  assert "use 2 or 7" in error_of(lambda: images_of(patients, "all[:5]", **layout))


def test_groups_of_two_fields(patients):
  layout = {**PATTERNS, "group_by": "day, patient"}
  records = open_folder(patients, "all", FORMAT, layout=Layout(**layout))[1].records
  assert [record["group"] for record in records] == [
    *["day0/p2"], *["day0/p9"] * 3, *["day0/p10"] * 2,
    *["day1/p2"], *["day1/p9"] * 2, *["day1/p10"],
  ]  # fmt: skip


@pytest.mark.parametrize(
  "layout, words",
  [
    ({**PATTERNS, "group_by": "patent"}, "'patent' patient, day, slice"),
    ({**PATTERNS, "group_by": "folder"}, "'folder' {folder}"),
    ({"group_by": "patient"}, "'patient' folder, {patient}"),
    ({"group_by": "folder,"}, "'' folder"),
  ],
)
def test_groups_that_are_not_there(patients, layout, words):
  message = error_of(lambda: images_of(patients, **layout))
  assert "`group_by`" in message and all(word in message for word in words.split()), message


@pytest.mark.parametrize("name", ["p2", "p9", "p10"])
def test_folds_of_a_config(patients, name):
  import tiny

  config = tiny.make_config(1, data__name="folder", data__data_dir=str(patients))
  config.data.update(classes=("a", "b"), train_split="all", num_folds=3, group_by="folder")
  config.data.fold = ["p2", "p9", "p10"].index(name)
  sources = {role: build.open_split(config, role)[1] for role in ("train", "eval")}
  groups = {
    role: {source.source.records[i]["group"] for i in source.indices}
    for role, source in sources.items()
  }
  assert groups == {"eval": {name}, "train": {"p2", "p9", "p10"} - {name}}
  config.data.eval_split = "val"
  note = r"config.data.eval_split='val' is not used, folds are: set config.data.num_folds=0"
  with pytest.warns(DataWarning, match=note):
    assert list(build.training_faults(config)) == []


@pytest.fixture
def pictures(tmp_path):
  touch(tmp_path, "out.jpg")
  tmp_path = tmp_path / "data"
  touch(tmp_path, *(f"x/{name}.jpg" for name in ("a", "b c", "d/e", "é")), "x/d/f.jpg", "x/g/f.jpg")
  touch(tmp_path, *(f"y/{name}.png" for name in ("a", "b c", "d/e", "é", "d/f", "g/f")))
  return tmp_path


XY = {"images": "x/{name}", "masks": "y/{name}"}


@pytest.mark.parametrize(
  "text, expected",
  [
    ("a\nd/e\n", "a d/e"),
    ("\ufeffa.jpg\r\n\r\n# a comment\r\n x/d/e.jpg \r\n", "a d/e"),
    ("/x/a\n./x/d/f.jpg\n", "a d/f"),
    ("e\ng/f.jpg\n", "d/e g/f"),
    ("e\u0301\n", "é"),
    ("image\na\n", "a"),
    ("b c\na\n", "a b_c"),
    ('"b c"\na\n', "a b_c"),
    ("x/a.jpg,y/a.png\n", "a"),
    ("image;mask\nx/b c.jpg;y/b c.png\nx/a.jpg;y/a.png", "a b_c"),
    ("{root}/x/a.jpg\n", "a"),
    ("/x/a.jpg /y/a.png\n/x/d/e.jpg  /y/a.png\n", "a d/e"),
    ("x/a.jpg\ty/a.png\n", "a"),
    ("x/a.jpg,y/a.png,\nx/d/e.jpg,y/a.png\n", "a d/e"),
    ("a,\nd/e,\n", "a d/e"),
    ('x/a.jpg, "y/a.png"\n', "a"),
  ],
)
def test_lists(pictures, text, expected):
  (pictures / "train.txt").write_text(text.replace("{root}", str(pictures)), "utf-8")
  images = [f"x/{name.replace('_', ' ')}.jpg" for name in expected.split()]
  assert images_of(pictures, "train", **XY, split_file="{split}.txt") == images
  assert images_of(pictures, "all", **XY, split_file="train.txt") == images


def test_lists_in_another_unicode_form(tmp_path):
  touch(tmp_path, "images/e\u0301.jpg", "masks/e\u0301.png")
  for text in "\u00e9", "\u00e9.jpg", "images/\u00e9.jpg":
    (tmp_path / "list.txt").write_text(text, "utf-8")
    assert len(images_of(tmp_path, split_file="list.txt")) == 1


@pytest.mark.parametrize(
  "text",
  [
    "name,split\na,train\ne,val\nx/d/f.jpg,train\n",
    "a train\ne val\nd/f train\n",
    "x/a.jpg,y/a.png,train\nx/d/e.jpg,y/d/e.png,val\nx/d/f.jpg,y/d/f.png,train",
  ],
)
def test_lists_that_name_splits(pictures, text):
  (pictures / "splits.csv").write_text(text)
  layout = {**XY, "split_file": "splits.csv"}
  assert images_of(pictures, "train", **layout) == ["x/a.jpg", "x/d/f.jpg"]
  assert images_of(pictures, "val", **layout) == ["x/d/e.jpg"]
  assert images_of(pictures, "all", **layout) == ["x/a.jpg", "x/d/e.jpg", "x/d/f.jpg"]
  assert images_of(pictures, "train[50%:]", **layout) == ["x/d/f.jpg"]
  message = error_of(lambda: images_of(pictures, "test", **layout))
  assert "'test'" in message and "train, val" in message


def test_lists_of_paths_need_no_patterns(pictures):
  absolute = pictures / "lists" / "train.txt"
  absolute.parent.mkdir()
  absolute.write_text(f"{pictures}/x/a.jpg,{pictures}/y/a.png\nx/d/e.jpg,y/a.png\n")
  for path in "lists/{split}.txt", str(absolute):
    split = "train" if "{" in path else "all"
    source = open_folder(pictures, split, FORMAT, layout=Layout(split_file=path))[1]
    assert [(record["image"], record["mask"]) for record in source.records] == [
      (pictures / "x/a.jpg", pictures / "y/a.png"),
      (pictures / "x/d/e.jpg", pictures / "y/a.png"),
    ]
  # With a pattern of images, its fields are groups.
  layout = {"split_file": "lists/{split}.txt", "images": "x/{name}", "group_by": "name"}
  source = open_folder(pictures, "train", FORMAT, layout=Layout(**layout))[1]
  assert [record["group"] for record in source.records] == ["a", "d/e"]
  message = error_of(lambda: images_of(pictures, "train", **{**layout, "masks": "y/d/{name}"}))
  assert f"{pictures}/y/a.png is listed" in message and "`masks`='y/d/{name}'" in message
  message = error_of(lambda: images_of(pictures, "train", images="x/{group}",
                                       split_file="lists/{split}.txt"))  # fmt: skip
  assert f"{pictures}/x/d/e.jpg is listed" in message and "`images`='x/{group}'" in message


def test_lists_of_pairs_without_their_masks(pictures):
  """Which are no splits."""
  (pictures / "all.txt").write_text("x/a.jpg,z/a.png\nx/d/e.jpg,z/e.png\n")
  layout = Layout(**XY, split_file="all.txt")
  for split in ("all", "all[:50%]"):
    message = error_of(open_folder, pictures, split, FORMAT, layout=layout)
    assert f"{pictures}/all.txt line 1: 'z/a.png' is no file in {pictures}" in message


@pytest.mark.parametrize(
  "text, words",
  [
    ("", "lists nothing"),
    ("# only this\n", "lists nothing"),
    ("a\nzebra\n", "line 2: 'zebra' none of the images"),
    ("a.png\n", "line 1: 'a.png' none of the images"),
    ("f\n", "line 1: 'f' x/d/f.jpg or x/g/f.jpg"),
    ("a\n\na.jpg\n", "line 3: 'a.jpg' twice"),
    ("x/a.jpg,y/a.png\nx/d/e.jpg,y/q.png\n", "line 2: no file 'y/q.png'"),
    ("x/a.jpg,y/a.png\nx/q.jpg,y/a.png\n", "line 2: no file 'x/q.jpg'"),
    ("x/a.jpg,y/a.png\n../out.jpg,y/a.png\n", "line 2: no file"),
    ("x/a.jpg,y/a.png\nx/a.jpg,y/d/e.png\n", "line 2: 'x/a.jpg' twice"),
    ("x/a.jpg,y/a.png\nx/a.jpg\n", "line 1 has 2 cells, last line 1:"),
    ("x/a.jpg,y/a.png\nx/a.jpg,\n", "line 1 has 2 cells, last line 1:"),
    ("x/a.jpg,y/a.png\n,y/a.png\n", "line 2 has 1 cells"),
    ("x/a.jpg,y/a.png,3,4\n", "line 1 has 4 cells"),
    ("x/a.jpg,q.png\n", "line 1: 'q.png' is no file"),
    ("a\x00b\n", "line 1: none"),
    ("x/a.jpg,y/" + "a" * 9999 + "\n", "line 1: is no file"),
  ],
)
def test_lists_with_faults(pictures, text, words):
  (pictures / "train.txt").write_text(text)
  layout = Layout(**XY, split_file="{split}.txt")
  message = error_of(open_folder, pictures, "train", FORMAT, layout=layout)
  assert f"{pictures}/train.txt" in message
  assert all(word in message for word in words.split()), message


def test_every_fault_of_a_list_is_a_problem(pictures):
  (pictures / "train.txt").write_text("zebra\na\nf\na\nd/e\n")
  problems = []
  layout = Layout(**XY, split_file="{split}.txt")
  source = open_folder(pictures, "train", FORMAT, problems, layout=layout)[1]
  assert len(source) == 3  # the two below stay out, of "f" and "a" one each
  assert [kind.removeprefix("entries ") for kind, *_ in problems] == [
    "of a list without a file", "of a list with two files", "that are listed twice",
  ]  # fmt: skip


def test_lists_that_are_not_there_or_not_text(pictures):
  layout = Layout(**XY, split_file="{split}.txt")
  touch(pictures, "val.txt")
  message = error_of(open_folder, pictures, "train", FORMAT, layout=layout)
  assert f"no file {pictures}/train.txt" in message and "holds val.txt" in message
  (pictures / "train.txt").write_bytes(b"\xff\xfe\x00a")
  assert "UTF-8" in error_of(open_folder, pictures, "train", FORMAT, layout=layout)
  (pictures / "train.txt").unlink()
  (pictures / "train.txt").mkdir()
  assert "train.txt cannot be read" in error_of(
    open_folder, pictures, "train", FORMAT, layout=layout
  )
  (pictures / "names.txt").write_text("a\n")
  layout = Layout(**XY, split_file="names.txt")
  message = error_of(open_folder, pictures, "train", FORMAT, layout=layout)
  assert "does not say" in message and "{split}" in message and "all[:80%]" in message


def test_mutated_lists_are_read_or_refused_in_one_line(pictures):
  rng, layout = random.Random(0), Layout(**XY, split_file="{split}.txt")
  texts = [b"name\na\nd/e\n", b"x/a.jpg,y/a.png\nx/d/e.jpg,y/a.png\n", b"a train\ne val\n"]
  noise = [b"", b"\0", b'"', b"\n", b",", b";", b"\xff", b"..", b"/", b"\t", b"#", b"9" * 5000]
  for _ in range(300):
    data = bytearray(rng.choice(texts))
    for _ in range(rng.randint(1, 6)):
      i = rng.randrange(len(data) + 1)
      data[i : i + rng.randint(0, 3)] = rng.choice(noise)
    (pictures / "train.txt").write_bytes(data)
    try:
      records = open_folder(pictures, "train", FORMAT, layout=layout)[1].records
      assert all(record["image"].is_file() and record["mask"].is_file() for record in records)
    except UserError as error:
      assert "\n" not in str(error) and "train" in str(error)


def test_splits_that_may_be_misspelt_are_named(tmp_path):
  for part in ("images", "masks"):
    (tmp_path / part).mkdir()
    for name in "abcd":
      (tmp_path / part / f"{name}.png").touch()
  path = tmp_path / "s.csv"
  layout = Layout(split_file="s.csv")
  path.write_text("a,train\nb,trian\nc,val\nd,test\n")
  with pytest.warns(DataWarning, match="line 2: the split 'trian' is not 'train'") as said:
    _, source = open_folder(tmp_path, "train", FORMAT, layout=layout)
  assert len(said) == 1 and [record["name"] for record in source.records] == ["a.png"]
  path.write_text("a,train\nb,trainval\nc,val\n")
  with warnings.catch_warnings(action="error"):
    open_folder(tmp_path, "train", FORMAT, layout=layout)
