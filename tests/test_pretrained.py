"""Weight files: the layouts that exist, every kind of wrong file, and the download."""

import errno
import functools
import hashlib
import http.server
import shutil
import socket
import threading

import h5py
import numpy as np
import pooch
import pytest
import weight_files
from reference import normal
from weight_files import error_line

from jaxseg import UserError
from jaxseg.models.pretrained import Download, assign_weights, fetch, read_keras_h5, read_weights

# A network of each kind of layer: variables as in Flax, tensors as in Keras.
VARIABLES = {
  "params": {
    "Conv1": {"kernel": normal(3, 3, 3, 4), "bias": normal(4)},
    "bn": {"scale": normal(4, seed=1), "bias": normal(4, seed=2)},
    "dw": {"kernel": normal(3, 3, 4, seed=3)},
  },
  "batch_stats": {"bn": {"mean": normal(4, seed=4), "var": normal(4, seed=5)}},
}
TENSORS = {
  "Conv1/kernel": VARIABLES["params"]["Conv1"]["kernel"],
  "Conv1/bias": VARIABLES["params"]["Conv1"]["bias"],
  "bn/gamma": VARIABLES["params"]["bn"]["scale"],
  "bn/beta": VARIABLES["params"]["bn"]["bias"],
  "bn/moving_mean": VARIABLES["batch_stats"]["bn"]["mean"],
  "bn/moving_variance": VARIABLES["batch_stats"]["bn"]["var"],
  "dw/depthwise_kernel": VARIABLES["params"]["dw"]["kernel"][..., None],
}


def shapes(variables=VARIABLES):
  """What assign_weights gets: shapes without values."""
  if isinstance(variables, dict):
    return {name: shapes(part) for name, part in variables.items()}
  return np.broadcast_to(np.float32(np.nan), variables.shape)


def load(path, leave=()):
  return assign_weights(shapes(), read_weights(path), leave=leave, source=path)


def assert_equal(loaded, expected=VARIABLES):
  assert loaded.keys() == expected.keys()
  for name, value in expected.items():
    if isinstance(value, dict):
      assert_equal(loaded[name], value)
    else:
      assert isinstance(loaded[name], np.ndarray) and loaded[name].dtype == np.float32
      np.testing.assert_array_equal(loaded[name], value)


# Reading


@pytest.mark.parametrize("suffix", ["", ":0"], ids=["plain", "colon"])
@pytest.mark.parametrize("group", [None, "model_weights"], ids=["weights", "whole_model"])
def test_layouts(tmp_path, suffix, group):
  path = tmp_path / "weights.h5"
  weight_files.write_keras_h5(path, TENSORS, suffix=suffix, group=group)
  assert_equal(load(path))


def test_names_of_keras_3(tmp_path):
  """Its depthwise kernels are called kernel; its string attributes are not bytes."""
  path = tmp_path / "weights.h5"
  tensors = {name.replace("depthwise_", ""): tensor for name, tensor in TENSORS.items()}
  weight_files.write_keras_h5(path, tensors, suffix="")
  with h5py.File(path, "r+") as file:
    file.attrs["layer_names"] = [name.decode() for name in file.attrs["layer_names"]]
    for layer in file.values():
      layer.attrs["weight_names"] = [name.decode() for name in layer.attrs["weight_names"]]
  assert_equal(load(path))


def test_other_float_types_become_float32():
  tensors = {name: tensor.astype(np.float64) for name, tensor in TENSORS.items()}
  assert_equal(assign_weights(shapes(), tensors, leave=(), source="f"))


def test_layers_that_the_network_does_not_have():
  """Named ones are left; any other is an error that names it."""
  tensors = {**TENSORS, "top/kernel": normal(4, 2), "top/bias": normal(2)}
  assert_equal(assign_weights(shapes(), tensors, leave=("top",), source="f"))
  message = error_line(assign_weights, shapes(), tensors, leave=(), source="some.h5")
  assert message == "some.h5 is of another network: top/kernel has no place in this one"


@pytest.mark.parametrize("extra", ["Conv1/gamma", "dw/bias", "bn/momentum", "dense/kernel"])
def test_extra_tensor(extra):
  tensors = {**TENSORS, extra: normal(4)}
  assert extra in error_line(assign_weights, shapes(), tensors, leave=("top",), source="f")


@pytest.mark.parametrize("name", TENSORS)
def test_missing_tensor(name):
  tensors = {key: tensor for key, tensor in TENSORS.items() if key != name}
  message = error_line(assign_weights, shapes(), tensors, leave=(), source="some.h5")
  layer = name.split("/")[0]
  assert message.startswith("some.h5 is of another network: it lacks") and layer in message


