"""The command line; `start` has its help."""

from jaxseg import start

if __name__ == "__main__":
  start.prepare()  # before JAX is imported

import functools
import os
import pathlib
import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from absl import flags, logging
from ml_collections import ConfigDict, config_flags

import jaxseg
from jaxseg import (
  DataWarning,
  UserError,
  command_end,
  each_seed,
  exporting,
  faults,
  modes,
  packed,
  packing,
  parallel,
  peers,
  prediction,
  public,
  reports,
  results,
  schema,
  seed_scores,
  settings,
  workdirs,
)
from jaxseg.check_data import check_data
from jaxseg.config_files import config_error
from jaxseg.printing import say
from jaxseg.training import train

MODES = ("train", "evaluate", "predict", "export", "pack", "report", "calibrate", "check_data",
         "summary", "keys")  # fmt: skip
# The library reads the file; its --config.KEY=VALUE flags, taken from sys.argv, are ours to parse.
CONFIG = config_flags.DEFINE_config_file(
  "config", help_string="a file of configs/; not needed for an existing run", sys_argv=["jaxseg"]
)
MODE = flags.DEFINE_enum("mode", "train", MODES, "what to do; keys: list all config keys")
WORKDIR = flags.DEFINE_string("workdir", "", "folder of the run; report: A,B; default: runs/CONFIG")
MODEL = flags.DEFINE_string("model", "", "a published network, its file or folder, or a run")
INPUT = flags.DEFINE_string("input", "", "predict: an image, or a folder of images")
OUTPUT = flags.DEFINE_string("output", "", "folder for what a mode writes")
PICTURE = flags.DEFINE_bool("picture", False, "pack: with the sheet of predictions")
OVERWRITE = flags.DEFINE_bool("overwrite", False, "predict: make again what is there")
# Modes that use a flag; all use the others.
USES = {"input": ("predict",), "overwrite": ("predict",), "picture": ("pack",)}
USES |= {"model": ("predict", "evaluate", "export")}
USES |= {"output": ("predict", "evaluate", "export", "pack", "report", "keys")}
# What to do instead in modes that write into the work directory, if that is a packed network.
WRITES = {"check_data": "give --config, and another --workdir", "export": "give --output=DIR"}
WRITES |= {"report": "give runs as --workdir"}


def split_arguments(arguments: Sequence[str]) -> tuple[dict[str, str | None], list[str]]:
  """Takes --config.KEY=VALUE out of the arguments.

  Returns:
    ({"train.batch_size": "8", or None without a value}, all other arguments)
  """
  overrides, others, rest = {}, [], list(arguments)
  while rest:
    argument = rest.pop(0)
    if match := re.match(r"--?config\.([^=]*)(?:=(.*))?$", argument, re.DOTALL):
      key, text = match.groups()
      if text is None and rest and re.match(r"[^-]|-[\d.]|$", rest[0]):  # --config.KEY VALUE
        text = rest.pop(0)
      if overrides.setdefault(key, text) != text:
        say(f"note: --config.{key} is given twice; the last counts, {text!r}", sys.stderr)
      overrides[key] = text
    elif re.match("--?(config|workdir|model|input|output)=", argument):  # shells leave ~ there
      others.append(re.sub("(?<=[=,])~(?=/|,|$)", lambda x: os.path.expanduser(x[0]), argument))
    else:
      others.append(argument)
  return overrides, others


def parse(arguments: Sequence[str]) -> ConfigDict | None:
  """Sets the flags; returns the config file's config, or None if there is no --config.

  Raises:
    UserError: a flag that does not exist, or a config file that cannot be read.
  """
  # A config may import files beside it.
  folder = str(pathlib.Path(config_path(arguments)).absolute().parent)
  if config_path(arguments) and folder not in sys.path:
    sys.path.append(folder)
  try:
    rest = flags.FLAGS(arguments)
    config = CONFIG.value
    getattr(config, "lock", None)  # raises the OSError if there is no such file
  except (Exception, GeneratorExit, SystemExit) as error:  # a config file is a program
    raise config_error(config_path(arguments), error) from error
  if len(rest) > 1:
    raise UserError(f"{rest[1]!r} is not a flag; flags are --NAME=VALUE, --help lists them")
  path = config_path(arguments)
  if not path:
    return None
  if not isinstance(config, ConfigDict):
    raise UserError(f"{path}: get_config() returns {type(config).__name__}, not a ConfigDict")
  return config.lock()


def config_path(arguments: Sequence[str]) -> str:
  """The path that --config gives; "" without the flag."""
  path = ""
  for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
    if match := re.match("--?config(=(.*))?$", argument):
      path = match[2] if match[1] else following
  return path


