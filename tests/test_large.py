"""Label maps of images that do not fit into memory: equal to those of the whole image."""

import contextlib
import dataclasses
import threading
import time
from concurrent import futures

import jax
import numpy as np
import pytest
import tensorstore
import tifffile
from PIL import Image
from test_zarr_files import write_zarr
from tiny import error_of

from configs import default
from jaxseg import large, prediction
from jaxseg.data import windows
from jaxseg.data.decode import DatasetInfo
from jaxseg.data.windows import open_windows
from jaxseg.models.unet import UNet
from jaxseg.predict import make_predictor, most_likely
from jaxseg.segmenter import Segmenter

INFO = DatasetInfo(("a", "b", "c"), ((255, 0, 0), (0, 255, 0), (0, 0, 255)), 3)
MODEL = UNet(3, widths=(4, 8))
SCALE = (33550, "d", 3, (0.5, 0.5, 0.0), True)  # of a GeoTIFF


@pytest.fixture(scope="module")
def photo():
  rng = np.random.default_rng(0)
  coarse = rng.integers(0, 156, (20, 28, 3), np.uint8).repeat(20, 0).repeat(20, 1)[:387, :551]
  return coarse + rng.integers(0, 100, coarse.shape, np.uint8)


@pytest.fixture(scope="module")
def variables(photo):
  """Weights that give all classes."""
  image = photo[None, :64, :64] / np.float32(255)
  variables = MODEL.init(jax.random.key(1), image, train=False)
  logits = MODEL.apply(variables, image, train=False)
  variables["params"]["head"]["bias"] -= logits.mean((0, 1, 2))
  return variables


@pytest.fixture(scope="module")
def labels(photo, variables):
  whole = make_predictor(MODEL, fit="crop", size=64, batch_size=4)
  (_, labels), *_ = whole(variables, [{"image": photo}], most_likely)
  assert min(np.bincount(labels.ravel(), minlength=3)) > 1000
  return labels


@pytest.fixture
def image(photo, tmp_path):
  path = tmp_path / "photo.tif"
  options = {"photometric": "rgb", "tile": (64, 64), "compression": "zlib", "extratags": [SCALE]}
  tifffile.imwrite(path, photo, **options)
  return open_windows(path, INFO.image_format())


@pytest.fixture(scope="module")
def predictor():
  return make_predictor(MODEL, fit="crop", size=64, batch_size=4, tile=128)


def test_tiff_equals_the_whole_image(image, photo, labels, predictor, variables, tmp_path):
  path, picture = tmp_path / "out.tif", tmp_path / "overlay.png"
  arguments = predictor, variables, image, path, INFO, "m"
  assert not large.predict_large(*arguments, overlay_path=picture)
  with tifffile.TiffFile(path) as tif:
    page = tif.pages.first
    np.testing.assert_array_equal(page.asarray(), labels)
    assert (
      tif.is_bigtiff and page.is_tiled and page.compression == tifffile.COMPRESSION.ADOBE_DEFLATE
    )
    assert page.tags[33550].value == SCALE[3] and large.mark_of_large(path) == "m"
    np.testing.assert_array_equal((page.colormap >> 8).T[:3], INFO.palette)
  shown = np.asarray(Image.open(picture))
  assert shown.shape == photo.shape
  inside = np.ones(labels.shape, bool)  # no line between classes
  for part in (inside, labels), (inside.T, labels.T):
    part[0][1:] &= part[1][1:] == part[1][:-1]
    part[0][:-1] &= part[1][1:] == part[1][:-1]
  tinted = 0.45 * np.array(INFO.palette)[labels] + 0.55 * photo
  assert abs(shown - tinted)[inside].max() < 2
  assert sorted(x.name for x in tmp_path.iterdir()) == ["out.tif", "overlay.png", "photo.tif"]
  assert Image.open(picture).text == {"jaxseg": "m"}


def test_floats_of_a_range_equal_the_whole_image(photo, labels, variables, tmp_path):
  """Values 0.5 + 2 x / 255, black and white at 0.5 and 2.5, are the x of the labels."""
  values = (0.5 + photo / 255 * 2).astype(np.float32)
  tifffile.imwrite(tmp_path / "photo.tif", values, photometric="rgb", tile=(64, 64))
  info = dataclasses.replace(INFO, value_range=(0.5, 2.5), dtype="float32")
  options = {"fit": "crop", "size": 64, "batch_size": 4, "value_range": info.value_range}
  image = open_windows(tmp_path / "photo.tif", info.image_format())
  whole = make_predictor(MODEL, **options)
  (_, expected), *_ = whole(variables, [{"image": image.whole()}], most_likely)
  predictor = make_predictor(MODEL, **options, tile=128)
  picture = tmp_path / "overlay.png"
  path = tmp_path / "out.tif"
  large.predict_large(predictor, variables, image, path, info, "m", overlay_path=picture)
  np.testing.assert_array_equal(tifffile.imread(path), expected)
  assert np.mean(expected == labels) > 0.999
  assert np.asarray(Image.open(picture)).std() > 20


