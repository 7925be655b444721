"""The command line: what it does, and one line for every mistake."""

import errno
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import orbax.checkpoint as ocp
import pytest
import tiny
from absl import flags
from absl.testing import flagsaver
from PIL import Image

from jaxseg import main
from jaxseg.faults import REMEDIES

ROOT = pathlib.Path(__file__).parents[1]
CELLS = f"--config={ROOT}/configs/unet_cells.py"
TINY = (
  CELLS,
  "--config.data.image_size=32",
  "--config.model.widths=4,8",
  "--config.train.batch_size=8",
  "--config.train.schedule=constant",
  "--config.train.log_every_steps=1",
  "--config.eval.num_samples=1",
)


def num_steps(number):
  return f"--config.train.num_epochs={number * 8 / 512}"


@pytest.fixture
def jaxseg(monkeypatch, capfd):
  """Function of flags: (exit status, standard output, standard error) of the command."""
  monkeypatch.setattr(main.logging, "set_verbosity", lambda *_: None)
  monkeypatch.setattr(main.logging, "use_absl_handler", lambda: None)

  def command(*arguments):
    capfd.readouterr()
    monkeypatch.setattr(sys, "argv", ["main.py", *map(str, arguments)])
    sys.modules.pop("config_config", None)  # would lend a config file what the last one had
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as end:
      flags.FLAGS["config"].unparse()
      flags.FLAGS.unparse_flags()
      main.main()
    out, err = capfd.readouterr()
    return end.value.code, out, err

  return command


def error_of(jaxseg, *arguments):
  """The one line on standard error."""
  status, out, err = jaxseg(*arguments)
  assert status == 1 and out == ""
  assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n"), err
  return err


@tiny.once
def train_once(tmp_path_factory):
  """The work directory of `jaxseg.main` after 4 steps, in its default place."""
  folder = tmp_path_factory.mktemp("cwd")
  argv = ["main.py", *TINY, num_steps(4)]
  with pytest.MonkeyPatch.context() as patch, flagsaver.flagsaver():
    patch.chdir(folder)
    patch.setattr(sys, "argv", argv)
    flags.FLAGS.unparse_flags()
    assert main.run(argv) == 0
  workdir = folder / "runs" / "unet_cells"
  assert (workdir / "evaluation.json").is_file()
  return workdir


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """A copy of it, for each module that imports this."""
  place = tmp_path_factory.mktemp("runs") / "unet_cells"
  return pathlib.Path(shutil.copytree(train_once(tmp_path_factory), place))


def test_train_again(jaxseg, trained):
  status, out, _ = jaxseg(*TINY, num_steps(4), f"--workdir={trained}")
  assert status == 0
  assert f"{trained}/evaluation.json" in out and f"{trained}/plots/" in out
  assert json.loads((trained / "config.json").read_text())["model"]["widths"] == [4, 8]
  assert (trained / "plots" / "predictions_000004.png").is_file()
  assert [p.name for p in (trained / "checkpoints").iterdir()] == ["4"]


def test_evaluate(jaxseg, trained):
  expected = json.loads((trained / "evaluation.json").read_text())
  (trained / "evaluation.json").unlink()
  status, out, _ = jaxseg("--mode=evaluate", f"--workdir={trained}")
  assert status == 0
  result = json.loads((trained / "evaluation.json").read_text())
  assert result.pop("loss") == pytest.approx(expected.pop("loss"), abs=1e-5)
  assert result == expected
  assert json.loads(out)["miou"] == expected["miou"]
  # With the config beside it, too, and with single keys that differ.
  status, again, _ = jaxseg(*TINY, "--mode=evaluate", f"--workdir={trained}")
  assert status == 0 and json.loads(again) == json.loads(out)
  flipped = "--config.predict.tta=flip", "--config.eval.num_samples", "0"
  status, other, _ = jaxseg("--mode=evaluate", f"--workdir={trained}", *flipped)
  assert status == 0 and json.loads(other)["loss"] != json.loads(out)["loss"]
  assert json.loads((trained / "config.json").read_text())["predict"]["tta"] == "none"


