"""`jaxseg.load`: what a user calls, on arrays, files and lists, with options and without."""

import json
import os
import subprocess
import sys
import traceback
import warnings

import numpy as np
import pytest
import tifffile
import tiny
from PIL import Image
from test_zarr_files import write_zarr
from tiny import error_of

import jaxseg
from jaxseg import DataWarning, UserError, build, checkpoint, exporting
from jaxseg.crf import dense_crf
from jaxseg.data import datasets
from jaxseg.predict import make_predictor

pytestmark = pytest.mark.usefixtures("photos")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  """A run of the photos, with checkpoints at steps 2 and 4."""
  folder = tmp_path_factory.mktemp("run")
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(datasets.DATASETS, "photos", tiny.load_photos)
    assert jaxseg.train(tiny.make_config(4, eval_every=2), folder) is True
  return folder


@pytest.fixture(scope="module")
def photo():
  return tiny.load_photos("test", "", 32, 0)[1][3]["image"]


def live(workdir, image, step=None, **options):
  """Probabilities of a checkpoint by hand."""
  best, meta = checkpoint.best_checkpoint(workdir)
  variables = checkpoint.load_step(workdir, step or best)["variables"]
  model = build.build_model(tiny.make_config(4), datasets.DatasetInfo(**meta["info"]))
  predict = make_predictor(model, fit="crop", size=32, batch_size=16, **options)
  ((_, probs),) = predict(variables, [{"image": image}])
  return probs


def test_labels_and_probabilities(workdir, photo):
  seg = jaxseg.load(workdir)
  probs, labels = seg.probs(photo), seg(photo)
  assert probs.dtype == np.float32 and labels.dtype == np.uint8
  np.testing.assert_array_equal(probs, live(workdir, photo))
  np.testing.assert_array_equal(labels, probs.argmax(-1))


def test_what_it_knows(workdir):
  seg = jaxseg.load(workdir, tta="flip", tile=64, batch_size=2)
  assert seg.classes == tiny.INFO.classes and seg.palette == tiny.INFO.palette
  assert seg.config.model.widths == (4, 8)
  assert (seg.config.predict.tta, seg.config.predict.tile) == ("flip", 64)
  logits = seg.model.apply(seg.variables, np.zeros((1, 32, 32, 3), np.float32), train=False)
  assert logits.shape == (1, 32, 32, 3)
  assert seg.step in (2, 4) and "0x" not in repr(seg)


def test_kinds_of_images(workdir, photo, tmp_path):
  seg = jaxseg.load(workdir)
  expected = seg(photo)
  Image.fromarray(photo).save(tmp_path / "a.png")
  for image in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(photo)):
    np.testing.assert_array_equal(seg(image), expected)
  np.testing.assert_array_equal(seg(photo / np.float32(255)), expected)
  several = seg([photo, tmp_path / "a.png", photo[:20]])
  assert isinstance(several, list) and [x.shape for x in several][2] == (20, photo.shape[1])
  np.testing.assert_array_equal(several[1], expected)
  batch = seg.probs(np.stack([photo, photo[::-1]]))
  assert batch.shape == (2, *photo.shape[:2], 3)
  np.testing.assert_allclose(batch[0], seg.probs(photo), atol=1e-6)


@pytest.mark.slow
def test_options(workdir, photo):
  np.testing.assert_array_equal(
    jaxseg.load(workdir, tta="flip").probs(photo), live(workdir, photo, tta="flip")
  )
  refined = dense_crf(live(workdir, photo), photo, num_iterations=3, color_sigma=30.0)
  seg = jaxseg.load(workdir, crf={"num_iterations": 3, "color_sigma": 30.0})
  np.testing.assert_array_equal(seg.probs(photo), refined)
  assert jaxseg.load(workdir, crf={"color_sigma": 30.0}).config.crf.num_iterations == 10
  assert jaxseg.load(workdir, crf=True).config.crf.num_iterations == 10
  assert jaxseg.load(workdir, crf=False).config.crf.num_iterations == 0
  large = np.tile(photo, (3, 2, 1))
  whole, tiled = (jaxseg.load(workdir, tile=tile).probs(large) for tile in (0, 64))
  np.testing.assert_allclose(tiled, whole, atol=1e-5)
  scaled = jaxseg.load(workdir, scales=(0.5, 1.0)).probs(photo)
  assert np.abs(scaled - live(workdir, photo)).max() > 1e-3
  np.testing.assert_allclose(scaled.sum(-1), 1, atol=1e-5)