def check_flags(mode: str) -> None:
  """Raises UserError for a flag that this mode does not use."""
  for flag, modes_ in USES.items():
    if flags.FLAGS[flag].present and mode not in modes_:
      raise UserError(f"--{flag} is for --mode={', '.join(modes_)}; leave it out of --mode={mode}")


def print_keys(output: str) -> None:
  """Prints all config keys, or writes them to config.md in a folder."""
  keys = settings.declared_keys()
  if not output:
    print(schema.describe_keys(keys))
    return
  workdirs.make_folder(output, "--output")
  workdirs.write_file(pathlib.Path(output) / "config.md", schema.keys_page(keys).encode())


def work_directories() -> list[str]:
  """What --workdir names; for --mode=report that may be several, with commas between."""
  text = WORKDIR.value
  is_one = MODE.value != "report" or pathlib.Path(text).exists()
  return [text] if is_one else text.split(",")


def meeting_place(
  file_config: ConfigDict | None, overrides: Mapping[str, str | None]
) -> ConfigDict:
  """config.parallel, which does not come from a run: only process 0 may have its folder."""
  has_it = file_config is not None and "parallel" in file_config  # else `configure` refuses it
  config = file_config if has_it else settings.from_run({})
  given = {name: text for name, text in overrides.items() if name.startswith("parallel.")}
  return settings.override(config, settings.parse_overrides(config, given)).parallel


def read_run(place: str | pathlib.Path, *, to_resume: bool = False) -> ConfigDict | None:
  """`settings.read_run` in process 0, for all; to resume, with how devices share images."""
  saved = parallel.on_main(settings.read_saved, place)
  if saved is None:
    return None
  space = saved.get("parallel", {}).get("space", 1) if to_resume else 1
  return settings.override(settings.from_run(saved), {"parallel.space": space})


def configure(
  arguments: Sequence[str], file_config: ConfigDict | None, overrides: Mapping[str, str | None]
) -> tuple[str | pathlib.Path, ConfigDict, dict[str, Any]]:
  """(work directory or published network, config, {key: value} of the flags).

  Without a file, it is the run's own config.
  """
  if model := MODEL.value:
    if WORKDIR.value:
      raise UserError("--model is in place of --workdir: leave one of them out")
    if not parallel.on_main(packed.is_packed, model):  # only process 0 may have its folder
      parallel.on_main(public.check_use, model, MODE.value, file_config is not None, OUTPUT.value)
      own = None if parallel.on_main(public.is_published, model) else read_run(model)
      config = file_config or own or settings.from_run({})
      values = settings.parse_overrides(config, overrides)
      return model, settings.override(config, values) if file_config else config, values
  if MODE.value == "report":
    file_config = None  # which only fills tables: configs are those of the runs
  place = parallel.on_main(lambda: str(packed.find(MODEL.value or work_directories()[0])))
  if file_config is None and not place:
    config_example, run_example = "--config=configs/unet_cells.py", "--workdir=runs/unet_cells"
    if MODE.value in ("evaluate", "calibrate", "report", "predict", "export", "pack"):
      or_model = ", or --model" if MODE.value in USES["model"] else ""
      raise UserError(
        f"--workdir is missing; give that of a trained run, as in {run_example}{or_model}"
      )
    or_run = f", or {run_example}" if MODE.value in ("check_data", "summary") else ""
    raise UserError(f"--config is missing; give it, as in {config_example}{or_run}")
  name = pathlib.Path(config_path(arguments)).stem or "run"
  workdir = pathlib.Path(place or f"runs/{name}")
  if MODE.value in WRITES and not (MODE.value == "export" and OUTPUT.value):
    for path in (workdir, *work_directories()[1:]):
      packed.check_is_none(path, WRITES[MODE.value])
  if MODE.value == "train" and (of_run := workdirs.run_of(workdir)) != workdir:
    raise UserError(f"{workdir} is a checkpoint: resume its run with --workdir={of_run}")
  config = file_config
  is_elsewhere = MODE.value == "report" and parallel.on_main(results.is_of_other_network, workdir)
  if config is None and not is_elsewhere:
    config = read_run(workdir, to_resume=MODE.value == "train")
  donor = os.path.expanduser(overrides.get("model.init_from") or "")
  if config is None and donor and MODE.value == "train":  # a new run like that one
    config = public.read_config(donor) or read_run(donor)
    if config is None:
      raise UserError(f"{donor} has no checkpoint: correct --config.model.init_from")
    # A temperature is of one checkpoint.
    config = settings.override(config, {"predict.temperature": 0.0})
  if config is None and MODE.value == "report" and (workdir / "evaluation.json").is_file():
    config = settings.from_run({})  # of a network that was trained elsewhere
  if config is None:
    remedy = "add --config to train" if MODE.value == "train" else "train first"
    raise UserError(f"{workdir} has no checkpoint; correct --workdir, or {remedy}")
  with settings.own_entries(file_config is None):
    values = settings.parse_overrides(config, overrides)
    config = settings.override(config, values)
    settings.check(config if MODE.value in ("train", "check_data") else settings.for_use(config))
  return workdir, config, values


