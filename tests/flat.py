"""python tests/flat.py train|load|folder ...: memory of this process, every 20 steps or images.

Prints JSON: {"memory": [[number, MiB], ...], "programs": number that the predictor compiled}.
test_flat.py starts it, so that nothing else happens in the process.
"""

import ctypes
import gc
import itertools
import json
import os
import pathlib
import sys

import jax

import jaxseg
from configs import unet_cells
from jaxseg import predict_files, run

EVERY = 20
memory, programs = [], []
libc = ctypes.CDLL("libc.so.6")


def note(number):
  """Notes the memory that is in use, without what the C library keeps for later."""
  if number % EVERY == 0:
    gc.collect()
    libc.malloc_trim(0)
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    memory.append((number, pages * os.sysconf("SC_PAGE_SIZE") / 2**20))


def train(workdir, num_steps, values):
  config = unet_cells.get_config()
  config.update_from_flattened_dict(json.loads(values))
  config.train.num_epochs = int(num_steps) * config.train.batch_size / 512
  record = run.Run.record

  def noted(self, step, *rest, **more):
    record(self, step, *rest, **more)
    note(step)

  run.Run.record = noted
  assert jaxseg.train(config, workdir)


def load(workdir, images, number):
  network, files = jaxseg.load(workdir), sorted(pathlib.Path(images).iterdir())
  for i, file in zip(range(int(number)), itertools.cycle(files), strict=False):
    network(file)
    note(i + 1)


def folder(workdir, images, output):
  write, numbers = predict_files.write_png, itertools.count(1)

  def noted(path, *rest):
    write(path, *rest)
    if path.parent == pathlib.Path(output):
      note(next(numbers))

  predict_files.write_png = noted
  jaxseg.predict_folder(workdir, images, output)


def compiled(event, seconds, fun_name="", **_):
  if event.endswith("backend_compile_duration") and "forward" in fun_name:
    programs.append(fun_name)


if __name__ == "__main__":
  jax.monitoring.register_event_duration_secs_listener(compiled)
  {"train": train, "load": load, "folder": folder}[sys.argv[1]](*sys.argv[2:])
  print("\n" + json.dumps({"memory": memory, "programs": len(programs)}))
