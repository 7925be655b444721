"""Two real processes predict and evaluate as one does, killed in the middle or not."""

import functools
import json
import re
import signal
import time

import command
import numpy as np
import pytest
import tifffile
from PIL import Image
from test_multiprocess import free_port

NUM_IMAGES = 60
VALUES = {
  "data.name": "folder",
  "data.train_split": "all",
  "data.eval_split": "all",
  "data.num_folds": 0,
  "data.classes": "dark,bright",
  "data.channels": 1,
  "data.image_size": 32,
  "data.fit": "crop",
  "model.widths": "(4,8)",
  "train.batch_size": 4,
  "train.num_epochs": 1,
  "train.eval_every_epochs": 100,
  "eval.boundary_f1": True,
  "eval.num_samples": 0,
}


def start_two(workdir, *arguments):
  port = str(free_port())
  environ = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
  start = functools.partial(command.start, None, workdir, {}, *arguments, **environ)
  return [start(RANK=rank) for rank in "01"]


def files(folder):
  return {
    str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()
  }


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  """Folder of 13 images and masks of several sizes."""
  folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
  for name in ("images", "masks"):
    (folder / name).mkdir()
  for i in range(13):
    mask = (rng.random((30 + i, 40 - i)) < 0.4).astype(np.uint8)
    image = (mask * 90 + rng.integers(0, 160, mask.shape)).astype(np.uint8)
    Image.fromarray(image).save(folder / "images" / f"{i:02}.png")
    Image.fromarray(mask).save(folder / "masks" / f"{i:02}.png")
  return folder


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
  """Work directory of a run."""
  workdir = tmp_path_factory.mktemp("run")
  command.finish(command.start("unet_folder", workdir, {**VALUES, "data.data_dir": data,
                                                        "data.mask_values": "()"}))  # fmt: skip
  return workdir


@pytest.fixture(scope="module")
def images(tmp_path_factory):
  """Folder of images in sub-folders, one of which is bad."""
  folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(1)
  for i in range(NUM_IMAGES):
    path = folder / ("ab"[i % 2] if i % 3 else "") / f"{i:03}.png"
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (90 + i % 5, 100), dtype=np.uint8)).save(path)
  (folder / "a" / "bad.png").write_bytes(b"no image")
  return folder


@pytest.fixture(scope="module")
def alone(run, images, tmp_path_factory):
  """What one process writes."""
  output = tmp_path_factory.mktemp("alone")
  flags = "--mode=predict", f"--input={images}", f"--output={output}"
  process = command.start(None, run, {}, *flags)
  text = process.communicate(timeout=300)[0]
  assert process.returncode == 1 and f"{NUM_IMAGES} label maps written" in text, text
  found = files(output)
  assert len(found) == 2 * NUM_IMAGES + 1
  return found


@pytest.mark.slow
def test_two_processes_predict_as_one_does(run, images, alone, tmp_path):
  flags = "--mode=predict", f"--input={images}", f"--output={tmp_path / 'out'}"
  first, second = start_two(run, *flags)
  texts = [process.communicate(timeout=300)[0] for process in (first, second)]
  assert [first.returncode, second.returncode] == [1, 1], texts
  assert f"{NUM_IMAGES} label maps written  " in texts[0]
  assert f"error: 1 of {NUM_IMAGES + 1} images failed: {images}/a/bad.png\n" in texts[0]
  assert "written" not in texts[1] and "error" not in texts[1]
  assert sum(text.count("failed: ") for text in texts) == 2  # a line, and the summary
  assert files(tmp_path / "out") == alone


def wait_for_outputs(output, pattern, count, processes):
  """Returns when there are so many files; the processes have to be running until then."""
  deadline = time.monotonic() + 120
  while len(list(output.glob(pattern))) < count:
    assert time.monotonic() < deadline and {process.poll() for process in processes} == {None}
    time.sleep(0.002)


