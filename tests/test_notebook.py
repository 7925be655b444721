"""Progress and pictures in a notebook, in a real kernel; and the notebook of the docs, run."""

import base64
import io
import pathlib
import re
import subprocess
import sys
import textwrap

import command
import numpy as np
import pytest
from PIL import Image

from jaxseg import notebook

nbclient = pytest.importorskip("nbclient", reason="pip install -e '.[test]'")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")
ROOT = pathlib.Path(__file__).parents[1]
QUICKSTART = ROOT / "docs" / "quickstart.ipynb"


@pytest.fixture
def kernel(tmp_path, monkeypatch):
  """Gives `execute(notebook)`, which runs it in a folder of its own, from which it is returned."""
  devices = "--xla_force_host_platform_device_count=1"
  monkeypatch.setenv("XLA_FLAGS", f"{command.FAST} {devices}")
  monkeypatch.setenv("PYTHONPATH", str(ROOT))
  # Neither the user's kernels nor the user's data.
  monkeypatch.delenv("JUPYTER_PATH", raising=False)
  monkeypatch.setenv("HOME", str(tmp_path))

  def execute(cells):
    resources = {"metadata": {"path": str(tmp_path)}}
    client = nbclient.NotebookClient(cells, timeout=300, kernel_name="python3", resources=resources)
    client.execute()
    return cells

  return execute


def cell(source):
  return nbformat.v4.new_code_cell(textwrap.dedent(source))


def run_cells(kernel, *sources):
  """The outputs of each cell."""
  cells = kernel(nbformat.v4.new_notebook(cells=[cell(source) for source in sources])).cells
  return [cell.outputs for cell in cells]


def text_of(outputs, stream="stdout"):
  return "".join(o.text for o in outputs if o.output_type == "stream" and o.name == stream)


def pictures_of(outputs):
  """u8[H,W,3] of each picture that stands below a cell."""
  encoded = [o.data["image/png"] for o in outputs if "image/png" in o.get("data", {})]
  files = [io.BytesIO(base64.b64decode(text)) for text in encoded]
  return [np.asarray(Image.open(file).convert("RGB")) for file in files]


SETUP = """
import pathlib, sys
import numpy as np
from PIL import Image
from jaxseg import notebook
def grey(value):
  Image.fromarray(np.full((2, 3, 3), value, np.uint8)).save("x.png")
  return "x.png"
"""


def test_a_kernel_is_a_notebook(kernel):
  shown, places, bar = run_cells(
    kernel,
    SETUP + "print(notebook.in_notebook()); notebook.show(grey(10)); notebook.show(grey(20))",
    """
    notebook.show(grey(30), "a")
    notebook.show(grey(40), "b")
    for value in (50, 60):
      notebook.show(grey(value), "a", update=True)
    """,
    """
    total = 0
    with notebook.progress(range(3), total=3, unit="step") as bar:
      for i in bar:
        bar.set_postfix_str(f"loss {i}")
        total += i
    print(total)
    """,
  )
  assert text_of(shown) == "True\n"
  assert [int(x[0, 0, 0]) for x in pictures_of(shown)] == [10, 20]
  assert [int(x[0, 0, 0]) for x in pictures_of(places)] == [60, 40]  # updated where it stood
  assert text_of(bar) == "3\n"
  widgets = [o.data for o in bar if "application/vnd.jupyter.widget-view+json" in o.get("data", {})]
  if notebook.importlib.util.find_spec("ipywidgets"):
    assert len(widgets) == 1 and text_of(bar, "stderr") == ""
  else:
    assert not widgets and "3/3" in text_of(bar, "stderr")


def test_without_widgets_the_bar_is_text(kernel):
  (outputs,) = run_cells(
    kernel,
    SETUP
    + """
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "ipywidgets" else find(name, *rest)
for _ in notebook.progress(range(3)):
  pass
""",
  )
  assert "3/3" in text_of(outputs, "stderr") and "Warning" not in text_of(outputs, "stderr")


def test_elsewhere_there_is_text_and_no_picture(tmp_path, capsys, monkeypatch):
  assert not notebook.in_notebook()
  notebook.show(tmp_path / "there is no such file.png")
  assert list(notebook.progress(range(3), unit="image")) == [0, 1, 2]
  captured = capsys.readouterr()
  assert captured.out == "" and "3/3" in captured.err and "image/s" in captured.err
  # A log file gets a line every ten seconds, a terminal a bar that moves.
  for is_terminal, seconds in (False, 10), (True, 0.5):
    monkeypatch.setattr(sys.stderr, "isatty", lambda x=is_terminal: x, raising=False)
    with notebook.progress(total=3) as bar:
      assert bar.mininterval == seconds


