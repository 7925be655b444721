"""PyTorch weight files: what torch.save and safetensors write, and files that mean harm."""

import collections
import functools
import io
import pickle
import struct
import time
import zipfile

import numpy as np
import pytest
import safetensors.numpy
import weight_files
from reference import normal
from weight_files import (
  ORDERED_DICT,
  REBUILD_TENSOR,
  error_line,
  pickled,
  pickled_state,
  pickled_tensor,
)

from jaxseg import UserError
from jaxseg.models.pretrained import read_weights
from jaxseg.models.torch_files import read_pth, read_safetensors

# Of each kind of layer: as PyTorch names and stores it, and as Keras does.
STATE = {
  "layer1.0.conv1.weight": normal(4, 3, 3, 2),
  "layer1.0.bn1.weight": normal(4, seed=1),
  "layer1.0.bn1.bias": normal(4, seed=2),
  "layer1.0.bn1.running_mean": normal(4, seed=3),
  "layer1.0.bn1.running_var": normal(4, seed=4),
  "layer1.0.bn1.num_batches_tracked": np.array(5),
  "blocks.0.conv_dw.weight": normal(4, 1, 3, 3, seed=5),
  "fc.weight": normal(6, 4, seed=6),
  "fc.bias": normal(6, seed=7),
}
TENSORS = {
  "layer1_0_conv1/kernel": np.moveaxis(STATE["layer1.0.conv1.weight"], (0, 1), (3, 2)),
  "layer1_0_bn1/gamma": STATE["layer1.0.bn1.weight"],
  "layer1_0_bn1/beta": STATE["layer1.0.bn1.bias"],
  "layer1_0_bn1/moving_mean": STATE["layer1.0.bn1.running_mean"],
  "layer1_0_bn1/moving_variance": STATE["layer1.0.bn1.running_var"],
  "blocks_0_conv_dw/kernel": np.moveaxis(STATE["blocks.0.conv_dw.weight"], (0, 1), (2, 3)),
  "fc/kernel": STATE["fc.weight"].T,
  "fc/bias": STATE["fc.bias"],
}
VALUES = normal(2, 3)
MEMBERS = {"data/0": VALUES.tobytes()}


def assert_equal(tensors, expected):
  assert tensors.keys() == expected.keys()
  for name, value in expected.items():
    assert tensors[name].dtype == np.float32
    np.testing.assert_array_equal(tensors[name], value, err_msg=name)


def write(path, pickle, **members):
  weight_files.write_zip(path, {"data.pkl": pickle, **MEMBERS, **members})


def read(path, pickle, **members):
  write(path, pickle, **members)
  return read_pth(path)


@pytest.fixture
def path(tmp_path):
  return tmp_path / "weights.pth"


# Reading


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".safetensors"])
def test_names_and_layouts(tmp_path, suffix):
  path = tmp_path / f"weights{suffix}"
  if suffix == ".safetensors":
    safetensors.numpy.save_file(STATE, path)
  else:
    weight_files.write_pth(path, STATE)
  assert_equal(read_weights(path), TENSORS)


def test_suffix_and_missing_file(tmp_path):
  (tmp_path / "weights.ckpt").touch()
  message = error_line(read_weights, tmp_path / "weights.ckpt")
  assert "weights.ckpt" in message and ".h5, .safetensors, .pth" in message
  assert "typo.pth" in error_line(read_weights, tmp_path / "typo.pth")


@pytest.mark.parametrize(
  "kind, convert",
  [
    ("HalfStorage", lambda x: x.astype(np.float16).tobytes()),
    ("DoubleStorage", lambda x: x.astype(np.float64).tobytes()),
    # The upper half of each float32, whose lower half is 0 here.
    ("BFloat16Storage", lambda x: b"".join(struct.pack("<f", v)[2:] for v in x.flat)),
  ],
)
def test_float_types(path, kind, convert):
  values = np.float32([[1.0, -0.5, 3.0], [0.25, 96.0, 0.0]])
  state = pickled_state({"fc.weight": pickled_tensor("0", (2, 3), (3, 1), kind=kind)})
  assert_equal(read(path, state, **{"data/0": convert(values)}), {"fc/kernel": values.T})


