"""Weight files that would become more than they are, read other files, or say a thing twice."""

import json
import struct

import h5py
import numpy as np
import pytest

from jaxseg import UserError
from jaxseg.models.pretrained import read_weights

WHERE = "elsewhere.h5"


def virtual(group):
  layout = h5py.VirtualLayout((5,), "f4")
  layout[:] = h5py.VirtualSource(WHERE, "w", (5,))
  group.create_virtual_dataset("kernel", layout)


def repeated(group):
  """A thousand layers that are one and the same."""
  group["kernel"] = np.ones(2000, np.float32)
  names = [f"layer{i}" for i in range(1000)]
  for name in names:
    group.parent[name] = group
  group.parent.attrs["layer_names"] = [name.encode() for name in names]


def twice(group):
  group.attrs["weight_names"] = [b"x/kernel", b"y/kernel"]
  group["x/kernel"], group["y/kernel"] = np.ones(3, np.float32), np.zeros(3, np.float32)


def linked(group):
  group["other"] = np.ones(3, np.float32)
  group["kernel"] = h5py.SoftLink("/layer/other")


HDF5 = {
  "fill value": (
    lambda g: g.create_dataset("kernel", (30000, 30000), "f4", chunks=(1000, 1000), fillvalue=1),
    "stored in chunks",
  ),
  "compressed": (
    lambda g: g.create_dataset("kernel", data=np.zeros((99, 99), "f4"), compression="gzip"),
    "stored in chunks",
  ),
  "not written": (
    lambda g: g.create_dataset("kernel", (30000, 30000), "f4"),
    "declared with 3,600,000,000 bytes, but the file holds 0 of it",
  ),
  "repeated": (repeated, "larger than the file"),
  "twice": (twice, "two weights layer/kernel"),
  "external": (
    lambda g: g.create_dataset("kernel", (10,), "f4", external=[("/etc/passwd", 0, 40)]),
    "stored outside of the file",
  ),
  "external link": (
    lambda g: g.__setitem__("kernel", h5py.ExternalLink(WHERE, "w")),
    "kernel is a link to elsewhere",
  ),
  "soft link": (linked, "kernel is a link to elsewhere"),
  "virtual": (virtual, "stored outside of the file"),
  "text": (lambda g: g.__setitem__("kernel", "abc"), "no array of numbers"),
}


def refused(path, reason):
  with pytest.raises(UserError) as error:
    read_weights(path)
  message = str(error.value)
  assert message.startswith(str(path)) and reason in message and "\n" not in message


@pytest.mark.parametrize("kind", HDF5)
def test_hdf5(tmp_path, monkeypatch, kind):
  monkeypatch.chdir(tmp_path)
  with h5py.File(WHERE, "w") as file:
    file["w"] = np.ones(5, np.float32)
  make, reason = HDF5[kind]
  path = tmp_path / "weights.h5"
  with h5py.File(path, "w") as file:
    file.attrs["layer_names"] = [b"layer"]
    group = file.create_group("layer")
    group.attrs["weight_names"] = [b"kernel"]
    make(group)
  refused(path, reason)


def test_hdf5_group_elsewhere(tmp_path):
  with h5py.File(tmp_path / WHERE, "w") as file:
    file.create_group("model_weights").attrs["layer_names"] = [b"layer"]
  path = tmp_path / "weights.h5"
  with h5py.File(path, "w") as file:
    file["model_weights"] = h5py.ExternalLink(str(tmp_path / WHERE), "model_weights")
  refused(path, "model_weights is a link to elsewhere")


def tensor(start, stop, shape=(1,), dtype="F32"):
  return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


SAFETENSORS = {
  "F8": ({"a.weight": tensor(0, 8, (8,), "F8_E4M3")}, "a.weight is of type F8_E4M3"),
  "F8 of another kind": ({"a.weight": tensor(0, 8, (8,), "F8_E5M2")}, "a.weight is of type F8"),
  "F4": ({"a.weight": tensor(0, 8, (16,), "F4")}, "convert it to float16 or float32"),
  "unknown": ({"a.weight": tensor(0, 8, (8,), "Q9")}, "Q9"),
  "complex": ({"a.weight": tensor(0, 8, (1,), "C64")}, "of type complex64"),
  "same after renaming": (
    {"a.b.weight": tensor(0, 4), "a_b.weight": tensor(4, 8)},
    "two tensors would both be a_b/kernel",
  ),
  "overlapping": ({"a.weight": tensor(0, 8, (2,)), "b.weight": tensor(0, 8, (2,))}, "damaged"),
  "out of range": ({"a.weight": tensor(0, 1 << 32, (1 << 30,))}, "damaged"),
  "nothing of a huge shape": ({"a.weight": tensor(0, 0, (0, 1 << 62))}, "damaged"),
  "no object": ([[1]], "damaged"),
}


@pytest.mark.parametrize("kind", SAFETENSORS)
def test_safetensors(tmp_path, kind):
  header, reason = SAFETENSORS[kind]
  write(tmp_path / "a.safetensors", json.dumps(header).encode())
  refused(tmp_path / "a.safetensors", reason)


def test_safetensors_headers(tmp_path):
  path = tmp_path / "a.safetensors"
  one = json.dumps(tensor(0, 8, (2,))).encode()
  write(path, b'{"a.weight":' + one + b"}")
  assert list(read_weights(path)) == ["a/kernel"]
  write(path, b'{"a.weight":' + one + b',"a.weight":' + one + b"}")
  refused(path, "a name occurs twice")
  write(path, b'{"a.weight":' + b"[" * 50000)
  refused(path, "damaged")
  for length in (1 << 60, 90_000_000):
    write(path, b"{}", length)
    refused(path, "its header is longer than the file")


def write(path, header, length=None):
  length = len(header) if length is None else length
  path.write_bytes(struct.pack("<Q", length) + header + bytes(8))
