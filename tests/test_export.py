"""Exported networks give the live network's labels, in a Python that has no jaxseg."""

import dataclasses
import datetime
import errno
import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image
from test_main import TINY, error_of, jaxseg, trained  # noqa: F401, fixtures
from test_predict import draw_variables, images_of, probs_of, squeeze

from configs import default
from jaxseg import UserError, build, export, exported, exporting, models, segmenter
from jaxseg.data.decode import DatasetInfo
from jaxseg.data.resize import resize_image
from jaxseg.models.unet import UNet
from jaxseg.predict import make_predictor

BUILD = {"widths": (4, 8)}
NARROW = {"encoder": "mobilenet_v2", "widths": (4, 4, 4, 4)}
LOADER = """
import sys

class Missing:
  def find_spec(self, name, path=None, target=None):
    if name.split(".")[0] in ("jaxseg", "flax"):
      raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
import jax.export
import numpy as np

call = jax.export.deserialize(bytearray(open(sys.argv[1], "rb").read())).call
arrays = np.load(sys.argv[2])
np.savez(sys.argv[3], **{name: call(image) for name, image in arrays.items()})
"""


INFO = DatasetInfo(("a", "b", "c"), ((0, 0, 0), (9, 9, 9), (99, 0, 0)), 3)


def export_of(model, variables, *, output="probs", tta="none", fit="crop", size=32, info=INFO):
  options = {"fit": fit, "size": size, "tta": tta, "output": output, "info": info}
  return export.whole_image(model, variables, **options)


@pytest.mark.parametrize("shape", [(45, 40), (100, 131), (32, 32), (70, 20), (20, 33), (1, 5)])
@pytest.mark.parametrize("channels", [1, 3])
def test_resize_is_pillows_one_axis_after_the_other(shape, channels):
  image = np.random.default_rng(0).integers(0, 256, (2, *shape, channels), dtype=np.uint8)
  found = jax.jit(export.resize, static_argnums=1)(image.astype(np.float32), 32)
  for one, small in zip(image, found, strict=True):
    for c in range(channels):
      np.testing.assert_array_equal(small[..., c], squeeze(one[..., c], 32))


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_resize_of_depth_is_that_of_the_reader(dtype):
  image = np.random.default_rng(0).uniform(0, 60000, (2, 45, 40, 4)).astype(dtype)
  found = jax.jit(export.resize, static_argnums=(1, 2))(image.astype(np.float32), 32, dtype)
  expected = [resize_image(one, 32).astype(np.float32) for one in image]
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1 if dtype == "uint16" else 0)


@pytest.mark.parametrize("fit", ["resize", "crop"])
@pytest.mark.parametrize(
  "info",
  [
    {"dtype": "uint16"},
    {"dtype": "uint16", "value_range": (500, 20000)},
    {"dtype": "float32", "value_range": ((0, 60000), (1, 40000), (30000, 36000)), "clip": False},
  ],
)
def test_depth_and_value_range_are_in_the_artefact(fit, info):
  info = dataclasses.replace(INFO, **info)
  model = UNet(num_classes=3, widths=(4, 8), norm=True)
  variables = draw_variables(model, 8)
  call = export.load_stablehlo(
    export.to_stablehlo(export_of(model, variables, fit=fit, info=info), 3, info.dtype)
  )
  image = np.random.default_rng(1).uniform(0, 60000, (45, 70, 3)).astype(info.dtype)
  options = {"value_range": info.value_range, "clip": info.clip}
  predict = make_predictor(model, fit=fit, size=32, batch_size=1, **options)
  ((_, live),) = predict(variables, [{"image": image}])
  assert np.ptp(live[..., 0]) > 0.01
  np.testing.assert_allclose(call(image[None])[0], live, atol=1e-4)


