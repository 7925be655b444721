"""Several seeds in one program: each is its single run; files, resumption, scores, errors."""

import json
import shutil
import statistics

import jax
import numpy as np
import pytest
import tiny
from command import checkpoints, read_json, read_lines
from test_data_page import Reader
from test_resumption import assert_same_bits, saved_state, stop_after
from tiny import error_of

import jaxseg
from jaxseg import (
  DataWarning,
  build,
  parallel,
  seed_axis,
  seed_scores,
  seeds,
  spatial,
  training,
)
from jaxseg.data import datasets, input_pipeline
from jaxseg.training import train

pytestmark = pytest.mark.usefixtures("photos")
NUM_STEPS, SEEDS = 6, (5, 6, 7)


def make_config(num_seeds=3, **changes):
  """Batch normalisation, dropout, augmentation and an EMA; an evaluation in the middle."""
  values = {"seed": 5, "train__num_seeds": num_seeds, "train__log_every_steps": 2, **changes}
  return tiny.make_config(NUM_STEPS, eval_every=4, **values)


def single_config(seed, **changes):
  return make_config(1, **{**changes, "seed": seed})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """Work directory of a run, of the three seeds or of one of them, on all eight devices."""
  workdirs = {}

  def trained(seed=None):
    if seed not in workdirs:
      workdirs[seed] = tmp_path_factory.mktemp("run")
      with pytest.MonkeyPatch.context() as patch:
        patch.setitem(datasets.DATASETS, "photos", tiny.load_photos)
        config = make_config() if seed is None else single_config(seed)
        assert train(config, workdirs[seed]) is True
    return workdirs[seed]

  return trained


def largest_difference(a, b):
  """Over arrays: largest |difference| / largest |value|."""
  pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  return max(np.abs(np.asarray(x) - y).max() / np.abs(np.asarray(y)).max() for x, y in pairs)


def assert_same_run(workdir, expected):
  """The same weights and scores to rounding."""
  for step in checkpoints(expected):
    found, wanted = saved_state(workdir, step), saved_state(expected, step)
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    assert largest_difference(found[0], wanted[0]) < 1e-5
  for split, rtol in ("train", 1e-5), ("test", 1e-5):
    pairs = (read_lines(x, split, "images_per_second") for x in (workdir, expected))
    for line, other in zip(*pairs, strict=True):
      assert line["step"] == other["step"]
      names = ("epoch", "loss", "num_pixels" if split == "train" else "miou")
      np.testing.assert_allclose([line[x] for x in names], [other[x] for x in names], rtol=rtol)


@pytest.mark.parametrize(
  "seed", [SEEDS[0], *(pytest.param(seed, marks=pytest.mark.slow) for seed in SEEDS[1:])]
)
def test_each_seed_is_its_single_run(seed, run):
  assert_same_run(run() / f"seed_{seed}", run(seed))


def test_seeds_differ(run):
  """What the tolerance is worth: start, order of the data, and all that follows."""
  states = [saved_state(run() / f"seed_{seed}", NUM_STEPS)[0] for seed in SEEDS]
  assert largest_difference(states[0], states[1]) > 0.1
  assert largest_difference(states[1], states[2]) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("num_seeds, num_devices", [(3, 1), (4, 4), (2, 8)])
@pytest.mark.parametrize("changes", [{}, {"train__steps_per_call": 2, "data__num_workers": 1}])
def test_on_other_devices(num_seeds, num_devices, changes, tmp_path, monkeypatch):
  """Each seed against its run on one device.

  Seeds 0 to 3, not 5 to 8 as above: seed 8 differs by 1.4e-5 after four steps, and its single run
  by 3.1e-5 from itself if the first weights are a unit in the last place smaller. test_seed_axis
  compares each step from equal states.
  """
  devices = jax.devices()[:num_devices]
  mesh = seed_axis.make_mesh(num_seeds, devices)
  monkeypatch.setattr(seed_axis, "make_mesh", lambda *_: mesh)
  one = jax.sharding.Mesh(np.asarray(devices[:1]), (parallel.AXIS,))
  monkeypatch.setattr(spatial, "make_mesh", lambda *_: one)
  assert train(make_config(num_seeds, seed=0, **changes), tmp_path / "together") is True
  for seed in range(num_seeds):
    assert train(single_config(seed), tmp_path / f"{seed}") is True
    assert_same_run(tmp_path / "together" / f"seed_{seed}", tmp_path / f"{seed}")


