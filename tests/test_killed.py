"""kill -9 at random moments: while it starts, compiles, trains, evaluates, saves."""

import json
import random
import time

import chex
import command
import pytest
import test_end_to_end
from test_multiprocess import start_two

NUM_KILLS, SEED = 10, 14
NUM_STEPS = test_end_to_end.NUM_STEPS
VALUES = test_end_to_end.VALUES


def start(workdir, num_processes):
  if num_processes == 2:
    return start_two(workdir, VALUES, by="torchrun")
  return [command.start("unet_cells", workdir, VALUES)]


@pytest.mark.slow
@pytest.mark.parametrize("num_processes", [1, 2])
def test_killed_at_random_moments(tmp_path, num_processes):
  """The run ends bit for bit as one that was left alone."""
  undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
  begin = time.time()
  command.finish(*start(undisturbed, num_processes))
  seconds, rng, kills = time.time() - begin, random.Random(SEED), 0
  for _ in range(NUM_KILLS):
    processes = start(killed, num_processes)
    time.sleep(rng.uniform(0.1, 0.9) * seconds)
    kills += processes[-1].poll() is None
    rng.choice(processes).kill()
    for process in processes:  # the other notices, or the run was complete
      process.communicate(timeout=120)
  assert kills  # else there was nothing to survive
  command.finish(*start(killed, num_processes))
  states = [command.read_checkpoint(workdir, NUM_STEPS) for workdir in (killed, undisturbed)]
  chex.assert_trees_all_equal(*states)
  lines = [test_end_to_end.read_metrics(workdir) for workdir in (killed, undisturbed)]
  assert lines[0] == lines[1] and lines[0][-1]["step"] == NUM_STEPS
  scores = [json.loads((w / "evaluation.json").read_text()) for w in (killed, undisturbed)]
  assert scores[0] == scores[1]
