"""DeepLabv3+ on a pretrained MobileNetV2 with Oxford-IIIT Pets.

python -m jaxseg.main --config=configs/deeplabv3plus_pets.py --config.model.pretrained=imagenet
"""

from configs import unet_pets


def get_config():
  config = unet_pets.get_config()
  config.model.name = "deeplabv3plus"
  config.model.output_stride = 16
  config.model.freeze_encoder = False
  config.model.up = "resize"
  return config