def test_work_directories(run):
  """Those of the seeds are as any other."""
  workdir, alone = run(), run(5)
  names = {path.name for path in workdir.iterdir()}
  assert names == {"config.json", "seeds.json", "plots", "seed_5", "seed_6", "seed_7"}
  assert read_json((workdir / "config.json").read_text()) == json.loads(make_config().to_json())
  for seed in SEEDS:
    both = workdir / f"seed_{seed}", alone
    found = [{x.name for x in path.iterdir() if "tfevents" not in x.name} for path in both]
    assert found[0] == found[1] and "plots" in found[0]
    config = read_json((workdir / f"seed_{seed}" / "config.json").read_text())
    assert config == json.loads(single_config(seed).to_json())
  segmenter = jaxseg.load(workdir / "seed_5")
  image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
  np.testing.assert_allclose(segmenter.probs(image), jaxseg.load(alone).probs(image), atol=1e-5)
  message = error_of(jaxseg.load, workdir)
  assert f"{workdir} holds the runs of several seeds: give one, as {workdir}/seed_5" in message


def test_summary(run):
  workdir = run()
  summary = read_json((workdir / "seeds.json").read_text())
  assert (summary["split"], summary["seeds"], summary["steps"]) == ("test", [5, 6, 7], [6, 6, 6])
  ones = [read_json((workdir / f"seed_{i}" / "evaluation.json").read_text()) for i in SEEDS]
  for found, values in [
    (summary["miou"], [one["miou"] for one in ones]),
    (summary["loss"], [one["loss"] for one in ones]),
    (summary["iou"]["sky"], [one["iou"]["sky"] for one in ones]),
  ]:
    assert found["values"] == values and len({*values}) == 3
    assert found["mean"] == pytest.approx(statistics.mean(values))
    assert found["std"] == pytest.approx(statistics.stdev(values))
  row = next(x for x in seed_scores.table(summary).splitlines() if x.startswith("miou"))
  values = [one["miou"] for one in ones]
  cells = [f"{x:.4f}" for x in (statistics.mean(values), statistics.stdev(values), *values)]
  assert row.split() == ["miou", cells[0], "±", *cells[1:]]


def test_page(run, tmp_path):
  """Means, values and links; made anew, with seeds.json, from what the seeds' evaluations say."""
  shutil.copytree(run(), tmp_path, dirs_exist_ok=True)
  page = tmp_path / "plots" / "report.html"
  found = Reader(page.read_text())
  links = [x["href"] for x in found.of("a") if not x["href"].startswith("#")]
  assert links == [f"../seed_{seed}/plots/report.html" for seed in SEEDS]
  assert all((page.parent / link).is_file() for link in links)
  summary = read_json((tmp_path / "seeds.json").read_text())
  for one, name in (summary["miou"], "mean IoU"), (summary["iou"]["sky"], "sky"):
    values = one["mean"], one["std"], *one["values"]
    assert name + "".join(f"{x:.4f}" for x in values) in found.text.replace("\n", "")
  shutil.copy(tmp_path / "seed_7" / "evaluation.json", tmp_path / "seed_6")
  first, _, last = summary["miou"]["values"]
  shutil.copytree(tmp_path / "seed_6", tmp_path / "seed_8")  # of no seed of the config
  assert jaxseg.report(tmp_path, output=tmp_path / "a b") == tmp_path / "a b" / "report.html"
  found = Reader((tmp_path / "a b" / "report.html").read_text())
  texts = "".join(f"{x:.4f}" for x in (first, last, last))
  assert texts in found.text.replace("\n", "") and texts not in page.read_text()
  assert read_json((tmp_path / "seeds.json").read_text()) == summary
  message = error_of(jaxseg.report, tmp_path, output=tmp_path / "seed_5" / "plots")
  assert message == f"{tmp_path}/seed_5/plots has the report of one seed: give another --output"
  message = error_of(jaxseg.report, [tmp_path, run()])
  assert f"{tmp_path} holds the runs of several seeds: give one, as {tmp_path}/seed_5" in message
  shutil.rmtree(tmp_path / "seed_6" / "plots")
  (tmp_path / "seeds.json").unlink()
  jaxseg.report(tmp_path)
  assert read_json((tmp_path / "seeds.json").read_text())["miou"]["values"] == [first, last, last]
  assert "<li>seed 6</li>" in page.read_text()
  links = [x["href"] for x in Reader(page.read_text()).of("a") if x["href"].startswith("..")]
  assert links == [f"../seed_{seed}/plots/report.html" for seed in (5, 7)]
  for seed in SEEDS:
    file = tmp_path / f"seed_{seed}" / "evaluation.json"
    result = {**json.loads(file.read_text()), "overrides": {"predict.temperature": 2.0}}
    file.write_text(json.dumps(result))
    calibration = json.dumps({result["step"]: {"temperature": 2.0}})
    (file.parent / "calibration.json").write_text(calibration)
  jaxseg.report(tmp_path)
  assert "each with the temperature of its calibration." in page.read_text()


