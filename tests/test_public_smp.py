"""Networks of segmentation_models.pytorch: its logits from its folders, and what is not read."""

import dataclasses
import io
import json

import jax
import numpy as np
import optax
import pytest
import safetensors.numpy
import tiny
import weight_files
from fixtures import make_smp_networks
from fixtures.make_smp_networks import image_of
from fixtures.make_torch_encoders import some
from PIL import Image
from tiny import error_of

import jaxseg as library
from jaxseg import (
  VOID,
  DataWarning,
  UserError,
  build,
  checks,
  exporting,
  initial_state,
  models,
  modes,
  public,
  public_smp,
  settings,
  train_state,
)
from jaxseg.segmenter import load_run

FAST = {"xla_backend_optimization_level": 0}  # which would take longer than the network


def write(folder, config, state):
  folder.mkdir(exist_ok=True)
  (folder / "config.json").write_text(json.dumps(config))
  safetensors.numpy.save_file(state, folder / "model.safetensors")
  return folder


QUICK = ("unet_resnet18", "deeplabv3plus_resnet18")
CASES = [
  pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
  for name in make_smp_networks.NETWORKS
]


@pytest.fixture(scope="module", params=CASES)
def network(request, tmp_path_factory):
  """(folder as `save_pretrained` writes it, config.json, {size: some logits})."""
  config, state, logits = make_smp_networks.read(request.param)
  folder = write(tmp_path_factory.mktemp("smp") / "saved", config, state)
  yield folder, config, logits
  (folder / "model.safetensors").unlink()


def test_logits_are_those_of_smp(network):
  folder, saved, logits = network
  config, info, variables = public.read_published(folder)
  model = build.build_model(config, info)
  apply = jax.jit(lambda v, x: model.apply(v, x, train=False), compiler_options=FAST)
  for size, expected in logits.items():
    found = np.asarray(apply(variables, image_of(size)))
    assert found.shape == (1, *size, saved["classes"])
    np.testing.assert_allclose(some(found), expected, rtol=0, atol=1e-4 * min(1, expected.std()))


def saved(name="unet_resnet18", **changed):
  """A config.json."""
  config, _, _ = make_smp_networks.read(name)
  return {**config, **changed}


@pytest.mark.parametrize(
  "name, changed, words",
  [
    ("unet_resnet18", {"encoder_name": "resnet152"}, 'encoder_name is "resnet152", which is not'),
    ("unet_resnet18", {"encoder_depth": 4}, "encoder_depth is 4, which is not read; read: 5$"),
    ("unet_resnet18", {"in_channels": 1}, "in_channels is 1, which is not read; read: 3$"),
    ("unet_resnet18", {"decoder_attention_type": "scse"}, 'decoder_attention_type is "scse"'),
    ("unet_resnet18", {"decoder_interpolation": "bilinear"}, "decoder_interpolation is"),
    ("unet_resnet18", {"decoder_use_norm": "layernorm"}, "decoder_use_norm is"),
    ("unet_resnet18", {"decoder_use_norm": {"type": "batchnorm", "eps": 1}}, "decoder_use_norm is"),
    ("unet_resnet18", {"activation": "sigmoid"}, 'activation is "sigmoid", .*"softmax2d"'),
    ("unet_mobilenet_v2", {"activation": "softmax2d"}, 'activation is "softmax2d", .*"sigmoid"$'),
    ("unet_resnet18", {"decoder_channels": [1, 2]}, r"decoder_channels is \[1, 2\], but has"),
    ("unet_resnet18", {"classes": "four"}, "classes is 'four', but has to be from 1 to 255"),
    ("unet_resnet18", {"_model_class": "Linknet"}, "_model_class is 'Linknet'; read are Unet"),
    ("unet_resnet18", {"_model_class": ["Unet"]}, r"_model_class is \['Unet'\]; read are Unet"),
    ("unet_resnet18", {"drop_path": 0.1}, "drop_path is not read; Unet has encoder_name, "),
    ("deeplabv3_resnet18", {"encoder_name": "vgg16"}, 'encoder_name is "vgg16", which is not read'),
    ("deeplabv3_resnet18", {"encoder_output_stride": 32}, "output_stride is 32, which .*: 8, 16$"),
    ("deeplabv3_resnet18", {"upsampling": 4}, "upsampling is 4, which is not read; read: null, 8$"),
    ("deeplabv3_resnet18", {"decoder_atrous_rates": [3, 6, 9]}, r"is \[3, 6, 9\]; read are even"),
    ("deeplabv3plus_resnet50", {"upsampling": 2}, "upsampling is 2, which is not read; read: 4$"),
  ],
)
def test_networks_that_are_not_read(tmp_path, name, changed, words):
  (tmp_path / "config.json").write_text(json.dumps(saved(name, **changed)))
  with pytest.raises(UserError, match=f"^{tmp_path}/config.json: .*{words}"):
    public_smp.read_config(tmp_path)


