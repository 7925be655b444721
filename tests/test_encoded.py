"""Records of an image and its mask, decoded; what is not used of them is said once."""

import io
import pickle
import warnings

import numpy as np
import pytest
import tifffile
from encoders import encode, tiff
from PIL import Image
from test_decode import GREY, RGB
from tiny import error_of

from jaxseg import DataWarning
from jaxseg.data.decode import ImageFormat
from jaxseg.data.encoded import Encoded, common_dtype
from jaxseg.data.labels import LabelMap

LABELS = LabelMap({0: 0, 1: 1})
MASK = encode(np.zeros((5, 7), np.uint8))


def pages(*arrays):
  buffer = io.BytesIO()
  first, *rest = [Image.fromarray(array) for array in arrays]
  first.save(buffer, "TIFF", save_all=True, append_images=rest)
  return buffer.getvalue()


def source_of(*images, channels=3, mask=MASK, **options):
  records = [{"image": image, "mask": mask, "name": f"{i}.jpg"} for i, image in enumerate(images)]
  return Encoded(records, ImageFormat(channels, **options), LABELS)


def test_image_and_mask_of_different_sizes():
  example = source_of(encode(RGB))[0]
  assert set(example) == {"image", "mask", "name"} and example["name"] == "0.jpg"
  np.testing.assert_array_equal(example["image"], RGB)
  source = source_of(encode(RGB), mask=encode(np.zeros((6, 9), np.uint8)))
  message = error_of(source.__getitem__, 0)
  assert "0.jpg" in message and "7x5" in message and "9x6" in message  # width x height


def test_damage_of_image_or_mask_is_told_apart():
  assert error_of(source_of(b"").__getitem__, 0).startswith("0.jpg: ")
  assert error_of(source_of(encode(RGB), mask=b"").__getitem__, 0).startswith("mask of 0.jpg: ")


def test_records_of_pages():
  volume = np.random.default_rng(3).integers(0, 4096, (2, 5, 7), dtype=np.uint16)
  image, mask = pages(*volume), pages(*(volume % 2).astype(np.uint8))
  records = [
    {"image": image, "mask": mask, "page": page, "name": f"v {page}", "where": f"dir/v {page}"}
    for page in range(3)
  ]
  source = pickle.loads(pickle.dumps(Encoded(records, ImageFormat(1), LABELS)))
  for page in range(2):
    example = source[page]
    assert example["name"] == f"v {page}"
    np.testing.assert_array_equal(example["image"][..., 0], volume[page])
    np.testing.assert_array_equal(example["mask"], volume[page] % 2)
  assert error_of(source.__getitem__, 2).startswith("dir/v 2: ")


def test_what_is_not_used_is_said_once():
  alpha = encode(np.dstack([RGB, GREY]))
  source = source_of(encode(RGB), alpha, alpha)
  with pytest.warns(DataWarning, match="^1.jpg: transparency") as said:
    for i in (0, 1, 2, 1):
      source[i]
  assert len(said) == 1
  with warnings.catch_warnings(action="error"):
    source_of(encode(RGB))[0]


def test_what_is_not_used_of_a_mask_is_said_once():
  labels = np.zeros((5, 7), np.uint8)
  seen = encode(np.dstack([labels, labels + 255]))  # opaque: alpha has nothing to say
  faded = encode(np.dstack([labels + (GREY > 99), GREY]))
  with pytest.warns(DataWarning, match="^mask of 0.jpg: transparency .* of the mask") as said:
    for _ in range(2):
      source_of(encode(RGB), mask=faded)[0]
  assert len(said) == 2  # of two data sets
  with warnings.catch_warnings(action="error"):
    source_of(encode(RGB), mask=seen)[0]


@pytest.mark.parametrize(
  "arrays, expected",
  [
    ([RGB, GREY], "uint8"),
    ([RGB, GREY.astype(np.uint16)], "uint16"),
    ([GREY.astype(np.uint16), GREY.astype(np.float16)], "float32"),
    ([GREY.astype(np.int8)], "float32"),
    ([], "uint8"),
  ],
)
def test_the_type_that_holds_a_data_set(arrays, expected):
  records = [{"image": tiff(array), "name": "a"} for array in arrays]
  records += [{"image": b"damaged", "name": "b"}]
  if len({array.dtype for array in arrays}) > 1:
    with pytest.warns(DataWarning, match=f"all become {expected}"):
      assert common_dtype(records, ImageFormat(3)) == expected
  else:
    with warnings.catch_warnings(action="error"):
      assert common_dtype(records, ImageFormat(3)) == expected


def test_the_mask_turns_with_its_image(tmp_path):
  """Both carry the orientation, or the image alone: then the mask was drawn upright."""
  exif = Image.Exif()
  exif[0x0112] = 6
  upright, mask = RGB, (RGB[..., 0] > 128).astype(np.uint8)
  sensor = [np.ascontiguousarray(np.rot90(x)) for x in (upright, mask)]
  turned = encode(sensor[0], "PNG", exif=exif)
  for stored in (encode(sensor[1], "PNG", exif=exif), encode(mask)):
    example = source_of(turned, mask=stored)[0]
    np.testing.assert_array_equal(example["image"], upright)
    np.testing.assert_array_equal(example["mask"], mask)
  example = source_of(turned, mask=encode(sensor[1]), orient=False)[0]
  np.testing.assert_array_equal(example["image"], sensor[0])
  np.testing.assert_array_equal(example["mask"], sensor[1])
  message = error_of(source_of(turned, mask=encode(sensor[1])).__getitem__, 0)
  assert "`exif_orientation`=False" in message


def test_channels_as_pages():
  planes = np.random.default_rng(1).integers(0, 256, (4, 5, 7), dtype=np.uint8)
  data = io.BytesIO()
  tifffile.imwrite(data, planes, photometric="minisblack")
  example = source_of(data.getvalue(), channels=4, pages="channels")[0]
  np.testing.assert_array_equal(example["image"], np.moveaxis(planes, 0, -1))
