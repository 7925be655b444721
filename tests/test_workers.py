"""Batches from worker processes: those of one process, bit for bit, and nothing stays behind."""

import collections.abc
import itertools
import json
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import warnings

import chex
import command
import numpy as np
import pytest
import tiny
from encoders import RGB, encode
from test_end_to_end import NUM_STEPS, VALUES, read_metrics, saved_steps
from tiny import error_of

from jaxseg import DataWarning
from jaxseg.data.decode import ImageFormat
from jaxseg.data.encoded import Encoded
from jaxseg.data.input_pipeline import Cached, Sampling, train_batches
from jaxseg.data.labels import LabelMap

OPTIONS = {"size": 16, "fit": "crop", "batch_size": 4, "seed": 3, "cache_mb": 1, "num_threads": 1}


def photos():
  return tiny.load_photos("train", "", 0, 0)[1]


def take(batches, num):
  return list(itertools.islice(batches, num))


def assert_same(found, expected):
  assert len(found) == len(expected)
  for a, b in zip(found, expected, strict=True):
    assert a.keys() == b.keys()
    for name in a:
      assert type(a[name]) is np.ndarray and a[name].dtype == b[name].dtype
      np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.slow
def test_batches_are_those_of_threads_and_go_on_anywhere():
  sampling = Sampling(0.5, (1,), 0.5, [[0, 1, 2], [3, 4]])
  options = {**OPTIONS, "instances": True, "sampling": sampling, "process": (1, 2)}
  expected = take(train_batches(photos(), **options), 24)
  workers = train_batches(photos(), num_workers=2, **options)
  assert_same(take(workers, 11), expected[:11])
  threads = train_batches(photos(), **options)
  threads.set_state(json.loads(json.dumps(workers.get_state())))
  assert_same(take(threads, 6), expected[11:17])
  workers.set_state(threads.get_state())
  assert not multiprocessing.active_children()
  assert_same(take(workers, 7), expected[17:])
  assert workers.get_state() == {"next_index": 24}
  workers.close()
  assert not multiprocessing.active_children()


