"""What a config and a network make of whole images and of windows."""

import dataclasses

import numpy as np
import pytest
import tiny
from test_deeplab import TinyEncoder
from tiny import error_of

from jaxseg import models, predictors
from jaxseg.models.deeplab import DeepLab
from jaxseg.models.unet import UNet


def test_the_config_reaches_what_predicts(monkeypatch):
  """Valid convolutions of two levels take 8 px off each side: 4 + 8 + 4 of 16 in all."""
  monkeypatch.setattr(predictors, "make_predictor", lambda model, **options: (model, options))
  info = dataclasses.replace(tiny.INFO, value_range=((0.5, 2.0),) * 3, clip=False)
  config = tiny.make_config(
    1, data__fit="resize", eval__batch_size=5, predict__tta="flip", predict__tile=64,
    predict__temperature=2.0, parallel__space=2,
  )  # fmt: skip
  network = UNet(3, (4, 8), padding="valid")
  assert predictors.build_predictor(config, network, info) == (network, {
    "fit": "resize", "size": 32 - 2 * 8, "batch_size": 5, "tile": 64, "tta": "flip",
    "value_range": ((0.5, 2.0),) * 3, "clip": False, "space": 2, "temperature": 2.0,
  })  # fmt: skip
  network, config = models.build("deeplabv3plus", 3, output_stride=16), tiny.make_config(1)
  assert predictors.build_predictor(config, network, tiny.INFO)[0] is network
  config.predict.output_stride = 8
  for make in (predictors.build_predictor, predictors.build_window_predictor):
    assert make(config, network, tiny.INFO)[0].stride == 8


def test_a_crf_sees_what_the_network_sees(monkeypatch):
  """1000 is black and 5000 white."""
  monkeypatch.setattr(predictors, "with_crf", lambda predict, *, to_picture, **_: to_picture)
  info = dataclasses.replace(tiny.INFO, channels=1, value_range=(1000.0, 5000.0), dtype="uint16")
  picture = predictors.build_predictor(tiny.make_config(1), UNet(3, (4, 8)), info)
  found = picture(np.uint16([[[1000], [5000]]]))
  assert found.dtype == np.uint8 and found.ravel().tolist() == [0, 255]


def test_the_temperature_comes_after_scales(monkeypatch):
  """At 2, probabilities become their square roots, normalised; the network then has none."""
  probs, given = np.float32([[[0.2, 0.8, 0.0], [0.9, 0.05, 0.05]]]), []

  def make(model, *, temperature, **_):
    given.append(temperature)
    return lambda variables, examples, **_: ((example, probs) for example in examples)

  monkeypatch.setattr(predictors, "make_predictor", make)
  for scales in (1.0, 1.0), (1.0,):
    config = tiny.make_config(1, predict__temperature=2.0, predict__scales=scales)
    predict = predictors.build_predictor(config, UNet(3, (4, 8)), tiny.INFO)
    ((_, found),) = predict(None, [{"image": np.zeros((1, 2, 3), np.uint8)}])
    roots = np.sqrt(probs)
    expected = roots / roots.sum(-1, keepdims=True) if len(scales) == 2 else probs
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
  assert given == [1.0, 2.0]


@pytest.mark.parametrize(
  "network, tile, side",
  [
    (UNet(3, (4, 8)), 0, 1024),
    (UNet(3, (4, 8)), 96, 96),
    # Its context is 368 px, its stride 16: half as much again as 2 * 368 + 16.
    (DeepLab(3, TinyEncoder(), widths=(16, 8)), 0, 1128),
  ],
)
def test_windows(monkeypatch, network, tile, side):
  """Their side, if the config sets none, too; and what has no windows."""
  monkeypatch.setattr(predictors, "make_predictor", lambda model, *, tile, **_: tile)
  config, make = tiny.make_config(1, predict__tile=tile), predictors.build_window_predictor
  assert make(config, network, tiny.INFO) == side
  assert error_of(make, None, None, tiny.INFO) == (
    "an exported file takes whole images only: load the work directory instead"
  )
  config.data.fit = "resize"
  assert error_of(make, config, network, tiny.INFO) == (
    "config.data.fit is 'resize', which needs the whole image in memory; train with crop for "
    "windows"
  )
