"""The same network in Keras, as the TensorFlow segmentation tutorial builds and trains it.

KERAS_BACKEND=tensorflow python experiments/pets_tutorial/peer.py DIR FILE.h5

DIR and FILE.h5 are those of README.md. Writes peer.json: scores of the test images at 128 px, and
the seconds of the whole process. Keras runs on JAX or PyTorch, too.
"""

import time

BEGIN = time.time()  # before the imports, which count

import argparse  # noqa: E402
import importlib  # noqa: E402
import json  # noqa: E402
import pathlib  # noqa: E402

import keras  # noqa: E402
import numpy as np  # noqa: E402

from configs import unet_pets  # noqa: E402
from jaxseg import metrics  # noqa: E402
from jaxseg.build import open_split  # noqa: E402
from jaxseg.data.input_pipeline import eval_examples  # noqa: E402

SIZE, CLASSES = 128, ("pet", "background", "outline")
SKIPS = ("block_1_expand_relu", "block_3_expand_relu", "block_6_expand_relu",
         "block_13_expand_relu")  # fmt: skip
BOTTOM = "block_16_project"


def up_conv(filters, **options):
  start = keras.initializers.RandomNormal(stddev=0.02)
  return keras.layers.Conv2DTranspose(
    filters, strides=2, padding="same", kernel_initializer=start, **options
  )


def build(weights):
  """MobileNetV2, frozen, and four blocks of pix2pix that double its features."""
  encoder = keras.applications.MobileNetV2(
    input_shape=(SIZE, SIZE, 3), include_top=False, weights=weights
  )
  *skips, x = (encoder.get_layer(name).output for name in (*SKIPS, BOTTOM))
  encoder = keras.Model(encoder.input, [*skips, x])
  encoder.trainable = False
  image = keras.Input((SIZE, SIZE, 3))
  *skips, x = encoder(image)
  for filters, skip in zip((512, 256, 128, 64), reversed(skips), strict=True):
    x = keras.layers.BatchNormalization()(up_conv(filters, kernel_size=3, use_bias=False)(x))
    x = keras.layers.Concatenate()([keras.layers.ReLU()(x), skip])
  x = keras.layers.Conv2DTranspose(len(CLASSES), 3, strides=2, padding="same")(x)
  return keras.Model(image, x)


def read(data_dir, role):
  """(images f32[N,128,128,3] in [-1, 1], masks u8[N,128,128]) of a split."""
  config = unet_pets.get_config()
  config.data.data_dir = data_dir
  info, source = open_split(config, role)
  assert info.classes == CLASSES, info.classes
  images, masks = [], []
  for example in eval_examples(source):
    image, mask = (np.float32(example[name]) for name in ("image", "mask"))
    resize = keras.ops.image.resize
    images.append(resize(image / 127.5 - 1, (SIZE, SIZE), interpolation="bilinear"))
    masks.append(resize(mask[..., None], (SIZE, SIZE), interpolation="nearest"))
  to_numpy = keras.ops.convert_to_numpy
  return to_numpy(keras.ops.stack(images)), np.uint8(to_numpy(keras.ops.stack(masks)))[..., 0]


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("data", metavar="DIR")
  parser.add_argument("weights", metavar="FILE.h5")
  parser.add_argument("--epochs", default=20, type=int)
  parser.add_argument("--batch", default=16, type=int)
  parser.add_argument("--seed", default=0, type=int)
  args = parser.parse_args()
  keras.utils.set_random_seed(args.seed)
  images, masks = read(args.data, "train")
  model = build(args.weights)
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  model.compile(keras.optimizers.Adam(1e-3), loss)
  rng = np.random.default_rng(args.seed)
  for _ in range(args.epochs):
    flipped = rng.random(len(images)) < 0.5
    views = [
      np.where(flipped.reshape(-1, *[1] * (x.ndim - 1)), x[:, :, ::-1], x) for x in (images, masks)
    ]
    model.fit(*views, batch_size=args.batch, verbose=2)
  images, masks = read(args.data, "eval")
  found = np.uint8(model.predict(images, batch_size=args.batch, verbose=0).argmax(-1))
  counts = metrics.confusion_matrix(masks, found, len(CLASSES))
  scores = metrics.scores(*metrics.class_pixels(counts))
  backend = keras.backend.backend()
  row = {
    **{name: float(scores[name]) for name in ("pixel_accuracy", "miou")},
    "iou": dict(zip(CLASSES, map(float, scores["iou"]), strict=True)),
    "keras": keras.__version__, backend: importlib.import_module(backend).__version__,
    **{name: getattr(args, name) for name in ("epochs", "batch", "seed")},
    "seconds": time.time() - BEGIN,
  }  # fmt: skip
  print(json.dumps(row))
  path = pathlib.Path(__file__).with_name("peer.json")
  path.write_text(json.dumps(row, indent=2) + "\n")


if __name__ == "__main__":
  main()
