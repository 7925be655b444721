"""The networks in Keras 3 and KerasHub, on their JAX backend, for the comparison in README.md.

A step is what Keras' guide to custom loops in JAX has: `stateless_call` differentiated by JAX,
`stateless_apply` of Keras' Adam, the loss and the policy mixed_bfloat16 of Keras. Shapes, classes
and batches are ours; so is the augmentation, by preprocessing layers of Keras. Encoders are trained
as ours are, and batch normalisation sees the batch of all devices. The options for GPUs are ours,
as in plain.py; none for TPUs.

What differs from ours:
- deeplab_resnet: KerasHub has no dilation in ResNet, dense 3x3 convolutions in ASPP, one 1x1
  convolution as the decoder, and enlarges its 256 channels, not the logits.
- The zoom gathers pixels, which is dear on TPUs; most Keras programs augment on the host instead.
  `--set=augment.flip=false --set='augment.scale=[1,1]' --set=augment.brightness=0` leaves it out.
- Steps have no norm of the gradient among their results.
FCN and a segmentation network on Xception do not exist there.
"""

import math

import jax
import keras
import numpy as np
import programs
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from keras import layers

from jaxseg import VOID, build, models, parallel

KEYS = {"data.image_size", "train.batch_size", "eval.batch_size", *programs.AUGMENT}
WIDTHS = (64, 128, 256, 512, 1024)
STAGES = ("block_1_expand_relu", "block_3_expand_relu", "block_6_expand_relu",
          "block_13_expand_relu", "block_16_project")  # fmt: skip
# ResNet-50; its last stage keeps stride 16.
RESNET = {"input_conv_filters": [64], "input_conv_kernel_sizes": [7],
          "stackwise_num_filters": [64, 128, 256, 512], "stackwise_num_blocks": [3, 4, 6, 3],
          "stackwise_num_strides": [1, 2, 2, 1], "block_type": "bottleneck_block"}  # fmt: skip


def unet(size, channels, classes, padding, norm):
  """U-Net (Ronneberger et al. 2015)."""

  def double_conv(x, width):
    for _ in range(2):
      x = layers.Conv2D(width, 3, padding=padding, use_bias=not norm)(x)
      x = layers.BatchNormalization()(x) if norm else x
      x = layers.ReLU()(x)
    return x

  image = layers.Input((size, size, channels))
  x, skips = layers.Rescaling(1 / 127.5, -1)(image), []
  for width in WIDTHS[:-1]:
    skips.append(double_conv(x, width))
    x = layers.MaxPooling2D()(skips[-1])
  x = double_conv(x, WIDTHS[-1])
  for width, skip in zip(reversed(WIDTHS[:-1]), reversed(skips), strict=True):
    x = layers.Conv2DTranspose(width, 2, strides=2)(x)
    margin = (skip.shape[1] - x.shape[1]) // 2
    skip = layers.Cropping2D(margin)(skip) if margin else skip
    x = double_conv(layers.Concatenate()([skip, x]), width)
  return keras.Model(image, layers.Conv2D(classes, 1)(x))


