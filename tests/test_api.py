"""The public API has types and docstrings, and no module is too long to read."""

import ast
import inspect
import pathlib
import typing

import pytest

import jaxseg
from jaxseg import augment, losses, models, optim, segmenter
from jaxseg.data import datasets
from jaxseg.models import interface

FILES = {
  str(file.relative_to(pathlib.Path(jaxseg.__file__).parent)): file
  for file in sorted(pathlib.Path(jaxseg.__file__).parent.rglob("*.py"))
}
CALLED = ("__call__", "__enter__", "__exit__", "__getitem__", "__len__")
# Every encoder and network has these; the protocols document them once.
BY_PROTOCOL = {*vars(interface.Encoder), *vars(interface.Network)}
MAX_LINES = 320


def functions_of(module):
  """{name: function} of what a module defines for others."""
  return {
    f"{module.__name__}.{name}": x
    for name, x in vars(module).items()
    if inspect.isfunction(x) and x.__module__ == module.__name__ and name[0] != "_"
  }


def api():
  """{name: function or property getter} that users call from Python."""
  found = {f"jaxseg.{name}": getattr(jaxseg, name) for name in jaxseg.__all__}
  found = {name: x for name, x in found.items() if inspect.isfunction(x)}
  found |= {f"jaxseg.models.{name}": getattr(models, name) for name in models.__all__}
  for module in (losses, augment, optim):
    found |= functions_of(module)
  for name, x in vars(segmenter.Segmenter).items():
    x = x.fget if isinstance(x, property) else x
    if inspect.isfunction(x) and (name == "__call__" or name[0] != "_"):
      found[f"Segmenter.{name}"] = x
  return {**found, "datasets.load": datasets.load}


API = api()


def test_api_is_what_users_call():
  """The walk finds functions of every part; without this, an empty walk would pass."""
  expected = {"jaxseg.load", "jaxseg.train", "jaxseg.evaluate", "jaxseg.predict_folder"}
  expected |= {"jaxseg.models.build", "jaxseg.models.init", "jaxseg.losses.soft_dice"}
  expected |= {"jaxseg.augment.augment", "jaxseg.optim.make_optimizer", "Segmenter.__call__"}
  expected |= {"Segmenter.probs", "Segmenter.overlay", "Segmenter.classes"}
  assert expected <= set(API)


@pytest.mark.parametrize("name", API)
def test_api_is_annotated(name):
  signature = inspect.signature(API[name])
  bare = [
    parameter.name
    for parameter in signature.parameters.values()
    if parameter.annotation is parameter.empty and parameter.name != "self"
  ]
  assert not bare and signature.return_annotation is not signature.empty
  hints = typing.get_type_hints(API[name])  # raises NameError for a type that does not exist
  assert "return" in hints
  assert inspect.getdoc(API[name])


def definitions(body, owner=""):
  """Yields (owner, node) for the public functions and classes of a module and their methods."""
  for node in body:
    if isinstance(node, ast.ClassDef) and node.name[0] != "_":
      yield owner, node
      yield from definitions(node.body, node.name)
    elif isinstance(node, ast.FunctionDef) and (node.name[0] != "_" or node.name in CALLED):
      yield owner, node


@pytest.mark.parametrize("file", FILES)
def test_module(file):
  """Annotations and docstrings of all that is public, and the length of the file."""
  text = FILES[file].read_text()
  assert text.count("\n") <= MAX_LINES
  faults = []
  for owner, node in definitions(ast.parse(text).body):
    place = f"{file}:{node.lineno} {node.name}"
    is_documented = ast.get_docstring(node) or node.name in CALLED
    if not is_documented and not (owner and node.name in BY_PROTOCOL):
      faults.append(f"{place} has no docstring")
    if isinstance(node, ast.FunctionDef):
      arguments = node.args.posonlyargs + node.args.args
      arguments = arguments[1:] if owner else arguments
      arguments = [*arguments, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
      bare = [x.arg for x in arguments if x is not None and x.annotation is None]
      if bare or node.returns is None:
        faults.append(f"{place}: no type of {', '.join([*bare, *['result'] * (not node.returns)])}")
  assert not faults


def test_no_module_hides_a_function_of_the_package():
  """A module jaxseg/x.py becomes jaxseg.x once it is imported."""
  modules = {path.stem for path in pathlib.Path(jaxseg.__file__).parent.glob("*.py")}
  assert modules & set(jaxseg.__all__) <= {"models"}