def test_bfloat16_of_safetensors(tmp_path):
  import ml_dtypes

  path = tmp_path / "weights.safetensors"
  values = np.float32([[1.0, -0.5, 3.0]])
  safetensors.numpy.save_file({"fc.weight": values.astype(ml_dtypes.bfloat16)}, path)
  assert_equal(read_safetensors(path), {"fc/kernel": values.T})


def test_views_of_a_storage(path):
  """A transposed tensor, and one that begins later in the same storage."""
  state = {
    "a.weight": pickled_tensor("0", (3, 1), (1, 3), size=6),
    "b.weight": pickled_tensor("0", (1, 3), (3, 1), offset=3, size=6),
  }
  expected = {"a/kernel": VALUES[:1], "b/kernel": VALUES[1:].T}
  assert_equal(read(path, pickled_state(state)), expected)


def test_plain_dict_of_parameters(path):
  """`dict(...)` around it, parameters instead of tensors: as in some published files."""
  tensor = pickled_tensor("0", (2, 3), (3, 1))
  parameter = (
    b"ctorch._utils\n_rebuild_parameter\n" + pickled((tensor, b"\x88", ORDERED_DICT)) + b"R"
  )
  state = pickled_state({"fc.weight": parameter}, start=b"}")
  assert_equal(read(path, state), {"fc/kernel": VALUES.T})


def test_what_pickle_makes_of_it(path):
  """The same structure as Python itself pickles it, with its memo, in every protocol with names.

  A pickler of our own stands for PyTorch's: storages by persistent identity, and names that it
  cannot import.
  """

  class Storage:
    pass

  def rebuild(*args):
    raise AssertionError("called")

  class Tensor:
    def __reduce__(self):
      return rebuild, (Storage(), 0, (2, 3), (3, 1), False, collections.OrderedDict())

  class Pickler(pickle._Pickler):
    dispatch = dict(pickle._Pickler.dispatch)

    def persistent_id(self, x):
      return ("storage", Pickler.kind, "0", "cpu", 6) if isinstance(x, Storage) else None

    def save_global(self, x, name=None):
      module, name = {
        rebuild: ("torch._utils", "_rebuild_tensor_v2"),
        Pickler.kind: ("torch", "FloatStorage"),
        collections.OrderedDict: ("collections", "OrderedDict"),
      }[x]
      if self.proto >= 4:
        self.save(module)
        self.save(name)
        self.write(pickle.STACK_GLOBAL)
      else:
        self.write(f"c{module}\n{name}\n".encode())
      self.memoize(x)

    def kind():
      pass

    dispatch[type(kind)] = save_global

  for protocol in 2, 3, 4, 5:
    buffer = io.BytesIO()
    Pickler(buffer, protocol).dump({"a.weight": Tensor(), "b.weight": Tensor()})
    expected = {"a/kernel": VALUES.T, "b/kernel": VALUES.T}
    assert_equal(read(path, buffer.getvalue()), expected)


# Harm


class Payload:
  """Its unpickling opens a file for writing."""

  def __init__(self, path):
    self.path = str(path)

  def __reduce__(self):
    return open, (self.path, "w")


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("place", ["alone", "value", "deep", "key"])
def test_nothing_is_executed(tmp_path, path, place, protocol):
  """Calls by GLOBAL and by STACK_GLOBAL, wherever they are."""
  made = tmp_path / "made"
  payload = Payload(made)
  content = {"alone": payload, "value": {"fc.weight": payload}, "deep": {"a": [(1, {2: payload})]},
             "key": {(payload,): 1}}[place]  # fmt: skip
  attack = pickle.dumps(content, protocol)
  error_line(read, path, attack)
  assert not made.exists()
  try:
    pickle.loads(attack)
  except TypeError:  # a file as a key
    pass
  assert made.exists()  # it would have been


SYSTEM = b"cos\nsystem\n"
OPEN = b"cio\nopen\n"


