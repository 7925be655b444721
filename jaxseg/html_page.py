"""Pages of HTML that stand alone: one file, no network, light and dark, for screens of any width.

Names of files and classes are the user's, or come from an archive: all text is escaped, and control
characters are shown as such.
"""

import base64
import contextlib
import hashlib
import html
import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image

from jaxseg import workdirs
from jaxseg.printing import printable

MAX_BYTES = 5_000_000 * 3 // 4  # of all pictures, before base64
SIDE = 320  # px of a picture

STYLE = """
:root { color-scheme: light dark; --text: #1c1e21; --dim: #5b6068; --back: #fff; --card: #f4f5f7;
  --line: #d5d8dd; --error: #b3261e; --warning: #8a5300; --bar: #3b74c4; --better: #1b6e3c; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e7e9; --dim: #a3a8b0; --back: #16181b;
  --card: #212429; --line: #3a3f46; --error: #ff8a80; --warning: #f5bd6b; --bar: #6ea3ee;
  --better: #7bd69a; } }
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
.drawing { overflow-x: auto; } .drawing svg { max-width: 100%; height: auto;
  min-width: var(--least); }
.panels { display: grid; gap: .3rem; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); }
.panels span { font-size: .8rem; color: var(--dim); } figure:has(.panels) { margin: 1rem 0; }
.panels img { display: block; width: 100%; height: auto; max-height: 15rem; object-fit: contain;
  object-position: left; }
th button { all: unset; cursor: pointer; } th button:focus-visible {
  outline: 3px solid var(--bar); } th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
th[data-kind=number] { text-align: right; }
thead th { position: sticky; top: 0; background: var(--back); }
.tall { max-height: 30rem; overflow: auto; } .legend span { margin-right: 1rem; }
ul.inline { list-style: none; padding: 0; } ul.inline li { display: inline-block;
  margin-right: 1.2rem; }
.better { color: var(--better); } .worse { color: var(--error); }
@media (max-width: 36rem) { main, section.kind { padding: .6rem; }
  #table { font-size: .85rem; } #table th, #table td { padding-right: .5rem; }
  td.share { min-width: 3.4rem; } .draws .pictures { grid-template-columns: repeat(3, 1fr); } }
"""

INK = "#010203"  # of what is black in figures; on a page it is the colour of its text


def escape(text: object) -> str:
  """Text as HTML."""
  return html.escape(printable(str(text)))


def write_page(path: str | os.PathLike, title: str, body: Iterable[str], script: str = "") -> None:
  """Writes a page, atomically.

  Args:
    body: lines of HTML.  script: JavaScript; nothing else on the page can run.
  """
  policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
  if script:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy += f"; script-src 'sha256-{digest}'"
  lines = [
    "<!doctype html>",
    '<html lang="en"><head><meta charset="utf-8">',
    '<meta name="viewport" content="width=device-width, initial-scale=1">',
    f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
    f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>",
    *body,
    *([f"<script>{script}</script>"] if script else []),
    "</main></body></html>",
  ]
  workdirs.write_file(path, ("\n".join(lines) + "\n").encode())


def jpeg(picture: np.ndarray) -> bytes:
  """A picture u8[h,w,3] as a file."""
  buffer = io.BytesIO()
  Image.fromarray(picture).save(buffer, "JPEG", quality=82)
  return buffer.getvalue()


class Budget:
  """Turns pictures into HTML and counts their bytes."""

  def __init__(self):
    self.left = MAX_BYTES

  def embed(self, file: bytes, alt: str) -> str:
    """<img> of a file of `jpeg`; "" once the budget is spent."""
    if len(file) > self.left:
      self.left = 0
      return ""
    self.left -= len(file)
    width, height = Image.open(io.BytesIO(file)).size
    data = base64.b64encode(file).decode()
    size = f'width="{width}" height="{height}"'
    return f'<img {size} alt="{escape(alt)}" src="data:image/jpeg;base64,{data}">'

  def encode(self, picture: np.ndarray, alt: str) -> str:
    """The same of a picture u8[h,w,3]."""
    return self.embed(jpeg(picture), alt)


def figure(images: Sequence[str], caption: str) -> str:
  """<figure> of some <img> and a caption, which is text."""
  pictures = "".join(images)
  caption = f"<figcaption>{escape(caption)}</figcaption>"
  return f'<figure><div class="pictures">{pictures}</div>{caption}</figure>'


def figures(found: Iterable[str]) -> Iterator[str]:
  """<figure>s of several images, "" for those that do not fit any more, and a line about these."""
  left_out = 0
  for one in found:
    left_out += not one
    yield one
  if left_out:
    yield f"<p>{left_out} more would make the page too large.</p>"


def class_name(name: str, color: Sequence[int]) -> str:
  """The name of a class beside its colour, (R, G, B)."""
  color = ",".join(f"{value:d}" for value in color)
  swatch = f'<span class="swatch" style="background:rgb({color})"></span>{escape(name)}'
  return f'<span class="name">{swatch}</span>' if len(name) <= 20 else swatch


def ink() -> contextlib.AbstractContextManager:
  """Figures that are made in this `with` block have texts and axes of INK."""
  names = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
  return rc_context({**dict.fromkeys(names, INK), "legend.frameon": False})


def drawing(chart: Figure, alt: str) -> str:
  """A matplotlib figure as <svg> in the colours of the page: what is INK has that of the text."""
  buffer = io.StringIO()
  with rc_context({"svg.fonttype": "none", "svg.hashsalt": alt, "svg.id": None}):
    chart.savefig(
      buffer, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None}
    )
  text = buffer.getvalue()
  text = text[text.index("<svg") :].replace(INK, "currentColor")
  text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
  # Ids of one drawing are not those of another.
  prefix = hashlib.sha256(alt.encode()).hexdigest()[:6]
  text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>d{prefix}", text)
  least = f"--least:{70 * chart.get_figwidth():.0f}px"  # smaller, its texts could not be read
  return f'<div class="drawing" style="{least}" role="img" aria-label="{escape(alt)}">{text}</div>'


def as_rgb(picture: np.ndarray) -> np.ndarray:
  """u8[H,W,1 or 3] -> u8[H,W,3]"""
  return np.ascontiguousarray(np.broadcast_to(picture, (*picture.shape[:2], 3)))


def scaled(picture: np.ndarray, nearest: bool = False) -> np.ndarray:
  """A picture u8[H,W,3] at a side of SIDE px; tiny ones are enlarged by a whole factor."""
  height, width = picture.shape[:2]
  factor = SIDE / max(height, width)
  factor = min(factor, max(1, round(factor / 2)))
  size = max(1, round(width * factor)), max(1, round(height * factor))
  is_nearest = nearest or factor > 1
  method = Image.Resampling.NEAREST if is_nearest else Image.Resampling.BOX
  return np.asarray(Image.fromarray(picture).resize(size, method))
