"""Zarr arrays and groups: their axes, their parts, and what is no image."""

import json
import os
import shutil

import numpy as np
import pytest
import tensorstore
from test_windows import PLANES, RGB, boxes
from tiny import error_of

from jaxseg.data import windows
from jaxseg.data.decode import ImageFormat
from jaxseg.data.windows import open_windows


def write_zarr(folder, array, driver):
  chunks = [min(64, n) for n in array.shape]
  metadata = {"shape": array.shape, "chunks": chunks, "dtype": array.dtype.str}
  if driver == "zarr3":
    grid = {"name": "regular", "configuration": {"chunk_shape": chunks}}
    metadata = {"shape": array.shape, "data_type": array.dtype.name, "chunk_grid": grid}
  store = {"driver": driver, "kvstore": {"driver": "file", "path": str(folder)}}
  tensorstore.open({**store, "metadata": metadata}, create=True).result().write(array).result()
  return folder


@pytest.mark.parametrize("driver", ["zarr", "zarr3"])
@pytest.mark.parametrize("is_ome", [False, True])
def test_windows_of_zarr(driver, is_ome, tmp_path):
  path = tmp_path / "a.zarr"
  if is_ome:
    write_zarr(path / "0", PLANES[None, :, None], driver)
    write_ome(path, driver, "0")
  else:
    write_zarr(path, RGB, driver)
  image = open_windows(path, ImageFormat(3))
  assert image.shape == RGB.shape
  for box in boxes(150, 170):
    np.testing.assert_array_equal(image.read(*box), RGB[box])


@pytest.mark.parametrize("names", ["CYX", ("channel", "row", "col")])
def test_ome_axes_by_other_names(names, tmp_path):
  write_zarr(tmp_path / "a.zarr" / "0", PLANES, "zarr")
  write_ome(tmp_path / "a.zarr", "zarr", "0", names=names)
  image = open_windows(tmp_path / "a.zarr", ImageFormat(3))
  np.testing.assert_array_equal(image.read(slice(3, 99), slice(5, 80)), RGB[3:99, 5:80])


def test_what_is_not_read_of_ome_is_named(tmp_path):
  write_zarr(tmp_path / "a.zarr" / "0", PLANES[None, :, None], "zarr")
  write_ome(tmp_path / "a.zarr", "zarr", "0", "1", "2", others=[{"datasets": [{"path": "x"}]}])
  image = open_windows(tmp_path / "a.zarr", ImageFormat(3))
  image.read(slice(0, 9), slice(0, 9))
  assert image.notes == ["2 levels of lower resolution of its multiscales not read",
                         "1 image of its multiscales not read"]  # fmt: skip


def test_whole_numbers_of_unknown_range(tmp_path, monkeypatch):
  """Of large images before the first window, as a later one may not fit 16 bits."""
  path = write_zarr(tmp_path / "a.zarr", RGB.astype(np.int32), "zarr")
  np.testing.assert_array_equal(open_windows(path, ImageFormat(3)).whole(), RGB)
  monkeypatch.setattr(windows, "LARGE", 100)
  assert "the full range of int32 is unknown: set `value_range`" in (
    error_of(open_windows, path, ImageFormat(3))
  )
  image = open_windows(path, ImageFormat(3, value_range=(0, 255)))
  assert image.read(slice(3, 9), slice(5, 8)).shape == (6, 3, 3)


def write_ome(path, driver, *levels, names="tczyx", others=()):
  axes = [{"name": name} for name in names]
  scales = [{"axes": axes, "datasets": [{"path": level} for level in levels]}, *others]
  about = {"multiscales": scales}
  if driver == "zarr3":
    about = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": about}}
  (path / ("zarr.json" if driver == "zarr3" else ".zattrs")).write_text(json.dumps(about))


