"""Every declared key, with values that it cannot have: one line each that names the key."""

import pytest

from configs import default
from jaxseg import UserError, schema, settings

KEYS = default.keys()
NAN, INF = float("nan"), float("inf")
# What no key takes, whatever its type.
NEVER = (None, {}, {"a": 1}, b"x", object, {1, 2}, 1 + 2j)
# Values that are of the wrong kind for keys of a type.
OTHER = {
  bool: (0, 1, "True", "", (), 0.0),
  int: (True, 1.5, "3", "", (), (1,), NAN, INF, 2**70, -(2**70), 10**5000),
  float: (True, "3", "", (), (1.0,), NAN, INF, -INF, 1e39, -1e39, 1e-320, 10**5000),
  str: (3, 0, True, 1.5, ("x",), "\0", "x" * 5000),
  tuple: (3, 0, True, 1.5, "ab", (None,), ({},), (b"x",), ({1},), (("\0",),) * 70_000),
}
# Entries that a tuple of a type, or of a form, does not take.
ENTRIES = {
  int: (True, 1.5, "a", "", (), (1,), NAN, INF, 2**70, None),
  float: (True, "a", (), NAN, INF, -INF, 1e300, 1e-320, None),
  str: (3, True, 1.5, (), ("a",), None, "\0", "x" * 5000),
}
FORMS = {
  "data.palette": [(0, 1), ((),), ((0, 1),), ((0, 0, 256),), ((0, 0, -1),), ((0, 0, 0.5),),
                   (("a", 0, 0),), ((True, 0, 0),), ((0, 0, 0, 0),), ("red",), ((0, 0, NAN),)],
  "data.mask_values": [((), (0, 1)), ((),), (1.5,), (True,), ((1, (2,)),), (NAN,), (2**64,),
                       ((None,),), ((1.0, 2),)],
  "data.void_values": [((),), (1.5,), (True,), ((1,),), (NAN,), (2**64,)],
  "data.mask_colors": [(0, 1), ("a",), ((),), ((0, 1),), ((0, 0, -1),), ((0, 0, 65536),),
                       ((0.5, 0, 0),), (((0, 0, 0), ()),), (((0, 0),),), ((True, True, True),)],
  "data.void_colors": [(0, 1), ("a",), ((),), ((0, 1),), ((0, 0, -1),), ((0, 0, 65536),),
                       (-1, 0, 0), (((0, 0, 0),),)],
  "data.value_range": [("a", "b"), (0,), (1, 1), (2, 1), (0, 1, 2), (NAN, 1.0), (0.0, INF),
                       ((0, 1), (2, 1)), ((0, 1), 2), ((0,),), (True, 2), ((),)],
  "train.lr_multipliers": [("head", 0.1), (("head",),), (("head", -1.0),), (("head", NAN),),
                           ((1, 0.1),), (("head", "x"),), (("head", True),), (("a", 1e300),)],
}  # fmt: skip


def numbers_outside(declared):
  """Numbers beyond both ends of what a key takes."""
  kind = declared.item if isinstance(declared.default, tuple) else type(declared.default)
  if kind not in (int, float) or declared.choices is not None:
    return []
  low = declared.low if declared.above is None else declared.above
  outside = [low - 1, declared.high + 1, declared.high * 2, -(10**12), 10**12]
  if declared.above is not None:
    outside.append(low)
  return [kind(x) for x in outside]


def cases():
  """(key, value) that has to be refused."""
  for name, declared in KEYS.items():
    kind = type(declared.default)
    yield from ((name, value) for value in (*NEVER, *OTHER[kind]))
    outside = numbers_outside(declared)
    if declared.choices is not None and kind is not tuple:
      outside += ["no-such", " " + str(declared.default), "UNET"] if kind is str else [-1, 7, 10**6]
    if kind is not tuple:
      yield from ((name, value) for value in outside)
      continue
    if declared.form is None:
      assert declared.item in ENTRIES, f"{name}: a tuple needs `item` or `form`"
      number = declared.length or 1
      entries = (*ENTRIES[declared.item], *outside)
      yield from ((name, (entry,) * number) for entry in entries)
      good = 1 if declared.item is not str else "a"
      if declared.length:
        yield from ((name, (good,) * n) for n in (declared.length - 1, declared.length + 1))
        yield from [(name, ())] if declared.default else []
      yield name, (good,) * (declared.most + 1)
      if declared.choices is not None:
        yield name, ("no-such",)
    yield from ((name, value) for value in FORMS.get(name, ()))
  assert set(FORMS) == {name for name, declared in KEYS.items() if declared.form}


