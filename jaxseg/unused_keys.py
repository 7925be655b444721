"""Config keys that change nothing while another key is as it is: a note for each that is set."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jaxseg import settings
from jaxseg.notebook import warn

Values = Mapping[str, Any]  # {"train.momentum": 0.9}


class Use(NamedTuple):
  """When keys have an effect.  keys: names, or "crf." for a group.  remedy: what makes it so."""

  keys: tuple[str, ...]
  has_effect: Callable[[Values], bool]
  remedy: str


def _moves(values):
  names = ("rotation", "shift", "elastic")
  return values["augment.scale"] != (1.0, 1.0) or any(values[f"augment.{x}"] for x in names)


def _has_colors(values):
  names = ("palette", "mask_colors", "void_colors", "label_space")
  return any(values[f"data.{name}"] for name in names)


TRAINING = (
  Use(("train.momentum",), lambda v: v["train.optimizer"] not in ("adam", "adamw", "muon"),
      "config.train.optimizer to sgd"),
  Use(("train.adam_betas", "train.adam_epsilon"), lambda v: v["train.optimizer"] != "sgd",
      "config.train.optimizer to adam, adamw or muon"),
  Use(("train.poly_power",), lambda v: v["train.schedule"] == "poly",
      "config.train.schedule to poly"),
  Use(("train.focal_gamma",), lambda v: v["train.losses.focal"] > 0,
      "config.train.losses.focal above 0"),
  Use(("train.border_sigma",), lambda v: v["train.border_weight"] > 0,
      "config.train.border_weight above 0"),
  Use(("augment.elastic_grid",), lambda v: v["augment.elastic"] > 0,
      "config.augment.elastic above 0"),
  Use(("augment.border",), _moves, "config.augment.scale, rotation, shift or elastic"),
  Use(("data.color_tolerance",), _has_colors, "config.data.mask_colors or palette"),
)  # fmt: skip
PREDICTION = (
  Use(("crf.",), lambda v: v["crf.num_iterations"] > 0, "config.crf.num_iterations above 0"),
  Use(("eval.surface_tolerance",), lambda v: v["eval.surface_distances"],
      "config.eval.surface_distances=True"),
  Use(("predict.tile",), lambda v: v["data.fit"] == "crop", "config.data.fit to crop"),
)


def unused(config: ConfigDict, uses: tuple[Use, ...]) -> Iterator[str]:
  """Notes about keys that are set and have no effect.  uses: of these."""
  values, declared = settings.config_values(config), settings.declared_keys()
  for use in uses:
    if use.has_effect(values):
      continue
    for name in declared:
      if name.startswith(use.keys) and values[name] != declared[name].default:
        yield f"config.{name}={values[name]!r} has no effect: set {use.remedy}"


def warn_of_unused(config: ConfigDict, uses: tuple[Use, ...] = PREDICTION) -> None:
  """Says the notes of `unused`, each once."""
  for text in unused(config, uses):
    warn(text)