def test_a_single_checkpoint(workdir, photo):
  for step in (2, 4):
    seg = jaxseg.load(workdir / "checkpoints" / str(step))
    assert seg.step == step
    np.testing.assert_array_equal(seg.probs(photo), live(workdir, photo, step))


def test_overlay(workdir, photo):
  seg = jaxseg.load(workdir)
  picture = seg.overlay(photo, opacity=1.0)
  np.testing.assert_array_equal(picture, np.array(seg.palette)[seg(photo)])
  np.testing.assert_array_equal(picture, seg.overlay(photo, seg(photo), opacity=1.0))
  assert "its labels are [2,2]" in error_of(seg.overlay, photo, np.zeros((2, 2), np.uint8))
  labels = seg(photo)
  for wrong in (labels / 2, labels.astype(int) - 1, labels.astype(int) + 300):
    assert "0 to 255" in error_of(seg.overlay, photo, wrong)
  assert "opacity" in error_of(seg.overlay, photo, labels, opacity=2)
  assert "list" in error_of(seg.overlay, [photo], np.zeros((2, 2), np.uint8))


@pytest.mark.parametrize("output", ["labels", "probs"])
def test_exported_file(workdir, photo, tmp_path, output, capsys):
  exporting.export_run(workdir, tmp_path, {"export.output": output})
  seg, other = jaxseg.load(tmp_path / "model.stablehlo"), jaxseg.load(workdir)
  assert (seg.classes, seg.palette, seg.step) == (other.classes, other.palette, other.step)
  assert (seg(photo) == other(photo)).mean() > 0.999
  assert seg.overlay(photo).shape == photo.shape
  if output == "probs":
    np.testing.assert_allclose(seg.probs(photo), other.probs(photo), atol=1e-5)
  else:
    assert "config.export.output=probs" in error_of(seg.probs, photo)
  assert "options" in error_of(jaxseg.load, tmp_path / "model.stablehlo", tta="flip")
  about = json.loads((tmp_path / "classes.json").read_text())
  (tmp_path / "classes.json").write_text(json.dumps({**about, "sha256": {"model.stablehlo": "0"}}))
  message = error_of(jaxseg.load, tmp_path / "model.stablehlo")
  assert "or its classes.json is of another export" in message
  del about["sha256"]  # as of older versions
  (tmp_path / "classes.json").write_text(json.dumps(about))
  whole = (tmp_path / "model.stablehlo").read_bytes()
  for size in (0, 1, 100, len(whole) // 2):
    (tmp_path / "model.stablehlo").write_bytes(whole[:size])
    message = error_of(jaxseg.load, tmp_path / "model.stablehlo")
    assert "model.stablehlo is damaged" in message and "export the run again" in message
  wrong = ["{", "[]", "{}", '{"classes": ["a"], "palette": [[0, 0, 0]], "input": 3}']
  for name, value in {"channels": [], "bands": True, "value_range": "x", "dtype": None}.items():
    changed = {**about["input"], "image_format": {**about["input"]["image_format"], name: value}}
    wrong.append(json.dumps({**about, "input": changed}))
  wrong += [json.dumps({**about, "classes": x}) for x in ([None, "b"], [], "abc")]
  for text in wrong:
    (tmp_path / "classes.json").write_text(text)
    message = error_of(jaxseg.load, tmp_path / "model.stablehlo")
    assert "classes.json is damaged" in message and "export the run again" in message
  (tmp_path / "classes.json").unlink()
  assert "classes.json is missing" in error_of(jaxseg.load, tmp_path / "model.stablehlo")
  capsys.readouterr()


def test_what_cannot_be_loaded(workdir, tmp_path):
  cases = {
    tmp_path / "none": "none has no checkpoint",
    workdir / "checkpoints" / "3": "no checkpoint 3",
    tmp_path / "model.stablehlo": "no file",
  }
  for path, words in cases.items():
    assert words in error_of(jaxseg.load, path)
  with pytest.raises(UserError) as error:
    jaxseg.load(tmp_path / "none")
  text = "".join(traceback.format_exception(error.value))
  assert text.count("Traceback") == 1 and "load_best" in text
  for options, words in (
    ({"tta": "all"}, "config.predict.tta is 'all'"),
    ({"tile": 3}, "config.predict.tile is 3"),
    ({"scales": (0,)}, "config.predict.scales is (0,)"),
    ({"scales": 1.0}, "`scales` is 1.0"),
    ({"crf": "yes"}, "`crf` is 'yes'"),
    ({"output_stride": 8}, "config.predict.output_stride"),
    ({"crf": {"sigma": 3}}, "'crf.sigma'"),
    ({"crf": {"num_iterations": -3}}, "config.crf.num_iterations is -3"),
  ):
    assert words in error_of(jaxseg.load, workdir, **options), words


def test_importing_is_light():
  """`import jaxseg` imports no package but the standard library and sets nothing."""
  program = """
import sys
before = set(sys.modules)
import jaxseg
print(sorted({name.split(".")[0] for name in set(sys.modules) - before} - sys.stdlib_module_names))
jaxseg.models.build("unet", num_classes=2)
import matplotlib, jax
print("matplotlib.pyplot" in sys.modules, "grain" in sys.modules, "orbax" in sys.modules)
from jaxseg import load, train, evaluate, predict_folder
print(callable(jaxseg.train) and callable(jaxseg.evaluate) and jaxseg.train is train)
print(matplotlib.get_backend(auto_select=False), jax.config.jax_compilation_cache_dir)
"""
  environ = {k: v for k, v in os.environ.items() if not k.startswith("JAX_COMPILATION")}
  done = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environ
  )
  light, core, functions, options = done.stdout.splitlines()
  assert light == "['jaxseg']"
  assert core == "False False False"
  assert functions == "True"
  assert options == "None None"