def test_predict(jaxseg, trained, tmp_path):
  (tmp_path / "in").mkdir()
  rng = np.random.default_rng(0)
  sizes = {"a": (33, 57), "b": (20, 20)}
  for name, (width, height) in sizes.items():
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "in" / f"{name}.jpg")
  flags_ = ("--mode=predict", f"--workdir={trained}")
  status, out, _ = jaxseg(*flags_, f"--input={tmp_path}/in", f"--output={tmp_path}/out")
  assert status == 0 and f"{tmp_path}/out" in out
  for name, size in sizes.items():
    for path in tmp_path / "out" / f"{name}.png", tmp_path / "out" / "overlays" / f"{name}.png":
      assert Image.open(path).size == size
    assert set(np.unique(Image.open(tmp_path / "out" / f"{name}.png"))) <= {0, 1}
  one = jaxseg(*flags_, f"--input={tmp_path}/in/a.jpg", f"--output={tmp_path}/one")
  assert one[0] == 0
  files = [(tmp_path / folder / "a.png").read_bytes() for folder in ("out", "one")]
  assert files[0] == files[1]
  Image.fromarray(np.zeros((8, 8, 4), np.uint8)).save(tmp_path / "alpha.png")
  _, _, err = jaxseg(*flags_, f"--input={tmp_path}/alpha.png", f"--output={tmp_path}/alpha")
  assert f"note: {tmp_path}/alpha.png: transparency (alpha) is not used (said once)\n" in err


def test_export_and_summary(jaxseg, trained, tmp_path):
  status, out, _ = jaxseg("--mode=export", f"--workdir={trained}", f"--output={tmp_path}")
  assert status == 0 and "model.stablehlo" in out
  about = json.loads((tmp_path / "classes.json").read_text())
  assert about["classes"] == ["background", "cell"]
  for arguments in (f"--workdir={trained}",), TINY:
    status, out, _ = jaxseg("--mode=summary", *arguments)
    assert status == 0 and "parameters" in out and "FLOP" in out


@pytest.mark.slow
def test_a_new_run_like_another_one(jaxseg, trained, tmp_path):
  """The command that is printed for more epochs than a learning rate was planned for."""
  workdir = tmp_path / "new"
  flags = ["--config.train.num_epochs=0.02", f"--config.model.init_from={trained}"]
  status, _, err = jaxseg(f"--workdir={workdir}", *flags)
  assert status == 0 and f"from {trained}, step" in err
  config, donor = (json.loads((run / "config.json").read_text()) for run in (workdir, trained))
  assert config["model"].pop("init_from") == str(trained)
  assert config["train"].pop("num_epochs") == 0.02
  del donor["model"]["init_from"], donor["train"]["num_epochs"]
  assert config == donor
  workdir = tmp_path / "other"
  status, _, err = jaxseg(f"--workdir={workdir}", flags[0], f"{flags[1]}x")
  assert status == 1 and f"{trained}x has no checkpoint: correct --config.model.init_from" in err
  assert not workdir.exists()


def test_home_in_flags(monkeypatch):
  """`--workdir=~/a` reaches the command as it is."""
  monkeypatch.setenv("HOME", "/home/me")
  given = ["main.py", "--workdir=~/a,~/b~", "--input=~", "--output=a~/b", "--config=~/c.py"]
  _, found = main.split_arguments(given)
  assert found[1:] == [
    "--workdir=/home/me/a,/home/me/b~", "--input=/home/me", given[3], "--config=/home/me/c.py"
  ]  # fmt: skip


@pytest.mark.parametrize("damage", [b"{", b"\xff", None])
def test_a_config_json_that_is_damaged_or_gone(jaxseg, trained, tmp_path, damage):
  """The checkpoint has it, too: the run can be used, resumes, and writes the file anew."""
  workdir = shutil.copytree(trained, tmp_path / "run")
  path = workdir / "config.json"
  before = path.read_text()
  path.unlink() if damage is None else path.write_bytes(damage)
  status, _, err = jaxseg(f"--workdir={workdir}", "--mode=summary")
  assert status == 0
  note = f"note: {path} is damaged: the config of checkpoint 4 is used"  # said once
  assert (note in err) == (damage is not None)
  status, _, err = jaxseg(f"--workdir={workdir}", "--config.seed=5")
  assert status == 1 and "config.seed=0, not 5" in err.splitlines()[-1]
  assert jaxseg(f"--workdir={workdir}")[0] == 0
  assert path.read_text() == before


