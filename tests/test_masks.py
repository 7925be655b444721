"""Masks of every kind, what their values mean, and remedies that work when they are followed."""

import ast
import collections
import io
import re
import struct
import zlib

import numpy as np
import pytest
import tifffile
from encoders import encode, tiff
from PIL import Image
from tiny import error_of

from jaxseg import VOID, UserError
from jaxseg.data.decode import ImageFormat
from jaxseg.data.encoded import Encoded
from jaxseg.data.examine import examine
from jaxseg.data.label_faults import mask_fault
from jaxseg.data.label_spaces import LABEL_SPACES, fill_in
from jaxseg.data.labels import LabelMap, label_map
from jaxseg.data.masks import decode_mask, read_mask
from jaxseg.settings import with_keys

LABELS = (np.arange(35) % 3).astype(np.uint8).reshape(5, 7)
ALPHA = np.linspace(0, 255, 35).astype(np.uint8).reshape(5, 7)
COLORS = ((0, 0, 0), (128, 0, 0), (0, 128, 0))
PICTURE = np.array(COLORS, np.uint8)[LABELS]
THREE = LabelMap({0: 0, 1: 1, 2: 2})
ABC = ("a", "b", "c")


def geotiff(array, nodata):
  """A TIFF that declares a no-data value, as GDAL writes it."""
  return tiff(array, extratags=[(42113, "s", 0, str(nodata), True)])


def palette_image():
  """Labels 0..2 as indices of a palette in which no colour is the index."""
  image = Image.fromarray(LABELS)
  image.putpalette([200, 10, 30, 40, 250, 60, 70, 80, 9])
  return image


def of_classes(count, **keys):
  return label_map(tuple(f"c{i}" for i in range(count)), **keys)


def check(data, labels, expected):
  mask = decode_mask(data, "m", labels)
  assert mask.dtype == np.uint8
  np.testing.assert_array_equal(mask, expected)


# Numbers.


def test_labels_are_mapped_and_void_stays():
  stored = np.array([[1, 2, 3], [255, 3, 1]], np.uint8)
  labels = LabelMap({1: 0, 2: 1, 3: 2})
  for data in (encode(stored), encode(stored.astype(np.uint16)), encode(stored, "TIFF")):
    check(data, labels, [[0, 1, 2], [VOID, 2, 0]])
  check(encode(np.zeros((2, 3), np.uint8)), THREE, np.zeros((2, 3)))


def test_palette_counts_by_index():
  check(encode(palette_image()), THREE, LABELS)


def test_one_bit():
  stored = np.array([[True, False], [False, True]])
  for kind in ("PNG", "TIFF"):
    check(encode(Image.fromarray(stored), kind), THREE, [[1, 0], [0, 1]])


@pytest.mark.parametrize("mode", ["LA", "RGB", "RGBA"])
def test_grey_saved_as_colours(mode):
  grey = [LABELS] * (len(mode.removesuffix("A")))
  data = encode(np.dstack([*grey, ALPHA] if mode[-1] == "A" else grey))
  assert Image.open(io.BytesIO(data)).mode == mode
  for labels in (THREE, label_map(ABC, palette=COLORS)):
    check(data, labels, LABELS)


def test_gif():
  """Pillow, for one, renumbers what it stores."""
  stored = np.array([[5, 5], [255, 7]], np.uint8)
  data = encode(stored, "GIF")
  assert (np.asarray(Image.open(io.BytesIO(data))) != stored).any()
  check(data, LabelMap({5: 0, 7: 1}), [[0, 0], [VOID, 1]])


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", "i2 u2 i4 u4 i8 u8 f2 f4 f8".split())
def test_every_type_of_number_in_tiff(kind, order):
  big = {"i2": 32767, "u2": 65535, "f2": 2048}.get(kind, 1 << 24)
  if kind in ("i8", "u8", "f8"):
    big = (1 << 52) + 1  # float32 would round it
  labels = LabelMap({0: VOID, 7: 0, 255: 1, big: 2})
  stored = np.array([[0, 7, 255], [big, 255, 7]], order + kind)
  check(tiff(stored, byteorder=order), labels, [[VOID, 0, 1], [2, 1, 0]])


