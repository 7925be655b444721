"""Published networks: torchvision's logits from torchvision's files, and what is no such file."""

import dataclasses
import hashlib
import pathlib
import zipfile

import jax
import numpy as np
import pooch
import pytest
import weight_files
from fixtures import make_torchvision_networks
from fixtures.make_torch_encoders import some
from fixtures.make_torchvision_networks import photo
from PIL import Image
from test_earlier_runs import FIXTURE
from test_main import error_of, jaxseg  # noqa: F401
from test_pretrained import server  # noqa: F401

import jaxseg as library
from jaxseg import UserError, build, public
from jaxseg.models import pretrained

FAST = {"xla_backend_optimization_level": 0}  # which would take longer than the network


CASES = [
  pytest.param(name, marks=() if name == "deeplabv3_resnet50" else pytest.mark.slow)
  for name in make_torchvision_networks.SIZES
]


@pytest.fixture(scope="module", params=CASES)
def network(request, tmp_path_factory):
  """A file as `torch.save` writes it, with the auxiliary head, and {size: (logits, labels)}."""
  state, found = make_torchvision_networks.read(request.param)
  assert any(name.startswith("aux_classifier.") for name in state)
  path = tmp_path_factory.mktemp("public") / f"{request.param}.pth"
  weight_files.write_pth(path, state)
  yield path, found
  path.unlink()  # 0.2 GB


