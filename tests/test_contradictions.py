"""Values that are fine alone and contradict each other, or do nothing: errors and notes."""

import jax
import pytest
import tiny
from tiny import error_of

from configs import default
from jaxseg import DataWarning, checks, models, notebook, unused_keys
from jaxseg.build import check_training
from jaxseg.models import cost

pytestmark = pytest.mark.usefixtures("photos")


def check(config):
  """All that training checks of a new run before it begins."""
  check_training(config)
  checks.check_own_keys(config)
  checks.check_with_data(config, tiny.INFO)


def refused(values):
  config = tiny.make_config(3)
  config.update_from_flattened_dict(values)
  with checks.settings.config_errors():
    check(config)


@pytest.mark.parametrize(
  "values, words",
  [
    ({"model.encoder": "resnet50"}, "model.encoder 'resnet50' unet no such option ''"),
    ({"model.output_stride": 16}, "model.output_stride unet no such option 32"),
    ({"model.pretrained": "imagenet"}, "model.pretrained unet no such option"),
    ({"model.freeze_norm": True}, "model.freeze_norm unet no such option False"),
    ({"model.name": "fcn32s", "model.encoder": "vgg16", "model.norm": False}, "model.norm fcn32s"),
    ({"model.name": "encoder_unet", "model.encoder": "vgg16", "model.padding": "valid"},
     "model.padding encoder_unet no such option"),
    ({"model.name": "deeplabv3", "model.encoder": "vgg16"}, "model.encoder vgg16 output_stride"),
    ({"model.name": "deeplabv3", "model.encoder": "xception65", "model.stem_stride": 2},
     "model.stem_stride deeplabv3 no such option 1"),
    ({"model.padding": "valid", "model.up": "resize"}, "model.padding model.up transposed"),
    ({"model.head": "sigmoid"}, "model.head sigmoid two classes softmax"),
    ({"data.fold": 3}, "data.fold is 3 data.num_folds is 0"),
    ({"data.num_folds": -1}, "data.num_folds is -1"),
    ({"data.fit": "resize", "data.class_crops": 0.5}, "data.class_crops data.fit 'crop'"),
    ({"data.fast_jpeg": True}, "data.fast_jpeg data.fit 'resize'"),
    ({"data.crop_classes": ("sky",)}, "data.crop_classes data.class_crops"),
    ({"data.crop_classes": ("sea",), "data.class_crops": 0.5}, "data.crop_classes 'sea' sky, road"),
    ({"data.crop_classes": ("sky", "sky"), "data.class_crops": 0.5}, "data.crop_classes once"),
    ({"data.normalization": "mean_std", "data.value_range": (0, 9)}, "value_range normalization"),
    ({"augment.shift": 33.0}, "augment.shift is 33.0 0 to 32"),
    ({"augment.blur": 17.0}, "augment.blur is 17.0 0 to 16"),
    ({"augment.elastic": 99.0}, "augment.elastic is 99.0 0 to 32"),
    ({"augment.scale": (2.0, 1.0)}, "augment.scale (2.0, 1.0) smallest, largest"),
    ({"augment.gamma": (2.0, 1.0)}, "augment.gamma (2.0, 1.0) smallest, largest"),
    ({"train.class_weights": (1.0, 1.0)}, "train.class_weights 2 3 classes"),
    ({"train.class_weights": (0.0, 0.0, 0.0)}, "train.class_weights all 0"),
    ({"train.losses.cross_entropy": 0.0}, "train.losses are all 0"),
    ({"train.losses.cross_entropy": 0.0, "train.losses.dice": 1.0, "train.border_weight": 5.0},
     "train.border_weight cross_entropy"),
    ({"train.profile_steps": (5, 3)}, "train.profile_steps (first, last)"),
    ({"train.accumulation_steps": 3}, "train.batch_size multiple of 24 accumulation steps"),
    ({"train.batch_size": 12}, "train.batch_size is 12 8"),
    ({"predict.output_stride": 8}, "predict.output_stride 8 DeepLab"),
    ({"data.fit": "resize", "predict.scales": (0.5, 1.0)}, "predict.scales data.fit crop"),
    ({"predict.scales": ()}, "predict.scales one or more"),
  ],
)  # fmt: skip
def test_contradictions_are_errors(values, words):
  message = error_of(refused, values)
  for word in words.split():
    assert word in message, message