@pytest.mark.slow
def test_two_processes_that_are_killed_go_on(run, images, alone, tmp_path):
  output = tmp_path / "out"
  flags = "--mode=predict", f"--input={images}", f"--output={output}"
  processes = start_two(run, *flags)
  wait_for_outputs(output, "**/[!.]*.png", 8, processes)  # the legend, and some pairs
  for process in processes:
    process.kill()
  for process in processes:
    process.communicate()
  there = {name: data for name, data in files(output).items() if "/." not in f"/{name}"}
  assert 8 <= len(there) < len(alone) - 8
  assert there.items() <= alone.items()  # each is whole
  # Another number of processes goes on as well.
  process = command.start(None, run, {}, *flags)
  text = process.communicate(timeout=300)[0]
  num_there = len([name for name in there if not name.startswith("overlays/")])
  assert f"{NUM_IMAGES - num_there} label maps written, {num_there} were there" in text
  assert files(output) == alone


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [(0, 1), (0,), (1,)], ids=str)
def test_two_processes_that_are_stopped_say_so(run, images, alone, tmp_path, stopped):
  output = tmp_path / "out"
  flags = "--mode=predict", f"--input={images}", f"--output={output}"
  processes = start_two(run, *flags)
  wait_for_outputs(output, "*.png", 2, processes)
  for number in stopped:
    processes[number].send_signal(signal.SIGINT)
  texts = [process.communicate(timeout=30)[0] for process in processes]
  statuses = [130 if number in stopped else 1 for number in (0, 1)]
  assert [process.returncode for process in processes] == statuses, texts
  for number, text in enumerate(texts):
    assert "Traceback" not in text and "stack trace" not in text
    if number in stopped:
      assert text.count("stopped: ") == 1 and "label maps are written by this process" in text
    else:
      last = text.splitlines()[-1]  # by whom of the threads of that process comes first
      assert re.fullmatch(f"error: process {stopped[0]} ended: (stopped|interrupted)", last), text
  command.start(None, run, {}, *flags).communicate(timeout=300)
  assert files(output) == alone


@pytest.mark.slow
def test_two_processes_evaluate_as_one_does(run, data):
  command.finish(command.start(None, run, {}, "--mode=evaluate"))
  expected = json.loads((run / "evaluation.json").read_text())
  (run / "evaluation.json").unlink()
  command.finish(*start_two(run, "--mode=evaluate"))
  assert expected["num_images"] == 13
  assert json.loads((run / "evaluation.json").read_text()) == expected
  # What one of them cannot read ends both.
  path = data / "images" / "03.png"
  whole = path.read_bytes()
  path.write_bytes(whole[:200])
  processes = start_two(run, "--mode=evaluate")
  texts = [process.communicate(timeout=100)[0] for process in processes]
  path.write_bytes(whole)
  assert [process.returncode for process in processes] == [1, 1]
  for text, prefix in zip(texts, ("process 1: ", ""), strict=True):
    assert text.splitlines()[-1].startswith(f"error: {prefix}{path}: cannot be decoded"), text


LARGE = """
from configs import unet_cells
from jaxseg.data import windows

def get_config():
  windows.LARGE = 10_000
  return unet_cells.get_config()
"""


@pytest.fixture
def large(run, data, tmp_path):
  """(options of `start_two`, an image that counts as large, the offsets of its rows of tiles)."""
  (tmp_path / "config.py").write_text(LARGE)
  values = {**VALUES, "data.data_dir": data, "predict.tile": 160}
  flags = [f"--config={tmp_path / 'config.py'}"]
  flags += [f"--config.{key}={value}" for key, value in values.items()]
  image, path = np.random.default_rng(0).integers(0, 256, (900, 700), np.uint8), tmp_path / "a.tif"
  tifffile.imwrite(path, image, tile=(64, 64), compression="zlib")
  with tifffile.TiffFile(path) as tif:
    offsets = tif.pages.first.dataoffsets[::11]
  flags += ["--mode=predict", f"--input={path}", f"--output={tmp_path / 'out'}"]
  return flags, path, offsets


@pytest.mark.slow
def test_a_damaged_row_of_the_second_process(run, large, tmp_path):
  """The first does not wait for it for ever, and both end with a line."""
  flags, path, offsets = large
  whole = path.read_bytes()
  path.write_bytes(whole[: offsets[3]] + b"\xff" * 99 + whole[offsets[3] + 99 :])
  processes = start_two(run, *flags)
  texts = [process.communicate(timeout=120)[0] for process in processes]
  assert [process.returncode for process in processes] == [1, 1], texts
  error = f"process 1: {path}: cannot be decoded"
  assert texts[0].splitlines()[-1].startswith(f"error: {error}"), texts
  assert "error" not in texts[1]
  path.write_bytes(whole)
  processes = start_two(run, *flags)
  texts = [process.communicate(timeout=120)[0] for process in processes]
  assert [process.returncode for process in processes] == [0, 0], texts
  assert "\n1 label map written " in texts[0]  # not one for each process
  assert {x.name for x in (tmp_path / "out").iterdir()} == {"a.tif", "overlays"}
