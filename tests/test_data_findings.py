"""Examples compared, by hand: class tables, missing classes, wrong values, copies, mixtures."""

import dataclasses

import numpy as np

from jaxseg.check_data import class_table
from jaxseg.data.examine import Example
from jaxseg.data.labels import label_map
from jaxseg.data_findings import (
  class_rows,
  find_missing_classes,
  find_mixtures,
  find_wrong_values,
)

AB = ("a", "b")


def example(name, *, counts=(1, 1, 0), values=(), fault="", digest=None, bits=None, depth="8 bit"):
  """An Example whose hash has the first `bits` bits set; its digest is its name."""
  words = None
  if bits is not None:
    words = np.array([(1 << max(0, min(64, bits - 64 * i))) - 1 for i in range(4)], np.uint64)
  digest = name.encode() if digest is None else digest
  values = dict.fromkeys(values, 1)
  return Example(0, name, (), (4, 3), {"mask": "PNG grey 8 bit"}, digest, 1.0, values, fault,
                 np.array(counts), 1, depth, words)  # fmt: skip


def test_class_rows():
  """Shares of a: 1/8 in train, 1/2 in eval; b: 3/4 and 1/4, that is exactly the factor 3."""
  train = [example("1", counts=(2, 5, 1)), example("2", counts=(0, 7, 1))]
  rows, num_left_out = class_rows({"train": train, "eval": [example("3", counts=(2, 1, 1))]}, AB)
  assert num_left_out == 0
  found = [(row.name, row.shares, row.images, row.mark) for row in rows]
  assert found == [
    ("a", (0.125, 0.5), (1, 1), "4.0 x as much in eval"),
    ("b", (0.75, 0.25), (2, 1), ""),
    ("void", (0.125, 0.25), (2, 1), ""),
  ]
  (row, *_), _ = class_rows({"train": [example("1", counts=(3, 1, 0))], "eval": train[1:]}, AB)
  assert row.mark == "only in train"
  assert class_rows({"train": [example("1")]}, AB)[0][0].mark == ""
  assert class_rows({"train": []}, AB) == ([], 0)


def test_of_many_classes_those_that_occur_are_listed():
  classes = [f"class {i} with a name that is much too long for a table" for i in range(150)]
  counts = np.zeros((2, 151), int)
  counts[0, [3, 140]] = counts[1, [3, 7]] = 1
  splits = {"train": [example("1", counts=counts[0])], "eval": [example("2", counts=counts[1])]}
  rows, num_left_out = class_rows(splits, classes)
  assert [row.name.split(" with")[0] for row in rows] == ["class 3", "class 7", "class 140"]
  assert num_left_out == 147
  lines = class_table(splits, classes)
  assert len(lines) == 5 and max(map(len, lines)) <= 100
  assert lines[2].split()[-3:] == ["only", "in", "eval"]
  assert lines[-1] == "147 of 150 classes do not occur"
  # With a few classes, each has a line.
  assert len(class_rows({"train": [example("1", counts=(0, 0, 5))]}, AB)[0]) == 3


def test_mixtures_name_the_fewer():
  numbers = [example(f"n{i}", values=(0, 1)) for i in range(3)]
  colors = [example("c", values=((0, 0, 0), (1, 1, 1)))]
  wrong = [example("w", values=((7, 7, 7),), fault="colours that are no class")]
  (finding,) = find_mixtures("train", [*numbers, *colors, *wrong])
  assert finding.file == "mask of c" and "numbers (3), colours (1)" in finding.text
  assert find_mixtures("train", [*numbers, *wrong]) == []
  deep = [example("x", depth="16 bit"), example("y", depth="16 bit"), example("z", depth="")]
  (finding,) = find_mixtures("eval", [*deep, example("e")])
  assert finding.file == "e" and finding.text.startswith("eval has 16 bit (2), 8 bit (1): ")


def test_remedies_for_numbers_and_for_colours_are_apart():
  labels = label_map(AB)
  number = example("n", values=(0, 1, 7), fault="f")
  color = example("c", values=((9, 0, 0), (0, 9, 0)), fault="f")
  texts = {f.file: f.text for f in find_wrong_values([number, color, example("fine")], labels)}
  assert "label 7" in texts["mask of n"] and "void_values" in texts["mask of n"]
  assert "`mask_colors`=((0,9,0),(9,0,0))" in texts["mask of c"]


def test_values_of_jpeg_masks_say_nothing_about_others():
  """And a file is told what it holds itself, behind where it is read from."""
  labels, values = label_map(AB), {"a": (0, 1, 7), "b": (0, 9), "c": (0, 1, 2, 3)}
  examples = [example(name, values=x, fault="f") for name, x in values.items()]
  examples[1] = dataclasses.replace(examples[1], json="b.json")
  examples[2] = dataclasses.replace(examples[2], formats={"mask": "JPEG grey 8 bit"})
  found = {f.file: (f.text, f.detail) for f in find_wrong_values(examples, labels)}
  assert "label 7 (and 9)" in found["mask of a"][0] and found["mask of a"][1] == "holds 7"
  assert found["mask of b"] == (found["mask of a"][0], "b.json, holds 9")
  assert found["mask of c"][0].startswith("label 2 (and 3)") and found["mask of c"][1] == ""
  assert found["mask of c"][0].endswith("JPEG changes labels: save masks as PNG")


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
