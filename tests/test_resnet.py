"""ResNet against torchvision's activations, and against itself at other output strides."""

import jax
import numpy as np
import pytest
import reference
import weight_files
from fixtures import make_torch_encoders
from reference import abstract, run_encoder

from jaxseg import UserError, models
from jaxseg.models.resnet import ResNet
from jaxseg.models.unet import EncoderUNet

CHANNELS = {18: (64, 64, 128, 256, 512), 50: (64, 256, 512, 1024, 2048)}  # He et al., table 1


# test_public compares the deeper one, too.
@pytest.fixture(scope="module", params=[18, pytest.param(50, marks=pytest.mark.slow)])
def depth(request):
  return request.param


@pytest.fixture(scope="module")
def state_and_stages(depth):
  return make_torch_encoders.read(f"resnet{depth}")


@pytest.fixture(scope="module")
def weight_file(depth, state_and_stages, tmp_path_factory):
  path = tmp_path_factory.mktemp("resnet") / f"resnet{depth}.pth"
  weight_files.write_pth(path, state_and_stages[0])
  yield str(path)
  path.unlink()  # 0.1 GB


@pytest.fixture(scope="module")
def variables(depth, weight_file):
  """The encoder's, loaded through a network; its `fc` and counters are left behind."""
  model = EncoderUNet(2, ResNet(depth), widths=(2, 2, 2, 2))
  loaded = models.load_encoder(models.abstract_variables(model, 3), model.encoder, weight_file)
  return {collection: tree["encoder"] for collection, tree in loaded.items()}


def test_equals_torchvision(depth, variables, state_and_stages):
  ours = run_encoder(ResNet(depth), variables, make_torch_encoders.make_image())
  assert ours.keys() == set(ResNet.stages)
  for name, expected in zip(ResNet.stages, state_and_stages[1], strict=True):
    # Not dead, or the comparison would say little.
    assert 0.1 < expected.std() < 10 and (expected == 0).mean() < 0.9, name
    values = make_torch_encoders.some(np.asarray(ours[name]))
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-4, err_msg=name)


