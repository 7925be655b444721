"""Trains a network of segmentation_models.pytorch for some minutes; run.py calls it.

It runs where PyTorch, segmentation_models.pytorch, albumentations and OpenCV are, and prints JSON
lines: of each evaluation, and of the whole run at the end. README.md has the recipe.
"""

import argparse
import importlib.util
import itertools
import json
import math
import pathlib
import time

import albumentations as A
import cv2
import numpy as np
import torch
from torch import nn

from jaxseg import VOID, metrics

NUM_CLASSES, WINDOW = 11, 320
# "published": the CamVid example of segmentation_models.pytorch. "ours": that of our config.
RECIPES = {
  "published": {
    "batch": 32, "cross_entropy": 0, "rate": 2e-4, "last_rate": 1e-5, "encoder": 1.0,
    "schedule": lambda share: (1 + math.cos(math.pi * share)) / 2,
  },
  "ours": {
    "batch": 8, "cross_entropy": 1, "rate": 1e-3, "last_rate": 0.0, "encoder": 0.3,
    "schedule": lambda share: (1 - share) ** 0.9,
  },
}  # fmt: skip
# Where the encoder has what the stages of ours are.
STAGES = ("2.conv.0", "4.conv.0", "7.conv.0", "14.conv.0", "17.conv.2")


def augmentation():
  """That of the example, with the noise of albumentations 1, for which it was written."""
  one_of = [
    [A.CLAHE(p=1), A.RandomBrightnessContrast(p=1), A.RandomGamma(p=1)],
    [A.Sharpen(p=1), A.Blur(blur_limit=3, p=1), A.MotionBlur(blur_limit=3, p=1)],
    [A.RandomBrightnessContrast(p=1), A.HueSaturationValue(p=1)],
  ]
  fill = {"border_mode": cv2.BORDER_CONSTANT, "fill": 0, "fill_mask": VOID}
  return A.Compose([
    A.HorizontalFlip(p=0.5),
    A.Affine(scale=(0.5, 1.5), keep_ratio=True, translate_percent=(-0.1, 0.1), p=1, **fill),
    A.PadIfNeeded(WINDOW, WINDOW, **fill),
    A.RandomCrop(WINDOW, WINDOW),
    A.GaussNoise(std_range=(math.sqrt(10) / 255, math.sqrt(50) / 255), p=0.2),
    A.Perspective(p=0.5, **fill),
    *(A.OneOf(choices, p=0.9) for choices in one_of),
  ])  # fmt: skip


class CamVid(torch.utils.data.Dataset):
  """(image u8[3,H,W], mask u8[H,W], 255 where there is no label) of a split."""

  def __init__(self, folder, transform=None):
    self.images = sorted((folder / "images").iterdir())
    self.masks = [folder / "masks" / f"{image.stem}.png" for image in self.images]
    self.transform = transform

  def __len__(self):
    return len(self.images)

  def __getitem__(self, i):
    image = cv2.cvtColor(cv2.imread(str(self.images[i])), cv2.COLOR_BGR2RGB)
    mask = cv2.imread(str(self.masks[i]), cv2.IMREAD_GRAYSCALE)
    mask[mask >= NUM_CLASSES] = VOID
    if self.transform:
      image, mask = self.transform(image=image, mask=mask).values()
    return np.ascontiguousarray(image.transpose(2, 0, 1)), mask


class KerasPadding(nn.Module):
  """Pads for a 3x3 convolution of stride 2 as Keras does: even sizes at the end alone."""

  def forward(self, x):
    h, w = x.shape[2:]
    return nn.functional.pad(x, (w % 2, 1, h % 2, 1))


def build(name, weights, without_last=False):
  """A network whose encoder computes what Keras' does with the same weights.

  Args:
    without_last: of DeepLabV3Plus: its ASPP gets the 320 channels before the encoder's last layer.
  """
  file = pathlib.Path(__file__).resolve().parents[1] / "training_speed" / "peer.py"
  spec = importlib.util.spec_from_file_location("networks", file)
  networks = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(networks)
  model = networks.build(name, "mobilenet_v2", NUM_CLASSES)
  layers = [x for x in model.encoder.modules() if isinstance(x, nn.Conv2d | nn.BatchNorm2d)]
  for i, (conv, norm) in enumerate(zip(layers[::2], layers[1::2], strict=True)):
    layer = {
      name: torch.from_numpy(weights[f"{i}/{name}"])
      for name in ("kernel", "gamma", "beta", "moving_mean", "moving_variance")
    }
    kernel = layer["kernel"].permute(2, 3, 0, 1)  # depthwise: [h,w,C,1]
    conv.weight.data.copy_(kernel if conv.groups > 1 else kernel.transpose(0, 1))
    norm.load_state_dict({
      "weight": layer["gamma"], "bias": layer["beta"], "running_mean": layer["moving_mean"],
      "running_var": layer["moving_variance"], "num_batches_tracked": norm.num_batches_tracked,
    })  # fmt: skip
    norm.eps = 1e-3
  if without_last:
    from segmentation_models_pytorch.base.initialization import initialize_decoder

    model.encoder.features[-1] = nn.Identity()
    model.decoder = type(model.decoder)(
      [3, 16, 24, 32, 96, 320], 5, 256, (12, 24, 36), 16, aspp_separable=True, aspp_dropout=0.5
    )
    initialize_decoder(model.decoder)
  for block in list(model.encoder.modules()):
    for key, child in list(block.named_children()):
      if isinstance(child, nn.Conv2d) and child.stride == (2, 2):
        child.padding = (0, 0)
        setattr(block, key, nn.Sequential(KerasPadding(), child))
  return model.to(memory_format=torch.channels_last)


