"""Label maps, overlays, sheets of predictions and training curves, as pictures.

Figures are made without pyplot: importing this module chooses no backend, needs no display, and a
figure is freed when its caller drops it.
"""

import io
import pathlib
from collections.abc import Sequence
from os import PathLike

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from jaxseg import VOID, workdirs
from jaxseg.charts import draw_curves, plain

VOID_COLOUR = (255, 255, 255)
MAX_OVERLAY = 4096  # px
MAX_NUMBERED = 25  # classes; the confusion matrix of more has no numbers in its cells
MAX_ROWS = 40  # of a column of a legend
MAX_NAMED = 12  # classes; the legend of more names those that occur

Path = str | PathLike
Palette = Sequence[tuple[int, int, int]]  # an (R, G, B) of 0..255 per class


def full_palette(palette: Palette) -> np.ndarray:
  """u8[256,3]: the colour of every label; white for VOID, grey for labels without a class."""
  table = np.full((256, 3), 128, np.uint8)
  table[: len(palette)] = palette
  table[VOID] = VOID_COLOUR
  return table


def label_map(labels: np.ndarray, palette: Palette) -> Image.Image:
  """Labels u8[H,W] as a picture whose pixel values are the labels, coloured by its palette."""
  image = Image.fromarray(labels)
  image.putpalette(full_palette(palette).tobytes())
  return image


def colour_labels(labels: np.ndarray, palette: Palette) -> np.ndarray:
  """u8[H,W] -> u8[H,W,3]"""
  return full_palette(palette)[labels]


def colour_instances(instances: np.ndarray) -> np.ndarray:
  """i32[H,W] -> u8[H,W,3]: black for 0, else a random colour that depends on the id alone."""
  palette = np.random.default_rng(3).integers(60, 256, (int(instances.max()) + 1, 3), np.uint8)
  palette[0] = 0
  return palette[instances]


