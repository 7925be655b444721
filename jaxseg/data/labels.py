"""What masks hold, and what it means: numbers, colours and names -> classes."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from jaxseg import VOID, UserError

Color = tuple[int, int, int]
Value = int | float | Color | str  # of a pixel; floats only where they are not whole

# Names that annotation tools give: pixels outside all shapes, and shapes that do not count.
BACKGROUND, IGNORE = "_background_", "__ignore__"


@dataclasses.dataclass(frozen=True)
class LabelMap:
  """The class, or VOID, of everything that a mask may hold; made by `label_map`.

  Attributes:
    values: {stored number: class or VOID}; 255 is VOID unless it is listed.
    colors: {(R, G, B): class or VOID}, for masks in colour.
    names: {name of a label: class or VOID}, for polygons.
    color_tolerance: largest difference per channel at which a colour still counts as another.
    by_color: whether the colour is the label wherever there is one, as in a palette.
    is_listed: whether `values` was given, and is not 0, 1, 2 ...
  """

  values: Mapping[int, int]
  colors: Mapping[Color, int] = dataclasses.field(default_factory=dict)
  names: Mapping[str, int] = dataclasses.field(default_factory=dict)
  color_tolerance: int = 0
  by_color: bool = False
  is_listed: bool = False

  @property
  def num_classes(self) -> int:
    """C, of masks that hold numbers."""
    return len({*self.values.values()} - {VOID})

  def look_up(self, values: Iterable[Value]) -> list[int | None]:
    """The class or VOID of each value; None for those without a meaning."""
    values = list(values)
    exact = {VOID: VOID, **self.values, **self.colors, **self.names}
    found = [exact.get(value) for value in values]
    near = [i for i, value in enumerate(values) if found[i] is None and isinstance(value, tuple)]
    if near and self.color_tolerance:
      array = np.array([values[i] for i in near])
      for color, label in self.colors.items():
        for j in np.flatnonzero(np.abs(array - color).max(-1) <= self.color_tolerance):
          found[near[j]] = label
    return found

  def unknown(self, values: Iterable[Value]) -> list[Value]:
    """Those of the values that have no meaning."""
    values = list(values)
    labels = self.look_up(values)
    return [value for value, label in zip(values, labels, strict=True) if label is None]


def label_map(
  classes: Sequence[str],
  *,
  palette: Sequence = (),
  mask_values: Sequence = (),
  void_values: Sequence = (),
  mask_colors: Sequence = (),
  void_colors: Sequence = (),
  color_tolerance: int = 0,
  reduce_zero_label: bool = False,
) -> LabelMap:
  """The LabelMap that the keys of config.data describe.

  Args:
    classes: names.
    palette: an (R, G, B) per class; the colours of masks if `mask_colors` is ().
    mask_values: stored number, or tuple of numbers, of each class; () = 0, 1, ... For polygons,
      names in their place; () = `classes`.
    void_values: stored numbers, and names, that count as VOID.
    mask_colors: (R, G, B), or tuple of several, of each class.
    void_colors: the same for VOID.
    color_tolerance: see LabelMap.
    reduce_zero_label: masks count from 1, and 0 is VOID.
  Raises:
    UserError: the keys contradict each other.
  """
  for key, entries in (("mask_values", mask_values), ("mask_colors", mask_colors)):
    if len(entries) not in (0, len(classes)):
      raise UserError(
        f"`{key}` has {len(entries)} entries for {len(classes)} classes: give one for each"
      )
  if reduce_zero_label:
    counted = tuple(range(1, len(classes) + 1))
    if tuple(mask_values) not in ((), counted):
      raise UserError("`reduce_zero_label` and `mask_values` are both set: set one of them")
    mask_values, void_values = counted, (0, *(v for v in void_values if v != 0))
  values, names = _numbers_and_names(classes, mask_values, void_values)
  colors = _colors_of(palette, mask_colors, void_colors)
  _check_tolerance(colors, color_tolerance)
  is_listed = any(not isinstance(x, str) for entry in mask_values for x in _items(entry))
  return LabelMap(values, colors, names, color_tolerance, bool(mask_colors), is_listed)


def _items(entry):
  return entry if isinstance(entry, tuple | list) else (entry,)


def _numbers_and_names(classes, mask_values, void_values):
  """({number: class or VOID}, {name: class or VOID})"""
  entries = [(x, i) for i, entry in enumerate(mask_values) for x in _items(entry)]
  given = [x for x, _ in entries if isinstance(x, str)]
  if given and len(given) < len(entries):
    raise UserError(
      f"`mask_values` has the name {given[0]!r} beside numbers: use numbers for masks that are "
      "images, names for polygons"
    )
  if given or not entries:
    entries = [*enumerate(range(len(classes))), *entries]
  values, names = {}, {}
  for x, label in [*entries, *((x, VOID) for x in _items(void_values))]:
    if not isinstance(x, int | str) or isinstance(x, bool):
      raise UserError(f"`mask_values` and `void_values`: {x!r} is not a whole number")
    table = names if isinstance(x, str) else values
    if x in table and not (table[x] == label == VOID):
      raise UserError(f"mask value {x!r} has two meanings: correct `mask_values` or `void_values`")
    table[x] = label
  for label, name in enumerate(classes):
    names.setdefault(name, label)
  for label, name in enumerate(classes):
    if name.strip("_").lower() == "background":
      names.setdefault(BACKGROUND, label)
      names.setdefault("background", label)
  names.setdefault(BACKGROUND, VOID)
  names.setdefault(IGNORE, VOID)
  return values, names


def _colors_of(palette, mask_colors, void_colors):
  """{(R, G, B): class or VOID}"""
  if mask_colors:
    entries = [(c, i) for i, entry in enumerate(mask_colors) for c in _colors(entry)]
  else:  # colours for pictures alone may be alike; as labels, these have no meaning
    entries = [(tuple(color), i) for i, color in enumerate(palette)]
    entries = [(c, i) for c, i in entries if sum(c == other for other, _ in entries) == 1]
  colors = {}
  for color, label in [*entries, *((c, VOID) for c in _colors(void_colors))]:
    if color in colors and not (colors[color] == label == VOID):
      raise UserError(
        f"the colour {color} of masks has two meanings: correct `mask_colors` or `void_colors`"
      )
    colors[color] = label
  return colors


def _colors(entry):
  """(R, G, B), or a tuple of several, -> a list of them."""
  if not isinstance(entry, tuple | list):
    entry = (entry,)
  if any(isinstance(x, int) for x in entry):
    entry = (entry,)
  for color in entry:
    if not (
      isinstance(color, tuple | list)
      and len(color) == 3
      and all(isinstance(x, int) and 0 <= x <= 0xFFFF for x in color)
    ):
      raise UserError(
        f"`mask_colors` and `void_colors`: {color!r} is no (R,G,B) of whole numbers from 0"
      )
  return [tuple(color) for color in entry]


def _check_tolerance(colors, tolerance):
  """Raises UserError if a colour could lie within the tolerance of two labels."""
  keys, labels = np.array([*colors], int).reshape(-1, 3), np.array([*colors.values()], int)
  for i in range(len(keys) if tolerance else 0):
    gaps = np.abs(keys - keys[i]).max(-1)
    gaps[labels == labels[i]] = 1 << 20
    if gaps[j := gaps.argmin()] <= 2 * tolerance:
      a, b = (tuple(keys[k].tolist()) for k in (i, j))
      raise UserError(
        f"`color_tolerance` is {tolerance}, but the colours {a} and {b} of two labels differ by "
        f"{gaps[j]}: use at most {(gaps[j] - 1) // 2}"
      )
