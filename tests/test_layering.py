"""Who may import whom: jaxseg modules of lower rank, and no heavy package in the numeric core."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
RANKS = {
  "jaxseg": -1,
  "jaxseg.os_errors": -1,
  "jaxseg.data": -1,
  "jaxseg.platforms": -2,
  "jaxseg.convolution": -1,
  **dict.fromkeys(("jaxseg.forms", "jaxseg.printing", "jaxseg.data.memory"), -1),
  **dict.fromkeys(("jaxseg.data.cells", "jaxseg.data.raster", "jaxseg.data.resize"), 0),
  "jaxseg.data.colours": 0,
  **dict.fromkeys(("jaxseg.data.labels", "jaxseg.data.label_spaces"), 0),
  **dict.fromkeys(("jaxseg.data.label_faults", "jaxseg.data.fingerprints"), 3),
  **dict.fromkeys(("jaxseg.ops", "jaxseg.losses", "jaxseg.metrics", "jaxseg.optim"), 0),
  **dict.fromkeys(("jaxseg.depthwise", "jaxseg.photometric"), 0),
  "jaxseg.up_convolution": 0,
  **dict.fromkeys(("jaxseg.train_state", "jaxseg.parallel", "jaxseg.weight_maps"), 0),
  **dict.fromkeys(("jaxseg.instance_metrics", "jaxseg.tiles"), 0),
  "jaxseg.crf": 0.5,
  **dict.fromkeys(("jaxseg.schema", "jaxseg.notebook", "jaxseg.start"), 0),
  **dict.fromkeys(("jaxseg.workdirs", "jaxseg.checkpoint_files", "jaxseg.augment"), 1),
  **dict.fromkeys(("jaxseg.checkpoint", "jaxseg.locks"), 2),
  **{"jaxseg.data.tiff_pages": 0.5, "jaxseg.visualize": 1.5},
  **dict.fromkeys(("jaxseg.data.tiff", "jaxseg.data.sources", "jaxseg.data.workers"), 1),
  **{"jaxseg.interrupts": -1, "jaxseg.peers": -0.5, "jaxseg.faults": 2, "jaxseg.command_end": 3},
  "jaxseg.events": 1,
  **{"jaxseg.html_page": 1.5, "jaxseg.per_image": 1.5, "jaxseg.surface_distances": 1},
  **{"jaxseg.calibration": 0, "jaxseg.extremes": 4, "jaxseg.report_page": 5, "jaxseg.results": 6},
  **{"jaxseg.differences": 6, "jaxseg.comparison": 6.5},
  "jaxseg.data.pets": 2,
  "jaxseg.data.files": 2,
  **dict.fromkeys(("jaxseg.data.decode", "jaxseg.data.polygons"), 3),
  **{"jaxseg.data.zarr_files": 1, "jaxseg.data.arrays": 3.5},
  **dict.fromkeys(("jaxseg.data.masks", "jaxseg.data.windows"), 4),
  **dict.fromkeys(("jaxseg.models.torch_files", "jaxseg.models.cost"), 0),
  "jaxseg.models.keras_files": 0,
  **{"jaxseg.models.safetensors_files": -0.5, "jaxseg.hub": 0, "jaxseg.packed": 1},
  **{"jaxseg.model_card": 9, "jaxseg.packing": 11},
  "jaxseg.models.tensor_names": -0.5,
  **dict.fromkeys(("jaxseg.models.layers", "jaxseg.models.pretrained"), 1),
  "jaxseg.models.batch_norm": 1,
  "jaxseg.models.conv_norm": 1.5,
  "jaxseg.predict": 4,
  "jaxseg.settings": 3,
  **dict.fromkeys(("jaxseg.unused_keys", "jaxseg.config_files"), 4),
  **dict.fromkeys(("jaxseg.models.mobilenet_v2", "jaxseg.models.vgg"), 2),
  **dict.fromkeys(("jaxseg.models.resnet", "jaxseg.models.xception"), 2),
  **dict.fromkeys(("jaxseg.models.unet", "jaxseg.models.fcn", "jaxseg.models.deeplab"), 2),
  **dict.fromkeys(("jaxseg.data.encoded", "jaxseg.tally"), 5),
  "jaxseg.run": 7,
  **dict.fromkeys(("jaxseg.train_step", "jaxseg.on_device", "jaxseg.spatial"), 2),
  **{"jaxseg.stop_requests": 0, "jaxseg.seed_axis": 2, "jaxseg.seed_scores": 9},
  **{"jaxseg.seeds": 8, "jaxseg.seeds_page": 8.5, "jaxseg.first_pass": 10},
  **dict.fromkeys(("jaxseg.models.interface", "jaxseg.models.variables"), 2),
  "jaxseg.models.encoders": 2.5,
  **dict.fromkeys(("jaxseg.export", "jaxseg.images", "jaxseg.refine"), 6),
  "jaxseg.models": 3,
  **{"jaxseg.large": 6, "jaxseg.initial_state": 10},
  "jaxseg.data.layouts": 3,
  "jaxseg.together": 3,
  "jaxseg.listing": 5,
  "jaxseg.predict_files": 7,
  **{"jaxseg.marks": 0, "jaxseg.charts": -0.5},
  "jaxseg.data.levels": 4,
  **dict.fromkeys(("jaxseg.data.splits", "jaxseg.data.suggest"), 4),
  "jaxseg.data.folder": 6,
  "jaxseg.data.datasets": 7,
  **dict.fromkeys(("jaxseg.data.input_pipeline", "jaxseg.data.examine"), 8),
  **{"jaxseg.data.source_checks": 8, "jaxseg.evaluation": 8.5},
  **dict.fromkeys(("jaxseg.data.normalization", "jaxseg.predictors"), 8),
  "jaxseg.data.changes": 8,
  "jaxseg.data.stored": 9,
  **dict.fromkeys(("jaxseg.build", "jaxseg.data_findings", "jaxseg.thumbnails"), 9),
  "jaxseg.duplicates": 8.5,
  **dict.fromkeys(("jaxseg.public_smp", "jaxseg.public_torchvision"), 9),
  **dict.fromkeys(("jaxseg.public", "jaxseg.exported"), 9.5),
  **dict.fromkeys(("jaxseg.segmenter", "jaxseg.data_page"), 10),
  **dict.fromkeys(("jaxseg.checks", "jaxseg.data_samples"), 10),
  **dict.fromkeys(("jaxseg.modes", "jaxseg.check_data", "jaxseg.prediction"), 11),
  "jaxseg.exporting": 11,
  **dict.fromkeys(("jaxseg.temperature", "jaxseg.reports"), 11),
  **dict.fromkeys(("jaxseg.training", "jaxseg.each_seed"), 12),
  "jaxseg.main": 13,
}
CORE_NAMES = ("ops", "losses", "metrics", "augment", "weight_maps", "optim", "train_state",
              "train_step", "parallel", "models", "crf", "depthwise", "photometric", "convolution",
              "up_convolution", "platforms", "on_device", "seed_axis")  # fmt: skip
LIGHT = {"jax", "flax", "optax", "chex", "numpy"}
# Imported when they are needed.
EXTRA = {
  "jaxseg.models.pretrained": {"pooch"},
  "jaxseg.models.keras_files": {"h5py"},
  "jaxseg.models.safetensors_files": {"safetensors"},
  "jaxseg.crf": {"scipy"},  # which JAX itself needs
}
HEAVY = ("h5py", "pooch", "safetensors", "grain", "tensorflow_datasets", "ml_collections", "orbax",
         "matplotlib", "PIL", "scipy.ndimage", "tensorboardX", "tqdm", "requests")  # fmt: skip


def module_files():
  """{module: file} of the package."""
  files = sorted((ROOT / "jaxseg").rglob("*.py"))
  parts = {file: file.relative_to(ROOT).with_suffix("").parts for file in files}
  return {".".join(p[:-1] if p[-1] == "__init__" else p): file for file, p in parts.items()}


MODULES = module_files()
CORE = [name for name in MODULES if name.count(".") and name.split(".")[1] in CORE_NAMES]


def imports(file):
  """Modules that a file imports anywhere in it; `from package import module` is the module."""
  found = set()
  tree = ast.parse(file.read_text())
  for node in tree.body:
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
      node.body = []  # for type checkers alone
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{file}:{node.lineno}: write the full name"
      names = {f"{node.module}.{alias.name}" for alias in node.names}
      found |= {name if name in MODULES else node.module for name in names}
  return found


def test_ranks_name_what_there_is():
  assert set(RANKS) == set(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_only_lower_ranks_are_imported(module):
  found = imports(MODULES[module])
  assert not [name for name in found if name in RANKS and RANKS[name] >= RANKS[module]]
  outside = {"configs", "tests", "experiments"}
  if module == "jaxseg.settings":  # the door to configs reads the declarations of the keys
    outside.remove("configs")
  assert not outside & {name.split(".")[0] for name in found}


@pytest.mark.parametrize("module", CORE)
def test_numeric_core_imports_little(module):
  packages = {name.split(".")[0] for name in imports(MODULES[module])}
  allowed = LIGHT | EXTRA.get(module, set()) | set(sys.stdlib_module_names) | {"jaxseg"}
  assert packages <= allowed


def test_numeric_core_runs_where_only_jax_and_flax_are():
  """In a Python that has none of the heavy packages, a network is built and initialised."""
  program = f"""
import sys

class Missing:
  def find_spec(self, name, path=None, target=None):
    if any(name == heavy or name.startswith(heavy + ".") for heavy in {HEAVY}):
      raise ModuleNotFoundError(f"{{name}} is blocked", name=name)

sys.meta_path.insert(0, Missing())
for module in {CORE}:
  __import__(module)
from jaxseg import models
model = models.build("encoder_unet", 2, encoder="mobilenet_v2", freeze_encoder=True)
print(len(models.abstract_variables(model, 3)["params"]))
"""
  done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr[-2000:]
  assert int(done.stdout) > 1
