"""The model card of a packed network: Markdown with the header that the Hugging Face Hub reads."""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxseg import __version__
from jaxseg.data.decode import DatasetInfo
from jaxseg.metrics import CLASS_SCORES
from jaxseg.printing import printable, shown
from jaxseg.report_page import title_of

LICENCE = """\
> **Licence: not set.** Before you publish this, choose one that the licences of the training data
> and of pretrained weights permit, and write it into the first lines of this file."""


@dataclasses.dataclass(frozen=True)
class Facts:
  """What a run knows of a network.

  Attributes:
    name: title.
    values: {config key: value}, without places on a machine.  recipe: those not at their default.
    info: of the training data.
    step: of the checkpoint.
    num_parameters: of the network.
    num_images: {"train": number}, "eval" as well, as far as it is known.
    scores: see `evaluation.score`, with "split"; None if there are none.
    num_evaluations: on that split, of which the best gave the checkpoint.
    own: names of its network and encoder that are not part of jaxseg.
    picture: file name of a sheet of predictions, or "".
  """

  name: str
  values: Mapping[str, Any]
  recipe: Mapping[str, Any]
  info: DatasetInfo
  step: int
  num_parameters: int
  num_images: Mapping[str, int]
  scores: Mapping[str, Any] | None
  num_evaluations: int
  own: Sequence[str] = ()
  picture: str = ""


def write_card(facts: Facts) -> str:
  """The text of README.md: what the run knows, and nothing else."""
  values, place = facts.values, f"hf:{repository(facts.name)}"
  network = " on ".join(f"`{x}`" for x in _network(values))
  shots = f"\n\nImage, truth, prediction:\n\n![Predictions]({facts.picture})"
  own = " and ".join(f"`{name}`" for name in facts.own)
  needs = f" and the file that adds {own}: import it first, or pass it as `--config`"
  return f"""\
---
library_name: jaxseg
pipeline_tag: image-segmentation
# license: apache-2.0
tags:
{_bullets(["image-segmentation", "semantic-segmentation", "jax", "flax", *_tags(values)])}
---

# {_text(facts.name)}

{LICENCE}

Semantic segmentation of {_images(facts.info)} into {len(facts.info.classes)} classes:
{network}, {facts.num_parameters:,} parameters, trained with jaxseg.

## Use

With jaxseg {__version__} or newer{needs if own else ""}:

```python
import jaxseg

seg = jaxseg.load("{place}")  # OWNER as in the address of this page; or a folder
labels = seg("photo.png")  # u8[H,W], see the classes below
picture = seg.overlay("photo.png", labels)  # u8[H,W,3]
```

```
python -m jaxseg.main --mode=predict --model={place} --input=photos --output=labels
```

## Classes

{_classes(facts.info)}

## Data

{_bullets(_data(facts))}

## Recipe

The keys of the config that differ from jaxseg's defaults (`config.json` has all of them, and long
values whole):

```
{_recipe(facts.recipe)}
```

## Scores

{_scores(facts)}{shots if facts.picture else ""}

## Limits

{_bullets(_limits(facts))}
"""


def repository(name: str) -> str:
  """How a repository of this name could be called on the Hub, which has fewer letters."""
  return f"OWNER/{re.sub('[^A-Za-z0-9_.]+', '-', name).strip('-.') or 'NAME'}"


def _network(values):
  return [values[key] for key in ("model.name", "model.encoder") if values[key]]


def _tags(values):
  return [name for name in _network(values) if re.fullmatch(r"[a-z][\w-]*", name, re.ASCII)]


def _images(info):
  kind = {1: "grey", 3: "RGB"}.get(info.channels, f"{info.channels}-band")
  return f"{kind} images ({info.dtype})"


def _classes(info):
  rows = [
    (label, _text(name), f"`#{r:02x}{g:02x}{b:02x}`", f"{r}, {g}, {b}")
    for label, (name, (r, g, b)) in enumerate(zip(info.classes, info.palette, strict=True))
  ]
  return _table(("label", "class", "colour", "R, G, B"), rows)