def test_logits_and_labels_are_those_of_torchvision(network):
  path, found = network
  config, info, variables = public.read_published(path)
  model = build.build_model(config, info)
  apply = jax.jit(lambda v, x: model.apply(v, x, train=False), compiler_options=FAST)
  for size, (expected, labels) in found.items():
    logits = np.asarray(apply(variables, photo(size)[None] / np.float32(255)))
    assert logits.shape == (1, *size, 21) and expected.std() > 1
    np.testing.assert_allclose(some(logits), expected, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(logits.argmax(-1)[0], labels)
    assert len(np.unique(labels)) > 2


@pytest.mark.slow
def test_a_photo_in_one_command(jaxseg, network, tmp_path):  # noqa: F811
  """The same labels from Python, from the command and from torchvision, of an odd size."""
  path, found = network
  size, (_, expected) = next(iter(found.items()))
  pixels = photo(size)
  (tmp_path / "in").mkdir()
  Image.fromarray(pixels).save(tmp_path / "in" / "photo.png")
  flags = "--mode=predict", f"--input={tmp_path}/in", f"--output={tmp_path}/out"
  status, out, err = jaxseg(*flags, f"--model={path}")
  assert status == 0 and out.startswith("1 label map written"), err
  labels = np.asarray(Image.open(tmp_path / "out" / "photo.png"))
  np.testing.assert_array_equal(labels, expected)
  segmenter = library.load(path)
  np.testing.assert_array_equal(labels, segmenter(pixels))
  np.testing.assert_array_equal(labels, segmenter.probs(pixels).argmax(-1))
  assert segmenter.classes[15] == "person"


@pytest.mark.parametrize(
  "source, words",
  [
    ("torchvision:deeplabv3_resnet5", "no published network, no folder, .*; choose from torchv"),
    ("Torchvision:fcn-resnet50", "no published network, no folder, .*; choose from torchvision"),
    ("nowhere.pth", "no weight file nowhere.pth"),
  ],
)
def test_what_is_no_published_network(source, words):
  with pytest.raises(UserError, match=words):
    library.load(source)


def small_file(path, change=lambda state: state):
  """An FCN without its auxiliary head, whose state dict is changed."""
  state, _ = make_torchvision_networks.read("fcn_resnet50")
  state = {name: x for name, x in state.items() if not name.startswith("aux_")}
  weight_files.write_pth(path, change(state))
  return path


@pytest.mark.slow
def test_a_file_of_data_parallel_training_for_other_classes(tmp_path):
  """As torch.nn.DataParallel names tensors; the head has the classes of whoever trained it."""

  def change(state):
    state |= {name: state[name][:4] for name in ("classifier.4.weight", "classifier.4.bias")}
    return {f"module.{name}": x for name, x in state.items()}

  _, info, variables = public.read_published(small_file(tmp_path / "mine.pth", change))
  assert info.classes == ("class 0", "class 1", "class 2", "class 3")
  assert len({*info.palette}) == 4 and not public.has_names(info)
  plain = public.read_published(small_file(tmp_path / "plain.pth"))
  assert public.has_names(plain[1])
  head, whole = (v["params"].pop("head") for v in (variables, plain[2]))
  np.testing.assert_array_equal(head["kernel"], whole["kernel"][..., :4])
  jax.tree.map(np.testing.assert_array_equal, variables, plain[2])


@pytest.mark.parametrize(
  "name, change, words",
  [
    ("classifier.1.bias", lambda x: None, r"it lacks classifier\.1\.bias"),
    ("backbone.layer1.0.bn1.running_var", lambda x: None,
     r"it lacks backbone\.layer1\.0\.bn1\.running_var"),
    ("classifier.0.weight", lambda x: x[:, :9],
     r"classifier\.0\.weight is \(512, 9, 3, 3\), this one has \(512, 2048, 3, 3\)"),
    ("classifier.9.weight", lambda x: np.zeros((2, 3), np.float32),
     r"classifier\.9\.weight has no place in this one"),
    ("classifier.1.weight", lambda x: x * np.nan, r"classifier\.1\.weight holds values that are"),
  ],
)  # fmt: skip
def test_errors_name_tensors_as_the_file_does(tmp_path, name, change, words):
  def changed(state):
    state = {**state, name: change(state.get(name))}
    return {name: x for name, x in state.items() if x is not None}

  with pytest.raises(UserError, match=words):
    public.read_published(small_file(tmp_path / "a.pth", changed))


def test_weights_of_something_else(tmp_path):
  weight_files.write_pth(tmp_path / "a.pth", {"fc.weight": np.zeros((2, 3), np.float32)})
  with pytest.raises(UserError, match="of none of the networks torchvision:deeplabv3_resnet50,"):
    library.load(tmp_path / "a.pth")


def test_a_changed_file_of_the_published_name(tmp_path):
  """What its name says of its content is not so."""
  state, _ = make_torchvision_networks.read("fcn_resnet50")
  path = tmp_path / "fcn_resnet50_coco-1167a1af.pth"
  weight_files.write_pth(path, state)
  with pytest.raises(UserError, match="is damaged: it is not the file at https://download.pytorc"):
    library.load(path)


def test_without_network(monkeypatch, tmp_path):
  def fail(*_, **__):
    raise OSError("no network")

  pooch = pytest.importorskip("pooch")
  monkeypatch.setattr(pooch, "retrieve", fail)
  monkeypatch.setattr(pooch, "os_cache", lambda _: tmp_path)
  with pytest.raises(UserError, match=f"copy it to {tmp_path}, or give its path in place of the"):
    library.load("torchvision:fcn_resnet101")


@pytest.mark.parametrize(
  "flags, words",
  [
    (["--mode=predict", "--model=fcn_resnet50"], "fcn_resnet50 is no published network"),
    (["--mode=predict", "--model=a/model.stablehlo"], "model.stablehlo is an exported file: jaxs"),
    (["--mode=predict", "--model=UP.PTH"], "choose from torchvision:deeplabv3_resnet50, "),
    (["--mode=train"], "--model is for --mode=predict, evaluate, export; leave it out"),
    (["--mode=predict", "--workdir=x"], "--model is in place of --workdir: leave one of them out"),
    (["--mode=predict", "--config=configs/unet_cells.py"], "network: leave --config out of --mode"),
    (["--mode=predict"], "--mode=predict needs --input=FILE|DIR and --output=DIR"),
    (["--mode=evaluate"], "fcn_resnet50 knows no data: add --config=FILE, whose config.data is"),
    (["--mode=export"], "--mode=export of a published network needs --output=DIR"),
    (["--mode=predict", "--model=tests"], "tests is the folder of no trained run, and of no"),
  ],
)
def test_flags_that_do_not_go_with_it(jaxseg, flags, words):  # noqa: F811
  assert words in error_of(jaxseg, "--model=torchvision:fcn_resnet50", *flags)


def test_a_run_is_named_in_the_same_way(jaxseg, tmp_path):  # noqa: F811
  """Its work directory, or one of its checkpoints."""
  with zipfile.ZipFile(FIXTURE) as archive:
    archive.extractall(tmp_path)
  places = {"a": "--workdir=run", "b": "--model=run", "c": "--model=run/checkpoints/8"}
  for name, flag in places.items():
    flags = f"--input={tmp_path}/photos", f"--output={tmp_path}/{name}"
    flag = flag.replace("=", f"={tmp_path}/")
    status, out, err = jaxseg("--mode=predict", flag, *flags)
    assert status == 0 and out.startswith("3 label maps written"), err
  for label_map in (tmp_path / "a").glob("*.png"):
    for name in "bc":
      assert (tmp_path / name / label_map.name).read_bytes() == label_map.read_bytes()


def test_names_tell_the_hash():
  for name, network in public.PUBLISHED.items():
    digits = network.download.hash.removeprefix("sha256:")
    assert network.download.url.endswith(f"{name.partition(':')[2]}_coco-{digits}.pth")
  for path in ("runs/unet_cells", "runs/2026-01-01T10:30", "10:30", r"C:\runs\a", "c:/runs"):
    assert not public.is_published(path)
  assert public.is_published("torchvision:fcn_resnet50") and public.is_published("torchvision:none")
  assert pretrained.READERS.keys() >= {".pth", ".safetensors"}


def test_a_path_may_be_a_name(monkeypatch):
  def fetch(download, remedy):
    raise UserError("no network")

  monkeypatch.setattr(public.pretrained, "fetch", fetch)
  with pytest.raises(UserError, match="^no network$"):
    public.read_published(pathlib.Path("torchvision:fcn_resnet50"))


@pytest.mark.slow
def test_a_name_is_downloaded_once(server, network, monkeypatch, tmp_path):  # noqa: F811
  """The server's file, whose name tells its hash; the second time from the cache, offline."""
  path, found = network
  name = f"torchvision:{path.stem}"
  digits = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
  file = f"weights-{digits}.pth"
  (tmp_path / "served" / file).symlink_to(path)
  address = f"http://127.0.0.1:{server.server_port}/{file}"
  download = pretrained.Download(address, f"sha256:{digits}")
  monkeypatch.setattr(pooch, "os_cache", lambda _: tmp_path / "cache")
  published = dataclasses.replace(public.PUBLISHED[name], download=download)
  monkeypatch.setitem(public.PUBLISHED, name, published)
  (size, (_, labels)), *_ = found.items()
  np.testing.assert_array_equal(library.load(name)(photo(size)), labels)
  server.shutdown()
  assert library.load(name).classes[15] == "person" and server.requested == [f"/{file}"]
