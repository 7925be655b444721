"""From images of any size to class probabilities of the same size."""

import collections
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxseg import UserError, parallel
from jaxseg.crf import dense_crf
from jaxseg.data.decode import resize_image
from jaxseg.losses import class_logits
from jaxseg.ops import resizing_matrix, sampling_matrix
from jaxseg.tiles import Span, split_axis, window_side

# Sizes are rounded up to these, so that a folder of many sizes compiles few programs.
INPUT_STEP, OUTPUT_STEP = 64, 256
MAX_OUTPUT = 1024  # px; larger probability maps are enlarged in squares of this side
MAX_WHOLE = 1 << 24  # px, the largest image in one piece; a CRF of 12 classes then takes 7 GiB
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
  pixels: np.ndarray  # u8[h,w,D]
  rows: Span
  cols: Span
  is_last: bool


def most_likely(probs: np.ndarray) -> np.ndarray:
  """The labels of probabilities.  f32[h,w,C] -> u8[h,w]"""
  return probs.argmax(-1).astype(np.uint8)


def no_progress(iterable: Iterable, **_: Any) -> Iterable:
  """Stands in for `tqdm`; shows nothing."""
  return iterable


def make_predictor(
  model: nn.Module, *, fit: str, size: int, batch_size: int, tile: int = 0, tta: str = "none"
) -> Callable:
  """Builds `predict(variables, examples, reduce=None, progress=no_progress)`.

  `predict` is a generator of (example, f32[H,W,C] probabilities), in order, for variables
  {"params": ..., "batch_stats": ...} and an iterable of {"image": u8[H,W,D], ...}. With `reduce`,
  a function f32[h,w,C] -> [h,w,...] of any part of the probabilities, it yields the reduced values
  instead and never holds a whole image's probabilities. `progress` is called like `tqdm`, with the
  windows of an image that take several batches. It uses all devices of this process.

  Args:
    model: as in `models.build`.
    fit: "resize", the network sees every image at size x size and its logits are enlarged to the
      image; "crop", it sees the image at its native size, mirrored beyond the edges.
    size: height and width for "resize", px.
    batch_size: windows of one shape in a forward pass; fewer if they are larger than size x size.
    tile: for "crop", the largest height and width that the network sees, px; larger images are
      cut into windows, see `tiles`. 0: the whole image, whatever its size.
    tta: key of TTA; probabilities are averaged over these views of the image.
  Raises:
    UserError: a tile that is too small, or unknown tta.
  """
  if tta not in TTA:
    raise UserError(f"unknown `tta` {tta!r}; choose from {', '.join(TTA)}")
  layout = {}
  if fit == "crop":
    layout = {"multiple": INPUT_STEP, "side": window_side(tile, model) if tile else 0}
  num_pixels = batch_size * model.input_size(size + 2 * model.margin) ** 2
  devices = jax.local_devices()
  whole = parallel.on_local_devices()
  split = parallel.on_local_devices(parallel.AXIS)

  @functools.partial(jax.jit, in_shardings=(whole, split), out_shardings=split)
  def forward(variables, image):
    def network(image):
      return class_logits(model.apply(variables, image, train=False))

    log_probs = mean_log_probs(network, image.astype(jnp.float32) / 255.0, TTA[tta])
    return jnp.exp(log_probs) if fit == "crop" else log_probs

  def limit(rows, cols):
    return min(batch_size, max(len(devices), num_pixels // (len(rows.read) * len(cols.read))))

  def windows(examples, progress):
    for example in examples:
      image = example["image"] if fit == "crop" else resize_image(example["image"], size)
      spans = [split_axis(length, model, **layout) for length in image.shape[:2]]
      places = list(itertools.product(*spans))
      show = progress if len(places) > limit(*places[0]) else no_progress
      for place in show(places, total=len(places), unit="tile", leave=False):
        rows, cols = place
        pixels = image[np.ix_(rows.read, cols.read)]
        yield Window(example, pixels, rows, cols, is_last=place is places[-1])

  def batches(windows):
    batch = []
    for window in windows:
      if batch and batch[0].pixels.shape != window.pixels.shape:
        yield batch
        batch = []
      batch.append(window)
      if len(batch) == limit(window.rows, window.cols):
        yield batch
        batch = []
    if batch:
      yield batch

  def run(variables, batch):
    # Padded to a power of two and a multiple of the devices: again, few programs.
    filled = max(1 << (len(batch) - 1).bit_length(), len(devices))
    filled += -filled % len(devices)
    image = np.zeros((filled, *batch[0].pixels.shape), np.uint8)
    image[: len(batch)] = [window.pixels for window in batch]
    outputs = np.asarray(forward(variables, jax.device_put(image, split)))
    for window, output in zip(batch, outputs, strict=False):
      yield window, output[window.rows.crop, window.cols.crop]

  def parts(window, output):
    """(rows, columns, f32[h,w,C] probabilities) of the image that a window fills."""
    if fit == "crop":
      yield window.rows.keep, window.cols.keep, output
      return
    h, w = window.example["image"].shape[:2]
    side = min(-(-max(h, w) // OUTPUT_STEP) * OUTPUT_STEP, MAX_OUTPUT)
    for top, left in itertools.product(range(0, h, side), range(0, w, side)):
      block = np.asarray(enlarged_probs(output, (h, w), (top, left), (side, side)))
      yield slice(top, top + side), slice(left, left + side), block[: h - top, : w - left]

  def predict(variables, examples, reduce=None, progress=no_progress):
    # Arrays of several processes go through the host; what lies on the devices stays there.
    on_devices = lambda x: isinstance(x, jax.Array) and x.sharding == whole  # noqa: E731
    variables = jax.tree.map(lambda x: x if on_devices(x) else np.asarray(x), variables)
    variables = jax.device_put(variables, whole)
    result = None
    for batch in batches(windows(examples, progress)):
      for window, output in run(variables, batch):
        for rows, cols, part in parts(window, output):
          part = reduce(part) if reduce else part
          if result is None:
            result = np.empty((*window.example["image"].shape[:2], *part.shape[2:]), part.dtype)
          result[rows, cols] = part
        if window.is_last:
          yield window.example, result
          result = None

  return predict


def _whole(examples, key, off):
  """The examples; raises UserError for an image of more than MAX_WHOLE px."""
  for example in examples:
    h, w = example["image"].shape[:2]
    if h * w > MAX_WHOLE:
      raise UserError(
        f"`{key}` is for images of up to {MAX_WHOLE:,} px, but one has {w} x {h}; set it to {off}"
      )
    yield example


def with_scales(predict: Callable, *, fit: str, scales: Sequence[float]) -> Callable:
  """Averages the probabilities of `make_predictor` over several scales of the image.

  Chen et al. (2018) scale by 0.5 to 1.75. Tiles and views are made for each scale.

  Args:
    predict: see `make_predictor`.  fit: "crop"; with "resize", the size does not follow the image.
    scales: factors; (1.0,) leaves `predict` as it is.
  Returns:
    a function like `predict`; it raises UserError for an image of more than MAX_WHOLE px.
  Raises:
    UserError: no scale, one that is not positive, or fit is not "crop".
  """
  if not scales or min(scales) <= 0:
    raise UserError(f"`scales` is {scales}, but needs one or more numbers above 0")
  if tuple(scales) == (1.0,):
    return predict
  if fit != "crop":
    raise UserError(f"`scales` is {scales}, which needs `fit` crop; set `scales` to (1.0,)")

  def average(variables, examples, reduce=None, progress=no_progress):
    waiting = collections.deque()  # the network's batches run ahead of the averages

    def views():
      for example in _whole(examples, "scales", "(1.0,)"):
        waiting.append(example)
        for scale in scales:
          shape = [max(1, round(scale * n)) for n in example["image"].shape[:2]]
          yield {"image": np.round(resample(example["image"], shape)).astype(np.uint8)}

    outputs = predict(variables, views(), progress=progress)
    while group := list(itertools.islice(outputs, len(scales))):
      example = waiting.popleft()
      shape = example["image"].shape[:2]
      probs = sum(resample(probs, shape) for _, probs in group) / len(scales)
      yield example, reduce(probs) if reduce else probs

  return average


def resample(x: np.ndarray, shape: Sequence[int]) -> np.ndarray:
  """Bilinear interpolation to another size, antialiased.  [H,W,D] -> f32[h,w,D]"""
  if x.shape[:2] == tuple(shape):
    return np.asarray(x, np.float32)
  rows, cols = (np.asarray(resizing_matrix(*n)) for n in zip(shape, x.shape, strict=False))
  return np.einsum("ih,hwc,jw->ijc", rows, np.asarray(x, np.float32), cols, optimize=True)


def with_crf(predict: Callable, *, num_iterations: int, exact: bool, **kernels: float) -> Callable:
  """Refines the predictions of `make_predictor` by a dense CRF, one whole image at a time.

  Tiles and views are merged first, and `reduce` gets the whole image.

  Args:
    predict: see `make_predictor`.
    num_iterations, exact, kernels: of `crf.dense_crf`; 0 iterations leave `predict` as it is.
  Returns:
    a function like `predict`; it raises UserError for an image of more than MAX_WHOLE px.
  Raises:
    UserError: a number that is out of range.
  """
  for name, value in {"num_iterations": num_iterations, **kernels}.items():
    if value < 0 or (value == 0 and name.endswith("sigma")):
      bound = "above 0" if name.endswith("sigma") else "0 or more"
      raise UserError(f"`{name}` is {value}, but has to be {bound}")
  if not num_iterations:
    return predict
  options = {"num_iterations": num_iterations, "exact": exact, **kernels}

  def refine(variables, examples, reduce=None, progress=no_progress):
    examples = _whole(examples, "num_iterations", 0)
    for example, probs in predict(variables, examples, progress=progress):
      probs = np.asarray(dense_crf(probs, example["image"], **options))
      yield example, reduce(probs) if reduce else probs

  return refine


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
