"""From a config to the parts that it names; evaluating and using a trained work directory."""

import functools
import json
import pathlib
import sys

import jax
import numpy as np
from tqdm import tqdm

from jaxseg import UserError, checkpoint, export, models, parallel, workdirs
from jaxseg.data import datasets
from jaxseg.data.folder import FolderFormat
from jaxseg.data.input_pipeline import eval_examples
from jaxseg.evaluate import evaluate, score_table
from jaxseg.predict import make_predictor, with_crf, with_scales
from jaxseg.predict_files import list_images, predict_files
from jaxseg.visualize import plot_confusion, prediction_sheet


def open_split(config, role, problems=None):
  """(DatasetInfo, source) of what a config trains on ("train") or is scored on ("eval").

  `problems` takes those of files, see `folder.open_folder`.
  """
  data = config.data
  splits = {"train": data.train_split, "eval": data.eval_split}
  folded = data.num_folds > 0
  info, source = datasets.load(
    data.name,
    splits["train" if folded else role],
    data_dir=data.data_dir,
    image_size=data.image_size,
    seed=data.seed,
    folder=folder_format(config),
    problems=problems,
  )
  if folded:
    kept, held_out = datasets.fold_indices(len(source), data.num_folds, data.fold)
    source = datasets.Subset(source, held_out if role == "eval" else kept)
  return info, source


def folder_format(config):
  """What a config says about the files of a folder."""
  data = config.data
  return FolderFormat(
    data.classes,
    data.palette,
    data.channels,
    data.mask_values,
    data.void_values,
    data.value_range,
  )


def eval_name(config):
  """What the split that is scored is called in a work directory."""
  data = config.data
  return f"fold {data.fold} of {data.num_folds}" if data.num_folds else data.eval_split


def is_frozen(config):
  """Whether the encoder stands still: only pretrained weights are worth freezing."""
  return bool(config.model.encoder and config.model.pretrained and config.model.freeze_encoder)


def build_model(config, info):
  """The network of a config for the classes of a data set."""
  model = config.model
  return models.build(
    model.name,
    models.num_logits(model.head, info.classes),
    encoder=model.encoder,
    output_stride=model.output_stride,
    widths=model.widths,
    patch=model.patch,
    padding=model.padding,
    norm=model.norm,
    separable=model.separable,
    dropout=model.dropout,
    up=model.up,
    freeze_encoder=is_frozen(config),
    freeze_norm=model.freeze_norm,
    precision=config.train.precision,
    axis_name=parallel.AXIS if config.train.parallel == "pmap" else None,
  )


def model_in_use(config, model):
  """The network as it predicts: of config.predict.output_stride, if that is set."""
  output_stride = config.predict.output_stride
  return models.at_output_stride(model, output_stride) if output_stride else model


def build_predictor(config, model):
  """See `make_predictor`, `with_scales` and `with_crf` in `predict`."""
  model = model_in_use(config, model)
  predict = make_predictor(
    model,
    fit=config.data.fit,
    size=config.data.image_size - 2 * model.margin,
    batch_size=config.eval.batch_size,
    tile=config.predict.tile,
    symmetries=config.predict.symmetries,
  )
  predict = with_scales(predict, fit=config.data.fit, scales=config.predict.scales)
  return with_crf(predict, **config.crf)


def evaluate_split(predict, source, info, config):
  """Scores and sample predictions on this process' share of a source; see `evaluate`."""
  process = (jax.process_index(), jax.process_count())
  share = len(range(process[0], len(source), process[1]))
  wanted = min(config.eval.num_samples, share)
  return evaluate(
    predict,
    eval_examples(source, process=process, num_threads=config.data.num_threads),
    info.classes,
    instances=config.eval.instances,
    boundaries=config.eval.boundary_f1,
    sample_at={i * share // wanted for i in range(wanted)},
  )


def report(workdir, split, step, info, result, samples):
  """Writes evaluation.json and, if there are samples, their sheet and the confusion matrix.

  Returns:
    the path of the sheet, or None.
  """
  workdirs.write_json(
    pathlib.Path(workdir) / "evaluation.json", {"split": split, "step": step, **result}
  )
  if not samples:
    return None
  plots = pathlib.Path(workdir) / "plots"
  sheet = plots / f"predictions_{step:06d}.png"
  title = f"step {step}: mean IoU {result['miou']:.3f}, {split}"
  prediction_sheet(sheet, samples, info.classes, info.palette, title)
  plot_confusion(plots / "confusion.png", result["confusion"], info.classes, title)
  return sheet


def restore_model(config, workdir):
  """(model, variables, step, DatasetInfo) of the best checkpoint."""
  is_main = jax.process_index() == 0
  workdirs.check_config(workdir, config.to_dict(), keys=workdirs.MODEL_KEYS)
  found = checkpoint.best_checkpoint(workdir) if is_main else None
  step, meta = parallel.json_from_main(found)
  info = datasets.DatasetInfo(**meta["info"])
  model = build_model(config, info)
  target = models.abstract_variables(model, info.channels)
  variables = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), target)
  if is_main:
    variables = checkpoint.restore_variables(workdir, step, target)
  return model, parallel.from_main(variables), step, info


