"""What a run starts from: random weights, pretrained ones, those of another run."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from tiny import error_of

from jaxseg import UserError, initial_state, models, train_state
from jaxseg.checkpoint import load_step
from jaxseg.data import datasets
from jaxseg.training import train

pytestmark = pytest.mark.usefixtures("photos")


@pytest.fixture(scope="module")
def donor(tmp_path_factory):
  """A work directory after one step."""
  workdir = tmp_path_factory.mktemp("donor")
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(datasets.DATASETS, "photos", tiny.load_photos)
    assert train(tiny.make_config(1), workdir) is True
  return workdir


@pytest.mark.slow
def test_start_from_another_run(donor, tmp_path, capsys):
  """Its best checkpoint's arrays where they fit, and a training of its own."""
  config = tiny.make_config(1, model__init_from=str(donor), model__up="resize")
  config.train.learning_rate = 1e-30  # too small to change a weight
  train(config, tmp_path)
  theirs, ours = (load_step(run, 1)["variables"]["params"] for run in (donor, tmp_path))
  assert theirs.keys() == ours.keys()
  kernels = [name for name in ours if "kernel" in ours[name]]
  changed = {n for n in kernels if not np.array_equal(ours[n]["kernel"], theirs[n]["kernel"])}
  assert changed == {"up0"}  # 1x1 instead of 2x2
  told = " ".join(capsys.readouterr().err.split())
  assert f"from {donor}, step 1: copied down0_conv1, down0_conv2, " in told
  assert "; new: up0; skipped: up0" in told


def test_start_from_what_is_not_there(donor, tmp_path):
  config = tiny.make_config(1, model__init_from=str(tmp_path / "none"))
  message = error_of(train, config, tmp_path / "run")
  assert "none has no checkpoint" in message and "config.model.init_from" in message
  other = {"params": {"conv": {"kernel": np.zeros((1, 2))}}, "batch_stats": {}}
  with pytest.raises(UserError, match=f"no layer of {donor} fits.*config.model.init_from"):
    config, optimizer = tiny.make_config(1, model__init_from=str(donor)), optax.sgd(0.1)
    state = train_state.create(other, optimizer)
    initial_state.pretrained_state(config, None, state, optimizer, 3)


@pytest.mark.slow
@pytest.mark.parametrize("channels", [3, 4])
def test_a_first_kernel_of_other_channels_is_told(channels, monkeypatch, capsys):
  """And the pretrained encoder is in the state, with the rest as it was, also in its average."""
  model = models.build("encoder_unet", 2, encoder="mobilenet_v2", widths=(8, 8, 8, 8))
  shapes = models.abstract_variables(model, channels)
  random = jax.tree.map(lambda x: jnp.zeros(x.shape), shapes)
  optimizer = optax.sgd(0.1)
  config = tiny.make_config(1, train__ema_decay=0.9)
  config.model.pretrained = "file.h5"

  def load(variables, encoder, source):
    assert encoder is model.encoder and source == "file.h5"
    ones = jax.tree.map(jnp.ones_like, variables["params"]["encoder"])
    return {**variables, "params": {**variables["params"], "encoder": ones}}

  monkeypatch.setattr(models, "load_encoder", load)
  state = train_state.create(random, optimizer)
  found = initial_state.pretrained_state(config, model, state, optimizer, channels)
  for name, params in found.params.items():
    assert {float(x.min()) for x in jax.tree.leaves(params)} == {1.0 if name == "encoder" else 0.0}
  assert jax.tree.structure(found.ema["params"]) == jax.tree.structure(found.params)
  told = " ".join(capsys.readouterr().err.split())
  assert (f"is repeated or summed over its channels for images of {channels}" in told) == (
    channels == 4
  )


def test_no_pretrained_encoder_where_another_run_has_all_of_it(donor, monkeypatch):
  """Its file may be gone, or a download."""
  model = models.build("encoder_unet", 2, encoder="mobilenet_v2", widths=(8, 8, 8, 8))
  random = jax.tree.map(lambda x: jnp.zeros(x.shape), models.abstract_variables(model, 3))
  state = train_state.create(random, optax.sgd(0.1))
  config = tiny.make_config(1, model__init_from="run")
  config.model.pretrained = "gone.h5"
  ones = jax.tree.map(np.ones_like, random)
  monkeypatch.setattr(initial_state.checkpoint, "load_best", lambda *_: (3, {"variables": ones}))
  found = initial_state.pretrained_state(config, model, state, optax.sgd(0.1), 3)
  assert {float(x.min()) for x in jax.tree.leaves(found.params)} == {1.0}
  del ones["params"]["encoder"]["Conv1"]
  message = error_of(initial_state.pretrained_state, config, model, state, optax.sgd(0.1), 3)
  assert "no weight file gone.h5" in message
