"""Views that `augment` makes of small images."""

import dataclasses
import functools

import jax
import numpy as np

from jaxseg import VOID
from jaxseg.augment import Augmentation, augment

GEOMETRY = Augmentation(
  flip=True,
  flip_vertical=True,
  transpose=True,
  scale=(0.6, 1.7),
  rotation=40.0,
  shift=4.0,
  elastic=1.0,
)
EVERYTHING = dataclasses.replace(GEOMETRY, brightness=0.1, contrast=(0.8, 1.25))


def keys(num):
  """As many random keys."""
  data = np.random.default_rng(num).integers(0, 2**32, (num, 2), np.uint32)
  return jax.random.wrap_key_data(data, impl="threefry2x32")


# Random numbers compile much faster without optimisation.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@functools.cache
def mapped(config, shared_example=True):
  """Compiled augment over keys, of one example for all or one each."""
  axes = (0, None, None) if shared_example else (0, 0, 0)
  run = jax.vmap(lambda key, image, labels: augment(key, image, labels, config), axes)
  return quick_jit(run)


def views(config, num, image, mask, **labels):
  """As many views of an example.  -> images, masks, {other labels}, as numpy"""
  images, labels = mapped(config)(keys(num), image, {"mask": mask, **labels})
  images, labels = jax.tree.map(np.asarray, (images, labels))
  return images, labels.pop("mask"), labels


def noise(h, w, d=3, seed=0):
  """An image as it comes from bytes, f32 in [0, 1], and a mask with four labels and VOID."""
  rng = np.random.default_rng(seed)
  image = rng.integers(0, 256, (h, w, d)).astype(np.float32) / np.float32(255)
  labels = np.array([0, 1, 2, 3, VOID], np.uint8)
  return image, rng.choice(labels, (h, w))


def ids(h, w):
  """Instances with another id at every pixel, i32[h,w]."""
  return np.arange(1, h * w + 1, dtype=np.int32).reshape(h, w)


def ramps(h, w):
  """Rows and columns as two channels from 0 to 1: a view of them says where it was sampled."""
  return np.stack(np.mgrid[:h, :w] / np.array([h - 1, w - 1])[:, None, None], -1).astype("f4")


def positions(images):
  """Where views of `ramps` were sampled, px.  [N,h,w,2] -> f64[2,N,h,w]"""
  h, w = images.shape[1:3]
  return np.moveaxis(images[..., :2].astype(float), -1, 0) * np.reshape(
    [h - 1, w - 1], (2, 1, 1, 1)
  )


def affine(images, reach):
  """The affine maps (i, j, 1) -> (row, column) of views, from their middle 2 reach x 2 reach px.

  f64[N,3,2]; i and j count from the middle.
  """
  places = np.moveaxis(positions(images), 0, -1)
  h, w = places.shape[1:3]
  i, j = np.mgrid[:h, :w] - np.array([h - 1, w - 1])[:, None, None] / 2
  middle = (abs(i) < reach) & (abs(j) < reach)
  inputs = np.stack([i, j, np.ones((h, w))], -1)[middle]
  return np.stack([np.linalg.lstsq(inputs, x[middle], rcond=None)[0] for x in places])
