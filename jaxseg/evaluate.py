"""Scores of a network on a whole split, at the native size of every mask."""

import numpy as np

from jaxseg import VOID, UserError
from jaxseg.metrics import confusion_matrix, scores
from jaxseg.parallel import sum_over_processes


def evaluate(predict, examples, classes, *, sample_at=()):
  """Runs every example once and adds up one confusion matrix.

  Args:
    predict: function of examples that yields (example, f32[H,W,C] probabilities); see `predict`.
    examples: this process' share, dicts of "image" and "mask"; see `input_pipeline`.
    classes: names.  sample_at: positions of the examples to return with their predictions.
  Returns:
    ({"loss", "pixel_accuracy", "miou": float, "iou": {class: float or None}, "num_images": int},
    the same in all processes; the loss is the mean cross-entropy per pixel;
    [(image u8[H,W,D], mask u8[H,W], prediction u8[H,W])] of this process)
  Raises:
    UserError: a probability that is not finite, or no pixel with a label; in all processes.
  """
  counts = np.zeros((len(classes), len(classes)), np.int64)
  num_images, num_bad, loss_sum, samples = 0, 0, 0.0, []
  for example, probs in predict(examples):
    mask, labels = example["mask"], probs.argmax(-1).astype(np.uint8)
    counts += confusion_matrix(mask, labels, len(classes))
    valid = mask != VOID
    truth = np.take_along_axis(probs[valid], mask[valid][:, None], axis=-1)
    if np.isfinite(probs).all():
      loss_sum -= float(np.log(np.maximum(truth, 1e-30)).sum())
    else:
      num_bad += 1
    if num_images in sample_at:
      samples.append((example["image"], mask, labels))
    num_images += 1
  # The loss travels as an integer of 2^-20 nats, so that one exact sum serves all.
  totals = np.array([num_images, num_bad, round(loss_sum * 2**20), *counts.ravel()], np.int64)
  num_images, num_bad, loss_sum, *counts = sum_over_processes(totals)
  if num_bad:
    raise UserError(
      f"the network's output is not finite for {num_bad} of {num_images} images; train again with "
      "a lower config.train.learning_rate"
    )
  counts = np.array(counts).reshape(len(classes), len(classes))
  if not counts.any():
    raise UserError(
      f"no pixel of the {num_images} images has a label; correct config.data.eval_split"
    )
  result = scores(counts)
  iou = {
    name: None if np.isnan(value) else float(value)
    for name, value in zip(classes, result["iou"], strict=True)
  }
  loss = float(loss_sum) / 2**20 / int(counts.sum())
  return {**result, "loss": loss, "iou": iou, "num_images": int(num_images)}, samples
