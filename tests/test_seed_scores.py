"""Scores of several seeds: means, spreads, and what does not go together."""

import json

import numpy as np
import pytest
from tiny import error_of

from jaxseg import metrics, seed_scores
from jaxseg.evaluation import readable


def test_a_class_that_a_seed_does_not_have(tmp_path):
  """Of other checkpoints, too, which the table says."""
  for seed, counts in (0, [[1, 1], [0, 2]]), (1, [[0, 0], [0, 4]]):
    scores = metrics.scores(*metrics.class_pixels(np.array(counts)))
    scores = {name: readable(x, ("sky", "road")) for name, x in scores.items()}
    names = ("miou", "iou", "dice", "accuracy")
    result = {"split": "test", "step": 3 + seed, **{name: scores[name] for name in names},
              "num_images": 2, "confusion": counts}  # fmt: skip
    (tmp_path / f"{seed}").mkdir()
    (tmp_path / f"{seed}" / "evaluation.json").write_text(json.dumps(result))
  folders = {seed: tmp_path / f"{seed}" for seed in (0, 1)}
  summary = seed_scores.summarize(folders)
  renamed = {**summary, "iou": {"values": summary["iou"]["road"]}}  # as a class may be called
  line = seed_scores.table(renamed).splitlines()[3]
  assert line.split() == ["iou", "values", "0.8333", "±", "0.2357", "0.6667", "1.0000"]
  assert summary["iou"]["sky"] == {"mean": None, "std": None, "values": [0.5, None]}
  assert summary["miou"]["mean"] == pytest.approx((7 / 12 + 1) / 2)
  rows = [line.split() for line in seed_scores.table(summary).splitlines()]
  assert rows[1:6] == [
    ["step", "3", "4"],
    ["miou", "0.7917", "±", "0.2946", "0.5833", "1.0000"],
    ["iou", "sky", "-", "0.5000", "-"],
    ["iou", "road", "0.8333", "±", "0.2357", "0.6667", "1.0000"],
    ["dice", "sky", "-", "0.6667", "-"],
  ]
  path = tmp_path / "1" / "evaluation.json"
  path.write_text(json.dumps({**result, "num_images": 3}))
  message = error_of(seed_scores.summarize, folders)
  assert f"{path} is of 3 images, but that of another seed of 2; make all anew" in message
  path.write_text(json.dumps({**result, "split": "val"}))
  message = error_of(seed_scores.summarize, folders)
  assert f"{path} is of the split 'val', but that of another seed of 'test'" in message
  path.unlink()
  message = error_of(seed_scores.summarize, folders)
  assert f"{path} is missing; make it with --mode=evaluate --workdir={tmp_path / '1'}" in message


def test_temperatures_of_seeds(tmp_path):
  """All have that of their calibration, or the same one, or none."""
  folders = {seed: tmp_path / f"{seed}" for seed in (0, 1)}

  def summarize(*temperatures):
    for folder, value in zip(folders.values(), temperatures, strict=True):
      found = metrics.scores(*metrics.class_pixels(np.array([[1, 1], [0, 2]])))
      scores = {name: readable(x, ("sky", "road")) for name, x in found.items()}
      overrides = {"predict.temperature": value} if value else {}
      result = {"split": "test", "step": 1, "num_images": 2, "confusion": [[1, 1], [0, 2]],
                "overrides": overrides, **scores}  # fmt: skip
      folder.mkdir(exist_ok=True)
      (folder / "evaluation.json").write_text(json.dumps(result))
    return seed_scores.summarize(folders)

  assert summarize(0, 0)["options"] == {}
  assert summarize(2.0, 2.0)["options"] == {"predict.temperature": 2.0}
  for folder, value in zip(folders.values(), (2.0, 1.5), strict=True):
    (folder / "calibration.json").write_text(json.dumps({"1": {"temperature": value}}))
  summary = summarize(2.0, 1.5)
  assert summary["options"] == {"predict.temperature": "of each seed"}
  assert "\neach with the temperature of its calibration\n" in seed_scores.table(summary)
  for before in 0, 1.0:
    message = error_of(summarize, 2.0, before)
    assert message.endswith(f"are of before the calibration: --mode=evaluate --workdir={tmp_path}")
  assert summarize(2.0, 2.0)["options"] == {"predict.temperature": 2.0}  # given by hand
  for folder in folders.values():
    (folder / "calibration.json").unlink()
  words = "1/evaluation.json was made with other options (predict.temperature=2.0)"
  assert words in error_of(summarize, 0, 2.0)  # which was given by hand
  for without, values in enumerate([(0, 2.0), (2.0, 0)]):
    calibration = folders[1 - without] / "calibration.json"
    calibration.write_text('{"1": {"temperature": 2.0}}')
    assert f"seeds are calibrated, but not {without}: " in error_of(summarize, *values)
    calibration.unlink()
