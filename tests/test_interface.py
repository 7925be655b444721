"""The contract of encoders and networks: those that are built in fulfil it, a user's may."""

import functools
import inspect
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_models import build

from jaxseg import UserError, models
from jaxseg.models import interface
from jaxseg.models.resnet import ResNet
from jaxseg.models.vgg import VGG16

ENCODER_PARTS = {"stages", "stride", "receptive_radius", "imagenet", "classifier", "unused_layers"}
NETWORK_PARTS = {"margin", "context", "stride", "input_size"}


@pytest.mark.parametrize("name", [*models.MODELS, *models.ENCODERS])
def test_every_part_of_the_interface_is_there(name):
  if name in models.MODELS:
    value, protocol, parts = build(name), interface.Network, NETWORK_PARTS
    assert value.input_size(33) >= 33 and value.context % value.stride == 0
    parameters = {"self", "image", "train", "keys"}
  else:
    value, protocol, parts = models.ENCODERS[name](), interface.Encoder, ENCODER_PARTS
    parameters = {"self", "image", "train"}
    assert value.receptive_radius > value.stride
  assert not interface.lacking(value, protocol)
  assert set(interface.lacking(object(), protocol)) == parts | {"__call__"}
  assert all(hasattr(value, part) for part in parts)
  assert set(inspect.signature(type(value).__call__).parameters) == parameters


class OneStage(nn.Module):
  """An encoder of a user: a strided convolution a stage."""

  dtype: Any = jnp.float32
  widths: tuple = (3, 4)

  stages, stride, receptive_radius = ("half", "quarter"), 4, 3
  imagenet, classifier, unused_layers = None, (), ()

  @nn.compact
  def __call__(self, image, *, train):
    x, stages = image, {}
    for name, width in zip(self.stages, self.widths, strict=True):
      x = stages[name] = nn.Conv(width, (3, 3), 2, dtype=self.dtype, name=name)(x)
    return stages


class Threshold(nn.Module):
  """A network of a user: a line through the image's mean over its channels."""

  num_classes: int
  sharpness: float

  margin, context, stride = 0, 0, 1

  def input_size(self, size):
    return size

  @nn.compact
  def __call__(self, image, *, train, keys=None):
    return nn.Dense(self.num_classes)(self.sharpness * image.mean(-1, keepdims=True))


def test_encoder_of_a_user(monkeypatch):
  """By name it is called with the keywords that it takes; as a module it stays as it is."""
  monkeypatch.setitem(models.ENCODERS, "mine", OneStage)
  options = {"widths": (5,), "precision": "bfloat16", "axis_name": "devices"}
  model = models.build("encoder_unet", 2, encoder="mine", **options)
  assert model.encoder.dtype == jnp.bfloat16 and model.stride == 4
  given = models.build("encoder_unet", 2, encoder=OneStage(widths=(6, 7)), **options)
  assert (given.encoder.dtype, given.encoder.widths) == (jnp.float32, (6, 7))
  image = np.zeros((1, 9, 10, 3), np.float32)
  for network in (model, given):
    variables = models.abstract_variables(network, 3)
    assert variables["params"]["encoder"].keys() == {"half", "quarter"}
    logits = jax.eval_shape(lambda v, n=network: n.apply(v, image, train=False), variables)
    assert logits.shape == (1, 9, 10, 2)
  with pytest.raises(UserError, match="^`encoder` mine has no output_stride, .*deeplab.* resnet50"):
    models.build("deeplabv3", 2, encoder="mine")
  with pytest.raises(
    UserError, match=r"^deeplab needs `output_stride` 16 .*: give OneStage\(output_"
  ):
    models.build("deeplabv3", 2, encoder=OneStage())
  with pytest.raises(UserError, match="^padding 'valid' needs `pad` 99 .*: give VGG16.pad=99"):
    models.build("fcn8s", 2, encoder=VGG16(), padding="valid")
  dense = models.build("deeplabv3", 2, encoder=ResNet(50, output_stride=8), output_stride=8)
  assert dense.encoder == ResNet(50, output_stride=8)
  monkeypatch.delattr(OneStage, "receptive_radius")
  for encoder in ("mine", OneStage()):
    with pytest.raises(UserError, match="encoder OneStage lacks receptive_radius; .*Encoder says"):
      models.build("encoder_unet", 2, encoder=encoder)


def test_network_of_a_user(monkeypatch):
  """Its builder's options are known, with their defaults; those that partial has fixed are not."""

  def build_threshold(num_classes, *, sharpness=2.0, margin=0):
    return Threshold(num_classes, sharpness)

  builder = functools.partial(build_threshold, margin=0)
  monkeypatch.setitem(models.MODELS, "threshold", builder)
  assert models.options_of("threshold") == {"sharpness": 2.0}
  assert models.build("threshold", 2).sharpness == 2.0
  model = models.build("threshold", 2, sharpness=3.0)
  variables = {"params": {"Dense_0": {"kernel": np.eye(1, 2), "bias": np.zeros(2)}}}
  image = np.full((1, 2, 3, 4), 0.5, np.float32)
  logits = model.apply(variables, image, train=False)
  np.testing.assert_array_equal(logits, np.broadcast_to([1.5, 0], (1, 2, 3, 2)))
  assert models.init(model, channels=4).keys() == {"params", "batch_stats"}
  with pytest.raises(UserError, match="^threshold has no option 'widths'; it has sharpness$"):
    models.build("threshold", 2, widths=(1,))
  with pytest.raises(UserError, match="^`pretrained` 'imagenet' is for .*Threshold has none"):
    models.init(model, pretrained="imagenet")
  with pytest.raises(UserError, match="^`output_stride` 8 is for DeepLab; Threshold"):
    models.at_output_stride(model, 8)
  monkeypatch.delattr(Threshold, "context")
  with pytest.raises(UserError, match="the network 'threshold' lacks context; .*Network says"):
    models.build("threshold", 2)
