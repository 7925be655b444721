"""The confusion matrix and the scores that derive from it."""

import numpy as np

from jaxseg import VOID


def confusion_matrix(mask, prediction, num_classes):
  """Counts of (true, predicted) label pairs; VOID pixels of `mask` are left out.

  Args:
    mask, prediction: u8 arrays of one shape, labels 0..C-1.
  Returns:
    i64[C,C], rows are the truth. Integer, because float32 stops counting at 2^24.
  """
  valid = mask != VOID
  pairs = mask[valid].astype(np.int64) * num_classes + prediction[valid]
  counts = np.bincount(pairs, minlength=num_classes**2)
  return counts.reshape(num_classes, num_classes)


def scores(counts):
  """Scores of a confusion matrix summed over a whole data set.

  IoU of a class = true positives / (truth + prediction - true positives), in pixels of all images
  together; Dice = 2 true positives / (truth + prediction). A class that neither truth nor
  prediction has gets NaN and stays out of the mean.

  Args:
    counts: int[C,C], rows are the truth.
  Returns:
    {"pixel_accuracy", "miou": float, "iou", "dice": f64[C]}; NaN where there is nothing to count.
  """
  counts = np.asarray(counts, np.float64)
  hits, union = np.diag(counts), counts.sum(0) + counts.sum(1) - np.diag(counts)
  iou = np.divide(hits, union, out=np.full(len(hits), np.nan), where=union > 0)
  return {
    "pixel_accuracy": float(hits.sum() / counts.sum()) if counts.sum() else float("nan"),
    "miou": float(np.nanmean(iou)) if np.isfinite(iou).any() else float("nan"),
    "iou": iou,
    "dice": 2 * iou / (1 + iou),
  }
