"""What is wrong with the values of masks, and a remedy that works when it is followed."""

from collections.abc import Collection, Mapping

from jaxseg import VOID
from jaxseg.data.files import few
from jaxseg.data.label_spaces import LABEL_SPACES, bit_color
from jaxseg.data.labels import BACKGROUND, IGNORE, LabelMap, Value

FEW = 3  # colours that are enough to recognise a palette
MANY = 20  # this many more values than classes: interpolation or instance ids, not labels


def mask_fault(counts: Mapping[Value, int], labels: LabelMap, file_format: str) -> str:
  """The problem with the values of one or more masks, and its remedy; "" if there is none.

  Args:
    counts: {value: pixels}.  labels: what values mean.  file_format: of the mask.
  """
  wrong = labels.unknown(counts)
  if wrong:
    if names := [value for value in wrong if isinstance(value, str)]:
      return _name_fault(names, labels)
    if colors := [value for value in wrong if isinstance(value, tuple)]:
      return _color_fault(counts, colors, labels, file_format)
    numbers, wrong = sorted(v for v in counts if isinstance(v, int | float)), sorted(wrong)
    more = f" (and {few(wrong[1:])})" if wrong[1:] else ""
    known = few(sorted({VOID, *labels.values}), MANY)
    remedy = _number_remedy(wrong, numbers, labels, file_format)
    return f"label {wrong[0]}{more} is not a class; known values are [{known}]; {remedy}"
  classes = {value for value, label in labels.values.items() if label != VOID}
  if VOID in counts and VOID not in labels.values and {*counts} <= {0, VOID} and classes == {0, 1}:
    # Class 1 would count as void: training would raise no error, and learn nothing.
    return (
      f"holds {' and '.join(map(str, counts))}, but no 1: set `mask_values`=(0,{VOID}) if {VOID} "
      f"is a class, or `void_values`={_tuple([*_voids(labels), VOID])} if it is void"
    )
  return ""


def is_noisy(values: Collection[Value], labels: LabelMap) -> bool:
  """Whether there are so many values that they cannot be labels."""
  return len(values) > max(len(labels.values), len(labels.colors)) + MANY


def _tuple(values):
  """(1,2), as one writes it in a config."""
  text = ",".join(_tuple(x) if isinstance(x, tuple) else repr(x) for x in values)
  return f"({text},)" if len(values) == 1 else f"({text})"


def _voids(labels):
  """What `void_values` has to go on naming."""
  voids = [v for v, label in {**labels.values, **labels.names}.items() if label == VOID]
  return [v for v in voids if v not in (BACKGROUND, IGNORE)]


def _name_fault(wrong, labels):
  ignore = f"`void_values`={_tuple([*_voids(labels), *wrong])}"
  return (
    f"label {few([*map(repr, wrong)])} is not a class; known labels are "
    f"[{few(sorted(labels.names), 30)}]; if it is a class, {_more_classes(wrong, labels)}; "
    f"to ignore it, set {ignore}"
  )


def _more_classes(wrong, labels):
  """The remedy for names that are classes: a flag with all of them, if that suffices."""
  names = [
    (label, name) for name, label in labels.names.items()
    if label != VOID and name not in (BACKGROUND, IGNORE)
  ]  # fmt: skip
  # "background" is known if a class has a name like it, too; and `mask_values` may give names.
  found = {label for label, _ in names}
  names = [x for x in names if x[1] != "background" or sum(x[0] == y for y, _ in names) == 1]
  if len(names) > len(found) or labels.is_listed:
    return "name it in `classes` or `mask_values`"
  classes = tuple(name for _, name in sorted(names))
  flag = f'set --`classes`="{_tuple([*classes, *wrong])}"'
  if any(space.classes == classes for space in LABEL_SPACES.values()):
    flag += ", and `label_space` to ''"
  return flag


