"""Every network by its name: building, initialising, and loading the encoder."""

import functools
import hashlib
import http.server
import inspect
import threading
from typing import Any

import flax.linen as nn
import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pooch
import pytest
import reference
import weight_files

from jaxseg import UserError, models
from jaxseg.models import interface
from jaxseg.models.deeplab import DeepLab
from jaxseg.models.fcn import FCN
from jaxseg.models.mobilenet_v2 import MobileNetV2
from jaxseg.models.pretrained import Download
from jaxseg.models.resnet import ResNet
from jaxseg.models.unet import EncoderUNet, UNet
from jaxseg.models.vgg import VGG16
from jaxseg.models.xception import Xception65

# A row for every network: (class, options that make it small).
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


def build(name, num_classes=3, **options):
  return models.build(name, num_classes, **{**ROWS[name][1], **options})


def test_every_entry_has_a_row():
  assert ROWS.keys() == models.MODELS.keys()
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
def test_options_reach_the_model(name):
  options = {"dropout": 0.3, "up": "resize", "precision": "bfloat16", "axis_name": "devices"}
  own = {"norm": False} if name == "unet" else {"freeze_encoder": True, "freeze_norm": True}
  model = build(name, 7, **options, **own)
  assert (model.num_classes, model.dropout, model.up) == (7, 0.3, "resize")
  assert (model.dtype, model.axis_name) == (jnp.bfloat16, "devices")
  assert model.widths == ROWS[name][1]["widths"]
  # Without widths, those of the class.
  assert build(name, widths=()).widths == ROWS[name][0].widths
  if name == "unet":
    assert not model.norm and build(name).norm
    assert (model.stem_stride, build(name, stem_stride=2).stem_stride) == (1, 2)
  else:
    assert model.freeze_encoder and not build(name).freeze_encoder
    assert model.freeze_norm and not build(name).freeze_norm
    assert (model.encoder.dtype, model.encoder.axis_name) == (jnp.bfloat16, "devices")


@pytest.mark.parametrize(
  "name, options, message",
  [
    ("unett", {}, "^unknown network 'unett'; choose from unet, encoder_unet, fcn32s"),
    ("", {}, "^unknown network ''"),
    ("unet", {"up": "bilinear"}, "^unknown up 'bilinear'; choose from transposed, resize$"),
    ("unet", {"stem_stride": 3}, "^unknown stem_stride 3; choose from 1, 2$"),
    ("unet", {"padding": "full"}, "^unknown padding 'full'; choose from same, valid$"),
    ("fcn8s", {"padding": "full"}, "^unknown padding 'full'; choose from same, valid$"),
    ("unet", {"precision": "float16"}, "^unknown precision 'float16'; .*float32, bfloat16$"),
    ("encoder_unet", {"encoder": ""}, "^unknown encoder ''; choose from mobilenet_v2"),
    ("encoder_unet", {"encoder": "vgg"}, "^unknown encoder 'vgg'"),
    ("deeplabv3", {"output_stride": 4}, "^unknown output_stride 4; choose from 8, 16, 32$"),
    # Options that the network does not have.
    ("unet", {"patch": 2}, "^unet has no option 'patch'; it has .*stem_stride, padding, norm"),
    ("encoder_unet", {"stem_stride": 2}, "^encoder_unet has no option 'stem_stride'; .*encoder"),
    ("encoder_unet", {"padding": "valid"}, "^encoder_unet has no option 'padding'"),
    ("unet", {"encoder": "vgg16"}, "^unet has no option 'encoder'"),
    ("fcn8s", {"final_stride": 16}, "^fcn8s has no option 'final_stride'"),
  ],
)
def test_unknown_names_and_options(name, options, message):
  with pytest.raises(UserError, match=message):
    models.build(name, 3, **options)


@pytest.mark.parametrize(
  "name, options, message",
  [
    ("unet", {"up": "resize"}, "^`padding` 'valid' needs `up` 'transposed' in unet"),
    ("fcn8s", {"encoder": "mobilenet_v2"}, "^`encoder` mobilenet_v2 has no pad,.*use vgg16"),
  ],
)
def test_valid_is_for_published_networks(name, options, message):
  with pytest.raises(UserError, match=message):
    build(name, padding="valid", **options)


@pytest.mark.parametrize("name", models.MODELS)
def test_options_and_their_defaults(name):
  """Every option is a field of the network, or of its encoder."""
  options = models.options_of(name)
  common = {"widths": (), "dropout": 0.0, "precision": "float32", "axis_name": None}
  assert common.items() <= options.items() and options["up"] in models.UPS
  encoder = {"encoder", "freeze_encoder", "freeze_norm"}
  assert (
    options.keys() - common.keys() - {"up"}
    == {
      UNet: {"stem_stride", "padding", "norm"},
      EncoderUNet: encoder,
      FCN: encoder | {"padding"},
      DeepLab: encoder | {"output_stride", "separable"},
    }[ROWS[name][0]]
  )
  model = models.build(name, 3)
  assert model == models.build(name, 3, **options)
  for option in ("dropout", "up", "axis_name", "padding", "norm", "stem_stride", "separable"):
    assert option not in options or getattr(model, option) == options[option]


# What `jaxseg.models.interface` asks for, written out.
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


@pytest.mark.parametrize("name, decoder", [("deeplabv3", False), ("deeplabv3plus", True)])
def test_deeplab_by_name(name, decoder):
  model = build(name, output_stride=16, separable=False)
  assert (model.decoder, model.separable, model.encoder.output_stride) == (decoder, False, 16)
  assert build(name).separable
  for encoder in models.ENCODERS:
    if encoder == "vgg16":
      with pytest.raises(UserError, match="vgg16 has no output_stride, .*use mobilenet_v2 or"):
        build(name, encoder=encoder)
    else:
      assert build(name, encoder=encoder, output_stride=8).encoder.stride == 8


def test_deeplab_has_two_widths():
  with pytest.raises(UserError, match=r"^`widths` is \(4, 3, 2\), but deeplab has two"):
    models.check_input(build("deeplabv3", widths=(4, 3, 2)), 3, 32)


def test_at_output_stride():
  """The same parameters; the rates and the stride follow."""
  model = build("deeplabv3plus", output_stride=16)
  dense = models.at_output_stride(model, 8)
  assert (model.stride, dense.stride) == (16, 8) and dense.clone(encoder=model.encoder) == model
  assert models.abstract_variables(dense, 3) == models.abstract_variables(model, 3)
  with pytest.raises(UserError, match="^`output_stride` 8 is for DeepLab; UNet has"):
    models.at_output_stride(build("unet"), 8)
  with pytest.raises(UserError, match="^unknown output_stride 4; choose from 8, 16, 32"):
    models.at_output_stride(model, 4)


@pytest.mark.parametrize("name", [name for name in models.MODELS if "deeplab" not in name])
def test_halving_needs_every_stride(name):
  for stride in 8, 16:
    with pytest.raises(UserError, match=f"^{name} has no option 'output_stride'; it has"):
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
    with pytest.raises(
      UserError, match=f"^`head` 'sigmoid' is for two classes.*{', '.join(classes)}$"
    ):
      models.num_logits("sigmoid", classes)
  with pytest.raises(UserError, match="^unknown head 'relu'; choose from softmax, sigmoid$"):
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
