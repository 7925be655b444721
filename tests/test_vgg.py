"""VGG-16 against Keras Applications', with weights that went through Keras' own file."""

import h5py
import jax
import keras
import numpy as np
import pytest
import reference
from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group

from jaxseg import UserError, models
from jaxseg.models.fcn import FCN
from jaxseg.models.vgg import VGG16

STAGES = {"block1_pool": 64, "block2_pool": 128, "block3_pool": 256, "block4_pool": 512}
STAGES |= {"block5_pool": 512}


def image(b, h, w, seed=0):
  return np.random.default_rng(seed).random((b, h, w, 3), np.float32)


def caffe(image):
  """What Keras' VGG expects: blue, green, red, 8-bit steps, without ImageNet's mean."""
  return 255 * image[..., ::-1] - np.float32([103.939, 116.779, 123.68])


@pytest.fixture(scope="module")
def keras_model():
  """keras.applications.VGG16 for 224 x 224 with its classifier, every weight random."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      keras.initializers.GlorotUniform,
      "__call__",
      lambda self, shape, dtype=None: np.zeros(shape, np.float32),
    )
    model = keras.applications.VGG16(include_top=True, weights=None)
  rng = np.random.default_rng(0)
  for layer in model.layers:
    if layer.weights:
      kernel, bias = layer.get_weights()
      kernel = rng.standard_normal(kernel.shape, np.float32)
      # He's scale, and inputs deviate by about 80 from the mean: activations of about 1.
      kernel *= np.sqrt(2 / np.prod(kernel.shape[:-1])) / (
        80 if layer.name == "block1_conv1" else 1
      )
      layer.set_weights([kernel, rng.normal(0, 0.1, bias.shape)])
  return model


@pytest.fixture(scope="module")
def keras_values(keras_model):
  """{layer: its output}, the stages and fc2, for image(1, 224, 224)."""
  outputs = {name: keras_model.get_layer(name).output for name in (*STAGES, "fc2")}
  tapped = keras.Model(keras_model.input, outputs)
  values = jax.jit(lambda v, x: tapped.stateless_call(v, [], x, training=False)[0])(
    [v.value for v in tapped.trainable_variables], caffe(image(1, 224, 224))
  )
  return {name: np.asarray(x) for name, x in values.items()}


@pytest.fixture(scope="module")
def weight_file(keras_model, tmp_path_factory):
  """With the classifier, as Keras saves it."""
  path = tmp_path_factory.mktemp("vgg") / "with_top.h5"
  with h5py.File(path, "w") as file:
    save_weights_to_hdf5_group(file, keras_model)
  yield str(path)
  path.unlink()  # 0.5 GB


@pytest.fixture(scope="module")
def file_without_top(weight_file, tmp_path_factory):
  path = tmp_path_factory.mktemp("vgg") / "no_top.h5"
  with h5py.File(weight_file) as source, h5py.File(path, "w") as file:
    layers = [name for name in source.attrs["layer_names"] if b"block" in np.bytes_(name)]
    file.attrs["layer_names"] = layers
    for layer in map(np.str_, layers):
      source.copy(source[layer], file)
  return str(path)


def load(model, path):
  variables = models.abstract_variables(model, 3)
  return models.load_encoder(variables, model.encoder, path)


def assert_close(ours, expected):
  # Not dead, or the comparison would say little.
  assert 0.1 < expected.std() < 10 and (expected == 0).mean() < 0.9
  np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4)


@pytest.mark.slow  # test_public_smp compares the encoder with torchvision's
def test_equals_keras(weight_file, keras_values):
  """Five stages, and the classifier's layers as convolutions: 7x7 without padding sees it all."""
  model = FCN(1, VGG16(), padding="valid", final_stride=32)
  params = load(model, weight_file)["params"]
  encoder = model.encoder

  @jax.jit
  def run(params, image):
    stages = encoder.apply({"params": params["encoder"]}, image, train=False)
    x = jax.lax.conv_general_dilated(
      stages["block5_pool"],
      params["fc1"]["kernel"],
      (1, 1),
      "VALID",
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    x = jax.nn.relu(x + params["fc1"]["bias"])
    x = jax.nn.relu(x @ params["fc2"]["kernel"][0, 0] + params["fc2"]["bias"])
    return {**stages, "fc2": x[:, 0, 0]}

  ours = run(params, image(1, 224, 224))
  assert ours.keys() == keras_values.keys() and tuple(STAGES) == VGG16().stages
  for name, expected in keras_values.items():
    assert_close(ours[name], expected)


@pytest.mark.slow
def test_file_without_top(file_without_top, weight_file):
  """The encoder is the same, and FCN's fc1 and fc2 keep their own start."""
  model = FCN(2, VGG16(), widths=(5, 4))
  variables = reference.random_variables(model, 3)
  loaded = models.load_encoder(variables, model.encoder, file_without_top)
  with h5py.File(weight_file) as file:
    kernel = np.asarray(file["block5_conv3"]["block5_conv3"]["kernel"])
  np.testing.assert_array_equal(loaded["params"]["encoder"]["block5_conv3"]["kernel"], kernel)
  assert loaded["params"].keys() == variables["params"].keys()
  for layer in ("fc1", "fc2", "score"):
    np.testing.assert_array_equal(
      loaded["params"][layer]["kernel"], variables["params"][layer]["kernel"]
    )


@pytest.mark.slow
def test_a_file_of_keras_3(keras_model, weight_file, tmp_path):
  """The same arrays as from its older layout, the classifier's as convolutions, too."""
  path = tmp_path / "vgg16.weights.h5"
  keras_model.save_weights(path)
  network = FCN(2, VGG16())
  both = [load(network, str(x))["params"] for x in (path, weight_file)]
  path.unlink()  # 0.5 GB
  for name, kernel in ("fc1", (7, 7, 512, 4096)), ("fc2", (1, 1, 4096, 4096)):
    assert both[0][name]["kernel"].shape == kernel
  assert len(both[0]["encoder"]) == 13
  for name in (*both[0]["encoder"], "fc1", "fc2"):
    found, expected = ({**x["encoder"], **x}[name] for x in both)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.slow
def test_other_widths_than_the_file(weight_file):
  with pytest.raises(UserError, match=r"with_top.h5.*fc1/kernel is \(25088, 4096\).*7, 7, 512, 64"):
    load(FCN(2, VGG16(), widths=(64, 64)), weight_file)


@pytest.mark.slow
def test_encoder_of_a_unet(weight_file):
  """Without fc1 and fc2, those of the file are left."""
  model = models.EncoderUNet(2, VGG16(), widths=(4, 4, 4, 4))
  loaded = load(model, weight_file)
  assert "fc1" not in loaded["params"] and loaded["params"]["encoder"].keys() == {
    f"block{i}_conv{j}" for i, n in enumerate((2, 2, 3, 3, 3), 1) for j in range(1, n + 1)
  }


def test_number_of_parameters():
  """Configuration D: 138,357,544 with 1000 classes (the paper's 138 million)."""
  shapes = models.abstract_variables(FCN(1000, VGG16(), final_stride=32), 3)["params"]
  counted = {
    name: sum(x.size for x in jax.tree.leaves(tree))
    for name, tree in shapes.items()
    if name != "up_32_to_1"
  }
  total, c = 0, 3
  for repeats, d in (2, 64), (2, 128), (3, 256), (3, 512), (3, 512):
    for _ in range(repeats):
      total, c = total + 9 * c * d + d, d
  assert counted["encoder"] == total == 14_714_688
  assert sum(counted.values()) == 138_357_544


@pytest.mark.parametrize("h, w", [(32, 64), (225, 301), (1, 33)])
def test_stages(h, w):
  encoder = VGG16()
  x = np.zeros((2, h, w, 3), np.float32)
  stages = jax.eval_shape(lambda: encoder.init_with_output(jax.random.key(0), x, train=False)[0])
  assert {name: x.shape for name, x in stages.items()} == {
    name: (2, -(-h // 2**i), -(-w // 2**i), c) for i, (name, c) in enumerate(STAGES.items(), 1)
  }


def test_partial_windows_count():
  """Of an odd size, the last column is pooled by itself, as Caffe does and FCN's crops expect."""
  encoder = VGG16()
  params = reference.random_variables(encoder, 3)["params"]
  for layer in params.values():  # pixel by pixel, so that columns do not see each other
    layer["kernel"] = layer["kernel"] * (np.arange(9) == 4).reshape(3, 3, 1, 1)
  run = jax.jit(lambda params, x: encoder.apply({"params": params}, x, train=False))
  x = image(1, 6, 7)
  ours, repeated = run(params, x), run(params, x[:, :, [*range(7), 6]])
  for name in STAGES:
    assert np.any(ours[name][:, :, -1])
    np.testing.assert_allclose(ours[name], repeated[name], rtol=1e-5, err_msg=name)


@pytest.mark.slow
def test_random_start_keeps_the_size_of_activations():
  encoder, x = VGG16(), image(1, 64, 64)
  run = jax.jit(lambda key, x: encoder.init_with_output(key, x, train=False)[0])
  stages = run(jax.random.key(0), x)
  assert all(0.1 < np.std(stage) < 10 for stage in stages.values())


def test_reach():
  """A 3x3 kernel looks one pixel of its input to each side; pooling stays within its cells."""
  assert VGG16.receptive_radius == 2 * 1 + 2 * 2 + 3 * 4 + 3 * 8 + 3 * 16