def _number_remedy(wrong, values, labels, file_format):
  """The remedy for numbers that are no classes, in a mask that holds `values`."""
  num_classes = labels.num_classes
  if file_format == "JPEG":
    return "JPEG changes labels: save masks as PNG"
  if fractions := [value for value in wrong if isinstance(value, float)]:
    if abs(fractions[0]) < 1 << 53:
      return "such values come from interpolation: resize masks by nearest neighbour"
    return "save whole numbers, and NaN for pixels without a label"
  if is_noisy(values, labels):
    return (
      "so many values suggest interpolation or instance ids: save one value per class, and name "
      "every class in `classes`"
    )
  voids = _voids(labels)
  used = [value for value in values if value not in voids]
  counted = {*range(1, num_classes + 1)}
  is_free = not counted.intersection(voids) and 0 not in voids  # to count from 1
  if len(used) == num_classes == 2 and 0 not in voids:
    return f"if {used[0]} and {used[1]} are the classes, set `mask_values`={_tuple(used)}"
  if is_free and used[0] > 0 and max({*used} - {VOID}) == num_classes:
    if num_classes > MANY and not labels.is_listed:
      return "if the classes count from 1, set `reduce_zero_label`=True"
    return f"if the classes count from 1, set `mask_values`={_tuple(sorted(counted))}"
  if len(wrong) > 10:
    return "if they are void, list them in `void_values`; if they are classes, in `mask_values`"
  void = f"set `void_values`={_tuple([*voids, *wrong])}"
  if is_free and wrong == [num_classes] and not labels.is_listed:
    return (
      "if 0 is void and the classes count from 1, set `reduce_zero_label`=True; if they count from "
      f"0 and {num_classes} is void, {void}"
    )
  number = len({*used} - {VOID})
  name = f"name all {number} in `classes` and `mask_values`"
  if number <= num_classes:
    name = "set `mask_values`, and `classes` if any is a further one"
  if len(wrong) == 1:
    return f"if it is void, {void}; if it is a class, {name}"
  return f"if they are void, {void}; if they are classes, {name}"


def _color_fault(counts, wrong, labels, file_format):
  colors = [value for value in counts if isinstance(value, tuple)]
  num, num_classes = len(colors), labels.num_classes
  by_share = sorted(wrong, key=lambda color: -counts[color])
  total = sum(counts.values()) or 1
  shares = [f"{color} {counts[color] / total:.1%}" for color in by_share]
  text = f"colours that are no class: {few(shares)}; "
  if file_format == "JPEG":
    return text + "JPEG changes colours: save masks as PNG"
  voids = [color for color, label in labels.colors.items() if label == VOID]
  noise = f"{num} colours for {num_classes} classes suggest smoothing (anti-aliasing) or JPEG: "
  noise += "save masks as PNG, without smoothing"
  if labels.by_color or len(wrong) < num:  # some colours have a meaning
    if is_noisy(colors, labels) or labels.color_tolerance:
      return text + noise + ", or correct `mask_colors`"
    void = f"`void_colors`={_tuple([*voids, *wrong])}"
    return f"{text}if they are void, set {void}; if they are classes, add them to `mask_colors`"
  text += "" if labels.colors else _known_palettes(wrong, num_classes)
  if num_classes - num > MANY:
    return f"{text}set `mask_colors` to the (R,G,B) of each class, () for those that have none"
  chosen, rest = sorted(by_share[:num_classes]), sorted(by_share[num_classes:])
  if len(rest) > 10 and 2 * sum(counts[color] for color in chosen) < total:
    return text + noise
  colormap = [bit_color(label) for label in range(num_classes)]
  if num >= FEW and {*colormap} >= {*colors}:  # tools take it for data sets of their own, too
    line = _tuple(colormap)
    return f"{text}set `mask_colors`={line}, the colour map of VOC, if `classes` follow it"
  if rest:
    text += f"if they are classes, name {num} in `classes`; or "
  line = _tuple([*chosen, *[()] * (num_classes - num)])
  text += f"set `mask_colors`={line}, in the order of `classes`"
  if len(rest) > 10:
    return f"{text}, but {noise}"
  if rest:
    text += f", and `void_colors`={_tuple([*voids, *rest])} if these are void; if not, {noise}"
  return text


def _known_palettes(colors, num_classes):
  """Says of which label spaces these are colours; "" for none."""
  found = {}
  for name, space in LABEL_SPACES.items():
    enough = len(colors) >= FEW or len(space.palette) == num_classes
    if enough and {*space.palette, *space.void_colors} >= {*colors}:
      found.setdefault(space.palette, (name, len(space.classes)))
  texts = []
  for name, number in found.values():
    whole = f" and `classes`=(), which are {number}" if number != num_classes else ""
    texts.append(f"these are colours of `label_space`={name!r}: set it{whole}; else ")
  return "".join(texts)
