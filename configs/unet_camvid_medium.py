"""U-Net from scratch on CamVid, for half an hour or so on two CPU cores.

python -m jaxseg.main --config=configs/unet_camvid_medium.py --config.data.data_dir=DIR

DIR is laid out as configs/unet_camvid.py says. As unet_camvid_small, but with Dice loss for the
small classes, smaller windows, and three times as many epochs. Mean IoU 0.661, pixel accuracy 0.921
on val (one run); 30 min on 2 CPU cores shared with other work.
"""

from configs import unet_camvid_small


def get_config():
  config = unet_camvid_small.get_config()
  config.data.image_size = 320
  config.train.losses.dice = 1.0
  config.train.num_epochs = 24.0
  config.train.eval_every_epochs = 12.0
  return config
