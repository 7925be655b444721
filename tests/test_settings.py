"""What can be wrong with a config is found before anything is computed or written."""

import jax
import pytest
import tiny
from tiny import error_of

from configs import default
from jaxseg import UserError, settings
from jaxseg.build import check_training
from jaxseg.training import train

pytestmark = pytest.mark.usefixtures("photos")


@pytest.mark.parametrize(
  "key, value, words",
  [
    ("train.batch_size", 12, "config.train.batch_size is 12 8"),
    ("train.batch_size", 0, "config.train.batch_size is 0 positive"),
    ("train.num_epochs", 0.0, "config.train.num_epochs positive"),
    ("train.num_epochs", float("nan"), "config.train.num_epochs nan finite"),
    ("train.learning_rate", float("inf"), "config.train.learning_rate inf finite"),
    ("train.eval_every_epochs", -1.0, "config.train.eval_every_epochs -1.0 positive"),
    ("train.checkpoint_every_epochs", 0.0, "config.train.checkpoint_every_epochs positive"),
    ("train.log_every_steps", 0, "config.train.log_every_steps positive"),
    ("train.class_weights", (1.0, 2.0), "config.train.class_weights 2 3 sky road nowhere"),
    ("train.optimizer", "adan", "config.train.optimizer 'adan' adamw"),
    ("train.schedule", "cos", "config.train.schedule 'cos' cosine"),
    ("train.parallel", "pjit", "config.train.parallel 'pjit' pmap"),
    ("train.precision", "float64", "config.train.precision 'float64' bfloat16"),
    ("data.name", "cels", "config.data.name 'cels' cells"),
    ("data.fit", "stretch", "config.data.fit 'stretch' crop"),
    ("data.data_dir", "/no/such/folder", "config.data.data_dir /no/such/folder"),
    ("data.image_size", -32, "config.data.image_size -32 positive"),
    ("data.num_threads", -1, "config.data.num_threads -1"),
    ("data.seed", -1, "config.data.seed -1"),
    ("seed", 2**32, f"config.seed {2**32}"),
    ("augment.scale", (0.5,), "config.augment.scale (0.5,)"),
    ("augment.scale", (2.0, 0.5), "config.augment.scale (2.0, 0.5)"),
    ("augment.scale", (), "config.augment.scale ()"),
    ("augment.scale", (0.0, 1.0), "config.augment.scale 0.0 positive"),
    ("augment.contrast", (1.2, 0.8), "config.augment.contrast (1.2, 0.8)"),
    ("model.name", "unett", "config.model.name 'unett' unet"),
    ("model.up", "nearest", "config.model.up 'nearest' resize"),
    ("model.dropout", 1.0, "config.model.dropout 1.0"),
    ("model.padding", "full", "config.model.padding 'full' same valid"),
    ("model.head", "tanh", "config.model.head 'tanh' softmax sigmoid"),
    ("model.stem_stride", 3, "config.model.stem_stride 3 1 2"),
    ("augment.elastic_grid", 1, "config.augment.elastic_grid 1 2"),
    ("augment.border", "black", "config.augment.border 'black' mirror void"),
    ("augment.rotation", 270.0, "config.augment.rotation 270.0 180"),
    ("train.border_weight", -1.0, "config.train.border_weight -1.0 0"),
    ("train.losses.dice", -0.5, "config.train.losses.dice -0.5 0"),
    ("train.losses.cross_entropy", 0.0, "config.train.losses all cross_entropy focal dice lovasz"),
    ("train.focal_gamma", -1.0, "config.train.focal_gamma -1.0 0 10"),
    ("data.num_folds", 21, "config.data.num_folds 21 20"),
    ("predict.tta", "all", "config.predict.tta 'all' flip dihedral"),
    ("eval.batch_size", 0, "config.eval.batch_size positive"),
    ("train.adam_betas", (0.9, 1.0), "config.train.adam_betas (0.9, 1.0) 0.999999"),
    ("train.clip_grad_norm", -1.0, "config.train.clip_grad_norm -1.0 0"),
    ("train.profile_steps", (3,), "config.train.profile_steps (3,) two"),
    ("augment.extra", ("glow",), "config.augment.extra glow"),
    ("model.separable", False, "config.model.separable False unet True"),
    ("model.encoder", "vgg16", "config.model.encoder 'vgg16' unet"),
    ("model.pretrained", "imagenet", "config.model.pretrained 'imagenet' unet"),
    ("model.freeze_norm", True, "config.model.freeze_norm unet"),
    ("data.fold", 2, "config.data.fold is 2 num_folds"),
    ("train.adam_betas", (), "config.train.adam_betas () two"),
    ("train.class_weights", (-1.0, 1.0, 1.0), "config.train.class_weights 0"),
    ("train.class_weights", (0.0, 0.0, 0.0), "config.train.class_weights all 0"),
    ("train.profile_steps", (5, 3), "config.train.profile_steps (5, 3) first"),
    ("train.num_epochs", 1e308, "config.train.num_epochs 1e+308"),
    ("train.lr_multipliers", ((1, 2, 3),), "config.train.lr_multipliers (1, 2, 3)"),
    ("train.lr_multipliers", (("head", -1.0),), "config.train.lr_multipliers -1.0"),
    ("augment.brightness", -1.0, "config.augment.brightness -1.0"),
    ("augment.contrast", (-1.0, 1.0), "config.augment.contrast"),
    ("model.encoder", "resnet99", "config.model.encoder 'resnet99' resnet101"),
  ],
)
def test_settings_that_cannot_be(tmp_path, monkeypatch, key, value, words):
  """Each is found before anything is compiled or written."""
  monkeypatch.setattr(jax, "jit", lambda *_, **__: None)
  config = tiny.make_config(3)
  config.update_from_flattened_dict({key: value})
  message = error_of(train, config, tmp_path / "workdir")
  for word in words.split():
    assert word in message, message
  assert not (tmp_path / "workdir").exists()


