"""The U-Net paper (Ronneberger et al. 2015) on the ISBI 2012 membranes; for a GPU.

python -m jaxseg.main --config=configs/unet_isbi.py --config.data.data_dir=DIR

DIR holds images/ and masks/ of the 30 slices. The last fifth is held out; --config.data.fold=0 to 4
selects another. From the paper: the network, 572 -> 388 px, batch 1, momentum 0.99, elastic
deformation, dropout, weight maps. The paper states neither a learning rate nor a number of steps.
No score yet: experiments/gpu has the commands. configs/unet_isbi_small.py is for two CPU
cores.
"""

from configs import default


def get_config():
  config = default.get_config()
  config.data.name = "folder"
  config.data.train_split = "all"
  config.data.num_folds = 5
  config.data.fold = 4
  config.data.image_size = 572
  config.data.fit = "crop"
  config.data.classes = ("membrane", "cell")
  config.data.palette = ((200, 60, 60), (235, 235, 220))
  config.data.channels = 1
  config.data.mask_values = (0, 255)
  config.augment.flip = True
  config.augment.flip_vertical = True
  config.augment.transpose = True
  config.augment.elastic = 10.0
  config.augment.brightness = 0.1
  config.augment.contrast = (0.75, 1.3)
  config.model.name = "unet"
  config.model.padding = "valid"
  config.model.norm = False
  config.model.dropout = 0.5
  config.train.num_epochs = 1000.0
  config.train.batch_size = 1
  config.train.optimizer = "sgd"
  config.train.learning_rate = 1e-3
  config.train.momentum = 0.99
  config.train.class_balance = "inverse_frequency"
  config.train.border_weight = 10.0
  config.train.eval_every_epochs = 50.0
  config.train.checkpoint_every_epochs = 50.0
  config.eval.batch_size = 1
  config.eval.instances = True
  return config
