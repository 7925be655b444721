"""What it costs a TPU to cut batches out of data on the device, as its compiler estimates.

python experiments/on_device/compile_tpu.py

Needs the package libtpu (pip install 'jax[tpu]'), but no TPU. Prints a line for each way.
"""

import os
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxseg import on_device
from jaxseg.parallel import AXIS

NUM, HEIGHT, WIDTH = 367, 360, 512  # CamVid as `data.stored` keeps it on TPUs
BATCH, SIZE = 32, 256
GHZ = 1.5  # of v5e


def compile_step(mesh, is_split):
  """(estimated cycles, MiB of data, MiB of temporary memory) of one chip."""
  sharding = NamedSharding(mesh, PartitionSpec(AXIS))
  num = -(-NUM // mesh.size) if is_split else NUM

  def shape(*axes, dtype=jnp.int32):
    return jax.ShapeDtypeStruct(axes, dtype, sharding=sharding)

  batch = {
    "number": shape(BATCH),
    "starts": shape(BATCH, 2),
    "index": shape(BATCH),
    "stored": {
      "first": shape(mesh.size),
      "image": shape(mesh.size, num, HEIGHT, 3 * WIDTH, dtype=jnp.uint8),
      "mask": shape(mesh.size, num, HEIGHT, WIDTH, dtype=jnp.uint8),
    },
  }
  step = on_device.from_stored(lambda state, batch, *_: (state, batch), mesh, SIZE, is_split)
  compiled = jax.jit(lambda batch: step(0, batch, 0)[1]).lower(batch).compile()
  cycles = sum(map(int, re.findall(r'estimated_cycles"?:"?(\d+)', compiled.as_text())))
  memory = compiled.memory_analysis()
  sizes = (memory.argument_size_in_bytes, memory.temp_size_in_bytes)
  return cycles, *(size / 2**20 for size in sizes)


def main():
  os.environ |= {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
  }
  topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")
  mesh = Mesh(np.array(topology.devices), (AXIS,))
  for is_split in (False, True):
    cycles, data, temporary = compile_step(mesh, is_split)
    print(
      f"{'a share' if is_split else 'all data'} on each chip: {cycles} cycles, "
      f"{cycles / GHZ / 1000:.0f} us; {data:.1f} MiB of data, {temporary:.2f} MiB temporary"
    )


if __name__ == "__main__":
  main()
