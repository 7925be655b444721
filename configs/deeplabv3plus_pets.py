"""DeepLabv3+ on a pretrained MobileNetV2 with Oxford-IIIT Pets.

python -m jaxseg.main --config=configs/deeplabv3plus_pets.py

On three breeds (300 training, 298 test images, --config.train.batch_size=16): mean IoU 0.7254,
pixel accuracy 0.8970, standard deviations 0.0002 and 0.0005 over three seeds; 8 min 43 s on 2 CPU
cores (seed 0). See experiments/pets_tutorial. The whole data set, with batch 64, has no score yet.
"""

from configs import unet_pets


def get_config():
  config = unet_pets.get_config()
  config.model.name = "deeplabv3plus"
  config.model.output_stride = 8  # of 128 px, 16 leaves maps of 8 x 8
  config.model.freeze_encoder = False
  config.model.up = "resize"
  config.train.lr_multipliers = (("encoder", 0.3),)
  return config