@pytest.mark.slow
def test_errors_and_notes_of_workers(tmp_path):
  """A damaged file is named as by threads; what is not used of files is said once, not by each."""
  mask, clear = encode(np.zeros((48, 64), np.uint8)), np.full((48, 64, 1), 7, np.uint8)
  image = encode(np.concatenate([RGB, clear], axis=-1))
  damaged = tmp_path / "damaged.png"
  damaged.write_bytes(image[: len(image) // 2])

  def source_of(num):
    images = [*[image] * num, damaged]
    records = [{"image": x, "mask": mask, "name": f"{i}.png"} for i, x in enumerate(images)]
    records[-1]["where"] = str(damaged)
    return Encoded(records, ImageFormat(3), LabelMap({0: 0}))

  messages, notes = [], []
  for num_workers in 0, 2:
    batches = train_batches(source_of(30), num_workers=num_workers, **OPTIONS)
    with warnings.catch_warnings(record=True) as said:
      warnings.simplefilter("always")
      messages.append(error_of(lambda x: take(x, 40), batches))
    notes.append([str(x.message).partition(": ")[2] for x in said])
    assert {x.category for x in said} == {DataWarning}
    batches.close()
  assert messages[0] == messages[1] and messages[0].startswith(f"{damaged}: cannot be decoded")
  assert notes[0] == notes[1] == ["transparency (alpha) is not used (said once)"]
  assert not multiprocessing.active_children()


@pytest.mark.slow
def test_a_worker_that_is_killed():
  batches = train_batches(photos(), num_workers=2, **OPTIONS)
  next(batches)
  for worker in multiprocessing.active_children():
    os.kill(worker.pid, signal.SIGKILL)
  message = error_of(lambda x: take(x, 100), batches)
  assert "exit code -9" in message and "`num_workers`" in message
  batches.close()
  assert not multiprocessing.active_children()


class Refused(Exception):
  """As of many a library: a copy would need both arguments, but pickle passes one."""

  def __init__(self, status, text):
    super().__init__(f"{status} {text}")


class Remote(collections.abc.Sequence):
  """A source that cannot be read."""

  def __len__(self):
    return 9

  def __getitem__(self, i):
    raise Refused(403, "forbidden")


@pytest.mark.parametrize("num_threads", (0, 1))
@pytest.mark.slow
def test_an_error_that_cannot_be_sent(num_threads):
  """It arrives as one of the same text; nobody waits for ever."""
  batches = train_batches(Remote(), num_workers=1, **{**OPTIONS, "num_threads": num_threads})
  signal.alarm(60)
  try:
    with pytest.raises(RuntimeError) as raised:
      next(batches)
    assert str(raised.value) == "Refused: 403 forbidden"
  finally:
    signal.alarm(0)
    batches.close()


class Locked(collections.abc.Sequence):
  """A source that cannot be sent to another process."""

  def __init__(self):
    self.lock = threading.Lock()

  def __len__(self):
    return 9

  def __getitem__(self, i):
    return tiny.make_photo("train", i)


def test_a_source_that_stays_where_it_is():
  message = error_of(train_batches, Locked(), num_workers=2, **OPTIONS)
  assert "`num_workers` is 2" in message and "lock" in message and message.endswith("set it to 0")


def test_a_process_that_may_not_start_others(monkeypatch):
  monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)
  with pytest.raises(AssertionError):
    multiprocessing.Process().start()
  message = error_of(train_batches, photos(), num_workers=2, **OPTIONS)
  assert "`num_workers` is 2" in message and message.endswith("set it to 0")


def test_a_copy_of_a_cache_is_empty():
  import cloudpickle

  cached = Cached([{"mask": np.zeros(1000, np.uint8)}] * 3, 2500)
  for i in range(3):
    cached[i]
  assert len(cloudpickle.dumps(cached)) < 2000  # what is kept stays behind
  copy = cloudpickle.loads(cloudpickle.dumps(cached))
  assert copy[0] is copy[0] and len(copy) == 3


SCRIPT = """
import collections.abc, os, sys
import numpy as np
from jaxseg.data.input_pipeline import train_batches

print("begin")

class Facts(collections.abc.Sequence):
  def __len__(self):
    return 8

  def __getitem__(self, i):
    import jax
    from jax._src import xla_bridge
    facts = (
      os.getppid() == PARENT,
      xla_bridge.backends_are_initialized(),
      any(name in sys.modules for name in ("jaxseg.main", "jaxseg.training", "jaxseg.models")),
      jax.default_backend() == "cpu" and jax.device_count() == 1,
    )
    image = np.zeros((8, 8, 4), np.uint8)
    image[...] = facts
    return {"image": image, "mask": image[..., 0], "name": str(i)}

PARENT = os.getpid()
options = {"size": 8, "fit": "resize", "batch_size": 2, "seed": 0, "num_threads": 0}
batches = train_batches(Facts(), num_workers=2, **options)
for _ in range(3):
  print(next(batches)["image"][0, 0, 0].tolist())
"""


@pytest.mark.slow
def test_a_script_without_a_main_guard(tmp_path):
  """Workers do not run the program again, nor take devices; nobody closes them but its end."""
  (tmp_path / "script.py").write_text(SCRIPT)
  environ = {**os.environ, "PYTHONPATH": str(command.ROOT), "JAX_PLATFORMS": "", "XLA_FLAGS": ""}
  done = subprocess.run(
    [sys.executable, "script.py"], cwd=tmp_path, env=environ, capture_output=True, text=True
  )
  # The first example of each worker comes before, the third after its source asked for devices.
  lines = done.stdout.splitlines()
  assert (done.stderr, done.returncode, lines[0], len(lines)) == ("", 0, "begin", 4)
  assert lines[1:3] == ["[1, 0, 0, 1]"] * 2 and lines[3] in ("[1, 1, 0, 1]", "[1, 0, 0, 1]")


FIRST = """
from jaxseg.data.datasets import load
from jaxseg.data.input_pipeline import train_batches

source = load("cells", "train", image_size=256)[1]
options = {"size": 256, "fit": "resize", "batch_size": 8, "seed": 0, "num_threads": 1}
batches = train_batches(source, num_workers=2, **options)
next(batches)
"""


@pytest.mark.slow
def test_a_program_that_ends_after_its_first_batch():
  """The first one of the other worker lies in shared memory and is freed, too."""
  environ = {**os.environ, "PYTHONPATH": str(command.ROOT)}
  done = subprocess.run(
    [sys.executable, "-c", FIRST], env=environ, capture_output=True, text=True, timeout=120
  )
  assert (done.stderr, done.returncode) == ("", 0)


def group_of(number):
  """Processes of a process group that still run."""
  found = []
  for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
    try:
      state, _, group = path.read_text().rpartition(")")[2].split()[:3]
    except OSError:  # ended meanwhile
      continue
    if int(group) == number and state != "Z":
      found.append(path.parent.name)
  return found


def assert_ends(number):
  """A process group ends soon."""
  end = time.time() + 30
  while group_of(number) and time.time() < end:
    time.sleep(0.1)
  assert not group_of(number)


def start(workdir, num_workers):
  values = {**VALUES, "data.num_workers": num_workers}
  return command.start("unet_cells", workdir, values, start_new_session=True)


def wait_for(condition, process, seconds=600):
  end = time.time() + seconds
  while not condition():
    assert process.poll() is None, process.communicate()[0]
    assert time.time() < end
    time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_signals_to_the_program_and_its_workers(tmp_path):
  """Ctrl-C and SIGTERM reach all; a checkpoint follows. kill -9 reaches one; the others follow."""
  straight, stopped = tmp_path / "straight", tmp_path / "stopped"
  command.finish(command.start("unet_cells", straight, VALUES))
  for number in (signal.SIGINT, signal.SIGTERM):
    before = len(read_metrics(stopped))
    process = start(stopped, 2)
    wait_for(lambda before=before: len(read_metrics(stopped)) > before + 3, process)
    assert len(group_of(process.pid)) == 4  # two workers, and the tracker of shared memory
    os.killpg(process.pid, number)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 143 and "stopped after a checkpoint" in output, output
    assert "Traceback" not in output and "leaked" not in output, output
    assert_ends(process.pid)
    assert max(saved_steps(stopped)) == read_metrics(stopped)[-1]["step"] < NUM_STEPS
  process = start(stopped, 3)
  before = len(read_metrics(stopped))
  wait_for(lambda: len(read_metrics(stopped)) > before + 1, process)
  process.kill()
  process.communicate()
  assert_ends(process.pid)
  command.finish(start(stopped, 0))
  assert read_metrics(stopped) == read_metrics(straight)
  states = [command.read_checkpoint(workdir, NUM_STEPS) for workdir in (stopped, straight)]
  chex.assert_trees_all_equal(*states)


CONFIG = """
import collections.abc
import numpy as np
from configs import unet_cells
from jaxseg import UserError
from jaxseg.data.datasets import CELLS, DATASETS

class Damaged(UserError):  # cannot be sent to another process
  def __init__(self, file, reason):
    super().__init__(f"{file}: cannot be decoded ({reason})")

class Own(collections.abc.Sequence):
  def __len__(self):
    return 40

  def __getitem__(self, i):
    if i == 33:
      raise Damaged("own.png", "it is damaged")
    image = np.full((32, 32, 1), i, np.uint8)
    return {"image": image, "mask": np.zeros((32, 32), np.uint8), "name": str(i)}

DATASETS["own"] = lambda split: (CELLS, Own())

def get_config():
  config = unet_cells.get_config()
  config.data.name, config.data.image_size, config.model.widths = "own", 32, (4, 8)
  config.train.batch_size, config.data.num_workers = 4, 2
  return config
"""


@pytest.mark.slow
def test_the_command_with_a_data_set_of_ones_own(tmp_path):
  """Its class is in a config file, which no import finds; its error is one line."""
  (tmp_path / "own.py").write_text(CONFIG)
  process = command.start(tmp_path / "own.py", tmp_path / "run", {}, start_new_session=True)
  output = process.communicate(timeout=120)[0]
  assert process.returncode == 1 and "Traceback" not in output, output
  assert output.splitlines()[-1] == "error: own.png: cannot be decoded (it is damaged)"
  if sys.platform == "linux":
    assert_ends(process.pid)
