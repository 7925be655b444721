"""Devices: one = eight under jit = eight under pmap, however VOID falls; and start-up."""

import contextlib
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import multihost_utils
from scipy import ndimage

from jaxseg import VOID, UserError, models, optim, parallel, spatial, train_state
from jaxseg.augment import Augmentation
from jaxseg.losses import LOSSES, select
from jaxseg.train_step import make_train_step

SIZE, NUM_EXAMPLES, NUM_STEPS = 16, 8, 5
ONE = jax.sharding.Mesh(np.asarray(jax.devices()[:1]), (parallel.AXIS,))
ALL = spatial.make_mesh()
RUNS = {
  "one": (ONE, "jit"),
  "jit": (ALL, "jit"),
  "pmap": (ALL, "pmap"),
  "space": (spatial.make_mesh(4), "jit"),
}
FACTORS = {"cross_entropy": 1.0, "focal": 0.5, "dice": 0.3, "lovasz": 0.4}
MOVING = Augmentation(
  flip=True, scale=(0.7, 1.4), border="void", brightness=0.2, contrast=(0.7, 1.3)
)


def make_batch(i):
  """Batch i. From example to example, and so from device to device, VOID goes from 0 to 100 %
  and the share of the bright class from 10 to 90 %, and with it the weight between instances."""
  rng = np.random.default_rng(i)
  image = rng.integers(0, 256, (NUM_EXAMPLES, SIZE, SIZE, 1), dtype=np.uint8)
  share = np.linspace(0.1, 0.9, NUM_EXAMPLES)[:, None, None]
  mask = (image[..., 0] > 255 * share).astype(np.uint8)
  mask[rng.random(mask.shape) < np.linspace(0, 1, NUM_EXAMPLES)[:, None, None]] = VOID
  index = np.arange(NUM_EXAMPLES, dtype=np.int32) + NUM_EXAMPLES * i
  instances = np.stack([ndimage.label(x == 1)[0] for x in mask])
  return {"image": image, "mask": mask, "instances": instances, "index": index}


@functools.cache
def first_variables(norm):
  init = lambda: models.init(make_model("one", norm, 0.0), 1, 0)  # noqa: E731
  # Compiled without optimisation, random initialisation is eight times faster.
  return jax.jit(init, compiler_options={"xla_backend_optimization_level": 0})()


def make_model(run, norm, dropout):
  axis_name = parallel.AXIS if run == "pmap" else None
  options = {"widths": (4, 8), "norm": norm, "dropout": dropout}
  return models.build("unet", 2, axis_name=axis_name, **options)


@functools.cache
def make_run(run, norm=True, dropout=0.5, augmentation=MOVING, parts=1):
  """(step on devices, first state on the host)."""
  model, optimizer = make_model(run, norm, dropout), optim.make_optimizer("sgd", 0.3)
  step = make_train_step(
    model,
    optimizer,
    losses=select(FACTORS),
    class_weights=jnp.array([1.0, 2.0]),
    augmentation=augmentation,
    border_weight=10.0,
    border_sigma=2.0,
    accumulation_steps=parts,
    spread=spatial.spread_over(RUNS[run][0]),
  )
  chex.clear_trace_counter()
  step = parallel.distribute_step(chex.assert_max_traces(step, n=1), *RUNS[run])
  return step, jax.tree.map(np.asarray, train_state.create(first_variables(norm), optimizer))


def take_steps(run, batches, **options):
  """({"params", "batch_stats", ...} after the last step, losses), as numpy."""
  step, state = make_run(run, **options)
  mesh, strategy = RUNS[run]
  state = parallel.replicate(mesh, state)
  key, losses = parallel.replicate(mesh, jax.random.key(3)), []
  for batch in batches:
    state, metrics = step(state, parallel.put_on_mesh(mesh, batch, strategy), key)
    losses.append(np.asarray(metrics["loss"]))
  return jax.tree.map(np.asarray, state), np.array(losses)


def largest_difference(a, b):
  """Over the arrays of two trees: largest |difference| / largest |value| of the array."""
  return max(
    np.abs(x - y).max() / np.abs(x).max()
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  )


BATCHES = [make_batch(i) for i in range(NUM_STEPS)]
one_device = functools.cache(lambda: take_steps("one", BATCHES))


