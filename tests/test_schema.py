"""Declarations of keys: types, limits, choices, text, and the keys of earlier versions."""

import pathlib
from types import SimpleNamespace as Group

import numpy as np
import pytest
from tiny import error_of

from configs import default
from jaxseg import schema
from jaxseg.schema import Key as key

ROOT = pathlib.Path(__file__).parents[1]
TABLE = {"a": 1, "b": 2}
NUMBER = key(3, "a number", low=1, high=9)
RATE = key(0.5, "a rate", low=0)
SIZE = key(1.0, "a size", above=0)
FLAG = key(True, "a flag")
NAME = key("a", "a name", choices=TABLE)
RANGE = key((1.0, 2.0), "a range", above=0, item=float, length=2)
NAMES = key((), "names", item=str)
WIDTHS = key((), "widths", above=0, item=int)


@pytest.mark.parametrize(
  "declared, value, words",
  [
    (NUMBER, 0, "from 1 to 9"),
    (NUMBER, 10, "from 1 to 9"),
    (NUMBER, 2.5, "a whole number"),
    (NUMBER, True, "a whole number"),
    (NUMBER, "3", "a whole number"),
    (RATE, -0.1, "0 or more"),
    (RATE, float("nan"), "finite"),
    (RATE, float("inf"), "finite"),
    (RATE, "0.1", "a number"),
    (RATE, False, "a number"),
    (SIZE, 0.0, "positive"),
    (FLAG, "True", "True or False"),
    (FLAG, 1, "True or False"),
    (NAME, "c", "is unknown; choose from a, b"),
    (NAME, 3, "text"),
    (RANGE, 3, "a tuple of two numbers, such as (1.0, 2.0)"),
    (RANGE, (1.0,), "a tuple of two numbers"),
    (RANGE, (), "a tuple of two numbers"),
    (RATE, 10**400, "finite"),
    (RANGE, (1.0, "x"), "a tuple of two numbers"),
    (RANGE, (0.0, 1.0), "positive"),
    (RANGE, (1.0, float("inf")), "finite"),
    (NAMES, "abc", "a tuple of names"),
    (NAMES, (1, 2), "a tuple of names"),
    (WIDTHS, (8, 0), "positive"),
    (WIDTHS, (8, 1.5), "a tuple of whole numbers"),
    (WIDTHS, 8, "a tuple of whole numbers"),
  ],
)
def test_wrong_values(declared, value, words):
  message = error_of(schema.check_values, {"x.y": value}, {"x.y": declared})
  shown = repr(value) if len(repr(value)) <= 100 else repr(value)[:97] + "..."
  assert message.startswith(f"config.x.y is {shown}, ") and words in message


@pytest.mark.parametrize(
  "declared, value",
  [(NUMBER, 1), (NUMBER, 9), (RATE, 0), (RATE, 2), (FLAG, False), (NAME, "b"), (RANGE, (3, 4)),
   (RANGE, [1.0, 2.0]), (NAMES, ("x",)), (WIDTHS, ()), (WIDTHS, (4, 8))],
)  # fmt: skip
def test_right_values(declared, value):
  assert declared.wrong(value) == ""


def test_choices_are_those_of_the_table_at_the_time():
  table = {"a": 1}
  declared = key("a", "a name", choices=table)
  assert declared.wrong("mine")
  table["mine"] = 2
  assert not declared.wrong("mine") and "mine" in declared.allowed()


@pytest.mark.parametrize(
  "declared, text, value",
  [
    (NUMBER, "4", 4),
    (RATE, "2", 2.0),
    (RATE, "1e-3", 1e-3),
    (FLAG, None, True),
    (FLAG, "false", False),
    (FLAG, "True", True),
    (FLAG, "0", False),
    (NAME, "b", "b"),
    (RANGE, "(0.5, 2)", (0.5, 2)),
    (RANGE, "0.5,2", (0.5, 2)),
    (WIDTHS, "4,8", (4, 8)),
    (WIDTHS, "[4, 8]", (4, 8)),
    (WIDTHS, "()", ()),
    (WIDTHS, "", ()),
    (NAMES, "('sky', 'road')", ("sky", "road")),
    (NAMES, "sky,road", ("sky", "road")),
    (NAMES, "sky", ("sky",)),
    (key((), "pairs", item=tuple), "(('encoder', 0.1),)", (("encoder", 0.1),)),
  ],
)
def test_text_of_flags(declared, text, value):
  parsed = schema.parse_value("x", text, declared)
  assert parsed == value and type(parsed) is type(value)


