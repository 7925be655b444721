"""FCN-32s on VGG-16 with CamVid, as it is usually taught: 224 x 224 px, "same" padding.

python -m jaxseg.main --config=configs/fcn32s_camvid.py --config.data.data_dir=DIR

DIR is laid out as configs/unet_camvid.py says. configs/fcn16s_camvid.py starts from the result, and
configs/fcn8s_camvid.py from that of FCN-16s. For a GPU; no score yet.
"""

from configs import unet_camvid


def get_config():
  config = unet_camvid.get_config()
  config.data.image_size = 224
  config.data.fit = "resize"
  config.augment.scale = (1.0, 1.5)
  config.model.name = "fcn32s"
  config.model.encoder = "vgg16"
  config.model.pretrained = "imagenet"
  config.model.freeze_encoder = False
  config.model.dropout = 0.5
  config.train.num_epochs = 100.0
  config.train.batch_size = 16
  config.train.optimizer = "sgd"
  config.train.learning_rate = 1e-2
  config.train.schedule = "poly"
  config.train.warmup_epochs = 2.0
  config.train.weight_decay = 5e-4
  config.train.lr_multipliers = (("encoder", 0.1),)
  config.train.class_balance = "median_frequency"
  return config
