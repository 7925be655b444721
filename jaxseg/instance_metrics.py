"""Scores of separated cells, as in the ISBI 2012 challenge: split, merged, missed and invented."""

import functools
import itertools

import numpy as np
from scipy import ndimage, sparse, special


def instance_scores(
  truth: np.ndarray, prediction: np.ndarray, valid: np.ndarray | None = None
) -> dict[str, float]:
  """The scores of one image.

  Args:
    truth, prediction: i32[H,W], 0 = background, 1..n = one id per cell. For the warping error,
      background has to separate the cells (see `data.cells`): it sees only ids > 0.
    valid: bool[H,W] or None; a pixel that is not valid is background in both (and still counts
      in the denominator of the warping error).
  Returns:
    {"v_rand", "v_info", "warping_error": float}
  """
  if valid is not None:
    truth, prediction = np.where(valid, truth, 0), np.where(valid, prediction, 0)
  return {
    **split_scores(truth, prediction),
    "warping_error": warping_error(truth > 0, prediction > 0),
  }


def split_scores(truth: np.ndarray, prediction: np.ndarray) -> dict[str, float]:
  """How well the pixels that share a segment are those that share a true cell.

  Foreground-restricted Rand and information scores (Arganda-Carreras et al. 2015, "Crowdsourcing
  the creation of image segmentation algorithms for connectomics", evaluation metrics), without
  their thinning of predicted borders. Of the n pixels with truth > 0, p_ij is the fraction in
  predicted segment i and true cell j, with sums s_i and t_j; S and T are the two labels. Splits and
  mergers have equal weight, alpha = 1/2:

    V_rand = sum p_ij^2 / (sum s_i^2 / 2 + sum t_j^2 / 2)    V_info = I(S;T) / (H(S)/2 + H(T)/2)

  A pixel of a cell that is predicted as background is a segment of its own (as in the SNEMI3D
  evaluation script); otherwise the predicted background would be one giant cell.

  Args:
    truth, prediction: i32[H,W], 0 = background, 1..n = one id per cell.
  Returns:
    {"v_rand", "v_info": float in [0, 1]}, 1 = perfect; NaN if there is no true cell. V_info of
    one cell in one segment, 0/0, is 1.
  """
  inside = truth > 0
  found = inside & (prediction > 0)
  n, num_found = int(inside.sum()), int(found.sum())
  if n == 0:
    return {"v_rand": float("nan"), "v_info": float("nan")}
  alone = n - num_found  # segments of one pixel: 1 each in a sum of squares, 1 log 1 = 0 in H
  table = sparse.csr_array(  # sums what falls on one (i, j)
    (np.ones(num_found, np.int64), (truth[found], prediction[found])),
    shape=(truth.max() + 1, prediction.max() + 1),
  )
  both, cells, segments = table.data, np.bincount(truth[inside]), table.sum(axis=0)
  v_rand = 2 * (both @ both + alone) / (segments @ segments + alone + cells @ cells)
  # n times the entropies: of one segment it is exactly 0.
  h_both, h_truth, h_segments = (
    special.xlogy(n, n) - special.xlogy(counts, counts).sum() for counts in (both, cells, segments)
  )
  total = h_truth + h_segments
  v_info = min(1.0, 2 * max(total - h_both, 0.0) / total) if total > 0 else 1.0
  return {"v_rand": float(v_rand), "v_info": float(v_info)}


@functools.cache
def _simple_points():
  """bool[256]: may a pixel with these 8 neighbours flip without any change of topology?

  Yes, if its 3x3 window has as many 4-connected pieces of foreground and as many 8-connected
  pieces of background after the flip as before. Bit k of the index = neighbour k in raster order.
  """

  def num_pieces(code, centre):
    bits = [code >> k & 1 for k in range(8)]
    window = np.array([*bits[:4], centre, *bits[4:]]).reshape(3, 3)
    return ndimage.label(window)[1], ndimage.label(1 - window, np.ones((3, 3)))[1]

  return np.array([num_pieces(code, 0) == num_pieces(code, 1) for code in range(256)])


def warping_error(truth_mask: np.ndarray, predicted_mask: np.ndarray) -> float:
  """Errors that remain when boundary shifts are ignored, as a fraction of all pixels.

  Jain et al. 2010, "Boundary learning by optimization with topological constraints": the truth is
  warped towards the prediction, flipping simple points where the two disagree, until none is left;
  the pixels that still disagree count. Foreground is 4-connected, background 8-connected, and
  everything outside the image is background.

  The minimum over all warpings is not searched. Only disagreeing pixels flip, in one fixed order,
  so this is an upper bound, and a border moved by more than its width is not followed. A missed
  cell costs 1 pixel (it shrinks to a point), an invented one and a hole cost their area (they
  cannot grow from nothing).

  Args:
    truth_mask, predicted_mask: bool[H,W], True = cell.
  Returns:
    float in [0, 1]
  """
  warped = np.pad(truth_mask, 1)
  rows, columns = np.nonzero(np.pad(truth_mask != predicted_mask, 1))
  width, warped = warped.shape[1], warped.ravel()
  window = itertools.product((-1, 0, 1), repeat=2)
  neighbours = np.array([i * width + j for i, j in window if (i, j) != (0, 0)])
  # Pixels of one phase are not neighbours: flipping them at once equals flipping them one by one.
  phases = [
    (rows * width + columns)[(rows % 2 == i) & (columns % 2 == j)]
    for i, j in itertools.product((0, 1), repeat=2)
  ]
  left, before = len(rows), None
  while left != before:
    for k, pixels in enumerate(phases):
      codes = warped[pixels[:, None] + neighbours] @ (1 << np.arange(8))
      simple = _simple_points()[codes]
      warped[pixels[simple]] ^= True
      phases[k] = pixels[~simple]
    left, before = sum(map(len, phases)), left
  return left / truth_mask.size
