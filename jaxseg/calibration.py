"""Whether probabilities are right as often as they say, and the temperature that makes them so."""

import numpy as np
from scipy import optimize


def calibration_error(bins: np.ndarray) -> np.ndarray:
  """Expected calibration error (ECE; Naeini et al. 2015, Guo et al. 2017, equation 3).

  ECE = sum over bins |right pixels - sum of probabilities| / pixels: the mean distance between the
  probability of the predicted class and how often it is right.

  Args:
    bins: f64[...,B,3], see `tally.Tally`.
  Returns:
    f64[...]; NaN without pixels
  """
  pixels, right, confidence = np.moveaxis(bins, -1, 0)
  with np.errstate(invalid="ignore"):  # 0 / 0
    return np.abs(right - confidence).sum(-1) / pixels.sum(-1)


def at_temperature(log_probs: np.ndarray, temperature: float) -> np.ndarray:
  """Log-probabilities at another temperature T, softmax(log p / T).  f32[...,C] -> f64[...,C]

  With p = softmax(logits) this is softmax(logits / T), without knowing the logits.
  """
  x = np.asarray(log_probs, np.float64) / temperature
  x = x - x.max(-1, keepdims=True)
  return x - np.log(np.exp(x).sum(-1, keepdims=True))


def fit_temperature(log_probs: np.ndarray, labels: np.ndarray) -> float:
  """The temperature of least cross-entropy (Guo et al. 2017, section 4.2), from 0.05 to 20.

  Args:
    log_probs: f32[N,C] of some pixels.  labels: their classes, [N].
  """

  def loss(log_temperature):
    found = at_temperature(log_probs, np.exp(log_temperature))
    return -found[np.arange(len(labels)), labels].mean()

  bounds = np.log(0.05), np.log(20)
  return float(np.exp(optimize.minimize_scalar(loss, bounds=bounds, method="bounded").x))


def bins_of(probs: np.ndarray, labels: np.ndarray, num_bins: int) -> np.ndarray:
  """The bins of `calibration_error` of some pixels.  f32[N,C], [N] -> f64[num_bins,3]"""
  confidence = np.nan_to_num(probs.max(-1)).clip(0, 1)  # of a network that is broken, too
  numbers = np.minimum((num_bins * confidence).astype(int), num_bins - 1)
  columns = np.ones(len(labels)), probs.argmax(-1) == labels, confidence
  return np.stack([np.bincount(numbers, x, num_bins) for x in columns], axis=-1)
