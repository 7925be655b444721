"""What scores need to know of predictions, counted on the devices where these are."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxseg import VOID, parallel
from jaxseg.metrics import MIN_PROB
from jaxseg.predict import Part, Predictor, Window, enlarged_probs, no_progress

NUM_BINS = 15  # of confidence, as in Guo et al. (2017)
EXACT = 2**24  # float32 counts up to here


@dataclasses.dataclass(frozen=True)
class Masks:
  """Labels on one device, of some windows or of a part of one.

  Attributes:
    labels: u8[n,h,w]; VOID where an output is not used.
    arguments: of `tally_part`; () for `tally_windows`.
  """

  labels: jax.Array
  arguments: tuple = ()


@dataclasses.dataclass(frozen=True)
class Batch:
  """Windows that go through the network together, as they lie on the devices.

  Attributes:
    windows: without their pixels.
    image: [b,h,w,D], split over the devices.
    masks: list of Masks.
    places: for each window, [(number in `masks`, row of it, Part)].
  """

  windows: list[Window]
  image: jax.Array
  masks: list[Masks]
  places: list[list[tuple[int, int, Part]]]

  @property
  def nbytes(self) -> int:
    """On the devices."""
    return self.image.nbytes + sum(masks.labels.nbytes for masks in self.masks)


@dataclasses.dataclass(frozen=True)
class Tally:
  """What is known of the prediction of one image.

  Attributes:
    counts: i64[C,C], pixels by true and predicted label, as of `metrics.confusion_matrix`.
    loss: cross-entropy summed over the pixels with a label; NaN if a probability is not finite.
    bins: f64[NUM_BINS,3], the pixels with a label by the probability of their predicted class, in
      bins of equal width from 0 to 1: their number, how many are right, sum of the probabilities.
    labels: gets the predicted labels, u8[H,W], from where they are.
    confidence: gets the probability of the predicted class in steps of 1/255, u8[H,W].
  """

  counts: np.ndarray
  loss: float
  bins: np.ndarray
  labels: Callable[[], np.ndarray]
  confidence: Callable[[], np.ndarray]


class Found(NamedTuple):
  """A Tally on the device: counts i32[C,C]; of each line, loss f32[h] and bins f32[h,NUM_BINS,3];
  labels and confidence u8[h,w]."""

  counts: jax.Array
  loss: jax.Array
  bins: jax.Array
  labels: jax.Array
  confidence: jax.Array


def tally(probs: jax.Array, mask: jax.Array) -> Found:
  """Scores a prediction on the device.

  Args:
    probs: f32[h,w,C].  mask: u8[h,w], labels 0..C-1 or VOID, which does not count.
  Returns:
    Found; the loss is NaN in a line where a probability is not finite.
  """
  labels, top = jnp.argmax(probs, axis=-1).astype(jnp.uint8), probs.max(axis=-1)
  counts, chosen = lax.platform_dependent(
    probs, mask, labels, cpu=count_by_scatter, default=count_by_product
  )
  valid = mask != VOID
  bins = lax.platform_dependent(
    jnp.where(valid, jnp.clip((NUM_BINS * top).astype(jnp.int32), 0, NUM_BINS - 1), NUM_BINS),
    jnp.stack([jnp.ones_like(top), (mask == labels).astype(jnp.float32), top], axis=-1),
    cpu=bin_by_scatter,
    default=bin_by_product,
  )
  loss = jnp.where(valid, -jnp.log(jnp.maximum(chosen, MIN_PROB)), 0.0).sum(axis=-1)
  is_finite = jnp.isfinite(probs.sum(axis=(1, 2)))  # probabilities are not negative
  confidence = jnp.round(255 * top).astype(jnp.uint8)
  return Found(counts, jnp.where(is_finite, loss, jnp.nan), bins, labels, confidence)


def bin_by_scatter(numbers: jax.Array, values: jax.Array) -> jax.Array:
  """Sums of values f32[h,w,K] by i32[h,w], 0..NUM_BINS, in each line; the last bin is left out."""
  lines = jnp.arange(len(numbers))[:, None]
  empty = jnp.zeros((len(numbers), NUM_BINS + 1, values.shape[-1]), values.dtype)
  return empty.at[lines, numbers].add(values)[:, :-1]


def bin_by_product(numbers: jax.Array, values: jax.Array) -> jax.Array:
  """The same by a matrix product for each line."""
  one_hot = (numbers[..., None] == jnp.arange(NUM_BINS)).astype(values.dtype)
  return jnp.einsum("hwi,hwk->hik", one_hot, values, precision=lax.Precision.HIGHEST)


def count_by_scatter(
  probs: jax.Array, mask: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """(counts i32[C,C], probability f32[h,w] of the true class); ten times as fast on CPUs."""
  num_classes, valid = probs.shape[-1], mask != VOID
  truth = jnp.where(valid, mask, 0).astype(jnp.int32)
  pairs = jnp.where(valid, truth * num_classes + labels, num_classes**2)
  counts = jnp.zeros(num_classes**2 + 1, jnp.int32).at[pairs].add(1)[:-1]
  chosen = jnp.take_along_axis(probs, truth[..., None], axis=-1)[..., 0]
  return counts.reshape(num_classes, num_classes), chosen


def count_by_product(
  probs: jax.Array, mask: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """The same by a matrix product, or by one for each line from `EXACT` pixels on."""
  truth, found = (x[..., None] == jnp.arange(probs.shape[-1]) for x in (mask, labels))
  one_hot = truth.astype(jnp.bfloat16), found.astype(jnp.bfloat16)
  sums = "hwi,hwj->ij" if mask.size < EXACT else "hwi,hwj->hij"
  counts = jnp.einsum(sums, *one_hot, preferred_element_type=jnp.float32).astype(jnp.int32)
  counts = counts.reshape(-1, *counts.shape[-2:]).sum(axis=0, dtype=jnp.int32)
  return counts, jnp.where(truth, probs, 0.0).sum(axis=-1)


tally_windows = jax.jit(jax.vmap(tally))


@jax.jit
def tally_part(
  log_probs: jax.Array, labels: jax.Array, row: int, shape: Sequence[int], origin: Sequence[int]
) -> Found:
  """`tally` of a part of an image.

  Args:
    log_probs: f32[n,h,w,C].  row: of them, that of the image.
    labels: u8[1,*sides] of the part.  shape, origin: see `enlarged_probs`.
  """
  probs = enlarged_probs(log_probs[row], shape, origin, labels.shape[1:])
  return tally_windows(lax.optimization_barrier(probs)[None], labels)


def prepare(predictor: Predictor, examples: Iterable[Mapping[str, Any]]) -> Iterator[Batch]:
  """Puts examples with masks on the devices, batch by batch."""
  devices = predictor.devices
  for windows in predictor.batches(examples, no_progress):
    image, masks, places = predictor.put(windows), [], []
    num = len(image) // len(devices)
    sides = [n - 2 * predictor.margin for n in image.shape[1:3]]
    for i, window in enumerate(windows):
      places.append([])
      for part in predictor.parts(window):
        if part.origin:
          row, labels = 0, np.full((1, part.side, part.side), VOID, np.uint8)
          arguments = (i % num, window.example["image"].shape[:2], part.origin)
          masks.append((labels, devices[i // num], arguments))
        else:
          row = i % num
          if row == 0:
            labels = np.full((num, *sides), VOID, np.uint8)
            masks.append((labels, devices[i // num], ()))
        labels[row][part.crop] = window.example["mask"][part.keep]
        places[-1].append((len(masks) - 1, row, part))
    masks = [Masks(jax.device_put(x, device), arguments) for x, device, arguments in masks]
    windows = [dataclasses.replace(window, pixels=None) for window in windows]
    yield Batch(windows, image, masks, places)


def tallies(
  predictor: Predictor, variables: Any, batches: Iterable[Batch]
) -> Iterator[tuple[dict, Tally]]:
  """Generates (example, Tally) in order; the devices work on a batch while the last one is read."""
  variables = parallel.put_on_local_devices(variables)
  before, pieces = None, []
  for batch in itertools.chain(batches, [None]):
    found = batch and count(batch, predictor.forward(variables, batch.image))
    if before:
      yield from merged(*before, pieces)
    before = batch and (batch, found)


def count(batch: Batch, outputs: jax.Array) -> list[Found]:
  """`tally` for each of `Batch.masks`, on its device.  outputs: of `Predictor.forward`"""
  shards = {shard.device: shard.data for shard in outputs.addressable_shards}
  return [
    (tally_part if masks.arguments else tally_windows)(
      shards[masks.labels.device], masks.labels, *masks.arguments
    )
    for masks in batch.masks
  ]


def merged(
  batch: Batch, found: Sequence[Found], pieces: list
) -> Iterator[tuple[dict, Tally]]:
  """The tallies of the images that end in a batch.

  Args:
    found: of `count`.  pieces: of an image that began in a batch before; updated.
  """
  numbers = jax.device_get([part[:3] for part in found])
  for window, places in zip(batch.windows, batch.places, strict=True):
    for i, row, part in places:
      pieces.append((*(x[row] for x in numbers[i]), (found[i], row, part)))
    if window.is_last:
      counts, losses, bins, parts = zip(*pieces, strict=True)
      pieces.clear()
      counts = np.sum(counts, axis=0, dtype=np.int64)
      loss = float(np.concatenate(losses).sum(dtype=np.float64))
      bins = np.concatenate(bins).sum(axis=0, dtype=np.float64)
      join = functools.partial(joined, window.example["mask"].shape, parts)
      maps = [functools.partial(join, name) for name in ("labels", "confidence")]
      yield window.example, Tally(counts, loss, bins, *maps)


def joined(shape: Sequence[int], pieces: Iterable[tuple], name: str) -> np.ndarray:
  """u8[H,W], one of the maps of Found, from [(Found of some windows, row of it, Part)]."""
  result = np.empty(shape, np.uint8)
  for found, row, part in pieces:
    result[part.keep] = np.asarray(getattr(found, name))[row][part.crop]
  return result


def for_scores(predict: Callable, variables: Any, keep: Callable = iter) -> Callable:
  """What `evaluation.score` calls.

  Args:
    predict: a Predictor, or what follows one, such as a CRF.
    keep: function from batches to batches; see `data.stored.Kept`.
  Returns:
    function of examples that generates (example, Tally), or (example, f32[H,W,C] probabilities) if
    something follows the Predictor
  """

  def run(examples):
    if isinstance(predict, Predictor):
      return tallies(predict, variables, keep(prepare(predict, examples)))
    return predict(variables, examples)

  return run