@pytest.mark.parametrize("name", TENSORS)
def test_wrong_shape(name):
  """One more channel; and the right number of values in the wrong order."""
  tensor = TENSORS[name]
  for wrong in np.concatenate([tensor, tensor]), tensor[None]:
    tensors = {**TENSORS, name: wrong}
    message = error_line(assign_weights, shapes(), tensors, leave=(), source="some.h5")
    assert message.startswith("some.h5") and name in message and str(wrong.shape)[:-4] in message


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", TENSORS)
def test_values_that_are_not_finite(name, value):
  tensor = TENSORS[name].copy()
  tensor.flat[1] = value
  tensors = {**TENSORS, name: tensor}
  message = error_line(assign_weights, shapes(), tensors, leave=(), source="some.h5")
  assert message.startswith("some.h5") and name in message and "not finite" in message


def test_vgg_file(tmp_path):
  """The weight file of another network, as its authors publish it."""
  path = tmp_path / "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
  tensors = {}
  for block, width in enumerate((4, 8), start=1):
    for i in 1, 2:
      layer = f"block{block}_conv{i}"
      tensors[f"{layer}/{layer}_W_1"] = normal(3, 3, 3, width)
      tensors[f"{layer}/{layer}_b_1"] = normal(width)
  weight_files.write_keras_h5(path, tensors)
  message = error_line(load, path)
  assert str(path) in message and "another network" in message and "block1_conv1" in message


# Damaged files


def test_missing_file(tmp_path):
  for path in tmp_path / "typo.h5", tmp_path:  # a folder is no file
    message = error_line(read_weights, path)
    assert str(path) in message and "`pretrained` is 'imagenet' or the path" in message


@pytest.mark.parametrize(
  "content", [b"", b"PK\x03\x04 no HDF5", b"<!DOCTYPE html>" * 99], ids=["empty", "zip", "html"]
)
def test_no_hdf5(tmp_path, content):
  path = tmp_path / "weights.h5"
  path.write_bytes(content)
  assert str(path) in error_line(read_keras_h5, path)


def test_truncated_file(tmp_path):
  """Cut anywhere, as by a broken download."""
  whole, path = tmp_path / "whole.h5", tmp_path / "cut.h5"
  weight_files.write_keras_h5(whole, TENSORS)
  content = whole.read_bytes()
  for size in *range(0, len(content), 97), len(content) - 1:
    path.write_bytes(content[:size])
    message = error_line(load, path)
    assert str(path) in message and "damaged" in message


def test_damaged_bytes(tmp_path):
  """Runs of overwritten bytes: the right weights, or one line; never another exception."""
  whole, path = tmp_path / "whole.h5", tmp_path / "damaged.h5"
  weight_files.write_keras_h5(whole, TENSORS)
  content, rng = bytearray(whole.read_bytes()), np.random.default_rng(0)
  num_errors = 0
  for start in range(0, len(content) - 16, 61):
    damaged = content.copy()
    damaged[start : start + 16] = rng.bytes(16)
    path.write_bytes(damaged)
    try:
      load(path)
    except UserError as error:
      num_errors += 1
      assert str(path) in str(error) and "\n" not in str(error)
  assert num_errors > 10


def test_other_hdf5_layouts(tmp_path):
  """Other groups, a bare data set, and one without weight names."""
  path = tmp_path / "other.h5"
  with h5py.File(path, "w") as file:
    file["conv2d/vars/0"] = normal(3, 3, 3, 4)
  assert f"{path} is HDF5, but not a Keras" in error_line(read_keras_h5, path)
  with h5py.File(path, "w") as file:
    file["model_weights"] = normal(3)
  assert f"{path} is HDF5, but not a Keras" in error_line(read_keras_h5, path)
  weight_files.write_keras_h5(path, TENSORS)
  with h5py.File(path, "r+") as file:
    del file["bn"].attrs["weight_names"]
  assert str(path) in error_line(read_keras_h5, path)


# Downloading


class Handler(http.server.SimpleHTTPRequestHandler):
  def log_message(self, *args):
    pass

  def do_GET(self):
    self.server.requested.append(self.path)
    super().do_GET()


@pytest.fixture
def server(tmp_path):
  """HTTP server of tmp_path/served, with the list of paths `requested` so far."""
  (tmp_path / "served").mkdir()
  handler = functools.partial(Handler, directory=str(tmp_path / "served"))
  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
    server.requested = []
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()


