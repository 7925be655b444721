"""Checkpoints: which are kept, that nothing is lost on the way, and what a crash leaves behind."""

import json

import jax
import numpy as np
import optax
import pytest
from jax.experimental import multihost_utils

from jaxseg import UserError, checkpoint, train_state
from jaxseg.checkpoint_files import fit

META = {"config": {"seed": 0, "model": {"widths": [4, 8]}}, "info": {"classes": ["a", "b"]}}


def make_state(step, seed=0, ema=False):
  """A TrainState of random numbers with an optimizer that has state."""
  rng = np.random.default_rng(seed)

  def normal(*shape):
    return rng.standard_normal(shape).astype(np.float32)

  def draw(x):
    return normal(*x.shape) if x.ndim else np.int32(rng.integers(9))

  kernels = {"conv": {"kernel": normal(3, 3, 1, 4), "bias": normal(4)}, "head": {"bias": normal(4)}}
  variables = {"params": kernels, "batch_stats": {"norm": {"mean": normal(4), "var": normal(4)}}}
  state = train_state.create(variables, optax.adam(optax.linear_schedule(1.0, 0.0, 9)), ema=ema)
  return jax.tree.map(draw, state).replace(step=np.int32(step))


def save_all(workdir, scores):
  """A checkpoint per {step: score or None}; returns the steps that are left."""
  with checkpoint.open_manager(workdir) as manager:
    for step, score in scores.items():
      metrics = None if score is None else {"miou": score, "iou": {"a": None}}
      checkpoint.save(manager, make_state(step, step), {"position": step}, META, metrics)
  with checkpoint.open_manager(workdir, read_only=True) as manager:
    return list(manager.all_steps()), checkpoint.best_checkpoint(workdir)[0]


def assert_same_bits(first, second):
  assert jax.tree.structure(first) == jax.tree.structure(second)
  for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
    a, b = np.asarray(a), np.asarray(b)
    assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


NAN = float("nan")


@pytest.mark.parametrize(
  "scores, kept, best",
  [
    ({1: 0.1, 2: 0.9, 3: 0.3, 4: 0.4, 5: 0.5}, [2, 4, 5], 2),
    ({1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4}, [3, 4], 4),
    ({1: 0.5, 2: None, 3: None, 4: None}, [1, 3, 4], 1),
    ({1: None, 2: None, 3: None}, [2, 3], 3),
    ({1: NAN, 2: 0.2, 3: NAN, 4: NAN, 5: NAN}, [2, 4, 5], 2),
    ({1: 0.3, 2: NAN, 3: 0.2, 4: NAN}, [1, 3, 4], 1),
    ({1: NAN, 2: 0.2}, [1, 2], 2),
  ],
)
def test_latest_two_and_best_are_kept(tmp_path, scores, kept, best):
  assert save_all(tmp_path, scores) == (kept, best)
  assert checkpoint.best_checkpoint(tmp_path) == (best, META)


def test_best_survives_a_restart(tmp_path):
  assert save_all(tmp_path, {1: 0.1, 2: 0.9, 3: 0.3}) == ([2, 3], 2)
  assert save_all(tmp_path, {4: 0.4, 5: 0.5, 6: None}) == ([2, 5, 6], 2)
  assert save_all(tmp_path, {7: 0.95, 8: 0.1, 9: 0.2}) == ([7, 8, 9], 7)


def test_orbax_does_not_ask_for_preemption(tmp_path, monkeypatch):
  """It would ask by the step, while training asks by the number of its calls."""
  asked = []
  monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", asked.append)
  assert save_all(tmp_path, {7: 0.1, 9: None})[0] == [7, 9]
  assert asked == []


@pytest.mark.parametrize("ema", [False, True])
def test_restore_is_bit_for_bit(tmp_path, ema):
  state, data_state = (
    make_state(7, ema=ema),
    {"next_index": 4, "window": {"a": [1, 2.5, None, "x"]}},
  )
  state.params["conv"]["bias"][:2] = np.nan, -0.0
  with checkpoint.open_manager(tmp_path) as manager:
    assert checkpoint.restore(tmp_path, state) is None
    # As training has it: on the devices, one copy on each.
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()), ("batch",))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    checkpoint.save(manager, jax.device_put(state, whole), data_state, META)
  restored, position, evaluated = checkpoint.restore(tmp_path, make_state(0, seed=5, ema=ema))
  assert_same_bits(restored, state)
  assert position == data_state and not evaluated
  assert type(restored) is type(state) and int(restored.step) == 7
  # For use, the running mean if there is one.
  expected = state.ema if ema else {"params": state.params, "batch_stats": state.batch_stats}
  assert_same_bits(checkpoint.load_step(tmp_path, 7)["variables"], expected)


def test_the_latest_is_restored_not_the_best(tmp_path):
  save_all(tmp_path, {1: 0.9, 2: 0.1, 3: 0.2})
  restored, position, evaluated = checkpoint.restore(tmp_path, make_state(0))
  assert int(restored.step) == 3 and position == {"position": 3} and evaluated


