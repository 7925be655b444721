"""FCN against Keras, against the geometry of the paper, and what holds for any of them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
import reference
from reference import logits, normal

from jaxseg import UserError
from jaxseg.models.fcn import FCN
from jaxseg.models.layers import Dropout, interpolation_kernel
from jaxseg.models.mobilenet_v2 import MobileNetV2
from jaxseg.models.vgg import VGG16

STRIDES = 32, 16, 8


def given_encoder(stages, stride=32):
  """An encoder whose stages are {name: array}, whatever the image."""

  class Given(nn.Module):
    def __call__(self, image, *, train):
      return {name: jnp.asarray(x) for name, x in stages.items()}

  Given.stages, Given.stride, Given.receptive_radius = tuple(stages), stride, 0
  return Given()


def stages_of(h, w, seed=0):
  """Random maps as VGG-16 makes them."""
  channels = {1: 5, 2: 6, 3: 256, 4: 512, 5: 512}
  return {
    f"block{i}_pool": np.maximum(normal(2, h >> i, w >> i, c, seed=seed + i), 0)
    for i, c in channels.items()
  }


def keras_decoder(num_classes, final_stride, widths):
  """The decoder as it is taught, from block3_pool, block4_pool and block5_pool."""
  layers = keras.layers
  zeros = {"kernel_initializer": "zeros"}

  def up(x, size, stride, name):
    return layers.Conv2DTranspose(
      num_classes, size, strides=stride, use_bias=False, name=name, **zeros
    )(x)

  pool3, pool4, x = inputs = [keras.Input((None, None, c)) for c in (256, 512, 512)]
  x = layers.Conv2D(widths[0], 7, padding="same", activation="relu", name="fc1", **zeros)(x)
  x = layers.Conv2D(widths[1], 1, activation="relu", name="fc2", **zeros)(x)
  x = layers.Conv2D(num_classes, 1, name="score", **zeros)(x)
  for stride, pool in (16, pool4), (8, pool3):
    if stride >= final_stride:
      x = layers.Cropping2D(1)(up(x, 4, 2, f"up_{2 * stride}"))
      x = layers.Add()([x, layers.Conv2D(num_classes, 1, name=f"score_{stride}", **zeros)(pool)])
  x = up(x, final_stride, final_stride, f"up_{final_stride}_to_1")
  used = {32: inputs[2:], 16: inputs[1:], 8: inputs}[final_stride]
  return keras.Model(used, x)


@pytest.mark.parametrize("final_stride", STRIDES)
def test_decoder_equals_keras(final_stride):
  stages = stages_of(224, 224)
  model = FCN(12, given_encoder(stages), final_stride, widths=(48, 40))
  variables = reference.random_variables(model, 3)
  for name, layer in variables["params"].items():
    if name.startswith("up_"):  # windows hardly overlap: few values add up
      layer["kernel"] = normal(*layer["kernel"].shape) / 12**0.5
  twin = keras_decoder(12, final_stride, (48, 40))
  reference.set_keras_weights(twin, variables)
  used = list(stages.values())[-len(twin.inputs) :]
  # Without any optimisation, Keras's transposed convolution takes half a minute.
  run = jax.jit(
    lambda x: twin(x, training=False), compiler_options={"xla_backend_optimization_level": 1}
  )
  expected = np.asarray(run(used))
  assert expected.shape == (2, 224, 224, 12) and 0.1 < expected.std() < 10
  ours = logits(model, variables, np.zeros((2, 224, 224, 3), np.float32))
  np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("up", ["transposed", pytest.param("resize", marks=pytest.mark.slow)])
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("final_stride", STRIDES)
def test_any_size(final_stride, padding, up):
  encoder = VGG16(pad=99 if padding == "valid" else 0)
  model = FCN(12, encoder, final_stride, widths=(3, 4), padding=padding, up=up)
  for h, w in (225, 301), (1, 1), (224, 224), (33, 500):
    x = np.zeros((2, h, w, 3), np.float32)
    y = jax.eval_shape(lambda x=x: model.init_with_output(jax.random.key(0), x, train=False)[0])
    assert (y.shape, y.dtype) == ((2, h, w, 12), jnp.float32)


@pytest.mark.parametrize("size, stride", [(4, 2), (16, 8), (32, 16), (64, 32)])
def test_bilinear_kernel(size, stride):
  """Shelhamer's filler: (1 - |i - c| / s) along each axis; constants stay constant inside."""
  line = interpolation_kernel(size, stride)
  np.testing.assert_allclose(line, line[::-1])
  np.testing.assert_allclose(line[:stride] + line[stride:], 1, atol=1e-6)
  expected = np.interp(np.arange(size), [-0.5, size / 2 - 0.5, size - 0.5], [0, 1, 0])
  np.testing.assert_allclose(line, expected, atol=1e-6)


