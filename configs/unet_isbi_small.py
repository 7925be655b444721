"""U-Net on the ISBI 2012 membranes, small enough for two CPU cores.

python -m jaxseg.main --config=configs/unet_isbi_small.py --config.data.data_dir=DIR
"""

from configs import unet_isbi


def get_config():
  config = unet_isbi.get_config()
  config.data.image_size = 256
  config.model.padding = "same"
  config.model.widths = (16, 32, 64, 128)
  config.model.norm = True
  config.model.dropout = 0.0
  config.train.batch_size = 4
  config.train.num_epochs = 55.0
  config.train.optimizer = "adam"
  config.train.learning_rate = 3e-3
  config.train.schedule = "cosine"
  config.train.eval_every_epochs = 20.0
  config.train.checkpoint_every_epochs = 20.0
  return config