@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE])
def test_a_config_json_that_cannot_be_read_is_not_damaged(jaxseg, trained, monkeypatch, number):
  path, read = trained / "config.json", pathlib.Path.read_text

  def deny(self, *arguments, **options):
    if self == path:
      raise OSError(number, os.strerror(number), str(self))
    return read(self, *arguments, **options)

  monkeypatch.setattr(pathlib.Path, "read_text", deny)
  status, _, err = jaxseg(f"--workdir={trained}", "--mode=summary")
  assert status == 1 and "damaged" not in err
  assert err.splitlines()[-1].endswith(f"{path}: {os.strerror(number)}; {REMEDIES[number]}")


def test_resume_without_a_config(jaxseg, trained):
  status, out, _ = jaxseg(f"--workdir={trained}")
  assert status == 0 and f"{trained}/evaluation.json" in out


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help(jaxseg, flag):
  status, out, err = jaxseg(flag)
  assert status == 0 and err == "" and all(f"--mode={mode}" in out for mode in main.MODES[1:])


def test_version(jaxseg):
  status, out, _ = jaxseg("--version")
  assert status == 0 and out.startswith("jaxseg 0.")


def test_a_config_imports_the_file_beside_it(jaxseg, tmp_path, monkeypatch):
  monkeypatch.setattr(sys, "path", sys.path.copy())
  (tmp_path / "beside_it.py").write_text("WIDTHS = (4, 8, 16)\n")
  text = "  config.model.widths = beside_it.WIDTHS\n  return config"
  (tmp_path / "mine.py").write_text(f"import beside_it\n{DEFAULT}{text}")
  status, out, _ = jaxseg("--mode=summary", "--config", tmp_path / "mine.py")
  assert status == 0 and "down2_conv1" in out and "down3_conv1" not in out


def test_keys(jaxseg, tmp_path):
  status, out, _ = jaxseg("--mode=keys")
  assert status == 0
  for word in ("config.train.batch_size = 16", "config.model.name = 'unet'", "deeplabv3plus"):
    assert word in out
  assert jaxseg("--mode=keys", f"--output={tmp_path}")[0] == 0
  assert "| `train.batch_size` | `16` |" in (tmp_path / "config.md").read_text()


DEFAULT = "from configs import default\n\ndef get_config():\n  config = default.get_config()\n"


@pytest.mark.parametrize(
  "text, words",
  [
    (DEFAULT + "  config.train.batchsize = 8\n  return config", "'batchsize' 'batch_size'"),
    (DEFAULT + "  config.train.batch_size = '8'\n  return config", "batch_size text whole"),
    ("def get_config():\n  return {}", "returns dict ConfigDict"),
    ("def get_config():\n  return {}['zzz']", "config.py line 2 KeyError zzz"),
    ("import os\ndef get_config():\n  os.nope", "line 3 AttributeError nope"),
    ("def get_config():\n  open('/no/file')", "config.py No such file /no/file"),
    ("x = 1 / 0", "line 1 ZeroDivisionError"),
    ("def get_config(:", "config.py invalid"),
    ("x = 1", "config.py get_config()"),
    ("import no_such_package", "config.py no_such_package"),
    (None, "config.py configs/"),
  ],
)
def test_config_files(jaxseg, tmp_path, text, words):
  path = tmp_path / "config.py"
  if text is not None:
    path.write_text(text)
  for more in (), ("--config.seed=1",):
    message = error_of(jaxseg, f"--config={path}", *more)
    for word in words.split():
      assert word in message, message


