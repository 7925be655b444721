"""What is said about the values of masks, and remedies that work when they are followed."""

import ast
import collections
import re

import numpy as np
import pytest
from encoders import encode, tiff
from small_masks import ALPHA, COLORS, THREE, check, grey, of_classes
from tiny import error_of

from jaxseg import VOID
from jaxseg.data.label_faults import mask_fault
from jaxseg.data.label_spaces import LABEL_SPACES, fill_in
from jaxseg.data.labels import LabelMap, label_map
from jaxseg.data.masks import decode_mask
from jaxseg.settings import with_keys


@pytest.mark.parametrize("dtype, value", [(np.uint8, 4), (np.uint8, 254), (np.uint16, 258),
                                          (np.float32, 0.5), (np.int32, -1)])  # fmt: skip
def test_label_that_is_no_class(dtype, value):
  stored = np.array([[1, 2], [value, 3]], dtype)
  labels = LabelMap({1: 0, 2: 1, 3: 2})
  message = error_of(decode_mask, encode(stored, "TIFF"), "mask of a.jpg", labels)
  assert message.startswith("mask of a.jpg: ") and f"label {value} " in message
  assert "[1, 2, 3, 255]" in message


def offers(message):
  """[{key: value}] of the alternatives that a message offers, each a line to copy."""
  found = []
  for part in re.split(r"; |, or ", message):
    keys = {}
    for match in re.finditer(r"`(\w+)`=", part):
      rest = part[match.end() :]
      for end in range(1, len(rest) + 1):
        try:
          keys[match[1]] = ast.literal_eval(rest[:end])
          break
        except (SyntaxError, ValueError):
          pass
      assert match[1] in keys, part
    found += [keys] if keys else []
  return found


def colored(*colors):
  return np.array([colors], np.uint8)


