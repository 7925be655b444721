"""Averages over sizes of an image, and a dense CRF after the network."""

import numpy as np
import pytest
from PIL import Image
from test_predict import PARAMS, Pixelwise, examples_of, unet  # noqa: F401, fixture

from jaxseg import UserError, refine
from jaxseg.crf import dense_crf
from jaxseg.predict import make_predictor
from jaxseg.refine import resample, with_crf, with_scales

CRF = {"num_iterations": 2, "spatial_weight": 1.0, "spatial_sigma": 2.0, "bilateral_weight": 2.0,
       "bilateral_sigma": 20.0, "color_sigma": 50.0, "exact": False}  # fmt: skip


@pytest.mark.parametrize("exact", [True, False])
def test_crf_runs_once_on_the_whole_image(unet, exact):  # noqa: F811
  """Behind tiles and views, and `reduce` comes after it."""
  model, variables = unet
  examples = examples_of([(70, 45), (33, 57)])
  options = CRF | {"exact": exact}
  network = make_predictor(model, fit="crop", size=32, batch_size=8, tile=40, tta="flip")
  refined = with_crf(network, **options)
  shapes = []

  def top(probs):
    shapes.append(probs.shape)
    return probs.argmax(-1)

  plain, probs, labels = (
    list(f(variables, iter(examples), **keywords))
    for f, keywords in ((network, {}), (refined, {}), (refined, {"reduce": top}))
  )
  for example, (_, before), (given, after), (_, label) in zip(
    examples, plain, probs, labels, strict=True
  ):
    assert given is example and isinstance(after, np.ndarray)
    np.testing.assert_array_equal(after, dense_crf(before, example["image"], **options))
    np.testing.assert_array_equal(label, after.argmax(-1))
    assert np.abs(after - before).max() > 0.01
  assert shapes == [(70, 45, 3), (33, 57, 3)]


def test_no_crf(unet):  # noqa: F811
  network = make_predictor(unet[0], fit="crop", size=32, batch_size=8)
  assert with_crf(network, **CRF | {"num_iterations": 0}) is network


def test_image_that_is_too_large_for_the_crf(monkeypatch):
  monkeypatch.setattr(refine, "MAX_WHOLE", 1500)
  model = Pixelwise()
  network = make_predictor(model, fit="crop", size=16, batch_size=1)
  assert len(list(with_crf(network, **CRF)(PARAMS, examples_of([(30, 50)])))) == 1
  with pytest.raises(
    UserError, match="`num_iterations` .* has 51 x 30; set it to 0"
  ) as error:
    list(with_crf(network, **CRF)(PARAMS, examples_of([(30, 51)])))
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  "key, value", [("num_iterations", -1), ("spatial_weight", -0.5), ("color_sigma", 0.0)]
)
def test_numbers_of_a_crf_that_make_no_sense(key, value):
  with pytest.raises(UserError, match=f"`{key}` is {value}") as error:
    with_crf(None, **CRF | {key: value})
  assert "\n" not in str(error.value)


# Several sizes


@pytest.mark.parametrize(
  "shape, size", [((7, 9, 2), (14, 27)), ((12, 8, 3), (5, 4)), ((1, 4, 1), (3, 4))]
)
def test_resample_equals_pillow(shape, size):
  """Pillow's bilinear filter widens in the same way when it shrinks an image."""
  x = np.random.default_rng(0).random(shape, np.float32)
  bands = [Image.fromarray(x[..., i]) for i in range(shape[2])]
  expected = [band.resize(size[::-1], Image.Resampling.BILINEAR) for band in bands]
  np.testing.assert_allclose(resample(x, size), np.stack(expected, -1), atol=1e-5)


@pytest.mark.slow
def test_scales_are_averaged():
  """Image by image, in order, whatever the batches; tiles and views are those of each size."""
  examples = examples_of([(30, 41), (64, 20), (30, 41)])
  words = {"fit": "crop", "size": 32, "batch_size": 4, "tta": "flip", "tile": 32}
  network, scales = make_predictor(Pixelwise(), **words), (0.5, 1.0, 1.6)
  found = list(with_scales(network, fit="crop", scales=scales)(PARAMS, iter(examples)))
  assert [example for example, _ in found] == examples
  for example, probs in found:
    h, w = example["image"].shape[:2]
    expected = 0
    for scale in scales:
      size = round(h * scale), round(w * scale)
      image = np.round(resample(example["image"], size)).astype(np.uint8)
      ((_, part),) = network(PARAMS, [{"image": image}])
      assert part.shape[:2] == size
      expected += resample(part, (h, w)) / 3
    np.testing.assert_allclose(probs, expected, atol=1e-6)
    np.testing.assert_allclose(probs.sum(-1), 1, atol=1e-5)
  labels = with_scales(network, fit="crop", scales=scales)(
    PARAMS, iter(examples), reduce=lambda probs: probs.argmax(-1)
  )
  for (_, probs), (_, label) in zip(found, labels, strict=True):
    np.testing.assert_array_equal(label, probs.argmax(-1))


def test_scales_that_cannot_be():
  network = make_predictor(Pixelwise(), fit="crop", size=16, batch_size=1)
  assert with_scales(network, fit="resize", scales=(1.0,)) is network
  for fit, scales, words in (
    ("resize", (0.5, 1.0), "needs `fit` crop"),
    ("crop", (), "one or more numbers above 0"),
    ("crop", (1.0, 0.0), "one or more numbers above 0"),
  ):
    with pytest.raises(UserError, match=f"`scales` .*{words}"):
      with_scales(network, fit=fit, scales=scales)
