"""U-Net on the ISBI 2012 membranes, small enough for two CPU cores.

python -m jaxseg.main --config=configs/unet_isbi_small.py --config.data.data_dir=DIR

DIR holds images/ and masks/ of the 30 slices. Pixel accuracy 0.925, Dice of membranes 0.809, V_rand
0.901 on the six held-out slices (means of three seeds); 3 min 41 s on 2 CPU cores. See
experiments/unet_isbi.
"""

from configs import unet_isbi


def get_config():
  config = unet_isbi.get_config()
  config.data.image_size = 256
  config.augment.elastic = 0.0
  config.model.widths = (16, 32, 64, 128)
  config.model.padding = "same"
  config.model.norm = True
  config.model.dropout = 0.0
  config.train.num_epochs = 50.0
  config.train.batch_size = 2
  config.train.optimizer = "muon"
  config.train.momentum = 0.9  # which muon does not use
  config.train.learning_rate = 1e-2
  config.train.schedule = "cosine"
  config.train.class_balance = ""
  config.train.border_weight = 0.0
  config.predict.tta = "dihedral"
  return config