@pytest.mark.parametrize(
  "arguments, words",
  [
    ([], "--config configs/unet_cells.py"),
    *([[f"--mode={mode}"], "--workdir runs/unet_cells"] for mode in ("evaluate", "export")),
    (["--mode=predict", "--input=a", "--output=b"], "--workdir runs/unet_cells"),
    *([[f"--mode={mode}"], "--config --workdir=runs"] for mode in ("summary", "check_data")),
    (["--config="], "configs/"),
    ([f"--config={ROOT}/configs"], f"{ROOT}/configs"),
    ([CELLS, "--config.train.num_epoch=3"], "'train.num_epoch' 'train.num_epochs'"),
    ([CELLS, "--config.trian.num_epochs=3"], "'trian.num_epochs' 'train.num_epochs'"),
    ([CELLS, "--config.zzz=3"], "'zzz' --mode=keys"),
    ([CELLS, "--config.model.norm=maybe"], "config.model.norm 'maybe' True False"),
    ([CELLS, "--config.augment.scale=3"], "config.augment.scale 3 tuple two"),
    ([CELLS, "--mode=evaluate", "--config.eval.batch_size=0"], "config.eval.batch_size 0 positive"),
    ([CELLS, "--mode=predict", "--config.crf.color_sigma=-1"], "config.crf.color_sigma 0.01"),
    ([CELLS, "--mode=summary", "--config.model.up=nearest"], "config.model.up 'nearest' resize"),
    (["--workdir=none", "--mode=evaluate"], "none checkpoint"),
    (["--workdir=none"], "none checkpoint --config"),
    ([CELLS, "--config.train.batch_size=many"], "config.train.batch_size 'many'"),
    ([CELLS, "--config.train.batch_size=1.5"], "config.train.batch_size 1.5 whole"),
    ([CELLS, "--config.train.num_epochs=few"], "config.train.num_epochs 'few'"),
    ([CELLS, "--config.train.batch_size"], "config.train.batch_size"),
    (["--config.seed=-1", CELLS], "config.seed -1"),
    ([CELLS, "--workdr=x"], "'workdr' workdir"),
    ([CELLS, "train"], "'train'"),
    ([CELLS, "--mode=trian"], "mode trian train|evaluate|predict"),
    ([CELLS, "--mode=predict"], "--input --output"),
    ([CELLS, "--mode=predict", "--input=x"], "--input --output"),
    ([CELLS, "--config.data.name=cels"], "'cels' cells oxford_iiit_pet"),
    ([CELLS, "--config.data.eval_split=val"], "'val' train test"),
    ([CELLS, "--config.data.data_dir=/no/such/folder"], "/no/such/folder config.data.data_dir"),
    ([CELLS, "--config.data.data_dir=a\nb"], "a\\nb config.data.data_dir"),
    ([CELLS, "--config.data.data_dir=~nobody/here"], "~nobody/here config.data.data_dir"),
    ([CELLS, f"--config.data.data_dir={'n' * 5000}"], "nnnn config.data.data_dir"),
    ([CELLS, f"--workdir={'n' * 5000}"], "nnnn long"),
    ([CELLS, "--config.train.batch_size=12"], "config.train.batch_size 12 8"),
    ([CELLS, "--config.train.class_weights=1,2,3"], "config.train.class_weights 2 background cell"),
    ([CELLS, "--config.data.image_size=8"], "config.data.image_size 8 16"),
    ([CELLS, "--config.parallel.num_processes=2"], "config.parallel coordinator"),
  ],
)
def test_mistakes_on_the_command_line(jaxseg, tmp_path, monkeypatch, arguments, words):
  monkeypatch.chdir(tmp_path)
  message = error_of(jaxseg, *arguments)
  for word in words.split():
    assert word in message, message
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
  "flag, mode, modes",
  [
    ("--overwrite", "train", "predict"),
    ("--input=x.png", "evaluate", "predict"),
    ("--output=x", "summary", "predict, evaluate, export, pack, report, keys"),
  ],
)
def test_flags_of_other_modes(jaxseg, flag, mode, modes):
  message = error_of(jaxseg, "--config=configs/unet_cells.py", f"--mode={mode}", flag)
  name = flag.partition("=")[0]
  assert message == f"error: {name} is for --mode={modes}; leave it out of --mode={mode}\n"