@pytest.mark.parametrize(
  "instructions",
  [
    SYSTEM + pickled(("touch made",)) + b"R.",
    b"(" + pickled("touch made") + b"ios\nsystem\n.",  # INST
    b"(" + SYSTEM + pickled("touch made") + b"o.",  # OBJ
    b"\x80\x02" + SYSTEM + pickled(("touch made",)) + b"\x81.",  # NEWOBJ
    b"\x80\x04" + pickled("os") + pickled("system") + b"\x93" + pickled(("touch made",)) + b"R.",
    # As the hooks or the state of what is allowed otherwise.
    pickled_state({}, end=SYSTEM + pickled(("touch made",)) + b"Rb"),
    REBUILD_TENSOR + pickled((SYSTEM + pickled(("touch made",)) + b"R", 0, (), ())) + b"R.",
    ORDERED_DICT[:-2] + pickled((SYSTEM,)) + b"R.",
    REBUILD_TENSOR + b"}b.",  # attributes of a function
    # Names that begin like those that are allowed.
    b"ctorch._utils\n_rebuild_tensor_v2.__globals__\n)R.",
    b"ctorch\nload\n" + pickled(("made",)) + b"R.",
    b"\x82\x01.",  # EXT1
    pickled(("storage", SYSTEM, "0", "cpu", 6)) + b"Q.",
  ],
)
def test_instructions_that_are_refused(tmp_path, path, monkeypatch, instructions):
  monkeypatch.chdir(tmp_path)
  message = error_line(read, path, instructions)
  assert str(path) in message and not (tmp_path / "made").exists()


def test_refusal_names_the_function(path):
  message = error_line(read, path, SYSTEM + pickled(("ls",)) + b"R.")
  assert "calls 'os.system'" in message and "state_dict()" in message
  # Nothing of a file gets into the terminal as it is.
  name = b"\x80\x04" + pickled("os") + pickled("sys\n\x1b[2Jtem") + b"\x93"
  assert "\x1b" not in error_line(read, path, name + pickled(("ls",)) + b"R.")
  state = pickled_state(
    {"a\n\x1b[2J.weight": pickled_tensor("0", (2, 3), (3, 1), kind="LongStorage")}
  )
  assert "\x1b" not in error_line(read, path, state, **{"data/0": bytes(48)})


def test_tensors_beyond_their_storage(path):
  for shape, strides, offset in [
    ((2, 3), (3, 1), 1),
    ((3, 3), (3, 1), 0),
    ((2, 3), (3, 2), 0),
    ((7,), (1,), 0),
    ((1,), (1,), 6),
  ]:
    tensor = pickled_tensor("0", shape, strides, offset=offset, size=6)
    assert "damaged" in error_line(read, path, pickled_state({"fc.weight": tensor}))
  for shape, strides, offset in ((-1, 3), (3, 1), 0), ((2, 3), (-3, 1), 0), ((2, 3), (3, 1), -1):
    tensor = pickled_tensor("0", shape, strides, offset=offset, size=6)
    assert "damaged" in error_line(read, path, pickled_state({"fc.weight": tensor}))


def test_storage_of_another_length(path):
  state = pickled_state({"fc.weight": pickled_tensor("0", (2, 3), (3, 1))})
  assert_equal(read(path, state), {"fc/kernel": VALUES.T})
  for content in b"", VALUES.tobytes()[:-4], VALUES.tobytes() + bytes(4), bytes(23):
    message = error_line(read, path, state, **{"data/0": content})
    assert str(path) in message and "damaged" in message
  missing = pickled_state({"fc.weight": pickled_tensor("1", (2, 3), (3, 1))})
  assert "damaged" in error_line(read, path, missing)


