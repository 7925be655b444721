"""Small real data sets, as published, through the command: check, train, score, predict."""

import json
import os
import subprocess
import sys

import command
import numpy as np
import pytest
from PIL import Image

CONFIG = """
from configs import default

def get_config():
  config = default.get_config()
  config.data.name = "folder"
  config.data.image_size = 64
  config.data.fit = "crop"
  config.data.train_split, config.data.eval_split = "all[:67%]", "all[67%:]"
  config.model.widths = (4, 8)
  config.train.batch_size = 2
  config.train.num_epochs = 5.0
  return config
"""
NAMES = "background,aeroplane,bus,car,person,bottle,chair,sofa"  # of the polygons
LAYOUTS = {  # folder: (keys of config.data, folder of images)
  "voc": (
    {"images": "JPEGImages/{name}.jpg", "masks": "SegmentationClass/{name}.png",
     "split_file": "ImageSets/Segmentation/{split}.txt", "train_split": "train",
     "eval_split": "val", "label_space": "voc"}, "JPEGImages"),
  "labelme": ({"images": "{name}.jpg", "masks": "{name}.json", "classes": NAMES}, "."),
  "coco": (
    {"images": "JPEGImages/{name}.jpg", "masks": "annotations.json", "classes": NAMES},
    "JPEGImages"),
  "ade20k": (
    {"images": "images/{name}.jpg", "masks": "annotations/{name}.png", "label_space": "ade20k"},
    "images"),
  "colour_masks": (
    {"images": "images/{name}_image.png", "masks": "masks/{name}_target.png",
     "label_space": "voc"}, "images"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_command(name, data_dir, tmp_path):
  keys, images = LAYOUTS[name]
  folder, run, config = data_dir / "layouts" / name, tmp_path / "run", tmp_path / "mine.py"
  config.write_text(CONFIG)
  values = {f"data.{key}": value for key, value in {"data_dir": folder, **keys}.items()}
  flags = [f"--config={config}", *(f"--config.{key}={value}" for key, value in values.items())]

  def jaxseg(*arguments):
    line = [sys.executable, "-m", "jaxseg.main", f"--workdir={run}", *arguments]
    environ = {**os.environ, "XLA_FLAGS": command.FAST}
    done = subprocess.run(line, cwd=command.ROOT, capture_output=True, text=True, env=environ)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout

  assert "errors: 0" in jaxseg("--mode=check_data", *flags)
  command.finish(command.start(config, run, values))
  scores = json.loads((run / "evaluation.json").read_text())
  assert scores["step"] == 5 and scores["num_images"] == 1
  jaxseg("--mode=evaluate")
  assert json.loads((run / "evaluation.json").read_text())["miou"] == scores["miou"]
  jaxseg("--mode=predict", f"--input={folder / images}", f"--output={run / 'out'}")
  pictures = [p for p in sorted((folder / images).iterdir()) if p.suffix in (".jpg", ".png")]
  assert len(pictures) == 3
  for picture in pictures:
    labels = np.asarray(Image.open(run / "out" / f"{picture.stem}.png"))
    assert labels.shape == Image.open(picture).size[::-1]