def test_numbers_in_several_pages():
  pages = np.arange(12, dtype=np.uint16).reshape(3, 2, 2) % 3
  data = tiff(pages, photometric="minisblack")
  for page in range(3):
    mask = decode_mask(data, "m", LabelMap({0: 2, 1: 1, 2: 0}), page=page)
    np.testing.assert_array_equal(mask, 2 - pages[page])


@pytest.mark.parametrize("kind", ["f2", "f4", "f8"])
def test_nan_and_no_data_are_void(kind):
  stored = np.array([[0, np.nan, 1], [-9999, 2, 1]], kind)
  check(geotiff(stored, float(stored[1, 0])), THREE, [[0, VOID, 1], [VOID, 2, 1]])
  assert "nan" not in str([*read_mask(geotiff(stored, -9999), "m", THREE).counts])
  lowest = np.array([[0, np.finfo(np.float32).min]], np.float32)
  check(geotiff(lowest, "-3.4028234663852886e+38"), THREE, [[0, VOID]])


def test_no_data_of_whole_numbers():
  stored = np.array([[0, 1, 2]], np.int16)
  check(geotiff(stored, 0), THREE, [[VOID, 1, 2]])
  # A value that `mask_values` names is a class, whatever the file says.
  check(geotiff(stored, 0), label_map(ABC, mask_values=(0, 1, 2)), [[0, 1, 2]])
  check(geotiff(stored.astype(np.uint8), 2), THREE, [[0, 1, VOID]])
  everything = np.arange(256, dtype=np.uint8).reshape(16, 16)
  expected = everything.copy()
  expected[0, 7] = VOID
  check(geotiff(everything, 7), of_classes(255), expected)


def test_numbers_of_several_channels():
  for extra in (1, 2):
    channels = np.dstack([LABELS] * (1 + extra))
    data = tiff(channels, photometric="minisblack", planarconfig="contig",
                extrasamples=["unspecified"] * extra)  # fmt: skip
    check(data, THREE, LABELS)
    channels[0, 0, -1] = 9
    data = tiff(channels, photometric="minisblack", planarconfig="contig",
                extrasamples=["unspecified"] * extra)  # fmt: skip
    message = error_of(decode_mask, data, "m.tif", THREE)
    assert message.startswith("m.tif: a mask needs one label per pixel") and "band" in message
  data = encode(Image.fromarray(PICTURE).convert("CMYK"), "TIFF")
  assert "(C, M, Y, K)" in error_of(decode_mask, data, "m.tif", THREE)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_labels_in_the_alpha_channel(mode):
  alpha = np.where(LABELS > 0, 255, 0).astype(np.uint8)
  flat = np.full_like(LABELS, 255)
  data = encode(np.dstack([flat] * (len(mode) - 1) + [alpha]))
  message = error_of(decode_mask, data, "m.png", THREE)
  assert message.startswith("m.png: ") and "alpha" in message
  # A mask of one class is no such case.
  check(encode(np.dstack([0 * flat] * (len(mode) - 1) + [flat])), THREE, 0 * LABELS)


# Colours.


def variants():
  """The same colours in files of several kinds."""
  image = Image.fromarray(PICTURE)
  yield "RGB", encode(image)
  yield "RGBA", encode(np.dstack([PICTURE, ALPHA]))
  yield "BMP", encode(image, "BMP")
  yield "TIFF", encode(image, "TIFF")
  yield "planes", tiff(np.moveaxis(PICTURE, -1, 0), photometric="rgb", planarconfig="separate")
  yield "16 bits", tiff(PICTURE.astype(np.uint16), photometric="rgb")
  yield "GIF", encode(image.quantize(4), "GIF")


VARIANTS = dict(variants())


@pytest.mark.parametrize("kind", VARIANTS)
def test_colours(kind):
  for keys in ({"palette": COLORS}, {"mask_colors": COLORS},
               {"mask_colors": COLORS, "palette": ((1, 1, 1),) * 3}):  # fmt: skip
    check(VARIANTS[kind], label_map(ABC, **keys), LABELS)
  swapped = label_map(ABC, mask_colors=(COLORS[1], (COLORS[0], (9, 9, 9)), ()),
                      void_colors=COLORS[2])  # fmt: skip
  check(VARIANTS[kind], swapped, np.array([1, 0, VOID])[LABELS])
  assert "colours" in error_of(decode_mask, VARIANTS[kind], "m", THREE)


