"""MobileNetV2 against Keras Applications', with weights that went through Keras' own file."""

import h5py
import jax
import keras
import numpy as np
import pytest
import reference
from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group
from reference import abstract, run_encoder

from jaxseg.models.mobilenet_v2 import MobileNetV2
from jaxseg.models.pretrained import assign_weights, read_keras_h5

# Of the TensorFlow segmentation tutorial: layer -> (stride, channels).
STAGES = {
  "block_1_expand_relu": (2, 96),
  "block_3_expand_relu": (4, 144),
  "block_6_expand_relu": (8, 192),
  "block_13_expand_relu": (16, 576),
  "block_16_project": (32, 320),
}


def load(path):
  """Variables from a weight file."""
  tensors = read_keras_h5(path)
  leave = MobileNetV2().unused_layers
  return assign_weights(abstract(MobileNetV2()), tensors, leave=leave, source=path)


@pytest.fixture(scope="module")
def keras_model():
  """keras.applications.MobileNetV2 without classifier, every weight random."""
  with pytest.MonkeyPatch.context() as patch:
    rng = np.random.default_rng(0)

    def draw(self, shape, dtype=None):
      return reference.random_weight(rng, self.name, shape)

    # GlorotUniform is what Keras asks for in kernels, Ones in gammas and variances, Zeros in
    # betas and means.
    for kind, name in ("GlorotUniform", "kernel"), ("Ones", "gamma"), ("Zeros", "beta"):
      patch.setattr(getattr(keras.initializers, kind), "__call__", draw)
      patch.setattr(getattr(keras.initializers, kind), "name", name, raising=False)
    return keras.applications.MobileNetV2(
      input_shape=(None, None, 3), include_top=False, weights=None
    )


@pytest.fixture(scope="module")
def keras_stages(keras_model):
  """Compiled function of images in [-1, 1] to {stage: array}, with the weights of the moment."""
  outputs = {name: keras_model.get_layer(name).output for name in STAGES}
  tapped = keras.Model(keras_model.input, outputs)

  @jax.jit
  def call(trainable, rest, image):
    return tapped.stateless_call(trainable, rest, image, training=False)[0]

  def run(image):
    variables = tapped.trainable_variables, tapped.non_trainable_variables
    return call(*([v.value for v in part] for part in variables), image)

  return run


@pytest.fixture(scope="module")
def our_stages():
  encoder = MobileNetV2()
  return jax.jit(lambda variables, image: encoder.apply(variables, image, train=False))