def test_fields_of_other_versions(tmp_path):
  """What a version does not write has that version's default; the norm had another name."""
  config = saved(decoder_use_batchnorm=False)
  del config["decoder_use_norm"], config["decoder_interpolation"]
  (tmp_path / "config.json").write_text(json.dumps(config))
  values, number = public_smp.read_config(tmp_path)
  assert values["model.norm"] is False and number == 4


@pytest.mark.slow
def test_a_config_of_another_file(tmp_path):
  config, state, _ = make_smp_networks.read("unet_resnet18")
  folder = write(tmp_path, {**config, "classes": 9}, state)
  with pytest.raises(UserError, match=r"segmentation_head\.0\..* is \(4,.*, this one has \(9,"):
    public.read_published(folder)
  (folder / "model.safetensors").unlink()
  with pytest.raises(UserError, match=f"^{folder} lacks model.safetensors: copy it beside"):
    library.load(folder)


@pytest.mark.slow
def test_names_of_classes(tmp_path):
  """From classes.json in the folder, or from the config; else numbers. A single logit is of two."""
  config, state, _ = make_smp_networks.read("unet_mobilenet_v2")
  folder = write(tmp_path, config, state)
  plain = library.load(folder)
  assert plain.classes == ("class 0", "class 1") and plain.config.model.head == "sigmoid"
  image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
  apply = jax.jit(lambda v, x: plain.model.apply(v, x, train=False), compiler_options=FAST)
  (logits,) = apply(plain.variables, np.float32(image[None]) / 255)
  probs = plain.probs(image)
  np.testing.assert_allclose(probs[..., 1:], 1 / (1 + np.exp(-logits)), atol=1e-5)
  (folder / "classes.json").write_text('{"classes": ["sky", "road"]}')
  assert library.load(folder, tta="flip").classes == ("sky", "road")
  (folder / "classes.json").write_text('{"classes": ["sky", "sky"]}')
  with pytest.raises(UserError, match="classes.json: classes has to be 2 names in a list"):
    library.load(folder)


@pytest.fixture
def deeplab(tmp_path):
  """A folder with a network of as many classes as the photos have."""
  config, state, _ = make_smp_networks.read("deeplabv3_resnet18")
  return write(tmp_path / "deeplab", config, state)


@pytest.mark.slow
@pytest.mark.usefixtures("photos")
def test_scored_on_data_of_a_config(deeplab, tmp_path):
  """Classes without names are those of the data; the config's network does not count."""
  config = tiny.make_config(1)
  assert config.model.name == "unet"
  scores = modes.evaluate(deeplab, config=config, output=tmp_path / "scores")
  segmenter, confusion = library.load(deeplab), np.zeros((3, 3), int)
  for i in range(tiny.NUM_PHOTOS["test"]):
    photo = tiny.make_photo("test", i)
    image, mask = (np.asarray(Image.open(io.BytesIO(photo[x]))) for x in ("image", "mask"))
    np.add.at(confusion, (mask[mask != VOID], segmenter(image)[mask != VOID]), 1)
  np.testing.assert_array_equal(scores["confusion"], confusion)
  written = json.loads((tmp_path / "scores" / "evaluation.json").read_text())
  assert written["iou"].keys() <= {"sky", "road", "nowhere"} and scores["step"] is None
  modes.evaluate(deeplab, {"data.fit": "resize", "data.image_size": 32}, config=config)
  assert sorted(x.name for x in deeplab.iterdir()) == ["config.json", "model.safetensors"]
  (deeplab / "classes.json").write_text('{"classes": ["a", "b", "c"]}')
  with pytest.raises(UserError, match="have the 3 classes sky, road, .* was trained on a, b, c"):
    modes.evaluate(deeplab, config=config)


