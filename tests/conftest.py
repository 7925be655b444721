"""Eight CPU devices for every test, asked for before JAX starts."""

import os
import pathlib

import pytest

NUM_DEVICES = 8
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["KERAS_BACKEND"] = "jax"
os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "") + f" --xla_force_host_platform_device_count={NUM_DEVICES}"
)


def pytest_sessionstart(session):
  import jax

  # chex leaves out pmap variants without a word when there is one device.
  assert jax.device_count() == NUM_DEVICES, jax.devices()


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


@pytest.fixture(scope="session")
def compilation_cache(tmp_path_factory):
  """Lets what is compiled twice, also in another process, be compiled once."""
  import jax
  from jax.experimental.compilation_cache import compilation_cache

  folder = str(tmp_path_factory.mktemp("xla"))
  settings = {
    "jax_compilation_cache_dir": folder,
    "jax_persistent_cache_min_compile_time_secs": 0.1,
  }
  before = {name: getattr(jax.config, name) for name in settings}
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("JAX_COMPILATION_CACHE_DIR", folder)
    for name, value in settings.items():
      jax.config.update(name, value)
    compilation_cache.reset_cache()  # JAX decides at its first compilation whether there is one
    yield
  for name, value in before.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()