@pytest.mark.parametrize(
  "key, value",
  [
    ("class_weights", (1.0, 2.0, 3.0)),
    ("class_balance", "median_frequency"),
    ("border_weight", 10.0),
  ],
)
def test_weights_that_no_loss_would_use(key, value):
  losses = {"train__losses__cross_entropy": 0.0, "train__losses__dice": 1.0}
  config = tiny.make_config(3, **losses, **{f"train__{key}": value})
  with pytest.raises(UserError, match=f"config.train.{key} is .*cross_entropy and focal"):
    check_training(config)
  config.train.losses.focal = 0.1
  check_training(config)


def test_sizes_that_valid_convolutions_do_not_take(tmp_path):
  config = tiny.make_config(3, model__padding="valid", data__image_size=33)
  message = error_of(train, config, tmp_path / "workdir")
  for word in "33 2 levels 32 34".split():
    assert word in message, message
  assert not (tmp_path / "workdir").exists()


def test_unknown_split(tmp_path):
  config = tiny.make_config(3, data__name="cells", data__eval_split="val")
  message = error_of(train, config, tmp_path / "workdir")
  assert "'val'" in message and "train, test" in message


def test_check_finds_a_wrong_value_of_every_key():
  """Whatever the key, a value of another type is one line, in every mode."""
  config = tiny.make_config(3)
  for name, declared in settings.declared_keys().items():
    wrong = 3 if isinstance(declared.default, str | tuple) else "3"
    message = error_of(settings.override, config, {name: wrong})
    assert message.startswith(f"config.{name} is {wrong!r}, but has to be")


@pytest.mark.parametrize("value", [True, None, [], "a", -1])
def test_a_group_that_is_none(value):
  """Of a config.json that somebody has edited."""
  saved = {**default.get_config().to_dict(), "augment": value}
  assert "the config of the run has config.augment as a key and as a group" in error_of(
    settings.from_run, saved
  )


def test_override():
  config = tiny.make_config(3)
  other = settings.override(config, {"predict.tta": "flip", "train.learning_rate": 1})
  assert (other.predict.tta, config.predict.tta) == ("flip", "none")
  assert other.train.learning_rate == 1.0 and isinstance(other.train.learning_rate, float)
  assert other.is_locked and other.model.widths == (4, 8)
  assert "'predict.tile'" in error_of(settings.override, config, {"predict.tiles": 3})


