"""From images of any size to class probabilities of the same size; files in, label maps out."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from PIL import Image

from jaxseg import UserError
from jaxseg.data.datasets import decode_image, resize_image
from jaxseg.ops import resize_to_canvas
from jaxseg.visualize import overlay, save_label_map
from jaxseg.workdirs import make_folder

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")
# Image sizes are rounded up to these, so that a folder of many sizes compiles few programs.
INPUT_STEP, OUTPUT_STEP = 64, 256


def make_predictor(model, *, fit, size, batch_size):
  """Builds `predict(variables, examples)`, which yields (example, probabilities).

  Args:
    model: as in `models.build`.
    fit: "resize", the network sees every image at size x size and its logits are enlarged to the
      image; "crop", it sees the image as it is.
    size: height and width for "resize", px.
    batch_size: images of one shape that go through the network together.
  Returns:
    A generator function of variables {"params": ..., "batch_stats": ...} and an iterable of
    {"image": u8[H,W,D], ...}; it yields the examples in order with f32[H,W,C]. It uses all devices
    of this process.
  """
  devices = jax.local_devices()
  mesh = Mesh(np.asarray(devices), ("batch",))
  whole, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("batch"))

  @functools.partial(jax.jit, in_shardings=(whole, split), out_shardings=whole)
  def forward(variables, image):
    return model.apply(variables, image.astype(jnp.float32) / 255.0, train=False)

  @functools.partial(jax.jit, static_argnames="canvas")
  def enlarge(logits, image_size, canvas):
    return jax.nn.softmax(resize_to_canvas(logits, image_size, canvas))

  def prepare(image):
    if fit == "resize":
      return resize_image(image, size)
    pads = [(0, -n % INPUT_STEP) for n in image.shape[:2]]
    return np.pad(image, [*pads, (0, 0)], mode="symmetric")

  def finish(logits, shape):
    if fit == "crop":
      return jax.nn.softmax(logits)
    canvas = 2 * (-(-max(shape) // OUTPUT_STEP) * OUTPUT_STEP,)
    return enlarge(logits, jnp.array(shape), canvas)

  def run(variables, examples, images):
    # Fill up to a power of two, and to a multiple of the devices: again, few programs.
    filled = max(1 << (len(images) - 1).bit_length(), len(devices))
    filled += -filled % len(devices)
    batch = np.zeros((filled, *images[0].shape), np.uint8)
    batch[: len(images)] = images
    logits = jax.device_put(forward(variables, jax.device_put(batch, split)), devices[0])
    shapes = [example["image"].shape[:2] for example in examples]
    probs = [finish(x, shape) for x, shape in zip(logits, shapes, strict=False)]
    for example, p, (h, w) in zip(examples, probs, shapes, strict=True):
      yield example, np.asarray(p)[:h, :w]

  def predict(variables, examples):
    variables = jax.device_put(jax.tree.map(np.asarray, variables), whole)
    waiting, images = [], []
    for example in examples:
      image = prepare(example["image"])
      if images and (len(images) == batch_size or images[0].shape != image.shape):
        yield from run(variables, waiting, images)
        waiting, images = [], []
      waiting.append(example)
      images.append(image)
    if images:
      yield from run(variables, waiting, images)

  return predict


def list_images(path):
  """The image files of a folder, sorted, or the file itself.

  Raises:
    UserError: no such file or folder, or nothing in it that could be an image.
  """
  path = pathlib.Path(path)
  if path.is_file():
    return [path]
  if not path.is_dir():
    raise UserError(f"no file or folder {path}; correct --input")
  files = sorted(f for f in path.iterdir() if f.suffix.lower() in SUFFIXES and f.is_file())
  if not files:
    raise UserError(f"no images in {path}: none of its files ends in {', '.join(SUFFIXES)}")
  return files


def output_names(files):
  """A PNG name per file: its own, with the old suffix kept where two would collide."""
  stems = [file.stem for file in files]
  names = [file.name if stems.count(file.stem) > 1 else file.stem for file in files]
  if len(set(names)) < len(names):  # a.jpg, a.png and a.jpg.bmp
    names = [file.name for file in files]
  return [f"{name}.png" for name in names]


def predict_files(predict, files, output, info, progress=lambda x: x):
  """Writes output/NAME.png, the label map, and output/overlays/NAME.png for each image file.

  Args:
    predict: function of examples that yields (example, probabilities).
    files: paths.  output: folder, made if need be.
    info: DatasetInfo.  progress: wrapper of the iterator.
  Raises:
    UserError: an image cannot be decoded, `output` cannot be written or would overwrite an image.
  """
  output, names = pathlib.Path(output), output_names(files)
  inputs = {file.resolve() for file in files}
  for name in names:
    if (output / name).resolve() in inputs:
      raise UserError(f"{output / name} is an input and would be overwritten; correct --output")
  make_folder(output / "overlays", "--output")
  examples = (
    {"image": decode_image(file, str(file), info.channels), "file_name": name}
    for file, name in zip(files, names, strict=True)
  )
  for example, probs in progress(predict(examples)):
    labels = probs.argmax(-1).astype(np.uint8)
    save_label_map(output / example["file_name"], labels, info.palette)
    picture = overlay(example["image"], labels, info.palette)
    Image.fromarray(picture).save(output / "overlays" / example["file_name"])