@pytest.mark.parametrize("final_stride", STRIDES)
def test_starts_as_interpolation(final_stride):
  """The published maps are aligned: a linear ramp in the scores is the same ramp in the image.

  Position i of a stage of stride s sees the padded image around s (i + 1/2) - 1/2; the padded
  image starts 99 px before the image.
  """
  h, w = 150, 145
  maps = {}
  for i in range(1, 6):
    stride, num = 2**i, -(-(h + 198) // 2**i)
    rows = stride * (np.arange(num) + 0.5) - 0.5 - 99
    cols = np.zeros(-(-(w + 198) // stride))
    maps[f"pool{i}"] = np.float32(rows[:, None] + cols)[None, :, :, None]
  model = FCN(1, given_encoder(maps), final_stride, widths=(1,), padding="valid")
  x = np.zeros((1, h, w, 3), np.float32)
  variables = jax.jit(lambda: model.init(jax.random.key(0), x, train=False))()
  params = variables["params"]
  kernel = np.zeros((7, 7, 1, 1), np.float32)
  kernel[3, 3] = 1.0
  params["fc1"] = {"kernel": kernel, "bias": np.float32([1000])}  # no ReLU cuts it off
  params["score"] = {"kernel": np.ones((1, 1, 1, 1), np.float32), "bias": np.float32([-1000])}
  num_maps = 1
  for stride in (16, 8):
    if f"score_{stride}" in params:
      params[f"score_{stride}"]["kernel"] = np.ones((1, 1, 1, 1), np.float32)
      num_maps += 1
  ours = logits(model, variables, x)[0, :, :, 0]
  inner = slice(32, -32)  # at the edges, kernels hang over the outermost scores
  expected = num_maps * np.arange(h)[inner, None] + np.zeros(w - 64)
  np.testing.assert_allclose(ours[inner, inner], expected, atol=2e-3)


def small(h=32, w=64, **options):
  """(model, image) with random maps for an encoder: images of two, of this size."""
  return FCN(3, given_encoder(stages_of(h, w)), widths=(16, 24), **options), np.zeros((2, h, w, 3))


def test_starts():
  """Scores of 0, so that FCN-16s from an FCN-32s starts where that one ended; interpolation."""
  model, x = small()
  params = jax.jit(lambda: model.init(jax.random.key(0), x, train=False))()["params"]
  assert params.keys() == {
    *("fc1", "fc2", "score", "score_16", "score_8", "up_32", "up_16", "up_8_to_1")
  }
  assert not any(np.any(params[name]["kernel"]) for name in ("score", "score_16", "score_8"))
  bilinear = np.float32([0.25, 0.75, 0.75, 0.25])
  for c, d in np.ndindex(3, 3):
    kernel = params["up_32"]["kernel"][:, :, c, d]
    np.testing.assert_allclose(kernel, (c == d) * np.outer(bilinear, bilinear))
    np.testing.assert_array_equal(
      params["up_8_to_1"]["kernel"][:, :, c, d], np.full((8, 8), c == d)
    )


def test_fixed_interpolation():
  """No parameters; of "same" maps it is that of images, which keeps constants up to the edge."""
  model, x = small(up="resize")
  params = reference.random_variables(model, 3)["params"]
  assert params.keys() == {"fc1", "fc2", "score", "score_16", "score_8"}
  for name in ("score", "score_16", "score_8"):
    params[name]["kernel"] *= 0
  total = sum(params[name]["bias"] for name in ("score", "score_16", "score_8"))
  ours = logits(model, {"params": params}, x)
  np.testing.assert_allclose(ours, np.broadcast_to(total, ours.shape), atol=1e-6)


def test_published_kernels_start_as_the_fixed_ones():
  sizes = {1: (154, 164), 2: (77, 82), 3: (39, 41), 4: (20, 21), 5: (10, 11)}  # of 110 + 198 ...
  stages = {f"pool{i}": normal(2, *size, 4, seed=i) for i, size in sizes.items()}
  learned = FCN(3, given_encoder(stages), widths=(16, 24), padding="valid")
  x = np.zeros((2, 110, 130, 3), np.float32)
  params = reference.random_variables(learned, 3, size=110)["params"]
  start = jax.jit(lambda: learned.init(jax.random.key(0), x, train=False))()["params"]
  params |= {name: layer for name, layer in start.items() if name.startswith("up_")}
  fixed = {name: layer for name, layer in params.items() if not name.startswith("up_")}
  expected = logits(learned, {"params": params}, x)
  assert expected.shape == (2, 110, 130, 3) and expected.std() > 0.1
  ours = logits(learned.clone(up="resize"), {"params": fixed}, x)
  np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_every_stage_carries_gradient():
  """A silent enlargement cuts off what is below it, and nothing else."""
  model, x = small()
  params, weights = reference.random_variables(model, 3)["params"], normal(2, 32, 64, 3)
  gradient = jax.jit(
    jax.grad(lambda p: (model.apply({"params": p}, x, train=False) * weights).sum())
  )
  coarse = {"fc1", "fc2", "score"}
  for silent, below in ("up_16", coarse | {"up_32", "score_16"}), ("up_32", coarse):
    grads = gradient({**params, silent: jax.tree.map(np.zeros_like, params[silent])})
    has_gradient = {name for name, layer in grads.items() if any(map(np.any, layer.values()))}
    assert has_gradient == params.keys() - below


def test_dropout_behind_fc1_and_fc2():
  """By example, and only in training with keys."""
  model, x = small(dropout=0.5)
  variables = reference.random_variables(model, 3)
  keys = jax.random.split(jax.random.key(0), 2)

  @jax.jit
  def run(keys):
    y, tapped = model.apply(
      variables,
      x,
      train=True,
      keys=keys,
      mutable=["intermediates"],
      capture_intermediates=lambda module, _: isinstance(module, Dropout),
    )
    return y, sorted(jax.tree.leaves(tapped["intermediates"]), key=lambda x: x.shape[-1])

  y, taps = run(keys)
  assert [tap.shape for tap in taps] == [(2, 1, 2, 16), (2, 1, 2, 24)]
  assert all((tap == 0).mean() > 0.6 for tap in taps)  # ReLU alone leaves about half
  for tap, swapped in zip(taps, run(keys[::-1])[1], strict=True):
    assert ((np.asarray(tap) == 0) != (np.asarray(swapped) == 0)).any()
  still = np.asarray(jax.jit(lambda: model.apply(variables, x, train=True))())
  assert np.any(np.asarray(y) != still)
  np.testing.assert_allclose(logits(model, variables, x, keys=keys), still, atol=1e-5)


@pytest.mark.slow  # test_encoder_unet and test_deeplab have the like
def test_frozen_encoder_gets_no_gradient():
  model, x = FCN(2, MobileNetV2(), freeze_encoder=True, widths=()), np.ones((1, 32, 32, 3), "f4")
  variables = reference.random_variables(model, 3)

  def total(params):
    y, updates = model.apply(
      {**variables, "params": params}, x, train=True, mutable=["batch_stats"]
    )
    return jnp.sum(y * normal(*y.shape)), updates["batch_stats"]

  grads, stats = jax.jit(jax.grad(total, has_aux=True))(variables["params"])
  assert not any(np.any(g) for g in jax.tree.leaves(grads["encoder"]))
  assert np.any(grads["score"]["kernel"]) and np.any(grads["score_8"]["kernel"])
  jax.tree.map(np.testing.assert_array_equal, stats, variables["batch_stats"])


@pytest.mark.parametrize(
  "padding, final_stride", [("same", 8), pytest.param("valid", 32, marks=pytest.mark.slow)]
)
def test_context(padding, final_stride):
  """A window sees the whole image's logits but for `context` px along its inner edges."""
  model = FCN(2, VGG16(pad=99 if padding == "valid" else 0), final_stride, widths=(4, 4))
  model = model.clone(padding=padding)
  assert model.context == 256 and model.stride == 32  # 90 + 5 * 32 = 250
  variables = reference.random_variables(model, 3)
  variables["params"]["encoder"]["block1_conv1"]["kernel"] /= 80
  side = 2 * 256 + 3 * 32
  x = np.random.default_rng(0).random((1, side, 32, 3), np.float32)
  run = jax.jit(lambda v, x: model.apply(v, x, train=False))
  whole, window = np.asarray(run(variables, x)), np.asarray(run(variables, x[:, 32:]))
  near = np.abs(whole[:, 32:] - window)
  assert near[:, 256:].max() < 1e-4 * whole.std() < near[:, :100].max()


def test_crops_of_valid_convolutions_need_fc1():
  model = FCN(2, VGG16(pad=99), 32, widths=(), padding="valid")
  with pytest.raises(UserError, match="^`padding` valid needs `widths`"):
    jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
