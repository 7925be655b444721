"""The same networks in PyTorch: torch.compile, channels_last, AMP or TF32; forward, backward, step.

python experiments/gpu/peer.py NETWORK [--quick]        of CASES
"""

import argparse
import importlib.util
import json
import pathlib
import statistics
import time

# name: (network of segmentation_models.pytorch, encoder, batches, px, classes, channels)
CASES = {
  "paper_unet": (None, None, (1, 8, 16), 572, 2, 1),
  "fcn8s_vgg": (None, None, (16,), 224, 11, 3),
  "mobilenet_unet": ("Unet", "mobilenet_v2", (64,), 128, 3, 3),
  "deeplab_resnet": ("DeepLabV3Plus", "resnet50", (16,), 512, 21, 3),
  "deeplab_mobilenet": ("DeepLabV3Plus", "mobilenet_v2", (16,), 256, 21, 3),
  "padded_unet": (None, None, (64,), 128, 3, 3),
}


def build(name, quick):
  """The network of a case; those of `training_speed` are the same in PyTorch."""
  network, encoder, _, _, classes, channels = CASES[name]
  file = pathlib.Path(__file__).resolve().parents[1] / "training_speed" / "peer.py"
  spec = importlib.util.spec_from_file_location("networks", file)
  networks = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(networks)
  if name == "fcn8s_vgg":
    return fcn8s(classes, 8 if quick else 4096)
  if network is None:
    widths = (4, 8) if quick else (64, 128, 256, 512, 1024)
    return networks.UNet(widths, classes, channels, valid=name == "paper_unet")
  return networks.build(network, encoder, classes)


def fcn8s(classes, width):
  """FCN-8s on VGG-16 (Long et al. 2015), padded as jaxseg's; width: channels of fc6 and fc7."""
  from torch import nn

  class FCN8s(nn.Module):
    def __init__(self):
      super().__init__()
      self.stages, before = nn.ModuleList(), 3
      for count, after in zip((2, 2, 3, 3, 3), (64, 128, 256, 512, 512), strict=True):
        layers = []
        for _ in range(count):
          layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(inplace=True)]
          before = after
        self.stages.append(nn.Sequential(*layers, nn.MaxPool2d(2)))
      self.top = nn.Sequential(
        nn.Conv2d(512, width, 7, padding=3), nn.ReLU(inplace=True),
        nn.Conv2d(width, width, 1), nn.ReLU(inplace=True),
      )  # fmt: skip
      self.scores = nn.ModuleList(nn.Conv2d(n, classes, 1) for n in (width, 512, 256))
      ups = ((4, 2, 1), (4, 2, 1), (8, 8, 0))
      self.ups = nn.ModuleList(nn.ConvTranspose2d(classes, classes, *x, bias=False) for x in ups)

    def forward(self, x):
      found = []
      for stage in self.stages:
        found.append(x := stage(x))
      x = self.ups[0](self.scores[0](self.top(x))) + self.scores[1](found[3])
      return self.ups[2](self.ups[1](x) + self.scores[2](found[2]))

  return FCN8s()


def measure(name, precision, batch, quick):
  import torch
  from torch import nn

  *_, size, classes, channels = CASES[name]
  size = (44 if name == "paper_unet" else 64) if quick else size
  device = "cuda" if torch.cuda.is_available() else "cpu"
  torch.set_float32_matmul_precision("high")  # TF32, as JAX has it
  torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
  torch.manual_seed(0)
  model = build(name, quick).to(device, memory_format=torch.channels_last)
  optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=device == "cuda")
  image = torch.rand(batch, channels, size, size, device=device)
  image = image.contiguous(memory_format=torch.channels_last)
  out = size - 184 if name == "paper_unet" and not quick else None
  with torch.no_grad():
    out = out or model.eval()(image).shape[-1]
  model.train()
  labels = torch.randint(0, classes, (batch, out, out), device=device)
  compiled = model if quick else torch.compile(model)

  def step():
    optimizer.zero_grad()
    with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
      loss = nn.functional.cross_entropy(compiled(image).float(), labels)
    loss.backward()
    optimizer.step()
    return loss.item()  # waits for the device

  times = []
  for _ in range(5 if quick else 23):
    began = time.perf_counter()
    step()
    times.append(time.perf_counter() - began)
  return {
    "by": "torch", "program": name, "precision": precision, "batch": batch, "size": size,
    "images_per_second": batch / statistics.median(times[3:]), "first_step_seconds": times[0],
    "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
    "torch": torch.__version__,
  }  # fmt: skip


def main():
  form = argparse.RawDescriptionHelpFormatter
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
  parser.add_argument("name", choices=list(CASES))
  parser.add_argument("--quick", action="store_true")
  args = parser.parse_args()
  needed = ["torch"] + ["segmentation_models_pytorch"] * (CASES[args.name][0] is not None)
  for package in needed:
    if importlib.util.find_spec(package) is None:
      print(json.dumps({"by": "torch", "program": args.name, "note": f"{package} not installed"}))
      return
  for precision in ("bfloat16", "float32"):
    for batch in (2,) if args.quick else CASES[args.name][2]:
      print(json.dumps(measure(args.name, precision, batch, args.quick)), flush=True)


if __name__ == "__main__":
  main()
