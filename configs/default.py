"""Every key there is, and the only place where a default lives.

A config is a file with `get_config()` that takes these and assigns what differs. Keys are locked:
an unknown one, in a file or as --config.KEY=VALUE, is an error.
"""

from ml_collections import ConfigDict


def get_config():
  config = ConfigDict()
  config.seed = 0  # of initialisation, shuffling, augmentation and dropout

  config.data = data = ConfigDict()
  data.name = "cells"  # cells (generated) or oxford_iiit_pet
  data.data_dir = ""  # folder of the TFDS data set; "" = TFDS's own default
  data.train_split = "train"  # TFDS data sets also take "train[:90%]"
  data.eval_split = "test"
  data.image_size = 128  # height and width of training images, px
  data.fit = "resize"  # resize: squeeze images into image_size; crop: random windows of them
  data.num_threads = 2  # that read and decode in advance
  data.cache_mb = 1024  # decoded examples kept in memory, MiB for each split
  data.seed = 0  # of generated images; another seed is another data set

  config.augment = augment = ConfigDict()
  augment.flip = True  # left-right, every other image
  augment.scale = (1.0, 1.0)  # range of the zoom; > 1 crops, < 1 leaves a VOID border
  augment.brightness = 0.0  # largest shift, as a part of the full range
  augment.contrast = (1.0, 1.0)  # range of the factor

  config.model = model = ConfigDict()
  model.name = "unet"  # unet or encoder_unet
  model.encoder = ""  # of encoder_unet: mobilenet_v2
  model.pretrained = ""  # of the encoder: "" none, "imagenet" download once, or a .h5 file
  model.freeze_encoder = True  # if pretrained: no gradient, batch statistics stand still
  model.widths = ()  # channels of the levels; () = the model's own
  model.norm = True  # batch normalisation in unet
  model.dropout = 0.0  # rate at the end of the contracting path
  model.up = "transposed"  # transposed convolution, or resize (and convolution)

  config.train = train = ConfigDict()
  train.num_epochs = 20.0
  train.batch_size = 16  # of all devices together
  train.optimizer = "adam"  # adam, adamw or sgd
  train.learning_rate = 1e-3
  train.schedule = "constant"  # or cosine, down to 0 at the end
  train.class_weights = ()  # one factor per class; () = all 1
  train.precision = "float32"  # of activations; or bfloat16
  train.parallel = "jit"  # jit with sharded arrays, or pmap
  train.eval_every_epochs = 5.0  # score, sheet of predictions and checkpoint; also at the end
  train.checkpoint_every_epochs = 5.0  # checkpoints in between
  train.log_every_steps = 10  # lines in metrics.jsonl

  config.eval = evaluation = ConfigDict()
  evaluation.batch_size = 16  # images that go through the network together
  evaluation.num_samples = 4  # rows on a sheet of predictions

  config.parallel = parallel = ConfigDict()  # several processes; Slurm, TPU pods and torchrun
  parallel.coordinator = ""  # variables need none of this. Else HOST:PORT of process 0,
  parallel.num_processes = 0  # how many there are,
  parallel.process_id = -1  # and which one this is

  return config.lock()
