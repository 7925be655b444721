"""The command line of jaxseg.

python -m jaxseg.main --config=configs/unet_pets.py [--workdir=DIR]
  [--mode=train|evaluate|predict|export|check_data] [--config.KEY=VALUE ...]
  [--input=FILE|DIR] [--output=DIR]
"""

import os
import pathlib
import re
import sys

import jax
from absl import flags, logging
from ml_collections import config_flags

from jaxseg import UserError, experiment, parallel
from jaxseg.check_data import check_data
from jaxseg.train import train

MODES = ("train", "evaluate", "predict", "export", "check_data")
CONFIG = config_flags.DEFINE_config_file("config", help_string="a file of configs/")
MODE = flags.DEFINE_enum("mode", "train", MODES, "what to do")
WORKDIR = flags.DEFINE_string("workdir", "", "folder of the run; default: runs/NAME OF THE CONFIG")
INPUT = flags.DEFINE_string("input", "", "predict: an image, or a folder of images")
OUTPUT = flags.DEFINE_string("output", "", "predict, export: folder for what is written")


def parse(arguments):
  """The config; raises UserError for flags, keys and values that do not exist."""
  try:
    rest = flags.FLAGS(arguments)
    if len(rest) > 1:
      raise UserError(f"{rest[1]!r} is not a flag; flags are --NAME=VALUE, --help lists them")
    if CONFIG.value is None:
      raise UserError("--config is missing, for instance --config=configs/unet_cells.py")
    return CONFIG.value.lock()  # raises the OSError if there is no such file
  except flags.Error as error:
    # Of an exception in the config file, the text is the traceback and its last line says what.
    first, *rest = str(error).splitlines()
    raise UserError(f"{first} {rest[-1]}" if rest else first) from error
  except (SyntaxError, ImportError) as error:
    raise UserError(f"config file {config_path(arguments)}: {error}") from error
  except (AttributeError, KeyError) as error:
    # How ml_collections tells of an unknown key, in a flag or in the config file.
    if "get_config" in str(error):
      raise UserError(f"{config_path(arguments)} has no get_config(); see configs/") from error
    match = re.search(r'Did you mean "(.*?)" instead of "(.*?)"', str(error))
    wrong = match[2] if match else re.findall(r"\w+", str(error))[0]
    hint = f"did you mean {match[1]!r}?" if match else "configs/default.py has all keys"
    raise UserError(f"unknown config key {wrong!r}; {hint}") from error
  except OSError as error:
    raise UserError(f"no config file {config_path(arguments)!r}; see configs/") from error


def config_path(arguments):
  values = [a.split("=", 1)[1] for a in arguments if re.match("--?config=", a)]
  return values[-1] if values else ""


def run(arguments):
  """Does what the flags say; returns the exit status."""
  config = parse(arguments)
  name = pathlib.Path(config_path(arguments)).stem or "run"
  workdir = pathlib.Path(WORKDIR.value or f"runs/{name}")
  cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", pathlib.Path.home() / ".cache/jaxseg/xla")
  jax.config.update("jax_compilation_cache_dir", str(cache))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
  parallel.start_processes(**config.parallel)
  if MODE.value == "predict":
    if not INPUT.value or not OUTPUT.value:
      raise UserError("--mode=predict needs --input=FILE|DIR and --output=DIR")
    experiment.predict_folder(config, workdir, INPUT.value, OUTPUT.value)
  elif MODE.value == "evaluate":
    experiment.evaluate_workdir(config, workdir)
  elif MODE.value == "export":
    experiment.export_workdir(config, workdir, OUTPUT.value or workdir / "export")
  elif MODE.value == "check_data":
    return int(any(finding.severity == "error" for finding in check_data(config, workdir)))
  elif not train(config, workdir):
    print("stopped after a checkpoint; the same command goes on from there", file=sys.stderr)
    return 143
  elif jax.process_index() == 0:
    print(f"scores: {workdir}/evaluation.json   pictures: {workdir}/plots/")
  return 0


def main():
  logging.set_verbosity(logging.ERROR)  # Orbax and JAX tell more than a user wants to know
  logging.use_absl_handler()
  try:
    sys.exit(run(sys.argv))
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
  main()