def test_a_checkpoint_stays_until_its_replacement_is_complete(tmp_path):
  """The state of a step, evaluated only after the run was stopped there."""
  save_all(tmp_path, {3: None})
  with pytest.raises(KeyboardInterrupt), checkpoint.replaced(tmp_path, 3):
    raise KeyboardInterrupt  # as a kill
  assert checkpoint.restore(tmp_path, make_state(0)) is None
  checkpoint.bring_back(tmp_path)
  assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]
  _, position, evaluated = checkpoint.restore(tmp_path, make_state(0))
  assert position == {"position": 3} and not evaluated
  with checkpoint.open_manager(tmp_path) as manager, checkpoint.replaced(tmp_path, 3):
    manager.reload()
    checkpoint.save(manager, make_state(3), {"position": 4}, META, {"miou": 0.5})
    manager.wait_until_finished()
  _, position, evaluated = checkpoint.restore(tmp_path, make_state(0))
  assert position == {"position": 4} and evaluated
  assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]


def test_variables_alone(tmp_path):
  """For use, the optimizer need not be known."""
  save_all(tmp_path, {1: 0.9, 2: 0.1, 3: 0.2})
  step, meta = checkpoint.best_checkpoint(tmp_path)
  expected = make_state(1, 1)
  variables = {"params": expected.params, "batch_stats": expected.batch_stats}
  assert_same_bits(checkpoint.load_step(tmp_path, step)["variables"], variables)
  assert meta == META


def test_no_batch_statistics(tmp_path):
  """A network without normalisation has an empty collection."""
  state = make_state(1).replace(batch_stats={})
  with checkpoint.open_manager(tmp_path) as manager:
    checkpoint.save(manager, state, {}, META)
    manager.wait_until_finished()
    assert_same_bits(checkpoint.restore(tmp_path, state)[0], state)
  variables = {"params": state.params, "batch_stats": {}}
  found = checkpoint.load_step(tmp_path, 1)["variables"]
  assert_same_bits(fit(found, variables, "checkpoint 1"), variables)


def test_saving_does_not_see_later_changes(tmp_path):
  """Training goes on, in the same memory, while a checkpoint is being written."""
  state, expected = make_state(1), make_state(1)
  with checkpoint.open_manager(tmp_path) as manager:
    checkpoint.save(manager, jax.device_put(state), {}, META)
    for leaf in jax.tree.leaves(state):
      if leaf.ndim:
        leaf[:] = 0
    manager.wait_until_finished()
    assert_same_bits(checkpoint.restore(tmp_path, state)[0].params, expected.params)


@pytest.fixture
def interrupted(tmp_path):
  """A work directory with steps 1 and 2, and what processes left that died while saving."""
  save_all(tmp_path, {1: 0.5, 2: 0.4})
  for step in (3, 9):
    folder = tmp_path / "checkpoints" / f"{step}.orbax-checkpoint-tmp"
    (folder / "variables").mkdir(parents=True)
    (folder / "variables" / "manifest.ocdbt").write_bytes(b"half")
  return tmp_path


def test_interrupted_save_is_ignored(interrupted):
  with checkpoint.open_manager(interrupted) as manager:
    restored, _, _ = checkpoint.restore(interrupted, make_state(0))
    assert int(restored.step) == 2
    assert list(manager.all_steps()) == [1, 2]
    checkpoint.save(manager, make_state(3, 3), {"position": 3}, META, {"miou": 0.6})
  restored, position, _ = checkpoint.restore(interrupted, make_state(0))
  assert_same_bits(restored.params, make_state(3, 3).params)
  assert position == {"position": 3}
  assert sorted(p.name for p in (interrupted / "checkpoints").iterdir()) == ["2", "3"]


def test_looking_disturbs_nobody(interrupted):
  """Evaluation and prediction leave alone what a training may be saving at that moment."""

  def tree():
    return sorted(str(path) for path in interrupted.rglob("*"))

  before = tree()
  step, _ = checkpoint.best_checkpoint(interrupted)
  assert step == 1
  checkpoint.load_step(interrupted, step)
  assert tree() == before


def test_no_checkpoint(tmp_path):
  (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
  for name in ("missing", "empty"):
    with pytest.raises(UserError) as error:
      checkpoint.best_checkpoint(tmp_path / name)
    message = str(error.value)
    assert str(tmp_path / name) in message and "train first" in message and "\n" not in message
  assert not (tmp_path / "missing").exists()
  (tmp_path / "export").mkdir()
  (tmp_path / "export" / "model.stablehlo").touch()
  with pytest.raises(UserError, match="export has no checkpoint; load .*model.stablehlo"):
    checkpoint.best_checkpoint(tmp_path / "export")


def test_meta_is_readable_without_us(tmp_path):
  save_all(tmp_path, {1: 0.5})
  assert json.loads((tmp_path / "checkpoints" / "1" / "meta" / "metadata").read_text()) == META