@pytest.mark.parametrize("function", [jaxseg.report, jaxseg.evaluate, jaxseg.calibrate])
@pytest.mark.parametrize("value", ["a", 2_000_000_000])
def test_a_damaged_number_of_seeds(run, tmp_path, value, function):
  shutil.copytree(run(), tmp_path, dirs_exist_ok=True)
  config = read_json((tmp_path / "config.json").read_text())
  config["train"]["num_seeds"] = value
  (tmp_path / "config.json").write_text(json.dumps(config))
  message = error_of(function, tmp_path)
  assert f"{tmp_path}/config.json is damaged (config.train.num_seeds" in message


@pytest.mark.slow
def test_seeds_of_other_options(run, tmp_path):
  """Both are named; a run that is complete keeps the scores that it has."""
  shutil.copytree(run(), tmp_path, dirs_exist_ok=True)
  before = (tmp_path / "seeds.json").read_text()
  jaxseg.evaluate(tmp_path / "seed_5", {"predict.tta": "flip", "data.num_threads": 1})
  words = "seed_6/evaluation.json was made with other options .none.* another seed .*tta.*make all"
  with pytest.warns(DataWarning, match=f"seeds.json stays as it was: .*{words}"):
    assert train(make_config(), tmp_path) is True
  assert (tmp_path / "seeds.json").read_text() == before
  jaxseg.evaluate(tmp_path / "seed_5", {"data.num_threads": 1})
  assert train(make_config(), tmp_path) is True


@pytest.mark.slow
def test_all_resume_bit_for_bit(run, tmp_path, monkeypatch):
  """After SIGTERM, and after a kill while the seeds saved one after the other."""
  config = make_config()
  for step in 2, 4:
    stop_after(monkeypatch, step)
    assert train(config, tmp_path) is False
  assert [checkpoints(tmp_path / f"seed_{seed}") for seed in SEEDS] == [[4, 5]] * 3
  assert not (tmp_path / "seeds.json").exists()
  shutil.rmtree(tmp_path / "seed_6" / "checkpoints" / "5")
  with pytest.warns(DataWarning) as told:
    assert train(config, tmp_path) is True
  told = " ".join(str(warning.message) for warning in told)
  for seed in SEEDS:
    folder = tmp_path / f"seed_{seed}"
    assert (f"{folder}: other seeds have no checkpoint 5" in told) == (seed != 6)
    assert (folder / "later_checkpoints" / "5").exists() == (seed != 6)
    expected = run() / f"seed_{seed}"
    assert_same_bits(saved_state(folder, NUM_STEPS), saved_state(expected, NUM_STEPS))
    assert read_lines(folder, "test") == read_lines(expected, "test")
  assert (tmp_path / "seeds.json").read_text() == (run() / "seeds.json").read_text()


@pytest.mark.slow
def test_a_kill_during_the_first_checkpoint(run, tmp_path, monkeypatch):
  stop_after(monkeypatch, 2)
  assert train(make_config(), tmp_path) is False
  for seed in (6, 7):
    shutil.rmtree(tmp_path / f"seed_{seed}" / "checkpoints" / "3")
  with pytest.warns(DataWarning, match="seed_5: other seeds have no checkpoint 3.* begin anew"):
    assert train(make_config(), tmp_path) is True
  for seed in SEEDS:
    pair = (saved_state(x / f"seed_{seed}", NUM_STEPS) for x in (tmp_path, run()))
    assert_same_bits(*pair)


