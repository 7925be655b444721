"""Every network by its name: building, initialising, and loading the encoder."""

import hashlib
import http.server
import threading

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pooch
import pytest
import reference
import tiny
import weight_files

from jaxseg import UserError, models
from jaxseg.models.deeplab import DeepLab
from jaxseg.models.fcn import FCN
from jaxseg.models.mobilenet_v2 import MobileNetV2
from jaxseg.models.pretrained import Download
from jaxseg.models.resnet import ResNet
from jaxseg.models.unet import EncoderUNet, UNet
from jaxseg.models.vgg import VGG16
from jaxseg.models.xception import Xception65

# A row for every network: (class, words that make it small).
ROWS = {
  "unet": (UNet, {"widths": (2, 3, 4)}),
  "encoder_unet": (EncoderUNet, {"encoder": "mobilenet_v2", "widths": (5, 4, 3, 2)}),
  **{name: (FCN, {"encoder": "vgg16", "widths": (3, 4)}) for name in ("fcn32s", "fcn16s", "fcn8s")},
  **{
    name: (DeepLab, {"encoder": "mobilenet_v2", "widths": (4, 3)})
    for name in ("deeplabv3", "deeplabv3plus")
  },
}
# (class, up-blocks, fields that the name stands for)
ENCODER_ROWS = {
  "mobilenet_v2": (MobileNetV2, 4, {}),
  "vgg16": (VGG16, 4, {}),
  "resnet50": (ResNet, 4, {"depth": 50}),
  "resnet101": (ResNet, 4, {"depth": 101}),
  "xception65": (Xception65, 4, {}),
}


def build(name, num_classes=3, **words):
  return models.build(name, num_classes, **{**tiny.BUILD, **ROWS[name][1], **words})


def test_every_entry_has_a_row():
  assert {name: row[0] for name, row in ROWS.items()} == models.MODELS
  assert ENCODER_ROWS.keys() == models.ENCODERS.keys()


@pytest.mark.parametrize("precision", models.PRECISIONS)
@pytest.mark.parametrize("up", models.UPS)
@pytest.mark.parametrize("name", models.MODELS)
def test_build(name, up, precision):
  """Logits f32 of the image's size, from parameters that are float32 whatever the precision."""
  model = build(name, 5, up=up, precision=precision)
  assert isinstance(model, ROWS[name][0])
  variables = models.abstract_variables(model, 3)
  assert variables.keys() == {"params", "batch_stats"}
  assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
  image = np.zeros((2, 20, 33, 3), np.float32)
  logits = jax.eval_shape(lambda v: model.apply(v, image, train=False), variables)
  assert (logits.shape, logits.dtype) == ((2, 20, 33, 5), jnp.float32)


@pytest.mark.parametrize("name", models.ENCODERS)
def test_encoder(name):
  """What a decoder relies on: stages by name, each half the size of the one before."""
  kind, num_blocks, fields = ENCODER_ROWS[name]
  model = build("encoder_unet", encoder=name, widths=(2,) * num_blocks)
  encoder = model.encoder
  assert isinstance(encoder, kind) and fields.items() <= vars(encoder).items()
  assert len(encoder.stages) == num_blocks + 1 and encoder.stride == 2 ** len(encoder.stages)
  variables = models.abstract_variables(model, 3)
  variables = {name: tree.get("encoder", {}) for name, tree in variables.items()}
  image = np.zeros((1, 64, 32, 3), np.float32)
  stages = jax.eval_shape(lambda v: encoder.apply(v, image, train=False), variables)
  for i, stage in enumerate(encoder.stages, start=1):
    assert stages[stage].shape[1:3] == (64 >> i, 32 >> i)


@pytest.mark.parametrize("name", models.MODELS)
def test_words_reach_the_model(name):
  words = {"dropout": 0.3, "up": "resize", "precision": "bfloat16", "axis_name": "devices"}
  model = build(name, 7, **words, norm=False, freeze_encoder=True)
  assert (model.num_classes, model.dropout, model.up) == (7, 0.3, "resize")
  assert (model.dtype, model.axis_name) == (jnp.bfloat16, "devices")
  assert model.widths == ROWS[name][1]["widths"]
  # Without widths, those of the class.
  assert build(name, widths=()).widths == ROWS[name][0].widths
  if name == "unet":
    assert not model.norm and build(name, norm=True).norm
    assert (model.patch, build(name, patch=2).patch) == (1, 2)
  else:
    assert model.freeze_encoder and not build(name, freeze_encoder=False).freeze_encoder
    assert (model.encoder.dtype, model.encoder.axis_name) == (jnp.bfloat16, "devices")