@pytest.mark.parametrize(
  "run", ["jit", "pmap", pytest.param("space", marks=pytest.mark.slow)]  # see test_spatial, too
)
def test_eight_devices_are_one(run):
  expected, losses = one_device()
  state, got = take_steps(run, BATCHES)
  np.testing.assert_allclose(got, losses, rtol=1e-6)
  assert largest_difference(expected.params, state.params) < 1e-5
  assert largest_difference(expected.batch_stats, state.batch_stats) < 2e-6
  assert state.step == expected.step == NUM_STEPS
  # The tolerances mean something: training moves everything by much more.
  first = make_run("one")[1]
  for part in ("params", "batch_stats"):
    moved = jax.tree.map(largest_difference, getattr(expected, part), getattr(first, part))
    assert min(jax.tree.leaves(moved)) > 1e-3


@pytest.mark.parametrize(
  "run", [pytest.param(x, marks=pytest.mark.slow) for x in ("jit", "pmap", "space")]
)
def test_eight_devices_accumulate_as_one(run):
  """Without normalisation, whose statistics depend on which examples are in a part."""
  batch = jax.tree.map(lambda *x: np.concatenate(x), *BATCHES[:2])
  batch["index"] = np.arange(len(batch["index"]), dtype=np.int32)
  options = {"norm": False, "augmentation": Augmentation()}
  expected, losses = take_steps("one", [batch], **options)
  state, got = take_steps(run, [batch], **options, parts=2)
  np.testing.assert_allclose(got, losses, rtol=1e-6)
  assert largest_difference(expected.params, state.params) < 1e-5


@pytest.mark.parametrize(
  "name, encoder",
  [
    ("unet", ""),
    *(
      pytest.param("encoder_unet", x, marks=[] if x == "mobilenet_v2" else [pytest.mark.slow])
      for x in models.ENCODERS
    ),
  ],
)
def test_every_batch_norm_looks_at_all_devices(name, encoder):
  """Under pmap; counted in the program, because compiling large networks takes long."""
  options = {"encoder": encoder} if encoder else {}
  model = models.build(name, 2, axis_name=parallel.AXIS, **options)
  variables = models.abstract_variables(model, 3)
  split, whole = (jax.sharding.PartitionSpec(*axis) for axis in ((parallel.AXIS,), ()))
  forward = jax.shard_map(
    lambda variables, image: model.apply(variables, image, train=True, mutable=["batch_stats"]),
    mesh=ALL,
    in_specs=(whole, split),
    out_specs=(split, whole),
    check_vma=False,
  )
  image = jax.ShapeDtypeStruct((8, 32, 32, 3), jnp.float32)
  program = str(jax.make_jaxpr(forward)(variables, image))
  paths, _ = zip(*jax.tree_util.tree_leaves_with_path(variables["batch_stats"]), strict=True)
  num_norms = sum(path[-1].key == "mean" for path in paths)
  assert program.count("psum[") == num_norms > 3


@pytest.mark.slow
def test_mean_of_the_devices_means_would_not_do():
  options = {"norm": False, "dropout": 0.0, "augmentation": Augmentation()}
  expected, _ = take_steps("one", BATCHES, **options)
  step, state = make_run("one", **options)
  chex.clear_trace_counter()  # this one may be traced for a device's share, too
  # With SGD, the mean of what single devices make of the parameters is the step along the mean of
  # their gradients.
  for batch in BATCHES:
    shares = [jax.tree.map(lambda x, i=i: x[i : i + 1], batch) for i in range(NUM_EXAMPLES)]
    params = [step(state, share, jax.random.key(3))[0].params for share in shares]
    state = state.replace(params=jax.tree.map(lambda *x: np.mean(x, axis=0), *params))
  assert largest_difference(expected.params, state.params) > 1e-2


@pytest.mark.parametrize("run", ["jit", "pmap"])
def test_draws_follow_examples_to_other_devices(run):
  batch = BATCHES[0]
  turned = jax.tree.map(lambda x: np.ascontiguousarray(x[::-1]), batch)
  (a, _), (b, _) = (take_steps(run, [x]) for x in (batch, turned))
  assert largest_difference(a.params, b.params) < 1e-5
  other, _ = take_steps(run, [{**batch, "index": batch["index"][::-1].copy()}])
  assert largest_difference(a.params, other.params) > 1e-3


