"""The report of a check of a data set as a page of HTML, without a script; see `html_page`."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from jaxseg import html_page
from jaxseg.data.decode import DatasetInfo
from jaxseg.data.examine import Example, Finding, read_parts
from jaxseg.data_findings import ClassRow, grouped
from jaxseg.html_page import Budget, as_rgb, class_name, escape, figure, scaled
from jaxseg.thumbnails import pictures
from jaxseg.visualize import VOID_COLOUR, overlay, striped

MAX_FIGURES = 60  # files with pictures
MAX_OF_KIND = 12
MAX_LISTED = 200  # files of a kind by name
MAX_SAMPLES = 6


@dataclasses.dataclass(frozen=True)
class Page:
  """What the page shows.

  Attributes:
    title: of the page.  info: of the data set, for classes and their colours.
    summaries: {title of a split: [(what, text)]}.
    roles: names of the splits in the class table.
    rows, num_left_out: see `data_findings.class_rows`.
    findings: list of Finding.
    examples: {file: (source, info, Example)}, to draw files that findings name.
    samples: [(name, picture u8[H,W,1 or 3], mask u8[H,W])] without errors.
    windows: [(name, pictures u8[N,H,W,1 or 3], masks u8[N,H,W])] as training sees them.
  """

  title: str
  info: DatasetInfo
  summaries: Mapping[str, Sequence[tuple[str, str]]]
  roles: Sequence[str]
  rows: Sequence[ClassRow]
  num_left_out: int
  findings: Sequence[Finding]
  examples: Mapping[str, tuple[Sequence, DatasetInfo, Example]]
  samples: Sequence[tuple[str, np.ndarray, np.ndarray]]
  windows: Sequence[tuple[str, np.ndarray, np.ndarray]] = ()


def write_page(path: pathlib.Path, page: Page) -> None:
  """Writes the page; it has up to MAX_FIGURES files in pictures of up to MAX_BYTES in all."""
  html_page.write_page(path, page.title, [
    *_head(page), *_files(page), *_classes(page), *_kinds(page, Budget()), *_samples(page),
    *_windows(page),
  ])  # fmt: skip


def _head(page):
  num_errors = sum(finding.severity == "error" for finding in page.findings)
  num_warnings = len(page.findings) - num_errors
  stop = " Training would stop." if num_errors else ""
  yield f"<h1>{escape(page.title)}</h1>"
  yield f"<p><strong>Errors: {num_errors:,}, warnings: {num_warnings:,}.</strong>{stop}</p>"
  yield '<nav aria-label="Contents"><ul>'
  yield '<li><a href="#files">Files</a></li><li><a href="#classes">Classes</a></li>'
  for i, ((severity, kind), texts) in enumerate(grouped(page.findings).items()):
    number = sum(map(len, texts.values()))
    yield (
      f'<li class="{severity}"><span class="tag">{severity.capitalize()}</span> '
      f'<a href="#kind{i}">{escape(kind)}</a> ({number:,})</li>'
    )
  if page.samples:
    yield '<li><a href="#samples">Samples</a></li>'
  if page.windows:
    yield '<li><a href="#windows">Training windows</a></li>'
  yield "</ul></nav>"


def _files(page):
  yield '<h2 id="files">Files</h2>'
  for title, summary in page.summaries.items():
    yield f'<h3>{escape(title)}</h3><div class="scroll"><table>'
    for what, text in summary:
      yield f'<tr><th scope="row">{escape(what)}</th><td>{escape(text)}</td></tr>'
    yield "</table></div>"


def _classes(page):
  palette = {"void": VOID_COLOUR, **dict(zip(page.info.classes, page.info.palette, strict=True))}
  yield '<h2 id="classes">Classes</h2>'
  yield '<div class="scroll" tabindex="0" role="region" aria-label="Class table"><table id="table">'
  heads = "".join(f'<th scope="col">{x}: share</th><th scope="col">images</th>' for x in page.roles)
  yield f'<tr><th scope="col">class</th>{heads}</tr>'
  top = max((share for row in page.rows for share in row.shares), default=1) or 1
  for row in page.rows:
    cells = "".join(
      f'<td class="share">{share:.2%}<span class="bar" style="width:{100 * share / top:.1f}%">'
      f'</span></td><td class="num">{images:,}</td>'
      for share, images in zip(row.shares, row.images, strict=True)
    )
    mark = f'<br><span class="tag">{escape(row.mark)}</span>' if row.mark else ""
    name = class_name(row.name, palette.get(row.name, VOID_COLOUR))
    yield f'<tr><th scope="row" class="warning">{name}{mark}</th>{cells}</tr>'
  yield "</table></div>"
  if page.num_left_out:
    yield f"<p>{page.num_left_out} of {len(page.info.classes)} classes do not occur.</p>"


def _kinds(page, budget):
  kinds = grouped(page.findings)
  yield '<h2 id="findings">Findings</h2>'
  if not kinds:
    yield "<p>None.</p>"
  else:
    yield (
      '<p class="dim">Masks lie over their images in the colours of the classes; '
      "pixels without a class are magenta.</p>"
    )
  limit = min(MAX_OF_KIND, max(3, MAX_FIGURES // max(len(kinds), 1)))
  left = MAX_FIGURES
  for i, ((severity, kind), texts) in enumerate(kinds.items()):
    group = [finding for part in texts.values() for finding in part]
    yield f'<section class="kind {severity}" id="kind{i}"><h3>'
    yield f'<span class="tag">{severity.capitalize()}:</span> {escape(kind)} ({len(group):,})</h3>'
    yield from _texts(texts)
    figures = []
    for finding in group:
      if len(figures) >= min(limit, left) or not budget.left:
        break
      figures += [x] if (x := _figure(page, finding, budget)) else []
    left -= len(figures)
    if figures:
      yield '<div class="figures">'
      yield from figures
      yield "</div>"
    num_files = sum(finding.file != "" for finding in group)
    if figures and len(figures) < num_files:
      yield f'<p class="dim">Pictures: {len(figures)} of {num_files:,} files.</p>'
    yield "</section>"


def _texts(texts):
  left = MAX_LISTED
  for text, group in texts.items():
    files = [x.listed for x in group if x.file]
    if not left and files:
      continue
    yield f"<p>{escape(text[:1].upper() + text[1:])}</p>"
    shown = files[:left]
    left -= len(shown)
    items = [f"<li>{escape(file)}</li>" for file in shown]
    if len(files) > len(shown):
      items.append(f"<li>and {len(files) - len(shown):,} more</li>")
    if len(files) > 3:
      yield f"<details><summary>{len(files):,} files</summary><ul>"
      yield from [*items, "</ul></details>"]
    elif files:
      yield from ["<ul>", *items, "</ul>"]


def _figure(page, finding, budget):
  """<figure> of the files of a finding; "" if they are no examples, or do not fit any more."""
  files = finding.pair or (finding.file.removeprefix("mask of "),)
  if not all(file in page.examples for file in files):
    return ""
  shown = []
  for file in files:
    source, info, example = page.examples[file]
    parts = read_parts(source, len(info.classes), example.index)
    boxes = example.specks[1] if finding.kind == "specks in masks" else []
    for alt, picture in pictures(parts, info, boxes, only_image=bool(finding.pair)):
      if not (image := budget.encode(picture, f"{alt} of {file}")):
        return ""
      shown.append(image)
    for kind, _, text in parts.errors:
      part = kind.split("s ")[0].capitalize()  # of "images that cannot be read"
      text = escape(f"{part} cannot be read: {text}")
      shown.append(f'<div class="missing">{text}</div>')
  caption = " ~ ".join(pathlib.PurePath(file).name for file in files)
  caption += f": {finding.detail}" if finding.detail else ""
  return figure(shown, caption)


def _samples(page):
  if not page.samples:
    return
  yield '<h2 id="samples">Samples without errors</h2>'
  step = -(-len(page.samples) // MAX_SAMPLES)
  budget = Budget()  # of their own: few, and always shown
  yield '<div class="figures">'
  for name, picture, mask in page.samples[::step]:
    image = as_rgb(picture)
    drawn = overlay(image, mask, page.info.palette)
    shown = [
      budget.encode(scaled(x), f"{alt} of {name}")
      for alt, x in (("Image", image), ("Mask over the image", drawn))
    ]
    yield figure(shown, name)
  yield "</div>"


def _windows(page):
  if not page.windows:
    return
  yield '<h2 id="windows">Training windows</h2>'
  yield (
    "<p>Draws as the training step gets them, with their labels; void is striped. "
    '<a href="augmented.png">augmented.png</a> shows them without labels, too.</p>'
  )
  budget = Budget()
  yield '<div class="figures draws">'
  for name, views, masks in page.windows:
    shown = []
    for view, mask in zip(views, masks, strict=True):
      drawn = striped(overlay(as_rgb(view), mask, page.info.palette), mask)
      shown.append(budget.encode(scaled(drawn), f"Draw of {name}"))
    yield figure(shown, name)
  yield "</div>"
