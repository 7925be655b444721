"""Checks a whole data set before training: reports every problem, with its remedy."""

import collections
import dataclasses
import functools
import pathlib
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict

from jaxseg import VOID, UserError, parallel
from jaxseg.build import build_model, eval_name, open_split
from jaxseg.data.datasets import Subset, groups_of
from jaxseg.data.examine import Example, Finding, examine
from jaxseg.data.files import few
from jaxseg.data.input_pipeline import Mapped, eval_examples
from jaxseg.data.label_faults import is_noisy, mask_fault
from jaxseg.data.labels import BACKGROUND, LabelMap, Value
from jaxseg.notebook import progress
from jaxseg.settings import with_keys
from jaxseg.visualize import data_sheet
from jaxseg.workdirs import make_folder

MAX_FILES = 5  # files listed for each kind of finding
DARK = 1 / 8  # of white; if no image exceeds this, 13 bits or fewer have been read as 16
MAX_SIDE = 1024  # px, of pictures on the sheet


def find(
  splits: Mapping[str, Sequence[Example]],
  classes: Sequence[str],
  labels: LabelMap,
  window: int,
) -> list[Finding]:
  """All findings about the examples of a data set.

  Args:
    splits: {"train", "eval": list of Example}.  classes: names.
    labels: what the values of masks mean.
    window: smallest height and width of images to train on, px.
  Returns:
    list of Finding
  """
  examples = [example for part in splits.values() for example in part]
  findings = [finding for example in examples for finding in example.findings]
  findings += find_wrong_values(examples, labels)
  for role, part in splits.items():
    findings += find_missing_classes(role, part, classes)
  findings += find_same_images(splits)
  for example in splits.get("train", ()):
    if not example.fault and example.values and not example.counts[:-1].any():
      text = "every pixel is void, so training ignores it: correct or remove it"
      findings.append(Finding("warning", "masks without a label", f"mask of {example.file}", text))
    if example.size and min(example.size) < window:
      text = f"training takes windows of {window} px; beyond these images they are void"
      findings.append(Finding("warning", "small images", example.file, text))
  brightest = max((example.brightest for example in examples if example.size), default=DARK)
  if brightest < DARK:
    text = (
      f"no pixel of any image is brighter than {brightest:.1%} of white: set `value_range` to the "
      "stored values of black and white, or `normalization` to percentiles"
    )
    findings.append(Finding("warning", "dark images", "", text))
  return findings


def find_wrong_values(examples: Sequence[Example], labels: LabelMap) -> list[Finding]:
  """Masks with values that are no class; the remedy follows from the values of all masks."""
  values = collections.Counter()
  for example in examples:
    if not is_noisy(example.values, labels):
      values.update(example.values)
  findings = []
  for example in examples:
    if not example.fault:
      continue
    kind, text = "masks of 0 and 255", example.fault
    if labels.unknown(example.values):
      kind = "masks with values that are not classes"
      if not is_noisy(example.values, labels):
        text = mask_fault(values, labels, example.formats.get("mask", "").split(" ")[0])
    findings.append(Finding("error", kind, f"mask of {example.file}", text))
  return findings


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


def by_kind(value: Value) -> tuple[int, Value]:
  """Sorts numbers before colours before names."""
  kind = 0 if isinstance(value, int | float) else 1 if isinstance(value, tuple) else 2
  return kind, value


def find_same_images(splits: Mapping[str, Sequence[Example]]) -> list[Finding]:
  """Images with the same pixels, within a split and across splits."""
  findings, before = [], {}
  for role, examples in splits.items():
    seen = {}
    for example in examples:
      if not example.digest:
        continue
      if example.digest in seen:
        file = f"{example.file} = {seen[example.digest]}"
        text = "the same pixels count twice: keep one of them"
        findings.append(Finding("warning", f"duplicates in the {role} split", file, text))
      elif example.digest in before:
        file = f"{example.file} = {before[example.digest]}"
        text = "they can be memorised, which inflates the score: remove them from one split"
        findings.append(Finding("warning", "images in both splits", file, text))
      seen.setdefault(example.digest, example.file)
    before |= seen
  return findings


