"""What all tests share: eight CPU devices, fast compilation, one cache of compiled programs."""

import gc
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import threading

import command
import pytest

# What a shell starts in the background ignores Ctrl-C, as do the programs that it starts.
if threading.current_thread() is threading.main_thread():
  signal.signal(signal.SIGINT, signal.default_int_handler)
gc.set_threshold(100_000, 50, 50)  # tracing makes many objects: a tenth of the time
NUM_DEVICES = 8
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["KERAS_BACKEND"] = "jax"
os.environ["XLA_FLAGS"] = (
  f"{os.environ.get('XLA_FLAGS', '')} {command.FAST}"
  f" --xla_force_host_platform_device_count={NUM_DEVICES}"
)
# Workers share the cores, which leaves nothing for the threads of NumPy.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
  os.environ.setdefault(variable, "1")
os.environ["HF_HUB_OFFLINE"] = "1"  # read, like HF_HOME, when Hugging Face datasets is imported
CACHE = "JAX_COMPILATION_CACHE_DIR"  # JAX keys by program, flags and devices; JAX reads this
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
NOT_RUN = pytest.StashKey()  # number of slow tests that were left out
DIED = pytest.StashKey()  # a line for each worker process that did


def pytest_addoption(parser):
  parser.addoption("--slow", action="store_true", help="run the tests marked slow, too")


def pytest_configure(config):
  config.stash[NOT_RUN], config.stash[DIED] = 0, []
  if CACHE not in os.environ:
    # Anew for each session, as a process killed while it writes leaves half a program behind.
    # Worker processes and the programs that tests start inherit it.
    os.environ[CACHE] = folder = tempfile.mkdtemp(prefix="jaxseg-xla-")
    os.environ["HF_HOME"] = f"{folder}/huggingface"
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


def pytest_sessionstart(session):
  if session.config.getoption("numprocesses", None) and not hasattr(session.config, "workerinput"):
    return  # of these processes, only the workers run tests
  import jax

  # chex leaves out pmap variants without a word when there is one device.
  assert jax.device_count() == NUM_DEVICES, jax.devices()


def pytest_collection_modifyitems(config, items):
  if not config.getoption("slow"):
    slow = [item for item in items if item.get_closest_marker("slow")]
    items[:] = [item for item in items if item not in slow]
    config.hook.pytest_deselected(items=slow)
    config.stash[NOT_RUN] = len(slow)


def pytest_sessionfinish(session):
  if hasattr(session.config, "workerinput"):
    session.config.workeroutput["not_run"] = session.config.stash[NOT_RUN]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
  """The process that starts the workers learns from them, who alone collect, what was left out."""
  node.config.stash[NOT_RUN] = getattr(node, "workeroutput", {}).get("not_run", 0)
  if error:
    status = node.gateway._io.popen.wait(timeout=60)  # execnet has no public name for it
    node.config.stash[DIED].append(f"{node.gateway.id}: exit status {status} (-N: by signal N)")


def pytest_terminal_summary(terminalreporter, config):
  if died := config.stash[DIED]:
    terminalreporter.section("worker processes that died", sep="=")
    terminalreporter.write_line("\n".join(died))
  if number := config.stash[NOT_RUN]:
    terminalreporter.section("not run", sep="=")
    terminalreporter.write_line(f"{number} slow tests were left out; --slow runs them")


@pytest.fixture(autouse=True)
def signals_stay_as_they_are():
  """What a test leaves behind that listens to signals may end the process in another test."""
  numbers = signal.SIGINT, signal.SIGTERM
  before, hook = [signal.getsignal(number) for number in numbers], sys.excepthook
  yield
  listener = signal.set_wakeup_fd(-1)  # nobody listens any more
  after = [signal.getsignal(number) for number in numbers]
  for number, handler in zip(numbers, before, strict=True):
    signal.signal(number, handler)
  assert listener == -1 and after == before and sys.excepthook is hook


@pytest.fixture
def data_dir():
  """Folder of the development data (tfds/, isbi2012/, camvid/)."""
  folder = os.environ.get("JAXSEG_TEST_DATA")
  if not folder:
    pytest.skip("JAXSEG_TEST_DATA is not set: real data are not tested")
  return pathlib.Path(folder)


@pytest.fixture
def photos(monkeypatch):
  """Makes the data set of `tiny` known, as "photos"."""
  import tiny

  from jaxseg.data import datasets

  monkeypatch.setitem(datasets.DATASETS, "photos", tiny.load_photos)
