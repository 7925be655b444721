"""The parts that a config names."""

import warnings

import pytest
import tiny
from tiny import error_of

from configs import default
from jaxseg import DataWarning, build
from jaxseg.data.input_pipeline import Sampling


@pytest.mark.parametrize(
  "encoder, pretrained, freeze, frozen",
  [
    ("mobilenet_v2", "imagenet", True, True),
    ("mobilenet_v2", "imagenet", False, False),
    ("mobilenet_v2", "", True, False),
    ("", "imagenet", True, False),
  ],
)
def test_only_pretrained_encoders_are_frozen(encoder, pretrained, freeze, frozen):
  config = tiny.make_config(
    1, model__encoder=encoder, model__pretrained=pretrained, model__freeze_encoder=freeze
  )
  assert build.is_frozen(config) is frozen


def test_build_model_passes_on_what_the_config_says():
  config = tiny.make_config(1, model__norm=False, model__dropout=0.25, model__up="resize")
  model = build.build_model(config, tiny.INFO)
  assert (model.num_classes, model.widths, model.norm) == (3, (4, 8), False)
  assert (model.dropout, model.up, model.axis_name) == (0.25, "resize", None)
  model = build.build_model(tiny.make_config(1, train__parallel="pmap"), tiny.INFO)
  assert model.norm is True and model.axis_name is not None


def test_network_line():
  """Of a frozen encoder, only the rest is trained."""
  config = tiny.make_config(1)
  cost = {"num_parameters": 2_000_000, "flop": 2_500_000_000, "memory_bytes": None}
  line = build.network_line(config, build.build_model(config, tiny.INFO), tiny.INFO, cost)
  assert line.startswith("unet: 2,000,000 parameters, 2.5 GFLOP") and "32 x 32 px" in line
  changes = {"model__name": "encoder_unet", "model__encoder": "mobilenet_v2"}
  config = tiny.make_config(1, model__pretrained="imagenet", model__widths=(8,) * 4, **changes)
  model = build.build_model(config, tiny.INFO)
  # MobileNetV2 without its last two layers has 1,811,072 parameters.
  line = build.network_line(config, model, tiny.INFO, {**cost, "flop": None})
  assert line == "encoder_unet on mobilenet_v2: 2,000,000 parameters (188,928 trained)"


@pytest.mark.parametrize("key, value", [("separable", False), ("output_stride", 8)])
def test_keys_that_the_network_does_not_have(key, value):
  config = tiny.make_config(1, **{f"model__{key}": value})
  default_value = default.keys()[f"model.{key}"].default
  message = error_of(build.check_model_keys, config)
  assert f"config.model.{key} is {value!r}" in message and repr(default_value) in message
  build.check_model_keys(tiny.make_config(1))
  config = tiny.make_config(1)
  with config.unlocked():
    config.model.depth = 3
  assert "config.model.depth: unet has no such option" in error_of(build.check_model_keys, config)


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_build_batches_passes_on_how_to_sample(share, monkeypatch):
  """Names become labels, and classes that do not occur are left out."""
  monkeypatch.setattr(build, "train_batches", lambda source, **options: options["sampling"])
  config = tiny.make_config(
    1, data__class_crops=0.5, data__crop_classes=("nowhere", "sky"), data__class_balanced=share
  )
  counts = {"examples": {"sky": [0, 2], "road": [1], "nowhere": []}} if share else None
  sampling = build.build_batches(config, tiny.INFO, [], 0, counts)
  expected = {"class_crops": 0.5, "crop_labels": (2, 0), "class_balanced": share}
  assert sampling == Sampling(**expected, examples=[[0, 2], [1]] if share else ())


def test_an_evaluation_split_that_folds_hide_is_named():
  config = tiny.make_config(1, data__name="cells", data__num_folds=5, data__eval_split="val")
  with pytest.warns(DataWarning, match="config.data.eval_split='val' is not used"):
    build.check_training(config)
  for split in ("", "test"):  # not set
    config.data.eval_split = split
    with warnings.catch_warnings(action="error"):
      build.check_training(config)
