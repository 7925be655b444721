"""Config files that raise, and flags that are not what they seem: one line with the line number."""

import sys

import pytest
from absl import flags
from absl.testing import flagsaver

from jaxseg import main

HEAD = "from configs import default\n\ndef get_config():\n  config = default.get_config()\n"


@pytest.fixture
def command(monkeypatch, capsys):
  """Function of flags: (exit status, standard error) of `--mode=summary`."""
  monkeypatch.setattr(main.logging, "set_verbosity", lambda *_: None)
  monkeypatch.setattr(main.logging, "use_absl_handler", lambda: None)
  monkeypatch.setattr(main.modes, "summarize", lambda config: "done")

  def run(*arguments):
    monkeypatch.setattr(sys, "argv", ["main.py", "--mode=summary", *map(str, arguments)])
    sys.modules.pop("config_config", None)  # would lend a config file what the last one had
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as end:
      flags.FLAGS["config"].unparse()
      flags.FLAGS.unparse_flags()
      main.main()
    return end.value.code, capsys.readouterr().err

  return run


@pytest.mark.parametrize(
  "text, line, words",
  [
    (HEAD + "  config.train.batch_size = 1 // 0\n  return config\n", 5, "ZeroDivisionError"),
    (HEAD + "  config.seed = int('many')\n", 5, "ValueError: invalid literal for int()"),
    (HEAD + "  config.seed = 'many'\n", 5, "key seed or data.seed is text; give it a whole"),
    (HEAD + "  config.seed = 'a\\nb'\n", 5, "key seed or data.seed is text; give it a whole"),
    ("import configs.unet_cell\n", 1, "configs has no 'unet_cell'; did you mean "),
    (HEAD + "  config.train.batch_size = '8'\n", 5, "train.batch_size or eval.batch_size is text"),
    (HEAD + "  config.model.widths = 8\n", 5, "model.widths is a whole number; give it a tuple"),
    ("from configs import unet_cell\n", 1, "configs has no 'unet_cell'; did you mean "),
    (HEAD + "  config.train.batch_sizes = 3\n", 5, "unknown config key 'batch_sizes'; did"),
    (HEAD + "  raise ValueError('\\x1b[2J\\nmore')\n", 5, "ValueError: \\x1b[2J\n"),
    (HEAD + "  config.seed = {}['missing']\n", 5, "KeyError: 'missing'"),
    (HEAD + "  return open('/no/such/file')\n", 5, "FileNotFoundError: [Errno 2]"),
    ("import no_such_module\n\ndef get_config():\n  return 1\n", 1, "No module named 'no_such_mo"),
    ("def get_config(:\n  return 3\n", 1, "SyntaxError: invalid syntax"),
    ("def get_config():\n\tx = 1\n        return x\n", 3, "TabError: inconsistent use of tabs"),
    ("x = 1\n\ndef get_config():\n return 1\n  return 2\n", 5, "IndentationError: unexpected"),
    ("def get_config():\n  return get_config()\n", 2, "RecursionError: maximum recursion depth"),
    ("import sys\n\ndef get_config():\n  sys.exit(0)\n", 4, "ends the program"),
    ("import sys\nsys.exit('bye')\n", 2, "ends the program"),
    ("def get_config():\n  raise GeneratorExit\n", 2, "GeneratorExit"),
    ("def get_config():\n  pass\n", 0, "get_config() returns NoneType, not a ConfigDict"),
    ("def get_config():\n  return {'seed': 1}\n", 0, "get_config() returns dict, not a ConfigDict"),
    ("x = 3\n", 0, "has no get_config()"),
    ("", 0, "has no get_config()"),
    ("\0", 0, "SyntaxError: source code string cannot contain null bytes"),
    ("def get_config(x):\n  return x\n", 0, "TypeError: get_config() missing 1 required"),
    ("from ml_collections import ConfigDict as C\nget_config = C\n", 0, "config.seed is missing"),
    (HEAD + "  config.seed = 10**5000\n  return config\n", 0, "config.seed is a int too long to"),
    (HEAD + "  config.model.widths = (0, 8)\n  return config\n", 0, "config.model.widths is (0,"),
    (HEAD + "  config.data.palette = (0, 1)\n  return config\n", 0, "config.data.palette is (0,"),
  ],
)
def test_a_config_file_that_raises_is_one_line(tmp_path, command, text, line, words):
  file = tmp_path / "mine.py"
  file.write_text(text)
  status, err = command(f"--config={file}")
  assert status == 1 and err.startswith("error: ") and err.count("\n") == 1, err
  assert words in err
  assert f"config file {file}, line {line}" in err if line else "line" not in err


def test_a_helper_that_raises_is_found_by_the_line_that_calls_it(tmp_path, command):
  (tmp_path / "my_own_helper.py").write_text("def f():\n  return 1 / 0\n")
  text = "import my_own_helper\n\ndef get_config():\n  my_own_helper.f()\n"
  (tmp_path / "mine.py").write_text(text)
  status, err = command(f"--config={tmp_path}/mine.py")
  assert status == 1 and f"{tmp_path}/mine.py, line 4: ZeroDivisionError" in err
  sys.modules.pop("my_own_helper")


@pytest.mark.parametrize(
  "arguments, words",
  [
    (["--config.train.batch_size=８"], "config.train.batch_size is '８', but has to be a whole"),
    (["--config.train.batch_size=٨"], "config.train.batch_size is '٨', but has to be a whole"),
    (["--config.train.learning_rate=１e-3"], "is '１e-3', but has to be a number"),
    (["--config.model.widths=４,８"], "config.model.widths is '４,８'"),
    (["--config.model.widths=4 8"], "config.model.widths is '4 8'"),
    (["--config.train. batch_size=8"], "did you mean 'train.batch_size'?"),
    (["--config.train.batch_size =8"], "did you mean 'train.batch_size'?"),
    (["--config.train.batch_size", "-8"], "config.train.batch_size is -8, but has to be positive"),
    (["--config.train.batch_size", "=", "8"], "'8' is not a flag"),
    (["--config.model.name=unet "], "config.model.name is 'unet '"),
    (["--config.=3"], "unknown config key ''"),
    (["--config.seed=" + "9" * 5000], "has to be a whole number"),
    (["--config.model.widths=" + "(" * 3000], "has to be a tuple of whole numbers"),
    (["--config.seed"], "--config.seed has no value"),
  ],
)
def test_odd_flags(command, arguments, words):
  status, err = command("--config=configs/unet_cells.py", *arguments)
  assert status == 1 and err.startswith("error: ") and err.count("\n") == 1, err
  assert words in err and len(err) < 300


def test_a_key_given_twice(command):
  """The last counts, as everywhere on command lines, and a note says so."""
  config = "--config=configs/unet_cells.py"
  one, two = "--config.train.batch_size=8", "--config.train.batch_size=-16"
  status, err = command(config, one, one)
  assert (status, err) == (0, "")
  status, err = command(config, two, one)
  assert status == 0
  assert err == "note: --config.train.batch_size is given twice; the last counts, '8'\n"
  status, err = command(config, one, two)
  assert status == 1 and "config.train.batch_size is -16" in err


def test_blanks_around_values_do_not_count():
  texts = {"train.batch_size": " 8 ", "augment.flip": " False ", "data.classes": " a , b c "}
  values = main.settings.parse_overrides(main.settings.from_run({}), texts)
  assert values == {"train.batch_size": 8, "augment.flip": False, "data.classes": ("a", "b c")}
