"""Every network by its name: building, initialising, and loading the encoder."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from jaxseg import UserError, models, ops
from jaxseg.models.deeplab import DeepLab
from jaxseg.models.fcn import FCN
from jaxseg.models.mobilenet_v2 import MobileNetV2
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
    for name in ("dilated_fcn", "deeplabv3", "deeplabv3plus")
  },
}
# (class, up-blocks, fields that the name stands for)
ENCODER_ROWS = {
  "mobilenet_v2": (MobileNetV2, 4, {}),
  "vgg16": (VGG16, 4, {}),
  "resnet18": (ResNet, 4, {"depth": 18}),
  "resnet34": (ResNet, 4, {"depth": 34}),
  "resnet50": (ResNet, 4, {"depth": 50}),
  "resnet101": (ResNet, 4, {"depth": 101}),
  "xception65": (Xception65, 4, {}),
}


def build(name, num_classes=3, **options):
  return models.build(name, num_classes, **{**ROWS[name][1], **options})


def test_every_entry_has_a_row():
  assert ROWS.keys() == models.MODELS.keys()
  assert ENCODER_ROWS.keys() == models.ENCODERS.keys()


@pytest.mark.parametrize("up, precision", zip(models.UPS, models.PRECISIONS, strict=True))
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


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(x, marks=[pytest.mark.slow] if x in ("resnet101", "xception65") else [])
    for x in models.ENCODERS
  ],
)
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


@pytest.mark.parametrize("dropout", [-0.1, 1.0, 1.5])
def test_dropout_that_leaves_nothing(dropout):
  with pytest.raises(UserError, match="has to be 0 or more and below 1"):
    build("unet", dropout=dropout)


@pytest.mark.parametrize(
  "name, encoder",
  [
    ("encoder_unet", "resnet18"),
    pytest.param("encoder_unet", "mobilenet_v2", marks=pytest.mark.slow),
    pytest.param("encoder_unet", "vgg16", marks=pytest.mark.slow),
    pytest.param("deeplabv3", "resnet18", marks=pytest.mark.slow),
    pytest.param("deeplabv3", "mobilenet_v2", marks=pytest.mark.slow),
    pytest.param("deeplabv3plus", "resnet18", marks=pytest.mark.slow),
    ("deeplabv3plus", "mobilenet_v2"),
  ],
)
def test_variant_smp(name, encoder):
  """What is read of segmentation_models.pytorch can be trained, too, on images of any size."""
  options = {"encoder": encoder, "variant": "smp", "up": "resize", "remat": True}
  if name == "encoder_unet":
    options["widths"] = (6, 5, 4, 3, 2)
  model = build(name, 5, **options)
  assert model.smp and model.encoder.variant == "smp"
  variables = models.abstract_variables(model, 3)
  image = np.zeros((2, 20, 33, 3), np.float32)
  loss = lambda p: model.apply(  # noqa: E731
    {**variables, "params": p}, image, train=True, mutable=["batch_stats"]
  )[0]
  assert jax.eval_shape(loss, variables["params"]).shape == (2, 20, 33, 5)


@pytest.mark.slow
def test_as_smp_only_a_short_side_is_enlarged():
  """The other keeps its size, as in prediction."""
  options = {"encoder": "resnet18", "variant": "smp", "up": "resize"}
  model = build("encoder_unet", widths=(8,) * 5, **options)
  variables = reference.random_variables(model, 3)
  image = reference.normal(1, 20, 75, 3) / 4 + 0.5
  padded = ops.pad_to_multiple(image, 32)[:, :, :75]
  found, expected = (model.apply(variables, x, train=False) for x in (image, padded))
  np.testing.assert_allclose(found, expected[:, :20], atol=1e-5)


def test_defaults_of_smp():
  common = {"variant": "smp", "up": "resize"}
  assert models.build("encoder_unet", 3, **common).widths == (256, 128, 64, 32, 16)
  assert models.build("deeplabv3", 3, **common).rates == (12, 24, 36)
  assert models.build("deeplabv3", 3, output_stride=8, **common).rates == (6, 12, 18)
  assert models.build("deeplabv3", 3).rates == (6, 12, 18)
  assert models.build("deeplabv3plus", 3, rates=(1, 2, 3), **common).rates == (1, 2, 3)
  assert models.build("encoder_unet", 3, encoder="vgg16", **common).center
  assert not models.build("encoder_unet", 3, **common).center


@pytest.mark.parametrize("name", models.MODELS)
def test_options_reach_the_model(name):
  options = {"dropout": 0.3, "up": "resize", "precision": "bfloat16", "axis_name": "devices"}
  options["remat"] = True
  own = {"norm": False} if name == "unet" else {"freeze_encoder": True, "freeze_norm": True}
  model = build(name, 7, **options, **own)
  assert (model.num_classes, model.dropout, model.up) == (7, 0.3, "resize")
  assert (model.dtype, model.axis_name, model.remat) == (jnp.bfloat16, "devices", True)
  assert model.widths == ROWS[name][1]["widths"]
  # Without widths, those of the class.
  assert build(name, widths=()).widths == (
    (512, 48) if name == "dilated_fcn" else ROWS[name][0].widths
  )
  if name == "unet":
    assert not model.norm and build(name).norm
    assert (model.stem_stride, build(name, stem_stride=2).stem_stride) == (1, 2)
  else:
    assert model.freeze_encoder and not build(name).freeze_encoder
    assert model.freeze_norm and not build(name).freeze_norm
    assert (model.encoder.dtype, model.encoder.axis_name) == (jnp.bfloat16, "devices")
    assert model.encoder.remat and not build(name).encoder.remat


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
    # Variants that do not fit.
    ("encoder_unet", {"variant": "smp", "up": "resize", "encoder": VGG16()},
     r"^encoder_unet needs `variant` smp of its encoder: give VGG16\(variant='smp'\)$"),
    ("encoder_unet", {"variant": "smp"}, "^`variant` smp needs `up` 'resize', not 'transposed'"),
    ("encoder_unet", {"variant": "torchvision"}, "^`variant` torchvision is for deeplabv3 and"),
    ("encoder_unet", {"norm": False}, "^`norm` False needs `variant` smp in encoder_unet"),
    ("dilated_fcn", {"variant": "smp"}, "^`variant` smp is for encoder_unet, deeplabv3 and"),
    ("deeplabv3", {"rates": (6, 12)}, r"^`rates` is \(6, 12\), but has to be three, or \(\)"),
  ],
)
def test_names_and_options_that_do_not_fit(name, options, message):
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
  common["remat"] = False
  assert common.items() <= options.items() and options["up"] in models.UPS
  encoder = {"encoder", "freeze_encoder", "freeze_norm"}
  assert (
    options.keys() - common.keys() - {"up"}
    == {
      UNet: {"stem_stride", "padding", "norm"},
      EncoderUNet: encoder | {"variant", "norm"},
      FCN: encoder | {"padding"},
      DeepLab: encoder | {"output_stride", "variant"},
    }[ROWS[name][0]]
    | ({"separable", "rates"} if "deeplab" in name else set())
  )
  model = models.build(name, 3)
  assert model == models.build(name, 3, **options)
  for option in ("dropout", "up", "axis_name", "padding", "norm", "stem_stride", "separable"):
    assert option not in options or getattr(model, option) == options[option]


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
  assert (model.stride, dense.stride) == (16, 8)
  assert dense.clone(encoder=model.encoder, trained_stride=0) == model
  assert dense.resize_options((64, 64))["factor"] == 2.0
  assert models.at_output_stride(dense, 16).resize_options((64, 64)) == {}
  assert models.abstract_variables(dense, 3) == models.abstract_variables(model, 3)
  with pytest.raises(UserError, match="^`output_stride` 8 is for DeepLab; UNet has"):
    models.at_output_stride(build("unet"), 8)
  with pytest.raises(UserError, match="^unknown output_stride 4; choose from 8, 16, 32"):
    models.at_output_stride(model, 4)


@pytest.mark.parametrize("name", [x for x in models.MODELS if ROWS[x][0] is not DeepLab])
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
