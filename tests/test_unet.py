"""U-Nets against arithmetic, a loop over pixels and Keras; and what holds for any of them."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
import reference
from reference import count, logits

from jaxseg import UserError
from jaxseg.models.batch_norm import BatchNorm
from jaxseg.models.layers import Dropout
from jaxseg.models.mobilenet_v2 import MobileNetV2
from jaxseg.models.unet import EncoderUNet, UNet

SIZES = (33, 57), (1, 1), (20, 50), (64, 32)


class TinyEncoder(nn.Module):
  """Stages of strides 2, 4, 8, ... of one strided convolution and normalisation each."""

  widths: Sequence[int] = (4, 5, 6)
  stages: Sequence[str] = ("fine", "middle", "coarse")
  stride: int = 8

  @nn.compact
  def __call__(self, image, *, train):
    x, stages = image, {}
    for name, width in zip(self.stages, self.widths, strict=True):
      x = nn.Conv(width, (3, 3), 2, name=name)(x)
      (x,) = BatchNorm(train, name=f"{name}_norm")(x)
      stages[name] = x = nn.relu(x)
    return stages


def tiny_encoder_unet(**options):
  return EncoderUNet(3, TinyEncoder(), widths=(6, 4), **options)


def image(b, h, w, d=3, seed=0):
  return np.random.default_rng(seed).random((b, h, w, d), np.float32)


def abstract(model, channels):
  size = model.input_size(32)
  x = np.zeros((1, size, size, channels), np.float32)
  return jax.eval_shape(lambda: model.init(jax.random.key(0), x, train=False))


MODELS = {
  "unet": UNet(3, (4, 5, 6)),
  "unet_norm_resize": UNet(3, (4, 5, 6), norm=True, up="resize"),
  "encoder_unet": tiny_encoder_unet(),
  "encoder_unet_resize": tiny_encoder_unet(up="resize"),
}


@pytest.mark.parametrize("name", MODELS)
def test_any_size_gives_logits_of_that_size(name):
  model = MODELS[name]
  variables = abstract(model, 3)
  for h, w in SIZES:
    x = np.zeros((2, h, w, 3), np.float32)
    y = jax.eval_shape(lambda v, x=x: model.apply(v, x, train=False), variables)
    assert (y.shape, y.dtype) == ((2, h, w, 3), np.float32)


@pytest.mark.parametrize("name, multiple", [("unet", 4), ("encoder_unet", 8)])
def test_other_sizes_are_mirrored(name, multiple):
  """The logits of the image that we mirror ourselves, cut."""
  model, h, w = MODELS[name], 9, 13
  variables, x = reference.random_variables(model, 3), image(2, h, w)
  mirrored = reference.mirror_pad(x, multiple)
  assert mirrored.shape[1] % multiple == mirrored.shape[2] % multiple == 0
  expected = logits(model, variables, mirrored)[:, :h, :w]
  np.testing.assert_allclose(logits(model, variables, x), expected, atol=1e-5)


def unet_parameters(channels, num_classes, widths, norm):
  """(parameters, batch statistics) of figure 1 of Ronneberger et al. (2015)."""

  def double_conv(c, width):
    # A bias per channel, or a normalisation's scale and bias.
    return 9 * c * width + 9 * width * width + 2 * width * (2 if norm else 1)

  total = double_conv(channels, widths[0])
  for fine, coarse in zip(widths[:-1], widths[1:], strict=True):
    total += double_conv(fine, coarse)  # on the way down
    total += 4 * coarse * fine + fine  # up-convolution
    total += double_conv(2 * fine, fine)  # of the skip and what came up
  total += widths[0] * num_classes + num_classes
  # Mean and variance of two normalisations a level on the way down, and two on the way up.
  return total, 2 * (2 * sum(widths) + 2 * sum(widths[:-1])) if norm else 0


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("widths", [(64, 128, 256, 512, 1024), (3, 5, 4), (7, 2), (6,)])
def test_unet_parameters(widths, norm):
  variables = abstract(UNet(2, widths, norm=norm), 1)
  counted = count(variables["params"]), count(variables.get("batch_stats", {}))
  assert counted == unet_parameters(1, 2, widths, norm)


def test_unet_of_the_paper():
  """31,030,658 parameters for 1 -> 2 channels; forget one skip and it changes."""
  assert count(abstract(UNet(2), 1)) == 31_030_658


# Figure 1: sizes after each convolution on the way down, and after each up-convolution and the two
# convolutions that follow it.
DOWN = ((570, 568), (282, 280), (138, 136), (66, 64), (30, 28))
UP = ((392, 390, 388), (200, 198, 196), (104, 102, 100), (56, 54, 52))
CROPS = (88, 40, 16, 4)  # of the skips, px on each side


def test_sizes_of_the_paper():
  """572 -> 388, layer by layer."""
  model = UNet(2, padding="valid")
  x = np.zeros((1, 572, 572, 1), np.float32)
  y, tapped = jax.eval_shape(
    lambda: model.init_with_output(
      jax.random.key(0), x, train=False, capture_intermediates=True, mutable=True
    )
  )
  assert y.shape == (1, 388, 388, 2) and 572 - 2 * model.margin == 388
  sizes = {
    name: jax.tree.leaves(layer["__call__"])[0].shape[1:3]
    for name, layer in tapped["intermediates"].items()
    if name != "__call__"
  }
  expected = {"head": 388}
  for level, row in enumerate(DOWN):
    expected |= {f"down{level}_conv{i}": size for i, size in enumerate(row, start=1)}
  for level, (up, *row) in enumerate(UP):
    expected |= {f"up{level}": up}
    expected |= {f"merge{level}_conv{i}": size for i, size in enumerate(row, start=1)}
    assert DOWN[level][1] - up == 2 * CROPS[level]
  assert sizes == {name: (size, size) for name, size in expected.items()}


def test_unet_up_resize_parameters():
  """One 1x1 convolution in place of the 2x2 transposed one."""
  kernels = 4 * 5 + 5 * 6
  assert (
    count(abstract(UNet(3, (4, 5, 6)), 3)["params"])
    - count(abstract(UNet(3, (4, 5, 6), up="resize"), 3)["params"])
    == (4 - 1) * kernels
  )


@pytest.mark.parametrize(
  "widths, norm, up",
  [
    ((3, 4, 5), False, "transposed"),
    ((3, 4, 5), True, "transposed"),
    ((3, 4), True, "resize"),
    ((4,), False, "transposed"),
  ],
)
def test_unet_equals_loop(widths, norm, up):
  model = UNet(3, widths, norm=norm, up=up)
  variables, x = reference.random_variables(model, 2), image(1, 8, 12, 2)
  expected = reference.unet(variables, x, up=up)
  np.testing.assert_allclose(logits(model, variables, x), expected, atol=1e-4)


def keras_unet(channels, num_classes, widths, *, stem_stride, valid, norm):
  """Figure 1 of the paper, or its padded form; layers are named as ours.

  With `stem_stride` 2, of images whose channels are those of 2x2 pixels.
  """
  layers = keras.layers
  zeros = {"kernel_initializer": "zeros"}  # Keras takes long to draw what is replaced at once

  def double_conv(x, width, name):
    for i in (1, 2):
      options = {"padding": "valid" if valid else "same", "use_bias": not norm, **zeros}
      x = layers.Conv2D(width, 3, name=f"{name}_conv{i}", **options)(x)
      if norm:
        x = layers.BatchNormalization(epsilon=1e-3, name=f"{name}_norm{i}")(x)
      x = layers.ReLU()(x)
    return x

  x = image = keras.Input((None, None, stem_stride**2 * channels))
  skips = []
  for level, width in enumerate(widths):
    x = double_conv(layers.MaxPooling2D(2)(x) if level else x, width, f"down{level}")
    skips.append(x)
  # A network of fewer levels has the lower part of the figure.
  crops = CROPS[len(CROPS) + 1 - len(widths) :]
  for level in reversed(range(len(widths) - 1)):
    x = layers.Conv2DTranspose(widths[level], 2, strides=2, name=f"up{level}", **zeros)(x)
    skip = layers.Cropping2D(crops[level])(skips[level]) if valid else skips[level]
    x = double_conv(layers.Concatenate()([skip, x]), widths[level], f"merge{level}")
  head = layers.Conv2D if stem_stride == 1 else layers.Conv2DTranspose
  return keras.Model(image, head(num_classes, stem_stride, stem_stride, name="head", **zeros)(x))


PAPER = (64, 128, 256, 512, 1024)


@pytest.mark.parametrize(
  "padding, norm, widths, stem_stride, h, w",
  [  # narrower, a random network has levels that say nothing
    ("valid", False, (12, 16, 14, 20, 24), 1, 188, 204),
    ("valid", True, (12, 9, 15), 1, 60, 44),
    pytest.param("valid", False, PAPER, 1, 188, 188, marks=pytest.mark.slow),
    ("valid", False, (12, 9, 15), 2, 88, 104),
    ("same", False, (12, 9, 15), 1, 12, 20),
    ("same", True, (12, 9, 15), 2, 16, 24),
    pytest.param("same", True, PAPER, 1, 32, 32, marks=pytest.mark.slow),
  ],
)
def test_unet_equals_keras(padding, norm, widths, stem_stride, h, w):
  model = UNet(2, widths, stem_stride, padding, norm=norm)
  variables = reference.random_variables(model, 1, size=model.input_size(32))
  twin = keras_unet(1, 2, widths, stem_stride=stem_stride, valid=padding == "valid", norm=norm)
  trained, rest = twin.trainable_variables, twin.non_trainable_variables
  counted = count(variables["params"]), count(variables.get("batch_stats", {}))
  assert counted == tuple(sum(v.value.size for v in part) for part in (trained, rest))
  reference.set_keras_weights(twin, variables)
  x = image(1, h, w, 1)
  phases = range(stem_stride)
  pixels = [x[:, i::stem_stride, j::stem_stride] for i in phases for j in phases]
  expected, _ = jax.jit(lambda *args: twin.stateless_call(*args, training=False))(
    [v.value for v in trained], [v.value for v in rest], 2 * np.concatenate(pixels, -1) - 1
  )
  ours = logits(model, variables, x)
  margin = model.margin
  assert ours.shape == (1, h - 2 * margin, w - 2 * margin, 2) and 0.1 < ours.std() < 10
  # A weight of the coarsest level that is off by a tenth makes 4e-4.
  np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)


def valid_output(size, num_levels):
  """Size of what valid convolutions leave, or None; level by level."""
  skips = []
  for level in range(num_levels):
    if level:
      if size % 2:
        return None
      size //= 2
    size -= 4
    skips.append(size)
  for skip in skips[-2::-1]:
    assert size < 1 or skip >= 2 * size
    size = 2 * size - 4
  return size if size > 0 else None


def levels(num_levels, **options):
  return UNet(2, (2,) * num_levels, **options)


@pytest.mark.parametrize(
  "num_levels, stem_stride", [(1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (1, 2), (3, 2)]
)
def test_input_sizes_of_valid_convolutions(num_levels, stem_stride):
  """`input_size` is the next size that works; all others are refused."""
  model = levels(num_levels, padding="valid", stem_stride=stem_stride)
  outputs = {stem_stride * n: valid_output(n, num_levels) for n in range(1, 700 // stem_stride)}
  works = {n: stem_stride * output for n, output in outputs.items() if output}
  for n in range(1, max(works) + 1):
    assert model.input_size(n) == min(size for size in works if size >= n)
  assert all(output == n - 2 * model.margin for n, output in works.items())
  assert set(np.diff(list(works))) == {model.stride}
  variables = abstract(model, 1)
  first = min(works)
  for n in range(first - 3, first + model.stride + 1):
    x = np.zeros((1, first, n, 1), np.float32)
    if n in works:
      y = jax.eval_shape(lambda v, x=x: model.apply(v, x, train=False), variables)
      assert y.shape == (1, works[first], works[n], 2)
    else:
      with pytest.raises(UserError, match=f"^{n} px"):
        model.apply(variables, x, train=False)


def test_other_sizes_are_refused():
  for n, nearest in (573, "572 and 588"), (571, "556 and 572"), (189, "188 and 204"), (100, "188"):
    for h, w in (n, 188), (188, n):
      with pytest.raises(UserError, match=rf"^{n} px .* 5 levels .* do are {nearest}(\n|$)"):
        x = np.zeros((1, h, w, 1), np.float32)
        UNet(2, padding="valid").init(jax.random.key(0), x, train=False)


@pytest.mark.parametrize("up", ["transposed", pytest.param("resize", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
  "num_levels, stem_stride",
  [(1, 1), (2, 1), (3, 1), (3, 2), *(pytest.param(n, 1, marks=pytest.mark.slow) for n in (4, 5))],
)
def test_context_of_padded_convolutions(num_levels, stem_stride, up):
  """A window sees the whole image's logits, but for `context` px along its inner edges."""
  model = levels(num_levels, up=up, stem_stride=stem_stride)
  stride, context = model.stride, model.context
  assert (stride, model.margin, context % stride) == (stem_stride * 2 ** (num_levels - 1), 0, 0)
  reach = 0  # pixels of each level that see the zeros beyond the edge
  for _ in range(num_levels):
    reach = -(-reach // 2) + 2  # pooling, two convolutions
  for _ in range(num_levels - 1):
    reach = 2 * reach + (up == "resize") + 2  # bilinear doubling looks one pixel aside
  reach *= stem_stride
  assert reach <= context

  side, shapes = 2 * context + 3 * stride, abstract(model, 1)["params"]
  x = 0.5 + image(1, side, side, 1) / 2  # above 0 for the network: no ReLU cuts it off
  inner = (slice(None), *[slice(stride, -stride)] * 2)
  predict = jax.jit(lambda params, x: model.apply({"params": params}, x, train=False))

  def difference(tap):
    """|logits of the window - of the image| where all 3x3 kernels look at this tap alone."""
    params = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shapes)
    for layer in params.values():
      size, _, c, _ = layer["kernel"].shape
      layer["kernel"][tap if size == 3 else ...] = 1 / c
    return np.abs(predict(params, x)[inner] - predict(params, x[inner]))

  differences = np.max([difference(tap) for tap in ((0, 0), (2, 2), (2, 0))], axis=0)
  within, beyond = (differences[:, n:-n, n:-n].max() for n in (reach - 1, reach))
  assert beyond < 1e-6 < within, (within, beyond)


