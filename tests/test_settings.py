"""What can be wrong with a config is found before anything is computed or written."""

import jax
import pytest
import tiny
from tiny import error_of

from jaxseg import UserError
from jaxseg.settings import check_settings
from jaxseg.train import train

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
    ("model.patch", 3, "config.model.patch 3 1 2"),
    ("augment.elastic_grid", 1, "config.augment.elastic_grid 1 2"),
    ("augment.border", "black", "config.augment.border 'black' mirror void"),
    ("augment.rotation", 270.0, "config.augment.rotation 270.0 180"),
    ("train.border_weight", -1.0, "config.train.border_weight -1.0 0"),
    ("train.losses.dice", -0.5, "config.train.losses.dice -0.5 0"),
    ("train.losses.cross_entropy", 0.0, "config.train.losses all cross_entropy focal dice lovasz"),
    ("train.focal_gamma", -1.0, "config.train.focal_gamma -1.0 0 10"),
    ("data.num_folds", 21, "config.data.num_folds 21 20"),
    ("predict.symmetries", "all", "config.predict.symmetries 'all' flip dihedral"),
    ("eval.batch_size", 0, "config.eval.batch_size positive"),
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
    check_settings(config)
  config.train.losses.focal = 0.1
  check_settings(config)


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
