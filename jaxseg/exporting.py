"""Exports a network and checks the files; see `export` for what they hold."""

import collections.abc
import functools
import pathlib
import sys
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxseg import UserError, build, export, packed, parallel, public, settings, workdirs
from jaxseg.data.decode import DatasetInfo
from jaxseg.data.resize import convert
from jaxseg.platforms import usual_rules
from jaxseg.predict import INPUT_STEP, input_step
from jaxseg.printing import say
from jaxseg.segmenter import load_run


@workdirs.with_home("workdir", "output")
@usual_rules()
def export_run(
  workdir: str | pathlib.Path,
  output: str | pathlib.Path,
  overrides: collections.abc.Mapping[str, Any] | None = None,
  *,
  config: ConfigDict | None = None,
) -> None:
  """Writes a network's whole prediction as files that run without jaxseg; see `export`.

  Args:
    workdir, overrides, config: see `each_seed.evaluate`.  output: folder, created if missing.
  Raises:
    UserError: a file disagrees with the network; nothing is written.
  """
  overrides = {**(overrides or {}), "predict.tile": 0}  # a file has no tiles
  segmenter = load_run(workdir, overrides, config)
  config, output = segmenter.config, pathlib.Path(output)
  data, options, info = config.data, config.export, segmenter.info
  with settings.config_errors():
    export.check_options(**options)
    if config.crf.num_iterations or tuple(config.predict.scales) != (1.0,):
      raise UserError(
        "an exported file has neither dense CRF nor several scales: set config.crf.num_iterations "
        "to 0 and config.predict.scales to (1.0,)"
      )
    if public.is_published(workdir) and not config.data.dtype and info.value_range:
      raise UserError("`value_range` is set: set `dtype` to the type of the images, too")
    if not parallel.is_main():
      return
    run = export.whole_image(
      segmenter.model,
      segmenter.variables,
      fit=data.fit,
      size=data.image_size - 2 * segmenter.model.margin,
      tta=config.predict.tta,
      output=options.output,
      info=info,
      temperature=config.predict.temperature or 1.0,
    )
  workdirs.make_folder(output, "--output")
  # Somebody else's config may name any data set, which would be downloaded.
  images, kind = sample_images(config, info, is_own=not packed.is_packed(workdir))
  step = export.file_step(segmenter.model)
  if data.fit == "crop" and input_step(segmenter.model) < step == INPUT_STEP:
    say(f"note: model.stablehlo mirrors images up to multiples of {step} px, which --mode=predict "
        "does not for this network: labels of other sizes differ, most near the edges")  # fmt: skip
    sides = [[max(step, n // step * step) for n in image.shape[:2]] for image in images]
    images = [export.fit_size(image, size) for image, size in zip(images, sides, strict=True)]
  files, lines = {}, []

  def add(name, content, load, images):
    lines.append(_check_file(output / name, content, load, images, kind, segmenter.predict))
    files[name] = content

  stablehlo = export.to_stablehlo(run, info.channels, info.dtype)
  add("model.stablehlo", stablehlo, export.load_stablehlo, images)
  if options.onnx_size:
    onnx = export.to_onnx(run, options.onnx_size, info.channels, info.dtype)
    images = [export.fit_size(image, options.onnx_size) for image in images]
    add("model.onnx", onnx, export.load_onnx, images)
  about = {"step": segmenter.step, **export.describe(info, options.output, options.onnx_size)}
  about["sha256"] = {name: packed.digest(content) for name, content in files.items()}
  workdirs.write_files(output, {**files, "classes.json": workdirs.to_json(about)})
  for line in lines:
    say(line)
  if not options.onnx_size and (output / "model.onnx").exists():
    say(f"note: {output}/model.onnx is of another export: delete it", sys.stderr)


def _check_file(path, content, load, images, kind, predict):
  """A line about a file; UserError unless it gives the network's labels on some images.

  Rounding alone changes hardly any: 1 in 1000 pixels may differ.
  """
  share = export.agreement(load(content), predict, images)
  text = f"{share:.4%} of the pixels of {len(images)} {kind} have the network's label"
  if share < 0.999:
    raise UserError(f"{path} is not written: only {text}; this is a bug, please report it")
  return f"{path}: {len(content) / 2**20:.1f} MiB, {text}"


def sample_images(
  config: ConfigDict, info: DatasetInfo, is_own: bool = True
) -> tuple[list[np.ndarray], str]:
  """Images to compare an exported file on, and what to call them.

  Args:
    is_own: use the split even if it has to be downloaded.
  Returns:
    (images info.dtype[H,W,D], "images"), spread over the evaluation split; without it random ones,
    of an odd size, which no stride divides, and words that say so and why
  """
  num_images = config.export.num_images
  try:
    if not (is_own or config.data.data_dir):
      raise UserError("a packed network knows no data")
    found, source = build.open_split(config, "eval", value_range=info.value_range)
    if found.channels != info.channels:
      raise UserError("the evaluation split has images of another kind")
    if not len(source):
      raise UserError("the evaluation split is empty")
    num_images = min(num_images, len(source))
    images = (source[i * len(source) // num_images]["image"] for i in range(num_images))
    of_type = functools.partial(convert, dtype=info.dtype, is_full_range=not info.value_range)
    return [image if image.dtype == info.dtype else of_type(image) for image in images], "images"
  except UserError as error:
    rng = np.random.default_rng(0)
    size = config.data.image_size
    blocks = rng.integers(0, 256, (num_images, 8, 12, info.channels), dtype=np.uint8)
    if info.dtype != "uint8":
      low, high = np.array(info.value_range or (0.0, 65535.0 if info.dtype == "uint16" else 1.0)).T
      blocks = (low + (high - low) * (blocks / 255)).astype(info.dtype)
    large = blocks.repeat(-(-size // 8), axis=1).repeat(-(-size // 8), axis=2)
    return list(large[:, 1:, 1:]), f"random images ({settings.with_keys(str(error))})"