def test_what_is_not_used_of_an_image_is_said(workdir, photo, tmp_path):
  """As in --mode=predict: once, and without a key that would need another training."""
  alpha = np.dstack([photo, np.arange(photo[..., 0].size).reshape(photo.shape[:2]) % 256])
  Image.fromarray(alpha.astype(np.uint8)).save(tmp_path / "a.png")
  seg = jaxseg.load(workdir)
  with pytest.warns(DataWarning, match="a.png: transparency .alpha. is not used .said once."):
    labels = seg(tmp_path / "a.png")
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    np.testing.assert_array_equal(seg(tmp_path / "a.png"), labels)
  np.testing.assert_array_equal(labels, seg(photo))
  tifffile.imwrite(tmp_path / "b.tif", photo.astype(np.int16))
  message = error_of(seg, tmp_path / "b.tif")
  assert message.endswith("8 or 16 bits: rescale this one to uint8 or uint16")
  assert "value_range" not in message and "`" not in message


@pytest.mark.slow
def test_an_exported_file_says_that_it_rounds(workdir, photo, tmp_path):
  exporting.export_run(workdir, tmp_path)
  seg = jaxseg.load(tmp_path / "model.stablehlo")
  deep = photo.astype(np.uint16) * 257
  with pytest.warns(DataWarning, match="uint16 images are rounded to uint8"):
    labels = seg(deep)
  np.testing.assert_array_equal(labels, seg(photo))