CASES = list(cases())


def error_of(name, value):
  with pytest.raises(UserError) as error:
    settings.check(settings.override(default.get_config(), {name: value}))
  return str(error.value)


def test_there_are_as_many_cases_as_it_takes():
  assert len(CASES) > 2000
  assert {name for name, _ in CASES} == set(KEYS)


@pytest.mark.parametrize("name", KEYS)
def test_wrong_values_are_refused_in_one_line(name):
  declared = KEYS[name]
  for value in (v for n, v in CASES if n == name):
    with pytest.raises(UserError) as error:
      schema.check_values({name: value}, KEYS)
    text = str(error.value)
    assert text.startswith(f"config.{name} is ") and "\n" not in text, text[:300]
    known = sum(len(str(x)) + 2 for x in declared.choices or ())
    assert len(text) < 350 + known, (name, len(text))
    assert "but " in text or "choose from" in text, text


@pytest.mark.parametrize("kind", [bool, int, float, str, tuple])
def test_the_same_from_python_and_from_a_file(kind):
  """One key of each type, through `override`, and assigned as a config file does."""
  name = next(n for n, declared in KEYS.items() if type(declared.default) is kind)
  for value in (*NEVER, *OTHER[kind]):
    if value == {} or value == {"a": 1}:
      continue  # a group of keys
    assert error_of(name, value).startswith(f"config.{name} is ")
    config = default.get_config()
    group, last = (config, name) if "." not in name else (config[name.split(".")[0]], name[5:])
    with config.unlocked():
      del group[last]  # with which goes its type
      group[last] = value
    with pytest.raises(UserError, match=rf"^config\.{name} is "):
      settings.check(config)


def test_every_number_has_two_bounds():
  for name, declared in KEYS.items():
    if numbers_outside(declared) or declared.item in (int, float):
      assert declared.high is not None and None in (declared.low, declared.above), name


def test_bounds_themselves_are_allowed():
  for name, declared in KEYS.items():
    if type(declared.default) in (int, float) and declared.choices is None:
      for bound in (declared.low, declared.high):
        assert bound is None or not declared.wrong(type(declared.default)(bound)), name


@pytest.mark.parametrize(
  "name, value",
  [
    ("data.palette", ((0, 0, 0), [255, 255, 255])),
    ("data.mask_values", (0, (1, 2))),
    ("data.mask_values", ("_background_", ("car", "bus"))),
    ("data.mask_values", [[0, -1], [3]]),
    ("data.void_values", (255, "tree")),
    ("data.mask_colors", ((0, 0, 0), ((1, 2, 3), (4, 5, 6)))),
    ("data.void_colors", (9, 9, 9)),
    ("data.void_colors", ((9, 9, 9), (8, 8, 65535))),
    ("data.value_range", (0, 4095)),
    ("data.value_range", ((0, 1), (-5.0, 3))),
    ("train.lr_multipliers", (("encoder", 0.1), ["head", 10])),
    ("train.lr_multipliers", (("encoder", 0),)),
  ],
)
def test_forms_that_are_right(name, value):
  assert not KEYS[name].wrong(value)


def test_keys_of_the_users_own_that_no_json_can_hold():
  for value in (NAN, INF, b"x"):
    config = default.get_config()
    with config.unlocked():
      config.model.own = value
    with pytest.raises(UserError, match=r"^config\.model\.own is a \w+, which config\.json"):
      settings.check(config)
