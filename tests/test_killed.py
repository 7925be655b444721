"""kill -9 at random moments: while it starts, compiles, trains, evaluates, saves."""

import json
import random
import shutil
import time

import chex
import command
import pytest
import test_end_to_end
from test_multiprocess import start_two

NUM_KILLS, SEED = 10, 14
NUM_STEPS = test_end_to_end.NUM_STEPS
# One that is killed before it has joined is waited for; no start here takes half a minute.
VALUES = test_end_to_end.VALUES | {"parallel.initialization_timeout": 60}


def start(workdir, num_processes):
  if num_processes == 2:
    return start_two(workdir, VALUES, by="torchrun")
  return [command.start("unet_cells", workdir, VALUES)]


@pytest.mark.slow
@pytest.mark.parametrize("num_processes", [1, 2])
def test_killed_at_random_moments(tmp_path, num_processes):
  """The run ends bit for bit as one that was left alone."""
  undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
  command.finish(*start(undisturbed, num_processes))
  begin = time.time()
  command.finish(*start(tmp_path / "compiled", num_processes))  # from the compilation cache
  seconds, rng, kills = time.time() - begin, random.Random(SEED), 0
  while kills < NUM_KILLS:
    processes = start(killed, num_processes)
    time.sleep(rng.uniform(0.1, 1.0) * seconds)
    kills += processes[0].poll() is None
    rng.choice(processes).kill()
    for process in processes:  # the other notices
      process.communicate(timeout=120)
    if (killed / "checkpoints" / str(NUM_STEPS)).exists():
      finish_and_compare(killed, undisturbed, num_processes)
      shutil.rmtree(killed)
  finish_and_compare(killed, undisturbed, num_processes)


def finish_and_compare(killed, undisturbed, num_processes):
  command.finish(*start(killed, num_processes))
  states = [command.read_checkpoint(workdir, NUM_STEPS) for workdir in (killed, undisturbed)]
  chex.assert_trees_all_equal(*states)
  lines = [test_end_to_end.read_metrics(workdir) for workdir in (killed, undisturbed)]
  assert lines[0] == lines[1] and lines[0][-1]["step"] == NUM_STEPS
  scores = [json.loads((w / "evaluation.json").read_text()) for w in (killed, undisturbed)]
  assert scores[0] == scores[1]
