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
