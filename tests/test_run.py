"""What a run writes while it trains: lines, TensorBoard events, curves and a bar."""

import contextlib
import io
import json
import struct

import numpy as np
import pytest
import tiny
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

import jaxseg.run
from jaxseg import parallel, workdirs
from jaxseg.run import Run


@contextlib.contextmanager
def open_log(workdir, step, num_steps):
  """The log of a run that goes on after a step."""
  with Run(workdir, tiny.make_config(1), tiny.INFO) as run:
    run.start(step, num_steps, "a network")
    yield run


def train_line(step, loss=0.5):
  return {
    "step": step,
    "epoch": step / 8,
    "split": "train",
    "loss": loss,
    "grad_norm": 2.0,
    "images_per_second": 100.0,
  }


def eval_line(step, miou=0.25):
  return {
    "step": step,
    "epoch": step / 8,
    "split": "test",
    "loss": 0.75,
    "pixel_accuracy": 0.5,
    "miou": miou,
    "iou": {"sky": miou, "road": None},
    "num_images": 7,
  }


def read_events(folder):
  """All events of a folder: records of length u64, checksum u32, protobuf, checksum u32."""
  events = []
  for path in sorted(folder.glob("events.out.tfevents.*")):
    data = path.read_bytes()
    while data:
      (size,) = struct.unpack("<Q", data[:8])
      events.append(Event.FromString(data[12 : 12 + size]))
      data = data[16 + size :]
  return events


def scalars(folder):
  """{(tag, step): value}"""
  return {
    (value.tag, event.step): value.simple_value
    for event in read_events(folder)
    for value in event.summary.value
    if value.HasField("simple_value")
  }


@pytest.fixture
def written(tmp_path):
  """A work directory after a few lines, and a sheet."""
  sheet = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
  Image.fromarray(sheet).save(tmp_path / "sheet.png")
  with open_log(tmp_path, 0, 20) as log:
    log.write(train_line(10))
    log.write(train_line(16, loss=0.25))
    log.write(eval_line(16), tmp_path / "sheet.png")
  return tmp_path, sheet


def test_lines(written):
  text = (written[0] / "metrics.jsonl").read_text()
  lines = [json.loads(line) for line in text.splitlines()]
  assert lines == [train_line(10), train_line(16, loss=0.25), eval_line(16)]


def test_scalars(written):
  expected = {}
  for line in (train_line(10), train_line(16, loss=0.25), eval_line(16)):
    for name, value in line.items():
      if name not in ("step", "split", "iou"):
        expected[f"{line['split']}/{name}", line["step"]] = value
  expected["test/iou/sky", 16] = 0.25  # None, a class that is nowhere, has no point
  assert scalars(written[0]) == expected


def test_sheet_is_in_the_events(written):
  path, sheet = written
  (value,) = (v for event in read_events(path) for v in event.summary.value if v.HasField("image"))
  assert value.tag == "test/predictions"
  picture = Image.open(io.BytesIO(value.image.encoded_image_string))
  np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), sheet)


def test_curves_come_with_an_evaluation(tmp_path):
  path = tmp_path / "plots" / "curves.png"
  with open_log(tmp_path, 0, 20) as log:
    log.write(train_line(1))
    assert not path.exists()
    log.write(eval_line(1))
    first = path.read_bytes()
    log.write(train_line(2, loss=0.1))
    log.write(eval_line(2, miou=0.9))
    assert path.read_bytes() != first
  assert np.asarray(Image.open(path).convert("L")).std() > 10


def test_terminal(tmp_path, capsys):
  with open_log(tmp_path, 4, 20) as log:
    for step in (6, 7, 10):  # a loss is not known after each step
      log.advance(step, 2.5, 12.25)
    log.write(eval_line(20))
    log.advance(20, 1.5, 12.25)
  error = capsys.readouterr().err
  assert "step 20 (test): mean IoU 0.2500, pixel accuracy 0.5000, loss 0.7500" in error
  last = error.replace("\r", "\n").strip().splitlines()[-1]
  assert "100%" in last and "20/20" in last and "loss 1.5000, 12.2 images/s" in last


def test_bar_says_what_takes_long(tmp_path, capsys):
  with open_log(tmp_path, 0, 20) as log:
    assert "0/20" in (said := capsys.readouterr().err) and "compiling" in said
    log.advance(20, 1.5, 12.25)
    with log.saying("evaluating"):
      assert "20/20" in (said := capsys.readouterr().err) and "evaluating" in said
  assert "loss 1.5000" in (said := capsys.readouterr().err) and "evaluating" not in said


def test_bar_starts_where_the_run_goes_on(tmp_path, capsys):
  with open_log(tmp_path, 15, 20):
    pass
  assert "15/20" in capsys.readouterr().err


