"""The report of a check of a data set as a page of HTML that stands alone: no script, no network.

Names of files and classes are the user's, or come from an archive: all text is escaped, and control
characters are shown as such.
"""

import base64
import dataclasses
import html
import io
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from jaxseg.data.decode import DatasetInfo
from jaxseg.data.examine import Example, Finding, read_parts
from jaxseg.data_findings import ClassRow, grouped
from jaxseg.printing import printable
from jaxseg.thumbnails import as_rgb, pictures, scaled
from jaxseg.visualize import VOID_COLOUR, overlay, striped

MAX_FIGURES = 60  # files with pictures
MAX_OF_KIND = 12
MAX_LISTED = 200  # files of a kind by name
MAX_BYTES = 5_000_000 * 3 // 4  # of all pictures, before base64
MAX_SAMPLES = 6

STYLE = """
:root { color-scheme: light dark; --text: #1c1e21; --dim: #5b6068; --back: #fff; --card: #f4f5f7;
  --line: #d5d8dd; --error: #b3261e; --warning: #8a5300; --bar: #3b74c4; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e7e9; --dim: #a3a8b0; --back: #16181b;
  --card: #212429; --line: #3a3f46; --error: #ff8a80; --warning: #f5bd6b; --bar: #6ea3ee; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
main { max-width: 70rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { margin: 2.5rem 0 .5rem; font-size: 1.25rem; }
h3 { margin: 1rem 0 .3rem; font-size: 1.05rem; } p { margin: .4rem 0; max-width: 48rem; }
a { color: var(--bar); } :focus-visible { outline: 3px solid var(--bar); outline-offset: 2px; }
.dim { color: var(--dim); } .error { --kind: var(--error); } .warning { --kind: var(--warning); }
.tag { color: var(--kind); font-weight: 600; }
.kind h3 { margin-top: 0; }
section.kind { background: var(--card); border-left: 4px solid var(--kind); border-radius: 4px;
  padding: .8rem 1rem; margin: 1rem 0; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; }
th, td { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); overflow-wrap: normal; }
th[scope=row] { max-width: 16rem; overflow-wrap: break-word; }
td.num { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.bar { display: block; height: .45rem; min-width: 1px; background: var(--bar); border-radius: 2px; }
td.share { min-width: 7rem; } th .tag { font-size: .85rem; }
.name { white-space: nowrap; }
.swatch { display: inline-block; width: .9em; height: .9em; margin-right: .5em;
  border: 1px solid var(--dim); vertical-align: -.1em; }
.figures { display: grid; gap: 1rem; margin-top: .8rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 27rem), 1fr)); }
figure { margin: 0; } .pictures { display: flex; flex-wrap: wrap; gap: .25rem; }
.pictures img { flex: 1 1 8rem; min-width: 0; max-width: 20rem; height: auto; align-self: start;
  object-fit: contain; }
.draws .pictures { display: grid; grid-template-columns: repeat(5, 1fr); }
.draws img { width: 100%; }
figcaption { font-size: .85rem; color: var(--dim); }
.missing { border: 1px dashed var(--kind, var(--line)); padding: .8rem; font-size: .9rem; }
ul { padding-left: 1.2rem; margin: .4rem 0; } summary { cursor: pointer; }
@media (max-width: 36rem) { main, section.kind { padding: .6rem; }
  #table { font-size: .85rem; } #table th, #table td { padding-right: .5rem; }
  td.share { min-width: 3.4rem; } .draws .pictures { grid-template-columns: repeat(3, 1fr); } }
"""


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


def _escape(text):
  return html.escape(printable(str(text)))


def write_page(path: pathlib.Path, page: Page) -> None:
  """Writes the page; it has up to MAX_FIGURES files in pictures of up to MAX_BYTES in all."""
  title = _escape(page.title)
  body = [
    *_head(page), *_files(page), *_classes(page), *_kinds(page, _Budget()), *_samples(page),
    *_windows(page),
  ]  # fmt: skip
  policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
  lines = [
    "<!doctype html>",
    '<html lang="en"><head><meta charset="utf-8">',
    '<meta name="viewport" content="width=device-width, initial-scale=1">',
    f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
    f"<title>{title}</title><style>{STYLE}</style></head><body><main>",
    *body,
    "</main></body></html>",
  ]
  path.write_text("\n".join(lines) + "\n", encoding="utf-8")


