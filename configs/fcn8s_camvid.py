"""FCN-8s on VGG-16 with CamVid, from a trained FCN-16s.

python -m jaxseg.main --config=configs/fcn8s_camvid.py --config.data.data_dir=DIR

Starts from runs/fcn16s_camvid; with --config.model.init_from= it starts from ImageNet weights. For
a GPU; no score yet.
"""

from configs import fcn16s_camvid


def get_config():
  config = fcn16s_camvid.get_config()
  config.model.name = "fcn8s"
  config.model.init_from = "runs/fcn16s_camvid"
  config.train.num_epochs = 50.0
  config.train.learning_rate = 1e-3
  return config