@pytest.mark.parametrize(
  "name, words, message",
  [
    ("unett", {}, "config.model.name 'unett'; there are unet, encoder_unet, fcn32s"),
    ("", {}, "config.model.name ''"),
    ("unet", {"up": "bilinear"}, "config.model.up 'bilinear'; there are transposed, resize"),
    ("unet", {"patch": 3}, "config.model.patch 3; there are 1, 2"),
    ("encoder_unet", {"patch": 2}, "config.model.patch 2 is for unet"),
    ("unet", {"padding": "full"}, "config.model.padding 'full'; there are same, valid"),
    ("unet", {"precision": "float16"}, "config.train.precision 'float16'; .*float32, bfloat16"),
    ("encoder_unet", {"encoder": ""}, "config.model.encoder ''; there are mobilenet_v2"),
    ("encoder_unet", {"encoder": "vgg"}, "config.model.encoder 'vgg'"),
    ("encoder_unet", {"output_stride": 4}, "config.model.output_stride 4; there are 8, 16, 32"),
  ],
)
def test_unknown_words(name, words, message):
  with pytest.raises(UserError, match=message):
    models.build(name, 3, **{**tiny.BUILD, **words})


@pytest.mark.parametrize(
  "name, words, message",
  [
    ("unet", {"up": "resize"}, "valid needs config.model.up transposed"),
    ("encoder_unet", {}, "valid is for unet, and for FCN on vgg16"),
    ("fcn8s", {"encoder": "mobilenet_v2"}, "valid is for unet, and for FCN on vgg16"),
  ],
)
def test_valid_is_for_published_networks(name, words, message):
  with pytest.raises(UserError, match=f"config.model.padding {message}"):
    build(name, padding="valid", **words)


@pytest.mark.parametrize("name, decoder", [("deeplabv3", False), ("deeplabv3plus", True)])
def test_deeplab_by_name(name, decoder):
  model = build(name, output_stride=16, separable=False)
  assert (model.decoder, model.separable, model.encoder.output_stride) == (decoder, False, 16)
  assert build(name).separable
  for encoder in models.ENCODERS:
    if encoder == "vgg16":
      with pytest.raises(UserError, match="vgg16 has no output_stride"):
        build(name, encoder=encoder)
    else:
      assert build(name, encoder=encoder, output_stride=8).encoder.stride == 8


def test_at_output_stride():
  """The same parameters; the rates and the stride follow."""
  model = build("deeplabv3plus", output_stride=16)
  dense = models.at_output_stride(model, 8)
  assert (model.stride, dense.stride) == (16, 8) and dense.clone(encoder=model.encoder) == model
  assert models.abstract_variables(dense, 3) == models.abstract_variables(model, 3)
  with pytest.raises(UserError, match="output_stride 8 is for deeplab; set it to 0"):
    models.at_output_stride(build("unet"), 8)
  with pytest.raises(UserError, match="config.predict.output_stride 4; there are 8, 16, 32"):
    models.at_output_stride(model, 4)


@pytest.mark.parametrize("name", [name for name in models.MODELS if "deeplab" not in name])
def test_halving_needs_every_stride(name):
  for stride in 8, 16:
    with pytest.raises(
      UserError, match=f"config.model.output_stride {stride} .*{name}; set it to 32"
    ):
      build(name, output_stride=stride)


@pytest.mark.parametrize("name, stride", [("fcn32s", 32), ("fcn16s", 16), ("fcn8s", 8)])
def test_fcn_by_name(name, stride):
  """Valid is the published form: 100 px of padding, 99 of them before the first convolution."""
  model, valid = build(name), build(name, padding="valid")
  assert model.final_stride == valid.final_stride == stride
  assert (model.padding, model.encoder.pad) == ("same", 0)
  assert (valid.padding, valid.encoder.pad) == ("valid", 99)


def test_build_valid():
  """44 -> 4 with three levels (40 20 | 16 8 | 4 | 8 4); the same weights as padded."""
  model, padded = build("unet", padding="valid"), build("unet")
  variables = models.abstract_variables(model, 3)
  assert variables == models.abstract_variables(padded, 3)
  image = np.zeros((1, 44, 48, 3), np.float32)
  logits = jax.eval_shape(lambda v: model.apply(v, image, train=False), variables)
  assert logits.shape == (1, 4, 8, 3)


def test_check_input():
  for size in 1, 20, 45:
    models.check_input(build("unet"), 3, size)
  valid = build("unet", padding="valid")
  for size in 44, 48:
    models.check_input(valid, 3, size)
  with pytest.raises(UserError, match="45 px .* 3 levels .* 44 and 48"):
    models.check_input(valid, 3, 45)


def test_num_logits():
  assert models.num_logits("softmax", ("sky", "road", "tree")) == 3
  assert models.num_logits("softmax", ("outside", "cell")) == 2
  assert models.num_logits("sigmoid", ("outside", "cell")) == 1
  for classes in ("sky", "road", "tree"), ("sky",):
    with pytest.raises(UserError, match=f"sigmoid is for two classes.*{', '.join(classes)}$"):
      models.num_logits("sigmoid", classes)
  with pytest.raises(UserError, match="config.model.head 'relu'; there are softmax, sigmoid"):
    models.num_logits("relu", ("outside", "cell"))


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
  unused = MobileNetV2.unused_layers
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
