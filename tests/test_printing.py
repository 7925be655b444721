"""What names of files and classes hold reaches no terminal as it is."""

import ast
import io
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import jaxseg
from configs import default
from jaxseg import printing

ROOT = pathlib.Path(__file__).parents[1]
# Clears the screen, rings, turns the direction of writing, breaks the line, sets the title.
NASTY = "a\x1b[2J\x07\u202eb\nc\x1b]0;t\x9c"
SHOWN = "a\\x1b[2J\\x07\\u202eb\\nc\\x1b]0;t\\x9c"


@pytest.mark.parametrize(
  "text, expected",
  [
    (NASTY, SHOWN),
    ("tab\there\r", "tab\\there\\r"),
    ("\u2028\u2066\u200f\ufeff", "\\u2028\\u2066\\u200f\\ufeff"),
    ("Zürich 東京 naïve\u3000\u00a0~", "Zürich 東京 naïve\u3000\u00a0~"),
    ("\udcff", "\\udcff"),
    ("\x7f\x00", "\\x7f\\x00"),
  ],
)
def test_printable(text, expected):
  assert printing.printable(text) == expected


def test_say_needs_no_letter_that_the_stream_lacks():
  stream = io.TextIOWrapper(raw := io.BytesIO(), encoding="ascii")
  printing.say("Zürich\n", stream)
  stream.flush()
  assert raw.getvalue() == b"Z\\xfcrich\\n\n"


def test_values_are_shown_in_short():
  for value in 10**5000, "x" * 5000, (1,) * 5000:
    assert len(printing.shown(value)) <= 100
  assert printing.shown((1, "a\n")) == "(1, 'a\\n')"


def test_a_list_in_itself_is_shown():
  nested = []
  for _ in range(100_000):
    nested = [nested]
  assert "list" in printing.shown(nested)


def test_nothing_else_prints_text_that_is_not_its_own():
  """`print` gets constants, help, and JSON; all other text leaves through `say` and `tell`."""
  allowed = {"main.py": 5, "start.py": 1, "each_seed.py": 1, "check_data.py": 1, "printing.py": 1,
             "interrupts.py": 2}  # fmt: skip
  found = {}
  for file in sorted((ROOT / "jaxseg").rglob("*.py")):
    calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    if number := sum(getattr(call.func, "id", "") == "print" for call in calls):
      found[file.name] = number
  assert found == allowed


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """(work directory, folder) of a run on files and classes whose names steer terminals."""
  folder, workdir = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("run")
  rng = np.random.default_rng(0)
  for part in ("images", "masks"):
    (folder / part).mkdir()
  for i in range(4):
    mask = np.zeros((32, 32), np.uint8)
    mask[:, 8 * (i + 1) :] = 255
    pixels = rng.integers(0, 256, (32, 32, 4), dtype=np.uint8)  # transparency gives a note
    Image.fromarray(pixels).save(folder / "images" / f"{NASTY}{i}.png")
    Image.fromarray(mask).save(folder / "masks" / f"{NASTY}{i}.png")
  config = default.get_config()
  config.update_from_flattened_dict({
    "data.name": "folder", "data.data_dir": str(folder), "data.classes": ("ground\x1b[2J", "b"),
    "data.mask_values": (0, 255), "data.train_split": "all", "data.eval_split": "all",
    "data.image_size": 32, "model.widths": (4,), "train.batch_size": 8, "train.num_epochs": 2.0,
    "eval.num_samples": 0,
  })  # fmt: skip
  jaxseg.train(config, workdir)
  return workdir, folder


def output_of(*arguments, status=0):
  """Standard output and error of the command, without the moves of progress bars."""
  command = [sys.executable, "-m", "jaxseg.main", *map(str, arguments)]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=300, check=False)
  text = (done.stdout + done.stderr).decode()
  assert done.returncode == status, text[-2000:]
  left = text.replace("\x1b[A", "").replace("\r", "").replace("\n", "")
  assert "Traceback" not in text
  assert left == printing.printable(left)
  return text


@pytest.mark.slow
def test_predict_prints_names_escaped(run, tmp_path):
  workdir, folder = run
  (folder / "images" / f"x.{NASTY}").write_text("no image")
  output = tmp_path / NASTY
  flags = "--mode=predict", f"--workdir={workdir}", f"--output={output}"
  text = output_of(*flags, f"--input={folder}/images")
  assert f"{SHOWN}0.png: transparency (alpha) is not used" in text
  assert f"not read: 1 .{SHOWN}\n" in text and f"label maps: {tmp_path}/{SHOWN} " in text
  assert (output / f"{NASTY}0.png").is_file()
  text = output_of(*flags, f"--input={folder}/{NASTY}", status=1)
  assert text == f"error: no file or folder {folder}/{SHOWN}; correct --input\n"


@pytest.mark.slow
def test_evaluate_prints_names_escaped(run):
  text = output_of("--mode=evaluate", f"--workdir={run[0]}")
  assert "\nground\\x1b[2J " in text
  assert json.loads(text[text.index("{") : text.rindex("}") + 1])["iou"].keys() == {
    "ground\x1b[2J", "b"
  }  # fmt: skip


@pytest.mark.slow
def test_check_data_prints_names_escaped(run):
  workdir, folder = run
  broken = folder / "images" / f"{NASTY}9.png"
  broken.write_bytes(b"no image")
  text = output_of("--mode=check_data", f"--workdir={workdir}", status=1)
  broken.unlink()  # the other tests read this folder, too
  assert f"{SHOWN}9.png" in text and "ground\\x1b[2J" in text
  page = (workdir / "plots" / "data.html").read_text()
  assert "\x1b" not in page and "\x07" not in page and "\u202e" not in page and SHOWN in page


@pytest.mark.slow
def test_messages_about_values_are_one_line(run):
  for flag in ("--config.data.images", "--config"):
    text = output_of(f"--workdir={run[0]}", f"{flag}={NASTY}", status=1)
    assert text.startswith("error: ") and text.count("\n") == 1, text