def test_another_length():
  """Free while the learning rates of the steps that are done stay; else a command trains on."""
  saved = tiny.make_config(10)  # of 8 of 20 images: 4 epochs
  settings.check_resumes("a", saved, saved)

  def longer(num_epochs, **changes):
    before = settings.override(saved, changes)
    now = settings.override(before, {"train.num_epochs": num_epochs})
    return "run s/a", before, now

  for warmup in (0.0, 2.0, 4.0):
    settings.check_resumes(*longer(9.0, **{"train.warmup_epochs": warmup}))
    settings.check_resumes(*longer(4.0, **{"train.warmup_epochs": warmup}))
  settings.check_resumes(*longer(2.0, **{"train.warmup_epochs": 2.0}))
  for changes in (
    {"train.schedule": "cosine"}, {"train.schedule": "poly"}, {"train.warmup_epochs": 5.0}
  ):  # fmt: skip
    settings.check_resumes(*longer(4.0, **changes))
    message = error_of(settings.check_resumes, *longer(10.5, **changes))
    command = (
      "python -m jaxseg.main --workdir='run s/a_to_epoch_10.5' "
      "--config.model.init_from='run s/a' --config.train.num_epochs=6.5"
    )
    assert message.endswith(f"start a new run from this one: {command}")
    assert "planned for 4 epochs" in message and "cannot become 10.5" in message
    message = error_of(settings.check_resumes, *longer(2.0, **changes))
    assert "num_epochs=4.0, not 2.0; leave the key as it was" in message
  workdir, before, now = longer(9.0, **{"train.schedule": "cosine"})
  other = settings.override(now, {"seed": 7})
  assert "config.seed=0, not 7; leave" in error_of(settings.check_resumes, workdir, before, other)


def test_keys_of_the_users_own():
  """What a config file adds after unlocking is kept, and a flag may change it."""
  config = tiny.make_config(3)
  with config.unlocked():
    config.model.depth = 3
  assert settings.parse_overrides(config, {"model.depth": "4"}) == {"model.depth": 4}
  assert settings.override(config, {"model.depth": 4}).model.depth == 4
  assert "whole number" in error_of(settings.parse_overrides, config, {"model.depth": "deep"})
  assert settings.from_run(config.to_dict()).model.depth == 3


def test_how_processes_met_is_not_part_of_a_run():
  config = tiny.make_config(3, parallel__coordinator="a:1", parallel__num_processes=2)
  assert settings.from_run(config.to_dict()).parallel.to_dict() == {
    "coordinator": "", "num_processes": 0, "process_id": -1, "initialization_timeout": 300,
    "space": 1,
  }  # fmt: skip


@pytest.mark.parametrize(
  "text, expected",
  [
    ("`tile` is 3", "config.predict.tile is 3"),
    ("`fold` or `num_folds`=2", "config.data.fold or config.data.num_folds=2"),
    ("`train.batch_size` is 3", "config.train.batch_size is 3"),
    ("`batch_size` is 3", "batch_size is 3"),
    ("a.png: `x` is odd", "a.png: x is odd"),
  ],
)  # fmt: skip
def test_arguments_become_keys(text, expected):
  assert settings.with_keys(text) == expected
  with pytest.raises(UserError) as error, settings.config_errors(x="model.up"):
    raise UserError(text)
  assert str(error.value) == expected.replace("x is odd", "config.model.up is odd")


def test_keys_that_are_missing_too_many_or_no_json():
  config = tiny.make_config(3)
  with config.unlocked():
    config.augment.foo = 3
  assert "'augment.foo'" in error_of(settings.check, config)
  config = tiny.make_config(3)
  with config.unlocked():
    config.model.own = {1, 2}
  assert "config.model.own is a set" in error_of(settings.check, config)
  config = tiny.make_config(3)
  with config.unlocked():
    del config.train.momentum
  assert "config.train.momentum is missing" in error_of(settings.check, config)
