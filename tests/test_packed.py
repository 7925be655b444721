"""Packed folders that are damaged, or whose config.json somebody has changed."""

import struct

import numpy as np
import pytest
from test_packing import copy, edit_json, folder, photo, rewrite, run  # noqa: F401, fixtures
from tiny import error_of

import jaxseg


def tensors(change):
  return lambda place: rewrite(place, change_tensors=change)


def about(change):
  return lambda place: rewrite(place, change)


def header(length, text=b"{}"):
  def change(place):
    (place / "model.safetensors").write_bytes(struct.pack("<Q", length) + text)
    rewrite(place)

  return change


def set_at(path, value):
  """A change of one entry of config.json."""

  def change(found):
    *groups, last = path.split("/")
    for name in groups:
      found = found[name]
    found[last] = value

  return about(change)


def cut(place):
  path = place / "model.safetensors"
  path.write_bytes(path.read_bytes()[:-100])


BIAS = "params/head/bias"
DAMAGE = {
  "no weights": (lambda x: (x / "model.safetensors").unlink(), "model.safetensors is missing: cop"),
  "no config": (lambda x: (x / "config.json").unlink(), "config.json is missing: copy"),
  "cut": (cut, "is damaged, or of another network: its SHA-256"),
  "no tensor": (tensors(lambda x: x.pop(BIAS)), "model.safetensors has no params/head/bias: it is"),
  "surplus": (tensors(lambda x: x.update(a=x[BIAS])), "has a surplus a: it is of another network"),
  "shape": (
    tensors(lambda x: x.update({BIAS: np.zeros(4, np.float32)})),
    f"{BIAS} is (4,), not (3,): it is of another network; copy or download",
  ),
  "type": (tensors(lambda x: x.update({BIAS: np.zeros(3, np.float16)})), "of type float16, not"),
  "NaN": (
    tensors(lambda x: x.update({BIAS: np.full(3, np.nan, np.float32)})),
    f"model.safetensors: {BIAS} holds values that are not finite",
  ),
  "long header": (header(1 << 60), "its header is longer than the file"),
  "large header": (header(1 << 25, b" " * (1 << 25)), "its header has 33,554,432 bytes, more than"),
  "deep header": (header(50006, b'{"a":' + b"[" * 50001), "damaged, or not a file"),
  "JSON": (lambda x: (x / "config.json").write_text('{"format"'), "config.json is damaged ("),
  "deep JSON": (lambda x: (x / "config.json").write_text("[" * 10**5), "config.json is damaged ("),
  "large JSON": (lambda x: (x / "config.json").write_bytes(b" " * 5_000_000), "5,000,000 bytes"),
  "no object": (lambda x: (x / "config.json").write_text("[1]"), "(no JSON object)"),
  "bytes": (lambda x: (x / "config.json").write_bytes(b"\xff\xfe"), "config.json is damaged ("),
  "newer": (set_at("version", 2), "is of format 2, and this is jaxseg"),
  "key": (
    set_at("config/model/magic", 1),
    f"the key config.model.magic, which jaxseg {jaxseg.__version__} does not know: use jaxseg 9.9",
  ),
  "info key": (set_at("info/magic", 1), "the entry info.magic, which jaxseg"),
  "network": (set_at("config/model/name", "mine"), "config.model.name is 'mine', which is unknown"),
  "value": (set_at("config/data/image_size", "big"), "config.data.image_size is 'big', but has to"),
  "other network": (set_at("config/model/widths", [2**20] * 12), "it is of another network"),
  "no checksum": (set_at("sha256", {}), "(sha256 is missing or wrong)"),
  "step": (set_at("step", "4"), "(step is missing or wrong)"),
  "no config in it": (set_at("config", 3), "(config is missing or wrong)"),
  "classes": (set_at("info/classes", "abc"), "(info.classes is missing or wrong)"),
  "names": (set_at("info/classes", ["a", "a", "b"]), "(info.classes is missing or wrong)"),
  "palette": (set_at("info/palette", [[0, 0, 256]] * 3), "(info.palette is missing or wrong)"),
  "colours": (set_at("info/palette", [[0, 0, 0]]), "(info.palette is missing or wrong)"),
  "channels": (set_at("info/channels", True), "(info.channels is missing or wrong)"),
  "range": (set_at("info/value_range", [[0, 1]]), "(info.value_range is missing or wrong)"),
  "infinite": (set_at("info/value_range", [0, 1e999]), "(info.value_range is missing or wrong)"),
  "bands": (set_at("info/bands", [1]), "(info.bands is missing or wrong)"),
  "dtype": (set_at("info/dtype", "int8"), "(info.dtype is missing or wrong)"),
  "classes of a number": (set_at("info/classes", 5), "(info.classes is missing or wrong)"),
  "large range": (set_at("info/value_range", [0, 10**400]), "(info.value_range is missing"),
  "place": (tensors(lambda x: x.update({f"{BIAS}/b": x[BIAS]})), f"{BIAS} is no path in a network"),
  "depth": (tensors(lambda x: x.update({"a/" * 3000: x[BIAS]})), "is no path in a network"),
  "shown": (set_at("info/display_bands", [3]), "(info.display_bands is missing or wrong)"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged(copy, kind):  # noqa: F811
  edit_json(copy / "config.json", written_by="9.9")
  change, words = DAMAGE[kind]
  change(copy)
  message = error_of(jaxseg.load, copy)
  assert words in message and len(message) < 400
  if not words.startswith("config."):
    assert message.startswith(f"{copy}/")


@pytest.mark.parametrize("config", [{"model": 5}, {"seed": {"x": 1}}])
def test_a_key_that_is_a_group(copy, config):  # noqa: F811
  def change(about):
    about["config"] |= config
    about["own_keys"] = ["model", "seed.x"]

  rewrite(copy, change)
  assert " as a key and as a group: it is damaged" in error_of(jaxseg.load, copy)


def test_keys_of_ones_own_are_known(copy):  # noqa: F811
  def change(about):
    about["config"]["model"]["magic"] = 1
    about["own_keys"] = ["model.magic"]
    about["config"]["train"]["losses"]["mine"] = 2.0  # was declared by its table

  rewrite(copy, change)
  assert jaxseg.load(copy).config.model.magic == 1