MANY_COLORS = [(i, 0, 0) for i in range(7)]
# What a mask holds, the number of classes, other keys, offers: the first ones in full.
REMEDIES = [
  (grey(0, 128), 2, {}, [{"mask_values": (0, 128)}]),
  (grey(0, 255), 2, {}, [{"mask_values": (0, 255)}, {"void_values": (255,)}]),  # else VOID
  (grey(0, 255), 2, {"void_values": (9,)}, [{"mask_values": (0, 255)}, {"void_values": (9, 255)}]),
  (grey(255, 255), 2, {}, [{"mask_values": (0, 255)}, {"void_values": (255,)}]),
  (grey(1, 2), 2, {}, [{"mask_values": (1, 2)}]),
  (grey(0, 1, 2), 2, {}, [{"reduce_zero_label": True}, {"void_values": (2,)}]),
  (grey(7, 9), 2, {"void_values": (9,)}, [{"void_values": (9, 7)}]),
  (grey(1, 2, 3, 255), 3, {}, [{"mask_values": (1, 2, 3)}]),
  (grey(3, 4), 3, {"mask_values": (1, 2, 3)}, [{"void_values": (4,)}]),
  (grey(0, 2, 11), 11, {}, [{"reduce_zero_label": True}, {"void_values": (11,)}]),
  (grey(*range(151)), 150, {}, [{"reduce_zero_label": True}, {"void_values": (150,)}]),
  (grey(*range(1, 151)), 150, {}, [{"reduce_zero_label": True}]),
  (grey(*range(1, 31)), 30, {"mask_values": tuple(range(30))},
   [{"mask_values": tuple(range(1, 31))}]),
  (grey(0, 1, 1 << 24, dtype=np.float32), 3, {}, [{"void_values": (1 << 24,)}]),
  (grey(3, 150), 150, {}, [{"reduce_zero_label": True}]),
  (grey(0, 151), 150, {"reduce_zero_label": True}, [{"void_values": (0, 151)}]),
  (grey(0, 1, 200, 201), 3, {"void_values": (128,)}, [{"void_values": (128, 200, 201)}]),
  (grey(-1, 0, 1, dtype=np.int16), 3, {}, [{"void_values": (-1,)}]),
  (grey(-1, 0, 1, dtype=np.float32), 3, {"mask_values": (0, 1, 5)}, [{"void_values": (-1,)}]),
  (grey(65535, 3, 0, dtype=np.uint16), 3, {}, [{"void_values": (3, 65535)}]),
  (grey(0, 0.5, 1, dtype=np.float32), 2, {}, []),
  (grey(0, np.inf, dtype=np.float32), 2, {}, []),
  (grey(0, np.nan, 0.25, dtype=np.float64), 2, {}, []),
  (grey(*range(60)), 2, {}, []),
  (grey(*range(0, 60, 4)), 3, {}, []),
  (colored(*COLORS[:2]), 2, {}, [{"mask_colors": COLORS[:2]}]),
  (colored(*COLORS), 3, {"palette": ((1, 1, 1), (2, 2, 2), (3, 3, 3))},
   [{"mask_colors": COLORS}]),  # in the order of VOC
  (colored(*COLORS[:2]), 4, {}, [{"mask_colors": (*COLORS[:2], (), ())}]),
  (colored(*COLORS[:2]), 21, {},
   [{"label_space": "voc"}, {"mask_colors": (*COLORS[:2], *[()] * 19)}]),
  (colored((0, 0, 0), (64, 0, 128)), 11, {},
   [{"label_space": "camvid"}, {"mask_colors": ((0, 0, 0), (64, 0, 128), *[()] * 9)}]),
  (colored((0, 0, 0), (64, 0, 128)), 11, {"palette": tuple((i, 0, 9) for i in range(11))},
   [{"mask_colors": ((0, 0, 0), (64, 0, 128), *[()] * 9)}]),
  (colored(*MANY_COLORS, *MANY_COLORS[:2]), 2, {},
   [{"mask_colors": ((0, 0, 0), (1, 0, 0)), "void_colors": tuple(MANY_COLORS[2:])}]),
  (colored(*COLORS, (9, 9, 9)), 3, {"mask_colors": COLORS, "void_colors": (7, 7, 7)},
   [{"void_colors": ((7, 7, 7), (9, 9, 9))}]),
  (colored(*COLORS, (9, 9, 9)), 3, {"palette": COLORS}, [{"void_colors": ((9, 9, 9),)}]),
  (colored(*COLORS), 3, {"mask_colors": (*COLORS[:2], (0, 0, 200)), "color_tolerance": 9}, []),
  (colored(*[(i, 1, 2) for i in range(99)]), 150, {}, []),
  # Known palettes, whatever the number of classes: three of VOC (and of CamVid), with its border.
  (colored(*COLORS), 3, {}, [{"label_space": "voc", "classes": ()}, {"mask_colors": COLORS}]),
  (colored((0, 0, 0), (0, 128, 0), (128, 0, 0)), 4, {},
   [{"label_space": "voc", "classes": ()}, {"mask_colors": (*COLORS, (128, 128, 0))}]),
  (colored((0, 0, 0), (192, 128, 128), (0, 128, 0), (224, 224, 192)), 2, {},
   [{"label_space": "voc", "classes": ()},
    {"mask_colors": ((0, 0, 0), (0, 128, 0)), "void_colors": ((192, 128, 128), (224, 224, 192))}]),
  (colored((0, 0, 0), (128, 0, 0), (224, 224, 192)), 4, {},
   [{"label_space": "voc", "classes": ()},
    {"mask_colors": ((0, 0, 0), (128, 0, 0), (224, 224, 192), ())}]),
  (colored((128, 128, 128), (128, 0, 0), (0, 128, 192)), 3, {},
   [{"label_space": "camvid", "classes": ()},
    {"mask_colors": ((0, 128, 192), (128, 0, 0), (128, 128, 128))}]),
  (colored((70, 70, 70), (0, 0, 142), (107, 142, 35)), 19, {},
   [{"label_space": "cityscapes"},
    {"mask_colors": ((0, 0, 142), (70, 70, 70), (107, 142, 35), *[()] * 16)}]),
  (colored((70, 70, 70), (0, 0, 142), (107, 142, 35)), 30, {},
   [{"label_space": "cityscapes", "classes": ()}]),
  (colored((70, 70, 70), (0, 0, 142), (1, 2, 3)), 19, {},
   [{"mask_colors": ((0, 0, 142), (1, 2, 3), (70, 70, 70), *[()] * 16)}]),
]  # fmt: skip