def test_the_description_holds_the_whole_info(tmp_path):
  info = DatasetInfo(
    ("a", "b"), ((0, 0, 0), (9, 9, 9)), 12, ((0.0, 1.5),) * 12, tuple(range(1, 13)), "float32",
    orient=False, pages="channels", clip=False, display_bands=(7, 3, 2),
  )  # fmt: skip
  about = export.describe(info, "labels", ())
  (tmp_path / "classes.json").write_text(json.dumps(about))
  found, _ = exported._read_description(tmp_path / "model.stablehlo")
  assert json.dumps(dataclasses.asdict(found)) == json.dumps(dataclasses.asdict(info))


def test_data_are_not_downloaded_for_somebody_elses_network(monkeypatch):
  config = default.get_config()
  config.data.name, config.data.image_size = "oxford_iiit_pet", 32
  monkeypatch.setattr(build, "open_split", lambda *_, **__: pytest.fail("it is opened"))
  images, kind = exporting.sample_images(config, INFO, is_own=False)
  assert kind == "random images (a packed network knows no data)"
  assert len(images) == config.export.num_images and images[0].shape == (31, 47, 3)


def test_images_of_another_type_become_that_of_the_network(monkeypatch):
  config, image = default.get_config(), np.uint16([[[0, 257, 65535]]])
  config.data.name = "folder"
  monkeypatch.setattr(build, "open_split", lambda *_, **__: (INFO, [{"image": image}]))
  (found,), kind = exporting.sample_images(config, INFO)
  assert kind == "images" and found.dtype == np.uint8 and found.tolist() == [[[0, 1, 255]]]


@pytest.mark.slow
def test_a_file_of_one_size_does_not_mirror_what_the_network_takes_as_it_is():
  """100 px, which torchvision's network takes; a file for all sizes mirrors them up to 128."""
  model = models.build("dilated_fcn", 3, encoder="resnet18", variant="torchvision", up="resize")
  variables, (image,) = draw_variables(model, 64), images_of([(100, 100)])
  run, live = export_of(model, variables), probs_of(model, variables, image)
  assert np.ptp(live[..., 0]) > 0.01
  np.testing.assert_allclose(run(image[None])[0], live, atol=1e-4)


@pytest.mark.parametrize("fit", ["resize", "crop"])
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("tta", ["none", pytest.param("dihedral", marks=pytest.mark.slow)])
def test_one_artefact_for_all_sizes_and_batches(fit, padding, tta):
  model = UNet(num_classes=3, widths=(4, 8), norm=True, padding=padding)
  variables = draw_variables(model, 20 if padding == "valid" else 8)
  run = export_of(model, variables, fit=fit, tta=tta)
  call = export.load_stablehlo(export.to_stablehlo(run, 3))
  for size, batch in (((45, 70), 2), ((20, 33), 1)):
    images = np.stack(images_of([size] * batch))
    found = call(images)
    assert (found.dtype, found.shape) == (np.float32, (batch, *size, 3))
    for image, probs in zip(images, found, strict=True):
      live = probs_of(model, variables, image, fit=fit, tta=tta)
      assert np.ptp(live[..., 0]) > 0.01
      np.testing.assert_allclose(probs, live, atol=1e-5)


