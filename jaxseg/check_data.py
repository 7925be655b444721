"""Checks a whole data set before training: reports every problem, with its remedy."""

import collections
import dataclasses
import functools
import pathlib
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict

from jaxseg import UserError, parallel
from jaxseg.build import build_model, eval_name, open_split
from jaxseg.data.datasets import Subset, groups_of
from jaxseg.data.decode import DatasetInfo, to_picture
from jaxseg.data.examine import Example, Finding, examine
from jaxseg.data.files import few
from jaxseg.data.input_pipeline import Mapped, eval_examples
from jaxseg.data.labels import LabelMap
from jaxseg.data.normalization import measure
from jaxseg.data_findings import class_rows, find, grouped
from jaxseg.data_page import Page, printable, write_page
from jaxseg.notebook import progress
from jaxseg.settings import with_keys
from jaxseg.visualize import data_sheet
from jaxseg.workdirs import make_folder

MAX_FILES = 5  # files listed for each kind of finding
MAX_SIDE = 1024  # px, of pictures on the sheet
MAX_NAME = 30  # letters of a class in the table


def summary(examples: Sequence[Example], orient: bool = True) -> list[tuple[str, str]]:
  """Sizes, formats, orientations and label noise of a split, as (what, text).

  Args:
    orient: whether images are turned as their EXIF orientation says.
  """
  rows = []
  sizes = collections.Counter(example.size for example in examples if example.size)
  if sizes:
    ordered = sorted(sizes.elements(), key=np.prod)
    small, middle, large = (
      "{} x {}".format(*ordered[i]) for i in (0, len(ordered) // 2, len(ordered) - 1)
    )
    text = f"{small} to {large} px, median {middle}, {len(sizes)} different sizes"
    rows.append(("size", text if len(sizes) > 1 else f"all {small} px"))
  for part in ("image", "mask"):
    formats = collections.Counter(x.formats[part] for x in examples if part in x.formats)
    if formats:
      rows.append((part, ", ".join(f"{name} ({num})" for name, num in formats.most_common())))
  if turned := sum(example.orientation != 1 for example in examples):
    who, whose = ("images are", "their") if turned > 1 else ("image is", "its")
    rows.append(
      ("turned", f"{turned:,} {who} {'' if orient else 'not '}turned by {whose} EXIF orientation")
    )
  if num_specks := sum(example.specks[0] for example in examples):
    in_masks = sum(example.specks[0] > 0 for example in examples)
    areas, masks = ("area", "areas")[num_specks > 1], ("mask", "masks")[in_masks > 1]
    rows.append(("specks", f"{num_specks:,} {areas} of at most 3 px in {in_masks:,} {masks}"))
  return rows


def wrapped(text: str, first: str, rest: str) -> list[str]:
  """Lines of text of up to 96 letters; what has no blanks, such as a config line, is not cut.

  Args:
    first, rest: what lines begin with.
  """
  return textwrap.wrap(
    text, 96, initial_indent=first, subsequent_indent=rest, break_long_words=False,
    break_on_hyphens=False,
  )  # fmt: skip


def class_table(splits: Mapping[str, Sequence[Example]], classes: Sequence[str]) -> list[str]:
  """Lines of text: classes down, share of the pixels and number of images of each split across."""
  rows, num_left_out = class_rows(splits, classes)
  names = [printable(row.name) for row in rows]
  names = [name if len(name) <= MAX_NAME else name[: MAX_NAME - 3] + "..." for name in names]
  width = max(5, *map(len, names)) if names else 5
  roles = [role for role, part in splits.items() if len(part)]
  lines = [f"{'class':{width}}" + "".join(f"  {f'{x} share':>11}  images" for x in roles)]
  for name, row in zip(names, rows, strict=True):
    pairs = zip(row.shares, row.images, strict=True)
    cells = "".join(f"  {share:11.2%}  {num:6,}" for share, num in pairs)
    lines.append(f"{name:{width}}{cells}" + (f"  {row.mark}" if row.mark else ""))
  if num_left_out:
    lines.append(f"{num_left_out} of {len(classes)} classes do not occur")
  return lines


def listing(findings: Sequence[Finding]) -> list[str]:
  """Lines of text: findings by kind, errors first, and their numbers."""
  lines = []
  for (severity, kind), texts in grouped(findings).items():
    num_files = sum(bool(x.file) for group in texts.values() for x in group)
    lines.append(f"{severity}: {kind}" + (f" ({num_files})" if num_files else ""))
    shown, left = max(1, MAX_FILES // len(texts)), 0
    for i, (text, group) in enumerate(texts.items()):
      files = [x.file + (f": {x.detail}" if x.detail else "") for x in group if x.file]
      if files and i >= MAX_FILES:
        left += len(files)
      elif len(files) == 1 and len(texts) > 1:
        lines.append(f"    {files[0]}: {text}")
      else:
        count = f" ({len(files)})" if files and len(texts) > 1 else ""
        lines += wrapped(text + count, "  ", "  ")
        lines += [f"    {file}" for file in files[:shown]]
        if len(files) > shown:
          lines.append(f"    and {len(files) - shown:,} more")
    if left:
      lines.append(f"    and {left:,} more")
    lines.append("")
  num_errors = sum(finding.severity == "error" for finding in findings)
  stop = " (training would stop)" if num_errors else ""
  lines.append(f"errors: {num_errors:,}{stop}, warnings: {len(findings) - num_errors:,}")
  return [printable(line) for line in lines]


@dataclasses.dataclass(frozen=True)
class Split:
  """A split that was read.

  Attributes:
    title: role and name.
    info, source: see `datasets.load`; `info` with the black and white that networks see.
    examples: list of Example.
  """

  title: str
  info: DatasetInfo
  source: Sequence
  examples: list[Example]

  @property
  def good(self) -> list[int]:
    """The examples without errors."""
    return [
      example.index
      for example in self.examples
      if not example.fault and all(f.severity == "warning" for f in example.findings)
    ]

  @property
  def labels(self) -> LabelMap:
    """What values of masks mean."""
    whole = self.source.source if isinstance(self.source, Subset) else self.source
    own = LabelMap({label: label for label in range(len(self.info.classes))})
    return getattr(whole, "labels", own)

  @property
  def orient(self) -> bool:
    """Whether images are turned as their EXIF orientation says."""
    whole = self.source.source if isinstance(self.source, Subset) else self.source
    return hasattr(whole, "fmt") and whole.fmt.orient


def check_data(config: ConfigDict, workdir: str | pathlib.Path) -> list[Finding]:
  """Reads both splits of a config, prints a report and draws plots/data.png and plots/data.html.

  Args:
    config: with the keys of configs/default.py.  workdir: folder for the plots.
  """
  if not parallel.is_main():
    return []
  data, findings, splits, groups = config.data, [], {}, []
  held_out = eval_name(config)
  trained_on = f"{data.train_split} without {held_out}" if data.num_folds else data.train_split
  names, window = {"train": trained_on, "eval": held_out}, 0
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
    examples = read_all(role, source, len(info.classes), data.num_threads)
    splits[role] = split = Split(f"{role}: {name}", info, source, examples)
    print(printable(f"{split.title}, {len(examples):,} images"))
    for what, text in summary(examples, split.orient):
      print("\n".join(wrapped(text, f"  {what:6}  ", " " * 10)))
    print()
  by_role = {role: split.examples for role, split in splits.items()}
  if splits:
    print("\n".join([*class_table(by_role, info.classes), ""]))
  if len(groups) == 2 and (shared := sorted(set.intersection(*groups))):
    text = f"{few(shared)}: relatives of training images inflate the score: split by groups"
    findings.append(Finding("warning", "groups in both splits", "", text))
  if splits:
    findings += find(by_role, info.classes, split.labels, window)
  findings = [dataclasses.replace(f, text=with_keys(f.text)) for f in findings]
  findings = list(dict.fromkeys(findings))  # two folds of one split repeat its findings
  print("".join(f"{line}\n" for line in listing(findings)), end="")
  if splits:
    splits = with_black_and_white(splits, data.normalization)
    draw(pathlib.Path(workdir) / "plots", splits, findings, config)
  return findings


def read_all(role: str, source: Sequence, num_classes: int, num_threads: int) -> list[Example]:
  """Examines every example of a source, with a progress bar."""
  elements = Mapped(range(len(source)), functools.partial(examine, source, num_classes))
  found = eval_examples(elements, num_threads=num_threads)
  return list(progress(found, total=len(source), unit="image", desc=role))


def with_black_and_white(splits: Mapping[str, Split], mode: str) -> dict[str, Split]:
  """Splits whose `info` has the value_range that config.data.normalization measures.

  It is measured on the first split's examples without errors.
  """
  first = next(iter(splits.values()))
  if mode == "range" or not first.good:
    return dict(splits)
  value_range = measure(Subset(first.source, first.good), mode)
  return {
    role: dataclasses.replace(
      split, info=dataclasses.replace(split.info, value_range=value_range)
    )
    for role, split in splits.items()
  }


def choose_samples(split: Split, number: int) -> list[tuple[str, np.ndarray, np.ndarray]]:
  """Up to `number` examples without errors, evenly spread: [(name, picture, mask)], subsampled."""
  good, samples = split.good, []
  number = min(number, len(good))
  for i in range(number):
    example = split.source[good[i * len(good) // number]]
    step = -(-max(example["mask"].shape) // MAX_SIDE)
    image, mask = (example[part][::step, ::step] for part in ("image", "mask"))
    samples.append((f"{split.title.split(':')[0]}: {example['name']}", image, mask))
  return [(name, to_picture(image, split.info), mask) for name, image, mask in samples]


def draw(
  folder: pathlib.Path,
  splits: Mapping[str, Split],
  findings: Sequence[Finding],
  config: ConfigDict,
) -> None:
  """Writes data.png and data.html, and prints their paths."""
  make_folder(folder, "--workdir")
  info = next(iter(splits.values())).info
  number = config.eval.num_samples
  samples = [sample for split in splits.values() for sample in choose_samples(split, number)]
  if samples:
    sheet = folder / "data.png"
    data_sheet(sheet, samples, info.classes, info.palette, "samples and their masks")
    print(f"samples: {sheet}")
  rows, num_left_out = class_rows({r: s.examples for r, s in splits.items()}, info.classes)
  page = Page(
    title=f"Check of {config.data.data_dir or config.data.name}",
    info=info,
    summaries={s.title: summary(s.examples, s.orient) for s in splits.values()},
    roles=tuple(splits),
    rows=rows,
    num_left_out=num_left_out,
    findings=findings,
    examples={x.file: (s.source, s.info, x) for s in splits.values() for x in s.examples},
    samples=samples,
  )
  write_page(folder / "data.html", page)
  print(f"report: {folder / 'data.html'}")