def run(arguments: Sequence[str]) -> int:
  """Runs the mode that the flags ask for; returns the exit status."""
  if start.asks_for_help(arguments):
    print(start.HELP, end="")
    return 0
  if "--version" in arguments:
    print(f"jaxseg {jaxseg.__version__}, JAX {jax.__version__}")
    return 0
  overrides, arguments = split_arguments(arguments)
  file_config, mode = parse(arguments), MODE.value
  check_flags(mode)
  if mode == "keys":
    print_keys(OUTPUT.value)
    return 0
  parallel.use_compilation_cache()
  if mode != "train":  # in training, it makes SIGTERM a request for a checkpoint
    jax.config.update("jax_enable_preemption_service", False)
  meeting = meeting_place(file_config, overrides)
  names = ("coordinator", "num_processes", "process_id")
  joining = functools.partial(peers.joining, meeting.initialization_timeout)
  parallel.start_processes(joining, **{name: meeting[name] for name in names})
  workdir, config, values = configure(arguments, file_config, overrides)
  given = None if file_config is None else config
  if mode == "predict":
    if not INPUT.value or not OUTPUT.value:
      raise UserError("--mode=predict needs --input=FILE|DIR and --output=DIR")
    options = {"config": given, "overwrite": OVERWRITE.value}
    prediction.predict_folder(workdir, INPUT.value, OUTPUT.value, values, **options)
  elif mode == "report":
    say(f"report: {reports.report(work_directories(), output=OUTPUT.value, overrides=values)}")
  elif mode == "evaluate":
    scores = each_seed.evaluate(workdir, values, config=given, output=OUTPUT.value or None)
    each_seed.print_scores(scores)
  elif mode == "calibrate":
    for line in each_seed.describe(each_seed.calibrate(workdir, values, config=given)):
      say(line)
  elif mode == "export":
    output = OUTPUT.value or workdirs.run_of(workdir) / "export"
    exporting.export_run(workdir, output, values, config=given)
  elif mode == "pack":
    if values or not OUTPUT.value:
      fault = f"takes a run as it is: leave out --config.{min(values)}" if values else ""
      raise UserError(f"--mode=pack {fault or 'needs --output=DIR'}")
    packing.pack(workdir, OUTPUT.value, picture=PICTURE.value)
  elif mode == "summary":
    for line in modes.summarize(config).split("\n"):
      say(line)
  elif mode == "check_data":
    return int(any(finding.severity == "error" for finding in check_data(config, workdir)))
  elif not train(config, workdir):
    print("stopped after a checkpoint; re-running the command resumes", file=sys.stderr)
    return 143
  elif config.train.num_seeds > 1:
    seed_scores.say_table(seed_scores.read(workdir))
    say(f"scores: {workdir}/seeds.json   plots: {workdir}/plots/   runs: {workdir}/seed_*/")
  elif parallel.is_main():
    say(f"scores: {workdir}/evaluation.json   plots: {workdir}/plots/")
  return 0


def warn_of_data(show: Callable) -> Callable:
  """`warnings.showwarning` that prints a DataWarning as one line, see `notebook.warn`."""

  def show_warning(message, category, *place, **options):
    if not issubclass(category, DataWarning):
      show(message, category, *place, **options)
    elif parallel.is_main():
      say(f"note: {settings.with_keys(str(message))}", sys.stderr)

  return show_warning


def main() -> None:
  """Entry point; what ends the command early is one line, see `command_end.leave`."""
  logging.set_verbosity(logging.FATAL)  # what Orbax and JAX log as an error, they raise, too
  logging.use_absl_handler()
  warnings.showwarning = warn_of_data(warnings.showwarning)
  try:
    status = run(sys.argv)
    peers.wait_for_all()  # JAX would end those that are busy for five minutes longer
    print(end="", flush=True)
    sys.exit(status)
  except (Exception, KeyboardInterrupt) as error:
    sys.exit(command_end.leave(error))


if __name__ == "__main__":
  faults.quiet_threads()
  main()