WARNS = """
from jaxseg import notebook
for i in notebook.progress(range(2), mininterval=0):
  notebook.warn("a.png: alpha is not used")
"""


def test_a_warning_has_a_line_of_its_own_without_code():
  """And it is said once."""
  done = subprocess.run([sys.executable, "-c", WARNS], cwd=ROOT, capture_output=True, text=True)
  lines = [line.strip() for line in re.split("[\r\n]+", done.stderr) if line.strip()]
  assert lines.count("jaxseg:1: DataWarning: a.png: alpha is not used") == 1
  assert all(line.endswith("it/s]") for line in lines if "|" in line)
  assert len([line for line in lines if "|" not in line]) == 1, lines


def test_quickstart_is_committed_clean():
  cells = nbformat.read(QUICKSTART, as_version=4)
  nbformat.validate(cells)
  code = [cell for cell in cells.cells if cell.cell_type == "code"]
  assert code and not any(cell.outputs or cell.execution_count for cell in code)


def run_quickstart(kernel, monkeypatch, start, stop):
  """The sections between two headings, after the first code cell: the code cells, run."""
  monkeypatch.setenv("JAXSEG_NOTEBOOK_FAST", "1")
  cells = nbformat.read(QUICKSTART, as_version=4)
  headings = [cell.source.partition("\n")[0] for cell in cells.cells]
  setup = next(cell for cell in cells.cells if cell.cell_type == "code")
  cells.cells = [setup, *cells.cells[headings.index(start) : headings.index(stop)]]
  kernel(cells)
  return [cell for cell in cells.cells if cell.cell_type == "code"]


PETS = "## Pets: a pretrained encoder on photographs"


def check_training(cells):
  """Curves and a sheet of predictions stand there once, whatever the number of evaluations."""
  (train,) = (cell for cell in cells if "jaxseg.train(" in cell.source)
  assert [x.shape[1] for x in pictures_of(train.outputs)] == [900, 750]
  assert "mean IoU" in text_of(train.outputs, "stderr")


@pytest.mark.slow
def test_quickstart_with_cells(kernel, monkeypatch):
  cells = run_quickstart(kernel, monkeypatch, "## Data", PETS)
  check_training(cells)
  (prediction,) = (cell for cell in cells if "labels = seg(image)" in cell.source)
  assert "(200, 300, 1) -> (200, 300), " in text_of(prediction.outputs)
  assert pictures_of(prediction.outputs)[0].shape == (300, 3 * 450, 3)
  assert text_of(cells[-1].outputs).count("of the pixels correct") == 2


@pytest.mark.slow
def test_quickstart_with_pets(kernel, monkeypatch, data_dir):
  monkeypatch.setenv("JAXSEG_TEST_DATA", str(data_dir))
  cells = run_quickstart(kernel, monkeypatch, PETS, "## Next")
  check_training(cells)
  assert pictures_of(cells[-1].outputs)[0].shape[0] == 200


def test_quickstart_without_pets(kernel, monkeypatch):
  monkeypatch.delenv("JAXSEG_TEST_DATA", raising=False)
  _, train, predict = run_quickstart(kernel, monkeypatch, PETS, "## Next")
  assert text_of(train.outputs).startswith("Skipped: no oxford_iiit_pet in ")
  assert "--mode=check_data" in text_of(train.outputs) and not predict.outputs


@pytest.mark.slow
@pytest.mark.parametrize("prepared", [False, True])
def test_quickstart_goes_on_without_usable_pets(kernel, monkeypatch, tmp_path, prepared):
  monkeypatch.delenv("JAXSEG_TEST_DATA", raising=False)
  folder = tmp_path / "tensorflow_datasets" / "oxford_iiit_pet" / "4.0.0"
  folder.mkdir(parents=True)
  if prepared:  # but without its splits
    (folder / "dataset_info.json").write_text('{"name": "oxford_iiit_pet", "version": "4.0.0"}')
  _, train, predict = run_quickstart(kernel, monkeypatch, PETS, "## Next")
  reason = f"{folder} holds no data set" if prepared else "no oxford_iiit_pet in "
  assert text_of(train.outputs).startswith(f"Skipped: {reason}") and not predict.outputs