def test_little_that_becomes_much(path):
  """What would fill the memory or take for ever is an error at once."""
  begin = time.monotonic()
  one = functools.partial(pickled_tensor, "0", size=1000)
  for state in (
    {"fc.weight": one((2**30, 2**30), (0, 0))},  # one value, over and over
    {f"fc{i}.weight": one((1000,), (1,)) for i in range(1000)},
    {"fc.weight": one((2**30,) * 11, (0,) * 11)},
  ):
    content = {"data/0": bytes(4000)}
    assert "damaged" in error_line(read, path, pickled_state(state), **content)
  # Every tuple twice in the next: 2^200 elements, were it hashed or printed.
  nested = b")" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(200))
  for instructions in (
    b"\x80\x02}" + nested + b"K\x01s.",  # as a key
    b"\x80\x04" + nested + b"h\x01\x93.",  # as a name
    b"\x80\x02" + nested + b".",
    b"\x80\x02" + nested + b")R.",
    b"\x80\x02" + nested + b"Q.",
  ):
    error_line(read, path, instructions)
  assert time.monotonic() - begin < 10
  weight_files.write_zip(path, {"data.pkl": bytes(10**7), **MEMBERS}, zipfile.ZIP_DEFLATED)
  assert path.stat().st_size < 10**5
  assert "not of torch.save" in error_line(read_pth, path)


def test_overlapping_members(path):
  """Many entries of the zip's directory for the same bytes."""
  weight_files.write_zip(path, {f"data/{i}": bytes(1000) for i in range(3)} | {"data.pkl": b"}."})
  content = path.read_bytes()
  end = content.rindex(b"PK\x05\x06")
  start = content.index(b"PK\x01\x02")
  entry = content[start : content.index(b"PK\x01\x02", start + 4)]
  directory = content[start:end] + 50 * entry
  tail = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 54, 54, len(directory), start, 0)
  path.write_bytes(content[:start] + directory + tail)
  with zipfile.ZipFile(path) as archive:
    assert len(archive.infolist()) == 54
  assert "not of torch.save" in error_line(read_pth, path)


# Other and damaged files


def test_no_state_dict(path):
  whole = pickled_state({"model": pickled_state({})[2:-1]})
  for content in whole, b"K\x03.", pickled_state({"epoch": b"K\x03"}):
    message = error_line(read, path, content)
    assert "not a dict of tensors" in message and "state_dict()" in message


def test_other_kinds_of_files(path):
  for content in b"", b"<!DOCTYPE html>" * 99, pickle.dumps(0x1950A86A20F9469CFC6C, 2):
    path.write_bytes(content)
    message = error_line(read_pth, path)
    assert str(path) in message and "1.6" in message and "safetensors" in message
  weight_files.write_zip(path, {"readme.txt": b"hello"})
  assert "no data.pkl" in error_line(read_pth, path)
  state = pickled_state({"fc.weight": pickled_tensor("0", (2, 3), (3, 1))})
  assert "big-endian" in error_line(read, path, state, byteorder=b"big")
  state = pickled_state({"fc.weight": pickled_tensor("0", (3,), (1,), kind="LongStorage")})
  assert "fc.weight is of type int64" in error_line(read, path, state)


def test_cut_pickle(path):
  """Whole zip files around pickles that stop anywhere."""
  state = pickled_state({"fc.weight": pickled_tensor("0", (2, 3), (3, 1))}, end=b"}b")
  for size in range(len(state)):
    message = error_line(read, path, state[:size])
    assert str(path) in message and "damaged" in message


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_cut_and_overwritten_files(tmp_path, suffix):
  """The right weights, or one line; never another exception."""
  path = tmp_path / f"weights{suffix}"
  if suffix == ".pth":
    weight_files.write_pth(path, STATE)
  else:
    safetensors.numpy.save_file(STATE, path)
  content, rng, num_errors = path.read_bytes(), np.random.default_rng(0), 0
  for size in *range(0, len(content), 97), len(content) - 1:
    path.write_bytes(content[:size])
    assert str(path) in error_line(read_weights, path)
  for start in range(0, len(content) - 16, 37):
    path.write_bytes(content[:start] + rng.bytes(16) + content[start + 16 :])
    try:
      read_weights(path)
    except UserError as error:
      num_errors += 1
      assert str(path) in str(error) and "\n" not in str(error)
  assert num_errors > 10
