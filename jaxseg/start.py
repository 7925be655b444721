"""The start of the command: its help, and settings for the allocator.

It needs nothing but the standard library, because it runs before JAX is imported.
"""

import contextlib
import os
import runpy
import sys
from collections.abc import Sequence

from jaxseg import interrupts

HELP = """\
Train, score and use semantic segmentation networks.

  jaxseg --config=configs/unet_cells.py     train, or resume; into runs/unet_cells
  jaxseg --mode=evaluate --workdir=DIR      score the best checkpoint of a run
  jaxseg --mode=report --workdir=A,B        compare runs: a page of what got better or worse
  jaxseg --mode=calibrate --workdir=DIR     fit the temperature of the probabilities
  jaxseg --mode=predict --workdir=DIR --input=FILE|DIR --output=DIR
  jaxseg --mode=predict --model=torchvision:deeplabv3_resnet50 --input=FILE|DIR --output=DIR
  jaxseg --mode=export --workdir=DIR        write a file that runs without jaxseg
  jaxseg --mode=pack --workdir=DIR --output=DIR     one folder to share, with a model card
  jaxseg --mode=summary --workdir=DIR       parameters, operations and memory of the network
  jaxseg --mode=check_data --config=FILE    read all data and report what is wrong with them
  jaxseg --mode=keys                        list all config keys

  --mode=MODE           train unless it is given; the others are above
  --input, --output     predict: images, label maps. --output: also where evaluate, report, export
                        and pack write
  --config=FILE         a file of configs/, or yours; a run knows its own
  --config.KEY=VALUE    another value for a single key, as often as needed
  --workdir=DIR         folder of the run; default: runs/NAME_OF_CONFIG
  --model=NAME|FILE|DIR a published network in place of a run: docs/published.md
  --workdir or --model=DIR|hf:OWNER/NAME    a packed network, here or on the Hugging Face Hub
  --picture             pack: with the sheet of predictions, which shows images of the data
  --overwrite           predict: also what is in the output folder already
  --help, --version

`python -m jaxseg.main` is the same as `jaxseg`. The documentation is in docs/.
"""

# A training step frees and takes gigabytes of buffers, and glibc by default returns each of them to
# the system: 100,000 page faults a step. So: keep what is freed, and use huge pages.
TUNABLES = {
  "hugetlb": 1,  # transparent huge pages
  "mmap_max": 0,  # no block is mapped by itself
  "trim_threshold": 1 << 40,  # bytes; the top of the heap is not returned
  "top_pad": 1 << 26,  # bytes; the heap grows by this at least
}


def asks_for_help(arguments: Sequence[str]) -> bool:
  """Whether the flags ask for the help above."""
  return bool({"--help", "-help", "-h", "--helpfull"}.intersection(arguments))


def prepare() -> None:
  """Prints the help and ends, or sets this process up for the rest of the command."""
  if asks_for_help(sys.argv):
    try:
      print(HELP, end="", flush=True)
    except BrokenPipeError:
      sys.exit(leave_pipe())
    sys.exit(0)
  if _is_alone():
    tune_allocator()
    interrupts.watch()


def leave_pipe() -> int:
  """The exit status after a BrokenPipeError, as in `jaxseg --mode=keys | head`."""
  # What is left in the buffer cannot go to the pipe when Python ends.
  os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
  return 141


def tune_allocator() -> None:
  """Starts this program anew with glibc's malloc set to `TUNABLES`; does nothing if it is set.

  Only with glibc 2.35 or newer, and not if $GLIBC_TUNABLES is there already. The number of the
  process stays. The process has to be for this program alone.
  """
  if "GLIBC_TUNABLES" in os.environ or _glibc() < (2, 35):
    return
  settings = (f"glibc.malloc.{name}={value}" for name, value in TUNABLES.items())
  os.environ["GLIBC_TUNABLES"] = ":".join(settings)
  with contextlib.suppress(OSError):  # it runs without them, too
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _is_alone() -> bool:
  """Whether Python was started for this command: by name, not in a notebook or a script that runs
  it, nor in a debugger, which would lose its breakpoints.
  """
  names = {os.path.basename(word.removeprefix("-m")) for word in sys.orig_argv}
  debuggers = {"bdb", "pydevd"} & sys.modules.keys()
  return not debuggers and not names.isdisjoint({"jaxseg", "jaxseg.main"})


def _glibc() -> tuple[int, ...]:
  """The version of glibc; () without it."""
  try:
    name, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
  except (AttributeError, OSError, ValueError):
    return ()
  return tuple(map(int, version.split(".")[:2])) if name == "glibc" else ()


def main() -> None:
  """Entry point of the command `jaxseg`."""
  runpy.run_module("jaxseg.main", run_name="__main__", alter_sys=True)
