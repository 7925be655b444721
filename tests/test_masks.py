"""Masks of every kind of file: numbers, palettes, colours, one image per label, and damage."""

import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
from encoders import encode, tiff
from PIL import Image
from small_masks import (
  ABC,
  ALPHA,
  COLORS,
  LABELS,
  PICTURE,
  THREE,
  check,
  grey,
  of_classes,
  palette_image,
)
from tiny import error_of

from jaxseg import VOID, UserError
from jaxseg.data.label_spaces import LABEL_SPACES
from jaxseg.data.labels import LabelMap, label_map
from jaxseg.data.masks import decode_mask, read_mask


def geotiff(array, nodata):
  """A TIFF that declares a no-data value, as GDAL writes it."""
  return tiff(array, extratags=[(42113, "s", 0, str(nodata), True)])


# Numbers.


def test_labels_are_mapped_and_void_stays():
  stored = np.array([[1, 2, 3], [255, 3, 1]], np.uint8)
  labels = LabelMap({1: 0, 2: 1, 3: 2})
  for data in (encode(stored), encode(stored.astype(np.uint16)), encode(stored, "TIFF")):
    check(data, labels, [[0, 1, 2], [VOID, 2, 0]])
  check(encode(np.zeros((2, 3), np.uint8)), THREE, np.zeros((2, 3)))


def test_palette_counts_by_index():
  check(encode(palette_image()), THREE, LABELS)
  notes = []
  decode_mask(encode(palette_image(), transparency=0), "m", THREE, notes=notes)
  assert notes == []  # what its colours are does not matter


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


@pytest.mark.parametrize(
  "nodata, labels, words",
  [(0, THREE, ["its value of no data, 0, is void"]), (255, THREE, []),
   (0, label_map(ABC, mask_values=(0, 1, 2)), []), (7, THREE, [])],
)  # fmt: skip
def test_a_class_that_a_file_calls_no_data_is_named(nodata, labels, words):
  """As gdal_rasterize may: the background would be void without a word."""
  notes = []
  read_mask(geotiff(np.array([[0, 1, 2, 255]], np.uint8), nodata), "m", labels, notes=notes)
  assert [note.split(":")[0] for note in notes] == words


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


def test_mask_colors_beside_grey_masks_are_named():
  notes = []
  colours = label_map(ABC, mask_colors=COLORS)
  decode_mask(encode(PICTURE), "m", colours, notes=notes)
  assert not notes
  decode_mask(encode(np.uint8([[0, 1, 2]])), "m", colours, notes=notes)
  assert notes == ["the mask holds numbers, to which `mask_colors` does not apply"]


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


def test_pages_of_a_file_per_label(tmp_path):
  pages = np.uint8([[[0, 1], [0, 0]], [[0, 0], [1, 1]]])
  tifffile.imwrite(tmp_path / "a.tif", pages, photometric="minisblack")
  for page, expected in enumerate(pages):
    mask = decode_mask({"x": [tmp_path / "a.tif"]}, "m", label_map(("background", "x")), page=page)
    np.testing.assert_array_equal(mask, expected)


def test_more_labels_than_a_mask_can_hold(tmp_path):
  Image.fromarray(np.ones((2, 2), np.uint8)).save(tmp_path / "a.png")
  files = {f"label {i}": [tmp_path / "a.png"] for i in range(300)}
  assert "more than 255 labels" in error_of(decode_mask, files, "m", label_map(("a", "b")))
