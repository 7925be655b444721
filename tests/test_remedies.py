"""The remedy that an error names, typed as it stands: the command then does its work."""

import re

import pytest
from test_main import CELLS, ROOT, error_of, jaxseg  # noqa: F401

pytestmark = pytest.mark.slow
VALUES = {
  "data.image_size": 32,
  "model.widths": "4,8",
  "train.batch_size": 8,
  "train.num_epochs": 8 / 512,
  "eval.num_samples": 1,
}


def arguments(workdir, values, more=()):
  keys = {**VALUES, **values}
  return [CELLS, f"--workdir={workdir}", *(f"--config.{k}={x}" for k, x in keys.items()), *more]


@pytest.mark.parametrize(
  "wrong, pattern, remedy",
  [
    ({"train.bach_size": 16}, r"did you mean '([\w.]+)'\?", lambda x: {x: 16}),
    ({"train.batch_size": 12}, r"a multiple of (\d+)", lambda x: {"train.batch_size": x}),
    ({"train.accumulation_steps": 3}, r"a multiple of (\d+)",
     lambda x: {"train.accumulation_steps": 3, "train.batch_size": x}),
    ({"train.class_weights": "1.0,2.0,3.0"}, r"one for each of the (\d) classes",
     lambda x: {"train.class_weights": ",".join(["1.0"] * int(x))}),
    ({"parallel.space": 3}, r"make it 1 or (\d)", lambda x: {"parallel.space": x}),
    ({"model.name": "unett"}, r"choose from (\w+),", lambda x: {"model.name": x}),
    ({"train.optimizer": "adan"}, r"choose from adam, (\w+),", lambda x: {"train.optimizer": x}),
    ({"train.optimizer": "adan"}, r"choose from .*, (\w+)", lambda x: {"train.optimizer": x}),
    ({"data.fit": "crop", "predict.tile": 1}, r"needs (\d+) or more",
     lambda x: {"data.fit": "crop", "predict.tile": x}),
    ({"data.fit": "crop", "predict.tile": 1}, r"; (0) is no tiles",
     lambda x: {"data.fit": "crop", "predict.tile": x}),
    ({"model.padding": "valid", "data.image_size": 33}, r"that do are (\d+) and",
     lambda x: {"model.padding": "valid", "data.image_size": x}),
    ({"model.padding": "valid", "data.image_size": 33}, r"that do are \d+ and (\d+)",
     lambda x: {"model.padding": "valid", "data.image_size": x}),
  ],
)  # fmt: skip
def test_keys(jaxseg, tmp_path, wrong, pattern, remedy):  # noqa: F811
  (found,) = re.findall(pattern, error_of(jaxseg, *arguments(tmp_path, wrong)))
  status, _, err = jaxseg(*arguments(tmp_path, remedy(found)))
  assert status == 0, err
  assert (tmp_path / "evaluation.json").exists()


def test_a_flag_of_another_mode_and_the_name_of_a_config(jaxseg, tmp_path, monkeypatch):  # noqa: F811
  monkeypatch.chdir(ROOT)
  first, *rest = arguments(tmp_path, {})
  assert "leave it out" in error_of(jaxseg, first, *rest, "--overwrite")
  (config,) = re.findall(r"did you mean ([\w/.]+)\?", error_of(jaxseg, "--config=unet_cell", *rest))
  assert jaxseg(f"--config={config}", *rest)[0] == 0


def test_a_work_directory_without_a_run(jaxseg, tmp_path):  # noqa: F811
  place = f"--workdir={tmp_path / 'run'}"
  assert "train first" in error_of(jaxseg, "--mode=evaluate", place)
  assert "add --config to train" in error_of(jaxseg, place)
  for command in (arguments(tmp_path / "run", {}), ["--mode=evaluate", place]):
    assert jaxseg(*command)[0] == 0
