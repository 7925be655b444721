"""DeepLabv3+ on a pretrained ResNet-101 with ADE20K: 150 classes of scenes.

python -m jaxseg.main --config=configs/deeplabv3plus_ade20k.py --config.data.data_dir=DIR

DIR is ADEChallengeData2016, as it comes: images/ and annotations/, each with training/ and
validation/. For a GPU; not trained here.

As configs/deeplabv3plus_voc.py, with the 150,000 steps of DeepLab's guide to ADE20K
(tensorflow/models, research/deeplab/g3doc). It names neither learning rate nor batch: both are
those of VOC here. It resizes images to 513 px; here, windows of 512 px are taken at the images' own
scale, before the zoom, so that a zoom below 1 mirrors what is beyond the window. Published mean IoU
on validation: 0.457 with Xception-65, scales and flips (DeepLab's model zoo); 0.452 with this
encoder, learning rate 0.01 and 130 epochs (SSSegmentation).
"""

from configs import deeplabv3plus_voc

NUM_IMAGES = 20_210  # of training


def get_config():
  config = deeplabv3plus_voc.get_config()
  config.data.train_split = "training"
  config.data.eval_split = "validation"
  config.data.images = "images/{split}/{name}.jpg"
  config.data.masks = "annotations/{split}/{name}.png"
  config.data.split_file = ""
  config.data.label_space = "ade20k"
  config.augment.border = "mirror"
  config.train.num_epochs = 150_000 * 16 / NUM_IMAGES  # 119
  config.train.eval_every_epochs = 10.0
  return config