def to_network(image):
  """u8[B,3,H,W] -> f32 in [-1, 1], as these weights were trained."""
  return image.contiguous(memory_format=torch.channels_last).float() / 127.5 - 1


def check(model, features):
  """Relative errors of the encoder's stages against ours, {stage: f32[1,h,w,C]}, on an image."""
  found = {}
  for stage in STAGES:
    model.encoder.features.get_submodule(stage).register_forward_hook(
      lambda module, inputs, output, stage=stage: found.update({stage: output})
    )
  with torch.inference_mode():
    model.eval().encoder(to_network(torch.from_numpy(features["image"]).permute(0, 3, 1, 2)))
  errors = []
  for i, stage in enumerate(STAGES):
    ours, theirs = features[f"stage{i}"], found[stage].permute(0, 2, 3, 1).numpy()
    same = ours.shape == theirs.shape
    errors.append(float(np.abs(ours - theirs).max() / np.abs(ours).max()) if same else None)
  return errors


def evaluate(model, examples):
  """Mean IoU on whole images, mirrored up to multiples of 32."""
  counts = np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64)
  model.eval()
  with torch.inference_mode():
    for image, mask in examples:
      h, w = mask.shape
      top, left = -h % 32 // 2, -w % 32 // 2
      pads = ((0, 0), (top, -h % 32 - top), (left, -w % 32 - left))
      padded = torch.from_numpy(np.pad(image, pads, "reflect"))[None]
      labels = model(to_network(padded)).argmax(1)[0, top : top + h, left : left + w]
      counts += metrics.confusion_matrix(mask, labels.numpy().astype(np.uint8), NUM_CLASSES)
  model.train()
  return float(metrics.scores(*metrics.class_pixels(counts))["miou"])


def in_workers(_):
  cv2.setNumThreads(0)


def train(model, args):
  """Prints {"seconds", "miou"} of evaluations; seconds count from --began, without evaluations."""
  import segmentation_models_pytorch as smp  # after `build`, which prepares it

  recipe, budget = RECIPES[args.recipe], 60 * args.minutes
  data = CamVid(args.data / "train", augmentation())
  loader = torch.utils.data.DataLoader(
    data, recipe["batch"], shuffle=True, num_workers=args.workers,
    persistent_workers=args.workers > 0, worker_init_fn=in_workers,
  )  # fmt: skip
  batches = itertools.chain.from_iterable(itertools.repeat(loader))
  dice = smp.losses.DiceLoss(smp.losses.MULTICLASS_MODE, ignore_index=VOID)
  cross_entropy = nn.CrossEntropyLoss(ignore_index=VOID)
  encoder = list(model.encoder.parameters())
  others = [*model.decoder.parameters(), *model.segmentation_head.parameters()]
  factors = (recipe["encoder"], 1.0)
  optimizer = torch.optim.Adam([{"params": encoder}, {"params": others}])
  examples, evaluated, num_evaluations, steps, starts = CamVid(args.data / "val"), 0.0, 0, 0, []
  model.train()
  while True:
    seconds = time.time() - args.began - evaluated
    starts.append(seconds)
    due = seconds >= budget * (num_evaluations + 1) / args.evaluations if args.evaluations else 0
    if due:
      began = time.time()
      miou = evaluate(model, examples)
      print(json.dumps({"seconds": seconds, "miou": miou}), flush=True)
      evaluated += time.time() - began
      num_evaluations += 1
    if seconds >= budget or steps == args.steps:
      break
    # Over the time, as the number of steps is unknown.
    share = recipe["schedule"](min(seconds / budget, 1.0))
    rate = recipe["last_rate"] + (recipe["rate"] - recipe["last_rate"]) * share
    for group, factor in zip(optimizer.param_groups, factors, strict=True):
      group["lr"] = factor * rate
    image, mask = next(batches)
    optimizer.zero_grad()
    logits, mask = model(to_network(image)), mask.long()
    loss = dice(logits, mask)
    if recipe["cross_entropy"]:
      loss = loss + cross_entropy(logits, mask)
    loss.backward()
    optimizer.step()
    steps += 1
  # Without the first step, in which workers start and memory is taken.
  speed = (steps - 1) / (starts[-1] - starts[1]) if steps > 1 else None
  total = {"steps": steps, "batch": recipe["batch"], "steps_per_second": speed,
           "evaluation_seconds": evaluated}  # fmt: skip
  print(json.dumps(total), flush=True)


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("network", choices=["Unet", "DeepLabV3Plus"])
  parser.add_argument("data", type=pathlib.Path)
  parser.add_argument("--weights", required=True, help="weights.npz of run.py")
  parser.add_argument("--check", help="features.npz of run.py: prints errors instead of training")
  parser.add_argument("--recipe", default="published", choices=RECIPES)
  parser.add_argument("--without_last", action="store_true", help="see `build`")
  parser.add_argument("--minutes", default=20.0, type=float)
  parser.add_argument("--evaluations", default=10, type=int)
  parser.add_argument("--steps", type=int, help="ends after so many")
  parser.add_argument("--workers", default=1, type=int)
  parser.add_argument("--began", default=time.time(), type=float, help="when the clock started")
  args = parser.parse_args()
  torch.manual_seed(0)
  if args.without_last and args.network != "DeepLabV3Plus":
    parser.error("--without_last is for DeepLabV3Plus")
  model = build(args.network, np.load(args.weights), args.without_last)
  if args.check:
    print(json.dumps(check(model, np.load(args.check))))
  else:
    train(model, args)


if __name__ == "__main__":
  main()
