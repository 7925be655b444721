"""DeepLabv3+ on a pretrained ResNet-101 with Pascal VOC 2012: 21 classes of objects.

python -m jaxseg.main --config=configs/deeplabv3plus_voc.py --config.data.data_dir=DIR

DIR is VOCdevkit/VOC2012, as it comes: JPEGImages/, SegmentationClass/, ImageSets/Segmentation/. For
a GPU; not trained here.

Learning rate, schedule, batch and steps are those of DeepLab's authors (Chen et al. 2018 and
tensorflow/models, research/deeplab): 0.007, poly 0.9, 16 crops, 30,000 steps; atrous rates 6, 12
and 18 at output stride 16; weight decay 1e-4 for ResNet. Differences: windows of 512 px for 513,
which need no padding here; any zoom from 0.5 to 2 for steps of 0.25; torchvision's ResNet-101;
bfloat16.

They train on 10,582 images, VOC's with those of SBD (Hariharan et al. 2011). With SBD's masks in
DIR/SegmentationClassAug and a list of the names in ImageSets/Segmentation/trainaug.txt, add
--config.data.train_split=trainaug --config.data.masks=SegmentationClassAug/{name}.png
--config.train.num_epochs=45.4. Published mean IoU on val after that: 0.822 with Xception-65 that
was trained on COCO, too (DeepLab's model zoo); 0.783 with this encoder, from ImageNet alone, with
learning rate 0.01 and 60 epochs (SSSegmentation).
"""

from configs import default

NUM_IMAGES = 1464  # of train


def get_config():
  config = default.get_config()
  config.data.name = "folder"
  config.data.images = "JPEGImages/{name}.jpg"
  config.data.masks = "SegmentationClass/{name}.png"
  config.data.split_file = "ImageSets/Segmentation/{split}.txt"
  config.data.eval_split = "val"
  config.data.label_space = "voc"
  config.data.image_size = 512
  config.data.fit = "crop"
  config.data.num_threads = 8
  config.augment.scale = (0.5, 2.0)
  config.augment.border = "void"
  config.model.name = "deeplabv3plus"
  config.model.encoder = "resnet101"
  config.model.pretrained = "imagenet"
  config.model.freeze_encoder = False
  config.model.output_stride = 16
  config.model.dropout = 0.1
  config.model.up = "resize"
  config.train.batch_size = 16
  config.train.num_epochs = 30_000 * 16 / NUM_IMAGES  # 328
  config.train.optimizer = "sgd"
  config.train.learning_rate = 7e-3
  config.train.schedule = "poly"
  config.train.weight_decay = 1e-4
  config.train.precision = "bfloat16"
  config.train.eval_every_epochs = 20.0
  config.train.checkpoint_every_epochs = 10.0
  return config