def restore_predictor(config, workdir):
  """(function of examples to probabilities, step, DatasetInfo) of the best checkpoint."""
  model, variables, step, info = restore_model(config, workdir)
  return functools.partial(build_predictor(config, model), variables), step, info


def evaluate_workdir(config, workdir):
  """Scores the best checkpoint on config.data.eval_split; see `report`."""
  predict, step, info = restore_predictor(config, workdir)
  _, source = open_split(config, "eval")
  result, samples = evaluate_split(predict, source, info, config)
  if jax.process_index() == 0:
    report(workdir, eval_name(config), step, info, result, samples)
    numbers = {name: value for name, value in result.items() if name != "confusion"}
    print(json.dumps({"step": step, **numbers}, indent=2))
    print(score_table(result), file=sys.stderr)


def predict_folder(config, workdir, source, output):
  """Writes a label map and an overlay for every image of a folder, or for one file."""
  files = list_images(source)
  predict, _, info = restore_predictor(config, workdir)
  if jax.process_index() > 0:
    return
  predict_files(predict, files, output, info, tqdm)
  print(f"label maps: {output}   overlays: {pathlib.Path(output) / 'overlays'}")


def export_workdir(config, workdir, output):
  """Writes the best checkpoint's whole prediction as files that run without jaxseg; see `export`.

  Raises:
    UserError: a file disagrees with the network, and is not written.
  """
  data, options, output = config.data, config.export, pathlib.Path(output)
  export.check_options(**options)
  if config.crf.num_iterations or tuple(config.predict.scales) != (1.0,):
    raise UserError(
      "a file has neither the dense CRF nor several scales: set config.crf.num_iterations to 0 and "
      "config.predict.scales to (1.0,)"
    )
  model, variables, step, info = restore_model(config, workdir)
  if jax.process_index() > 0:
    return
  predict = functools.partial(build_predictor(config, model), variables)
  run = export.whole_image(
    model_in_use(config, model),
    variables,
    fit=data.fit,
    size=data.image_size - 2 * model.margin,
    symmetries=config.predict.symmetries,
    output=options.output,
  )
  workdirs.make_folder(output, "--output")
  about = export.describe(info, options.output, options.onnx_size)
  workdirs.write_json(output / "classes.json", {"step": step, **about})
  images = sample_images(config, info)
  stablehlo = export.to_stablehlo(run, info.channels)
  write_artefact(output / "model.stablehlo", stablehlo, export.load_stablehlo, predict, images)
  if options.onnx_size:
    onnx = export.to_onnx(run, options.onnx_size, info.channels)
    images = [export.fit_size(image, options.onnx_size) for image in images]
    write_artefact(output / "model.onnx", onnx, export.load_onnx, predict, images)


def write_artefact(path, content, load, predict, images):
  """Writes a file if its labels on some images are those of the network.

  Raises:
    UserError: more than 1 in 1000 pixels differ; rounding alone changes next to none.
  """
  share = export.agreement(load(content), predict, images)
  text = f"{share:.4%} of the pixels of {len(images)} images have the network's label"
  if share < 0.999:
    raise UserError(f"{path} is not written: only {text}; it is a bug, please report it")
  path.write_bytes(content)
  print(f"{path}: {len(content) / 2**20:.1f} MiB, {text}")


def sample_images(config, info):
  """Images from all over the evaluation split, u8[H,W,D]; if it cannot be opened, random ones."""
  num_images = config.export.num_images
  try:
    _, source = open_split(config, "eval")
    num_images = min(num_images, len(source))
    return [source[i * len(source) // num_images]["image"] for i in range(num_images)]
  except UserError:
    rng = np.random.default_rng(0)
    size = config.data.image_size
    blocks = rng.integers(0, 256, (num_images, 8, 12, info.channels), dtype=np.uint8)
    return list(blocks.repeat(-(-size // 8), axis=1).repeat(-(-size // 8), axis=2))
