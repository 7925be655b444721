"""Scores of a network on a whole split, at the native size of every mask."""

import numpy as np

from jaxseg import VOID, UserError
from jaxseg.data.datasets import connected_components
from jaxseg.instance_metrics import instance_scores
from jaxseg.metrics import confusion_matrix, scores
from jaxseg.parallel import sum_over_processes

INSTANCE_SCORES = ("v_rand", "v_info", "warping_error")


def evaluate(predict, examples, classes, *, instances=False, sample_at=()):
  """Runs every example once and adds up one confusion matrix.

  Args:
    predict: function of examples that yields (example, f32[H,W,C] probabilities); see `predict`.
    examples: this process' share, dicts of "image" and "mask"; see `input_pipeline`.
    classes: names.
    instances: adds the means over images of INSTANCE_SCORES, see `instance_metrics`; the true
      instances are the example's, if it has any, or the connected components of its mask.
    sample_at: positions of the examples to return with their predictions.
  Returns:
    ({"loss", "pixel_accuracy", "miou": float, "iou", "dice": {class: float or None},
    "num_images": int}, the same in all processes; the loss is the mean cross-entropy per pixel;
    [(image u8[H,W,D], mask u8[H,W], prediction u8[H,W])] of this process)
  Raises:
    UserError: a probability that is not finite, or no pixel with a label; in all processes.
  """
  counts = np.zeros((len(classes), len(classes)), np.int64)
  num_images, num_bad, loss_sum, samples = 0, 0, 0.0, []
  instance_sums = np.zeros((2, len(INSTANCE_SCORES)))  # of scores, and how many are not NaN
  for example, probs in predict(examples):
    mask, labels = example["mask"], probs.argmax(-1).astype(np.uint8)
    counts += confusion_matrix(mask, labels, len(classes))
    valid = mask != VOID
    truth = np.take_along_axis(probs[valid], mask[valid][:, None], axis=-1)
    if np.isfinite(probs).all():
      loss_sum -= float(np.log(np.maximum(truth, 1e-30)).sum())
    else:
      num_bad += 1
    if instances:
      found = np.array(score_instances(example, labels))
      instance_sums += np.nan_to_num(found), np.isfinite(found)
    if num_images in sample_at:
      samples.append((example["image"], mask, labels))
    num_images += 1
  # Fractions travel as integers of 2^-20, so that one exact sum serves all.
  fractions = np.round(np.array([loss_sum, *instance_sums.ravel()]) * 2**20)
  totals = np.array([num_images, num_bad, *fractions, *counts.ravel()], np.int64)
  num_images, num_bad, *rest = sum_over_processes(totals)
  loss_sum, *instance_sums = np.array(rest[: len(fractions)]) / 2**20
  counts = rest[len(fractions) :]
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
  for score in ("iou", "dice"):
    values = zip(classes, result[score], strict=True)
    result[score] = {name: None if np.isnan(value) else float(value) for name, value in values}
  if instances:
    sums, nums = np.reshape(instance_sums, (2, -1))
    means = zip(INSTANCE_SCORES, sums, nums, strict=True)
    result |= {name: float(total / n) if n else None for name, total, n in means}
  loss = float(loss_sum) / int(counts.sum())
  return {**result, "loss": loss, "num_images": int(num_images)}, samples


def score_instances(example, labels):
  """INSTANCE_SCORES of a prediction.  labels: u8[H,W]"""
  mask = example["mask"]
  truth = example["instances"] if "instances" in example else connected_components(mask)
  valid = mask != VOID
  found = instance_scores(truth, connected_components(np.where(valid, labels, 0)), valid)
  return [found[name] for name in INSTANCE_SCORES]
