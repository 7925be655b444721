"""From images of any size to class probabilities of the same size."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxseg import UserError, parallel, spatial
from jaxseg.data.raster import LARGE
from jaxseg.data.resize import resize_image
from jaxseg.losses import class_logits
from jaxseg.ops import normalize, sampling_matrix
from jaxseg.tiles import Span, split_axis, window_side

# Sizes are rounded up to these, so that a folder of many sizes compiles few programs.
INPUT_STEP, OUTPUT_STEP = 64, 256
MAX_OUTPUT = 1024  # px; larger probability maps are enlarged in squares of this side
# Whether to transpose, and whether to flip (top-bottom, left-right): each combination is a view.
TTA = {
  "none": ((False,), ((False, False),)),
  "flip": ((False,), ((False, False), (False, True))),
  "dihedral": ((False, True), tuple(itertools.product((False, True), repeat=2))),
}


@dataclasses.dataclass(frozen=True)
class Window:
  """A part of an example's image that the network sees at once; `is_last` of its image."""

  example: dict
  pixels: np.ndarray | None  # [h,w,D]
  rows: Span
  cols: Span
  is_last: bool


@dataclasses.dataclass(frozen=True)
class Part:
  """What a window fills of its image.

  Attributes:
    keep, crop: where that is in the image and in the output, (rows, columns).
    origin, side: for "resize", whose output is first enlarged, see `enlarged_probs`; else None, 0.
  """

  keep: tuple[slice, slice]
  crop: tuple[slice, slice]
  origin: tuple[int, int] | None = None
  side: int = 0


@dataclasses.dataclass(frozen=True)
class Predictor:
  """What `make_predictor` makes: a function of (variables, examples), and its steps, for `tally`.

  Attributes:
    predict: what a call does.
    pieces: function of the same arguments that generates (window, [(slices of rows and columns of
      the image, values)]) in order, and never holds a whole image.
    spans: function of (H, W) to the rows and the columns of windows, lists of Span.
    batches: function of (examples, progress) that generates lists of windows.
    put: function that puts windows on the devices: [b,h,w,D], filled up and split.
    forward: function of (variables, these) to probabilities f32[b,h,w,C]; their logarithm for
      "resize".
    parts: function of a window to a list of Part.
    margin: of the model.
    devices: one of each group that shares windows, in the order of the outputs.
  """

  predict: Callable
  pieces: Callable
  spans: Callable
  batches: Callable
  put: Callable
  forward: Callable
  parts: Callable
  margin: int
  devices: Sequence[jax.Device]

  def __call__(self, *arguments: Any, **options: Any) -> Iterator:
    return self.predict(*arguments, **options)


def most_likely(probs: np.ndarray) -> np.ndarray:
  """The labels of probabilities.  f32[h,w,C] -> u8[h,w]"""
  return probs.argmax(-1).astype(np.uint8)


def no_progress(iterable: Iterable, **_: Any) -> Iterable:
  """Stands in for `tqdm`; shows nothing."""
  return iterable


