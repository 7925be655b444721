"""Xception-65 against timm's activations, and against itself at other output strides."""

import jax
import numpy as np
import pytest
import reference
import safetensors.numpy
from fixtures import make_torch_encoders
from reference import abstract, run_encoder

from jaxseg import UserError, models
from jaxseg.models.unet import EncoderUNet
from jaxseg.models.xception import Xception65

CHANNELS = (128, 256, 728, 1024, 2048)


@pytest.fixture(scope="module")
def state_and_stages():
  return make_torch_encoders.read("xception65")


@pytest.fixture(scope="module")
def variables(state_and_stages, tmp_path_factory):
  """The encoder's, loaded through a network; its `head.fc` and counters are left behind."""
  path = tmp_path_factory.mktemp("xception") / "model.safetensors"
  safetensors.numpy.save_file(state_and_stages[0], path)
  model = EncoderUNet(2, Xception65(), widths=(2, 2, 2, 2))
  loaded = models.load_encoder(models.abstract_variables(model, 3), model.encoder, str(path))
  path.unlink()  # 0.2 GB
  return {collection: tree["encoder"] for collection, tree in loaded.items()}


@pytest.mark.slow
def test_equals_timm(variables, state_and_stages):
  ours = run_encoder(Xception65(), variables, make_torch_encoders.make_image())
  assert ours.keys() == set(Xception65.stages)
  for name, expected in zip(Xception65.stages, state_and_stages[1], strict=True):
    # Not dead, or the comparison would say little.
    assert 0.1 < expected.std() < 10 and (expected == 0).mean() < 0.9, name
    values = make_torch_encoders.some(np.asarray(ours[name]))
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-4, err_msg=name)


@pytest.mark.slow
def test_output_stride(variables):
  """With the same weights, 8 subsampled is 32: at any size, up to the edges."""
  image = np.random.default_rng(1).random((1, 37, 64, 3), np.float32)
  coarse, stages = (run_encoder(Xception65(s), variables, image) for s in (32, 8))
  for i, name in enumerate(Xception65.stages, start=1):
    if 2**i <= 8:
      np.testing.assert_allclose(stages[name], coarse[name], atol=1e-5)
    else:
      assert reference.largest_gap(stages[name], coarse[name], 2**i // 8) < 1e-4, name
  # The places between are no copies.
  assert np.std(stages["blocks_20"][:, 1::2] - stages["blocks_20"][:, :-1:2]) > 0.05


def test_number_of_parameters():
  """Figure 4 of Chen et al. (2018), convolution by convolution."""

  def separable(c, d):
    return 9 * c + 2 * c + c * d + 2 * d  # with scale and bias of both normalisations

  total = (9 * 3 * 32 + 2 * 32) + (9 * 32 * 64 + 2 * 64)
  entry = [(64, 128, 128, 128), (128, 256, 256, 256), (256, 728, 728, 728)]
  for c, *widths in [*entry, (728, 728, 1024, 1024)]:  # with a convolution as shortcut
    total += c * widths[-1] + 2 * widths[-1]
    for d in widths:
      total, c = total + separable(c, d), d
  total += 16 * 3 * separable(728, 728)
  total += separable(1024, 1536) + separable(1536, 1536) + separable(1536, 2048)
  params = abstract(Xception65())["params"]
  assert sum(x.size for x in jax.tree.leaves(params)) == total


@pytest.mark.slow
@pytest.mark.parametrize("h, w, output_stride", [(32, 64, 32), (225, 301, 16), (1, 33, 8)])
def test_stages(h, w, output_stride):
  encoder = Xception65(output_stride)
  image = np.zeros((2, h, w, 3), np.float32)
  stages = jax.eval_shape(lambda v: encoder.apply(v, image, train=False), abstract(encoder))
  strides = [min(2**i, output_stride) for i in range(1, 6)]
  assert {name: x.shape for name, x in stages.items()} == {
    name: (2, -(-h // s), -(-w // s), c)
    for name, s, c in zip(encoder.stages, strides, CHANNELS, strict=True)
  }
  assert encoder.stride == output_stride


def test_reach():
  """Kernels of 3 px look one to each side, at the stride of their input."""
  stem, middle = 1 + 2, 16 * 3 * 16
  assert Xception65.receptive_radius == stem + 3 * 2 + 3 * 4 + 3 * 8 + middle + 3 * 16 + 3 * 32


def test_no_download():
  model = EncoderUNet(2, Xception65(), widths=(2, 2, 2, 2))
  message = "^`pretrained` 'imagenet': no download is known for Xception65; give the path of"
  with pytest.raises(UserError, match=message):
    models.load_encoder({}, model.encoder, "imagenet")
