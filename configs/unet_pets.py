"""The modified U-Net of the TensorFlow segmentation tutorial: frozen MobileNetV2, Oxford-IIIT Pets.

python -m jaxseg.main --config=configs/unet_pets.py

On three breeds (300 training, 298 test images, --config.train.batch_size=16): mean IoU 0.725, pixel
accuracy 0.896, standard deviation 0.001 over three seeds; 3 min 15 s on 2 CPU cores. See
experiments/pets_tutorial. The whole data set, with batch 64, has no score yet.
"""

from configs import default


def get_config():
  config = default.get_config()
  config.data.name = "oxford_iiit_pet"
  config.data.image_size = 128
  config.augment.scale = (0.8, 1.25)
  config.augment.border = "void"
  config.augment.brightness = 0.1
  config.augment.contrast = (0.8, 1.25)
  config.model.name = "encoder_unet"
  config.model.encoder = "mobilenet_v2"
  config.model.pretrained = "imagenet"
  config.train.num_epochs = 20.0
  config.train.batch_size = 64
  config.train.optimizer = "adam"
  config.train.learning_rate = 1e-3
  config.train.schedule = "cosine"
  return config