@pytest.mark.parametrize(
  "name, options",
  [
    ("unet", {"stem_stride": 2}),
    pytest.param("unet", {"up": "resize"}, marks=pytest.mark.slow),
    pytest.param("encoder_unet", NARROW, marks=pytest.mark.slow),
    pytest.param("encoder_unet", {**NARROW, "encoder": "vgg16", "up": "resize"},
                 marks=pytest.mark.slow),
    ("fcn8s", {"encoder": "vgg16", "padding": "valid"}),
    pytest.param("fcn16s", {"encoder": "vgg16", "up": "resize"}, marks=pytest.mark.slow),
    pytest.param("deeplabv3", {"encoder": "mobilenet_v2", "output_stride": 16, "up": "resize"},
                 marks=pytest.mark.slow),
    pytest.param("deeplabv3plus", {"encoder": "resnet50", "output_stride": 8},
                 marks=pytest.mark.slow),
  ],
)  # fmt: skip
def test_every_network_takes_any_size(name, options):
  """Tracing alone: a network that needs to know its size stops here."""
  assert name in models.MODELS
  model = models.build(name, 3, **{**BUILD, **options})
  shapes = models.abstract_variables(model, 3)
  batch, height, width = jax.export.symbolic_shape("b, h, w", constraints=["h >= 1", "w >= 1"])
  for fit in ("resize", "crop"):
    image = jax.ShapeDtypeStruct((batch, height, width, 3), np.uint8)

    def run(variables, image, fit=fit):
      return export_of(model, variables, fit=fit, output="labels")(image)

    traced = jax.export.export(jax.jit(run), platforms=export.PLATFORMS)(shapes, image)
    assert traced.out_avals[0].shape == (batch, height, width)
    assert traced.out_avals[0].dtype == np.uint8


