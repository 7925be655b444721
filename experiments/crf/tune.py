"""Mean IoU and boundary F1 of a trained network for a grid of dense-CRF parameters.

python experiments/crf/tune.py --workdir=DIR --config.data.eval_split=val
  --spatial_weight=1,3 --bilateral_weight=5,10 --color_sigma=5,10,20

All combinations of the lists; a parameter without a list is that of the config. Choose on a split
that is not the one whose score is reported. The network sees every image once. Prints a line for
each and the best one, and writes all into crf.json in the work directory, the best first.
"""

import functools
import itertools
import json
import sys

import numpy as np
from absl import flags

from jaxseg import UserError, build, main, workdirs
from jaxseg.crf import dense_crf
from jaxseg.evaluation import score
from jaxseg.segmenter import load_run

PARAMETERS = ("spatial_weight", "spatial_sigma", "bilateral_weight", "bilateral_sigma",
              "color_sigma")  # fmt: skip
SCORES = ("miou", "boundary_f1", "pixel_accuracy")
LISTS = {name: flags.DEFINE_list(name, [], "values to try") for name in PARAMETERS}
NUM_IMAGES = flags.DEFINE_integer("num_images", 0, "of the split, evenly spread; 0: all")
BEST = flags.DEFINE_enum("best", "miou", SCORES, "score that counts")


def refined(examples, saved, crf):
  """(example, probabilities) pairs, behind a CRF unless there is none."""
  for example, probs in zip(examples, saved, strict=True):
    yield example, np.asarray(dense_crf(probs, example["image"], **crf)) if crf else probs


def run(arguments):
  overrides, arguments = main.split_arguments(arguments)
  workdir, config, values = main.configure(arguments, main.parse(arguments), overrides)
  options = config.crf.to_dict() | {"num_iterations": config.crf.num_iterations or 10}
  segmenter = load_run(workdir, {**values, "crf.num_iterations": 0})
  step, info = segmenter.step, segmenter.info
  _, source = build.open_split(config, "eval")
  num_images = min(NUM_IMAGES.value or len(source), len(source))
  chosen = [source[i * len(source) // num_images] for i in range(num_images)]
  saved = [probs for _, probs in segmenter.predict(chosen)]
  values = [[float(x) for x in LISTS[name].value] or [options[name]] for name in PARAMETERS]
  settings = [dict(zip(PARAMETERS, row, strict=True)) for row in itertools.product(*values)]
  rows = []
  for setting in [None, *settings]:
    refine = functools.partial(refined, saved=saved, crf=options | setting if setting else None)
    result, *_ = score(refine, chosen, info.classes, boundaries=True)
    row = {name: result[name] for name in SCORES}
    rows.append({"crf": setting, **row})
    print("  ".join(f"{x:.4f}" for x in row.values()), setting or "no CRF", flush=True)
  rows.sort(key=lambda row: -row[BEST.value])
  workdirs.write_json(
    workdir / "crf.json", {"step": step, "split": build.eval_name(config), "rows": rows}
  )
  print("\nbest:", json.dumps(rows[0]))


if __name__ == "__main__":
  try:
    run(sys.argv)
  except UserError as error:
    sys.exit(f"error: {error}")
