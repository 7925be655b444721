"""Calibration error by hand, and temperatures that are known."""

import numpy as np
import pytest
from scipy import special

from jaxseg.calibration import at_temperature, bins_of, calibration_error, fit_temperature
from jaxseg.predict import tempered


def test_calibration_error_by_hand():
  """Bins of 4 and 6 pixels: |3 - 2.4| and |3 - 5.4|, of 10 pixels."""
  bins = np.array([[0, 0, 0.0], [4, 3, 2.4], [6, 3, 5.4]])
  assert calibration_error(bins) == pytest.approx(0.3)
  assert np.isnan(calibration_error(0 * bins))
  np.testing.assert_allclose(calibration_error(np.stack([bins, bins[::-1]])), [0.3, 0.3])


def test_bins():
  probs = np.array([[0.9, 0.1], [0.05, 0.95], [1.0, 0.0], [0.5, 0.5]])
  bins = bins_of(probs, np.array([0, 0, 1, 0]), 4)
  np.testing.assert_allclose(bins, [[0, 0, 0], [0, 0, 0], [1, 1, 0.5], [3, 1, 2.85]])


def draw(temperature, seed=0, num=40_000):
  """Logits whose softmax is right as often as it says, then sharpened: (log p, labels)."""
  rng = np.random.default_rng(seed)
  logits = 2 * rng.standard_normal((num, 4))
  probs = special.softmax(logits, axis=-1)
  labels = (probs.cumsum(-1) > rng.random((num, 1))).argmax(-1)
  return special.log_softmax(logits * temperature, axis=-1).astype(np.float32), labels


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_was_planted_is_found(temperature):
  log_probs, labels = draw(temperature)
  assert fit_temperature(log_probs, labels) == pytest.approx(temperature, rel=0.03)
  fitted = at_temperature(log_probs, temperature)
  before, after = (calibration_error(bins_of(np.exp(x), labels, 15)) for x in (log_probs, fitted))
  assert after < 0.01 and (temperature == 1 or before > 0.1)


def test_a_temperature_keeps_labels_and_sums():
  log_probs, _ = draw(1.0, num=1000)
  for found in (at_temperature(log_probs, 2.5), tempered(log_probs, 2.5)):
    np.testing.assert_allclose(found, special.log_softmax(log_probs / 2.5, axis=-1), atol=2e-6)
    np.testing.assert_array_equal(found.argmax(-1), log_probs.argmax(-1))
  assert tempered(log_probs, 1.0) is log_probs
