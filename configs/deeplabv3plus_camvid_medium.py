"""DeepLabv3+ on a pretrained MobileNetV2 with CamVid, for an hour or so on two CPU cores.

python -m jaxseg.main --config=configs/deeplabv3plus_camvid_medium.py --config.data.data_dir=DIR

DIR is laid out as configs/unet_camvid.py says. As deeplabv3plus_camvid_small, but with larger
windows, Dice loss for the small classes, and almost three times as many epochs. Mean IoU 0.702,
pixel accuracy 0.929 on val (one run); 80 min on 2 CPU cores shared with other work.
"""

from configs import deeplabv3plus_camvid_small


def get_config():
  config = deeplabv3plus_camvid_small.get_config()
  config.data.image_size = 320
  config.train.losses.dice = 1.0
  config.train.num_epochs = 42.0
  config.train.eval_every_epochs = 21.0
  return config
