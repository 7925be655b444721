"""Variables of networks: random, from weight files, from another network; what they fit."""

import hashlib
import http.server
import threading

import flax.linen as nn
import h5py
import jax
import numpy as np
import pooch
import pytest
import reference
import weight_files
from test_models import build

from jaxseg import UserError, models
from jaxseg.models import pretrained
from jaxseg.models.mobilenet_v2 import MobileNetV2
from jaxseg.models.pretrained import Download


def test_check_input():
  for size in 1, 20, 45:
    models.check_input(build("unet"), 3, size)
  valid = build("unet", padding="valid")
  for size in 44, 48:
    models.check_input(valid, 3, size)
  with pytest.raises(UserError, match="45 px .* 3 levels .* 44 and 48"):
    models.check_input(valid, 3, 45)


def test_variables_without_normalisation():
  """Both collections all the same: a checkpoint is read back into this structure."""
  variables = models.abstract_variables(build("unet", norm=False), 3)
  assert variables.keys() == {"params", "batch_stats"} and variables["batch_stats"] == {}


def test_init():
  """For the channels of the data; the same for the same seed."""
  model = build("unet")

  @jax.jit
  def kernels(seed):  # the rest of init is left out by the compiler
    params = models.init(model, 2, seed)["params"]
    return params["down0_conv1"]["kernel"], params["merge0_conv1"]["kernel"]

  variables, again, other = kernels(0), kernels(0), kernels(1)
  assert variables[0].shape == (3, 3, 2, 2)
  for a, b, c in zip(variables, again, other, strict=True):
    np.testing.assert_array_equal(a, b)
    assert (a != c).all()


def test_take_matching():
  """What has the same path and shape is taken; the rest is named by its module."""

  def network(**shapes):
    return {"params": {k: {"kernel": np.zeros(s), "bias": np.zeros(3)} for k, s in shapes.items()}}

  ours = {**network(encoder=(2, 2), score=(3,), up_16=(4,)), "batch_stats": {}}
  theirs = network(encoder=(2, 2), score=(5,), up_32=(4,))
  jax.tree.map(lambda x: x.fill(7.0), theirs)
  merged, modules = models.take_matching(ours, theirs)
  assert modules == {"taken": ["encoder"], "new": ["score", "up_16"], "left": ["score", "up_32"]}
  np.testing.assert_array_equal(merged["params"]["encoder"]["kernel"], np.full((2, 2), 7.0))
  for name in ("score", "up_16"):  # the bias would fit, the layer does not
    assert merged["params"][name] == ours["params"][name]
  assert merged.keys() == ours.keys() and merged["params"].keys() == ours["params"].keys()


# Loading the encoder


def encoder_tensors(seed):
  """Weights of MobileNetV2 as in a file of Keras Applications, classifier included."""
  rng = np.random.default_rng(seed)
  tensors = reference.keras_tensors(reference.random_variables(MobileNetV2(), 3, seed))
  for layer, kind, shape in (
    ("block_16_project_BN", "gamma", (320,)),
    ("Conv_1", "kernel", (1, 1, 320, 8)),
    ("Conv_1_bn", "beta", (8,)),
    ("predictions", "kernel", (8, 10)),
    ("predictions", "bias", (10,)),
  ):
    tensors[f"{layer}/{kind}"] = rng.normal(size=shape).astype(np.float32)
  return tensors


@pytest.fixture(scope="module")
def model():
  return build("encoder_unet")


@pytest.fixture(scope="module")
def variables(model):
  return reference.random_variables(model, 3)


def assert_encoder(loaded, variables, tensors):
  """The encoder has the file's weights, the decoder its own."""
  for collection, tree in variables.items():
    assert loaded[collection].keys() == tree.keys()
    for name in tree.keys() - {"encoder"}:
      assert loaded[collection][name] is tree[name]
  unused = MobileNetV2().unused_layers
  kept = {key: x for key, x in tensors.items() if key.split("/")[0] not in unused}
  encoder = {collection: tree["encoder"] for collection, tree in loaded.items()}
  found = reference.keras_tensors(encoder)
  assert found.keys() == kept.keys()
  for key, tensor in kept.items():
    np.testing.assert_array_equal(found[key], tensor, err_msg=key)


def test_load_encoder(model, variables, tmp_path):
  path, tensors = tmp_path / "weights.h5", encoder_tensors(1)
  weight_files.write_keras_h5(path, tensors)
  loaded = models.load_encoder(variables, model.encoder, str(path))
  assert_encoder(loaded, variables, tensors)


def test_load_encoder_of_another_network(model, variables, tmp_path):
  path, tensors = tmp_path / "weights.h5", encoder_tensors(1)
  narrow = {key: x[..., :-1] if "block_5_project/" in key else x for key, x in tensors.items()}
  weight_files.write_keras_h5(path, narrow)
  with pytest.raises(UserError, match=rf"{path} .*block_5_project/kernel"):
    models.load_encoder(variables, model.encoder, str(path))


@pytest.mark.slow
def test_load_encoder_by_name(model, variables, tmp_path, monkeypatch):
  """ "imagenet" is fetched into the user's cache."""
  tensors, file = encoder_tensors(2), tmp_path / "published.h5"
  weight_files.write_keras_h5(file, tensors)
  content = file.read_bytes()

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      self.send_response(200)
      self.end_headers()
      self.wfile.write(content)

    def log_message(self, *args):
      pass

  with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/published.h5"
    download = Download(url, f"sha256:{hashlib.sha256(content).hexdigest()}")
    monkeypatch.setattr(MobileNetV2, "imagenet", download)
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache")
    loaded = models.load_encoder(variables, model.encoder, "imagenet")
    server.shutdown()
  assert_encoder(loaded, variables, tensors)
  assert (tmp_path / "cache" / "published.h5").is_file()