@pytest.mark.parametrize("stored, num_classes, keys, expected", REMEDIES)
def test_remedies_work_when_they_are_followed(stored, num_classes, keys, expected):
  data = tiff(stored, photometric="rgb" if stored.ndim == 3 else "minisblack")
  classes = tuple(f"c{i}" for i in range(num_classes))
  message = error_of(decode_mask, data, "m", label_map(classes, **keys))
  assert offers(message) == expected, message
  assert re.search(r"`\w+`=", message) or re.search("save|resize|list them|set `|correct", message)
  for offer in expected:
    assert f"config.data.{next(iter(offer))}=" in with_keys(message)  # as the command prints it
    given = {"classes": classes, "palette": (), "void_values": (), "void_colors": (),
             "mask_values": (), **keys, **offer}  # fmt: skip
    if given["classes"] == ():
      assert num_classes != len(LABEL_SPACES[given["label_space"]].classes)
    given = fill_in(given.pop("label_space", ""), given)
    mask = decode_mask(data, "m", label_map(**given))
    assert mask.shape == stored.shape[:2]


def test_what_the_remedy_for_labels_from_1_gives():
  """Not the top class as void."""
  stored = grey(*range(151))
  message = error_of(decode_mask, encode(stored), "m", of_classes(150))
  labels = of_classes(150, **offers(message)[0])
  check(encode(stored), labels, [[VOID, *range(150)]])


def test_words_about_fractions_and_colours():
  half = error_of(decode_mask, tiff(grey(0, 0.5, dtype=np.float32)), "m", THREE)
  assert "interpolation" in half and "void" not in half
  assert "interpolation" not in error_of(decode_mask, tiff(grey(np.inf, dtype="f4")), "m", THREE)
  picture = colored(*[(0, 0, 0)] * 6, *[(255, 0, 0)] * 3, (128, 0, 0))
  message = error_of(decode_mask, encode(picture), "m.png", LabelMap({0: 0, 1: 1}))
  assert "(0, 0, 0) 60.0%, (255, 0, 0) 30.0%, (128, 0, 0) 10.0%" in message
  assert "3 colours for 2 classes suggest smoothing (anti-aliasing) or JPEG" in message
  smooth = colored(*[(0, 0, 0)] * 60, *[(255, 0, 0)] * 40, *[(i, 0, 0) for i in range(10, 40)])
  message = error_of(decode_mask, encode(smooth), "m.png", LabelMap({0: 0, 1: 1}))
  assert "`mask_colors`=((0,0,0),(255,0,0)), in the order" in message and "void_col" not in message
  assert "32 colours for 2 classes suggest smoothing" in message
  many = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
  message = error_of(decode_mask, encode(many), "m.png", THREE)
  assert "smoothing" in message and "mask_colors" not in message and len(message) < 500
  message = error_of(decode_mask, encode(many, "JPEG"), "m.jpg", THREE)
  assert message.endswith("save masks as PNG")


def test_fault_of_several_masks():
  def fault(values, file_format="PNG"):
    return mask_fault(collections.Counter(values), THREE, file_format)

  assert fault([0, 2, 255]) == ""
  text = fault([1, 2, 7, *range(20, 60)])
  assert text.startswith("label 7 (and 20, 21, 22, ") and "29, ... (40 values)) is not" in text
  assert "interpolation" in text and "void_values" not in text
  assert "`mask_values`=(1,2,3)" in fault([1, 2, 3])
  assert fault([1, 2, 3], "JPEG").endswith("save masks as PNG")
  assert "(9, 9, 9)" in fault([1, 7, (9, 9, 9), 255]) and "'x'" in fault([7, (9, 9, 9), "x"])


def test_void_on_purpose_and_masks_in_jpeg():
  data = encode(grey(0, 255))
  for values in ({0: 0, 1: 1, VOID: VOID}, {0: 0, 1: 1, 2: 2}):
    check(data, LabelMap(values), [[0, VOID]])
  check(data, LabelMap({0: 0, VOID: 1}), [[0, 1]])
  noisy = encode(ALPHA // 128 * 255, "JPEG")
  assert "save masks as PNG" in error_of(decode_mask, noisy, "m.jpg", LabelMap({0: 0, 255: 1}))
