"""From a config and a network to what predicts: whole images, or windows of larger ones."""

import collections.abc
import functools

import flax.linen as nn
from ml_collections import ConfigDict

from jaxseg import UserError, models, settings
from jaxseg.data.decode import DatasetInfo, to_picture
from jaxseg.predict import Predictor, make_predictor
from jaxseg.refine import with_crf, with_scales, with_temperature
from jaxseg.tiles import smallest_side

WINDOW = 1024  # px, side of the windows of large images, if the network's context allows it


def model_in_use(config: ConfigDict, model: nn.Module) -> nn.Module:
  """The network as it predicts: with config.predict.output_stride, if that is set."""
  output_stride = config.predict.output_stride
  if not output_stride:
    return model
  with settings.config_errors(output_stride="predict.output_stride"):
    return models.at_output_stride(model, output_stride)


def build_predictor(
  config: ConfigDict, model: nn.Module, info: DatasetInfo
) -> collections.abc.Callable:
  """See `predict.make_predictor`, `refine.with_scales` and `refine.with_crf`.

  The temperature comes last, so that it does not change labels.
  """
  network, temperature = model_in_use(config, model), config.predict.temperature or 1.0
  alone = tuple(config.predict.scales) == (1.0,) and not config.crf.num_iterations
  first, last = (temperature, 1.0) if alone else (1.0, temperature)
  predict = _predictor(config, network, info, config.predict.tile, first)
  predict = with_scales(predict, fit=config.data.fit, scales=config.predict.scales)
  picture = functools.partial(to_picture, info=info)
  return with_temperature(with_crf(predict, to_picture=picture, **config.crf), last)


def build_window_predictor(
  config: ConfigDict | None, model: nn.Module | None, info: DatasetInfo
) -> Predictor:
  """A predictor of images that do not fit into memory, with tiles of a default size if need be.

  Args:
    config, model: None for an exported file.
  Raises:
    UserError: the config asks for something that needs the whole image, or there is none.
  """
  if config is None or model is None:
    raise UserError("an exported file takes whole images only: load the work directory instead")
  model = model_in_use(config, model)
  needed = {"data.fit": "crop", "predict.scales": (1.0,), "crf.num_iterations": 0}
  for key, value in needed.items():
    found = config[key.split(".")[0]][key.split(".")[1]]
    if found != value:
      raise UserError(
        f"config.{key} is {found!r}, which needs the whole image in memory; "
        + ("train with crop for windows" if key == "data.fit" else f"set it to {value!r}")
      )
  tile = config.predict.tile or max(WINDOW, 3 * smallest_side(model) // 2)
  with settings.config_errors(tile="predict.tile"):
    return _predictor(config, model, info, tile)


def _predictor(config, model, info, tile, temperature=1.0):
  return make_predictor(
    model,
    fit=config.data.fit,
    size=config.data.image_size - 2 * model.margin,
    batch_size=config.eval.batch_size,
    tile=tile,
    tta=config.predict.tta,
    value_range=info.value_range,
    clip=info.clip,
    space=config.parallel.space,
    temperature=temperature,
  )