def summary(title: str, examples: Sequence[Example], classes: Sequence[str]) -> list[str]:
  """Lines of text: sizes, formats and class frequencies of a split."""
  lines = [f"{title}, {len(examples):,} images"]
  sizes = collections.Counter(example.size for example in examples if example.size)
  if sizes:
    ordered = sorted(sizes.elements(), key=np.prod)
    small, middle, large = (
      "{} x {}".format(*ordered[i]) for i in (0, len(ordered) // 2, len(ordered) - 1)
    )
    text = f"{small} to {large} px, median {middle}, {len(sizes)} different sizes"
    lines.append(f"  size    {text if len(sizes) > 1 else f'all {small} px'}")
  for part in ("image", "mask"):
    formats = collections.Counter(x.formats[part] for x in examples if part in x.formats)
    if formats:
      text = ", ".join(f"{name} ({count})" for name, count in formats.most_common())
      lines.append(f"  {part:6}  {text}")
  if examples:
    counts = np.array([example.counts for example in examples])
    pixels, images = counts.sum(0), (counts > 0).sum(0)
    rows = zip((*classes, "void"), pixels, pixels / max(pixels.sum(), 1), images, strict=True)
    width = max(6, *(len(name) for name in classes))
    lines.append(f"  {'class':{width}}  {'pixels':>15}   share   images")
    lines += [
      f"  {name:{width}}  {num:15,}  {share:6.2%}  {count:7,}"
      for name, num, share, count in rows
      if num or name != "void"
    ]
  return lines


def listing(findings: Sequence[Finding]) -> list[str]:
  """Lines of text: findings by kind, errors first, and their numbers."""
  kinds = collections.defaultdict(list)
  for finding in sorted(findings, key=lambda finding: finding.severity):
    kinds[finding.severity, finding.kind].append(finding)
  lines = []
  for (severity, kind), group in kinds.items():
    files = [finding.file for finding in group if finding.file]
    lines.append(f"{severity}: {kind}" + (f" ({len(files)})" if files else ""))
    texts = list(dict.fromkeys(finding.text for finding in group))
    if len(texts) == 1 or not files:
      for text in texts:
        lines += textwrap.wrap(text, 96, initial_indent="  ", subsequent_indent="  ")
    else:
      files = [f"{finding.file}: {finding.text}" for finding in group]
    lines += [f"    {file}" for file in files[:MAX_FILES]]
    if len(files) > MAX_FILES:
      lines.append(f"    and {len(files) - MAX_FILES:,} more")
    lines.append("")
  num_errors = sum(finding.severity == "error" for finding in findings)
  stop = " (training would stop)" if num_errors else ""
  return [*lines, f"errors: {num_errors:,}{stop}, warnings: {len(findings) - num_errors:,}"]


def check_data(config: ConfigDict, workdir: str | pathlib.Path) -> list[Finding]:
  """Reads both splits of a config, prints a report and writes samples to plots/data.png.

  Args:
    config: with the keys of configs/default.py.  workdir: folder for the sheet.
  """
  if not parallel.is_main():
    return []
  data, findings, splits, samples, groups = config.data, [], {}, [], []
  held_out = eval_name(config)
  trained_on = f"{data.train_split} without {held_out}" if data.num_folds else data.train_split
  names = {"train": trained_on, "eval": held_out}
  if trained_on == held_out:
    del names["eval"]
    text = f"config.data.eval_split is the training split, {held_out!r}, which inflates the score"
    text += ": name another one, or set config.data.num_folds"
    findings.append(Finding("warning", "same split for training and evaluation", "", text))
  for role, name in names.items():
    problems, source = [], ()
    try:
      info, source = open_split(config, role, problems)
    except UserError as error:
      findings.append(Finding("error", "splits that cannot be opened", "", str(error)))
    for kind, file, text in problems:
      text = text.removeprefix(str(file)).removeprefix(":").strip()
      findings.append(Finding("error", kind, str(file), text))
    if not source:
      continue
    groups += [set(groups_of(source))] if data.group_by else []
    window = data.image_size - 2 * build_model(config, info).margin if data.fit == "crop" else 0
    splits[role] = examples = read_all(role, source, len(info.classes), data.num_threads)
    print("\n".join([*summary(f"{role}: {name}", examples, info.classes), ""]))
    chosen = choose_samples(examples, source, config.eval.num_samples)
    samples += [(f"{role}: {name}", *arrays) for name, *arrays in chosen]
    whole = source.source if isinstance(source, Subset) else source
    own = LabelMap({label: label for label in range(len(info.classes))})
    labels = getattr(whole, "labels", own)
  if len(groups) == 2 and (shared := sorted(set.intersection(*groups))):
    text = f"{few(shared)}: relatives of training images inflate the score: split by groups"
    findings.append(Finding("warning", "groups in both splits", "", text))
  if splits:
    findings += find(splits, info.classes, labels, window)
  findings = [dataclasses.replace(f, text=with_keys(f.text)) for f in findings]
  findings = list(dict.fromkeys(findings))  # two folds of one split repeat its findings
  print("".join(f"{line}\n" for line in listing(findings)), end="")
  if samples:
    sheet = pathlib.Path(workdir) / "plots" / "data.png"
    make_folder(sheet.parent, "--workdir")
    data_sheet(sheet, samples, info.classes, info.palette, "samples and their masks")
    print(f"samples: {sheet}")
  return findings


def read_all(role: str, source: Sequence, num_classes: int, num_threads: int) -> list[Example]:
  """Examines every example of a source, with a progress bar."""
  elements = Mapped(range(len(source)), functools.partial(examine, source, num_classes))
  found = eval_examples(elements, num_threads=num_threads)
  return list(progress(found, total=len(source), unit="image", desc=role))


def choose_samples(
  examples: Sequence[Example], source: Sequence, number: int
) -> list[tuple[str, np.ndarray, np.ndarray]]:
  """Up to `number` examples without errors, evenly spread: [(name, image, mask)], subsampled."""
  good = [
    example.index
    for example in examples
    if not example.fault and all(f.severity == "warning" for f in example.findings)
  ]
  number, samples = min(number, len(good)), []
  for i in range(number):
    example = source[good[i * len(good) // number]]
    step = -(-max(example["mask"].shape) // MAX_SIDE)
    image, mask = (example[part][::step, ::step] for part in ("image", "mask"))
    samples.append((example["name"], image, mask))
  return samples