@pytest.mark.parametrize("run", ["jit", "pmap", pytest.param("space", marks=pytest.mark.slow)])
def test_batch_of_void_gives_no_gradient(run):
  batch = {**BATCHES[0], "mask": np.full_like(BATCHES[0]["mask"], VOID)}
  state, losses = take_steps(run, [batch])
  assert losses == 0
  chex.assert_trees_all_equal(state.params, make_run(run)[1].params)
  chex.assert_tree_all_finite(state)


@pytest.mark.parametrize("run", RUNS)
def test_state_is_donated_and_stays_whole_on_all_devices(run):
  step, state = make_run(run)
  mesh, strategy = RUNS[run]
  before, key = parallel.replicate(mesh, state), parallel.replicate(mesh, jax.random.key(3))
  after, metrics = step(before, parallel.put_on_mesh(mesh, BATCHES[0], strategy), key)
  assert all(x.is_deleted() for x in jax.tree.leaves(before))
  for x in jax.tree.leaves((after, metrics)):
    assert x.is_fully_replicated and len(x.sharding.device_set) == mesh.size
  assert not key.is_deleted()


def test_all_losses_are_compared():
  assert FACTORS.keys() == LOSSES.keys()


def test_unknown_strategy_is_refused():
  with pytest.raises(UserError, match="'pjit'.*jit, pmap"):
    parallel.distribute_step(lambda: None, ALL, "pjit")


def test_put_on_mesh_gives_each_device_its_examples():
  batch = {"index": np.arange(16, dtype=np.int32), "mask": np.zeros((16, 4, 4), np.uint8)}
  split = parallel.put_on_mesh(ALL, batch, "jit")
  assert {k: (x.shape, x.dtype) for k, x in split.items()} == {
    k: (x.shape, x.dtype) for k, x in batch.items()
  }
  for i, shard in enumerate(split["index"].addressable_shards):
    assert shard.device == jax.devices()[i]
    np.testing.assert_array_equal(shard.data, [2 * i, 2 * i + 1])
  stacked = parallel.put_on_mesh(ALL, batch, "pmap")
  assert stacked["mask"].shape == (8, 2, 4, 4)
  np.testing.assert_array_equal(stacked["index"], np.arange(16).reshape(8, 2))


def test_replicate_keeps_values_types_and_keys():
  key = jax.random.key(7, impl="rbg")
  tree = {"a": np.float32([1, 2]), "n": jnp.zeros((), jnp.int32), "key": key}
  copies = parallel.replicate(ALL, tree)
  for name, x in copies.items():
    assert x.is_fully_replicated and len(x.sharding.device_set) == 8
    assert (x.shape, x.dtype) == (tree[name].shape, tree[name].dtype)
  np.testing.assert_array_equal(copies["a"], tree["a"])
  np.testing.assert_array_equal(jax.random.key_data(copies["key"]), jax.random.key_data(key))


def test_batch_size_has_to_fit_the_devices():
  spatial.check_batch_size(16)
  spatial.check_batch_size(32, accumulation_steps=2)
  spatial.check_batch_size(4, accumulation_steps=2, space=4)
  with pytest.raises(UserError, match=r"batch_size` is 12, .* 8 \(8 devices\)$"):
    spatial.check_batch_size(12)
  with pytest.raises(UserError, match=r" is 24, .* 16 \(8 devices times 2 accumulation steps\)$"):
    spatial.check_batch_size(24, accumulation_steps=2)


def test_others_wait_before_they_are_told(monkeypatch):
  """Without a limit, as process 0 may work for hours; the broadcast itself has one."""
  done = []
  monkeypatch.setattr(parallel.jax, "process_count", lambda: 2)
  monkeypatch.setattr(parallel, "wait_for_all", lambda: done.append("waited"))
  monkeypatch.setattr(parallel, "from_main", lambda x: done.append("told") or x)
  assert parallel.json_from_main({"a": [1]}) == {"a": [1]}
  assert done == ["waited", "told", "told"]


def test_one_process_keeps_what_it_has():
  counts = np.array([3, 2**40, -5])
  np.testing.assert_array_equal(parallel.sum_over_processes(counts), counts)
  np.testing.assert_array_equal(parallel.rows_of_processes(counts), counts)
  assert parallel.json_from_main({"a": [1]}) == {"a": [1]}
  chex.assert_trees_all_equal(parallel.from_main({"a": counts}), {"a": counts})