@pytest.mark.parametrize(
  "given, remedy",
  [
    ("unet_cells", "did you mean configs/unet_cells.py?"),
    ("configs/unet_cell.py", "did you mean configs/unet_cells.py?"),
    ("nothing_like_it", "see configs/"),
  ],
)
def test_config_files_of_nearly_that_name(jaxseg, monkeypatch, given, remedy):
  monkeypatch.chdir(ROOT)
  assert error_of(jaxseg, f"--config={given}") == f"error: no config file {given!r}; {remedy}\n"


def test_mistakes_about_files(jaxseg, trained, tmp_path):
  (tmp_path / "empty").mkdir()
  (tmp_path / "photos").mkdir()
  (tmp_path / "photos" / "a.jpg").write_bytes(b"<html>404</html>")
  predict = (*TINY, "--mode=predict", f"--output={tmp_path}/out")
  here, nowhere = f"--workdir={trained}", f"--workdir={tmp_path}/nowhere"
  cases = {
    (*predict, here, f"--input={tmp_path}/empty"): f"{tmp_path}/empty images",
    (*predict, here, f"--input={tmp_path}/missing"): f"{tmp_path}/missing --input",
    (*predict, nowhere, f"--input={tmp_path}/photos"): f"{tmp_path}/nowhere checkpoint",
    (*TINY, "--mode=evaluate", nowhere): f"{tmp_path}/nowhere checkpoint",
    (*TINY, num_steps(4), here, "--config.seed=5"): f"{trained} config.seed --workdir",
    (*TINY, "--mode=evaluate", here, "--config.model.up=resize"): f"{trained} model.up resize",
    ("--mode=evaluate", here, "--config.model.up=resize"): f"{trained} model.up resize",
    ("--mode=predict", here, "--config.data.fit=crop", f"--output={tmp_path}/out",
     f"--input={tmp_path}/photos"): f"{trained} data.fit crop",
  }
  for arguments, words in cases.items():
    message = error_of(jaxseg, *arguments)
    for word in words.split():
      assert word in message, message
  assert not (tmp_path / "nowhere").exists() and not (tmp_path / "out").exists()
  # Here a bar has been drawn before.
  status, _, err = jaxseg(*predict, here, f"--input={tmp_path}/photos")
  assert status == 1
  assert f"failed: {tmp_path}/photos/a.jpg: cannot be decoded" in err
  assert f"error: 1 of 1 images failed: {tmp_path}/photos/a.jpg" == err.splitlines()[-1]


def start(*arguments):
  """The command as a user starts it."""
  command = [sys.executable, "-m", "jaxseg.main", *map(str, arguments)]
  return subprocess.Popen(
    command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
  )


def test_a_mistake_in_a_process_of_its_own(tmp_path):
  """The other tests look at what `main` prints; here nothing else may print, either."""
  process = start(CELLS, "--config.train.class_weights=1,2,3", f"--workdir={tmp_path}")
  out, err = process.communicate(timeout=120)
  assert (process.returncode, out) == (1, "")
  assert err.startswith("error: config.train.class_weights has 3 ") and err.count("\n") == 1


@pytest.mark.slow
def test_sigterm(jaxseg, tmp_path):
  """A stopped process saves, exits with 143, and goes on as if nothing had happened."""
  arguments = (*TINY, num_steps(80))
  process = start(*arguments, f"--workdir={tmp_path}/stopped")
  metrics = tmp_path / "stopped" / "metrics.jsonl"
  while process.poll() is None and not (metrics.exists() and metrics.read_text()):
    time.sleep(0.005)
  process.send_signal(signal.SIGTERM)
  _, err = process.communicate(timeout=120)
  assert process.returncode == 143, err
  assert "Traceback" not in err and "stopped after a checkpoint; re-running" in err.splitlines()[-1]
  steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
  (saved,) = (int(path.name) for path in (tmp_path / "stopped" / "checkpoints").iterdir())
  assert steps == list(range(1, saved + 1)) and saved < 80
  trees = []
  for name in "stopped", "undisturbed":
    status, _, _ = jaxseg(*arguments, f"--workdir={tmp_path}/{name}")
    assert status == 0
    folder = tmp_path / name / "checkpoints" / "80"
    with ocp.StandardCheckpointer() as checkpointer:
      trees.append([checkpointer.restore(folder / part) for part in ("variables", "optimizer")])
  np.testing.assert_equal(*trees)


