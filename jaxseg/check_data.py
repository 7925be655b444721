"""Checks a whole data set before training: reports every problem, with its remedy."""

import collections
import contextlib
import dataclasses
import functools
import pathlib
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict

from jaxseg import UserError, parallel, settings
from jaxseg.build import build_model, eval_name, open_split
from jaxseg.checks import all_faults, check_memory
from jaxseg.data.datasets import groups_of
from jaxseg.data.examine import Example, Finding, examine
from jaxseg.data.files import few
from jaxseg.data.input_pipeline import Mapped, eval_examples
from jaxseg.data.source_checks import check_source
from jaxseg.data.splits import parse_split
from jaxseg.data_findings import class_rows, find, find_missing_crop_classes, grouped
from jaxseg.data_page import Page, write_page
from jaxseg.data_samples import Split, choose_samples, training_windows, with_black_and_white
from jaxseg.notebook import progress
from jaxseg.platforms import usual_rules
from jaxseg.printing import printable, say
from jaxseg.seeds import has_begun
from jaxseg.settings import with_keys
from jaxseg.visualize import data_sheet, window_sheet
from jaxseg.workdirs import make_folder, with_home

MAX_FILES = 5  # files listed for each kind of finding
MAX_NAME = 30  # letters of a class in the table
REFUSED = "settings that training refuses"


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
      files = [x.listed for x in group if x.file]
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


@with_home("workdir")
@usual_rules()
def check_data(config: ConfigDict, workdir: str | pathlib.Path) -> list[Finding]:
  """Reads both splits of a config, prints a report and draws data.png, augmented.png and data.html.

  Args:
    config: with the keys of configs/default.py.  workdir: folder; the pictures go to plots/ there.
  """
  if not parallel.is_main():
    return []
  with settings.config_errors():
    return _check_data(settings.expand_home(config), pathlib.Path(workdir))


def _check_data(config, workdir):
  data, findings, splits, groups = config.data, [], {}, []

  def attempt(kind, function, *arguments, severity="error"):
    """function(...), or () after an error, which becomes a finding."""
    try:
      with settings.config_errors():
        return function(*arguments)
    except UserError as error:
      findings.append(Finding(severity, kind, "", str(error)))
      return ()

  held_out, info = eval_name(config), None
  trained_on = f"{data.train_split} without {held_out}" if data.num_folds else data.train_split
  names = {"train": trained_on, "eval": held_out}
  if trained_on == held_out:
    del names["eval"]
    text = f"config.data.eval_split is the training split, {held_out!r}, which inflates the score"
    text += ": name another one, or set config.data.num_folds"
    findings.append(Finding("warning", "same split for training and evaluation", "", text))
  bases, whole = set(), set()  # splits that are read, and those read without regard to parts
  for role, name in names.items():
    problems, num_before = [], len(findings)
    key, base = _split_of(data, role)
    opened = attempt("splits that cannot be opened", open_split, config, role, problems)
    if problems:  # then these are why it cannot be opened
      del findings[num_before:]
    if problems and not opened and base not in bases:  # too few are left for its part or fold
      name, changes = base, {"data.num_folds": 0, f"data.{key}": base}
      arguments = settings.override(config, changes), key.removesuffix("_split"), []
      opened = attempt("", open_split, *arguments)
      del findings[num_before:]
      whole.add(base)
    elif base in whole:
      opened = ()
    bases.add(base)
    for kind, file, text in problems:
      text = text.removeprefix(str(file)).removeprefix(":").strip()
      findings.append(Finding("error", kind, str(file), text))
    if not opened:
      continue
    info, source = opened
    if not len(source):
      if not problems:
        attempt("splits without examples", check_source, source, info)
      continue
    groups += [set(groups_of(source))] if data.group_by else []
    examples = read_all(role, source, len(info.classes), data.num_threads)
    splits[role] = split = Split(f"{role}: {name}", info, source, examples)
    if 0 in split.good:  # else that is an error by itself
      attempt("examples that do not fit their data set", check_source, source, info)
    left_out = ", without what has problems" if problems else ""
    say(f"{split.title}, {len(examples):,} images{left_out}")
    for what, text in summary(examples, split.orient):
      for line in wrapped(text, f"  {what:6}  ", " " * 10):
        say(line)
    print()
  faults = all_faults(config, info, is_new=not has_begun(config, workdir))
  findings += [Finding("error", REFUSED, "", text) for text in faults]
  fits = not info or None is attempt(
    "too little memory on this machine", check_memory, config, info, severity="warning"
  )
  # A network that cannot be built is one of the faults.
  findings = [f for f in findings if f.severity == "error" or f.text not in faults]
  by_role = {role: split.examples for role, split in splits.items()}
  if splits:
    for line in [*class_table(by_role, info.classes), ""]:
      say(line)
  if len(groups) == 2 and (shared := sorted(set.intersection(*groups))):
    text = f"{few(shared)}: relatives of training images inflate the score: split by groups"
    findings.append(Finding("warning", "groups in both splits", "", text))
  windows = ()
  if splits:
    window = 0
    with contextlib.suppress(UserError):  # which is one of the faults
      margin = build_model(config, info).margin
      window = data.image_size - 2 * margin if data.fit == "crop" else 0
    has_range = bool(data.value_range) and data.normalization == "range"
    findings += find(by_role, info.classes, split.labels, window, has_range)
    findings += find_missing_crop_classes(by_role.get("train", ()), info.classes, data.crop_classes)
    splits = with_black_and_white(splits, data.normalization)
    if "train" in splits and splits["train"].good and not faults and fits:
      windows = attempt(REFUSED, training_windows, config, splits["train"])
  findings = [dataclasses.replace(f, text=with_keys(f.text)) for f in findings]
  findings = list(dict.fromkeys(findings))  # two folds of one split repeat its findings
  for line in listing(findings):
    say(line)
  if splits:
    draw(workdir / "plots", splits, findings, windows, config)
  return findings


def _split_of(data, role):
  """(key, name) of the split of which a role reads all, a part or a fold."""
  key = "train_split" if data.num_folds or role == "train" else "eval_split"
  with contextlib.suppress(UserError):  # else it cannot be opened
    return key, parse_split(data[key])[0]
  return key, data[key]


def read_all(role: str, source: Sequence, num_classes: int, num_threads: int) -> list[Example]:
  """Examines every example of a source, with a progress bar."""
  elements = Mapped(range(len(source)), functools.partial(examine, source, num_classes))
  found = eval_examples(elements, num_threads=num_threads)
  return list(progress(found, total=len(source), unit="image", desc=role))


def draw(
  folder: pathlib.Path,
  splits: Mapping[str, Split],
  findings: Sequence[Finding],
  windows: Sequence[tuple[str, np.ndarray, np.ndarray]],
  config: ConfigDict,
) -> None:
  """Writes data.png, augmented.png and data.html, and prints their paths.

  Args:
    windows: see `training_windows`.
  """
  make_folder(folder, "--workdir")
  info = next(iter(splits.values())).info
  samples = choose_samples(splits, config.eval.num_samples)
  if samples:
    sheet = folder / "data.png"
    data_sheet(sheet, samples, info.classes, info.palette, "samples and their masks")
    say(f"samples: {sheet}")
  if windows:
    sheet = folder / "augmented.png"
    title = "training windows: sampled, augmented, and with their labels"
    window_sheet(sheet, windows, info.classes, info.palette, title)
    say(f"windows: {sheet}")
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
    windows=windows,
  )
  write_page(folder / "data.html", page)
  say(f"report: {folder / 'data.html'}")