def test_stream(workdir, photo, tmp_path):
  """Window by window, from files and from what is read by slices, the labels of the whole image."""
  seg, image = jaxseg.load(workdir, tile=64), np.tile(photo, (4, 3, 1))
  tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", tile=(32, 32))
  np.save(tmp_path / "a.npy", image)
  expected = seg(image)
  for source in (tmp_path / "a.tif", np.load(tmp_path / "a.npy", mmap_mode="r"), image):
    labels, count = np.full(expected.shape, 99, np.uint8), np.zeros(expected.shape, int)
    windows = list(seg.stream(source))
    for rows, cols, values in windows:
      labels[rows, cols] = values
      count[rows, cols] += 1
    assert len(windows) > 1 and (count == 1).all()
    np.testing.assert_array_equal(labels, expected)
  grey = list(seg.stream(image[..., 0]))
  np.testing.assert_array_equal(grey[0][2], seg(image[..., 0])[grey[0][:2]])


def test_stream_of_a_file_of_several_images(workdir, photo, tmp_path):
  seg, pages = jaxseg.load(workdir), [photo, 255 - photo]
  tifffile.imwrite(tmp_path / "a.tif", np.stack(pages), photometric="rgb")
  with pytest.raises(UserError, match="has 2 pages: pass `page`, 0 to 1"):
    next(seg.stream(tmp_path / "a.tif"))
  for number, page in enumerate(pages):
    ((_, _, labels),) = seg.stream(tmp_path / "a.tif", page=number)
    np.testing.assert_array_equal(labels, seg(page))
  (tmp_path / "a.tif").rename(tmp_path / "a.btf")
  for page in None, -1, 2:
    with pytest.raises(UserError, match="has 2 pages: pass `page`, 0 to 1"):
      next(seg.stream(tmp_path / "a.btf", page=page))
  tifffile.imwrite(tmp_path / "b.tif", photo, photometric="rgb")
  assert len(list(seg.stream(tmp_path / "b.tif", page=0))) == 1
  for image in tmp_path / "b.tif", photo:
    with pytest.raises(UserError, match="leave `?page`? out|leave it out"):
      next(seg.stream(image, page=1))


def test_zarr_is_read_as_one_image(workdir, photo, tmp_path):
  seg = jaxseg.load(workdir)
  path = write_zarr(tmp_path / "a.zarr", photo, "zarr3")
  np.testing.assert_array_equal(seg(path), seg(photo))
  np.testing.assert_array_equal(seg([str(path), photo])[0], seg(photo))
  assert seg.overlay(path).shape == photo.shape


def test_stream_says_what_needs_the_whole_image(workdir, photo):
  def first(seg, image=photo):
    return next(seg.stream(image))

  assert "config.crf.num_iterations is 10" in error_of(first, jaxseg.load(workdir, crf=True))
  assert "config.predict.scales is (0.5, 1.0)" in error_of(
    first, jaxseg.load(workdir, scales=(0.5, 1.0))
  )
  assert "is no image" in error_of(first, jaxseg.load(workdir), np.zeros((2, 2, 2, 2)))
  assert "no file" in error_of(first, jaxseg.load(workdir), "missing.tif")


def test_a_network_of_8_bits_sees_12_bits_almost_black(workdir, photo):
  """It says so, once; the full range of 16 bits is the same image."""
  segmenter, deep = jaxseg.load(workdir), photo.astype(np.uint16)
  np.testing.assert_array_equal(segmenter(deep * 257), segmenter(photo))
  with pytest.warns(DataWarning, match="16 bits stay below 1/8 of white, almost black to a netw"):
    segmenter(deep * 16)
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    segmenter(deep * 16)
  with pytest.warns(DataWarning, match="16 bits stay below 1/8 of white"):
    list(jaxseg.load(workdir).stream(deep * 16))
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    jaxseg.load(workdir)(np.zeros_like(deep))  # black, and nothing else