def make_predictor(
  model: nn.Module,
  *,
  fit: str,
  size: int,
  batch_size: int,
  tile: int = 0,
  tta: str = "none",
  value_range: Sequence = (),
  clip: bool = True,
  space: int = 1,
  temperature: float = 1.0,
) -> Predictor:
  """Builds `predict(variables, examples, reduce=None, progress=no_progress)`.

  `predict` is a generator of (example, f32[H,W,C] probabilities), in order, for variables
  {"params": ..., "batch_stats": ...} and an iterable of {"image": [H,W,D] of u8, u16 or f32, ...}.
  With `reduce`, a function f32[h,w,C] -> [h,w,...] of any part of the probabilities, it yields the
  reduced values instead and never holds a whole image's probabilities. `progress` is called like
  `tqdm`, with the windows of an image that take several batches. It uses all devices of this
  process. An example's "rows", if it has any, are those of `spans` that are wanted.

  Args:
    model: as in `models.build`.
    fit: "resize", the network sees every image at size x size and its logits are enlarged to the
      image; "crop", it sees the image at its native size, mirrored beyond the edges.
    size: height and width for "resize", px.
    batch_size: windows of one shape in a forward pass; fewer if they are larger than size x size.
    tile: for "crop", the largest height and width that the network sees, px; larger images are
      cut into windows, see `tiles`. 0: the whole image, whatever its size.
    tta: key of TTA; probabilities are averaged over these views of the image.
    value_range, clip: of the images, see `ops.normalize`.
    space: devices that share a window, see `spatial`.
    temperature: see `tempered`.
  Raises:
    UserError: a tile that is too small, or unknown tta.
  """
  if tta not in TTA:
    raise UserError(f"unknown `tta` {tta!r}; choose from {', '.join(TTA)}")
  layout = {}
  if fit == "crop":
    layout = {"multiple": input_step(model), "side": window_side(tile, model) if tile else 0}
  num_pixels = batch_size * model.input_size(size + 2 * model.margin) ** 2
  mesh = spatial.make_mesh(space, jax.local_devices())
  whole, split = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), (parallel.AXIS,)))
  devices, spread = mesh.devices.reshape(-1, space)[:, 0].tolist(), spatial.spread_over(mesh)

  options = parallel.compiler_options(devices[0])

  @functools.partial(
    jax.jit, in_shardings=(whole, split), out_shardings=split, compiler_options=options
  )
  def forward(variables, image):
    def network(image):
      return class_logits(model.apply(variables, spread(image), train=False))

    log_probs = mean_log_probs(network, normalize(image, value_range, clip), TTA[tta])
    log_probs = tempered(log_probs, temperature)
    # A size that the network's stride does not divide was mirrored up to the next that it does.
    return jnp.exp(log_probs) if fit == "crop" else log_probs[:, :size, :size]

  def limit(rows, cols):
    return min(batch_size, max(len(devices), num_pixels // (len(rows.read) * len(cols.read))))

  def spans(shape):
    return [split_axis(length, model, **layout) for length in shape]

  def windows(examples, progress):
    for example in examples:
      height, width = example["image"].shape[:2]
      if fit == "crop" and not tile and height * width > LARGE:
        raise UserError(f"an image of {width:,} x {height:,} px is too large for one window: set "
                        "`tile`, for example to 1024")  # fmt: skip
      image = example["image"] if fit == "crop" else resize_image(example["image"], size)
      rows, cols = spans(image.shape[:2])
      places = list(itertools.product(example.get("rows", rows), cols))
      show = progress if len(places) > limit(*places[0]) else no_progress
      for place in show(places, total=len(places), unit="tile", leave=False):
        rows, cols = place
        pixels = image[np.ix_(rows.read, cols.read)]
        yield Window(example, pixels, rows, cols, is_last=place is places[-1])

  def batches(examples, progress):
    batch = []
    for window in windows(examples, progress):
      pixels = window.pixels
      if batch and (batch[0].pixels.shape, batch[0].pixels.dtype) != (pixels.shape, pixels.dtype):
        yield batch
        batch = []
      batch.append(window)
      if len(batch) == limit(window.rows, window.cols):
        yield batch
        batch = []
    if batch:
      yield batch

  def put(batch):
    # Padded to a power of two and a multiple of the devices: again, few programs.
    filled = max(1 << (len(batch) - 1).bit_length(), len(devices))
    filled += -filled % len(devices)
    image = np.zeros((filled, *batch[0].pixels.shape), batch[0].pixels.dtype)
    image[: len(batch)] = [window.pixels for window in batch]
    return jax.device_put(image, split)

  def parts(window):
    if fit == "crop":
      rows, cols = window.rows, window.cols
      return [Part((rows.keep, cols.keep), (rows.crop, cols.crop))]
    h, w = window.example["image"].shape[:2]
    side = min(-(-max(h, w) // OUTPUT_STEP) * OUTPUT_STEP, MAX_OUTPUT)
    return [
      Part(np.s_[y : min(y + side, h), x : min(x + side, w)], np.s_[: h - y, : w - x], (y, x), side)
      for y, x in itertools.product(range(0, h, side), range(0, w, side))
    ]

  def pieces(variables, examples, reduce=None, progress=no_progress):
    variables = parallel.put_on_local_devices(variables)
    for batch in batches(examples, progress):
      outputs = np.asarray(forward(variables, put(batch)))
      for window, output in zip(batch, outputs, strict=False):
        yield window, filled(window, output, reduce)

  def filled(window, output, reduce):
    for part in parts(window):
      probs = output
      if part.origin:
        shape, sides = window.example["image"].shape[:2], (part.side, part.side)
        probs = np.asarray(enlarged_probs(output, shape, part.origin, sides))
      yield part.keep, reduce(probs[part.crop]) if reduce else probs[part.crop]

  def predict(variables, examples, reduce=None, progress=no_progress):
    result = None
    for window, found in pieces(variables, examples, reduce, progress):
      for keep, values in found:
        if result is None:
          shape = window.example["image"].shape[:2]
          result = np.empty((*shape, *values.shape[2:]), values.dtype)
        result[keep] = values
      if window.is_last:
        yield window.example, result
        result = None

  return Predictor(predict, pieces, spans, batches, put, forward, parts, model.margin, devices)


def input_step(model: nn.Module) -> int:
  """Sides that a network sees are multiples of this, of `fit` "crop", px: few shapes to compile.

  1 where mirrored pixels would change all values: the published networks see images as they are.
  """
  return 1 if getattr(model, "exact", False) or getattr(model, "smp", False) else INPUT_STEP


def mean_log_probs(
  network: Callable[[jax.Array], jax.Array], image: jax.Array, tta: tuple
) -> jax.Array:
  """Logarithm of the class probabilities, averaged over views of the image.

  Ronneberger et al. (2015) average over seven rotations; those of "dihedral" need no interpolation.

  Args:
    network: function f32[B,H,W,D] -> logits f32[B,h,w,C].
    image: f32[B,H,W,D].  tta: value of TTA.
  Returns:
    f32[B,h,w,C]
  """
  transposes, flips = tta

  def turn(x, flip):
    x = jnp.where(flip[0], x[:, ::-1], x)
    return jnp.where(flip[1], x[:, :, ::-1], x)

  def views(transpose):
    def one(flip):
      log_probs = jax.nn.log_softmax(network(turn(swap(image), flip)))
      return swap(turn(log_probs, flip))

    def swap(x):
      return x.swapaxes(1, 2) if transpose else x

    return jax.lax.map(one, jnp.array(flips))  # one after the other, to save memory

  total = jnp.concatenate([views(transpose) for transpose in transposes])
  return jax.nn.logsumexp(total, axis=0) - np.log(len(total))


def tempered(log_probs: jax.Array, temperature: float) -> jax.Array:
  """Log-probabilities at another temperature (Guo et al. 2017, section 4.2); labels stay.

  softmax(log p / T) is softmax(logits / T) where p = softmax(logits).  f32[...,C] -> f32[...,C]
  """
  if temperature == 1.0:
    return log_probs
  return jax.nn.log_softmax(log_probs / temperature)


@functools.partial(jax.jit, static_argnames="sides")
def enlarged_probs(
  log_probs: jax.Array, shape: Sequence[int], origin: Sequence[int], sides: Sequence[int]
) -> jax.Array:
  """Part of the probabilities of an image by bilinear interpolation of the logits.

  Args:
    log_probs: f32[h,w,C]; logits give the same.
    shape: (H, W) of the image, px.  origin: (top, left) of the part.
    sides: (height, width) of the part, static.
  Returns:
    f32[*sides,C]; beyond the image it repeats the edge.
  """
  rows, cols = (
    sampling_matrix((jnp.arange(side) + start + 0.5) * (n / total) - 0.5, n)
    for n, total, start, side in zip(log_probs.shape[:2], shape, origin, sides, strict=True)
  )
  return jax.nn.softmax(
    jnp.einsum("ih,hwc,jw->ijc", rows, log_probs, cols, precision=jax.lax.Precision.HIGHEST)
  )
