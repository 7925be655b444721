"""Upload to and download from a stand-in for the Hugging Face Hub, by Hugging Face's own client."""

import os
import pathlib
import subprocess
import sys

import hub_server
import numpy as np
import pytest
import test_packing
import tiny
from PIL import Image
from test_main import jaxseg as jaxseg_command  # noqa: F401
from test_packing import contents, copy, error_of, folder, photo, run  # noqa: F401

import jaxseg
from jaxseg import hub as client
from jaxseg import packed, settings

huggingface_hub = pytest.importorskip("huggingface_hub", reason="pip install -e '.[hub]'")


@pytest.fixture
def hub(monkeypatch, tmp_path):
  """A Hub that this process asks, with an empty cache."""
  from huggingface_hub import constants

  with hub_server.running() as server:
    url = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, server.endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
    monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield server


def run_hf(hub, home, *arguments):
  """The command `hf`, as a user types it after logging in."""
  environ = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "HF_TOKEN": "hf_secret"}
  environ |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1"}
  program = [sys.executable, "-m", "huggingface_hub.cli.hf", *map(str, arguments)]
  subprocess.run(program, env={**os.environ, **environ}, check=True, capture_output=True)


def test_up_and_down(hub, folder, tmp_path):  # noqa: F811
  """What `hf upload` has sent is what `load` reads, to the bit; the second time from the cache."""
  run_hf(hub, tmp_path / "home", "upload", "me/roads", folder)
  assert hub.repositories["me/roads"]["main"] == contents(folder)
  segmenter = jaxseg.load("hf:me/roads")
  np.testing.assert_array_equal(segmenter.probs(photo()), jaxseg.load(folder).probs(photo()))
  place = packed.find("hf:me/roads")
  assert contents(place) == contents(folder)
  hub.asked.clear()
  jaxseg.load("hf:me/roads")
  assert not [path for path in hub.asked if "/resolve/" in path]


def test_only_files_of_a_packed_network_come(hub, folder):  # noqa: F811
  others = {"x.bin": b"x", "a/config.json": b"{}", "code.py": b""}
  hub.commit("me/roads", {**contents(folder), **others})
  place = packed.find("hf:me/roads")
  assert contents(place) == contents(folder)
  assert not [path for path in hub.asked if "x.bin" in path or "/a/" in path or "code" in path]


def test_a_revision(hub, folder, copy):  # noqa: F811
  test_packing.edit_json(copy / "config.json", step=1)
  hub.commit("me/roads", contents(copy), "v1")
  hub.commit("me/roads", contents(folder))
  step = jaxseg.load(folder).step
  assert [jaxseg.load(f"hf:me/roads{at}").step for at in ("@v1", "", "@main")] == [1, step, step]
  commit = hub_server.commit_of(contents(copy))
  assert jaxseg.load(f"hf:me/roads@{commit}").step == 1


def test_offline_from_the_cache(hub, folder, monkeypatch):  # noqa: F811
  hub.commit("me/roads", contents(folder))
  labels = jaxseg.load("hf:me/roads")(photo())
  hub.refuse["me/roads"] = 500, ""
  np.testing.assert_array_equal(jaxseg.load("hf:me/roads")(photo()), labels)
  hub.asked.clear()
  monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
  np.testing.assert_array_equal(jaxseg.load("hf:me/roads")(photo()), labels)
  assert not hub.asked
  message = error_of(jaxseg.load, "hf:me/cars")
  assert f"not in the cache {huggingface_hub.constants.HF_HUB_CACHE}, and {hub.endpoint}" in message
  assert "go online, or give the path of a copied folder" in message


def test_nobody_answers(hub, monkeypatch):
  monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
  message = error_of(jaxseg.load, "hf:me/roads")
  assert "http://127.0.0.1:9 cannot be reached (no network," in message