def sha256(content):
  return f"sha256:{hashlib.sha256(content).hexdigest()}"


def publish(server, tmp_path, content, known_hash=None):
  """Download of a file with this content, or with another hash than its own."""
  (tmp_path / "served" / "weights.h5").write_bytes(content)
  url = f"http://127.0.0.1:{server.server_port}/weights.h5"
  return Download(url, known_hash or sha256(content))


def test_downloaded_once(server, tmp_path):
  cache = tmp_path / "cache" / "jaxseg"
  download = publish(server, tmp_path, b"weights")
  for _ in range(2):
    path = fetch(download, cache)
    assert open(path, "rb").read() == b"weights"
    assert server.requested == ["/weights.h5"]
  assert [file.name for file in cache.iterdir()] == ["weights.h5"]


def test_file_put_into_the_cache_by_hand(tmp_path):
  """The remedy that the error names: it works without network."""
  content = b"weights"
  (tmp_path / "weights.h5").write_bytes(content)
  download = Download(closed_url(), sha256(content))
  assert open(fetch(download, tmp_path), "rb").read() == content


def test_md5(server, tmp_path):
  """What Keras publishes for VGG-16."""
  known_hash = f"md5:{hashlib.md5(b'weights').hexdigest()}"
  fetch(publish(server, tmp_path, b"weights", known_hash), tmp_path / "cache")
  with pytest.raises(UserError):
    fetch(publish(server, tmp_path, b"other", known_hash), tmp_path / "other")


def test_first_digits_of_a_hash(server, tmp_path):
  """What PyTorch publishes, in the names of its files."""
  digits = hashlib.sha256(b"weights").hexdigest()[:8]
  path = fetch(publish(server, tmp_path, b"weights", f"sha256:{digits}"), tmp_path / "cache")
  assert open(path, "rb").read() == b"weights"
  other = "0" if digits[0] != "0" else "1"
  download = publish(server, tmp_path, b"weights", f"sha256:{other}{digits[1:]}")
  assert download.url in error_line(fetch, download, tmp_path / "cache")
  assert not list((tmp_path / "cache").iterdir())


def test_default_folder_is_the_users_cache(server, tmp_path, monkeypatch):
  monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "home" / name)
  fetch(publish(server, tmp_path, b"weights"))
  assert (tmp_path / "home" / "jaxseg" / "weights.h5").read_bytes() == b"weights"


def test_damaged_cache_is_replaced(server, tmp_path, capsys):
  cache = tmp_path / "cache"
  download = publish(server, tmp_path, b"weights")
  fetch(download, cache)
  (cache / "weights.h5").write_bytes(b"we")
  capsys.readouterr()
  assert open(fetch(download, cache), "rb").read() == b"weights"
  assert capsys.readouterr().err.startswith(f"{cache / 'weights.h5'} was damaged, or not the file")


def test_a_full_disk_is_not_the_network(server, tmp_path, monkeypatch):
  def retrieve(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path))

  monkeypatch.setattr(pooch, "retrieve", retrieve)
  with pytest.raises(OSError, match="No space left"):
    fetch(publish(server, tmp_path, b"weights"), tmp_path / "cache")


def test_wrong_hash(server, tmp_path):
  cache = tmp_path / "cache"
  download = publish(server, tmp_path, b"<html>log in to this hotel</html>", "sha256:" + "0" * 64)
  for _ in range(2):  # the bad file must not be taken for good the second time
    message = error_line(fetch, download, cache)
    assert download.url in message and str(cache) in message
    assert not cache.exists() or not list(cache.iterdir())


def test_file_is_gone(server, tmp_path):
  download = publish(server, tmp_path, b"weights")
  (tmp_path / "served" / "weights.h5").unlink()
  message = error_line(fetch, download, tmp_path / "cache")
  assert download.url in message and "as `pretrained`" in message


def closed_url():
  """A port where nobody listens."""
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    return f"http://127.0.0.1:{probe.getsockname()[1]}/weights.h5"


def test_no_network(tmp_path):
  url = closed_url()
  message = error_line(fetch, Download(url, "sha256:" + "0" * 64), tmp_path / "cache")
  assert url in message and str(tmp_path / "cache") in message
  assert "no network" in message and "as `pretrained`" in message
  shutil.rmtree(tmp_path / "cache", ignore_errors=True)


def test_cache_that_cannot_be_written(server, tmp_path):
  (tmp_path / "cache").touch()  # stops root too, unlike permissions
  download = publish(server, tmp_path, b"weights")
  assert str(tmp_path / "cache") in error_line(fetch, download, tmp_path / "cache")
