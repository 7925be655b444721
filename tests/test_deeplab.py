"""DeepLab against NumPy, arithmetic and its own geometry."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from reference import count, logits, normal

from jaxseg import UserError
from jaxseg.models.batch_norm import BatchNorm
from jaxseg.models.deeplab import ASPP, ConvNormRelu, DeepLab
from jaxseg.models.layers import UpScore
from jaxseg.models.mobilenet_v2 import MobileNetV2
from jaxseg.models.resnet import ResNet


def abstract(model):
  image = np.zeros((1, 64, 64, 3), np.float32)
  return jax.eval_shape(lambda: model.init(jax.random.key(0), image, train=False))


class TinyEncoder(nn.Module):
  """Stages of strides 2, 4, ... up to the output stride, of one convolution each."""

  output_stride: int = 16
  stages = ("half", "quarter", "eighth", "coarse")
  receptive_radius = 15

  @property
  def stride(self):
    return self.output_stride

  @nn.compact
  def __call__(self, image, *, train):
    x, stages, total = image, {}, 1
    for i, name in enumerate(self.stages):
      stride = 2 if total < self.output_stride else 1
      total *= stride
      x = nn.Conv(4 + i, (3, 3), stride, name=name)(x)
      stages[name] = x = nn.relu(x)
    return stages


class Leaning(TinyEncoder):
  """Whose windows have their centres in the middle of the first pixel, or of the last."""

  lean: int = 1

  @nn.compact
  def __call__(self, image, *, train):
    x, stages, total = image, {}, 1
    for i, name in enumerate(self.stages):
      stride, padding = (2 if total < self.output_stride else 1), "SAME"
      if self.lean < 0 and stride == 2:
        padding = [(1, 1), (1, 1)]
      total *= stride
      stages[name] = x = nn.relu(nn.Conv(4 + i, (3, 3), stride, padding, name=name)(x))
    return stages


class Centres(nn.Module):
  """The coarse map holds the columns of its windows' centres."""

  output_stride: int = 16
  lean: int = 1
  stages = ("half", "quarter", "eighth", "coarse")
  stride = property(lambda self: self.output_stride)

  @nn.compact
  def __call__(self, image, *, train):
    b, h, w, _ = image.shape
    s = self.output_stride
    rows, length = -(-h // s), -(-w // s)
    columns = s * jnp.arange(length) + (s - 1) * (1 + self.lean) / 2
    coarse = jnp.broadcast_to(columns[:, None], (b, rows, length, 1))
    return {**dict.fromkeys(self.stages), "coarse": coarse}


@pytest.mark.parametrize("lean", [1, -1, 0])
@pytest.mark.parametrize("trained, used", [(16, 8), (32, 8), (8, 16), (16, 16)])
def test_another_output_stride_leaves_things_where_they_were(trained, used, lean):
  """What the network says about a pixel is from windows around the same place as in training."""
  model = DeepLab(1, Centres(trained, lean), aspp=False, decoder=False)
  image = jnp.zeros((1, 32, 256, 3))
  variables = {"params": {"head": {"kernel": jnp.ones((1, 1, 1, 1)), "bias": jnp.zeros(1)}}}
  found = model.at_output_stride(used).apply(variables, image, train=False)[0, 0, 32:-32, 0]
  # The middle of a cell of s px is at (s - 1) / 2, the centres of its windows (s - 1) / 2 beside.
  expected = np.arange(32, 224) + lean * (trained - 1) / 2
  np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("options, width", [({"smp": True}, 256), ({"exact": True}, 257)])
@pytest.mark.parametrize("trained, used", [(16, 8), (8, 16)])
def test_and_so_in_other_libraries(options, width, trained, used):
  """Of smp, corners stay in place; of torchvision, the last cells go beyond the image."""
  model = DeepLab(1, Centres(trained, -1), aspp=False, decoder=False, **options)
  image = jnp.zeros((1, width, width, 3))
  variables = {"params": {"head": {"kernel": jnp.ones((1, 1, 1, 1)), "bias": jnp.zeros(1)}}}
  before, now = (
    x.apply(variables, image, train=False)[0, 0, 32:-32, 0]
    for x in (model, model.at_output_stride(used))
  )
  assert np.ptp(before) > 150
  np.testing.assert_allclose(now, before, atol=1e-3)


def test_other_parameters_and_uneven_padding_are_refused():
  """A learned upsampling fits one output stride. TensorFlow pads odd and even sizes unlike."""
  learned = DeepLab(2, Leaning(lean=0), aspp=False, decoder=False, up="transposed")
  uneven = DeepLab(2, Leaning(lean=1), aspp=False, decoder=False, exact=True)
  for model, words in (learned, "another learned upsampling"), (uneven, "odd and even sizes"):
    with pytest.raises(UserError, match=f"^`output_stride` 8.*{words}.*training, 16"):
      model.at_output_stride(8)
    assert model.at_output_stride(16) == model
  for up in "resize", "transposed":  # with a decoder, it is that of the low level to the image
    assert DeepLab(2, Leaning(lean=1), up=up).at_output_stride(8).trained_stride == 16


@pytest.mark.slow
@pytest.mark.parametrize("lean", [1, -1])
def test_no_other_place_is_nearer_to_what_was_trained(lean, monkeypatch):
  """With ASPP and a decoder, on a smooth image."""
  model = DeepLab(3, Leaning(lean=lean), widths=(16, 8), rates=(2, 4))
  variables = reference.random_variables(model, 3)
  x = np.linspace(0, 6, 256)
  waves = [np.sin(a * x)[:, None] + np.cos(b * x)[None] for a, b in ((1, 2), (3, 1), (2, 3))]
  image = (np.stack(waves, -1)[None] / 4 + 0.5).astype(np.float32)
  expected, errors = logits(model, variables, image), {}
  dense = model.at_output_stride(8)
  own = dense.resize_options((256, 256))["offset"]
  for offset in (-0.5, 0.0, 0.5, 1.0, 1.5):
    options = {"factor": 2.0, "offset": offset}
    monkeypatch.setattr(DeepLab, "resize_options", lambda *_, options=options: options)
    found = logits(dense, variables, image)
    errors[offset] = np.abs(found - expected)[0, 32:-32, 32:-32].mean()
  assert own == (1 + lean) / 2 == min(errors, key=errors.get)


# The pyramid


def unit(x, variables, name, *, rate=1, separable=False):
  """ConvNormRelu in NumPy."""
  params, stats = (variables[c][name] for c in ("params", "batch_stats"))

  def norm_relu(x, layer):
    return np.maximum(reference.batch_norm(x, params[layer], stats[layer]), 0)

  if "depthwise" in params:
    kernel = params["depthwise"]["kernel"]
    wide = np.zeros((2 * rate + 1, 2 * rate + 1, kernel.shape[2]))
    wide[::rate, ::rate] = kernel  # zeros between the taps: that is what atrous means
    x = norm_relu(reference.depthwise_conv(x, wide), "depthwise_norm")
    return norm_relu(reference.conv(x, params["pointwise"]["kernel"]), "norm")
  kernel = params["conv"]["kernel"]
  wide = kernel
  if kernel.shape[0] == 3:
    wide = np.zeros((2 * rate + 1, 2 * rate + 1, *kernel.shape[2:]))
    wide[::rate, ::rate] = kernel
  return norm_relu(reference.conv(x, wide), "norm")


@pytest.mark.parametrize("separable", [False, True])
@pytest.mark.parametrize("size", [33, 65, 129, pytest.param(513, marks=pytest.mark.slow)])
def test_aspp_equals_numpy(size, separable):
  """On the maps of images of these sizes, at output stride 16: 3, 5, 9 and 33 px."""
  side, rates = (size - 1) // 16 + 1, (6, 12, 18)
  x, model = normal(1, side, side, 3), ASPP(4, rates, separable)
  variables = jax.eval_shape(lambda: model.init(jax.random.key(0), x, train=False))
  rng = np.random.default_rng(0)
  variables = jax.tree_util.tree_map_with_path(
    lambda path, x: reference.random_weight(rng, path[-1].key, x.shape), variables
  )
  mean = unit(x.mean((1, 2), keepdims=True), variables, "image")
  branches = [np.broadcast_to(mean, (1, side, side, 4)), unit(x, variables, "pixel")]
  branches += [unit(x, variables, f"atrous{i}", rate=rate) for i, rate in enumerate(rates)]
  expected = unit(np.concatenate(branches, -1), variables, "project")
  assert 0.1 < expected.std() < 10
  ours = jax.jit(lambda v: model.apply(v, x, train=False))(variables)
  np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("separable", [False, True])
def test_atrous_consistency(separable):
  """At twice the rate on a map of twice the density, every second value is the same."""
  x, model = normal(2, 17, 25, 4), ConvNormRelu(5, 3, 3, separable)
  variables = jax.jit(lambda: model.init(jax.random.key(0), x, train=False))()
  dense = ConvNormRelu(5, 3, 6, separable)
  coarse, fine = (
    jax.jit(lambda v, x, m=m: m.apply(v, x, train=False))(variables, y)
    for m, y in ((model, x[:, ::2, ::2]), (dense, x))
  )
  np.testing.assert_allclose(fine[:, ::2, ::2], coarse, atol=1e-5)


@pytest.mark.parametrize(
  "output_stride, rates", [(8, (12, 24, 36)), (16, (6, 12, 18)), (32, (3, 6, 9))]
)
def test_rates_follow_the_output_stride(output_stride, rates):
  model, found = DeepLab(3, TinyEncoder(output_stride), widths=(4, 3)), []

  def note(call, args, words, context):
    if isinstance(context.module, ConvNormRelu) and "atrous" in context.module.name:
      found.append(context.module.rate)
    return call(*args, **words)

  with nn.intercept_methods(note):
    abstract(model)
  assert tuple(found) == rates


def test_rates_that_the_output_stride_does_not_divide():
  model = DeepLab(3, TinyEncoder(32), widths=(4, 3), rates=(1, 2, 4))
  with pytest.raises(UserError, match="`rates` has 1, at output stride 16; at 32 that is no whole"):
    abstract(model)


# The network


def unit_size(inputs, outputs, size, separable=False):
  """Parameters of a convolution without bias and its normalisation."""
  if size == 3 and separable:
    return 9 * inputs + 2 * inputs + inputs * outputs + 2 * outputs
  return size**2 * inputs * outputs + 2 * outputs


def aspp_size(inputs, separable):
  pyramid = 2 * unit_size(inputs, 256, 1) + 3 * unit_size(inputs, 256, 3, separable)
  return pyramid + unit_size(5 * 256, 256, 1)


def test_parameters_of_deeplabv3_on_resnet50():
  """torchvision's deeplabv3_resnet50 has 39,638,869, with one more 3x3 convolution in its head."""
  model = DeepLab(21, ResNet(50, output_stride=8), decoder=False, separable=False)
  assert count(abstract(model)["params"]) == 39_638_869 - unit_size(256, 256, 3)
  assert 39_638_869 == (
    23_508_032 + aspp_size(2048, False) + unit_size(256, 256, 3) + 256 * 21 + 21
  )


@pytest.mark.parametrize(
  "encoder, high, low, encoder_size, public, theirs_high, theirs_low, theirs_encoder",
  [
    (ResNet(50, output_stride=16), 2048, 256, 23_508_032, 26_678_099, 2048, 256, 23_508_032),
    # Public: the last 1x1 convolution to 1280 channels, and the projection of stride 4.
    (MobileNetV2(output_stride=16), 320, 144, 1_811_072, 4_379_027, 1280, 24, 2_223_872),
  ],
)
def test_parameters_of_deeplabv3plus(
  encoder, high, low, encoder_size, public, theirs_high, theirs_low, theirs_encoder
):
  """Against segmentation_models.pytorch 0.6, 3 classes, difference by difference.

  Theirs: no normalisation between depthwise and pointwise convolution, one more separable
  convolution behind the pyramid and one fewer in the decoder.
  """
  params = abstract(DeepLab(3, encoder))["params"]
  decoder = unit_size(low, 48, 1) + unit_size(304, 256, 3, True) + unit_size(256, 256, 3, True)
  head = 256 * 3 + 3
  assert count(params["encoder"]) == encoder_size
  assert count(params) == encoder_size + aspp_size(high, True) + decoder + head
  theirs = theirs_encoder + aspp_size(theirs_high, True) + unit_size(theirs_low, 48, 1)
  theirs += unit_size(256, 256, 3, True) + unit_size(304, 256, 3, True) + head
  theirs -= 2 * (3 * theirs_high + 256 + 304)
  assert theirs == public


@pytest.mark.parametrize("up", ["resize", "transposed"])
@pytest.mark.parametrize("decoder", [True, False])
def test_any_size(decoder, up):
  model = DeepLab(5, TinyEncoder(), widths=(4, 3), decoder=decoder, up=up)
  for h, w in (33, 57), (1, 1), (513, 100):
    x = np.zeros((2, h, w, 3), np.float32)
    y = jax.eval_shape(lambda x=x: model.init_with_output(jax.random.key(0), x, train=False)[0])
    assert (y.shape, y.dtype) == ((2, h, w, 5), jnp.float32)


@pytest.mark.parametrize("up", ["resize", "transposed"])
def test_constant_scores_stay_constant(up):
  model = DeepLab(3, TinyEncoder(), widths=(4, 3), decoder=False, up=up)
  x, variables = np.zeros((1, 64, 96, 3), np.float32), reference.random_variables(model, 3, size=64)
  params = variables["params"]
  params["head"] = {"kernel": np.zeros((1, 1, 4, 3), "f4"), "bias": np.float32([1, -2, 3])}
  if up == "transposed":
    params["up"] = {"kernel": UpScore(16, 32).init(jax.random.key(0), x)["params"]["kernel"]}
  y = logits(model, variables, x)
  inner = y if up == "resize" else y[:, 8:-8, 8:-8]  # kernels hang over the edge
  np.testing.assert_allclose(inner, np.broadcast_to([1, -2, 3], inner.shape), atol=1e-5)


def gradient(model, variables, x):
  weights = normal(*x.shape[:3], model.num_classes, seed=5)

  def total(params):
    y, updates = model.apply(
      {**variables, "params": params}, x, train=True, mutable=["batch_stats"]
    )
    return jnp.sum(y * weights), updates["batch_stats"]

  return jax.jit(jax.grad(total, has_aux=True))(variables["params"])


@pytest.mark.slow
def test_every_part_gets_gradient_unless_frozen():
  x = np.random.default_rng(0).random((2, 64, 64, 3), np.float32)
  model = DeepLab(3, TinyEncoder(), widths=(4, 3))
  variables = reference.random_variables(model, 3, size=64)
  grads, _ = gradient(model, variables, x)
  assert all(np.any(g) for g in jax.tree.leaves(grads))
  frozen, _ = gradient(model.clone(freeze_encoder=True), variables, x)
  assert not any(np.any(g) for g in jax.tree.leaves(frozen["encoder"]))
  assert np.any(frozen["aspp"]["project"]["conv"]["kernel"])


def test_dropout_behind_the_pyramid():
  """By example, in training with keys."""
  model = DeepLab(3, TinyEncoder(), widths=(8, 3), dropout=0.5, decoder=False)
  x = np.broadcast_to(np.random.default_rng(0).random((1, 32, 32, 3), "f4"), (3, 32, 32, 3))
  variables = reference.random_variables(model, 3)
  keys = jax.random.split(jax.random.key(0), 3)
  run = jax.jit(lambda k: model.apply(variables, x, train=True, keys=k, mutable=["batch_stats"])[0])
  y, order = np.asarray(run(keys)), np.array([2, 0, 1])
  assert len({row.tobytes() for row in y}) == 3
  np.testing.assert_allclose(run(keys[order]), y[order], atol=1e-5)


def test_context_without_image_pooling():
  """A window sees the whole image's logits but for `context` px, and the mean of its map."""
  model = DeepLab(2, TinyEncoder(), widths=(16, 8))
  assert model.context == 368 and model.stride == 16  # 15 + 288 + 64 = 367
  variables = reference.random_variables(model, 3, size=64)
  variables["params"]["aspp"]["image"] = jax.tree.map(
    np.zeros_like, variables["params"]["aspp"]["image"]
  )
  side = 2 * 368 + 3 * 16
  x = np.random.default_rng(0).random((1, side, 32, 3), np.float32)
  whole, window = logits(model, variables, x), logits(model, variables, x[:, 16:])
  near = np.abs(whole[:, 16:] - window)
  assert near[:, 368:].max() < 1e-5 * whole.std() < near[:, :200].max()


def test_every_normalisation_knows_the_devices():
  """Five in the pyramid and three inside its separable ones, its last, one and four behind it."""
  found = []

  def note(call, args, words, context):
    if isinstance(context.module, BatchNorm):
      found.append((context.module.axis_name, context.module.dtype))
    return call(*args, **words)

  options = {"widths": (4, 3), "axis_name": "devices", "dtype": jnp.bfloat16}
  with nn.intercept_methods(note):
    abstract(DeepLab(3, TinyEncoder(), **options))
  assert found == [("devices", jnp.bfloat16)] * 14


@pytest.mark.slow
@pytest.mark.parametrize("decoder", [False, True])
def test_the_head_starts_large_enough_for_rare_classes(decoder):
  """Glorot's uniform weights: up to sqrt(6 / (inputs + outputs)), a deviation of that / sqrt(3)."""
  model = DeepLab(9, TinyEncoder(), widths=(91, 3), decoder=decoder)
  variables = model.init(jax.random.key(0), np.zeros((1, 64, 64, 3), np.float32), train=False)
  kernel = variables["params"]["head"]["kernel"]
  limit = (6 / 100) ** 0.5
  assert kernel.shape == (1, 1, 91, 9) and 0.95 * limit < np.abs(kernel).max() <= limit
  np.testing.assert_allclose(kernel.std(), limit / 3**0.5, rtol=0.05)
