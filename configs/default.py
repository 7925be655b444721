"""Every key there is, and the only place where one is declared: default, meaning, values, scope.

A config is a file with `get_config()` that takes these and assigns what differs. Keys are locked:
an unknown one, in a file or as --config.KEY=VALUE, is an error. `--mode=keys` prints this page.

scope: an "experiment" key (all that do not say otherwise) is fixed for the run of a work directory,
a "network" key for the trained network as well; a "free" key may change whenever a run resumes.
"""

from types import SimpleNamespace as Group

from jaxseg import augment, export, forms, models, optim, parallel, predict, weight_maps
from jaxseg.data import datasets, files, input_pipeline
from jaxseg.data.label_spaces import LABEL_SPACES
from jaxseg.data.normalization import NORMALIZATIONS
from jaxseg.losses import LOSSES
from jaxseg.schema import Key as key
from jaxseg.schema import flatten_keys, to_config


def keys():
  """{"train.batch_size": Key, ...} in their order."""
  config = Group()
  config.seed = key(0, "seeds initialisation, shuffling, augmentation, dropout", low=0,
                    high=2**32 - 1)

  config.data = data = Group()
  data.name = key("cells", "data set; folder: your own images and masks; tfds, huggingface: source",
                  choices=datasets.DATASETS, scope="network")
  data.source = key("", "tfds: name of the data set; huggingface: name, folder or parquet file")
  data.image_field = key("image", "tfds, huggingface: field of the image")
  data.mask_field = key("segmentation_mask", "tfds, huggingface: field of the mask")
  data.data_dir = key("", "folder of the data; '' = the default of TFDS", scope="free")
  data.train_split = key("train",
                         "training split; a subfolder of data_dir; or a part, 'train[:90%]'")
  data.eval_split = key("test", "split that evaluations score")
  data.num_folds = key(0, "> 1: cross-validation within train_split; eval_split is not used", low=0,
                       high=10**6)
  data.fold = key(0, "number of the held-out fold, from 0", low=0, high=10**6)
  # Where a folder's files are, relative to data_dir; docs/your_data.md walks through it.
  data.images = key("", "pattern of images, such as 'scans/{name}.png'; '' = images/{name}")
  data.masks = key("", "pattern of masks, such as 'labels/{name}_mask.png'; '' = masks/{name}")
  data.split_file = key("", "list of a split's examples, such as 'lists/{split}.txt'; '' = none")
  data.group_by = key("", "fields of images, such as 'patient', that no fold or part cuts through")
  data.image_size = key(128, "height and width of training images, px", above=0, high=65536,
                        scope="network")
  data.fit = key("resize", "resize: squeeze images into image_size; crop: random windows of them",
                 choices=input_pipeline.FITS, scope="network")
  data.fast_jpeg = key(False,
                       "fit resize: training decodes large JPEGs faster, slightly differently")
  data.class_crops = key(0.0, "fit crop: probability that a window holds a pixel of a drawn class",
                         low=0, high=1)
  data.crop_classes = key((), "names of the classes that class_crops draws from; () = all",
                          item=str, most=255)
  data.class_balanced = key(0.0, "probability that an example is drawn by class, not shuffled",
                            low=0, high=1)
  data.num_threads = key(2, "threads that read and decode ahead", low=0, high=256, scope="free")
  data.num_workers = key(0, "processes that make training batches, each with num_threads; 0 = none",
                         low=0, high=256, scope="free")
  data.cache_mb = key(1024, "memory for decoded examples, MiB per split", low=0, high=2**30,
                      scope="free")
  data.on_device = key(False, "images stay in the memory of the devices, if they fit",
                       scope="free")
  data.seed = key(0, "seeds the generated images; another seed is another data set", low=0,
                  high=2**32 - 1)
  # What a folder's files mean; docs/your_data.md walks through it.
  data.classes = key((), "class names, in the order of the labels", item=str, most=255,
                     scope="network")
  data.palette = key((), "(R, G, B) of each class; () = chosen for you", most=255,
                     form=forms.COLORS)
  data.channels = key(3, "channels of images: 1 grey, 3 RGB (each becomes the other), or N bands",
                      low=1, high=1024, scope="network")
  data.bands = key((), "numbers of the bands that are the channels, from 0; () = the first",
                   item=int, most=1024, low=0, high=65535, scope="network")
  data.dtype = key("", "type of images up to the device; '' = that of the first files",
                   choices=("uint8", "uint16", "float32"))
  data.label_space = key("", "known data set that gives classes, palette and values of masks",
                         choices=LABEL_SPACES)
  data.mask_values = key((), "stored value, or tuple of values, of each class; () = 0, 1, 2 ...",
                         form=forms.VALUES)
  data.void_values = key((), "stored values that loss and metrics ignore (ignore index); and 255",
                         form=forms.FLAT_VALUES)
  data.reduce_zero_label = key(False, "masks count from 1, and 0 is void")
  data.mask_colors = key((), "masks in colour: (R, G, B), or tuple of several, of each class; () = "
                         "palette", form=forms.STORED_COLORS)
  data.void_colors = key((), "masks in colour: colours that count as void",
                         form=forms.VOID_COLORS)
  data.color_tolerance = key(0, "largest difference per channel between a pixel and its colour",
                             low=0, high=127)
  data.value_range = key((), "stored values of black and white, or such pairs, one a channel; () = "
                         "full range", form=forms.RANGES, scope="network")
  data.normalization = key("range", "black and white: value_range, or measured in each channel of "
                           "the training images",
                           choices=NORMALIZATIONS, scope="network")
  data.exif_orientation = key(True, "turn images and masks upright as their EXIF orientation says",
                              scope="network")
  data.pages = key("auto", "pages of a TIFF: channels, examples, or what its metadata say",
                   choices=files.PAGES, scope="network")
  data.display_bands = key((), "1 or 3 channels that pictures show; () = the first three", item=int,
                           most=3, low=0, high=1023, scope="free")

  config.augment = aug = Group()
  aug.flip = key(True, "mirror left-right, every other image")
  aug.flip_vertical = key(False, "mirror top-bottom, every other image")
  aug.transpose = key(False, "swap rows and columns; with both flips, all eight symmetries")
  aug.scale = key((1.0, 1.0), "range of the random zoom; > 1 enlarges and crops", above=0, high=100,
                  item=float, length=2)
  aug.rotation = key(0.0, "largest rotation, degrees", low=0, high=180)
  aug.shift = key(0.0, "largest shift along each axis, px; up to image_size", low=0,
                  high=65536)
  aug.elastic = key(0.0, "standard deviation of elastic displacements, px; U-Net: 10", low=0,
                    high=65536)
  aug.elastic_grid = key(3, "elastic displacements along each axis", low=2, high=64)
  aug.border = key("mirror", "beyond the image: mirror image and labels, or void",
                   choices=augment.BORDERS)
  aug.brightness = key(0.0, "largest brightness shift, as a fraction of the full range", low=0,
                       high=1)
  aug.contrast = key((1.0, 1.0), "range of the contrast factor", low=0, high=100, item=float,
                     length=2)
  aug.hue = key(0.0, "RGB: largest rotation of the hue, fraction of the circle", low=0, high=0.5)
  aug.saturation = key((1.0, 1.0), "RGB: range of the saturation factor; 0 is grey", low=0,
                       high=100, item=float, length=2)
  aug.gray = key(0.0, "RGB: probability of a grey image", low=0, high=1)
  aug.gamma = key((1.0, 1.0), "range of the exponent of grey values, drawn log-uniformly", above=0,
                  high=100, item=float, length=2)
  aug.blur = key(0.0, "largest sigma of a Gaussian blur, px; up to half of image_size", low=0,
                 high=32768)
  aug.noise = key(0.0, "largest standard deviation of noise, fraction of the full range", low=0,
                  high=1)
  aug.cutout = key(0.0, "side of a hidden square, fraction of the image; its mask becomes void",
                   low=0, high=1)
  aug.extra = key((), "your own augmentations, by name, applied in this order", item=str,
                  choices=augment.AUGMENTATIONS)

  config.model = model = Group()
  model.name = key("unet", "network architecture", choices=models.MODELS, scope="network")
  model.encoder = key("", "encoder; every network but unet needs one", choices=models.ENCODERS,
                      scope="network")
  model.output_stride = key(32, "of the encoder; 8, 16: atrous convolutions (deeplab, dilated_fcn)",
                            choices=models.OUTPUT_STRIDES, scope="network")
  model.pretrained = key("", "encoder weights: '' random, 'imagenet' downloads once, or a file")
  model.freeze_encoder = key(True, "if pretrained: no gradient, fixed batch statistics")
  model.freeze_norm = key(False, "fixed batch statistics in the encoder, weights still train")
  model.init_from = key("", "another run or published network, whose weights are taken if they fit")
  model.widths = key((), "channels of levels; fcn: fc1, fc2; deeplab: ASPP, low level; () = own",
                     item=int, most=12, above=0, high=2**20, scope="network")
  model.padding = key("same", "valid, as published: unpadded in unet, 100 px of zeros in fcn",
                      choices=models.PADDINGS, scope="network")
  model.stem_stride = key(1, "2 in unet: half the resolution inside, a quarter of the cost",
                          choices=models.STEM_STRIDES, scope="network", was="model.patch")
  model.head = key("softmax", "sigmoid: one logit, for two classes", choices=models.HEADS,
                   scope="network")
  model.norm = key(True, "batch normalisation in unet, and encoder_unet of variant smp",
                   scope="network")
  model.separable = key(True, "deeplab: depthwise separable convolutions in ASPP and decoder",
                        scope="network")
  model.rates = key((), "deeplab: atrous rates at output stride 16; () = 6,12,18; smp: 12,24,36 "
                    "at any stride", item=int, length=3, low=1, high=1024,
                    scope="network")
  model.variant = key("paper", "form: of the papers, torchvision (deeplabv3, dilated_fcn) or smp "
                      "(encoder_unet, deeplab)", choices=models.VARIANTS, scope="network")
  model.dropout = key(0.0, "dropout rate: unet's two coarsest levels; after fc1, fc2; after ASPP",
                      low=0, high=0.99)
  model.up = key("transposed", "upsampling: transposed convolution, or resize (and convolution)",
                 choices=models.UPS, scope="network")

  config.train = train = Group()
  train.num_epochs = key(20.0, "passes over the data; a run of constant schedule may get longer",
                         above=0, high=1e9)
  train.batch_size = key(16, "examples per step, summed over all devices", above=0, high=2**24)
  train.accumulation_steps = key(1, "gradient accumulation: parts of a batch computed one by one",
                                 low=1, high=2**24, was="train.num_micro_batches")
  train.optimizer = key("adam", "optimizer", choices=optim.OPTIMIZERS)
  train.learning_rate = key(1e-3, "peak learning rate", above=0, high=1e6)
  train.schedule = key("constant", "learning rate over time; cosine and poly end at 0",
                       choices=optim.SCHEDULES)
  train.warmup_epochs = key(0.0, "epochs of linear warm-up", low=0, high=1e9)
  train.poly_power = key(0.9, "exponent of poly: (1 - step / steps)^power", low=0, high=10)
  train.lr_multipliers = key((), "learning-rate multipliers by module: (('encoder', 0.1),)",
                             form=forms.MULTIPLIERS, most=1024, was="train.rate_factors")
  train.momentum = key(0.9, "momentum of sgd", low=0, high=1)
  train.adam_betas = key((0.9, 0.999), "decay of Adam's two moments (not of sgd)", low=0,
                         high=0.999999, item=float, length=2)
  train.adam_epsilon = key(1e-8, "added to the denominator, not of sgd", above=0, high=1)
  train.weight_decay = key(0.0, "weight decay of kernels; adam and sgd add it to the gradient",
                           low=0, high=1)
  train.clip_grad_norm = key(0.0, "> 0: gradients are clipped to this global norm", low=0, high=1e9)
  train.ema_decay = key(0.0, "> 0: an EMA of the weights is evaluated and used; try 0.999", low=0,
                        high=0.999999)
  train.patience = key(0, "early stopping: evaluations in a row without a better mean IoU; 0 = off",
                       low=0, high=2**31, scope="free")
  train.losses = losses = Group()
  weights = {"cross_entropy": 1.0}
  for name in LOSSES:
    setattr(losses, name, key(weights.get(name, 0.0), f"factor of {name} in the loss",
                              low=0, high=1e6))
  train.focal_gamma = key(2.0, "gamma of the focal loss; 0 is cross-entropy", low=0, high=10)
  train.class_weights = key((), "factor per class, for losses per pixel; () = all 1",
                            item=float, most=255, low=0, high=1e6)
  train.class_balance = key("", "class weights from the frequencies in the training split",
                            choices=weight_maps.CLASS_BALANCES)
  train.border_weight = key(0.0, "w0 of U-Net's border weight map; the paper has 10", low=0,
                            high=1e6)
  train.border_sigma = key(5.0, "fall-off of the border weight, px", low=0.01, high=1e6)
  train.precision = key("float32", "type of activations; parameters stay float32",
                        choices=models.PRECISIONS)
  train.remat = key(False, "rematerialisation (gradient checkpointing): less memory, a third more "
                    "work", scope="free")
  train.parallel = key("jit", "run steps by jit with sharded arrays, or by pmap",
                       choices=parallel.STRATEGIES, scope="free")
  train.steps_per_call = key(1, "most steps that the devices run without the host, in one program",
                             low=1, high=10**6, scope="free")
  train.num_seeds = key(1, "runs that train in one program, with seed, seed + 1, ...", above=0,
                        high=1000)
  train.eval_every_epochs = key(5.0, "epochs between evaluations; there is one at the end, too",
                                above=0, high=1e9, scope="free")
  train.checkpoint_every_epochs = key(5.0, "epochs between further checkpoints", above=0, high=1e9,
                                      scope="free")
  train.log_every_steps = key(10, "steps between lines of metrics.jsonl", above=0, high=10**9,
                              scope="free")
  train.profile_steps = key((), "(first, last) step of a jax.profiler trace in WORKDIR/profile",
                            low=1, high=2**31, item=int, length=2, scope="free")

  config.eval = evaluation = Group()
  evaluation.batch_size = key(16, "images of image_size in one forward pass; fewer larger ones",
                              above=0, high=2**24, scope="free")
  evaluation.num_samples = key(4, "rows on a sheet of predictions", low=0, high=256,
                               scope="free")
  evaluation.instances = key(False, "V_rand, V_info and warping error of connected components",
                             scope="free")
  evaluation.boundary_f1 = key(False, "boundary F1 score; slow for large images", scope="free")
  evaluation.surface_distances = key(False, "HD95 and normalised surface distance (NSD); slow",
                                     scope="free")
  evaluation.surface_tolerance = key(2.0, "distance that NSD accepts, px", low=0, high=65536,
                                     scope="free")

  config.predict = use = Group()  # in evaluation as well
  use.output_stride = key(0, "output stride of deeplab's encoder in prediction; 0 = as trained",
                          choices=models.OUTPUT_STRIDES, scope="free")
  use.tile = key(0, "fit crop: largest side that the network sees, px; 0 = the whole image", low=0,
                 high=2**20, scope="free")
  use.scales = key((1.0,), "test-time augmentation: sizes to average over, fit crop", above=0,
                   high=100, item=float, most=64, scope="free")
  use.temperature = key(0.0, "of the probabilities; 0 = as --mode=calibrate found, or 1", low=0,
                        high=100, scope="free")
  use.tta = key("none", "test-time augmentation: average over flip (2) or dihedral (8) views",
                choices=predict.TTA, scope="free", was="predict.symmetries")

  config.crf = crf = Group()  # dense CRF on probabilities, in prediction and evaluation
  crf.num_iterations = key(0, "dense CRF: mean-field iterations; 10 is usual, 0 = no CRF", low=0,
                           high=1000, scope="free")
  crf.spatial_weight = key(3.0, "weight of the spatial kernel: near pixels of any colour", low=0,
                           high=1e6, scope="free")
  crf.spatial_sigma = key(3.0, "width of the spatial kernel, px", low=0.01, high=1e6, scope="free")
  crf.bilateral_weight = key(10.0, "weight of the bilateral kernel: near pixels of similar colour",
                             low=0, high=1e6, scope="free")
  crf.bilateral_sigma = key(80.0, "width of the bilateral kernel, px", low=0.01, high=1e6,
                            scope="free")
  crf.color_sigma = key(13.0, "width of the bilateral kernel in colour, 8-bit steps", low=0.01,
                        high=1e6, scope="free")
  crf.exact = key(False, "sum over all pairs of pixels; for accelerators, small images",
                  scope="free")

  config.export = exported = Group()
  exported.output = key("labels", "what an exported file returns: labels, or float32 probs",
                        choices=export.OUTPUTS, scope="free")
  exported.onnx_size = key((), "(height, width): also writes an ONNX file for this size", low=1,
                           high=65536, item=int, length=2, scope="free")
  exported.num_images = key(3, "images on which a file is compared with the network", above=0,
                            high=10**6, scope="free")

  config.parallel = several = Group()  # Slurm, TPU pods and torchrun need none of this
  several.coordinator = key("", "several processes: HOST:PORT of process 0", scope="free")
  several.num_processes = key(0, "several processes: how many there are", low=0, high=10**6,
                              scope="free")
  several.process_id = key(-1, "several processes: the number of this one", low=-1, high=10**6,
                           scope="free")
  several.initialization_timeout = key(300, "several processes: seconds to wait for all to join",
                                       above=0, high=3540, scope="free")
  several.space = key(1, "devices that share the height of each image (spatial sharding)",
                      above=0, high=4096, scope="free")
  return flatten_keys(config)


def get_config():
  """A locked ConfigDict of the defaults."""
  return to_config({name: declared.default for name, declared in keys().items()})
