"""A trained network as a function: images in, label maps or probabilities out."""

import collections.abc
import dataclasses
import os
import pathlib
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

from jaxseg import (
  UserError,
  build,
  checkpoint,
  models,
  packed,
  parallel,
  predictors,
  public,
  settings,
)
from jaxseg.checkpoint_files import fit
from jaxseg.data.arrays import in_words
from jaxseg.data.decode import DatasetInfo, check_format, check_palette, to_picture
from jaxseg.data.encoded import Notes, read_as_trained
from jaxseg.data.files import num_pages
from jaxseg.data.levels import depth_notes
from jaxseg.data.windows import open_windows, windows_of
from jaxseg.exported import read_exported
from jaxseg.images import to_images
from jaxseg.platforms import usual_rules
from jaxseg.predict import most_likely
from jaxseg.printing import printable
from jaxseg.unused_keys import warn_of_unused
from jaxseg.visualize import overlay
from jaxseg.workdirs import read_temperature, run_of, with_home

Array = np.ndarray


@dataclasses.dataclass(frozen=True, repr=False)
class Segmenter:
  """A trained network with all that it needs to segment images; `load` makes one.

  Attributes:
    info: classes, palette, channels and value range of its training data.
    predict: function of examples {"image": u8[H,W,D]}, see `predict.make_predictor`.
    step: of the checkpoint.
    config: of the run, with the options of `load`; None for an exported file.
    model: the Flax module, as it predicts.  variables: {"params", "batch_stats"}, on the devices.
      Both are None for an exported file.
    notes: says once what is not used of images.
  """

  info: DatasetInfo
  predict: collections.abc.Callable
  step: int | None = None
  config: ConfigDict | None = None
  model: nn.Module | None = None
  variables: Any = None
  notes: Notes = dataclasses.field(default_factory=lambda: Notes(is_trained=True))

  def __repr__(self) -> str:
    name = self.config.model.name if self.config else "exported network"
    return printable(f"Segmenter({name}, step {self.step}: {', '.join(self.classes)})")

  @property
  def classes(self) -> tuple[str, ...]:
    """Names in the order of the labels."""
    return self.info.classes

  @property
  def palette(self) -> tuple[tuple[int, int, int], ...]:
    """(R, G, B) of each class, 0..255."""
    return self.info.palette

  def __call__(self, image: Any) -> Array | list[Array]:
    """Labels of an image: u8[H,W].

    Args:
      image: an array [H,W], [H,W,1], [H,W,3] or [H,W,4] (uint8, uint16 or float in 0..1), a path,
        a PIL image; a batch [B,H,W,C] or a list of these.
    Returns:
      u8[H,W]; for a batch u8[B,H,W], for a list a list.
    Raises:
      UserError: it cannot be read, or is not an image.
    """
    return self._run(image, most_likely)

  def probs(self, image: Any) -> Array | list[Array]:
    """Class probabilities of an image, f32[H,W,C]; takes what `__call__` takes."""
    return self._run(image, None)

  def overlay(self, image: Any, labels: Array | None = None, *, opacity: float = 0.45) -> Array:
    """An image tinted by class: u8[H,W,3]; subsampled if a side exceeds 4096 px.

    Args:
      image: one image, as for `__call__`.  labels: u8[H,W]; None predicts them.
      opacity: of the colours, 0 to 1.
    """
    images, kind = self._read(image)
    if kind != "image":
      raise UserError(f"overlay takes one image, not a {kind} of {len(images)}: call it for each")
    pixels = to_picture(images[0], self.info)
    labels = self(image) if labels is None else np.asarray(labels)
    if labels.shape != pixels.shape[:2]:
      raise UserError(
        f"the image is {in_words(pixels.shape[:2])}, but its labels are {in_words(labels.shape)}: "
        "they must match"
      )
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() > 255:
      raise UserError(f"labels have to be whole numbers from 0 to 255, these are {labels.dtype}")
    if not 0 <= opacity <= 1:
      raise UserError(f"`opacity` is {opacity}, but has to be from 0 to 1")
    return overlay(pixels, labels, self.palette, opacity)

  def stream(
    self, image: Any, *, page: int | None = None
  ) -> collections.abc.Iterator[tuple[slice, slice, Array]]:
    """Labels of an image that does not fit into memory, window by window, each pixel once.

    With a network of finite context, labels are those of the whole image. The image pooling of
    DeepLab sees each window for itself.

    Args:
      image: path of a TIFF or of a folder *.zarr, or what gives pixels as `image[rows, cols]` of
        slices, [H,W] or [H,W,C], such as numpy.memmap, h5py.Dataset or zarr.Array.
      page: number of the image, from 0, in a TIFF of several, which needs it.
    Yields:
      (rows, columns, u8[h,w]), where the labels are in the image, in its order.
    Raises:
      UserError: the image cannot be read by windows, or the network or an option needs all of it.
    """
    predictor = predictors.build_window_predictor(self.config, self.model, self.info)
    fmt = self.info.image_format()
    with read_as_trained(self.info.channels, self.info.value_range):
      if isinstance(image, str | os.PathLike):
        is_file = os.path.isfile(image)
        count = num_pages(image, fmt.pages, any_suffix=True) if is_file else 1
        if page not in (range(count) if count > 1 else (None, 0)):
          remedy = f"pass `page`, 0 to {count - 1}" if count > 1 else "leave `page` out"
          raise UserError(f"{image}: has {count} page{'s'[: count > 1]}: {remedy}")
        image = open_windows(image, fmt, page=page or 0)
      else:
        if page is not None:
          raise UserError("`page` is of a TIFF: leave it out for an array")
        image = windows_of(image, "image", fmt)
      for _, found in predictor.pieces(self.variables, [{"image": image}], most_likely):
        for (rows, cols), labels in found:
          yield rows, cols, labels
      dark = depth_notes(image.dtype, image.brightest, self.info)
      self.notes.warn("image", [*image.notes, *dark])

  def _read(self, image):
    with read_as_trained(self.info.channels, self.info.value_range):
      images, kind = to_images(image, self.info.image_format(), self.notes)
    name = os.fspath(image) if isinstance(image, str | os.PathLike) else "image"
    for pixels in images:
      self.notes.warn(name, depth_notes(pixels.dtype, pixels.max(initial=0), self.info))
    return images, kind

  @usual_rules()
  def _run(self, image, reduce):
    images, kind = self._read(image)
    examples = ({"image": pixels} for pixels in images)
    found = [output for _, output in self.predict(examples, reduce=reduce)]
    return found[0] if kind == "image" else np.stack(found) if kind == "batch" else found


