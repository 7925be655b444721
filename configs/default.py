"""Every key there is, and the only place where a default lives.

A config is a file with `get_config()` that takes these and assigns what differs. Keys are locked:
an unknown one, in a file or as --config.KEY=VALUE, is an error.
"""

from ml_collections import ConfigDict


def get_config():
  config = ConfigDict()
  config.seed = 0  # of initialisation, shuffling, augmentation and dropout

  config.data = data = ConfigDict()
  data.name = "cells"  # cells (generated), oxford_iiit_pet, or folder (your own images and masks)
  data.data_dir = ""  # folder that holds the data; "" = TFDS's own default
  data.train_split = "train"  # TFDS data sets also take "train[:90%]"; of a folder, a subfolder
  data.eval_split = "test"
  data.num_folds = 0  # > 1: cross-validation within train_split; eval_split is not used
  data.fold = 0  # which one is held out
  data.image_size = 128  # height and width of training images, px
  data.fit = "resize"  # resize: squeeze images into image_size; crop: random windows of them
  data.num_threads = 2  # that read and decode in advance
  data.cache_mb = 1024  # decoded examples kept in memory, MiB for each split
  data.seed = 0  # of generated images; another seed is another data set
  # What a folder's files mean; the README walks through it.
  data.classes = ()  # names, in the order of the labels
  data.palette = ()  # (R, G, B) per class; () = chosen for you
  data.channels = 3  # that images are turned into: 1 grey, 3 RGB
  data.mask_values = ()  # value, or tuple of values, of each class in masks; () = 0, 1, 2 ...
  data.void_values = ()  # values that are not learnt from and not scored; 255 anyway
  data.value_range = ()  # (black, white) as stored in images; () = the full range of their type

  config.augment = augment = ConfigDict()
  augment.flip = True  # left-right, every other image
  augment.flip_vertical = False
  augment.transpose = False  # with both flips: all eight right-angle symmetries
  augment.scale = (1.0, 1.0)  # range of the zoom; > 1 crops
  augment.rotation = 0.0  # largest angle, degrees
  augment.shift = 0.0  # largest along each axis, px
  augment.elastic = 0.0  # standard deviation of random displacements, px; the U-Net paper has 10
  augment.elastic_grid = 3  # of so many nodes each way
  augment.border = "mirror"  # what comes in from outside: mirror images and labels, or void
  augment.brightness = 0.0  # largest shift, as a part of the full range
  augment.contrast = (1.0, 1.0)  # range of the factor

  config.model = model = ConfigDict()
  model.name = "unet"  # unet, encoder_unet, fcn32s, fcn16s, fcn8s, deeplabv3 or deeplabv3plus
  model.encoder = ""  # of all but unet: mobilenet_v2, vgg16, resnet50, resnet101 or xception65
  model.output_stride = 32  # of the encoder: 8 or 16 keep more places, by dilated convolutions
  model.pretrained = ""  # of the encoder: "" none, "imagenet" download once, or a weight file
  model.freeze_encoder = True  # if pretrained: no gradient, batch statistics stand still
  model.freeze_norm = False  # only the batch statistics of the encoder stand still
  model.init_from = ""  # work directory of another run, whose arrays are taken where they fit
  model.widths = ()  # channels of levels; fcn: of fc1, fc2; deeplab: of ASPP, low level; () = own
  model.padding = "same"  # or valid, as published: unpadded in unet, 100 px of zeros in fcn
  model.patch = 1  # 2 in unet: half the resolution inside, a quarter of the cost
  model.head = "softmax"  # or sigmoid: one logit, for two classes
  model.norm = True  # batch normalisation in unet
  model.separable = True  # in deeplab: depthwise and 1x1 convolutions in ASPP and decoder
  model.dropout = 0.0  # rate: end of the contracting path; in fcn behind fc1, fc2; behind ASPP
  model.up = "transposed"  # transposed convolution; or resize, in unet followed by a convolution

  config.train = train = ConfigDict()
  train.num_epochs = 20.0
  train.batch_size = 16  # of all devices together
  train.num_micro_batches = 1  # that a batch is cut into, one after the other, to save memory
  train.optimizer = "adam"  # adam, adamw, muon or sgd
  train.learning_rate = 1e-3
  train.schedule = "constant"  # or cosine or poly, down to 0 at the end
  train.warmup_epochs = 0.0  # in which the learning rate rises to its value, along a line
  train.poly_power = 0.9  # of poly: (1 - step / steps)^power
  train.rate_factors = ()  # ((module, factor), ...) for the learning rate: (("encoder", 0.1),)
  train.momentum = 0.9  # of sgd
  train.weight_decay = 0.0  # of kernels; in adam and sgd a part of the gradient
  train.ema_decay = 0.0  # > 0: a running mean of the weights is evaluated and used; try 0.999
  train.patience = 0  # > 0: ends when so many evaluations in a row bring no better mean IoU
  train.losses = losses = ConfigDict()  # what is minimised: the sum of factor * loss
  losses.cross_entropy = 1.0  # per pixel, and so weighted by the three keys below
  losses.focal = 0.0  # per pixel, too: less of it where the network is right
  losses.dice = 0.0  # soft Dice of each image
  losses.lovasz = 0.0  # Lovasz-softmax of each image, a surrogate of 1 - IoU
  train.focal_gamma = 2.0  # of focal; 0 is cross-entropy
  train.class_weights = ()  # one factor per class; () = all 1
  train.class_balance = ""  # times inverse_frequency or median_frequency of the training split
  train.border_weight = 0.0  # w0 of U-Net's border weight map; the paper has 10
  train.border_sigma = 5.0  # its fall-off, px
  train.precision = "float32"  # of activations; or bfloat16
  train.parallel = "jit"  # jit with sharded arrays, or pmap
  train.eval_every_epochs = 5.0  # score, sheet of predictions and checkpoint; also at the end
  train.checkpoint_every_epochs = 5.0  # checkpoints in between
  train.log_every_steps = 10  # lines in metrics.jsonl

  config.eval = evaluation = ConfigDict()
  evaluation.batch_size = 16  # images of image_size that go through together; fewer larger ones
  evaluation.num_samples = 4  # rows on a sheet of predictions
  evaluation.instances = False  # V_rand, V_info and warping error of connected components
  evaluation.boundary_f1 = False  # how well boundaries are met; slow for very large images

  config.predict = predict = ConfigDict()  # in evaluation as well
  predict.output_stride = 0  # of deeplab's encoder, other than in training; 0 = the same
  predict.tile = 0  # with fit = crop, largest side that the network sees, px; 0 = the whole image
  predict.scales = (1.0,)  # average over sizes of the image, with fit = crop: (0.75, 1.0, 1.25)
  predict.symmetries = "none"  # average over views: flip (2) or dihedral (8, square tiles or not)

  config.crf = crf = ConfigDict()  # dense CRF on probabilities, in prediction and evaluation
  crf.num_iterations = 0  # of mean field; 10 is usual, 0 is no CRF; 0.5 s for 480 x 360, 12 classes
  crf.spatial_weight = 3.0  # of neighbours, whatever their colour
  crf.spatial_sigma = 3.0  # how near they are, px
  crf.bilateral_weight = 10.0  # of near pixels of similar colour
  crf.bilateral_sigma = 80.0  # how near, px
  crf.color_sigma = 13.0  # how similar, in 8-bit steps
  crf.exact = False  # True: all pairs of pixels, for accelerators and small images

  config.export = export = ConfigDict()
  export.output = "labels"  # or probs, float32 of each class
  export.onnx_size = ()  # (height, width) of images: writes an ONNX file for this size, too
  export.num_images = 3  # of the evaluation split, on which a file is compared with the network

  config.parallel = parallel = ConfigDict()  # several processes; Slurm, TPU pods and torchrun
  parallel.coordinator = ""  # variables need none of this. Else HOST:PORT of process 0,
  parallel.num_processes = 0  # how many there are,
  parallel.process_id = -1  # and which one this is

  return config.lock()
