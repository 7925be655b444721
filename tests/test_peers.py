"""Of two processes one fails, is interrupted or is killed: the other ends, too, and says why."""

import pathlib
import signal
import time

import command
import pytest
import test_multiprocess
from test_multiprocess import free_port, read_metrics

from jaxseg import UserError, interrupts, peers

pytestmark = pytest.mark.slow
VALUES = {**test_multiprocess.VALUES, "train.num_epochs": 1000}
VALUES |= {"train.checkpoint_every_epochs": 1000, "train.eval_every_epochs": 1000}
FAULTY = """
import os
from configs import unet_cells
from jaxseg import UserError
from jaxseg.data import datasets

make, calls = datasets.generate_cells, []

def fail(*arguments):
  calls.append(arguments)
  if len(calls) > 60:
    raise UserError("bad.png: no image")
  return make(*arguments)

def get_config():
  if os.environ["RANK"] == "FAILING":
    datasets.generate_cells = fail
  return unet_cells.get_config()
"""


FAULTY_START = """
import os
import signal

import jax
from configs import unet_cells

join = jax.distributed.initialize

def join_and_die(**options):
  join(**options)
  os.kill(os.getpid(), signal.SIGKILL)

def get_config():
  if os.environ["RANK"] == "FAILING":
    jax.distributed.initialize = join_and_die
  return unet_cells.get_config()
"""


def start_two(folder, failing="", text=FAULTY):
  config = folder / "faulty.py"
  config.write_text(text.replace("FAILING", failing))
  port = free_port()
  return [
    command.start(
      pathlib.Path(config), folder / str(rank), VALUES, flags=command.FUSED, num_devices=2,
      MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE="2", RANK=str(rank),
    )
    for rank in (0, 1)
  ]  # fmt: skip


def start_training(folder):
  processes = start_two(folder)
  while not (folder / "0" / "metrics.jsonl").exists() or not read_metrics(folder / "0"):
    assert [process.poll() for process in processes] == [None, None]
    time.sleep(0.05)
  return processes


def ends(processes, seconds):
  """[(status, last line of output)], after at most some seconds."""
  outputs = [process.communicate(timeout=seconds)[0].splitlines() for process in processes]
  assert not any("Traceback" in line for lines in outputs for line in lines), outputs
  return [(p.returncode, (x or [""])[-1]) for p, x in zip(processes, outputs, strict=True)]


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_in_one(tmp_path, failing):
  processes = start_two(tmp_path, str(failing))
  ((status, line),) = ends([processes[failing]], 120)
  assert (status, line) == (1, "error: bad.png: no image")
  ((status, line),) = ends([processes[1 - failing]], 10)
  assert status == 1 and line.endswith(f"error: process {failing} ended: bad.png: no image")


def test_control_c_to_both_saves(tmp_path):
  processes = start_training(tmp_path)
  for process in processes:
    process.send_signal(signal.SIGINT)
  line = "stopped after a checkpoint; re-running the command resumes"
  assert ends(processes, 60) == [(143, line)] * 2
  (saved,) = command.checkpoints(tmp_path / "0")
  assert saved == read_metrics(tmp_path / "0")[-1]["step"]


def test_a_killed_one_is_noticed(tmp_path):
  processes = start_training(tmp_path)
  processes[1].kill()
  processes[1].communicate()
  ((status, line),) = ends(processes[:1], peers.SILENCE + peers.GRACE + 6)
  assert status == 1 and line.endswith(f"error: process 1 ended {peers.KILLED}")


def test_one_that_is_killed_as_soon_as_it_has_joined(tmp_path):
  """Before the devices of all are known."""
  processes = start_two(tmp_path, "1", FAULTY_START)
  processes[1].communicate(timeout=60)
  ((status, line),) = ends(processes[:1], peers.SILENCE + peers.GRACE + 10)
  assert status == 1 and line.endswith(f"error: process 1 ended {peers.KILLED}")


@pytest.mark.parametrize("waiting", [0, 1])
def test_one_that_never_joins(tmp_path, waiting):
  """One that was killed before it has joined cannot tell anybody."""
  values, port = {**VALUES, "parallel.initialization_timeout": 4}, free_port()
  process = command.start(
    "unet_cells", tmp_path, values, num_devices=2, MASTER_ADDR="127.0.0.1", WORLD_SIZE="2",
    MASTER_PORT=str(port), RANK=str(waiting),
  )  # fmt: skip
  output, _ = process.communicate(timeout=60)
  assert process.returncode == 1 and output.splitlines() == [
    "waiting for the other processes to join, for up to 4 s (parallel.initialization_timeout)",
    "error: not all processes have joined within 4 s (parallel.initialization_timeout). This is "
    f"process {waiting} of 2, with process 0 at 127.0.0.1:{port}: correct that if it is wrong, and "
    "start all of them again",
  ]


def test_the_limit_holds_where_nobody_reads(tmp_path):
  values = {**VALUES, "parallel.initialization_timeout": 4}
  environ = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
  process = command.start("unet_cells", tmp_path, values, RANK="0", **environ)
  process.stdout.close()
  assert process.wait(60) == 1


def test_control_c_while_it_waits_for_others(tmp_path):
  processes = start_two(tmp_path)
  processes[1].kill()
  time.sleep(peers.NEWS + 5)
  processes[0].send_signal(signal.SIGINT)
  assert ends(processes[:1], 10) == [(interrupts.STATUS, "interrupted")]


def test_which_errors_may_come_from_the_end_of_another():
  assert peers.is_lost(RuntimeError("Gloo all-reduce failed: Connection closed by peer"))
  assert not peers.is_lost(RuntimeError("shapes differ"))
  assert not peers.is_lost(UserError("a socket.png: no image"))