def exchange(monkeypatch, *others):
  """Processes that send these arrays, one a call; as in the real one, 32 bits of them arrive."""
  queue = list(others)
  monkeypatch.setattr(jax, "process_count", lambda: 2)

  def gather(x):
    return np.asarray(jnp.stack([x, queue.pop(0).view(np.int32)]))

  monkeypatch.setattr(multihost_utils, "process_allgather", gather)


def test_sum_over_processes_is_exact(monkeypatch):
  mine = np.array([[3, 2**40 + 7, 2**31 - 1, 2**31], [-5, -(2**45) - 1, 0, 2**62]])
  others = np.array([[0, 2**41 + 2**31 - 1, 1, 2**31], [4, 17, 0, -1]])
  exchange(monkeypatch, others)
  total = parallel.sum_over_processes(mine)
  assert total.dtype == np.int64
  np.testing.assert_array_equal(total, mine + others)


@pytest.mark.parametrize("num_rows", [7, 6, 1])
def test_rows_of_processes_are_in_order(monkeypatch, num_rows):
  """Examples 0, 2, 4 ... of one process, 1, 3, 5 ... of the other; bit for bit, NaN as well."""
  rows = np.random.default_rng(0).normal(0, 1e9, (num_rows, 3))
  rows[-1, 1] = np.nan
  mine, others = rows[0::2], rows[1::2]
  padded = np.zeros_like(mine)
  padded[: len(others)] = others
  exchange(monkeypatch, np.array([len(others)]), padded)
  np.testing.assert_array_equal(parallel.rows_of_processes(mine), rows)


