"""DeepLabv3+ on a pretrained ResNet-101 with Cityscapes: 19 classes of street scenes.

python -m jaxseg.main --config=configs/deeplabv3plus_cityscapes.py --config.data.data_dir=DIR

DIR holds leftImg8bit/ and gtFine/, as they come; the masks are the labelIds. For a GPU; not trained
here.

As configs/deeplabv3plus_voc.py, with what DeepLab's authors name for Cityscapes (tensorflow/models,
research/deeplab/g3doc and issue 3677): learning rate 0.01, 90,000 steps, crops of 769 px, here 768,
which need no padding. They ask for batches above 8; 16 is ours. Their windows are taken after the
zoom, ours before, so that a zoom below 1 mirrors what is beyond the window. Evaluation sees whole
images of 2048 x 1024 px. Published mean IoU on val: 0.788 with Xception-65 (DeepLab's model zoo);
0.802 with this encoder in windows of 1024 x 512 px, batch 8 and 220 epochs (SSSegmentation).
"""

from configs import deeplabv3plus_voc

NUM_IMAGES = 2975  # of train


def get_config():
  config = deeplabv3plus_voc.get_config()
  config.data.images = "leftImg8bit/{split}/{city}/{name}_leftImg8bit.png"
  config.data.masks = "gtFine/{split}/{city}/{name}_gtFine_labelIds.png"
  config.data.split_file = ""
  config.data.label_space = "cityscapes"
  config.data.image_size = 768
  config.augment.border = "mirror"
  config.train.num_epochs = 90_000 * 16 / NUM_IMAGES  # 484
  config.train.learning_rate = 1e-2
  config.eval.batch_size = 4
  return config
