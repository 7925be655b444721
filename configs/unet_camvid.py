"""U-Net from scratch on CamVid: 11 classes of street scenes, 480 x 360 px.

python -m jaxseg.main --config=configs/unet_camvid.py --config.data.data_dir=DIR

DIR holds train/ and val/, each with images/ and masks/. Masks hold 0 to 10 in the order of CLASSES;
11 is ignored (VOID). For a GPU; no score yet. configs/unet_camvid_small.py is for two CPU cores.
"""

from configs import default

# Names, in the order of SegNet's files, and the colours of the data set.
CLASSES = {
  "sky": (128, 128, 128),
  "building": (128, 0, 0),
  "pole": (192, 192, 128),
  "road": (128, 64, 128),
  "pavement": (60, 40, 222),
  "tree": (128, 128, 0),
  "sign": (192, 128, 128),
  "fence": (64, 64, 128),
  "car": (64, 0, 128),
  "pedestrian": (64, 64, 0),
  "bicyclist": (0, 128, 192),
}


def get_config():
  config = default.get_config()
  config.data.name = "folder"
  config.data.eval_split = "val"
  config.data.classes = tuple(CLASSES)
  config.data.palette = tuple(CLASSES.values())
  config.data.void_values = (11,)
  config.data.image_size = 352
  config.data.fit = "crop"
  config.augment.scale = (0.5, 2.0)
  config.augment.brightness = 0.1
  config.augment.contrast = (0.8, 1.25)
  config.train.num_epochs = 150.0
  config.train.batch_size = 8
  config.train.optimizer = "muon"
  config.train.learning_rate = 3e-3
  config.train.schedule = "cosine"
  config.train.weight_decay = 1e-2
  config.train.precision = "bfloat16"
  config.train.eval_every_epochs = 15.0
  config.eval.boundary_f1 = True
  return config