def test_overlay_of_a_large_image(image, labels, predictor, variables, tmp_path, monkeypatch):
  monkeypatch.setattr(large, "MAX_OVERLAY", 100)
  monkeypatch.setattr(large, "BLOCK", 7)
  monkeypatch.setattr(large, "overlay", lambda picture, labels, palette: (picture, labels))
  monkeypatch.setattr(
    large.Image, "fromarray", lambda pair: kept.extend(pair) or Image.new("L", (1, 1))
  )
  kept = []
  overlay_path = tmp_path / "overlay.png"
  large.predict_large(
    predictor, variables, image, tmp_path / "o.tif", INFO, "m", overlay_path=overlay_path
  )
  np.testing.assert_array_equal(kept[0], image.read(slice(0, 387), slice(0, 551))[::6, ::6])
  np.testing.assert_array_equal(kept[1], labels[::6, ::6])


def test_zarr(image, labels, predictor, variables, tmp_path):
  large.predict_large(predictor, variables, image, tmp_path / "out.zarr", INFO, "m")
  store = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(tmp_path / "out.zarr")}}
  np.testing.assert_array_equal(np.asarray(tensorstore.open(store).result()), labels)


class Stopped(Exception):
  pass


def stops_after(count, seen):
  """A `progress` that fails after so many windows."""

  def progress(windows, unit, **_):
    if unit != "tile":
      yield from windows
      return
    for i, window in enumerate(windows):
      if i == count:
        raise Stopped
      seen.append(window)
      yield window

  return progress


@pytest.mark.parametrize(
  ("mark", "is_same"), [("one", True), ("two", False)], ids=["same", "other weights"]
)
def test_goes_on_after_a_stop(mark, is_same, image, labels, predictor, variables, tmp_path):
  path, first, second = tmp_path / "out.tif", [], []
  arguments = predictor, variables, image, path, INFO
  rows, cols = predictor.spans(labels.shape)
  with pytest.raises(Stopped):
    stop = 2 * len(cols) + 1
    large.predict_large(*arguments, "one", progress=stops_after(stop, first))
  assert not path.exists()
  continued = large.predict_large(*arguments, mark, progress=stops_after(1000, second))
  assert continued == is_same
  # Batches of four windows: the row in which it stopped is done again.
  expected = len(rows) - 2 if is_same else len(rows)
  assert len(second) in (expected * len(cols), (expected + 1) * len(cols))
  np.testing.assert_array_equal(tifffile.imread(path), labels)
  assert [x.name for x in tmp_path.iterdir() if x.name.startswith(".")] == []


def test_an_image_that_was_changed_begins_anew(image, photo, predictor, variables, tmp_path):
  """With the same mark, options and size."""
  path = tmp_path / "out.tif"
  with pytest.raises(Stopped):
    large.predict_large(predictor, variables, image, path, INFO, "m", progress=stops_after(9, []))
  tifffile.imwrite(tmp_path / "photo.tif", photo[::-1], photometric="rgb", tile=(64, 64))
  other = open_windows(tmp_path / "photo.tif", INFO.image_format())
  assert not large.predict_large(predictor, variables, other, path, INFO, "m")
  large.predict_large(predictor, variables, other, tmp_path / "afresh.tif", INFO, "m")
  np.testing.assert_array_equal(*map(tifffile.imread, (path, tmp_path / "afresh.tif")))


def test_finished_rows_are_all_that_is_left(image, labels, predictor, variables, tmp_path):
  """A stop between the last row and the file."""
  path = tmp_path / "out.tif"
  arguments = predictor, variables, image, path, INFO, "m"
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(large, "_write_tiff", lambda *_: (_ for _ in ()).throw(Stopped))
    with pytest.raises(Stopped):
      large.predict_large(*arguments)
  seen = []
  assert large.predict_large(*arguments, progress=stops_after(0, seen))
  assert not seen
  np.testing.assert_array_equal(tifffile.imread(path), labels)