@pytest.mark.usefixtures("photos")
def test_a_config_of_data_does_not_change_the_network(deeplab):
  """Nor its precision."""
  config = tiny.make_config(1, train__precision="bfloat16", data__fit="resize")
  found = load_run(deeplab, {}, config).config
  assert (found.train.precision, found.data.fit) == ("float32", "crop")
  assert found.model.name == "deeplabv3" and found.data.name == "photos"


@pytest.mark.usefixtures("photos")
@pytest.mark.slow
def test_data_that_do_not_fit(deeplab, monkeypatch):
  """None at all, and grey images."""
  message = error_of(modes.evaluate, deeplab)
  assert message == f"{deeplab} knows no data: pass `config`, whose config.data is scored"
  grey = dataclasses.replace(tiny.INFO, channels=1)
  monkeypatch.setattr(modes.build, "open_split", lambda *_, **__: (grey, []))
  assert error_of(modes.evaluate, deeplab, config=tiny.make_config(1)) == (
    "the images of the test split have 1 channel, but this network takes 3: correct config.data"
  )
  image, mask = np.full((32, 32, 3), 4095, np.uint16), np.zeros((32, 32), np.uint8)
  dark = {"image": image, "mask": mask, "name": "dark"}
  deep = dataclasses.replace(tiny.INFO, dtype="uint16")
  monkeypatch.setattr(modes.build, "open_split", lambda *_, **__: (deep, [dark]))
  with pytest.warns(DataWarning, match="first image of the test split: its 16 bits stay below 1/8"):
    modes.evaluate(deeplab, config=tiny.make_config(1))


def test_training_starts_from_it(deeplab, capsys):
  """Encoder, ASPP, the convolution behind it, and the head of as many classes."""
  own = public.network_values(public.read_config(deeplab))
  config = settings.override(tiny.make_config(1), {**own, "model.init_from": str(deeplab)})
  checks.check_start(config, tiny.INFO)
  model, optimizer = build.build_model(config, tiny.INFO), optax.sgd(0.1)
  shapes = models.abstract_variables(model, 3)
  zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
  state = train_state.create(zeros, optimizer)
  state = initial_state.pretrained_state(config, model, state, optimizer, 3)
  told = " ".join(capsys.readouterr().err.split())
  assert f"from {deeplab}: copied all 4 modules; new: nothing; skipped: nothing" in told
  theirs = public.read_published(deeplab)[2]
  jax.tree.map(np.testing.assert_array_equal, state.variables, theirs)
  config = settings.override(config, {"model.init_from": str(deeplab / "no.pth")})
  with pytest.raises(UserError, match="no weight file .*no.pth; correct the path"):
    checks.check_start(config, tiny.INFO)


def test_what_another_network_would_need_is_told(deeplab, capsys):
  def start(config, **head):
    model = build.build_model(config, dataclasses.replace(tiny.INFO, **head))
    variables, optimizer = models.abstract_variables(model, 3), optax.sgd(0.1)
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), variables)
    config = settings.override(config, {"model.init_from": str(deeplab)})
    state = train_state.create(zeros, optimizer)
    return initial_state.pretrained_state(config, model, state, optimizer, 3)

  with pytest.raises(UserError, match="no layer of .* fits this network; for the whole of it, add "
                     "--config.model.name=deeplabv3 --config.model.encoder=resnet18 "):  # fmt: skip
    start(tiny.make_config(1))
  own = public.network_values(public.read_config(deeplab))
  config = settings.override(tiny.make_config(1), {**own, "model.rates": (1, 2, 3)})
  start(config, classes=("a", "b"), palette=((0, 0, 0), (9, 9, 9)))
  told = " ".join(capsys.readouterr().err.split())
  assert "copied aspp, encoder, head_conv; new: head; skipped: head; for the whole of it," in told
  assert told.endswith("--config.model.rates=6,12,18")


