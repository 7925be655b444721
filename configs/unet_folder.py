"""U-Net on a folder of your own images and masks: a template, small enough for two CPU cores.

python -m jaxseg.main --config=configs/unet_folder.py --config.data.data_dir=DIR

DIR holds images/ and masks/, whose files have the same names. Copy this file and edit the lines
marked EDIT; docs/your_data.md explains each. The score depends on your data.
"""

from configs import default


def get_config():
  config = default.get_config()
  config.data.name = "folder"
  config.data.data_dir = ""  # EDIT: your folder, or give --config.data.data_dir=DIR
  config.data.classes = ("background", "object")  # EDIT: names, in the order of the labels
  config.data.mask_values = (0, 255)  # EDIT: the value of each class in masks; () if 0, 1, 2 ...
  config.data.channels = 3  # EDIT: 3 RGB, 1 grey, or the number of bands
  # A small set: train on four fifths of DIR/images, score on the rest. If you have DIR/train and
  # DIR/val, each with images/ and masks/: train_split "train", eval_split "val", num_folds 0.
  config.data.train_split = "all"  # EDIT, with the next three lines, if you have train/ and val/
  config.data.eval_split = ""
  config.data.num_folds = 5
  config.data.fold = 0
  config.data.fit = "crop"  # random windows; "resize" squeezes whole images into image_size
  config.data.image_size = 128  # side of a window, px: it should show an object and what is around
  config.augment.flip = True
  config.augment.flip_vertical = False  # EDIT: True if images have no up and down (microscopes)
  config.augment.scale = (0.8, 1.25)
  config.augment.brightness = 0.1
  config.augment.contrast = (0.8, 1.25)
  config.model.name = "unet"
  config.model.widths = (16, 32, 64, 128)
  # EDIT: an epoch is one window of each image, so few images need many epochs. Steps are
  # images * num_epochs / batch_size; have 500 or more.
  config.train.num_epochs = 60.0
  config.train.batch_size = 8
  config.train.learning_rate = 3e-3
  config.train.schedule = "cosine"
  config.train.eval_every_epochs = 10.0
  config.train.checkpoint_every_epochs = 10.0
  return config
