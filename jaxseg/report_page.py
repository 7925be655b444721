"""The report of an evaluation: one page of HTML with scores, curves, and the worst images."""

import dataclasses
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from jaxseg import __version__, html_page
from jaxseg.data.decode import DatasetInfo
from jaxseg.extremes import ends
from jaxseg.html_page import Budget, class_name, drawing, escape, figures, ink
from jaxseg.per_image import PerImage
from jaxseg.visualize import MAX_NUMBERED, draw_confusion

MAX_ROWS = 1000  # of the table of images
MAX_CONFUSIONS = 40
NAMES = {
  "miou": "mean IoU", "fw_iou": "frequency-weighted IoU", "ece": "calibration error (ECE)",
  "v_rand": "V_rand", "v_info": "V_info", "boundary_f1": "boundary F1", "hd95": "HD95, px",
  "nsd": "normalised surface distance", "loss": "cross-entropy",
}  # fmt: skip
DIGITS = {"hd95": 2}  # after the point
SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, i) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending", sign = up ? 1 : -1;
      const value = row => row.cells[i].textContent.trim();
      const order = (a, b) => {
        const [x, y] = [value(a), value(b)];
        if (head.dataset.kind === "text") return sign * x.localeCompare(y, "en", {numeric: true});
        const [p, q] = [x, y].map(text => parseFloat(text.replaceAll(",", "")));
        if (isNaN(p) || isNaN(q)) return isNaN(p) - isNaN(q);
        return sign * (p - q);
      };
      body.append(...[...body.rows].sort(order));
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
    });
  });
}
"""


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """What is known after an evaluation.

  Attributes:
    result, images: see `evaluation.score`.
    samples: [(picture u8[H,W,1 or 3], mask u8[H,W], prediction u8[H,W])] for the sheet.
    shown: {row of `images`: {panel: JPEG file}} of the worst images and the best.
  """

  result: Mapping[str, Any]
  images: PerImage
  samples: Sequence[tuple] = ()
  shown: Mapping[int, Mapping[str, bytes]] = dataclasses.field(default_factory=dict)


def write_report(
  path: str | os.PathLike,
  title: str,
  about: Sequence[str],
  evaluation: Evaluation,
  info: DatasetInfo,
  curves: Figure | None = None,
  recipe: Mapping[str, Any] | None = None,
) -> None:
  """Writes the page.

  Args:
    title, about: what was evaluated: a headline and lines below it.
    curves: of training, drawn in `ink`.  recipe: {config key: value} of what is not the default.
  """
  result, images = evaluation.result, evaluation.images
  worst, best = ends(images.of_images()["miou"])
  budget, shown = Budget(), evaluation.shown
  colors = dict(zip(info.classes, info.palette, strict=True))
  sections = {
    "Scores": _scores(result),
    "Classes": _classes(result, colors),
    "Curves": [drawing(curves, "Loss and scores over the epochs of training")] if curves else (),
    "Confusion": _confusion(result, info),
    "Calibration": _calibration(result, (recipe or {}).get("predict.temperature")),
    "Worst images": _pictures({i: shown[i] for i in worst if i in shown}, images, colors, budget),
    "Best images": _pictures({i: shown[i] for i in best if i in shown}, images, colors, budget),
    "All images": table_of_images(images),
    "Recipe": _recipe(recipe or {}),
  }
  write_sections(path, title, about, sections)


def write_sections(
  path: str | os.PathLike,
  title: str,
  about: Sequence[str],
  sections: Mapping[str, Iterable[str]],
) -> None:
  """Writes a page with its contents; a section without lines is left out."""
  filled = {name: lines for name, part in sections.items() if (lines := list(part))}
  ids = {}
  for name in filled:
    plain = re.sub("[^a-z0-9]+", "-", name.lower())
    ids[name] = plain if plain not in ids.values() else f"{plain}-{len(ids)}"
  body = [f"<h1>{escape(title)}</h1>", *(f'<p class="dim">{escape(line)}</p>' for line in about)]
  body.append('<nav aria-label="Contents"><ul class="inline">')
  body += [f'<li><a href="#{ids[name]}">{escape(name)}</a></li>' for name in filled]
  body.append("</ul></nav>")
  for name, lines in filled.items():
    body += [f'<h2 id="{ids[name]}">{escape(name)}</h2>', *lines]
  body.append(f'<p class="dim">jaxseg {__version__}</p>')
  html_page.write_page(path, title, body, SCRIPT)


def number(name: str, value: float | None) -> str:
  """A score as text; "-" for none."""
  if value is None or value != value:
    return "-"
  return f"{value:,.0f}" if name == "pixels" else f"{value:.{DIGITS.get(name, 4)}f}"


def title_of(name: str) -> str:
  """What a score is called on a page."""
  return NAMES.get(name, name.replace("_", " "))


def table(
  heads: Sequence[str], rows: Iterable[Sequence[str]], label: str, *, num_texts: int = 1
) -> Iterator[str]:
  """A table that its heads sort; the first column names the rows.

  Args:
    heads: texts.  rows: cells as HTML.  label: for readers of screens.
    num_texts: columns from the left that are texts, not numbers.
  """
  yield f'<div class="scroll tall" tabindex="0" role="region" aria-label="{escape(label)}">'
  yield '<table class="sortable"><thead><tr>'
  for i, head in enumerate(heads):
    kind = "text" if i < num_texts else "number"
    yield f'<th scope="col" data-kind="{kind}">{escape(head)}</th>'
  yield "</tr></thead><tbody>"
  for first, *cells in rows:
    texts = "".join(
      f"<td>{x}</td>" if i < num_texts else f'<td class="num">{x}</td>'
      for i, x in enumerate(cells, 1)
    )
    yield f'<tr><th scope="row">{first}</th>{texts}</tr>'
  yield "</tbody></table></div>"


def _scores(result):
  yield '<div class="scroll"><table>'
  yield '<tr><th scope="col">score</th><th scope="col">value</th>'
  yield '<th scope="col">95% interval</th></tr>'
  for name, value in result.items():
    if isinstance(value, float):
      low, high = (number(name, x) for x in result.get(f"{name}_interval") or (None, None))
      interval = f"{low} to {high}" if low != "-" else "-"
      yield (
        f'<tr><th scope="row">{escape(title_of(name))}</th>'
        f'<td class="num">{number(name, value)}</td><td class="num">{interval}</td></tr>'
      )
  yield "</table></div>"
  yield (
    '<p class="dim">The intervals come from drawing these images again (bootstrap). They do not '
    "cover training with another seed, and a few images give no reliable ones.</p>"
  )


def _classes(result, colors):
  pixels = np.sum(result["confusion"], axis=1)
  intervals = result.get("iou_interval") or {}
  rows = []
  for name, share in zip(result["iou"], pixels / pixels.sum(), strict=True):
    low, high = intervals.get(name) or (None, None)
    interval = "-" if low is None else f"{low:.3f} to {high:.3f}"
    scores = [number("iou", result[score][name]) for score in ("iou", "dice", "accuracy")]
    rows.append(
      [class_name(name, colors[name]), scores[0], interval, *scores[1:], f"{share:.2%}"]
    )
  heads = ("class", "IoU", "95% interval", "Dice", "accuracy", "share of pixels")
  yield from table(heads, rows, "Scores of classes")


def _confusion(result, info):
  if len(info.classes) > MAX_NUMBERED:
    yield from _largest_confusions(np.array(result["confusion"]), info.classes)
    return
  with ink():
    yield drawing(draw_confusion(result["confusion"], info.classes), "Confusion matrix")


def _largest_confusions(counts, classes):
  """The cells beside the diagonal that hold most pixels."""
  wrong = counts - np.diag(np.diag(counts))
  order = np.argsort(-wrong, axis=None, kind="stable")[:MAX_CONFUSIONS]
  cells = [np.unravel_index(i, wrong.shape) for i in order]
  rows = (
    [escape(classes[i]), escape(classes[j]), f"{n:,}", f"{n / counts[i].sum():.1%}"]
    for i, j in cells
    if (n := wrong[i, j])
  )
  yield f"<p>The {MAX_CONFUSIONS} largest; plots/confusion.png has all.</p>"
  heads = ("truth", "prediction", "pixels", "share of the true pixels")
  yield from table(heads, rows, "Largest confusions", num_texts=2)


def _calibration(result, temperature):
  if result.get("reliability") is None or result.get("ece") is None:
    return
  bins = np.array(result["reliability"])
  pixels, right, confidence = bins.T
  mean = (confidence.sum() - right.sum()) / pixels.sum()
  if temperature not in (None, 1.0):
    text = f"Probabilities are at temperature {temperature:g}; if it was fitted on these images,"
  else:
    text = "<code>--mode=calibrate</code> fits a temperature on these images; at that temperature,"
  much = "as high as" if abs(mean) < 5e-4 else f"{abs(mean):.3f} {'above' if mean > 0 else 'below'}"
  yield (
    f"<p>The probability of the predicted class is on average {much} the share of pixels that are "
    f"right. Expected calibration error (ECE, {len(bins)} bins): {result['ece']:.4f}. {text} "
    "their ECE and cross-entropy are optimistic.</p>"
  )
  with ink():
    yield drawing(draw_reliability(bins), "How often pixels are right, by their probability")


def draw_reliability(bins: np.ndarray) -> Figure:
  """The reliability diagram (Guo et al. 2017, figure 1).  bins: f64[B,3], see `tally.Tally`"""
  pixels, right, confidence = bins.T
  some = pixels > 0
  figure = Figure(figsize=(5, 4.5), layout="constrained")
  upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
  edges = np.linspace(0, 1, len(bins) + 1)
  upper.plot((0, 1), (0, 1), "--", color="gray", linewidth=1, label="perfect")
  shares = (confidence[some] / pixels[some], right[some] / pixels[some])
  upper.plot(*shares, "o-", markersize=4, label="this network")
  upper.set(ylabel="share that is right", xlim=(0, 1), ylim=(0, 1))
  upper.legend(loc="upper left")
  lower.bar(edges[:-1], pixels / pixels.sum(), 1 / len(bins), align="edge")
  lower.set(xlabel="probability of the predicted class", ylabel="share of pixels")
  for axis in (upper, lower):
    axis.grid(alpha=0.3)
  return figure


def _pictures(shown, images, colors, budget):
  if not shown:
    return
  yield (
    '<p class="dim">By mean IoU of the image. Errors are red there, and pixels without a label '
    "white. Confidence is black for a guess among all classes, and white where it is certain.</p>"
  )
  yield legend(images, list(shown), colors)
  yield from figures(
    panels(files, images.names[i], _caption(i, images), budget) for i, files in shown.items()
  )


def legend(images: PerImage, rows: Sequence[int], colors: Mapping[str, Sequence[int]]) -> str:
  """<p> with the classes in truth or prediction of some images."""
  present = images.pixels[list(rows)].any(axis=(0, 1))
  names = [name for name, is_there in zip(images.classes, present, strict=True) if is_there]
  return '<p class="legend">' + " ".join(class_name(name, colors[name]) for name in names) + "</p>"


def panels(files: Mapping[str, bytes], name: str, caption: str, budget: Budget) -> str:
  """<figure> of the pictures of an image, {panel: JPEG file}; "" if they do not fit any more."""
  parts = []
  for what, file in files.items():
    if not (image := budget.embed(file, f"{what} of {name}")):
      return ""
    parts.append(f"<span>{image}{escape(what)}</span>")
  caption = f"<figcaption>{escape(name)}: {escape(caption)}</figcaption>"
  return f'<figure><div class="panels">{"".join(parts)}</div>{caption}</figure>'


def _caption(i, images):
  scores = images.of_images()
  iou = images.iou()[i]
  lowest = int(np.nanargmin(iou))
  return (
    f"mean IoU {scores['miou'][i]:.3f}, pixel accuracy {scores['pixel_accuracy'][i]:.3f}; "
    f"least IoU {iou[lowest]:.3f}, {images.classes[lowest]}"
  )


def table_of_images(images: PerImage) -> Iterator[str]:
  """The scores of images, the worst first; of many, MAX_ROWS."""
  scores = images.of_images()
  order = np.argsort(scores["miou"], kind="stable")[:MAX_ROWS]  # NaN is last
  if len(order) < len(images.names):
    yield f"<p>The {len(order):,} worst of {len(images.names):,} images.</p>"
  yield (
    '<p class="dim">Click a column heading to sort. per_image.csv has all images, with the IoU and '
    "the pixels of each class.</p>"
  )
  columns = list(scores)
  rows = (
    [escape(images.names[i]), *(number(name, scores[name][i]) for name in columns)] for i in order
  )
  yield from table(["image", *map(title_of, columns)], rows, "Scores of images")


def _recipe(recipe):
  if recipe:
    rows = ((f"<code>{escape(k)}</code>", f"<code>{escape(v)}</code>") for k, v in recipe.items())
    yield "<p>Keys of the config that are not at their defaults.</p>"
    yield from table(("key", "value"), rows, "Keys of the config", num_texts=2)
