"""DeepLabv3+ on a pretrained MobileNetV2 with CamVid, small enough for two CPU cores.

python -m jaxseg.main --config=configs/deeplabv3plus_camvid_small.py --config.data.data_dir=DIR

DIR is laid out as configs/unet_camvid.py says. Mean IoU 0.512, standard deviation 0.007, pixel
accuracy 0.880 ± 0.015 on val (three seeds), when the last layer started with smaller weights
(0.494 ± 0.038 in experiments/rare_classes); 12 min 20 s on 2 CPU cores (seed 0).
--config.model.name=deeplabv3 leaves out the decoder.
"""

from configs import deeplabv3plus_camvid


def get_config():
  config = deeplabv3plus_camvid.get_config()
  config.model.encoder = "mobilenet_v2"
  config.model.dropout = 0.0
  config.data.image_size = 256
  config.train.num_epochs = 15.0
  config.train.optimizer = "adam"
  config.train.learning_rate = 1e-3
  config.train.lr_multipliers = (("encoder", 0.3),)
  config.train.weight_decay = 0.0
  config.train.precision = "float32"
  config.train.eval_every_epochs = 15.0
  config.eval.batch_size = 4
  return config