@with_home("path")
def load(
  path: str | pathlib.Path,
  *,
  tta: str | None = None,
  tile: int | None = None,
  scales: collections.abc.Sequence[float] | None = None,
  crf: bool | collections.abc.Mapping[str, Any] | None = None,
  output_stride: int | None = None,
  batch_size: int | None = None,
) -> Segmenter:
  """Reads a trained network.

  Options that are None stay as in the run's config. Your own network, encoder or data set has to be
  in its table first: import the config file that adds it.

  Args:
    path: a work directory (its best checkpoint), a folder of one checkpoint
      ("runs/pets/checkpoints/120"), a packed network (a folder, or "hf:OWNER/NAME" on the Hugging
      Face Hub), an exported file ("model.stablehlo", no options), a published network
      ("torchvision:deeplabv3_resnet50"), its weight file, or a folder that
      segmentation_models.pytorch saved; see docs/published.md.
    tta: test-time augmentation: "none", "flip" or "dihedral".
    tile: largest side that the network sees at once, px; 0 for whole images.
    scales: sizes of the image to average over, such as (0.75, 1.0, 1.25).
    crf: True for a dense CRF of 10 iterations, or keys of config.crf: {"color_sigma": 5.0}.
    output_stride: of a DeepLab's encoder: 8 or 16.
    batch_size: images of training size in one forward pass.
  Raises:
    UserError: nothing trained there, or an option that does not fit the network.
  """
  if crf is not None and not isinstance(crf, bool | collections.abc.Mapping):
    raise UserError(f"`crf` is {crf!r}; pass True, False, or keys of config.crf in a dict")
  if scales is not None and not isinstance(scales, tuple | list):
    raise UserError(f"`scales` is {scales!r}; pass a tuple of numbers")
  if crf is not None:
    crf = {"num_iterations": 10, **({} if crf is True else crf)} if crf else {"num_iterations": 0}
  given = {
    "predict.tta": tta,
    "predict.tile": tile,
    "predict.scales": None if scales is None else tuple(scales),
    "predict.output_stride": output_stride,
    "eval.batch_size": batch_size,
    **{f"crf.{name}": value for name, value in (crf or {}).items()},
  }
  given = {name: value for name, value in given.items() if value is not None}
  if pathlib.Path(path).suffix == ".stablehlo":
    if given:
      raise UserError(f"{path}: an exported file takes no options; load the work directory instead")
    return Segmenter(*read_exported(pathlib.Path(path)))
  return load_run(path, given)


