"""A folder in one go: what is said at the end, and what stops it."""

import dataclasses
import os
import pathlib
import signal

import numpy as np
import pytest
from PIL import Image
from test_predict_files import RGB, files, predict
from tiny import error_of

import jaxseg
from configs import default
from jaxseg import prediction
from jaxseg.predict_files import Outcome
from jaxseg.segmenter import Segmenter

SEGMENTER = Segmenter(RGB, predict, config=default.get_config(), variables={"a": np.ones(3)})


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """Three images and a note, predicted as in `test_predict_files`."""
  monkeypatch.setattr(prediction, "load_run", lambda *_: SEGMENTER)
  (tmp_path / "in").mkdir()
  for i, name in enumerate(("a.png", "b.jpg", "c.png")):
    Image.fromarray(np.full((8, 6 + i, 3), 40 * i, np.uint8)).save(tmp_path / "in" / name)
  (tmp_path / "in" / "notes.txt").touch()
  return tmp_path / "in"


def run(folder, capfd, **options):
  capfd.readouterr()
  jaxseg.predict_folder("run", folder, folder.parent / "out", **options)
  return capfd.readouterr()


def test_a_folder(folder, tmp_path, capfd):
  out, err = run(folder, capfd)
  place = f"label maps: {tmp_path}/out   overlays: {tmp_path}/out/overlays\n"
  assert out == f"3 label maps written   {place}"
  assert err.endswith("not read: 1 .txt\n")
  names = ["a.png", "b.png", "c.png"]
  assert files(tmp_path / "out") == sorted(
    [*names, *(f"overlays/{name}" for name in names), "overlays/legend.png"]
  )
  out, _ = run(folder, capfd)
  assert out == f"0 label maps written, 3 were there (--overwrite makes them again)   {place}"
  out, _ = run(folder, capfd, overwrite=True)
  assert out == f"3 label maps written   {place}"


def test_bad_files(folder, tmp_path, capfd):
  for i in range(11):
    (folder / f"bad{i:02}\n.png").touch()
  message = error_of(jaxseg.predict_folder, "run", folder, tmp_path / "out")
  assert message.startswith("11 of 14 images failed: ") and message.count("/bad") == 10
  assert message.endswith(", ... (11 in all)")
  out, err = capfd.readouterr()
  assert out.startswith("3 label maps written ") and len(out.splitlines()) == 1
  assert len([line for line in err.splitlines() if line.startswith("failed: ")]) == 11
  assert files(tmp_path / "out")[:3] == ["a.png", "b.png", "c.png"]
  for bad in folder.glob("bad*"):  # the remedy
    bad.unlink()
  out, _ = run(folder, capfd)
  assert out.startswith("0 label maps written, 3 were there ")


def test_one_bad_file_is_one_line(folder, tmp_path, capfd):
  (folder / "bad.png").touch()
  message = error_of(jaxseg.predict_folder, "run", folder / "bad.png", tmp_path / "out")
  assert message.startswith(f"{folder}/bad.png: cannot be decoded")
  assert "failed" not in capfd.readouterr().err


def test_a_full_disk(folder, tmp_path, capfd, monkeypatch):
  write = pathlib.Path.write_bytes

  def fail(self, data):
    if (tmp_path / "out" / "a.png").exists():
      raise OSError(28, "No space left on device")  # as `write` does, without a name
    return write(self, data)

  monkeypatch.setattr(pathlib.Path, "write_bytes", fail)
  message = error_of(jaxseg.predict_folder, "run", folder, tmp_path / "out")
  assert message.startswith(f"{tmp_path}/out/") and "png: No space left on device; " in message
  assert "start again" in message
  assert capfd.readouterr().out.startswith("1 label map written ")
  monkeypatch.undo()
  monkeypatch.setattr(prediction, "load_run", lambda *_: SEGMENTER)
  out, _ = run(folder, capfd)
  assert out.startswith("2 label maps written, 1 were there ")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal(folder, tmp_path, capfd, monkeypatch, number):
  before = signal.getsignal(signal.SIGTERM)

  def slow(examples, **options):
    for i, found in enumerate(predict(examples, **options)):
      if i == 2:
        os.kill(os.getpid(), number)
      yield found

  stopped = dataclasses.replace(SEGMENTER, predict=slow)
  monkeypatch.setattr(prediction, "load_run", lambda *_: stopped)
  with pytest.raises(SystemExit if number == signal.SIGTERM else KeyboardInterrupt) as stop:
    jaxseg.predict_folder("run", folder, tmp_path / "out")
  assert number == signal.SIGINT or stop.value.code == 143
  err = capfd.readouterr().err
  assert err.endswith("stopped: 2 label maps are written; start again for the rest\n")
  assert signal.getsignal(signal.SIGTERM) == before
  monkeypatch.setattr(prediction, "load_run", lambda *_: SEGMENTER)
  out, _ = run(folder, capfd)
  assert out.startswith("1 label map written, 2 were there ")


def test_other_networks_and_options_have_other_marks():
  def change(**values):
    config = default.get_config()
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in values.items()})
    return dataclasses.replace(SEGMENTER, config=config)

  same = change(data__num_threads=7, train__batch_size=3, predict__temperature=1.5)
  assert prediction.mark(same) == prediction.mark(SEGMENTER)
  weights = {"a": np.array([1, 1, np.nextafter(1, 2)])}
  palette = ((1, 1, 1), *RGB.palette[1:])
  others = [
    SEGMENTER,
    dataclasses.replace(SEGMENTER, variables=weights),
    dataclasses.replace(SEGMENTER, info=dataclasses.replace(RGB, palette=palette)),
    change(predict__tta="flip"),
    change(data__image_size=99),
    change(train__precision="bfloat16"),
  ]
  marks = {prediction.mark(other) for other in others}
  assert len(marks) == len(others) and set(map(len, marks)) == {16}


def test_a_line_for_replaced_and_for_kept_files(folder, tmp_path, capfd, monkeypatch):
  run(folder, capfd)
  Image.new("L", (6, 8)).save(tmp_path / "out" / "a.png")  # by hand
  other = dataclasses.replace(SEGMENTER, variables={"a": np.zeros(3)})
  monkeypatch.setattr(prediction, "load_run", lambda *_: other)
  out, err = run(folder, capfd)
  assert out.startswith("2 label maps written  ")
  assert "2 of the label maps replace one of another network" in err
  assert f"1 files in {tmp_path}/out are called like label maps" in err and "--overwrite" in err


def test_processes_that_saw_other_files_say_so():
  outcomes = [Outcome(written=2, seen=[4, 99]), Outcome(written=2, seen=(4, 99))]
  assert prediction.conclude(outcomes, True) == []
  outcomes[0].seen = [5, 99]
  (text,) = prediction.conclude(outcomes, True)
  assert "start again" in text
  outcomes[0].error = "disk full"  # then it did not see all
  (text,) = prediction.conclude(outcomes, True)
  assert text.startswith("disk full; ")


def test_control_characters_are_escaped():
  assert prediction.printable("a\x1b[2J\nb\udcff é") == "a\\x1b[2J\\nb\\udcff é"
