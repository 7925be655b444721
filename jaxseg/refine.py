"""What may follow a prediction: the average over scales, a dense CRF, another temperature."""

import collections
import itertools
from collections.abc import Callable, Sequence

import numpy as np

from jaxseg import UserError
from jaxseg.calibration import at_temperature
from jaxseg.crf import dense_crf
from jaxseg.metrics import MIN_PROB
from jaxseg.ops import resizing_matrix
from jaxseg.predict import no_progress

MAX_WHOLE = 1 << 24  # px, the largest image in one piece; a CRF of 12 classes then takes 7 GiB


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
          view, dtype = resample(example["image"], shape), example["image"].dtype
          yield {"image": view if dtype == np.float32 else np.round(view).astype(dtype)}

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


def with_temperature(predict: Callable, temperature: float) -> Callable:
  """Another temperature of the probabilities of `predict`, see `predict.tempered`."""
  if temperature == 1.0:
    return predict

  def row_of(probs):
    log_probs = np.log(np.maximum(probs, MIN_PROB))
    return np.exp(at_temperature(log_probs, temperature)).astype(np.float32)

  def tempered(variables, examples, reduce=None, progress=no_progress):
    for example, probs in predict(variables, examples, progress=progress):
      probs = np.stack([row_of(row) for row in probs])  # in float64, one at a time
      yield example, reduce(probs) if reduce else probs

  return tempered


def with_crf(
  predict: Callable,
  *,
  num_iterations: int,
  exact: bool,
  to_picture: Callable[[np.ndarray], np.ndarray] = lambda image: image,
  **kernels: float,
) -> Callable:
  """Refines the predictions of `make_predictor` by a dense CRF, one whole image at a time.

  Tiles and views are merged first, and `reduce` gets the whole image.

  Args:
    predict: see `make_predictor`.
    num_iterations, exact, kernels: of `crf.dense_crf`; 0 iterations leave `predict` as it is.
    to_picture: function of an example's image that gives its colours, u8[H,W,D].
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
      probs = np.asarray(dense_crf(probs, to_picture(example["image"]), **options))
      yield example, reduce(probs) if reduce else probs

  return refine
