"""Modes of a run of several seeds do for each what they do for a single run."""

import json
import shutil

import pytest
from command import read_json
from test_main import jaxseg as command  # noqa: F401
from test_packing import trained_and_packed
from tiny import error_of

import jaxseg
from jaxseg import seed_scores, temperature

pytestmark = pytest.mark.usefixtures("photos")


def read(path):
  return read_json(path.read_text())


def edit(path, change):
  about = read(path)
  change(about)
  path.write_text(json.dumps(about))


@pytest.fixture
def seeds(tmp_path_factory, tmp_path):
  """A work directory of two seeds; they are two checkpoints of one run, so that scores differ."""
  run, _ = trained_and_packed(tmp_path_factory)
  for seed, other in ((0, 4), (1, 2)):
    folder = tmp_path / "run" / f"seed_{seed}"
    shutil.copytree(run, folder)
    shutil.rmtree(folder / "checkpoints" / str(other))
    edit(folder / "config.json", lambda config, seed=seed: config.update(seed=seed))
  shutil.copy(run / "config.json", tmp_path / "run")
  edit(tmp_path / "run" / "config.json", lambda config: config["train"].update(num_seeds=2))
  return tmp_path / "run"


@pytest.mark.slow
def test_all_are_evaluated(seeds):
  """As by itself, each; then the summary and the page are of these scores."""
  alone = shutil.copytree(seeds, seeds.parent / "alone")
  plain = {"predict.tta": "none"}
  expected = [jaxseg.evaluate(alone / f"seed_{i}", plain) for i in (0, 1)]
  found = jaxseg.evaluate(seeds, plain)
  assert found["miou"]["values"] == [one["miou"] for one in expected]
  assert found["miou"]["values"][0] != found["miou"]["values"][1]
  assert found["steps"] == [2, 4] and found["options"] == plain
  assert found == seed_scores.read(seeds) and (seeds / "plots" / "report.html").is_file()
  assert [read(seeds / f"seed_{i}" / "evaluation.json")["miou"] for i in (0, 1)] == (
    found["miou"]["values"]
  )


def test_all_are_calibrated(seeds, command):  # noqa: F811
  """By the commands that a user types, one after the other."""
  status, out, _ = command("--mode=calibrate", f"--workdir={seeds}")
  found = [read(seeds / f"seed_{i}" / "calibration.json") for i in (0, 1)]
  lines = [
    f"seed {i}: {line}"
    for i, of_steps in enumerate(found)
    for line in temperature.describe(*of_steps.values())
  ]
  assert status == 0 and out.splitlines() == lines and [*map(list, found)] == [["2"], ["4"]]
  status, out, err = command("--mode=evaluate", f"--workdir={seeds}")
  scores = read_json(out)
  assert status == 0 and scores == seed_scores.read(seeds)
  assert scores["options"] == {"predict.temperature": "of each seed"}
  assert err.splitlines()[-1] == seed_scores.table(scores).splitlines()[-1]


@pytest.mark.slow
def test_one_seed_is_a_run(seeds):
  result = jaxseg.evaluate(seeds / "seed_0", {"predict.tta": "none"})
  assert isinstance(result["miou"], float) and not (seeds / "seeds.json").exists()
  assert "temperature" in jaxseg.calibrate(seeds / "seed_0")


def test_what_several_seeds_do_not_have(seeds):
  message = error_of(jaxseg.evaluate, seeds, output=seeds.parent / "out")
  assert message.endswith(f"leave out --output, or evaluate one, as {seeds}/seed_0")
  shutil.rmtree(seeds / "seed_1" / "checkpoints")
  assert error_of(jaxseg.evaluate, seeds).startswith(f"{seeds}/seed_1 has no checkpoint")