TORCHRUN = {"MASTER_ADDR": "host", "MASTER_PORT": "29500", "WORLD_SIZE": "4", "RANK": "3"}
ON_NODE = {**TORCHRUN, "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
SLURM = {"SLURM_NTASKS": "2", "SLURM_PROCID": "1"}


def joined(address, num_processes, process_id, **more):
  return {
    "coordinator_address": address,
    "num_processes": num_processes,
    "process_id": process_id,
    **more,
  }


@pytest.mark.parametrize(
  "environ, settings, expected",
  [
    ({}, {}, None),
    ({"PATH": "/bin"}, {"coordinator": "", "num_processes": 0, "process_id": -1}, None),
    # torchrun
    (TORCHRUN, {}, joined("host:29500", 4, 3)),
    # ... which itself listens on that port
    ({**TORCHRUN, "TORCHELASTIC_RUN_ID": "none"}, {}, joined("host:29501", 4, 3)),
    ({"WORLD_SIZE": "1"}, {}, None),
    ({**TORCHRUN, "WORLD_SIZE": "1", "RANK": "0"}, {}, None),
    # ... whose processes see all GPUs of their machine, unless the user has shared them out
    (ON_NODE, {}, joined("host:29500", 4, 3, local_device_ids=[1])),
    (
      {**ON_NODE, "CUDA_VISIBLE_DEVICES": "4,5"},
      {},
      joined("host:29500", 4, 3, local_device_ids=[1]),
    ),
    ({**ON_NODE, "CUDA_VISIBLE_DEVICES": "5"}, {}, joined("host:29500", 4, 3)),
    ({**ON_NODE, "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}, {}, joined("host:29500", 4, 3)),
    # Slurm and TPU pods, where JAX finds out by itself
    (SLURM, {}, {}),
    ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, {}, None),
    ({"SLURM_NTASKS": "2"}, {}, None),  # salloc without srun
    ({**TORCHRUN, **SLURM}, {}, joined("host:29500", 4, 3)),
    ({"TPU_WORKER_HOSTNAMES": "10.0.0.1,10.0.0.2"}, {}, {}),
    ({"TPU_WORKER_HOSTNAMES": "localhost"}, {}, None),
    # config.parallel comes first
    ({}, {"coordinator": "h:1", "num_processes": 2, "process_id": 0}, joined("h:1", 2, 0)),
    (
      {**TORCHRUN, **SLURM},
      {"coordinator": "h:1", "num_processes": 2, "process_id": 1},
      joined("h:1", 2, 1),
    ),
  ],
)
def test_process_environment(environ, settings, expected):
  assert parallel.process_environment(environ, **settings) == expected


@pytest.mark.parametrize(
  "environ, settings, message",
  [
    ({"WORLD_SIZE": "2", "RANK": "0"}, {}, "not MASTER_ADDR, MASTER_PORT;"),
    ({k: v for k, v in TORCHRUN.items() if k != "RANK"}, {}, "not RANK;"),
    ({**TORCHRUN, "RANK": "4"}, {}, "RANK is 4.*4"),
    ({**TORCHRUN, "RANK": "-1"}, {}, "RANK is -1"),
    ({**TORCHRUN, "RANK": "one"}, {}, "RANK is 'one'"),
    ({"WORLD_SIZE": "two"}, {}, "WORLD_SIZE is 'two'"),
    ({}, {"coordinator": "h:1"}, "num_processes.*'h:1', 0, -1"),
    ({}, {"num_processes": 2}, "coordinator=HOST:PORT"),
    ({}, {"coordinator": "h", "num_processes": 2, "process_id": 0}, "coordinator=HOST:PORT"),
    ({}, {"process_id": 0}, "coordinator=HOST:PORT"),
    ({}, {"coordinator": "h:1", "num_processes": 2}, "process_id"),
    ({}, {"coordinator": "h:1", "num_processes": 2, "process_id": 2}, "process_id"),
    (TORCHRUN, {"coordinator": "h:1"}, "num_processes"),  # not silently torchrun's
  ],
)
def test_incomplete_process_environment_is_refused(environ, settings, message):
  with pytest.raises(UserError, match=message):
    parallel.process_environment(environ, **settings)


@pytest.mark.parametrize("text, reason", [("no such host\nand more", "no such host"),
                                          ("", "RuntimeError")])
def test_start_processes_names_what_it_could_not_join(monkeypatch, text, reason):
  def fail(**arguments):
    raise RuntimeError(text)

  monkeypatch.setattr(jax.distributed, "initialize", fail)
  for name, value in TORCHRUN.items():
    monkeypatch.setenv(name, value)
  with pytest.raises(UserError, match=rf"host:29500.*: {reason}$"):
    parallel.start_processes(contextlib.nullcontext)


@pytest.mark.parametrize(
  "fault, message",
  [
    (RuntimeError("Unable to initialize backend 'tpu'\nand more"), "backend 'tpu'$"),
    (AssertionError(), "correct or unset JAX_PLATFORMS$"),
  ],
)
def test_platforms_that_are_not_there(monkeypatch, fault, message):
  def fail():
    raise fault

  monkeypatch.setattr(jax, "devices", fail)
  with pytest.raises(UserError, match=f"^JAX has no devices: .*{message}"):
    parallel.start_processes(contextlib.nullcontext)


def test_convolutions_are_left_to_eigen(monkeypatch):
  """By an option that is left out if a later JAX does not know it, or if the user sets it."""
  x, kernel = jnp.ones((1, 64, 64, 32)), jnp.ones((3, 3, 32, 32))

  def kinds():
    """Whether the main program has a convolution, and whether one of YNNPACK."""
    parallel.compiler_options.cache_clear()
    step = parallel.distribute_step(
      lambda state, x, kernel: (jax.nn.relu(
        jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME",
                                     dimension_numbers=("NHWC", "HWIO", "NHWC"))), 0.0),
      jax.sharding.Mesh(np.array(jax.devices()[:1]), (parallel.AXIS,)), "jit",
    )  # fmt: skip
    text = step.lower(0.0, x, kernel).compile().as_text().partition("\nENTRY")[2]
    return " convolution(" in text, "ynn_fusion" in text

  device, known = jax.devices()[0], parallel.CPU_OPTIONS
  name = "xla_cpu_experimental_ynn_fusion_type"
  others = {option: value for option, value in known.items() if option != name}
  try:
    assert kinds() == (True, False) and parallel.compiler_options(device) == known
    monkeypatch.setattr(parallel, "CPU_OPTIONS", {"xla_cpu_no_such_option": "1", **known})
    assert kinds() == (True, False) and parallel.compiler_options(device) == known
    monkeypatch.setenv("XLA_FLAGS", f"--xla_cpu_x=1 --{name}_x=1 --no{name}_y")
    assert kinds() == (True, False)
    monkeypatch.setenv("XLA_FLAGS", f"--xla_cpu_x=1 --{name}=LIBRARY_FUSION_TYPE_REDUCE")
    assert kinds() == (False, True) and parallel.compiler_options(device) == others
  finally:
    parallel.compiler_options.cache_clear()