def test_mask_colors_also_count_in_palettes():
  """Programs that save few colours renumber them."""
  image = Image.fromarray(PICTURE).quantize(4)
  assert (np.asarray(image) != LABELS).any()
  check(encode(image), label_map(ABC, mask_colors=COLORS), LABELS)
  check(encode(palette_image()), label_map(ABC, palette=COLORS), LABELS)  # by index


def test_black_and_white_in_colours():
  grey = np.array([[0, 0, 128, 128]], np.uint8)
  labels = label_map(ABC, palette=((0, 0, 0), (128, 128, 128), (128, 0, 0)))
  check(encode(np.dstack([grey] * 3)), labels, [[0, 0, 1, 1]])  # 128 is no number of a class
  check(encode(np.dstack([grey // 128] * 3)), labels, [[0, 0, 1, 1]])
  sky = LABEL_SPACES["camvid"]
  labels = label_map(sky.classes, palette=sky.palette, void_colors=sky.void_colors)
  black = encode(np.zeros((2, 3, 3), np.uint8))  # 0 is sky, (0, 0, 0) is void
  assert "`mask_colors`" in error_of(decode_mask, black, "m", labels)
  check(black, label_map(sky.classes, mask_colors=sky.palette, void_colors=sky.void_colors),
        np.full((2, 3), VOID))  # fmt: skip
  check(encode(np.zeros((2, 3), np.uint8)), labels, np.zeros((2, 3)))


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


# Keys that contradict each other.


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


# Messages, and remedies.


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


def grey(*values, dtype=np.uint8):
  return np.array([values], dtype)


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


def test_masks_that_are_pictures():
  """Half a million values: the message comes at once, and check_data keeps a few."""
  rng = np.random.default_rng(0)
  for stored in (rng.random((700, 700), np.float32), rng.integers(0, 255, (700, 700, 3), np.uint8)):
    kind = "rgb" if stored.ndim == 3 else "minisblack"
    record = {"image": encode(ALPHA), "mask": tiff(stored, photometric=kind), "name": "a"}
    example = examine(Encoded([record], ImageFormat(3), label_map(ABC, palette=COLORS)), 3, 0)
    assert "interpolation" in example.fault or "smoothing" in example.fault
    assert len(example.values) == 1000 and len(example.fault) < 500


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


# One image per label.


def test_one_image_per_label(tmp_path):
  """Any value but 0 counts, the later class lies on top, and void on all."""
  stored = {
    "b": [grey(0, 9, 9, 0, 0, 0)],
    "c": [grey(0, 0, 255, 1, 0, 0), grey(0, 0, 0, 0, 255, 0)],
    "a": [np.dstack([grey(0, 1, 1, 1, 1, 0)] * 2 + [grey(0, 0, 0, 0, 0, 0)])],
    "__ignore__": [grey(0, 0, 0, 0, 1, 0)],
  }
  files = {}
  for label, arrays in stored.items():
    files[label] = [tmp_path / f"{label}{i}.png" for i in range(len(arrays))]
    for path, array in zip(files[label], arrays, strict=True):
      Image.fromarray(array).save(path)
  check(files, label_map(ABC), [[VOID, 1, 2, 2, VOID, VOID]])
  labels = label_map(("background", *ABC))
  check(files, labels, [[0, 2, 3, 3, VOID, 0]])
  assert read_mask(files, "m", labels).counts == {
    "_background_": 2, "a": 0, "b": 1, "c": 2, "__ignore__": 1}  # fmt: skip
  assert "label 'c' is not a class" in error_of(decode_mask, files, "m", label_map(("a", "b")))
  Image.fromarray(LABELS).save(tmp_path / "large.png")
  large = tmp_path / "large.png"
  message = error_of(decode_mask, {**files, "a": [large]}, "m", label_map(ABC))
  assert "6x1" in message and "7x5" in message and "b0.png" in message
  assert "m: " in error_of(decode_mask, {"a": []}, "m", label_map(ABC))
  (tmp_path / "large.png").write_bytes(b"no image")
  assert "large.png" in error_of(decode_mask, {"a": [large]}, "m", label_map(ABC))


# Real files.


def test_geotiffs(data_dir):
  """float32 with NaN, and with a value for "no data": by tifffile alone."""
  for file, is_void in (
    ("float_nan.tif", np.isnan),
    ("float_raster_with_nodata.tif", lambda x: x < -1e38),
  ):
    path = data_dir / "layouts/geotiff" / file
    stored = tifffile.imread(path)
    assert is_void(stored).any()
    mask = read_mask(path, "m", THREE)
    values = np.array([*mask.counts, np.inf])[mask.index]
    np.testing.assert_array_equal(values, np.where(is_void(stored), np.inf, stored))
    assert "interpolation" in error_of(decode_mask, path, "m", THREE)


# Damage.


def test_damaged_masks_name_the_file():
  for data in (b"", b"no image at all", b"<html>404</html>", bytes(1000)):
    assert error_of(decode_mask, data, "b.jpg", THREE) == (
      "b.jpg: cannot be decoded (not an image that Pillow reads)"
    )


def short_palette():
  """A PNG whose pixels use colours that its palette does not have."""

  def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

  header = struct.pack(">IIBBBBB", 2, 1, 8, 3, 0, 0, 0)
  pixels = zlib.compress(b"\0\1\5")
  parts = (b"IHDR", header), (b"PLTE", bytes(6)), (b"IDAT", pixels), (b"IEND", b"")
  return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def test_palette_that_lacks_a_colour():
  labels = label_map(ABC, mask_colors=COLORS)
  assert "m: " in error_of(decode_mask, short_palette(), "m", labels)


@pytest.mark.filterwarnings("ignore")
def test_bytes_that_flipped():
  """The right result or one line; nothing else."""
  rng = np.random.default_rng(0)
  by_number, by_color = label_map(ABC), label_map(ABC, palette=COLORS)
  files = [encode(LABELS), encode(palette_image()), tiff(LABELS), *VARIANTS.values(),
           tiff(LABELS.astype(np.float32), compression="zlib"), geotiff(LABELS, 255),
           encode(np.dstack([LABELS, ALPHA])), encode(LABELS, "JPEG")]  # fmt: skip
  failed = 0
  for data in files:
    for _ in range(30):
      damaged = np.frombuffer(data, np.uint8).copy()
      damaged[rng.integers(len(data), size=3)] = rng.integers(256, size=3)
      damaged = damaged.tobytes()[: len(data) if rng.random() < 0.8 else rng.integers(len(data))]
      for labels in (by_number, by_color):
        try:
          mask = decode_mask(damaged, "m.x", labels)
          assert mask.dtype == np.uint8 and {*np.unique(mask)} <= {0, 1, 2, VOID}
        except UserError as error:
          assert str(error).startswith("m.x: ") and "\n" not in str(error)
          failed += 1
  assert failed > 100


def test_no_data_have_no_label(tmp_path):
  """In a file per label, too."""
  tifffile.imwrite(tmp_path / "a.tif", np.float32([[0, 1], [np.nan, 2]]))
  tifffile.imwrite(tmp_path / "b.tif", np.uint8([[0, 255], [3, 0]]),
                   extratags=[(42113, 2, 0, "255", True)])  # fmt: skip
  labels = label_map(("background", "x", "y"))
  mask = decode_mask({"x": [tmp_path / "a.tif"], "y": [tmp_path / "b.tif"]}, "m", labels)
  np.testing.assert_array_equal(mask, [[0, 1], [2, 1]])


def test_more_labels_than_a_mask_can_hold(tmp_path):
  Image.fromarray(np.ones((2, 2), np.uint8)).save(tmp_path / "a.png")
  files = {f"label {i}": [tmp_path / "a.png"] for i in range(300)}
  assert "more than 255 labels" in error_of(decode_mask, files, "m", label_map(("a", "b")))
