"""U-Net from scratch on CamVid, small enough for two CPU cores.

python -m jaxseg.main --config=configs/unet_camvid_small.py --config.data.data_dir=DIR

DIR is laid out as configs/unet_camvid.py says. No score on all of val yet.
"""

from configs import unet_camvid


def get_config():
  config = unet_camvid.get_config()
  config.model.stem_stride = 2
  config.model.widths = (24, 48, 96, 192)
  config.train.num_epochs = 8.0
  config.train.batch_size = 4
  config.train.learning_rate = 1e-2
  config.train.weight_decay = 0.0
  config.train.precision = "float32"
  config.train.eval_every_epochs = 5.0
  return config
