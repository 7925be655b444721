"""The step of a config for one seed, and the ways to take that of several in one program."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from jaxseg import build, models, parallel, seed_axis, train_state
from jaxseg.augment import Augmentation
from jaxseg.train_step import make_train_step

WAYS = ("one", "loop", "written out", "vmap")


def make_step(config, info):
  """(step, function of a seed that makes its first state)"""
  model = build.build_model(config, info)
  optimizer, _ = build.build_optimizer(config, 1000, 10.0)
  step = make_train_step(
    model,
    optimizer,
    losses=build.selected_losses(config),
    class_weights=jnp.ones(len(info.classes)),
    augmentation=Augmentation(**config.augment),
  )

  def first(seed):
    return train_state.create(models.init(model, info.channels, seed), optimizer)

  return step, first


def make_way(way, step, num_seeds, device):
  """A jitted step on one device; but for "one", all arguments have a first axis for the seeds."""
  mesh = seed_axis.make_mesh(num_seeds, [device])
  ways = {
    "one": step,
    "loop": seed_axis.over_seeds(step, mesh, loop=True),
    "written out": seed_axis.over_seeds(step, mesh, loop=False),
    "vmap": jax.vmap(step),
  }
  whole = NamedSharding(mesh, PartitionSpec())
  options = {"in_shardings": whole, "out_shardings": whole, "donate_argnums": 0}
  return jax.jit(ways[way], **options, compiler_options=parallel.compiler_options(device))
