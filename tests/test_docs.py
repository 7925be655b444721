"""The documentation: links lead somewhere, keys exist, and the examples of docs/extend.md train."""

import ast
import json
import os
import pathlib
import re
import subprocess
import sys

import command
import pytest

from configs import default
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