class _Budget:
  """Counts the bytes of pictures."""

  def __init__(self):
    self.left = MAX_BYTES

  def encode(self, picture, alt):
    """<img> of a picture u8[h,w,3]; "" once the budget is spent."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=82)
    if buffer.tell() > self.left:
      self.left = 0
      return ""
    self.left -= buffer.tell()
    data = base64.b64encode(buffer.getvalue()).decode()
    height, width = picture.shape[:2]
    size = f'width="{width}" height="{height}"'
    return f'<img {size} alt="{_escape(alt)}" src="data:image/jpeg;base64,{data}">'


def _head(page):
  num_errors = sum(finding.severity == "error" for finding in page.findings)
  num_warnings = len(page.findings) - num_errors
  stop = " Training would stop." if num_errors else ""
  yield f"<h1>{_escape(page.title)}</h1>"
  yield f"<p><strong>Errors: {num_errors:,}, warnings: {num_warnings:,}.</strong>{stop}</p>"
  yield '<nav aria-label="Contents"><ul>'
  yield '<li><a href="#files">Files</a></li><li><a href="#classes">Classes</a></li>'
  for i, ((severity, kind), texts) in enumerate(grouped(page.findings).items()):
    number = sum(map(len, texts.values()))
    yield (
      f'<li class="{severity}"><span class="tag">{severity.capitalize()}</span> '
      f'<a href="#kind{i}">{_escape(kind)}</a> ({number:,})</li>'
    )
  if page.samples:
    yield '<li><a href="#samples">Samples</a></li>'
  if page.windows:
    yield '<li><a href="#windows">Training windows</a></li>'
  yield "</ul></nav>"


def _files(page):
  yield '<h2 id="files">Files</h2>'
  for title, summary in page.summaries.items():
    yield f'<h3>{_escape(title)}</h3><div class="scroll"><table>'
    for what, text in summary:
      yield f'<tr><th scope="row">{_escape(what)}</th><td>{_escape(text)}</td></tr>'
    yield "</table></div>"


def _classes(page):
  palette = {"void": VOID_COLOUR, **dict(zip(page.info.classes, page.info.palette, strict=True))}
  yield '<h2 id="classes">Classes</h2>'
  yield '<div class="scroll" tabindex="0" role="region" aria-label="Class table"><table id="table">'
  heads = "".join(f'<th scope="col">{x}: share</th><th scope="col">images</th>' for x in page.roles)
  yield f'<tr><th scope="col">class</th>{heads}</tr>'
  top = max((share for row in page.rows for share in row.shares), default=1) or 1
  for row in page.rows:
    color = ",".join(map(str, palette.get(row.name, VOID_COLOUR)))
    swatch = f'<span class="swatch" style="background:rgb({color})"></span>'
    cells = "".join(
      f'<td class="share">{share:.2%}<span class="bar" style="width:{100 * share / top:.1f}%">'
      f'</span></td><td class="num">{images:,}</td>'
      for share, images in zip(row.shares, row.images, strict=True)
    )
    mark = f'<br><span class="tag">{_escape(row.mark)}</span>' if row.mark else ""
    name = f"{swatch}{_escape(row.name)}"
    if len(row.name) <= 20:
      name = f'<span class="name">{name}</span>'
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
    yield f'<span class="tag">{severity.capitalize()}:</span> {_escape(kind)} ({len(group):,})</h3>'
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
    files = [x.file + (f": {x.detail}" if x.detail else "") for x in group if x.file]
    if not left and files:
      continue
    yield f"<p>{_escape(text[:1].upper() + text[1:])}</p>"
    shown = files[:left]
    left -= len(shown)
    items = [f"<li>{_escape(file)}</li>" for file in shown]
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
      text = _escape(f"{part} cannot be read: {text}")
      shown.append(f'<div class="missing">{text}</div>')
  caption = " ~ ".join(pathlib.PurePath(file).name for file in files)
  caption += f": {finding.detail}" if finding.detail else ""
  return _render(shown, caption)


def _render(shown, caption):
  pictures = "".join(shown)
  caption = f"<figcaption>{_escape(caption)}</figcaption>"
  return f'<figure><div class="pictures">{pictures}</div>{caption}</figure>'


def _samples(page):
  if not page.samples:
    return
  yield '<h2 id="samples">Samples without errors</h2>'
  step = -(-len(page.samples) // MAX_SAMPLES)
  budget = _Budget()  # of their own: few, and always shown
  yield '<div class="figures">'
  for name, picture, mask in page.samples[::step]:
    image = as_rgb(picture)
    drawn = overlay(image, mask, page.info.palette)
    shown = [
      budget.encode(scaled(x), f"{alt} of {name}")
      for alt, x in (("Image", image), ("Mask over the image", drawn))
    ]
    yield _render(shown, name)
  yield "</div>"


def _windows(page):
  if not page.windows:
    return
  yield '<h2 id="windows">Training windows</h2>'
  yield (
    "<p>Draws as the training step gets them, with their labels; void is striped. "
    '<a href="augmented.png">augmented.png</a> shows them without labels, too.</p>'
  )
  budget = _Budget()
  yield '<div class="figures draws">'
  for name, views, masks in page.windows:
    shown = []
    for view, mask in zip(views, masks, strict=True):
      drawn = striped(overlay(as_rgb(view), mask, page.info.palette), mask)
      shown.append(budget.encode(scaled(drawn), f"Draw of {name}"))
    yield _render(shown, name)
  yield "</div>"
