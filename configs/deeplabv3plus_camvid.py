"""DeepLabv3+ on a pretrained ResNet-50 with CamVid, trained as in the paper (Chen et al. 2018).

python -m jaxseg.main --config=configs/deeplabv3plus_camvid.py --config.data.data_dir=DIR

DIR is laid out as configs/unet_camvid.py says. Trains at output stride 16, predicts at 8. For a
GPU; no score yet.
"""

from configs import unet_camvid


def get_config():
  config = unet_camvid.get_config()
  config.model.name = "deeplabv3plus"
  config.model.encoder = "resnet50"
  config.model.pretrained = "imagenet"
  config.model.freeze_encoder = False
  config.model.output_stride = 16
  config.model.dropout = 0.1
  config.model.up = "resize"
  config.train.num_epochs = 100.0
  config.train.optimizer = "sgd"
  config.train.learning_rate = 7e-3
  config.train.schedule = "poly"
  config.train.weight_decay = 4e-5
  config.predict.output_stride = 8
  return config