@pytest.mark.parametrize(
  "declared, text, words",
  [
    (NUMBER, "many", "'many' a whole number"),
    (NUMBER, "1.5", "1.5 a whole number"),
    (NUMBER, None, "--config.x has no value"),
    (RATE, "few", "'few' a number"),
    (RATE, "nan", "nan finite"),
    (FLAG, "yes please", "'yes please' True or False"),
    (RANGE, "3", "3 a tuple of two numbers"),
    (RANGE, "__import__('os')", "a tuple"),
    (NAME, "c", "'c' a, b"),
  ],
)
def test_text_that_does_not_fit(declared, text, words):
  message = error_of(schema.parse_value, "x", text, declared)
  for word in words.split():
    assert word in message, message


def test_unknown_keys_get_the_nearest():
  keys = default.keys()
  for wrong, right in {
    "train.num_epoch": "train.num_epochs",
    "trian.num_epochs": "train.num_epochs",
    "batch_size": "batch_size",
    "learning_rate": "train.learning_rate",
  }.items():
    message = str(schema.unknown_key(wrong, keys, keys))
    assert repr(wrong) in message and f"{right}'?" in message, message
  assert "--mode=keys" in str(schema.unknown_key("zzz", keys, keys))


def test_renamed_keys_and_groups():
  keys = default.keys()
  message = str(schema.unknown_key("model.patch", keys, keys))
  assert "'model.patch' is called 'model.stem_stride' now" in message
  assert "'model' is a group" in str(schema.unknown_key("model", keys, keys))


def test_numbers_of_numpy():
  values = {"x.a": np.int64(3), "x.b": np.float32(0.5)}
  keys = {"x.a": NUMBER, "x.b": RATE}
  schema.check_values(values, keys)
  assert [type(keys[name].cast(value)) for name, value in values.items()] == [int, float]


def test_flatten():
  config = {"seed": 0, "data": {"name": "cells"}, "model": {"widths": (4, 8)}}
  assert schema.flatten(config) == {"seed": 0, "data.name": "cells", "model.widths": [4, 8]}
  assert schema.flatten({"a": {"b": {"c": ()}, "d": {}}}) == {"a.b.c": []}
  assert schema.flatten({"a": ((1, (2, 3)), 4)}) == {"a": [[1, [2, 3]], 4]}
  assert schema.to_config(schema.flatten(config)).to_dict() == config


def test_keys_of_an_earlier_version():
  """A renamed key is translated, a new one has its default, an unknown one is kept."""
  group = Group(old=key(1, "renamed", was="a.older"), new=key(2.0, "new"), pair=key((), "pair"))
  keys = schema.flatten_keys(Group(a=group, seed=key(0, "seed")))
  values = schema.saved_values({"seed": 5, "a": {"older": 7, "pair": [[1, 2]], "own": "x"}}, keys)
  assert values == {"a.old": 7, "a.new": 2.0, "a.pair": [[1, 2]], "seed": 5, "a.own": "x"}
  config = schema.to_config(values)
  assert config.a.old == 7 and config.a.pair == ((1, 2),) and config.a.own == "x"


def test_every_default_is_allowed_and_every_key_has_a_meaning():
  keys = default.keys()
  assert len(keys) > 90
  for name, declared in keys.items():
    assert declared.wrong(declared.default) == "", name
    assert 5 < len(declared.meaning) < 90 and "\n" not in declared.meaning, name
  olds = [declared.was for declared in keys.values() if declared.was]
  assert len(set(olds)) == len(olds) and not set(olds) & set(keys)


def test_scopes():
  keys = default.keys()
  scopes = {scope: {n for n, k in keys.items() if k.scope == scope} for scope in schema.SCOPES}
  # A run may be moved to another machine and be given more threads,
  moved = "data.data_dir data.num_threads data.cache_mb train.parallel eval.batch_size"
  assert set(moved.split()) < scopes["free"]
  # but what decides about its numbers has to stay,
  fixed = "seed data.seed data.train_split train.batch_size train.num_epochs train.learning_rate"
  assert set(fixed.split()) < scopes["experiment"]
  # and for a trained network what decides about its weights and what it sees.
  network = "model.name model.encoder model.widths model.norm model.up data.image_size data.fit"
  assert set(network.split()) < scopes["network"]


def test_text_for_people():
  text = schema.describe_keys({"a.b": NAME})
  assert text.splitlines() == [
    "config.a.b = 'a'",
    "    a name",
    "    a, b; fixed while a run trains or resumes; an evaluation may use another value",
  ]


def test_the_reference_page_is_up_to_date():
  page = schema.keys_page(default.keys())
  assert (ROOT / "docs" / "config.md").read_text() == page, "--mode=keys --output=docs writes it"
  for name in default.keys():
    assert f"| `{name}` |" in page