@pytest.mark.slow
def test_folders_of_scores_and_of_checkpoints(jaxseg, trained, tmp_path):
  """A report against what an evaluation wrote; a checkpoint by its folder, and what it is not."""
  scores, step = tmp_path / "scores", trained / "checkpoints" / "4"
  assert jaxseg("--mode=evaluate", f"--workdir={step}", f"--output={scores}")[0] == 0
  flags = "--mode=report", f"--output={tmp_path}"
  for places in (f"{scores},{trained}", f"{trained},{scores}"):
    status, out, err = jaxseg(*flags, f"--workdir={places}")
    assert status == 0 and f"report: {tmp_path / 'comparison.html'}" in out + err
  assert f"its page is {scores}" in error_of(jaxseg, *flags, f"--workdir={scores}")
  # A file that adds a data set of one's own is read; configs are those of the runs.
  assert jaxseg("--config=configs/unet_pets.py", *flags, f"--workdir={trained}")[0] == 0
  message = error_of(jaxseg, f"--workdir={step}", num_steps(8))
  assert f"{step} is a checkpoint: resume its run with --workdir={trained}" in message


def test_a_run_resumes_with_its_spatial_sharding(jaxseg, trained, tmp_path):
  workdir = pathlib.Path(shutil.copytree(trained, tmp_path / "run"))
  saved = json.loads((workdir / "config.json").read_text())
  saved["parallel"]["space"] = 2
  (workdir / "config.json").write_text(json.dumps(saved))
  assert jaxseg(f"--workdir={workdir}")[0] == 0  # it is complete
  assert json.loads((workdir / "config.json").read_text())["parallel"]["space"] == 2


@pytest.mark.slow
def test_a_run_with_an_augmentation_that_is_not_here(jaxseg, trained, tmp_path, monkeypatch):
  """Training needs its file; what uses the network does not."""
  workdir = shutil.copytree(trained, tmp_path / "run")
  config = json.loads((workdir / "config.json").read_text())
  config["augment"]["extra"] = ["swap"]
  (workdir / "config.json").write_text(json.dumps(config))
  Image.new("L", (40, 40)).save(tmp_path / "a.png")
  packed, labels, export = (f"--output={tmp_path}/{x}" for x in ("packed", "labels", "export"))
  for mode, *more in (
    ("evaluate",), ("summary",), ("predict", f"--input={tmp_path}/a.png", labels),
    ("export", export), ("pack", packed),
  ):  # fmt: skip
    assert jaxseg(f"--workdir={workdir}", f"--mode={mode}", *more)[0] == 0
  for file in "run/plots/report.html", "packed/README.md", "packed/config.json":
    assert "swap" in (tmp_path / file).read_text()  # what it was trained with
  status, _, err = jaxseg(f"--workdir={workdir}")
  assert status == 1 and "config.augment.extra is ('swap',), which is unknown" in err
  for damaged in 5, "swap", [{}]:
    config["augment"]["extra"] = damaged
    (workdir / "config.json").write_text(json.dumps(config))
    status, _, err = jaxseg(f"--workdir={workdir}", "--mode=evaluate")
    assert status == 1 and "config.augment.extra is" in err.splitlines()[-1]


@pytest.mark.parametrize("seeds", [1, 2])
def test_training_keeps_the_config_of_another_program(jaxseg, tmp_path, seeds):
  path = tmp_path / "config.json"
  path.write_text('{"name": "my-web-app"}')
  status, _, err = jaxseg(*TINY, f"--workdir={tmp_path}", f"--config.train.num_seeds={seeds}")
  assert status == 1 and "is not a config (it is of another program); use another" in err
  assert path.read_text() == '{"name": "my-web-app"}'