def test_context_on_mobilenet_v2():
  """Table 2 of Sandler et al. (2018): a 3x3 kernel looks one pixel of its input to each side."""
  reach, stride = 1, 2  # the first convolution
  for repeats, block_stride in (1, 1), (2, 2), (3, 2), (4, 2), (3, 1), (3, 2), (1, 1):
    for i in range(repeats):
      reach += stride
      stride *= block_stride if i == 0 else 1
  assert (reach, stride) == (245, 32) == (MobileNetV2().receptive_radius, MobileNetV2().stride)
  reach += 32 + 16 + 8 + 4 + 2  # the up-blocks
  model = EncoderUNet(3, MobileNetV2())
  assert model.context == 320 == 32 * -(-reach // 32)
  assert (model.margin, model.stride) == (0, 32)
  assert [model.input_size(n) for n in (1, 32, 33, 224)] == [32, 32, 64, 224]


def projection(y):
  """A sum of logits to which every one contributes with another weight."""
  return (y * np.random.default_rng(9).normal(size=y.shape)).sum()


@pytest.mark.parametrize("up", ["transposed", "resize"])
def test_every_skip_carries_gradient(up):
  """A silent up-convolution cuts off what is below it, and nothing else."""
  model, x = UNet(2, (3, 4, 5), up=up), image(1, 8, 8)
  params = reference.random_variables(model, 3)["params"]
  gradient = jax.jit(
    jax.grad(lambda params: projection(model.apply({"params": params}, x, train=False)))
  )
  for level in 0, 1:
    name = f"up{level}"
    grads = gradient({**params, name: jax.tree.map(np.zeros_like, params[name])})
    has_gradient = {name for name, layer in grads.items() if any(map(np.any, layer.values()))}
    below = {f"down{k}_conv{i}" for k in range(level + 1, 3) for i in (1, 2)}
    below |= {f"merge{k}_conv{i}" for k in range(level + 1, 2) for i in (1, 2)}
    below |= {f"up{k}" for k in range(level + 1, 2)}
    assert has_gradient == params.keys() - below


def dropout_tap(model, variables):
  """Compiled function of image and keys to (logits, outputs of all Dropouts) in training."""

  @jax.jit
  def tap(x, keys):
    y, tapped = model.apply(
      variables,
      x,
      train=True,
      keys=keys,
      mutable=["batch_stats", "intermediates"],
      capture_intermediates=lambda module, _: isinstance(module, Dropout),
    )
    return y, jax.tree.leaves(tapped["intermediates"])

  return lambda *args: jax.tree.map(np.asarray, tap(*args))


def draws(model, variables, x, **options):
  """Whether a forward pass draws random numbers."""
  forward = jax.make_jaxpr(lambda: model.apply(variables, x, mutable=["batch_stats"], **options))
  return "random_bits" in str(forward())


@pytest.mark.parametrize("model", [UNet(2, (3, 4, 5), dropout=0.5), tiny_encoder_unet(dropout=0.5)])
def test_dropout_only_in_training_with_keys(model):
  variables, x = reference.random_variables(model, 3), image(2, 8, 8)
  keys = jax.random.split(jax.random.key(0), 2)
  assert draws(model, variables, x, train=True, keys=keys)
  assert not draws(model, variables, x, train=True)
  assert not draws(model, variables, x, train=False, keys=keys)
  assert not draws(model.clone(dropout=0.0), variables, x, train=True, keys=keys)


def test_unet_dropout():
  """On the two coarsest levels, each for itself, by example."""
  model = UNet(2, (3, 4, 8), dropout=0.5)
  variables, x = reference.random_variables(model, 3), image(3, 8, 8)
  for name, layer in variables["params"].items():
    if name.startswith("down"):
      layer["bias"] += 9.0  # no ReLU at 0: what is 0 was dropped
  keys = jax.random.split(jax.random.key(0), 3)
  tap = dropout_tap(model, variables)
  y, taps = tap(x, keys)
  fine, coarse = sorted(taps, key=lambda x: x.shape[3])
  assert (fine.shape, coarse.shape) == ((3, 4, 4, 4), (3, 2, 2, 8))
  masks = [(x == 0).reshape(3, -1) for x in (fine, coarse)]
  for mask in masks:
    assert 0.2 < mask.mean() < 0.8 and len({row.tobytes() for row in mask}) == 3
  # A key must not be used twice: with the same bits, the coarse mask starts the fine one.
  assert 0.2 < (masks[0][:, :32] == masks[1]).mean() < 0.8
  order = np.array([2, 0, 1])
  np.testing.assert_allclose(tap(x[order], keys[order])[0], y[order], atol=1e-4)


@pytest.mark.parametrize("name", ["unet", "unet_norm_resize", "encoder_unet"])
def test_bfloat16_is_near_float32(name):
  model = MODELS[name]
  variables, x = reference.random_variables(model, 3), image(2, 16, 16)
  full = logits(model, variables, x)
  half = logits(model.clone(dtype=jnp.bfloat16), variables, x)
  assert half.dtype == np.float32
  # bfloat16 keeps 8 bits: a relative error of 2^-9 at each of a dozen roundings.
  error = np.sqrt(np.mean((half - full) ** 2)) / full.std()
  assert 1e-5 < error < 0.05
