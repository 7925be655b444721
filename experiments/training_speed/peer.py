"""The same networks in PyTorch: prints one JSON line of images per second.

python experiments/training_speed/peer.py NAME   (in an environment with PyTorch and, but for the
plain U-Net, segmentation_models.pytorch; see README.md)
"""

import json
import statistics
import sys
import time

import torch
from torch import nn

# name: (network of segmentation_models.pytorch and its encoder, batch); 128 x 128 px, 3 classes
CASES = {
  "unet": (None, None, 4),
  "encoder_unet": ("Unet", "mobilenet_v2", 8),
  "deeplabv3plus": ("DeepLabV3Plus", "mobilenet_v2", 8),
  "deeplabv3plus_resnet50": ("DeepLabV3Plus", "resnet50", 8),
}
SIZE, NUM_CLASSES, REPEATS = 128, 3, 10
WIDTHS = (32, 64, 128, 256, 512)  # of the plain U-Net, as in `run.py`


class UNet(nn.Module):
  """U-Net: padded, with batch normalisation; or as published, without and with cropped skips.

  Args:
    valid: unpadded convolutions, 572 -> 388 px (Ronneberger et al. 2015).
  """

  def __init__(self, widths=WIDTHS, classes=NUM_CLASSES, channels=3, valid=False):
    super().__init__()

    def double_conv(before, after):
      layers = []
      for width in (before, after):
        layers += [nn.Conv2d(width, after, 3, padding=0 if valid else 1, bias=valid)]
        layers += [] if valid else [nn.BatchNorm2d(after)]
        layers += [nn.ReLU(inplace=True)]
      return nn.Sequential(*layers)

    pairs = list(zip(widths[:-1], widths[1:], strict=True))
    befores = (channels, *widths[:-1])
    self.down = nn.ModuleList(double_conv(*pair) for pair in zip(befores, widths, strict=True))
    self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, 2) for a, b in reversed(pairs))
    self.merge = nn.ModuleList(double_conv(b, a) for a, b in reversed(pairs))
    self.head = nn.Conv2d(widths[0], classes, 1)

  def forward(self, x):
    skips = []
    for i, down in enumerate(self.down):
      x = down(nn.functional.max_pool2d(x, 2) if i else x)
      skips.append(x)
    skips.pop()
    for up, merge in zip(self.up, self.merge, strict=True):
      x, skip = up(x), skips.pop()
      cut = (skip.shape[-1] - x.shape[-1]) // 2
      skip = skip[..., cut : cut + x.shape[-2], cut : cut + x.shape[-1]]
      x = merge(torch.cat([skip, x], dim=1))
    return self.head(x)


def build(network, encoder, classes=NUM_CLASSES):
  if network is None:
    return UNet()
  # A torchvision whose compiled operators do not load describes some that are not there.
  library = torch.library.Library("torchvision", "DEF")
  library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
  describe = torch.library.register_fake

  def describe_others(name, *arguments, **options):
    if str(name).startswith("torchvision::"):
      return lambda function: function
    return describe(name, *arguments, **options)

  torch.library.register_fake = describe_others
  import segmentation_models_pytorch as smp

  return getattr(smp, network)(encoder, encoder_weights=None, classes=classes)


def rate(function, batch):
  """Images per second, by the median of several calls after two."""
  times = []
  for _ in range(REPEATS + 2):
    start = time.perf_counter()
    function()
    times.append(time.perf_counter() - start)
  return batch / statistics.median(times[2:])


def main():
  network, encoder, batch = CASES[sys.argv[1]]
  torch.manual_seed(0)
  model = build(network, encoder).to(memory_format=torch.channels_last)
  optimizer = torch.optim.Adam(model.parameters(), 1e-3)
  image = torch.rand(batch, 3, SIZE, SIZE).contiguous(memory_format=torch.channels_last)
  labels = torch.randint(0, NUM_CLASSES, (batch, SIZE, SIZE))

  def train():
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(image), labels).backward()
    optimizer.step()

  found = {"train": rate(train, batch)}
  model.eval()
  with torch.inference_mode():
    found["predict"] = rate(lambda: model(image), batch)
  print(json.dumps(found))


if __name__ == "__main__":
  main()