def test_command_and_a_process_without_jaxseg(jaxseg, trained, tmp_path):  # noqa: F811
  command = (*TINY, f"--workdir={trained}", "--config.predict.tta=flip")
  status, out, _ = jaxseg(*command, "--mode=export", "--config.export.num_images=2")
  assert status == 0 and "100.0000%" in out and "2 images" in out
  about = json.loads((trained / "export" / "classes.json").read_text())
  assert about["classes"] == ["background", "cell"]
  written = about["model.stablehlo"]
  assert written["written_by_jax"] == jax.__version__ and jax.__version__ in written["readable_by"]
  dates = [written[name] for name in ("written_on", "readable_until_at_most")]
  days = [datetime.date.fromisoformat(date) for date in dates]
  assert (days[1] - days[0]).days == 180
  assert about["input"]["shape"] == ["batch", "height", "width", 1]
  assert about["output"] == {"dtype": "uint8", "shape": ["batch", "height", "width"]}

  rng = np.random.default_rng(0)
  sizes = {"a": (33, 57), "b": (70, 20)}
  images = {k: rng.integers(0, 256, (1, *size, 1), dtype=np.uint8) for k, size in sizes.items()}
  np.savez(tmp_path / "in.npz", **images)
  files = (trained / "export" / "model.stablehlo", tmp_path / "in.npz", tmp_path / "out.npz")
  done = subprocess.run(
    [sys.executable, "-c", LOADER, *map(str, files)], cwd=tmp_path, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr[-2000:]
  (tmp_path / "in").mkdir()
  for name, image in images.items():
    Image.fromarray(image[0, ..., 0]).save(tmp_path / "in" / f"{name}.png")
  jaxseg(*command, "--mode=predict", f"--input={tmp_path}/in", f"--output={tmp_path}/live")
  found = np.load(files[-1])
  for name in images:
    live = np.asarray(Image.open(tmp_path / "live" / f"{name}.png"))
    assert found[name].dtype == np.uint8
    np.testing.assert_array_equal(found[name][0], live)


def test_a_file_that_differs_is_not_written(jaxseg, trained, tmp_path, monkeypatch):  # noqa: F811
  monkeypatch.setattr(export, "agreement", lambda *_: 0.99)
  status, out, err = jaxseg(
    *TINY, f"--workdir={trained}", "--mode=export", f"--output={tmp_path}/new"
  )
  assert status == 1 and out == ""
  assert err.startswith("error: ") and "99.0000%" in err and err.count("\n") == 1
  assert not (tmp_path / "new" / "model.stablehlo").exists()


@pytest.mark.slow
def test_an_export_that_is_stopped(trained, tmp_path, monkeypatch):  # noqa: F811
  """The one before stays as it was, and nothing else."""
  exporting.export_run(trained, tmp_path)
  about, names = (tmp_path / "classes.json").read_text(), set(tmp_path.iterdir())
  with monkeypatch.context() as patch:
    patch.setattr(export, "agreement", lambda *_: 0.99)
    with pytest.raises(UserError, match="is not written"):
      exporting.export_run(trained, tmp_path)
  assert (tmp_path / "classes.json").read_text() == about and set(tmp_path.iterdir()) == names

  def full(path, content):
    with open(path, "wb") as file:
      file.write(content[:9])
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(pathlib.Path, "write_bytes", full)
  with pytest.raises(OSError) as raised:
    exporting.export_run(trained, tmp_path)
  assert raised.value.filename == str(tmp_path / "model.stablehlo")
  assert (tmp_path / "classes.json").read_text() == about and set(tmp_path.iterdir()) == names
  segmenter.load(tmp_path / "model.stablehlo")


def test_agreement_counts_pixels():
  image = np.arange(20, dtype=np.uint8).reshape(4, 5, 1)

  def predict(examples):
    for example in examples:
      yield example, np.eye(2, dtype=np.float32)[example["image"][..., 0] % 2]

  images = [image, image[:2]]  # 20 and 10 pixels
  assert export.agreement(lambda x: x[..., 0] % 2, predict, images) == 1
  wrong = export.agreement(lambda x: np.where(x[..., 0] < 3, 9, x[..., 0] % 2), predict, images)
  assert wrong == 24 / 30
  assert export.agreement(lambda x: np.eye(2)[x[..., 0] % 2], predict, images) == 1


def test_an_image_of_another_size_is_cut_or_mirrored():
  image = np.arange(6, dtype=np.uint8).reshape(2, 3, 1)
  assert export.fit_size(image, (3, 2))[..., 0].tolist() == [[0, 1], [3, 4], [3, 4]]


def test_mistakes(jaxseg, trained, tmp_path):  # noqa: F811
  command = (*TINY, "--mode=export")
  assert "no checkpoint" in error_of(jaxseg, *command, f"--workdir={tmp_path}/none")
  command += (f"--workdir={trained}",)
  error = error_of(jaxseg, *command, "--config.export.output=both")
  assert "config.export.output" in error and "'both'" in error and "labels, probs" in error
  assert "onnx_size" in error_of(jaxseg, *command, "--config.export.onnx_size=64")
  assert "export.num_images is 0" in error_of(jaxseg, *command, "--config.export.num_images=0")
  (tmp_path / "file").touch()
  assert "--output" in error_of(jaxseg, *command, f"--output={tmp_path}/file/new")
  with pytest.raises(UserError, match="stride of 128 px"):
    export_of(UNet(num_classes=2, widths=(1,) * 8), {})


def test_missing_packages_are_named(monkeypatch):
  monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(UserError, match="jax2onnx"):
    export.check_options("labels", (64, 64), 1)
  export.check_options("labels", (), 1)


@pytest.mark.parametrize(
  "name, options, fit, tta",
  [
    ("unet", {}, "crop", "flip"),
    ("unet", {"up": "resize"}, "resize", "none"),
    ("encoder_unet", NARROW, "crop", "none"),
    (
      "deeplabv3plus",
      {"encoder": "mobilenet_v2", "output_stride": 16, "up": "resize"},
      "crop",
      "none",
    ),
  ],
)
def test_onnx_gives_the_same_labels(name, options, fit, tta):
  reason = "NOT TESTED: ONNX; pip install -e '.[onnx]'"
  pytest.importorskip("jax2onnx", reason=reason)
  pytest.importorskip("onnxruntime", reason=reason)
  model = models.build(name, 3, **{**BUILD, **options})
  variables = draw_variables(model, 64)
  run = export_of(model, variables, fit=fit, tta=tta)
  call = export.load_onnx(export.to_onnx(run, (45, 40), 3))
  images = np.stack(images_of([(45, 40)] * 2))
  found = call(images)
  assert found.dtype == np.float32
  for image, probs in zip(images, found, strict=True):
    live = probs_of(model, variables, image, fit=fit, tta=tta)
    np.testing.assert_allclose(probs, live, atol=1e-4)
