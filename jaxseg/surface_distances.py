"""Distances between true and predicted boundaries: HD95 and normalised surface distance."""

import math

import numpy as np
from scipy import ndimage

from jaxseg import VOID
from jaxseg.metrics import boundaries


def surface_scores(mask: np.ndarray, prediction: np.ndarray, tolerance: float) -> list[float]:
  """HD95 and NSD of an image, means over its classes.

  For each class, d are the Euclidean distances from each predicted boundary pixel to the nearest
  true one, and from each true one to the nearest predicted one. Boundaries are those of
  `metrics.boundary_f1`: the edges of the image and of VOID are none.

    HD95 = max of the 95th percentiles of both d (Huttenlocher et al. 1993, robust form)
    NSD = share of all d that are at most `tolerance` (Nikolov et al. 2018, surface Dice)

  A class with a boundary in truth or prediction alone has HD95 of the image's diagonal and NSD 0;
  with none in either, it is left out.

  Args:
    mask, prediction: u8[H,W].  tolerance: px.
  Returns:
    [HD95 in px, NSD]; NaN if no class is left
  """
  prediction = np.where(mask == VOID, VOID, prediction)
  true_edge, predicted_edge = boundaries(mask), boundaries(prediction)
  found = []
  for label in set(np.unique(mask)) | set(np.unique(prediction)):
    truth, predicted = true_edge & (mask == label), predicted_edge & (prediction == label)
    if truth.any() and predicted.any():
      both = [_distances(predicted, truth), _distances(truth, predicted)]
      near = np.concatenate(both) <= tolerance
      found.append((max(np.percentile(d, 95) for d in both), near.mean()))
    elif truth.any() or predicted.any():
      found.append((math.hypot(*mask.shape), 0.0))
  return np.mean(found, axis=0).tolist() if found else [math.nan, math.nan]


def _distances(points, others):
  """From each of some pixels to the nearest of others, px.  bool[H,W], bool[H,W] -> f64[n]"""
  rows, cols = (np.flatnonzero((points | others).any(axis)) for axis in (1, 0))
  box = np.s_[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
  return ndimage.distance_transform_edt(~others[box])[points[box]]