@pytest.mark.parametrize("driver", ["zarr", "zarr3"])
@pytest.mark.parametrize(
  "names, array",
  [
    (("band", "y", "x"), RGB.transpose(2, 0, 1)),
    (("X", "Y", "Channel"), RGB.transpose(1, 0, 2)),
    (("lat", "time", "lon", "bands"), RGB[:, None]),
    ((None, "dim_1", "dim_2"), RGB),
  ],
  ids=["first", "turned", "flat", "none"],
)
def test_zarr_of_named_axes(driver, names, array, tmp_path):
  """As Zarr 3 has them, and xarray in Zarr 2."""
  path = write_zarr(tmp_path / "a.zarr", array, driver)
  name_axes(path, names)
  image = open_windows(path, ImageFormat(3))
  np.testing.assert_array_equal(image.read(slice(3, 99), slice(5, 80)), RGB[3:99, 5:80])


def name_axes(path, names):
  file = path / "zarr.json"
  if file.exists():
    file.write_text(json.dumps({**json.loads(file.read_text()), "dimension_names": names}))
  else:
    (path / ".zattrs").write_text(json.dumps({"_ARRAY_DIMENSIONS": names}))


@pytest.mark.parametrize(
  "names, words",
  [
    (("y", "x", "polarisation"), "has axes y, x, polarisation; 'polarisation' is unknown: call"),
    (("y", "x", "row"), "axes yxy of shape (150, 170, 3) are not an image"),
    (("y", "x"), "axes yx of shape (150, 170, 3) are not an image"),
    (("t", "y", "x"), "has several planes of time"),
  ],
)
def test_zarr_of_other_axes(names, words, tmp_path):
  path = write_zarr(tmp_path / "a.zarr", RGB, "zarr")
  name_axes(path, names)
  assert words in error_of(open_windows, path, ImageFormat(3))


def test_zarr_groups(tmp_path):
  path = tmp_path / "a.zarr"
  for driver, name in ("zarr", ".zgroup"), ("zarr3", "zarr.json"):
    write_zarr(path / driver, RGB, driver)
    (path / name).write_text('{"node_type": "group", "zarr_format": 3}')
    assert f"is a Zarr group of {driver}: give one of these, as by ln -s {path}/{driver} " in (
      error_of(open_windows, path, ImageFormat(3))
    )
    shutil.rmtree(path)


def test_zarr_that_points_elsewhere(tmp_path):
  write_zarr(tmp_path / "other", RGB, "zarr")
  (tmp_path / "a.zarr").mkdir()
  write_ome(tmp_path / "a.zarr", "zarr", "../other")
  assert "outside of it: ../other" in error_of(open_windows, tmp_path / "a.zarr", ImageFormat(3))


def test_zarr_of_several_times(tmp_path):
  path = tmp_path / "a.zarr"
  write_zarr(path / "0", np.stack([PLANES, PLANES])[:, :, None], "zarr")
  write_ome(path, "zarr", "0")
  assert "several planes of time" in error_of(open_windows, path, ImageFormat(3))


@pytest.mark.parametrize("driver", ["zarr", "zarr3"])
def test_stamp_of_zarr_tells_rewritten_chunks(tmp_path, driver):
  path = tmp_path / "a.zarr"
  write_zarr(path, RGB, driver)
  first = open_windows(path, ImageFormat(3)).stamp
  assert open_windows(path, ImageFormat(3)).stamp == first
  (path / ".DS_Store").touch()
  (path / "link").symlink_to(tmp_path / "nowhere")
  assert open_windows(path, ImageFormat(3)).stamp == first
  chunk = max((file for file in path.rglob("*") if file.is_file()), key=lambda x: x.stat().st_size)
  stat = chunk.stat()
  chunk.write_bytes(chunk.read_bytes())  # of the same size, and older than the others
  os.utime(chunk, ns=(stat.st_atime_ns, stat.st_mtime_ns - 10**9))
  assert open_windows(path, ImageFormat(3)).stamp != first


def test_zarr_by_a_path_that_goes_up(tmp_path, monkeypatch):
  write_zarr(tmp_path / "a.zarr", RGB, "zarr3")
  (tmp_path / "below").mkdir()
  monkeypatch.chdir(tmp_path / "below")
  np.testing.assert_array_equal(open_windows("../a.zarr", ImageFormat(3)).whole(), RGB)