@pytest.mark.slow
def test_export(deeplab, tmp_path):
  """The file gives the network's labels, or it would not be written; of odd sizes, too."""
  exporting.export_run(deeplab, tmp_path / "out", {"export.num_images": 1})
  exported = library.load(tmp_path / "out" / "model.stablehlo")
  assert exported.classes == ("class 0", "class 1", "class 2")
  image = np.random.default_rng(0).integers(0, 256, (41, 75, 3), np.uint8)
  np.testing.assert_array_equal(exported(image), library.load(deeplab)(image))


@pytest.mark.parametrize(
  "overrides, words",
  [
    ({"model.encoder": "vgg16"}, "config.model.encoder is 'vgg16', .* of 'resnet18': leave it out"),
    ({"data.channels": 1}, "config.data.channels is 1, but .* is a network of 3: leave it out"),
    ({"data.normalization": "mean_std"}, "config.data.normalization is 'mean_std', .*: leave it"),
    ({"data.classes": ("a", "b")}, r"config.data.classes is \('a', 'b'\), .* the 3 classes"),
  ],
)
def test_what_it_is_not(deeplab, overrides, words):
  with pytest.raises(UserError, match=words):
    load_run(deeplab, overrides)


@pytest.mark.usefixtures("photos")
def test_its_folder_stays_as_it_is(deeplab):
  """Nothing is trained into it, and its temperature is not fitted on whatever data there are."""
  before = {path.name: path.read_bytes() for path in deeplab.iterdir()}
  message = error_of(library.train, tiny.make_config(1), deeplab)
  assert message.startswith(f"{deeplab} is a published network, which stays as it is: train in")
  assert f"{deeplab} is a published network" in error_of(library.calibrate, deeplab)
  for free in "exp:1", "best.pt":  # names of which there is nothing
    public.check_is_none(free, "")
  with pytest.raises(UserError, match="torchvision:fcn_resnet50 is a published network"):
    public.check_is_none("torchvision:fcn_resnet50", "")
  assert {path.name: path.read_bytes() for path in deeplab.iterdir()} == before


def test_what_is_another_way_to_use_it(deeplab):
  """Names of its classes, images made smaller, images of 16 bits; weights are its own."""
  overrides = {"data.classes": ("a", "b", "c"), "data.fit": "resize", "data.image_size": 64,
               "data.value_range": (0.0, 4095.0), "model.pretrained": "imagenet"}  # fmt: skip
  with pytest.warns(DataWarning, match="config.model.pretrained is not used: all weights are"):
    segmenter = load_run(deeplab, overrides)
  assert segmenter.classes == ("a", "b", "c") and segmenter.info.value_range == (0.0, 4095.0)
  image = np.random.default_rng(0).integers(0, 4096, (90, 80, 3), np.uint16)
  assert segmenter(image).shape == (90, 80)


@pytest.mark.slow
def test_encoder_alone(tmp_path):
  """torchvision's files of MobileNetV2 and VGG-16 start the encoders of this variant."""
  for name, extra in ("unet_mobilenet_v2", "classifier.1"), ("unet_vgg16", "classifier.6"):
    config, state, _ = make_smp_networks.read(name)
    own = {k.removeprefix("encoder."): x for k, x in state.items() if k.startswith("encoder.")}
    own[f"{extra}.weight"] = np.zeros((9, 8), np.float32)
    path = tmp_path / "torchvision.pth"
    weight_files.write_pth(path, own)
    options = {"encoder": config["encoder_name"], "variant": "smp", "up": "resize"}
    model = models.build("encoder_unet", 2, **options)
    random = jax.tree.map(lambda x: np.zeros(x.shape), models.abstract_variables(model, 3))
    found = models.load_encoder(random, model.encoder, str(path))["params"]["encoder"]
    theirs = public.read_published(write(tmp_path / "smp", config, state))[2]["params"]["encoder"]
    jax.tree.map(np.testing.assert_array_equal, dict(found), theirs)