def mobilenet_unet(size, channels, classes):
  """The network of the TensorFlow segmentation tutorial, with the encoder trained."""
  shape = (size, size, channels)
  encoder = keras.applications.MobileNetV2(input_shape=shape, include_top=False, weights=None)
  encoder = keras.Model(encoder.input, [encoder.get_layer(name).output for name in STAGES])
  image = layers.Input(shape)
  *skips, x = encoder(layers.Rescaling(1 / 127.5, -1)(image))
  for width, skip in zip((512, 256, 128, 64), reversed(skips), strict=True):
    x = layers.Conv2DTranspose(width, 3, strides=2, padding="same", use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Concatenate()([x, skip])
  x = layers.Conv2DTranspose(classes, 3, strides=2, padding="same")(x)
  return keras.Model(image, x)


def deeplab_resnet(size, channels, classes):
  """KerasHub's DeepLabv3+."""
  import keras_hub

  shape = (size, size, channels)
  encoder = keras_hub.models.ResNetBackbone(image_shape=shape, **RESNET)
  # KerasHub reads the output stride from the name of the stage: P4 is 16.
  stages = encoder.pyramid_outputs
  encoder.pyramid_outputs = {"P2": stages["P2"], "P4": stages["P5"]}
  network = keras_hub.models.DeepLabV3Backbone(
    encoder, "P4", 4, [6, 12, 18], low_level_feature_key="P2", image_shape=shape
  )
  network = keras_hub.models.DeepLabV3ImageSegmenter(network, classes)
  image = layers.Input(shape)
  mean, std = (255 * np.array(x) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
  x = layers.Rescaling((1 / std).tolist(), (-mean / std).tolist())(image)
  return keras.Model(image, network(x))


def augmentation(config):
  """Preprocessing layers of {"images", "segmentation_masks"} that do what config.augment says."""
  augment, found = config.augment, []
  if augment.flip:
    found.append(layers.RandomFlip("horizontal", dtype="float32"))
  if tuple(augment.scale) != (1, 1):
    low, high = augment.scale  # Keras has the change of what is seen.
    factors = (1 / high - 1, 1 / low - 1)
    found.append(layers.RandomZoom(factors, fill_mode="reflect", dtype="float32"))
  if augment.brightness:
    found.append(layers.RandomBrightness(augment.brightness, (0, 255), dtype="float32"))
  return found


NETWORKS = {
  "paper_unet": lambda *shape: unet(*shape, "valid", norm=False),
  "padded_unet": lambda *shape: unet(*shape, "same", norm=True),
  "mobilenet_unet": mobilenet_unet,
  "deeplab_resnet": deeplab_resnet,
}


def lower(name, what, devices, values):
  """As programs.lower; the facts also have "parameters", trainable ones, of this network."""
  if name not in NETWORKS:
    raise SystemExit(f"Error: Keras has no {name}, but {', '.join(NETWORKS)}")
  if unknown := values.keys() - KEYS:
    raise SystemExit(f"Error: not for Keras: {', '.join(unknown)}")
  config, info = programs.load(name, values)
  size, step, classes = config.data.image_size, what == "step", len(info.classes)
  keras.config.set_dtype_policy("mixed_bfloat16")
  model = NETWORKS[name](size, info.channels, classes)
  parameters = sum(math.prod(x.shape) for x in model.trainable_variables)
  ours = models.abstract_variables(build.build_model(config, info), info.channels)
  if name != "deeplab_resnet" and parameters != models.num_parameters(ours):
    raise SystemExit(f"Error: {parameters} parameters; ours has {models.num_parameters(ours)}")

  mesh = Mesh(np.array(devices), (parallel.AXIS,))
  batch = config.train.batch_size if step else config.eval.batch_size
  batch += -batch % mesh.size
  whole, split = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), (parallel.AXIS,)))
  options = parallel.compiler_options(devices[0]) if devices[0].platform == "gpu" else {}

  def shapes(variables):
    return [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in variables]

  def predict(weights, rest, image):
    logits, _ = model.stateless_call(weights, rest, image, training=False)
    return keras.ops.softmax(keras.ops.cast(logits, "float32"))

  weights, rest = shapes(model.trainable_variables), shapes(model.non_trainable_variables)
  image = jax.ShapeDtypeStruct((batch, size, size, info.channels), np.uint8)
  one = jax.ShapeDtypeStruct((1, *image.shape[1:]), np.uint8)
  flop = jax.jit(predict).lower(weights, rest, one).cost_analysis()["flops"]
  facts = {"size": size, "batch": batch, "parameters": parameters}
  facts["model_TFLOP"] = (3 if step else 1) * flop * batch / mesh.size / 1e12
  if not step:
    run = jax.jit(predict, in_shardings=(whole, whole, split), compiler_options=options)
    return run.lower(weights, rest, image), facts

  optimizer = keras.optimizers.Adam(1e-3)
  optimizer.build(model.trainable_variables)
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=VOID)
  augment = augmentation(config)
  for layer in augment:
    layer.build(image.shape)

  def loss_of(weights, rest, image, mask):
    logits, rest = model.stateless_call(weights, rest, image, training=True)
    margin = (size - logits.shape[1]) // 2
    mask = mask[:, margin : size - margin, margin : size - margin]
    return loss(mask, logits), rest

  def train_step(state, image, mask):
    weights, rest, moments, seeds = state
    data, new_seeds = {"images": image, "segmentation_masks": mask[..., None]}, []
    for layer, seed in zip(augment, seeds, strict=True):
      data, seed = layer.stateless_call([], seed, data, training=True)
      new_seeds.append(seed)
    mask = data["segmentation_masks"][..., 0]
    gradient = jax.value_and_grad(loss_of, has_aux=True)
    (value, rest), grads = gradient(weights, rest, data["images"], mask)
    weights, moments = optimizer.stateless_apply(moments, grads, weights)
    return (weights, rest, moments, new_seeds), value

  seeds = [shapes(layer.non_trainable_variables) for layer in augment]
  state = (weights, rest, shapes(optimizer.variables), seeds)
  mask = jax.ShapeDtypeStruct(image.shape[:3], np.uint8)
  run = jax.jit(
    train_step,
    in_shardings=(whole, split, split),
    out_shardings=(whole, whole),
    donate_argnums=0,
    compiler_options=options,
  )
  return run.lower(state, image, mask), facts
