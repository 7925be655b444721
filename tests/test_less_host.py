"""Runs with data on the devices, and with several steps a call, are those without."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from command import checkpoints, read_json, read_lines
from jax import lax
from test_resumption import assert_same_bits, saved_state, stop_after

from jaxseg import on_device, parallel, spatial
from jaxseg.data import datasets, stored
from jaxseg.run import Run
from jaxseg.training import train

pytestmark = pytest.mark.usefixtures("photos")
NUM_STEPS = 7


def make_config(strategy="jit", steps=1, on_device=False, **changes):
  options = {"train__parallel": strategy, "train__steps_per_call": steps}
  options |= {"data__on_device": on_device, "train__log_every_steps": 4}
  return tiny.make_config(NUM_STEPS, eval_every=5, **{**options, **changes})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """Work directory of a run; those that a test has trained are not trained again."""
  workdirs = {}

  def trained(*options):
    if options not in workdirs:
      workdirs[options] = tmp_path_factory.mktemp("run")
      with pytest.MonkeyPatch.context() as patch:
        patch.setitem(datasets.DATASETS, "photos", tiny.load_photos)
        assert train(make_config(*options), workdirs[options]) is True
    return workdirs[options]

  return trained


def lines(workdir, split):
  return read_lines(workdir, split, "images_per_second")


def assert_same_run(workdir, expected):
  for step in (5, NUM_STEPS):
    assert_same_bits(saved_state(workdir, step), saved_state(expected, step))
  for split in ("train", "test"):
    assert lines(workdir, split) and lines(workdir, split) == lines(expected, split)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["jit", "pmap"])
def test_data_on_the_devices(strategy, run, capsys):
  on_device = run(strategy, 1, True)
  said = "training data on each of 8 devices: 20 images of uint8, 45 x 44 px"
  told = capsys.readouterr().err
  assert said in told
  # Nine images in windows of 64 x 64 px, eight at once: three bytes of 16 windows, nine masks.
  num_bytes = 64 * 64 * (16 * 3 + 9)
  assert told.count(f"evaluation data on 8 devices: 9 images, {num_bytes / 2**20:.3g} MiB") == 1
  assert_same_run(on_device, run(strategy))
  evaluations = [read_json((x / "evaluation.json").read_text()) for x in (on_device, run(strategy))]
  assert evaluations[0] == evaluations[1]


EVERYTHING = {
  "augment__elastic": 4.0,
  "augment__rotation": 20.0,
  "augment__flip": True,
  "augment__shift": 3.0,
  "augment__hue": 0.1,
  "augment__noise": 0.05,
  "augment__cutout": 0.5,
  "data__class_crops": 0.5,
  "data__crop_classes": ("road",),
  "data__class_balanced": 0.5,
  "train__border_weight": 5.0,
  "train__class_balance": "inverse_frequency",
}


@pytest.mark.slow
@pytest.mark.parametrize("num_devices", [1, 8])
def test_all_that_draws_batches_and_changes_them(num_devices, tmp_path, monkeypatch):
  """Two passes over the data and more, with all that is random, from the host and on devices."""
  mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:num_devices]), (parallel.AXIS,))
  monkeypatch.setattr(spatial, "make_mesh", lambda *_: mesh)
  for where in (False, True):
    assert train(make_config("jit", 1, where, **EVERYTHING), tmp_path / str(where)) is True
  assert_same_run(tmp_path / "True", tmp_path / "False")
  plain = make_config("jit", 1, False)
  assert train(plain, tmp_path / "plain") is True
  assert lines(tmp_path / "plain", "train") != lines(tmp_path / "True", "train")


@pytest.mark.slow
def test_what_follows_the_network_is_evaluated_from_the_host(tmp_path, capsys):
  assert train(make_config("jit", 1, True, crf__num_iterations=1), tmp_path) is True
  said = " ".join(capsys.readouterr().err.split())
  assert "config.data.on_device: a CRF or several scales follow the network, so that images" in said
  assert "evaluation data on" not in said and len(lines(tmp_path, "test")) == 2


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["jit", "pmap"])
def test_several_steps_a_call(strategy, run):
  """A loop is compiled in another way than a step, which changes the rounding."""
  one, three = run(strategy), run(strategy, 3)
  assert checkpoints(three) == checkpoints(one) == [5, NUM_STEPS]
  assert [line["step"] for line in lines(three, "train")] == [4, 5, 7]
  for split in ("train", "test"):
    for line, expected in zip(lines(three, split), lines(one, split), strict=True):
      assert line.keys() == expected.keys() and line["step"] == expected["step"]
      assert line["loss"] == pytest.approx(expected["loss"], rel=1e-4)
      assert line.get("num_pixels") == expected.get("num_pixels")


@pytest.mark.slow
def test_more_steps_a_call_change_nothing(run):
  assert_same_run(run("jit", 3, True), run("jit", 3))
  assert_same_run(run("jit", 2, False), run("jit", 3))


@pytest.mark.slow
def test_a_stopped_run_goes_on_bit_for_bit(run, tmp_path, monkeypatch, capsys):
  """A call that runs is not cut short: of two steps, after the one that ends with step 2."""
  stop_after(monkeypatch, 2)
  config = make_config("jit", 2, True, train__log_every_steps=2)
  assert train(config, tmp_path) is False
  assert checkpoints(tmp_path) == [4]
  assert train(make_config("jit", 3, True, data__num_workers=2), tmp_path) is True
  assert "config.data.num_workers is not used, as the training data are" in capsys.readouterr().err
  assert_same_bits(saved_state(tmp_path, NUM_STEPS), saved_state(run("jit", 3), NUM_STEPS))


@pytest.mark.slow
def test_calls_end_where_the_host_has_something_to_do(tmp_path, monkeypatch):
  calls, record = [], Run.record

  def noted(self, step, metrics, line, batch_size, num_steps):
    calls.append((step, num_steps))
    record(self, step, metrics, line, batch_size, num_steps)

  monkeypatch.setattr(Run, "record", noted)
  lengths, stack = [], on_device.stack_batches
  monkeypatch.setattr(
    on_device, "stack_batches", lambda batches, n: lengths.append(n) or stack(batches, n)
  )
  # No call is longer than the four steps between two lines: more would be filled up, with memory.
  config = make_config("jit", 1000, train__profile_steps=(2, 2))
  assert train(config, tmp_path) is True
  assert calls == [(1, 1), (2, 1), (4, 2), (5, 1), (7, 2)] and set(lengths) == {4}
  assert list((tmp_path / "profile").rglob("*.xplane.pb"))


@pytest.mark.slow
def test_data_that_do_not_fit(run, tmp_path, monkeypatch, capsys):
  # 20 images of up to 45 x 44 px with four bytes a pixel, of which a third may be used.
  needed = 20 * 45 * 44 * 4
  free = 3 * needed - 3
  for device, host in (free / 8, 10 * free), (10 * free, free):
    monkeypatch.setattr(stored, "free_bytes", lambda x=(device, host): x)
    workdir = tmp_path / str(host)
    assert train(make_config("jit", 1, True), workdir) is True
    said = " ".join(capsys.readouterr().err.split())
    assert "config.data.on_device: 20 images need 0 MiB, more than a third" in said
    assert "they come from the host" in said
    assert_same_run(workdir, run("jit"))
  monkeypatch.setattr(stored, "free_bytes", lambda: ((free + 3) / 8, free + 3))
  assert train(make_config("jit", 1, True), tmp_path / "split") is True
  assert "each of 8 devices: 3 of 20 images" in " ".join(capsys.readouterr().err.split())
  assert_same_run(tmp_path / "split", run("jit"))


@pytest.mark.parametrize("strategy", parallel.STRATEGIES)
def test_steps_of_whole_numbers(strategy):
  """In arithmetic that is exact: the same as one by one, and what fills a call is no step."""
  mesh = spatial.make_mesh()

  def step(state, batch, key, axis_name=None):
    total = jnp.sum(batch["image"])
    total = lax.psum(total, axis_name) if axis_name else total
    return 3 * state + total + key, {"total": total, "state": state}

  rng = np.random.default_rng(0)
  batches = [
    {"image": rng.integers(0, 99, (16, 2), np.int32), "index": np.arange(16 * i, 16 * i + 16)}
    for i in range(4)
  ]
  state, expected = 5, []
  for batch in batches:
    total = batch["image"].sum()
    expected.append((total, state))
    state = 3 * state + total + 7
  steps = parallel.distribute_step(on_device.repeated(step), mesh, strategy)
  start, key = parallel.replicate(mesh, (np.int32(5), np.int32(7)))
  stacked = on_device.stack_batches(batches, 6)
  assert {name: x.shape for name, x in stacked.items()} == {"image": (16, 6, 2), "index": (16, 6)}
  end, metrics = steps(start, parallel.put_on_mesh(mesh, stacked, strategy), key)
  assert int(end) == state
  found = zip(np.asarray(metrics["total"]), np.asarray(metrics["state"]), strict=True)
  assert list(found) == [*expected, (0, 0), (0, 0)]