@pytest.mark.slow
def test_runs_of_seeds_become_one(run, tmp_path):
  """Seeds that were trained one by one are told together."""
  for seed in SEEDS:
    shutil.copytree(run(seed), tmp_path / f"seed_{seed}")
  assert train(make_config(), tmp_path) is True
  found = [read_json((x / "seeds.json").read_text()) for x in (tmp_path, run())]
  np.testing.assert_allclose(found[0]["miou"]["values"], found[1]["miou"]["values"], rtol=1e-5)
  assert not (tmp_path / "checkpoints").exists()


def test_seeds_that_do_not_fit_together(run, tmp_path):
  shutil.copytree(run(), tmp_path, dirs_exist_ok=True)
  for num in (1, 2):
    message = error_of(train, make_config(num), tmp_path)
    assert f"{tmp_path}: its run was started with config.train.num_seeds=3, not {num}" in message
  folder = tmp_path / "seed_6"
  shutil.rmtree(folder / "checkpoints" / "4")
  (folder / "checkpoints" / "6").rename(folder / "checkpoints" / "9")
  for latest in (9, "none"):
    message = error_of(train, make_config(), tmp_path)
    assert "its seeds have no checkpoint of the same step (6 in" in message
    assert f"{latest} in {folder}" in message
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
  shutil.rmtree(folder)
  message = error_of(train, make_config(), tmp_path)
  assert f"{folder} has no run, but another seed of {tmp_path} has: restore it" in message
  assert "num_seeds=1, not 3" in error_of(train, make_config(), run(5))


@pytest.mark.parametrize(
  "changes, words",
  [
    ({"train__parallel": "pmap"}, "config.train.parallel=jit, not pmap"),
    ({"parallel__space": 2}, "config.parallel.space=1, not 2"),
    ({"data__on_device": True}, "config.data.on_device=False"),
    ({"train__patience": 2}, "config.train.patience=0, not 2: seeds train in step"),
    ({"seed": 2**32 - 2}, f"config.seed of at most {2**32 - 3}, not {2**32 - 2}"),
    ({"train__batch_size": 12}, "config.train.batch_size is 12, but has to be a multiple of 8"),
  ],
)
def test_what_several_seeds_cannot_have(changes, words, tmp_path):
  assert words in error_of(train, make_config(**changes), tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_several_processes_are_refused(monkeypatch):
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  (fault,) = seeds.faults(make_config())
  assert "config.train.num_seeds is 3, which needs a single process, not 2: train one" in fault
  assert not list(seeds.faults(make_config(1)))


def test_batches_of_groups():
  """With four seeds on eight devices, two share a batch."""
  build.check_training(make_config(4, train__batch_size=2))
  message = error_of(build.check_training, make_config(4, train__batch_size=3))
  assert "a multiple of 2 (8 devices, in 4 groups for different seeds)" in message


@pytest.mark.slow
def test_a_seed_that_diverges_is_named(tmp_path, monkeypatch):
  new_state = training.new_state

  def broken(config, *rest):
    state = new_state(config, *rest)
    return jax.tree.map(lambda x: x * np.nan, state) if config.seed == 6 else state

  monkeypatch.setattr(training, "new_state", broken)
  message = error_of(train, make_config(), tmp_path)
  assert message.startswith("seed 6: loss nan, gradient norm nan at step 1: stopped; there is no")


def test_an_example_is_decoded_once_for_all_seeds(tmp_path, monkeypatch):
  decoded = []

  def fit_example(example, *rest, **options):
    decoded.append(example["name"])
    return fit(example, *rest, **options)

  fit = input_pipeline.fit_example
  monkeypatch.setattr(input_pipeline, "fit_example", fit_example)
  config = make_config(data__num_threads=0)
  info, source = build.open_split(config, "train")
  configs = [one for one, _ in seeds.members(config, tmp_path)]
  batches = training.open_batches(configs, info, source, 0, None, False)
  found = [next(batches) for _ in range(5)]  # two passes over 20 examples
  batches.close()
  assert len(decoded) == 20
  assert found[0]["image"].shape == (3, 8, 32, 32, 3)
  for i, one in enumerate(configs):
    alone = build.build_batches(one, info, source, 0)
    for batch in found:
      expected = next(alone)
      assert {name: x[i].tobytes() for name, x in batch.items()} == {
        name: np.asarray(x).tobytes() for name, x in expected.items()
      }