def test_a_run_that_goes_on_forgets_what_came_after_its_checkpoint(written):
  path, _ = written
  with open_log(path, 12, 20) as log:
    assert workdirs.read_metrics(path) == [train_line(10)]
    log.write(train_line(16, loss=0.125))
  assert workdirs.read_metrics(path) == [train_line(10), train_line(16, loss=0.125)]
  # TensorBoard hides what it has from 13 on when it meets this mark.
  starts = [e.step for e in read_events(path) if e.HasField("session_log")]
  assert starts[-1] == 13
  assert scalars(path)["train/loss", 16] == 0.125


OTHERS = {"grad_norm": np.float32(1), "num_pixels": np.int32(9)}  # metrics of a step


def test_an_error_still_closes_the_log(tmp_path):
  with pytest.raises(RuntimeError), open_log(tmp_path, 0, 20) as log:
    log.write(train_line(3))
    raise RuntimeError
  assert scalars(tmp_path)["train/loss", 3] == 0.5


def test_the_first_line_and_the_config(tmp_path, capsys):
  with open_log(tmp_path, 0, 20):
    pass
  assert "a network" in capsys.readouterr().err
  assert json.loads((tmp_path / "config.json").read_text())["model"]["widths"] == [4, 8]


def test_data_are_found_from_elsewhere(tmp_path, monkeypatch):
  """A folder that is there is no name on the Hub."""
  monkeypatch.chdir(tmp_path)
  (tmp_path / "mine" / "cells").mkdir(parents=True)
  config = tiny.make_config(1)
  for name, folder, source, saved in (
    ("folder", "mine", "", f"{tmp_path}/mine"),
    ("huggingface", "", "mine/cells", str(tmp_path)),
    ("huggingface", "", "owner/cells", ""),
  ):
    config.data.name, config.data.data_dir, config.data.source = name, folder, source
    assert jaxseg.run.saved_form(config)["data"]["data_dir"] == saved


def test_a_work_directory_that_was_removed_is_not_made_again(tmp_path):
  with pytest.raises(FileNotFoundError, match="config.json"), open_log(tmp_path, 0, 20) as run:
    (tmp_path / "config.json").unlink()
    run.save(None, None, [], None)
  assert not list((tmp_path / "checkpoints").iterdir())


def test_other_processes_touch_nothing(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(parallel, "is_main", lambda: False)
  with open_log(tmp_path / "run", 0, 20) as run:
    run.record(1, {"loss": np.float32(1), **OTHERS}, {"step": 1, "epoch": 1}, 8)
    run.report({"step": 1, "epoch": 1}, "test", None)
    run.profile(1, (1, 2), None)
    run.save(None, None, [], None)
  assert not (tmp_path / "run").exists() and capsys.readouterr().err == ""


def test_metrics_are_read_one_step_behind_the_device(tmp_path):
  read = []

  class Loss:
    def __init__(self, value):
      self.value = value

    def __array__(self, dtype=None, copy=None):
      read.append(self.value)
      return np.array(self.value, dtype)

  with open_log(tmp_path, 0, 20) as run:
    for step, known in (1, []), (2, [1.0]), (3, [1.0, 2.0]):
      run.record(step, {"loss": Loss(float(step)), **OTHERS}, None, 8)
      assert read == known
    line = {"step": 4, "epoch": 0.5}
    run.record(4, {"loss": Loss(4.0), **OTHERS}, line, 8)
  (written,) = workdirs.read_metrics(tmp_path)
  assert written["loss"] == (1 + 2 + 3 + 4) / 4 and written["split"] == "train"


def test_batches_without_a_label_are_named_once(tmp_path, capsys):
  with open_log(tmp_path, 0, 20) as run:
    for step in range(1, 15):
      num_pixels = np.int32(0 if step % 2 else 9)  # steps 1, 3, 5, 7, 9: the fifth is step 9
      metrics = {"loss": np.float32(1), "grad_norm": np.float32(1), "num_pixels": num_pixels}
      run.record(step, metrics, {"step": step, "epoch": 1}, 8)
      said = "5 batches had no pixel with a label, the last at step 9" in capsys.readouterr().err
      assert said == (step == 9)


def test_profile(tmp_path, monkeypatch):
  calls = []
  monkeypatch.setattr(jaxseg.run.jax.profiler, "start_trace", lambda path: calls.append(path))
  monkeypatch.setattr(jaxseg.run.jax.profiler, "stop_trace", lambda: calls.append("stop"))
  with open_log(tmp_path, 0, 20) as run:
    for step in range(1, 7):
      run.profile(step, (3, 4), np.zeros(2))
      assert calls == [tmp_path / "profile", "stop"][: (step >= 3) + (step >= 5)]
