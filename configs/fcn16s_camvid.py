"""FCN-16s on VGG-16 with CamVid, from a trained FCN-32s.

python -m jaxseg.main --config=configs/fcn16s_camvid.py --config.data.data_dir=DIR

Starts from runs/fcn32s_camvid; with --config.model.init_from= it starts from ImageNet weights. For
a GPU; no score yet.
"""

from configs import fcn32s_camvid


def get_config():
  config = fcn32s_camvid.get_config()
  config.model.name = "fcn16s"
  config.model.init_from = "runs/fcn32s_camvid"
  config.train.num_epochs = 50.0
  config.train.learning_rate = 1e-3
  return config
