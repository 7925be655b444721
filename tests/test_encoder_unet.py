"""The U-Net on an encoder: the tutorial's decoder, and what is frozen."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
import reference
from test_unet import (
  TinyEncoder,
  abstract,
  count,
  dropout_tap,
  image,
  logits,
  projection,
  tiny_encoder_unet,
)

from jaxseg import UserError
from jaxseg.models.mobilenet_v2 import MobileNetV2
from jaxseg.models.unet import EncoderUNet


def test_encoder_unet_of_the_tutorial():
  """6,504,227 parameters with batch statistics, as the TensorFlow tutorial's summary says."""
  variables = abstract(EncoderUNet(3, MobileNetV2()), 3)
  assert count(variables) == 6_504_227
  c, decoder = 320, 0
  for skip, width in (576, 512), (192, 256), (144, 128), (96, 64):
    decoder += 9 * c * width + 4 * width  # transposed convolution without bias, normalisation
    c = width + skip
  decoder += 9 * c * 3 + 3
  assert count(variables) - count([tree["encoder"] for tree in variables.values()]) == decoder


def given_encoder(given):
  """An encoder whose stages are {name: array}, whatever the image."""

  class Given(nn.Module):
    stages = tuple(given)
    stride = 2 ** len(given)

    def __call__(self, image, *, train):
      return {name: jnp.asarray(x) for name, x in given.items()}

  return Given()


def keras_decoder(variables, channels, widths, num_classes):
  """The tutorial's stack of pix2pix.upsample blocks, with our weights."""
  params, stats = variables["params"], variables["batch_stats"]
  layers = keras.layers

  def up(features, name):
    layer = params[name]
    return layers.Conv2DTranspose(
      features,
      3,
      strides=2,
      padding="same",
      use_bias="bias" in layer,
      kernel_initializer=lambda shape, dtype: layer["kernel"].transpose(0, 1, 3, 2),
      bias_initializer=lambda shape, dtype: layer["bias"],
    )

  def norm(name):
    values = {**params[name], **stats[name]}
    names = {"gamma": "scale", "beta": "bias", "moving_mean": "mean", "moving_variance": "var"}
    return layers.BatchNormalization(
      **{
        f"{theirs}_initializer": lambda shape, dtype, value=values[ours]: value
        for theirs, ours in names.items()
      }
    )

  *skips, x = inputs = [keras.Input((None, None, c)) for c in channels]
  for i, (width, skip) in enumerate(zip(widths, reversed(skips), strict=True)):
    x = layers.ReLU()(norm(f"up{i}_norm")(up(width, f"up{i}")(x)))
    x = layers.Concatenate()([x, skip])
  return keras.Model(inputs, up(num_classes, "head")(x))


def test_decoder_equals_keras():
  channels, widths = (96, 144, 192, 576, 320), (512, 256, 128, 64)
  rng = np.random.default_rng(0)
  stages = {
    f"stage{i}": rng.normal(size=(2, 32 >> i, 64 >> i, c)).astype(np.float32)
    for i, c in enumerate(channels)
  }
  model = EncoderUNet(3, given_encoder(stages))
  variables = reference.random_variables(model, 3)
  decoder = keras_decoder(variables, channels, widths, 3)
  expected = np.asarray(jax.jit(lambda x: decoder(x, training=False))(list(stages.values())))
  assert expected.shape == (2, 64, 128, 3) and 0.1 < expected.std() < 10
  ours = logits(model, variables, np.zeros((2, 64, 128, 3), np.float32))
  np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4)


def test_number_of_widths_must_match():
  with pytest.raises(UserError, match=r"^`widths` is \(6, 4, 2\), but this encoder needs 2: one"):
    abstract(EncoderUNet(3, TinyEncoder(), widths=(6, 4, 2)), 3)


def train_step(model, x):
  """(gradient, batch statistics before, after) of one pass in training, from random weights."""
  variables = reference.random_variables(model, 3)

  def total(params):
    y, updates = model.apply(
      {**variables, "params": params}, x, train=True, mutable=["batch_stats"]
    )
    return projection(y), updates["batch_stats"]

  grads, after = jax.jit(jax.grad(total, has_aux=True))(variables["params"])
  return grads, variables["batch_stats"], after


def split(tree):
  """(leaves of the encoder, leaves of the rest)"""
  rest = {name: part for name, part in tree.items() if name != "encoder"}
  return jax.tree.leaves(tree["encoder"]), jax.tree.leaves(rest)


def test_frozen_encoder_stands_still():
  model = tiny_encoder_unet(freeze_encoder=True)
  grads, before, after = train_step(model, image(2, 32, 32))
  frozen, trained = split(grads)
  assert not any(np.any(g) for g in frozen) and all(np.any(g) for g in trained)
  frozen, trained = split(jax.tree.map(lambda a, b: bool(np.any(a != b)), before, after))
  assert not any(frozen) and all(trained)
  assert (len(frozen), len(trained)) == (2 * 3, 2 * 2)


def test_encoder_trains_unless_frozen():
  grads, before, after = train_step(tiny_encoder_unet(), image(2, 32, 32))
  assert all(np.any(g) for g in jax.tree.leaves(grads))
  moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), before, after)
  assert all(jax.tree.leaves(moved))


def test_encoder_unet_dropout():
  """On the coarsest stage alone, by example."""
  model = tiny_encoder_unet(dropout=0.5)
  variables, keys = reference.random_variables(model, 3), jax.random.split(jax.random.key(0), 3)
  same = np.broadcast_to(image(1, 16, 16), (3, 16, 16, 3))  # for the same batch statistics
  tap = dropout_tap(model, variables)
  y, (dropped,) = tap(same, keys)
  assert dropped.shape == (3, 2, 2, 6)
  assert len({row.tobytes() for row in dropped}) == 3
  order = np.array([2, 0, 1])
  reordered, (dropped_then,) = tap(same, keys[order])
  np.testing.assert_array_equal(dropped_then, dropped[order])
  np.testing.assert_allclose(reordered, y[order], atol=1e-4)
