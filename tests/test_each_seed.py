"""Modes of a run of several seeds do for each what they do for a single run."""

import json
import shutil

import pytest
from command import read_json
from test_main import jaxseg as jaxseg_command  # noqa: F401
from test_packing import trained_and_packed
from tiny import error_of

import jaxseg
from jaxseg import DataWarning, modes, seed_scores, settings, temperature

pytestmark = pytest.mark.usefixtures("photos")
OF_ANY = {"split": "test", "step": 2, "num_images": 9}


def read(path):
  return read_json(path.read_text())


def folders_of(seeds):
  return {i: seeds / f"seed_{i}" for i in (0, 1)}


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
  found = jaxseg.evaluate(seeds, {**plain, "train.num_seeds": 2}, config=settings.read_run(seeds))
  assert found["miou"]["values"] == [one["miou"] for one in expected]
  assert found["miou"]["values"][0] != found["miou"]["values"][1]
  assert found["steps"] == [2, 4] and found["options"] == plain
  assert found == seed_scores.read(seeds) == seed_scores.summarize(folders_of(seeds))
  assert (seeds / "plots" / "report.html").is_file()


def test_all_are_calibrated(seeds, jaxseg_command):  # noqa: F811
  """By the commands that a user types, one after the other."""
  status, out, _ = jaxseg_command("--mode=calibrate", f"--workdir={seeds}")
  found = [read(folder / "calibration.json") for folder in folders_of(seeds).values()]
  lines = [
    f"seed {i}: {line}"
    for i, of_steps in enumerate(found)
    for line in temperature.describe(*of_steps.values())
  ]
  assert status == 0 and out.splitlines() == lines and [*map(list, found)] == [["2"], ["4"]]
  flags = "--mode=evaluate", f"--workdir={seeds}", "--config.predict.tta=none"
  status, out, err = jaxseg_command(*flags)
  scores = read_json(out)
  assert status == 0 and scores == seed_scores.read(seeds)
  options = {"predict.temperature": "of each seed", "predict.tta": "none"}
  assert scores["options"] == options and scores["steps"] == [2, 4]
  assert scores["miou"]["values"] == [
    read(folder / "evaluation.json")["miou"] for folder in folders_of(seeds).values()
  ]
  assert err.splitlines()[-1] == seed_scores.table(scores).splitlines()[-1]


@pytest.mark.slow
def test_one_seed_is_a_run(seeds):
  result = jaxseg.evaluate(seeds / "seed_0", {"predict.tta": "none"})
  assert isinstance(result["miou"], float) and not (seeds / "seeds.json").exists()
  assert "temperature" in jaxseg.calibrate(seeds / "seed_0")


def test_a_folder_that_cannot_be_written(seeds, monkeypatch):
  """Each has its scores, and so has the caller."""
  evaluations = iter([{"miou": 0.5, **OF_ANY}, {"miou": 0.75, **OF_ANY}])
  monkeypatch.setattr(modes, "evaluate", lambda *_, **__: next(evaluations))

  def fail(*_, **__):
    raise OSError(30, "Read-only file system", "seeds.json")

  monkeypatch.setattr(seed_scores, "write", fail)
  with pytest.warns(DataWarning, match="^seeds.json and the page of all seeds are those of before"):
    assert jaxseg.evaluate(seeds)["miou"]["mean"] == 0.625


def test_what_several_seeds_do_not_have(seeds, monkeypatch):
  """It is said before anything is evaluated."""
  monkeypatch.setattr(modes, "evaluate", None)
  monkeypatch.setattr(temperature, "calibrate", None)
  message = error_of(jaxseg.evaluate, seeds, output=seeds.parent / "out")
  assert message.endswith(f"leave out --output, or evaluate one, as {seeds}/seed_0")
  for function in jaxseg.evaluate, jaxseg.calibrate:
    message = error_of(function, seeds, {"seed": 1})
    assert message.startswith(f"config.seed is 1, but {seeds} holds the seeds 0, 1: leave it out")
    assert "config.train.num_seeds is 3" in error_of(function, seeds, {"train.num_seeds": 3})
  shutil.rmtree(seeds / "seed_1" / "checkpoints")
  for function in jaxseg.evaluate, jaxseg.calibrate:
    assert error_of(function, seeds).startswith(f"{seeds}/seed_1 has no checkpoint: restore that")


def test_faults_that_are_found_before(seeds, monkeypatch):
  monkeypatch.setattr(modes, "evaluate", None)
  (seeds / "seed_1" / "calibration.json").write_text(json.dumps({"4": {"temperature": 2.0}}))
  message = error_of(jaxseg.evaluate, seeds)
  assert message.startswith("seeds are calibrated, but not seed_0: --mode=calibrate, then")
  (seeds / "seed_0").rename(seeds / "x")
  (seeds / "seed_1").rename(seeds / "seed_0")
  (seeds / "x").rename(seeds / "seed_1")
  message = error_of(jaxseg.evaluate, seeds)
  assert message.startswith(f"{seeds}/seed_0 is the run of seed 1: restore that of seed 0 from")
