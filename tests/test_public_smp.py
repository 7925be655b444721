"""Networks of segmentation_models.pytorch: its logits from its folders, and what is not read."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy
from fixtures import make_smp_networks
from fixtures.make_smp_networks import image_of
from fixtures.make_torch_encoders import some

from jaxseg import build, public

FAST = {"xla_backend_optimization_level": 0}  # which would take longer than the network


def write(folder, config, state):
  folder.mkdir(exist_ok=True)
  (folder / "config.json").write_text(json.dumps(config))
  safetensors.numpy.save_file(state, folder / "model.safetensors")
  return folder


@pytest.fixture(scope="module", params=make_smp_networks.NETWORKS)
def network(request, tmp_path_factory):
  """(folder as `save_pretrained` writes it, config.json, {size: some logits})."""
  config, state, logits = make_smp_networks.read(request.param)
  folder = write(tmp_path_factory.mktemp("smp") / "saved", config, state)
  yield folder, config, logits
  (folder / "model.safetensors").unlink()


def test_logits_are_those_of_smp(network):
  folder, saved, logits = network
  config, info, variables = public.read_published(folder)
  model = build.build_model(config, info)
  apply = jax.jit(lambda v, x: model.apply(v, x, train=False), compiler_options=FAST)
  for size, expected in logits.items():
    found = np.asarray(apply(variables, image_of(size)))
    assert found.shape == (1, *size, saved["classes"])
    np.testing.assert_allclose(some(found), expected, rtol=0, atol=1e-4 * min(1, expected.std()))
