"""What is measured on a GPU or TPU, as config keys; experiments/accelerators compiles it, too."""

NO_AUGMENTATION = {"augment.flip": False, "augment.scale": (1.0, 1.0), "augment.brightness": 0.0}
# name of experiments/accelerators/programs.py: (batches, config keys, those of --quick)
TRAINED = {
  "paper_unet": ((1, 8, 16), NO_AUGMENTATION, {"model.widths": (4, 8), "data.image_size": 44}),
  "mobilenet_unet": ((64,), NO_AUGMENTATION, {"model.widths": (8, 8, 8, 8), "data.image_size": 32}),
  "deeplab_resnet": ((16,), NO_AUGMENTATION, {"data.image_size": 32}),
  "deeplab_mobilenet": ((16,), NO_AUGMENTATION, {"data.image_size": 32}),
  "padded_unet": ((64,), NO_AUGMENTATION, {"model.widths": (4, 8), "data.image_size": 32}),
  "fcn8s_vgg": ((16,), NO_AUGMENTATION, {"model.widths": (8, 8), "data.image_size": 32}),
  # The whole step: elastic deformation, border weights, dropout.
  "unet_isbi": ((1, 8), {}, {"model.widths": (4, 8), "data.image_size": 44}),
}
PRECISIONS = ("bfloat16", "float32")
CRF_SHAPE, CRF_CLASSES = (360, 480), 12  # as in `programs.lower_crf`


def all_programs():
  """(name, what, config keys) of all programs, for compile.py."""
  for name, (batches, values, _) in TRAINED.items():
    for precision in PRECISIONS:
      for batch in batches:
        yield name, "step", {**values, "train.precision": precision, "train.batch_size": batch}
  yield "crf", "predict", {}