@pytest.mark.slow
def test_output_strides(depth, variables):
  """With the same weights, 8 and 16 subsampled are 32: at any size, up to the edges."""
  image = np.random.default_rng(1).random((1, 37, 64, 3), np.float32)
  coarse, *others = (run_encoder(ResNet(depth, s), variables, image) for s in (32, 16, 8))
  for stride, stages in zip((16, 8), others, strict=True):
    for i, name in enumerate(ResNet.stages, start=1):
      if 2**i <= stride:
        np.testing.assert_allclose(stages[name], coarse[name], atol=1e-5)
      else:
        gap = reference.largest_gap(stages[name], coarse[name], 2**i // stride)
        assert gap < 1e-4, name
    # The places between are no copies.
    assert np.std(stages["layer4"][:, 1::2] - stages["layer4"][:, :-1:2]) > 0.1


@pytest.mark.parametrize("depth, blocks", [(50, (3, 4, 6, 3)), (101, (3, 4, 23, 3))])
def test_number_of_parameters(depth, blocks):
  """Table 1 of the paper; with 1000 classes 25.6 and 44.5 million, as torchvision has."""
  total, c = 7 * 7 * 3 * 64 + 2 * 64, 64
  for width, repeats in zip((64, 128, 256, 512), blocks, strict=True):
    for i in range(repeats):
      total += c * width + 9 * width * width + width * 4 * width + 2 * (2 * width + 4 * width)
      if i == 0:
        total += c * 4 * width + 2 * 4 * width
      c = 4 * width
  params = abstract(ResNet(depth))["params"]
  assert sum(x.size for x in jax.tree.leaves(params)) == total
  assert total + 2048 * 1000 + 1000 == {50: 25_557_032, 101: 44_549_160}[depth]


@pytest.mark.parametrize("number, blocks", [(18, (2, 2, 2, 2)), (34, (3, 4, 6, 3))])
def test_number_of_parameters_of_basic_blocks(number, blocks):
  """With 1000 classes 11.7 and 21.8 million, as torchvision has."""
  total, c = 7 * 7 * 3 * 64 + 2 * 64, 64
  for width, repeats in zip((64, 128, 256, 512), blocks, strict=True):
    for i in range(repeats):
      total += 9 * c * width + 9 * width * width + 2 * 2 * width
      if i == 0 and c != width:
        total += c * width + 2 * width
      c = width
  params = abstract(ResNet(number))["params"]
  assert sum(x.size for x in jax.tree.leaves(params)) == total
  assert total + 512 * 1000 + 1000 == {18: 11_689_512, 34: 21_797_672}[number]


@pytest.mark.parametrize("h, w, output_stride", [(32, 64, 32), (225, 301, 16), (1, 33, 8)])
def test_stages(depth, h, w, output_stride):
  encoder = ResNet(depth, output_stride)
  image = np.zeros((2, h, w, 3), np.float32)
  stages = jax.eval_shape(lambda v: encoder.apply(v, image, train=False), abstract(encoder))
  strides = [min(2**i, output_stride) for i in range(1, 6)]
  assert {name: x.shape for name, x in stages.items()} == {
    name: (2, -(-h // s), -(-w // s), c)
    for name, s, c in zip(encoder.stages, strides, CHANNELS[depth], strict=True)
  }
  assert encoder.stride == output_stride


def test_reach():
  """Kernels of k px look (k - 1) / 2 to each side, at the stride of their input."""
  layer1, layer4 = 3 * 4, 16 + 2 * 32
  assert ResNet(50).receptive_radius == 3 + 2 + layer1 + (4 + 3 * 8) + (8 + 5 * 16) + layer4
  assert ResNet(101).receptive_radius == 3 + 2 + layer1 + (4 + 3 * 8) + (8 + 22 * 16) + layer4
  # Two to a block.
  layers = 4 * 4 + (4 + 3 * 8) + (8 + 3 * 16) + (16 + 3 * 32)
  assert ResNet(18).receptive_radius == 3 + 2 + layers
  # As "smp", the first 3x3 convolution of a layer that loses its stride is dilated, too.
  smp = {stride: ResNet(18, stride, "smp").receptive_radius for stride in (8, 16, 32)}
  assert smp == {32: 3 + 2 + layers, 16: 3 + 2 + layers + 16, 8: 3 + 2 + layers + 8 + 16}


def test_other_depth_than_the_file(depth, weight_file):
  model = EncoderUNet(2, ResNet(101), widths=(2, 2, 2, 2))
  with pytest.raises(UserError, match=rf"resnet{depth}.pth .*another network: "):
    models.load_encoder(models.abstract_variables(model, 3), model.encoder, weight_file)


def test_initial_values():
  """He's scale; every block starts as its shortcut."""
  encoder, image = ResNet(50), np.zeros((1, 32, 32, 3), np.float32)

  @jax.jit
  def init():  # the compiler leaves out what is not returned
    params = encoder.init(jax.random.key(0), image, train=False)["params"]
    norms = {name: layer["scale"] for name, layer in params.items() if "scale" in layer}
    return {n: params[n]["kernel"] for n in ("conv1", "layer2_1_conv1", "layer2_1_conv2")}, norms

  kernels, scales = init()
  for name, fan_in in ("conv1", 49 * 3), ("layer2_1_conv1", 512), ("layer2_1_conv2", 9 * 128):
    assert np.std(kernels[name]) == pytest.approx((2 / fan_in) ** 0.5, rel=0.03), name
  assert len(scales) == 1 + 3 * 16 + 4
  for name, scale in scales.items():
    np.testing.assert_array_equal(scale, 0.0 if name.endswith("bn3") else 1.0, err_msg=name)


@pytest.mark.slow
def test_training_updates_all_statistics(depth, variables):
  image = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
  encoder = ResNet(depth)
  _, updates = jax.jit(
    lambda variables: encoder.apply(variables, image, train=True, mutable=["batch_stats"])
  )(variables)
  moved = jax.tree.map(
    lambda a, b: bool((a != b).any()), updates["batch_stats"], variables["batch_stats"]
  )
  norms = {18: 1 + 2 * 8 + 3, 50: 1 + 3 * 16 + 4}[depth]
  assert len(jax.tree.leaves(moved)) == 2 * norms and all(jax.tree.leaves(moved))