def overlay(
  image: np.ndarray, labels: np.ndarray, palette: Palette, opacity: float = 0.45
) -> np.ndarray:
  """The image tinted by class, with a line of full colour around what has a later class.

  An image with a side above MAX_OVERLAY px is subsampled: every second, third, ... pixel.

  Args:
    image: u8[H,W,1] or u8[H,W,3].  labels: u8[H,W].
    opacity: of the tint; 0 leaves the image as it is, 1 hides it.
  Returns:
    u8[H,W,3], or u8[h,w,3] for a large image.
  """
  step = -(-max(labels.shape) // MAX_OVERLAY)
  image, labels = image[::step, ::step], labels[::step, ::step]
  # In integer steps of 1/256: floating point would take four times the memory.
  alpha = round(256 * opacity)
  picture = (alpha * full_palette(palette).astype(np.uint16) + 128)[labels]
  picture += (256 - alpha) * image.astype(np.uint16)
  picture >>= 8
  ranks = np.pad(labels.astype(np.uint8) + np.uint8(1), 1, "edge")  # VOID, 255, is the earliest
  around = ranks[:-2, 1:-1], ranks[2:, 1:-1], ranks[1:-1, :-2], ranks[1:-1, 2:]
  edge = ranks[1:-1, 1:-1] > np.minimum.reduce(around)
  picture[edge] = colour_labels(labels[edge], palette)
  return picture.astype(np.uint8)


def striped(picture: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """A picture u8[H,W,3] with white stripes where labels u8[H,W] are VOID."""
  rows, cols = np.indices(labels.shape)
  period = max(6, max(labels.shape) // 24)
  stripes = (rows + cols) % period < period // 3
  return np.where((stripes & (labels == VOID))[..., None], np.uint8(VOID_COLOUR), picture)


def prediction_sheet(
  path: Path, samples: Sequence[tuple], classes: Sequence[str], palette: Palette, title: str
) -> Figure:
  """Draws one row per example: input, truth, prediction.

  Args:
    samples: list of (image u8[H,W,D], mask u8[H,W], prediction u8[H,W]).
    classes: names, for the legend.
  Returns:
    the figure, which has been written to `path`; all figures here are.
  """
  # VOID pixels are not scored, so the sheet hides what was predicted there.
  rows = [
    (
      np.broadcast_to(image, (*mask.shape, 3)),
      colour_labels(mask, palette),
      colour_labels(np.where(mask == VOID, VOID, prediction), palette),
    )
    for image, mask, prediction in samples
  ]
  maps = [labels for _, *pair in samples for labels in pair]
  classes, palette = _occurring(classes, palette, maps)
  classes, palette = _with_void(classes, palette, [mask for _, mask, _ in samples], "not scored")
  return _sheet(path, rows, ("input", "truth", "prediction"), classes, palette, title)


def data_sheet(
  path: Path, samples: Sequence[tuple], classes: Sequence[str], palette: Palette, title: str
) -> Figure:
  """Draws one row per example: image, mask, and the mask over the image.

  Args:
    samples: list of (name, image u8[H,W,D], mask u8[H,W]).
    classes: names, for the legend.
  """
  rows = [
    (
      np.broadcast_to(image, (*mask.shape, 3)),
      colour_labels(mask, palette),
      overlay(image, mask, palette),
    )
    for _, image, mask in samples
  ]
  maps = [mask for _, _, mask in samples]
  classes, palette = _with_void(*_occurring(classes, palette, maps), maps)
  names = [name for name, _, _ in samples]
  return _sheet(path, rows, ("image", "mask", "overlay"), classes, palette, title, names)


def window_sheet(
  path: Path, windows: Sequence[tuple], classes: Sequence[str], palette: Palette, title: str
) -> Figure:
  """Draws two rows per example: several views of it, and below them the labels over these; VOID is
  striped.

  Args:
    windows: list of (name, images u8[N,H,W,D], masks u8[N,H,W]), with the same N for all.
    classes: names, for the legend.
  """
  rows, names = [], []
  for name, images, masks in windows:
    views = list(zip(images, masks, strict=True))
    rows.append([np.broadcast_to(image, (*mask.shape, 3)) for image, mask in views])
    rows.append([striped(overlay(image, mask, palette), mask) for image, mask in views])
    names += [name, ""]
  maps = [masks for _, _, masks in windows]
  classes, palette = _with_void(*_occurring(classes, palette, maps), maps, "void (striped)")
  columns = [f"draw {i}" for i in range(1, len(rows[0]) + 1)]
  return _sheet(path, rows, columns, classes, palette, title, names)


def legend(path: Path, classes: Sequence[str], palette: Palette) -> Figure:
  """Draws names and colours of the classes alone, for pictures without room for a legend."""
  columns = -(-len(classes) // MAX_ROWS)
  figure = Figure(figsize=(2.5 * columns, 0.3 + 0.23 * -(-len(classes) // columns)))
  handles = _patches(classes, palette)
  figure.legend(handles=handles, loc="center", frameon=False, ncols=columns)
  return _save(figure, path)


def _sheet(path, rows, columns, classes, palette, title, names=()):
  """Rows of pictures u8[H,W,3] under `columns`, each above its name, and a legend."""
  heights = [2.5 * min(row[0].shape[0] / row[0].shape[1], 1) for row in rows]  # inches
  size = (2.5 * len(columns), sum(heights) + 0.8 + 0.2 * len(names))
  figure = Figure(figsize=size, layout="constrained")
  axes = figure.subplots(len(rows), len(columns), height_ratios=heights, squeeze=False)
  for axis_row, row in zip(axes, rows, strict=True):
    for axis, picture in zip(axis_row, row, strict=True):
      axis.imshow(picture, interpolation="nearest")
      axis.set(xticks=[], yticks=[])
      axis.spines[:].set_color("lightgrey")  # the rim of an image that is VOID there
  for axis, name in zip(axes[0], columns, strict=True):
    axis.set_title(name)
  for axis, name in zip(axes[:, 0], names, strict=False):
    axis.set_xlabel(plain(name), fontsize=7, loc="left")
  _legend(figure, classes, palette)
  figure.suptitle(plain(title))
  return _save(figure, path)


def curves(path: Path, metrics: Sequence[dict]) -> Figure:
  """Writes the figure of `draw_curves`."""
  return _save(draw_curves(metrics), path)


def plot_confusion(
  path: Path, counts: np.ndarray | Sequence[Sequence[int]], classes: Sequence[str], title: str
) -> Figure:
  """Writes the figure of `draw_confusion`."""
  return _save(draw_confusion(counts, classes, title), path)


def draw_confusion(
  counts: np.ndarray | Sequence[Sequence[int]], classes: Sequence[str], title: str = ""
) -> Figure:
  """The confusion matrix in percent of the true pixels, that is, of each row.

  Args:
    counts: int[C,C]; rows are the truth, columns the prediction.
  """
  counts = np.asarray(counts)
  pixels, num_classes = counts.sum(1), len(classes)
  parts = np.divide(counts, pixels[:, None], where=pixels[:, None] > 0, out=0.0 * counts)
  is_small = num_classes <= MAX_NUMBERED
  size, font = (0.5, {}) if is_small else (0.12, {"fontsize": 6})  # of a cell, inches
  side, margin = size * num_classes, 0.2 * size * max(map(len, classes)) + 1.4
  figure = Figure(figsize=(side + margin + 1, side + margin), layout="constrained")
  axis = figure.subplots()
  picture = axis.imshow(100 * parts, cmap="Blues", vmin=0, vmax=100)
  ticks, names = range(num_classes), [plain(name) for name in classes]
  axis.set_xticks(ticks, names, rotation=90, **font)
  axis.set_yticks(ticks, names, **font)
  axis.set(xlabel="prediction, % of the true pixels", ylabel="truth")
  sums = axis.secondary_yaxis("right")
  sums.set_yticks(ticks, [f"{n:,}" for n in pixels], **font)
  sums.set_ylabel("true pixels", labelpad=10)
  if is_small:
    for i, j in np.ndindex(parts.shape):
      colour = "white" if parts[i, j] > 0.5 else "black"
      text = f"{100 * parts[i, j]:.1f}" if counts[i, j] else ""
      axis.text(j, i, text, ha="center", va="center", fontsize=8, color=colour)
  else:
    figure.colorbar(picture, shrink=0.5)
  if title:
    figure.suptitle(plain(title))
  return figure


def _occurring(classes, palette, maps):
  """Classes and colours for the legend of label maps: of many classes, those that occur."""
  if len(classes) <= MAX_NAMED:
    return tuple(classes), tuple(palette)
  found = sorted({int(label) for labels in maps for label in np.unique(labels)} - {VOID})
  return tuple(classes[i] for i in found), tuple(palette[i] for i in found)


def _with_void(classes, palette, maps, name="void"):
  """The same with an entry for VOID, if label maps hold it."""
  if not any((labels == VOID).any() for labels in maps):
    return classes, palette
  return (*classes, name), (*palette, VOID_COLOUR)


def _patches(classes, palette):
  return [
    Patch(facecolor=np.array(colour) / 255, edgecolor="black", label=plain(name))
    for name, colour in zip(classes, palette, strict=True)
  ]


def _legend(figure, classes, palette):
  handles = _patches(classes, palette)
  widest = 0.6 + 0.09 * max(map(len, classes))  # of a column, inches
  columns = max(1, min(6, len(classes), int(figure.get_figwidth() / widest)))
  figure.legend(handles=handles, loc="outside lower center", ncols=columns)


def _save(figure, path):
  buffer = io.BytesIO()
  figure.savefig(buffer, dpi=100, format=pathlib.Path(path).suffix[1:] or "png")
  workdirs.write_file(path, buffer.getvalue())
  figure.set_layout_engine("none")  # it is laid out, should it be drawn again
  return figure
