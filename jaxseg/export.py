"""Exports a trained network to a file that runs without jaxseg: StableHLO or ONNX."""

import dataclasses
import datetime
import importlib.util
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from jaxseg import UserError, tiles
from jaxseg.data.decode import DatasetInfo
from jaxseg.losses import class_logits
from jaxseg.ops import mirror, normalize
from jaxseg.platforms import plain_forms
from jaxseg.predict import (
  INPUT_STEP,
  TTA,
  enlarged_probs,
  input_step,
  mean_log_probs,
  tempered,
)

OUTPUTS = ("labels", "probs")
PLATFORMS = ("cpu", "cuda", "tpu")
# How long JAX promises to read what it wrote: half a year, in docs.jax.dev, "Exporting and
# serializing"; counted here in days, on the safe side.
READABLE_DAYS = 180


def check_options(output: str, onnx_size: Sequence[int], num_images: int) -> None:
  """Raises UserError for invalid values of config.export, or missing packages."""
  if output not in OUTPUTS:
    raise UserError(f"unknown `output` {output!r}; choose from {', '.join(OUTPUTS)}")
  if onnx_size and (len(onnx_size) != 2 or min(onnx_size) < 1):
    raise UserError(f"`onnx_size` is {onnx_size}: use height,width in px, or ()")
  if num_images < 1:
    raise UserError(f"`num_images` is {num_images}, but has to be positive")
  missing = [name for name in ("jax2onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
  if onnx_size and missing:
    raise UserError(
      f"`onnx_size` needs {missing[0]}: pip install -e '.[onnx]', or set it to ()"
    )


def describe(info: DatasetInfo, output: str, onnx_size: Sequence[int]) -> dict[str, Any]:
  """What a user of the exported files needs to know, for classes.json."""
  today = datetime.date.today()
  free = ["batch", "height", "width"]
  return {
    "classes": list(info.classes),
    "palette": [list(colour) for colour in info.palette],
    "input": {
      "dtype": info.dtype,
      "shape": [*free, info.channels],
      "channels": {1: "grey", 3: "RGB"}.get(info.channels, "bands"),
      "value_range": list(full_range(info)),  # black and white, of all channels or of each
      "image_format": dataclasses.asdict(info.image_format(info.dtype)),
      "clip": info.clip,
      "display_bands": list(info.display_bands),
    },
    "output": {
      "labels": {"dtype": "uint8", "shape": free},
      "probs": {"dtype": "float32", "shape": [*free, len(info.classes)]},
    }[output],
    "model.stablehlo": {
      "platforms": list(PLATFORMS),
      "sizes": "any",
      "written_by_jax": jax.__version__,
      "written_on": today.isoformat(),
      "readable_by": f"JAX released up to 6 months after JAX {jax.__version__}",
      "readable_until_at_most": (today + datetime.timedelta(READABLE_DAYS)).isoformat(),
    },
    **({"model.onnx": {"height": onnx_size[0], "width": onnx_size[1]}} if onnx_size else {}),
  }


def full_range(info: DatasetInfo) -> tuple:
  """Black and white of a data set in stored values, (low, high) or a pair for each channel."""
  return tuple(info.value_range) or (0, {"uint8": 255, "uint16": 65535}.get(info.dtype, 1))


def whole_image(
  model: nn.Module,
  variables: Mapping[str, Any],
  *,
  fit: str,
  size: int,
  tta: str,
  output: str,
  info: DatasetInfo,
  temperature: float = 1.0,
) -> Callable[[jax.Array], jax.Array]:
  """Builds the function that is exported: what `predict.make_predictor` does, without tiles.

  It takes sizes from its argument alone, which may be symbolic (`jax.export.symbolic_shape`).

  Args:
    model, fit, size, tta, temperature: as in `make_predictor`.
    variables: {"params": ..., "batch_stats": ...}, constants of the function.
    output: "labels" or "probs".  info: of the training data.
  Returns:
    function info.dtype[B,H,W,D] -> u8[B,H,W] or f32[B,H,W,C]
  Raises:
    UserError: a network whose stride does not divide INPUT_STEP.
  """
  if fit == "crop" and INPUT_STEP % model.stride:
    raise UserError(
      f"this network has a stride of {model.stride} px, but export for all image sizes needs one "
      f"that divides {INPUT_STEP}; use fewer levels in `widths`"
    )

  def read(length):
    """Positions along an axis as in `tiles.split_axis`; JAX can see that the size divides."""
    step = 1
    if fit == "crop":
      step = input_step(model) if isinstance(length, int) else file_step(model)
    whole = model.input_size(-(-length // step) * step + 2 * model.margin)
    return mirror(jnp.arange(whole) - model.margin, length).astype(jnp.int32)

  def network(image):
    return class_logits(model.apply(variables, image, train=False))

  def run(image):
    h, w = image.shape[1:3]
    x = image.astype(jnp.float32)
    if fit == "resize":
      x = resize(x, size, info.dtype)
    x = normalize(x, full_range(info), info.clip and info.value_range)
    x = x[:, read(x.shape[1])][:, :, read(x.shape[2])]
    log_probs = tempered(mean_log_probs(network, x, TTA[tta]), temperature)
    if fit == "crop":
      log_probs = log_probs[:, :h, :w]
      probs = jnp.exp(log_probs)
    else:
      log_probs = log_probs[:, :size, :size]
      probs = jax.vmap(lambda x: enlarged_probs(x, (h, w), (0, 0), (h, w)))(log_probs)
    return probs if output == "probs" else probs.argmax(-1).astype(jnp.uint8)

  return run


def file_step(model: nn.Module) -> int:
  """Sides that the network of a file for all sizes sees are multiples of this, of `fit` "crop", px.

  Of published networks that take any size as it is, JAX cannot tell the shapes for all sizes at
  once: INPUT_STEP, unlike `predict.input_step`, so that the file mirrors what they do not.
  """
  step = input_step(model)
  if step == 1 and not model.input_size(model.stride + 1) % model.stride:
    return model.stride
  return max(step, INPUT_STEP)


def resize(image: jax.Array, size: int, dtype: str = "uint8") -> jax.Array:
  """`resize_image` on the device, of uint8 bit for bit.  f32[B,H,W,D] -> f32[B,size,size,D]

  Pillow rounds to 8 bits after each axis, columns first; other types are not rounded in between.
  """
  if dtype != "uint8":
    by_col, by_row = (pillow_weights(size, image.shape[axis]) / 2**22 for axis in (2, 1))
    precision = jax.lax.Precision.HIGHEST
    image = jnp.einsum("jw,ih,bhwd->bijd", by_col, by_row, image, precision=precision)
    return image if dtype == "float32" else jnp.round(image)
  for axis, product in ((2, "pjw,bhwd->pbhjd"), (1, "pih,bhwd->pbiwd")):
    weights = pillow_weights(size, image.shape[axis])
    # Halves of 11 bits: sums over pixels are integers below 2^24, which float32 has exactly.
    high = jnp.floor(weights / 2**11)
    parts = jnp.stack([high, weights - high * 2**11])
    high, low = jnp.einsum(product, parts, image, precision=jax.lax.Precision.HIGHEST)
    image = jnp.floor((high + jnp.floor(low / 2**11) + 2**10) / 2**11)
  return image


def pillow_weights(size: int, length: int) -> jax.Array:
  """Pillow's weights for resizing an axis bilinearly, in units of 2^-22.

  f32[size,length] of integers: a triangle over the distance to the centre, widened to the sampling
  step when shrinking.
  """
  pixels = 2 * jnp.arange(length) + 1
  length = jnp.asarray(length, jnp.int32)
  centre = (2 * jnp.arange(size)[:, None] + 1) * length
  distance = jnp.abs(pixels * size - centre)  # in px / (2 size)
  weight = jnp.maximum(0, 2 * jnp.maximum(length, size) - distance)
  total = weight.sum(axis=1, keepdims=True)
  # Rounded float32 may be off by one; the remainder is small, so int32 overflow leaves it exact.
  scaled = jnp.round(weight / total * 2.0**22).astype(jnp.int32)
  remainder = weight * 2**22 - scaled * total
  correction = (2 * remainder >= total).astype(jnp.int32) - (2 * remainder < -total)
  return (scaled + correction).astype(jnp.float32)


def to_stablehlo(
  run: Callable[[jax.Array], jax.Array], channels: int, dtype: str = "uint8"
) -> bytes:
  """Serialises a function dtype[B,H,W,D] -> ... for images of any number and size."""
  shape = jax.export.symbolic_shape("b, h, w", constraints=["b >= 1", "h >= 1", "w >= 1"])
  image = jax.ShapeDtypeStruct((*shape, channels), dtype)
  return bytes(jax.export.export(jax.jit(run), platforms=PLATFORMS)(image).serialize())


def to_onnx(
  run: Callable[[jax.Array], jax.Array],
  size: Sequence[int],
  channels: int,
  dtype: str = "uint8",
) -> bytes:
  """Converts a function dtype[B,H,W,D] -> ... to ONNX, for any number of images of one size (H, W).

  jax2onnx 0.17.1 fails if H and W are symbolic.
  """
  import jax2onnx

  (batch,) = jax.export.symbolic_shape("b", constraints=["b >= 1"])
  image = jax.ShapeDtypeStruct((batch, *size, channels), dtype)
  logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # warns of symbolic shapes
  with plain_forms():
    model = jax2onnx.to_onnx(run, [image], input_names=["image"], output_names=["output"])
  return model.SerializeToString()


def load_stablehlo(data: bytes) -> Callable[[np.ndarray], jax.Array]:
  """The function u8[B,H,W,D] -> array that `to_stablehlo` serialised."""
  return jax.jit(jax.export.deserialize(bytearray(data)).call)


def load_onnx(data: bytes) -> Callable[[np.ndarray], np.ndarray]:
  """An ONNX model as a function u8[B,H,W,D] -> array."""
  import onnxruntime

  options = onnxruntime.SessionOptions()
  options.log_severity_level = 3  # errors only; it warns of unused constants
  session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
  return lambda image: session.run(None, {"image": image})[0]


def fit_size(image: np.ndarray, size: Sequence[int]) -> np.ndarray:
  """Cuts or mirrors an image to a size.  u8[H,W,D] -> u8[h,w,D]"""
  return image[
    np.ix_(*(tiles.mirror(np.arange(n), m) for n, m in zip(size, image.shape, strict=False)))
  ]


def agreement(
  call: Callable[[np.ndarray], Any], predict: Callable, images: Sequence[np.ndarray]
) -> float:
  """Fraction of pixels to which an exported file gives the same label as the live network.

  Args:
    call: function u8[1,H,W,D] -> labels or probabilities.
    predict: function of examples, see `predict.make_predictor`.  images: list of u8[H,W,D].
  """
  equal = total = 0
  for example, probs in predict({"image": image} for image in images):
    output = np.asarray(call(example["image"][None]))[0]
    labels = output if output.ndim == 2 else output.argmax(-1)
    equal += np.sum(labels == probs.argmax(-1))
    total += labels.size
  return float(equal / total)