def assert_stages_equal(ours, theirs):
  assert (theirs["block_13_expand_relu"] == 6.0).any()  # or ReLU would pass for ReLU6
  assert set(ours) == set(STAGES) and tuple(STAGES) == MobileNetV2().stages
  for name in STAGES:
    expected = np.asarray(theirs[name])
    # Not dead, or the comparison would say little.
    assert 0.1 < expected.std() < 10 and (expected == 0).mean() < 0.9, name
    np.testing.assert_allclose(ours[name], expected, rtol=0, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("size", [128, pytest.param(224, marks=pytest.mark.slow)])
def test_equals_keras(keras_model, keras_stages, our_stages, size, tmp_path):
  path = tmp_path / "random.h5"
  with h5py.File(path, "w") as file:
    save_weights_to_hdf5_group(file, keras_model)
  image = np.random.default_rng(1).random((1, size, size, 3), np.float32)
  assert_stages_equal(our_stages(load(path), image), keras_stages(2 * image - 1))


def test_equals_keras_with_imagenet_weights(keras_model, keras_stages, our_stages, data_dir):
  path = data_dir / "../weights/mobilenet_v2_imagenet_dequantised_no_top.h5"
  keras_model.load_weights(path)
  image = np.random.default_rng(1).random((1, 128, 128, 3), np.float32)
  assert_stages_equal(our_stages(load(path), image), keras_stages(2 * image - 1))


def test_number_of_parameters():
  """Table 2 of Sandler et al. (2018), layer by layer, up to the last bottleneck's projection."""

  def normalised(weights, channels):
    return weights + 4 * channels  # scale, bias, mean, variance

  total, c = normalised(9 * 3 * 32, 32), 32
  table = (1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1)
  for expansion, out, repeats in table:
    for _ in range(repeats):
      hidden = expansion * c
      if expansion > 1:
        total += normalised(c * hidden, hidden)
      total += normalised(9 * hidden, hidden) + normalised(hidden * out, out)
      c = out
  total -= 4 * 320  # the tutorial taps the last projection before its normalisation
  assert sum(x.size for x in jax.tree.leaves(abstract(MobileNetV2()))) == total


@pytest.mark.parametrize("h, w", [(32, 32), (64, 224)])
def test_stages(h, w):
  encoder = MobileNetV2()
  image = np.zeros((2, h, w, 3), np.float32)
  stages = jax.eval_shape(
    lambda variables: encoder.apply(variables, image, train=False), abstract(encoder)
  )
  assert {name: x.shape for name, x in stages.items()} == {
    name: (2, h // stride, w // stride, channels) for name, (stride, channels) in STAGES.items()
  }
  assert encoder.stride == 32


def test_reach_as_smp():
  """A layer that loses its stride is dilated itself: it looks as far as those behind it."""
  radii = {x: MobileNetV2(x, "smp").receptive_radius for x in (8, 16, 32)}
  assert radii == {32: 245, 16: 245 + 16, 8: 245 + 16 + 8}
  assert MobileNetV2(8).receptive_radius == 245


@pytest.mark.slow
@pytest.mark.parametrize("size", [64, 65])
def test_output_strides(size):
  """With the same weights, 8 and 16 subsampled are 32, up to the edges.

  Of 65 px every "same" padding is symmetric, and windows are centred on the first pixel; of 64 each
  strided one begins there, so that it is centred on the last of the places that it stands for.
  """
  variables = reference.random_variables(MobileNetV2(), 3)
  image = np.random.default_rng(1).random((1, size, size, 3), np.float32)
  coarse = run_encoder(MobileNetV2(32), variables, image)
  for stride in 16, 8:
    encoder = MobileNetV2(stride)
    assert encoder.stride == stride
    stages = run_encoder(encoder, variables, image)
    for name, (full_stride, channels) in STAGES.items():
      factor = full_stride // stride
      if factor <= 1:
        np.testing.assert_allclose(stages[name], coarse[name], atol=1e-5)
      else:
        assert stages[name].shape == (1, -(-size // stride), -(-size // stride), channels)
        offset = 0 if size % 2 else factor - 1
        assert size % 2 or encoder.lean == 1  # which says that it is the last
        assert reference.largest_gap(stages[name], coarse[name], factor, offset) < 1e-4, name


@pytest.mark.slow
def test_training_updates_all_statistics():
  """`train` reaches every normalisation."""
  encoder, image = MobileNetV2(), np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
  variables = reference.random_variables(encoder, 3)
  _, updates = jax.jit(
    lambda variables: encoder.apply(variables, image, train=True, mutable=["batch_stats"])
  )(variables)
  moved = jax.tree.map(
    lambda a, b: bool((a != b).any()), updates["batch_stats"], variables["batch_stats"]
  )
  assert len(jax.tree.leaves(moved)) == 2 * (1 + 2 + 15 * 3 + 2) and all(jax.tree.leaves(moved))


def test_initial_values():
  """Glorot's scale, 2 / (fan-in + fan-out), as Keras starts; residual blocks as the identity."""
  encoder, image = MobileNetV2(), np.zeros((1, 32, 32, 3), np.float32)
  variances = {
    "block_14_expand": 2 / (160 + 960),
    "block_14_project": 2 / (160 + 960),
    "block_14_depthwise": 2 / (9 * 960 + 9),
  }
  residual = [2, 4, 5, 7, 8, 9, 11, 12, 14, 15]  # stride 1 and as many channels out as in

  @jax.jit
  def init():  # the compiler leaves out what is not returned
    params = encoder.init(jax.random.key(0), image, train=False)["params"]
    norms = {name: layer["scale"] for name, layer in params.items() if "scale" in layer}
    return {name: params[name]["kernel"] for name in variances}, norms

  kernels, scales = init()
  for name, variance in variances.items():
    assert np.std(kernels[name]) == pytest.approx(variance**0.5, rel=0.03), name
  zero = {f"block_{i}_project_BN" for i in residual}
  for name, scale in scales.items():
    np.testing.assert_array_equal(scale, 0.0 if name in zero else 1.0, err_msg=name)
  assert zero < scales.keys() and len(scales) == 1 + 2 + 15 * 3 + 2
