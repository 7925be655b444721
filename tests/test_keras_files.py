"""Weight files as Keras 3 itself saves them, against those in its legacy layout."""

import h5py
import jax
import keras
import numpy as np
import pytest
from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group

from jaxseg import UserError, models
from jaxseg.models.pretrained import read_weights


def randomize(model):
  rng = np.random.default_rng(0)
  model.set_weights([rng.uniform(0.1, 1, x.shape).astype(np.float32) for x in model.get_weights()])
  return model


def both(model, folder):
  """Tensors of both layouts; the older one calls depthwise kernels as it once did."""
  model.save_weights(folder / "new.weights.h5")
  with h5py.File(folder / "old.h5", "w") as file:
    save_weights_to_hdf5_group(file, model)
  old = read_weights(folder / "old.h5")
  old = {name.replace("depthwise_kernel", "kernel"): x for name, x in old.items()}
  return read_weights(folder / "new.weights.h5"), old


@pytest.mark.parametrize("top", [False, True])
@pytest.mark.slow
def test_mobilenet(tmp_path, top):
  shape = (None, None, 3) if not top else (32, 32, 3)
  model = keras.applications.MobileNetV2(input_shape=shape, include_top=top, weights=None)
  new, old = both(randomize(model), tmp_path)
  assert len(new) == (262 if top else 260) and new.keys() == old.keys()
  for name, x in new.items():
    np.testing.assert_array_equal(x, old[name])
  network = models.build("encoder_unet", 2, encoder="mobilenet_v2")
  random = jax.tree.map(lambda x: np.zeros(x.shape), models.abstract_variables(network, 3))
  path = str(tmp_path / "new.weights.h5")
  found = models.load_encoder(random, network.encoder, path)["params"]["encoder"]
  np.testing.assert_array_equal(found["block_3_depthwise"]["kernel"],
                                old["block_3_depthwise/kernel"][..., 0])  # fmt: skip


def small_model():
  """A model in a model, as in transfer learning, with a dense layer and an optimizer."""
  inner = keras.Sequential(
    [keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, name="block1_conv1"),
     keras.layers.BatchNormalization(name="bn"),
     keras.layers.DepthwiseConv2D(3, use_bias=False, name="dw")], name="inner"
  )  # fmt: skip
  outer = keras.Sequential([keras.Input((8, 8, 3)), inner, keras.layers.Flatten(),
                            keras.layers.Dense(2, name="top")])  # fmt: skip
  outer.compile("adam", "mse")
  outer.fit(np.zeros((2, 8, 8, 3)), np.zeros((2, 2)), verbose=0)
  return randomize(outer)


def test_a_model_in_a_model(tmp_path):
  model = small_model()
  model.save_weights(tmp_path / "a.weights.h5")
  found = read_weights(tmp_path / "a.weights.h5")
  inner = {f"{layer.name}/{i}": x for layer in (*model.layers[0].layers, model.layers[-1])
           for i, x in enumerate(layer.get_weights())}  # fmt: skip
  names = ["block1_conv1/kernel", "block1_conv1/bias", *(f"bn/{x}" for x in (
    "gamma", "beta", "moving_mean", "moving_variance")), "dw/kernel", "top/kernel", "top/bias"]
  assert sorted(found) == sorted(names)
  for name, x in zip(names, inner.values(), strict=True):
    np.testing.assert_array_equal(found[name], x)


def unnamed(file):
  del file["layers/dense/vars"].attrs["name"]


def other_layer(file):
  file.move("layers/dense", "layers/separable_conv2d")


def more(file):
  file["layers/dense/vars/2"] = np.ones(3, np.float32)


def fewer(file):
  del file["layers/sequential/layers/batch_normalization/vars/3"]


def half(file):
  file["layers/dense/vars/0"].attrs["dtype"] = "bfloat16"


def cycle(file):
  file["layers/dense/layers"] = file["layers"]


def compressed(file):
  del file["layers/dense/vars/0"]
  file["layers/dense/vars"].create_dataset("0", data=np.zeros((99, 9), "f4"), compression="gzip")


@pytest.mark.parametrize(
  "change, words",
  [
    (unnamed, "its layers have no names, as an older Keras 3 wrote it: load the weights there"),
    (other_layer, "top is a separable_conv2d of 2 weights: not read"),
    (more, "top is a dense of 3 weights: not read"),
    (fewer, "bn is a batch_normalization of 3 weights: not read"),
    (half, "top is of type bfloat16: save it as float32"),
    (cycle, "a group that occurs twice"),
    (compressed, "top/kernel is stored in chunks"),
  ],
)
def test_files_that_are_not_read(tmp_path, change, words):
  path = tmp_path / "a.weights.h5"
  small_model().save_weights(path)
  with h5py.File(path, "r+") as file:
    change(file)
  with pytest.raises(UserError, match=f"^{path}.*{words}"):
    read_weights(path)
