"""The problems of a data set that show when its examples are compared, and its class table."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from jaxseg import VOID
from jaxseg.data.examine import Example, Finding
from jaxseg.data.files import few
from jaxseg.data.label_faults import is_noisy, mask_fault
from jaxseg.data.labels import BACKGROUND, LabelMap, Value
from jaxseg.data.levels import DARK, range_fault
from jaxseg.duplicates import find_same_images, find_similar_images

UNEQUAL = 3  # a class whose shares of two splits differ by more than this factor is marked
MANY = 30  # classes; of more, the table lists those that occur


def find(
  splits: Mapping[str, Sequence[Example]],
  classes: Sequence[str],
  labels: LabelMap,
  window: int,
  has_range: bool = False,
) -> list[Finding]:
  """All findings about the examples of a data set.

  Args:
    splits: {"train", "eval": list of Example}.  classes: names.
    labels: what the values of masks mean.
    window: smallest height and width of images to train on, px.
    has_range: whether the user chose a value_range.
  Returns:
    list of Finding
  """
  examples = [example for part in splits.values() for example in part]
  findings = [finding for example in examples for finding in example.findings]
  findings += find_wrong_values(examples, labels)
  for role, part in splits.items():
    findings += find_missing_classes(role, part, classes)
    findings += find_mixtures(role, part)
  findings += find_other_depth(splits)
  findings += [*find_same_images(splits), *find_similar_images(splits)]
  for example in splits.get("train", ()):
    if not example.fault and example.values and not example.counts[:-1].any():
      text = "every pixel is void, so training ignores it: correct or remove it"
      findings.append(Finding("warning", "masks without a label", f"mask of {example.file}", text))
    if example.size and min(example.size) < window:
      text = (
        f"training takes windows of {window} px, which reach beyond this image, where there is no "
        "label: lower `image_size`"
      )
      findings.append(Finding("warning", "small images", example.file, text))
  brightest = max((example.brightest for example in examples if example.size), default=DARK)
  found = [example.levels for example in examples if example.levels is not None]
  if has_range and (text := range_fault(found)):
    findings.append(Finding("warning", "a value_range that does not suit the images", "", text))
  elif brightest < DARK:
    text = (
      f"no pixel of any image is brighter than {brightest:.1%} of white: set `value_range` to the "
      "stored values of black and white, or `normalization` to percentiles"
    )
    findings.append(Finding("warning", "dark images", "", text))
  return findings


def find_wrong_values(examples: Sequence[Example], labels: LabelMap) -> list[Finding]:
  """Masks with values that are no class; the remedy follows from all masks of the same kind.

  Kinds are numbers, colours and names, by the format of the files.
  """
  values = collections.defaultdict(collections.Counter)
  wrong = {id(example): labels.unknown(example.values) for example in examples}

  def group(example):
    kind, _ = by_kind((wrong[id(example)] or [*example.values])[0])
    return kind, _mask_format(example)

  for example in examples:
    if example.values and not is_noisy(example.values, labels):
      values[group(example)].update(example.values)
  findings = []
  for example in examples:
    if not example.fault:
      continue
    kind, text, detail = "masks of 0 and 255", example.fault, example.json
    if unknown := wrong[id(example)]:
      kind = "masks with values that are not classes"
      if not is_noisy(example.values, labels):
        together = values[group(example)]
        text = mask_fault(together, labels, _mask_format(example))
        if len(labels.unknown(together)) > len(unknown):
          holds = f"holds {few(sorted(unknown, key=by_kind))}"
          detail = f"{detail}, {holds}" if detail else holds
    findings.append(Finding("error", kind, f"mask of {example.file}", text, detail))
  return findings


def _mask_format(example):
  return example.formats.get("mask", "").split(" ")[0]


def find_missing_classes(
  role: str, examples: Sequence[Example], classes: Sequence[str]
) -> list[Finding]:
  """Classes without a pixel in a split, unless its masks have errors that explain it."""
  read = [example for example in examples if example.values]
  if not read or any(example.fault for example in read):
    return []
  counts = sum(example.counts for example in read)
  values = sorted({value for example in read for value in example.values}, key=by_kind)
  missing = [name for name, count in zip(classes, counts[:-1], strict=True) if not count]
  hold = f"the masks hold {few(values)}"
  if BACKGROUND in values:
    hold += " (pixels without a shape are void, unless a class is called background)"
  elif all(isinstance(value, int) for value in values):
    hold += f" ({VOID} is void, unless config.data.mask_values names it)"
  if role == "eval" and len(missing) == len(classes):
    text = f"no pixel of the {len(read)} images has a label, so there is no score; {hold}"
    return [Finding("error", "no labels", "", text)]
  if missing:
    effect = {"train": "training cannot learn them", "eval": "they get no score"}[role]
    text = f"{few(missing)}: no pixel in the {role} split, so {effect}; {hold}"
    return [Finding("warning", "classes that do not occur", "", text)]
  return []


def find_missing_crop_classes(
  examples: Sequence[Example], classes: Sequence[str], chosen: Sequence[str]
) -> list[Finding]:
  """Classes that windows are to be drawn by, but that no training example has.

  Args:
    examples: of the training split.  chosen: names, config.data.crop_classes.
  """
  counts = sum(example.counts for example in examples)
  missing = [
    name for name in dict.fromkeys(chosen)
    if examples and name in classes and not counts[classes.index(name)]
  ]  # fmt: skip
  if not missing:
    return []
  text = (
    f"{few(missing)}: no pixel in the train split, so no window is drawn by them: correct "
    "`crop_classes` or the split"
  )
  return [Finding("warning", "crop classes that do not occur", "", text)]


def by_kind(value: Value) -> tuple[int, Value]:
  """Sorts numbers before colours before names."""
  kind = 0 if isinstance(value, int | float) else 1 if isinstance(value, tuple) else 2
  return kind, value


KIND_OF_DEPTH = "images of different depths"
TEXT_OF_DEPTH = (
  "each is stretched to the full range of its own depth, unless `value_range` is set: look whether "
  "they match, or save them with one depth"
)


def find_other_depth(splits: Mapping[str, Sequence[Example]]) -> list[Finding]:
  """Whether most images of one split have another depth than most of the other."""
  counts = [collections.Counter(x.depth for x in part if x.depth) for part in splits.values()]
  usual = [count.most_common(1)[0][0] for count in counts if count]
  if len({*usual}) < 2:
    return []
  shown = ", ".join(f"{role} has {depth}" for role, depth in zip(splits, usual, strict=True))
  return [Finding("warning", KIND_OF_DEPTH, "", f"{shown}: {TEXT_OF_DEPTH}")]


def find_mixtures(role: str, examples: Sequence[Example]) -> list[Finding]:
  """The fewer files of a split that differ from most: in depth, or in what masks hold."""
  findings = []
  for part, kind, attribute, text in (
    ("", KIND_OF_DEPTH, lambda x: x.depth, TEXT_OF_DEPTH),
    ("mask of ", "masks of different kinds", _mask_kind,
     "look whether both mean the same classes, or save them as one kind"),
  ):  # fmt: skip
    found = [(example, value) for example in examples if (value := attribute(example))]
    counts = collections.Counter(value for _, value in found).most_common()
    if len(counts) > 1:
      shown = ", ".join(f"{value} ({num:,})" for value, num in counts)
      remedy = f"{role} has {shown}: {text}"
      for example, value in found:
        if value != counts[0][0]:
          findings.append(Finding("warning", kind, part + example.file, remedy, value))
  return findings


def _mask_kind(example):
  """What a mask holds: numbers, colours or names; "" if it has a fault."""
  kinds = {0: "numbers", 1: "colours", 2: "names"}
  found = {kinds[by_kind(value)[0]] for value in example.values}
  return found.pop() if len(found) == 1 and not example.fault else ""


@dataclasses.dataclass(frozen=True)
class ClassRow:
  """A class, or void, in the splits.

  Attributes:
    name: of the class.
    shares: of the pixels of each split.  images: of each split that have it.
    mark: how the shares differ, if by more than UNEQUAL; else "".
  """

  name: str
  shares: tuple[float, ...]
  images: tuple[int, ...]
  mark: str = ""


def class_rows(
  splits: Mapping[str, Sequence[Example]], classes: Sequence[str]
) -> tuple[list[ClassRow], int]:
  """The class table by split.

  Returns:
    (a row for each class, or of many classes each that occurs; and for VOID if it occurs), and the
    number of classes that are left out.
  """
  counts = [np.array([x.counts for x in part]) for part in splits.values() if len(part)]
  if not counts:
    return [], 0
  shares = np.array([part.sum(0) / max(part.sum(), 1) for part in counts])
  images = np.array([(part > 0).sum(0) for part in counts])
  roles = [role for role, part in splits.items() if len(part)]
  rows, num_left_out = [], 0
  for i, name in enumerate((*classes, "void")):
    if not images[:, i].any() and (i == len(classes) or len(classes) > MANY):
      num_left_out += i < len(classes)
      continue
    mark = _unequal(roles, shares[:, i]) if i < len(classes) else ""
    rows.append(ClassRow(name, tuple(shares[:, i].tolist()), tuple(images[:, i].tolist()), mark))
  return rows, num_left_out


def _unequal(roles, shares):
  low, high = shares.argmin(), shares.argmax()
  if not shares[low] and shares[high]:
    return f"only in {roles[high]}"
  if shares[high] > UNEQUAL * shares[low]:
    return f"{shares[high] / shares[low]:.1f} x as much in {roles[high]}"
  return ""


def grouped(
  findings: Sequence[Finding],
) -> dict[tuple[str, str], dict[str, list[Finding]]]:
  """{(severity, kind): {text: findings}}, errors first."""
  kinds = {}
  for finding in sorted(findings, key=lambda finding: finding.severity):
    texts = kinds.setdefault((finding.severity, finding.kind), {})
    texts.setdefault(finding.text, []).append(finding)
  return kinds