NOTES = [
  ({"train.momentum": 0.5}, "config.train.optimizer to sgd"),
  ({"train.momentum": 0.5, "train.optimizer": "muon"}, "config.train.optimizer to sgd"),
  ({"train.adam_betas": (0.5, 0.5), "train.optimizer": "sgd"}, "config.train.optimizer to adam"),
  ({"train.adam_epsilon": 0.1, "train.optimizer": "sgd"}, "config.train.optimizer to adam"),
  ({"train.poly_power": 0.5}, "config.train.schedule to poly"),
  ({"train.focal_gamma": 1.0}, "config.train.losses.focal above 0"),
  ({"train.border_sigma": 1.0}, "config.train.border_weight above 0"),
  ({"augment.elastic_grid": 5}, "config.augment.elastic above 0"),
  ({"augment.border": "void", "augment.scale": (1.0, 1.0)}, "config.augment.scale, rotation"),
  ({"data.color_tolerance": 3}, "config.data.mask_colors or palette"),
  ({"crf.spatial_sigma": 1.0}, "config.crf.num_iterations above 0"),
  ({"crf.exact": True}, "config.crf.num_iterations above 0"),
  ({"eval.surface_tolerance": 3.0}, "config.eval.surface_distances=True"),
  ({"predict.tile": 64, "data.fit": "resize"}, "config.data.fit to crop"),
]
# What makes each of them count.
REMEDIES = {
  "config.train.optimizer to sgd": {"train.optimizer": "sgd"},
  "config.train.optimizer to adam": {"train.optimizer": "adam"},
  "config.train.schedule to poly": {"train.schedule": "poly"},
  "config.train.losses.focal above 0": {"train.losses.focal": 0.5},
  "config.train.border_weight above 0": {"train.border_weight": 1.0},
  "config.augment.elastic above 0": {"augment.elastic": 1.0},
  "config.augment.scale, rotation": {"augment.rotation": 5.0},
  "config.data.mask_colors or palette": {"data.palette": ((0, 0, 0),) * 3},
  "config.eval.surface_distances=True": {"eval.surface_distances": True},
  "config.crf.num_iterations above 0": {"crf.num_iterations": 3},
  "config.data.fit to crop": {"data.fit": "crop"},
}


@pytest.mark.parametrize("values, remedy", NOTES)
def test_keys_without_effect_are_noted_with_the_remedy(values, remedy, monkeypatch):
  monkeypatch.setattr(notebook, "_said", {})
  name, value = next(iter(values.items()))
  config = tiny.make_config(3)
  config.update_from_flattened_dict(values)
  with pytest.warns(DataWarning) as notes:
    check(config)
  texts = [str(note.message) for note in notes]
  assert any(
    text.startswith(f"config.{name}={value!r} has no effect: set {remedy}") for text in texts
  ), texts
  config.update_from_flattened_dict(REMEDIES[remedy])
  uses = unused_keys.TRAINING + unused_keys.PREDICTION
  assert not [text for text in unused_keys.unused(config, uses) if f".{name}=" in f".{text[7:]}"]


def test_every_rule_has_a_case():
  config = default.get_config()
  assert not [*unused_keys.unused(config, unused_keys.TRAINING + unused_keys.PREDICTION)]
  named = {name for values, _ in NOTES for name in values}
  for use in unused_keys.TRAINING + unused_keys.PREDICTION:
    for key in use.keys:
      assert any(name.startswith(key) for name in named), key
      assert any(name.startswith(key) for name in default.keys()), key


def test_no_key_of_a_shipped_config_is_without_effect():
  import test_configs  # its list of files

  for name in test_configs.NAMES:
    _, config = test_configs.load(name)
    uses = unused_keys.TRAINING + unused_keys.PREDICTION
    assert not [*unused_keys.unused(config, uses)], name


@pytest.mark.parametrize("parallel", ["jit", "pmap"])
def test_a_step_that_no_device_can_hold_is_refused(monkeypatch, parallel):
  """32,000 x 32,000 px: one feature map of width 4 is 16 GB, and the first level keeps some."""
  device = 8 * 2**30
  monkeypatch.setattr(cost, "device_bytes", lambda: device)
  values = {"data.image_size": 32_000, "train.parallel": parallel}
  message = error_of(refused, values)
  for word in "config.data.image_size is 32000 GiB 8.0 config.train.batch_size".split():
    assert word in message, message
  assert "config.train.accumulation_steps" in message and "config.parallel.space" in message
  monkeypatch.setattr(cost, "training_bytes", lambda *_: pytest.fail("takes seconds"))
  refused({"data.image_size": 32})


def test_devices_that_share_an_image_share_its_memory(monkeypatch):
  """A step that needs three devices' memory fits on four that share its image."""
  device = 1 << 30
  monkeypatch.setattr(cost, "device_bytes", lambda: device)
  monkeypatch.setattr(cost, "training_bytes", lambda *rest: rest[-1] * 3 * device)
  values = {"data.image_size": 20_000, "train.batch_size": 2, "parallel.space": 4}
  config = tiny.make_config(3)
  config.update_from_flattened_dict(values)
  checks.check_memory(config, tiny.INFO)
  config.update_from_flattened_dict({"parallel.space": 1, "train.batch_size": 8})
  assert "about 3.0 GiB" in error_of(checks.check_memory, config, tiny.INFO)


def test_bytes_of_a_step():
  """Of a convolution, activation and loss-free head: what the gradient of each needs is kept."""
  model = models.build("unet", 2, widths=(4, 8))
  variables = models.abstract_variables(model, 3)

  def count(size, batch_size, model=model):
    return cost.training_bytes(model, variables, 3, size, batch_size)

  # Outputs of the convolutions: two at each level down, an up-convolution, two after it; float32.
  outputs = 4 * (32 * 32 * (4 + 4 + 4 + 4 + 4) + 16 * 16 * (8 + 8))
  assert 2 * outputs < count(32, 2) < 12 * outputs
  fixed = 2 * count(32, 1) - count(32, 2)  # the parameters
  assert 0 <= fixed < 8 * cost.num_parameters(variables) + 4096
  assert count(32, 5) - fixed == 5 * (count(32, 1) - fixed)
  remat = models.build("unet", 2, widths=(4, 8), remat=True)
  assert count(32, 2, remat) < count(32, 2) / 2


def test_memory_of_the_device():
  assert 2**28 < cost.device_bytes() * jax.local_device_count() < 2**50


