"""The documentation: links lead somewhere, keys exist, and the examples of docs/extend.md train."""

import ast
import importlib
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys

import command
import pytest

from configs import default
from jaxseg import build, models
from jaxseg.data import datasets
from jaxseg.models import MODELS

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
REPORTS = sorted((ROOT / "experiments").glob("*/README.md"))
CONFIGS = sorted((ROOT / "configs").glob("[!_]*.py"))
GROUPS = "data|augment|model|train|eval|predict|crf|export|parallel"
NO_KEYS = {"model.apply", "model.onnx", "model.safetensors", "model.stablehlo"}  # look like one


def relative(path):
  return str(path.relative_to(ROOT))


def without_code(text):
  """Markdown without its fenced blocks."""
  return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def python_blocks(path):
  return re.findall(r"^```python\n(.*?)^```", path.read_text(), flags=re.DOTALL | re.MULTILINE)


def links(path):
  """[(file, anchor)] of the links to files that a page has."""
  targets = re.findall(r"\]\(([^)\s]+)\)", without_code(path.read_text()))
  pairs = [target.partition("#") for target in targets if "://" not in target]
  return [((path.parent / file).resolve() if file else path, anchor) for file, _, anchor in pairs]


def anchors(path):
  """Those of a page's headings, as GitHub makes them."""
  headings = re.findall(r"^#+ (.*)$", without_code(path.read_text()), flags=re.MULTILINE)
  return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


EXAMPLES = {
  block.splitlines()[0].removeprefix("# "): block
  for block in python_blocks(ROOT / "docs" / "extend.md")
}


# First cell of a row of the README's table: (config, folder of experiments/, its variant).
MEASURED = {
  "unet_cells": ("unet_cells", "border_weight", "off"),
  "unet_cells, border weight 10, 8 epochs": ("unet_cells", "border_weight", "on, 8 epochs"),
  "unet_isbi_small": ("unet_isbi_small", "unet_isbi", "full length"),
  "unet_pets": ("unet_pets", "pets_tutorial", "pretrained, frozen"),
  "deeplabv3plus_pets": ("deeplabv3plus_pets", "pets_tutorial", "DeepLabv3+"),
  "unet_pets_finetuned": ("unet_pets_finetuned", "pets_tutorial", "fine-tuned"),
  "the same from scratch, 60 epochs, more augmentation": (
    "unet_pets_finetuned", "pets_tutorial", "from scratch, 60 epochs"
  ),
  "unet_camvid_medium, from scratch": ("unet_camvid_medium", "camvid", "U-Net, medium"),
  "deeplabv3plus_camvid_medium": ("deeplabv3plus_camvid_medium", "camvid", "DeepLabv3+, medium"),
}  # fmt: skip


def results_table():
  """{first cell: [the others]} of the README's table of results."""
  text = (ROOT / "README.md").read_text()
  lines = text[text.index("| NAME |") :].split("\n\n")[0].splitlines()[2:]
  rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
  return {first: others for first, *others in rows}


def test_scores_of_the_readme_are_those_that_were_measured():
  table = results_table()
  assert table.keys() == MEASURED.keys()
  for row, (_, folder, variant) in MEASURED.items():
    runs = json.loads((ROOT / "experiments" / folder / "results.json").read_text())
    runs = [run for run in runs if run["variant"] == variant]
    for cell, score in zip(table[row][3:5], ("miou", "pixel_accuracy"), strict=True):
      mean, *spread = cell.replace("*", "").split(" ± ")
      values = [run[score] for run in runs]
      assert mean == f"{statistics.mean(values):.{len(mean) - 2}f}", (row, score)
      assert len(spread) == (len(values) > 1), row
      if spread:
        assert spread == [f"{statistics.stdev(values):.{len(spread[0]) - 2}f}"], (row, score)


@pytest.mark.slow
def test_sizes_of_the_readme_are_those_of_the_networks():
  for row, (name, *_) in MEASURED.items():
    _, parameters, size, *_ = results_table()[row]
    config = importlib.import_module(f"configs.{name}").get_config()
    data = {key: value for key, value in config.data.items() if key != "name"}
    info = datasets.describe(config.data.name, config.data.train_split, **data)
    model, side = build.build_model(config, info), config.data.image_size
    variables = models.abstract_variables(model, info.channels)
    flop = models.summary(model, variables, info.channels, side, compile=False)["flop"]
    assert parameters == f"{models.num_parameters(variables):,}", row
    assert size == f"{flop / 1e9:.1f}, {side}", row


@pytest.mark.parametrize("page", PAGES + REPORTS, ids=relative)
def test_links_lead_somewhere(page):
  found = links(page)
  missing = [str(file) for file, _ in found if not file.exists()]
  missing += [f"{file}#{x}" for file, x in found if x and file.exists() and x not in anchors(file)]
  assert not missing


def test_every_page_and_config_is_linked():
  linked = {file for page in PAGES for file, _ in links(page)}
  wanted = {*PAGES[1:], *CONFIGS, *(report.parent for report in REPORTS)}
  assert not {relative(path) for path in wanted - linked}


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_python_compiles(page):
  for block in python_blocks(page):
    ast.parse(block)


@pytest.mark.parametrize("page", PAGES + REPORTS, ids=relative)
def test_config_keys_exist(page):
  known = {"seed"}
  for name, value in default.get_config().items():
    for key, part in value.items() if hasattr(value, "items") else ():
      known |= {f"{name}.{key}"}
      known |= {f"{name}.{key}.{last}" for last in part} if hasattr(part, "items") else set()
  # The examples of docs/extend.md add keys.
  text = without_code(page.read_text()) if page.name == "extend.md" else page.read_text()
  named = re.findall(rf"(?:config|`)\.?((?:{GROUPS})\.[a-z_0-9]+(?:\.[a-z_]+)*)", text)
  assert not set(named) - known - NO_KEYS


def test_examples_are_files_of_their_own():
  assert len(EXAMPLES) >= 6
  for name, block in EXAMPLES.items():
    assert re.fullmatch(r"my_\w+\.py", name)
    assert ast.get_docstring(ast.parse(block))


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_example_trains(name, tmp_path):
  (tmp_path / name).write_text(EXAMPLES[name])
  process = subprocess.Popen(
    [
      *(sys.executable, "-m", "jaxseg.main"),
      *(f"--config={tmp_path / name}", f"--workdir={tmp_path / 'run'}"),
    ],
    cwd=ROOT,
    env={**os.environ, "XLA_FLAGS": command.FAST},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )
  command.finish(process)
  evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text())
  assert 0 < evaluation["miou"] <= 1


def test_networks_are_in_the_table():
  text = (ROOT / "docs" / "training.md").read_text()
  assert not [name for name in MODELS if f"`{name}`" not in text]