def _data(facts):
  values, info = facts.values, facts.info
  source = values["data.name"], values["data.source"]
  if source[0] == "folder":
    yield "data set: a folder of images and masks, whose name jaxseg does not know; add it here"
  else:
    yield "data set: " + ", ".join(_text(x) for x in source if x)
  held_out = {"train": "data.train_split", "eval": "data.eval_split"}
  if values["data.num_folds"]:
    del held_out["eval"]
    yield f"fold {values['data.fold']} of {values['data.num_folds']} was held out for evaluation"
  for role, key in held_out.items():
    number = facts.num_images.get(role)
    counted = f", {number:,} images" if number is not None else ""
    what = {"train": "trained on", "eval": "scored on"}[role]
    yield f"{what} the split {_text(values[key])}{counted}"
  if info.bands:
    yield f"the channels are the bands {shown(list(info.bands))} of the files, counted from 0"
  if info.value_range:
    cut = "cut off" if info.clip else "kept"
    what = f"stored values of black and white {shown(list(info.value_range))}"
    yield f"{what}; values beyond are {cut}"
  else:
    yield "black and white are the ends of the full range of the type"


def _recipe(recipe):
  return "\n".join(printable(f"config.{key} = {shown(value)}") for key, value in recipe.items())


def _scores(facts):
  scores = facts.scores
  if scores is None:
    return "None: the run was not evaluated."
  found = [(key, x) for key, x in scores.items() if isinstance(x, float)]
  rows = [
    (_text(title_of(key)), f"{x:.4f}", _interval(scores.get(f"{key}_interval")))
    for key, x in found
  ]
  intervals = scores.get("iou_interval", {})
  classes = [
    (
      _text(name),
      *(_number(scores[key].get(name)) for key in CLASS_SCORES),
      _interval(intervals.get(name)),
    )
    for name in facts.info.classes
  ]
  return f"""\
Checkpoint of step {facts.step}, on the {scores["num_images"]:,} images of {_text(scores["split"])}:

{_table(("score", "value", "95% interval"), rows)}

{_table(("class", "IoU", "Dice", "accuracy", "95% interval of the IoU"), classes)}"""


def _limits(facts):
  values, scores = facts.values, facts.scores
  size = f"{values['data.image_size']} x {values['data.image_size']} px"
  if values["data.fit"] == "crop":
    yield (
      f"It was trained on windows of {size} and sees images at the size they have. Objects of "
      "another size in pixels than in its training data are new to it."
    )
  else:
    yield (
      f"It sees every image squeezed to {size}: finer detail is lost, and images of another shape "
      "are distorted."
    )
  if not scores:
    yield "It was not scored: nothing is known of its quality."
    return
  yield (
    "It was scored on images of the same data set alone. How it does on those of another source "
    "is untested."
  )
  yield (
    "The scores count pixels, of all images together: small objects weigh little in them, and a "
    "few images may be far worse. Pixels without a label do not count."
  )
  if values["predict.temperature"] and "ece" in scores:
    yield (
      "If `--mode=calibrate` found the temperature of the probabilities, it did so on these "
      "images: cross-entropy and ECE are then optimistic."
    )
  if "miou_interval" in scores:
    yield (
      "The intervals come from drawing these images again, with replacement. They do not cover "
      "another training, and are too narrow for images that are alike."
    )
  if facts.num_evaluations > 1:
    yield (
      f"The checkpoint is the best of {facts.num_evaluations} by its mean IoU on these images: "
      "that makes the scores somewhat too good."
    )


def _number(value):
  return "-" if value is None else f"{value:.4f}"


def _interval(pair):
  return "{:.4f} to {:.4f}".format(*pair) if pair else "-"


def _table(heads: Sequence[str], rows: Iterable[Sequence]) -> str:
  lines = [heads, ["---"] * len(heads), *rows]
  return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _bullets(lines):
  return "\n".join(f"- {line}" for line in lines)


def _text(text):
  """Text that Markdown shows as it is, on one line."""
  return re.sub(r"([\\`*_\[\]<>#|~$&])", r"\\\1", printable(text))