@usual_rules()
def load_run(
  path: str | pathlib.Path,
  overrides: collections.abc.Mapping[str, Any],
  config: ConfigDict | None = None,
) -> Segmenter:
  """Reads the network of a run; process 0 reads the files and sends it to the others.

  Args:
    path: work directory or checkpoint, see `load`.
    overrides: {"predict.tta": "flip"}, on top of the run's config.
    config: to use instead of the run's; its network has to be the same.
  Raises:
    UserError: see `load`; a key that contradicts the network.
  """
  parallel.use_compilation_cache()
  with settings.config_errors():
    arrays = []  # in process 0
    workdir, step, meta = parallel.on_main(_find, path, arrays)
    saved, info = settings.from_run(meta["config"]), DatasetInfo(**meta["info"])
    if meta.get("is_published"):
      config = public.with_data(path, saved, config, overrides)
      info = public.with_names(info, config, path)
    else:
      with settings.own_entries(config is None):
        config = settings.override(config or saved, overrides)
        settings.check(settings.for_use(config))
      if not config.predict.temperature and (found := meta.get("temperature")):
        config = settings.override(config, {"predict.temperature": found})
      settings.check_same(workdir, saved, config, network=True)
    warn_of_unused(config)
    info = _with_pictures(info, config.data)
    # Nothing is differentiated here, and converters to other formats do not know rematerialisation.
    model = build.build_model(settings.override(config, {"train.remat": False}), info)
    target = models.abstract_variables(model, info.channels)
    predict = predictors.build_predictor(config, model, info)
    if parallel.is_main():
      variables = fit(arrays.pop(), target, *packed.origin(workdir, step))
    else:
      variables = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), target)
    variables = jax.device_put(parallel.from_main(variables), parallel.on_local_devices())
  return Segmenter(
    info,
    lambda examples, **options: predict(variables, examples, **options),
    step,
    config,
    predictors.model_in_use(config, model),
    variables,
  )


def _find(path, arrays):
  """(place, step, {"config", "info"}) of the checkpoint or published network that a path means.

  Its variables are added to the list `arrays`.
  """
  path = packed.find(path)
  if not packed.is_packed(path) and public.is_published(path):
    config, info, variables = public.read_published(path)
    arrays.append(variables)
    about = {"config": config.to_dict(), "info": dataclasses.asdict(info), "is_published": True}
    return str(path), None, about
  workdir = run_of(path)
  if workdir != pathlib.Path(path):
    step = int(pathlib.Path(path).name)
    found = checkpoint.load_step(workdir, step)
  else:
    step, found = checkpoint.load_best(workdir)
  arrays.append(found["variables"])
  saved = {"config": settings.read_saved(workdir), "temperature": read_temperature(workdir, step)}
  return str(workdir), step, {**found["meta"], **saved}


def _with_pictures(info, data):
  """The info of a run, with the colours and bands that config.data asks for in its pictures."""
  check_palette(data.palette, info.classes)
  check_format(info.channels, info.value_range, info.bands, data.display_bands)
  return dataclasses.replace(
    info,
    palette=data.palette or info.palette,
    display_bands=data.display_bands or info.display_bands,
  )