def test_a_damaged_copy_of_a_published_file(model, variables, tmp_path, monkeypatch):
  """Its name says which file it should be; HDF5 has no checksum of its own."""
  tensors, file = encoder_tensors(2), tmp_path / "published.h5"
  weight_files.write_keras_h5(file, tensors)
  content = bytearray(file.read_bytes())
  download = Download("http://x.org/published.h5", f"sha256:{hashlib.sha256(content).hexdigest()}")
  monkeypatch.setattr(MobileNetV2, "imagenet", download)
  assert_encoder(models.load_encoder(variables, model.encoder, str(file)), variables, tensors)
  _, tensor = max(tensors.items(), key=lambda item: item[1].size)
  place = content.index(tensor.astype("<f4").tobytes()[:64])
  content[place + 2] ^= 0x10
  file.write_bytes(content)
  with pytest.raises(UserError, match=f"^{file} is damaged.*download it again, or rename it"):
    models.load_encoder(variables, model.encoder, str(file))
  models.load_encoder(variables, model.encoder, str(file.rename(tmp_path / "mine.h5")))


def test_load_encoder_with_imagenet_weights(model, variables, data_dir):
  """A file that real training made: every value arrives, and the statistics are plausible."""
  path = data_dir / "../weights/mobilenet_v2_imagenet_dequantised_no_top.h5"
  with h5py.File(path) as file:
    names = [name for layer in file.values() for name in layer.attrs.get("weight_names", ())]
    tensors = {
      name.removesuffix(":0"): np.asarray(file[name.split("/")[0]][name]) for name in names
    }
  loaded = models.load_encoder(variables, model.encoder, str(path))
  stats = loaded["batch_stats"]["encoder"]
  assert all((norm["var"] > 0).all() for norm in stats.values())
  kernels = {
    key.replace("depthwise/kernel", "depthwise/depthwise_kernel"): x for key, x in tensors.items()
  }
  assert_encoder(loaded, variables, kernels)


def test_output_of_a_user_s_network_is_checked():
  """Before it trains: shape, channels and margin."""

  class Half(nn.Module):
    margin = context = 0
    stride = 1

    def input_size(self, size):
      return size

    @nn.compact
    def __call__(self, image, *, train, keys=None):
      return nn.Conv(3, (1, 1), 2)(image)

  models.check_input(Half(), 3, 32)  # nothing is known of the classes
  with pytest.raises(UserError, match=r"Half returns \(1, 16, 16, 3\) .*, not logits \(1, 32"):
    models.check_input(Half(), 3, 32, 3)
  model = models.build("unet", 3, widths=(4, 8))
  models.check_input(model, 3, 33, 3)
  with pytest.raises(UserError, match="UNet returns .*not logits"):
    models.check_input(model, 3, 32, 2)


# Images of other than three channels


@pytest.mark.parametrize(
  "name",
  ["vgg16", *(pytest.param(x, marks=pytest.mark.slow) for x in ("mobilenet_v2", "resnet50"))],
)
def test_a_pretrained_encoder_sees_repeated_channels_as_rgb(name):
  """Red, green, blue, red, green, blue is RGB; so is grey, three times. (timm's rule)"""
  encoder = models.ENCODERS[name]()
  tensors = reference.keras_tensors(reference.random_variables(encoder, 3))
  image = np.random.default_rng(0).random((1, 32, 32, 3), np.float32)
  images = {3: image, 6: np.concatenate([image, image], -1), 1: image[..., :1]}
  rgb = getattr(encoder, "rgb", (0, 1, 2))

  def first_stage(given, channels):
    shapes = jax.eval_shape(lambda: encoder.init(jax.random.key(0), given, train=False))
    shapes = {"batch_stats": {}, **shapes}
    loaded = pretrained.assign_weights(shapes, tensors, leave=(), source="file", rgb=rgb)
    stages = jax.jit(lambda v, x: encoder.apply(v, x, train=False)[encoder.stages[0]])
    return stages(loaded, given)

  expected = first_stage(image, 3)
  assert np.ptp(expected) > 0.1
  np.testing.assert_allclose(first_stage(images[6], 6), expected, rtol=1e-4, atol=1e-4)
  grey = np.repeat(images[1], 3, axis=-1)
  expected = first_stage(grey, 3)
  np.testing.assert_allclose(first_stage(images[1], 1), expected, rtol=1e-4, atol=1e-4)


def test_kernel_for_other_channels():
  kernel = np.random.default_rng(0).random((3, 3, 3, 2), np.float32)
  four = pretrained.for_channels(kernel, 4, (2, 1, 0))  # red, green, blue, red of a BGR file
  for i, source in enumerate((2, 1, 0, 2)):
    np.testing.assert_array_equal(four[:, :, i], kernel[:, :, source] * np.float32(0.75))
  one = pretrained.for_channels(kernel, 1, (0, 1, 2))
  np.testing.assert_allclose(one[:, :, 0], kernel[:, :, 0] + kernel[:, :, 1] + kernel[:, :, 2])