def test_processes_share_the_rows(image, labels, predictor, variables, tmp_path):
  """Two threads stand for two processes. The second comes first, and waits for the folder."""
  path, windows = tmp_path / "out.tif", ([], [])
  arguments = predictor, variables, image, path, INFO, "m"

  barrier = threading.Barrier(2)

  @contextlib.contextmanager
  def agreed():
    yield
    barrier.wait(60)

  def run(number):
    progress = stops_after(1000, windows[number])
    large.predict_large(*arguments, process=(number, 2), agreed=agreed, progress=progress)

  with futures.ThreadPoolExecutor() as pool:
    second = pool.submit(run, 1)
    time.sleep(0.5)
    assert not second.done() and not windows[1]
    pool.submit(run, 0).result()
    second.result()
  rows, cols = (len(spans) for spans in predictor.spans(labels.shape))
  assert [len(x) for x in windows] == [(rows + 1) // 2 * cols, rows // 2 * cols]
  np.testing.assert_array_equal(tifffile.imread(path), labels)


@pytest.fixture
def folder(photo, predictor, variables, tmp_path, monkeypatch):
  """A small picture, a TIFF and a Zarr array that count as large, and a small one that does not."""
  monkeypatch.setattr(windows, "LARGE", 10_000)
  config = default.get_config()
  config.predict.tile, config.data.fit = 128, "crop"

  def predict(examples, **options):
    return predictor(variables, examples, **options)

  segmenter = Segmenter(INFO, predict, config=config, model=MODEL, variables=variables)
  monkeypatch.setattr(prediction, "load_run", lambda *_: segmenter)
  folder = tmp_path / "in"
  folder.mkdir()
  Image.fromarray(photo[:50, :60]).save(folder / "a.png")
  tifffile.imwrite(folder / "b.tif", photo, photometric="rgb", tile=(64, 64))
  write_zarr(folder / "c.zarr", photo, "zarr")
  write_zarr(folder / "d.zarr", photo[:50, :60], "zarr3")
  return folder


def test_large_images_in_a_folder(folder, labels, tmp_path, capfd):
  output = tmp_path / "out"
  prediction.predict_folder("run", folder, output)
  assert capfd.readouterr().out.startswith("4 label maps written ")
  names = ["a.png", "b.tif", "c.zarr", "d.png"]
  assert sorted(x.name for x in output.iterdir()) == [*names, "overlays"]
  overlays = sorted(x.name for x in (output / "overlays").iterdir())
  assert overlays == ["a.png", "b.png", "c.png", "d.png", "legend.png"]
  np.testing.assert_array_equal(tifffile.imread(output / "b.tif"), labels)
  store = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(output / "c.zarr")}}
  np.testing.assert_array_equal(np.asarray(tensorstore.open(store).result()), labels)
  small, same = (np.asarray(Image.open(output / name)) for name in ("a.png", "d.png"))
  np.testing.assert_array_equal(small, same)
  prediction.predict_folder("run", folder, output)
  assert capfd.readouterr().out.startswith("0 label maps written, 4 were there ")


def test_a_damaged_large_image_does_not_end_a_folder(folder, tmp_path, capfd):
  data = (folder / "b.tif").read_bytes()
  (folder / "b.tif").write_bytes(data[: len(data) // 2])
  message = error_of(prediction.predict_folder, "run", folder, tmp_path / "out")
  assert message.startswith(f"1 of 4 images failed: {folder / 'b.tif'}")
  assert capfd.readouterr().out.startswith("3 label maps written ")


def test_zarr_folders_that_are_none_do_not_end_a_folder(folder, tmp_path, capfd):
  for name, file, text in (
    ("e", ".zarray", "{"),
    ("f", "zarr.json", "[1]"),
    ("g", ".zattrs", '{"multiscales": [{}]}'),
    ("h", ".zattrs", '{"multiscales": [{"datasets": [{"path": 5}], "axes": [{}]}]}'),
  ):
    (folder / f"{name}.zarr").mkdir()
    (folder / f"{name}.zarr" / file).write_text(text)
  (folder / "i.zarr").mkdir()
  message = error_of(prediction.predict_folder, "run", folder, tmp_path / "out")
  assert message.startswith(f"5 of 9 images failed: {folder / 'e.zarr'}")
  out, err = capfd.readouterr()
  assert out.startswith("4 label maps written ") and "tensorstore_spec" not in err
  for name in "fgh":
    assert f"{name}.zarr: cannot be decoded (its metadata are damaged)" in err


def test_one_zarr_as_input(folder, tmp_path):
  prediction.predict_folder("run", folder / "c.zarr", tmp_path / "out")
  assert large.mark_of_large(tmp_path / "out" / "c.zarr") not in ("", "none")


def test_networks_that_need_the_whole_image_get_it(folder, labels, tmp_path, monkeypatch):
  segmenter = prediction.load_run()
  segmenter.config.data.fit = "resize"
  prediction.predict_folder("run", folder, tmp_path / "out")
  np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / "b.png")), labels)
