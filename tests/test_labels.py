"""The keys that say what masks hold: which contradict each other, and what the others mean."""

import numpy as np
import pytest
from encoders import encode
from small_masks import ABC, COLORS, LABELS, PICTURE, check, of_classes
from tiny import error_of

from jaxseg import VOID
from jaxseg.data.labels import label_map
from jaxseg.data.masks import decode_mask


def test_tolerance_of_colours():
  rng = np.random.default_rng(0)
  noisy = (PICTURE.astype(int) + rng.integers(-20, 21, PICTURE.shape)).clip(0, 255)
  data = encode(noisy.astype(np.uint8))
  check(data, label_map(ABC, mask_colors=COLORS, color_tolerance=20), LABELS)
  assert np.abs(noisy - PICTURE).max() == 20
  message = error_of(decode_mask, data, "m", label_map(ABC, mask_colors=COLORS, color_tolerance=19))
  assert "colours that are no class" in message
  # 63 + 64 = 127 < 128 = the gap between black and red.
  label_map(ABC, mask_colors=COLORS, color_tolerance=63)
  message = error_of(label_map, ABC, mask_colors=COLORS, color_tolerance=64)
  assert "`color_tolerance` is 64" in message and message.endswith("use at most 63")
  # Two colours of one class may be close.
  label_map(("a", "b"), mask_colors=(((0, 0, 0), (9, 0, 0)), (99, 0, 0)), color_tolerance=40)


def test_palettes_with_a_colour_twice_still_serve_pictures():
  labels = label_map(ABC, palette=((9, 9, 9), (9, 9, 9), (128, 0, 0)))
  check(encode(LABELS), labels, LABELS)
  assert labels.colors == {(128, 0, 0): 2}


@pytest.mark.parametrize(
  "keys, words",
  [
    ({"mask_values": (0, 1)}, "`mask_values` 2 3"),
    ({"mask_values": (7, 7, 8)}, "`mask_values` 7"),
    ({"mask_values": (0, 1, "x")}, "`mask_values` 'x'"),
    ({"mask_values": (0, 1, 0.5)}, "`mask_values` 0.5"),
    ({"mask_values": (0, 1, 2), "void_values": (2,)}, "`void_values` 2"),
    ({"void_values": (0.5,)}, "`void_values` 0.5"),
    ({"mask_colors": COLORS[:2]}, "`mask_colors` 2 3"),
    ({"mask_colors": (*COLORS[:2], COLORS[0])}, "`mask_colors` (0, 0, 0)"),
    ({"mask_colors": COLORS, "void_colors": COLORS[0]}, "`void_colors` (0, 0, 0)"),
    ({"mask_colors": (*COLORS[:2], (0, 0))}, "`mask_colors` (0, 0)"),
    ({"mask_colors": (*COLORS[:2], "red")}, "`mask_colors` 'red'"),
    ({"mask_colors": (*COLORS[:2], (0, 0, -1))}, "`mask_colors` -1"),
    ({"void_colors": ((0, 0, 0.5),)}, "`void_colors` 0.5"),
    ({"reduce_zero_label": True, "mask_values": (0, 1, 2)}, "`reduce_zero_label` `mask_values`"),
  ],
)
def test_keys_that_contradict_each_other(keys, words):
  message = error_of(label_map, ABC, **keys)
  assert all(word in message for word in words.split()), message


def test_reduce_zero_label():
  stored = np.arange(151, dtype=np.uint8).reshape(1, -1)
  expected = [[VOID, *range(150)]]
  check(encode(stored), of_classes(150, reduce_zero_label=True), expected)
  check(encode(stored), of_classes(150, reduce_zero_label=True, void_values=(0,)), expected)
  check(encode(np.array([[0, 1, 2, 3, 255]], np.uint8)),
        label_map(ABC, reduce_zero_label=True, mask_values=(1, 2, 3)),
        [[VOID, 0, 1, 2, VOID]])  # fmt: skip