@pytest.mark.parametrize(
  "source, words",
  [
    ("hf:me/none", "has no me/none that you may read; correct the name, or log in with `hf auth"),
    ("hf:me/roads@v9", "me/roads has no revision v9; correct it"),
    ("hf:me/gated", "its owner has to let you read it; ask for that at http://127"),
    ("hf:me/private", "answers 401; log in with `hf auth login`"),
    ("hf:me/forbidden", "answers 403; log in with `hf auth login`"),
    ("hf:me/broken", "answers 500; try again later"),
    ("hf:me/empty", "is no network that jaxseg has packed: correct the name"),
    ("hf:me/other", "is no network that jaxseg has packed: correct the name"),
    ("hf:me/other@main", "hf download me/other --revision=main --local-dir=DIR, then"),
    ("hf:roads", "is no name on the Hub; write hf:OWNER/NAME or hf:OWNER/NAME@COMMIT"),
    ("hf:me/roads@", "is no name on the Hub; write hf:OWNER/NAME"),
    ("hf:../roads", "cannot be a name there; correct it"),
    ("hf:me/a--b", "cannot be a name there; correct it"),
    ("hf://me/roads", "is no name on the Hub; write hf:OWNER/NAME"),
  ],
)
def test_what_cannot_be_read(hub, source, words):
  hub.commit("me/roads", {"README.md": b""})
  hub.commit("me/empty", {"a.txt": b"a"})
  hub.commit("me/other", {"config.json": b'{"model_type": "bert"}', "model.safetensors": b"x"})
  hub.refuse |= {"me/gated": (403, "GatedRepo"), "me/private": (401, ""), "me/broken": (500, "")}
  hub.refuse |= {"me/forbidden": (403, "")}
  message = error_of(jaxseg.load, source)
  assert message.startswith(source) and words in message and len(message) < 300


def test_a_damaged_download(hub, folder):  # noqa: F811
  hub.commit("me/roads", {**contents(folder), "model.safetensors": b"x" * 100})
  message = error_of(jaxseg.load, "hf:me/roads")
  assert "model.safetensors is damaged, or of another network: its SHA-256" in message


def test_without_the_package(monkeypatch):
  monkeypatch.setitem(sys.modules, "huggingface_hub", None)
  message = error_of(jaxseg.load, "hf:me/roads")
  assert message == "hf:me/roads needs huggingface_hub: pip install -e '.[hub]'"


@pytest.mark.slow
def test_the_commands(hub, folder, jaxseg_command, tmp_path, monkeypatch):  # noqa: F811
  """A name on the Hub stands for a work directory and for a model; its cache stays as it is."""
  hub.commit("me/roads", contents(folder))
  monkeypatch.chdir(tmp_path)
  Image.fromarray(photo()).save("a.png")
  for flag in ("--model", "--workdir"):
    paths = f"{flag}=hf:me/roads", "--input=a.png", f"--output=out{flag}"
    status, _, err = jaxseg_command("--mode=predict", *paths)
    assert status == 0, err
    np.testing.assert_array_equal(Image.open(f"out{flag}/a.png"), jaxseg.load(folder)(photo()))
  files = sorted(pathlib.Path("cache").rglob("*"))
  assert "unet: " in jaxseg_command("--mode=summary", "--workdir=hf:me/roads")[1]
  status, _, err = jaxseg_command("--mode=evaluate", "--workdir=hf:me/roads")
  assert status == 1 and "config.data.data_dir is empty" in err
  assert jaxseg_command("--mode=export", "--workdir=hf:me/roads", "--output=e")[0] == 0
  status, _, err = jaxseg_command("--workdir=hf:me/roads")
  assert status == 1 and "stays as it is: train in another --workdir" in err
  assert sorted(pathlib.Path("cache").rglob("*")) == files


@pytest.mark.slow
@pytest.mark.usefixtures("photos")
def test_a_run_starts_from_it(hub, folder, tmp_path, capsys):  # noqa: F811
  hub.commit("me/roads", contents(folder))
  jaxseg.train(tiny.make_config(1, model__init_from="hf:me/roads"), tmp_path / "run")
  assert "from hf:me/roads, step" in " ".join(capsys.readouterr().err.split())
  assert settings.read_run(tmp_path / "run").model.init_from == "hf:me/roads"


def test_the_card_is_one_of_the_hub(folder):  # noqa: F811
  """Its own reader understands it, and with a licence as the comment has it, too."""
  text = (folder / "README.md").read_text()
  data = huggingface_hub.ModelCard(text).data
  assert (data.library_name, data.pipeline_tag) == ("jaxseg", "image-segmentation")
  assert data.license is None
  data = huggingface_hub.ModelCard(text.replace("\n# license", "\nlicense")).data
  assert data.license == "apache-2.0"


def test_names():
  assert client.is_name("hf:a/b") and not client.is_name("runs/hf:a")
  assert not client.is_name(pathlib.Path("hf"))
