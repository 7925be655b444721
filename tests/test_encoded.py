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

from jaxseg import DataWarning, UserError
from jaxseg.data.decode import ImageFormat, decode_image
from jaxseg.data.encoded import Encoded, Notes, common_dtype, read_as_trained, size_fault
from jaxseg.data.labels import LabelMap
from jaxseg.data.raster import upright

LABELS = LabelMap({0: 0, 1: 1})
MASK = encode(np.zeros((5, 7), np.uint8))


def pages(*arrays):
  buffer = io.BytesIO()
  first, *rest = [Image.fromarray(array) for array in arrays]
  first.save(buffer, "TIFF", save_all=True, append_images=rest)
  return buffer.getvalue()


def source_of(*images, channels=3, mask=MASK, shrink_to=0, **options):
  records = [{"image": image, "mask": mask, "name": f"{i}.jpg"} for i, image in enumerate(images)]
  return Encoded(records, ImageFormat(channels, **options), LABELS, shrink_to=shrink_to)


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


def test_remedies_of_a_trained_network():
  """It cannot see other bands than it was trained on, so no key is offered."""

  def read(data, fmt):
    with read_as_trained(fmt.channels, fmt.value_range):
      decode_image(data, "a.tif", fmt)

  tail = "; this network takes "
  message = error_of(read, encode(GREY), ImageFormat(4))
  assert message == f"a.tif: has 1 bands, but channels is 4{tail}4 channels: convert the image"
  message = error_of(read, encode(RGB), ImageFormat(1, bands=(5,)))
  assert message == f"a.tif: has 3 bands, but bands is (5,){tail}1 channel: convert the image"
  message = error_of(read, tiff(np.zeros((2, 3), np.int16)), ImageFormat(1))
  tail += "images of 8 or 16 bits: rescale this one to uint8 or uint16"
  assert message == f"a.tif: int16 values from 0 to 0 have no full range{tail}"
  message = error_of(read, tiff(np.array([[-1.5, 2.0]], np.float32)), ImageFormat(3))
  assert message == f"a.tif: float32 values from -1.5 to 2 have no full range{tail}"
  fmt = ImageFormat(2, value_range=((0, 1), (0, 9)))
  assert "2 channels from ((0, 1), (0, 9)): convert" in error_of(read, encode(GREY), fmt)
  assert error_of(read, b"", ImageFormat(1)) == error_of(decode_image, b"", "a.tif", ImageFormat(1))


def test_a_mask_beside_a_turned_image_can_still_be_turned():
  buffer = io.BytesIO()
  exif = Image.Exif()
  exif[0x0112] = 6
  Image.fromarray(RGB).save(buffer, "JPEG", exif=exif)
  turned = np.rot90(RGB)
  fault = size_fault(turned.shape[:2], RGB.shape[:2], buffer.getvalue(), ImageFormat(3))
  assert "set `exif_orientation`=False, or turn the mask" in fault

  def read():
    with read_as_trained(3, ()):
      raise UserError(f"a.jpg: {fault}")

  message = error_of(read)
  assert message.endswith("as if not turned: turn the mask") and "False" not in message


def test_notes_of_a_trained_network():
  text = "3 of 4 bands are used: set `channels`=4, or `bands`"
  with pytest.warns(DataWarning) as said:
    Notes().warn("a", [text])
    Notes(is_trained=True).warn("a", [text, "alpha is not used"])
  assert [str(warning.message) for warning in said] == [
    f"a: {text} (said once)",
    "a: 3 of 4 bands are used (said once)",
    "a: alpha is not used (said once)",
  ]


def planes(y, x):
  """A picture without curvature, by the formula of its pixels: smaller versions follow from it."""
  return np.stack([3 * x + 20, 4 * y + 9, x + 2 * y + 30], -1)


def photo(orientation=1, mode="RGB", **options):
  """A JPEG of 61 x 45 px that is `planes` when it is upright; sides are odd."""
  stored = upright(planes(*np.mgrid[:45, :61]), {6: 8, 8: 6}.get(orientation, orientation))
  exif = Image.Exif()
  exif[0x0112] = orientation
  picture = Image.fromarray(np.ascontiguousarray(stored).astype(np.uint8)).convert(mode)
  return encode(picture, "JPEG", quality=100, subsampling=0, exif=exif, **options)


@pytest.mark.parametrize("size", [7, 14])  # decoded at a quarter and at a half
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("orientation", [*range(1, 9)])
def test_jpegs_at_a_reduced_scale(orientation, mode, size):
  """Each pixel shows what is in its middle; the mask keeps its size."""
  mask = (np.mgrid[:45, :61][1] > 20).astype(np.uint8)
  data = photo(orientation, mode, progressive=orientation % 2 == 0)
  example = source_of(data, mask=encode(mask), shrink_to=size)[0]
  middle = np.arange(size) + 0.5
  y, x = np.meshgrid(middle * 45 / size - 0.5, middle * 61 / size - 0.5, indexing="ij")
  expected = planes(y, x)
  if mode == "L":
    expected = np.repeat(expected @ [[0.299], [0.587], [0.114]], 3, axis=-1)
  assert (example["image"].shape, example["image"].dtype) == ((size, size, 3), np.uint8)
  inside = np.s_[1:-1, 1:-1]
  np.testing.assert_allclose(example["image"][inside], expected[inside], atol=2)
  np.testing.assert_array_equal(example["mask"], mask)


def test_what_a_reduced_scale_leaves_as_it_is():
  mask = encode(np.zeros((45, 61), np.uint8))
  for data, size in ((photo(), 23), (encode(Image.open(io.BytesIO(photo()))), 14)):  # half; a PNG
    found, expected = (source_of(data, mask=mask, shrink_to=x)[0]["image"] for x in (size, 0))
    np.testing.assert_array_equal(found, expected)
  # Sizes are compared, and named, as they are in the files.
  wrong = encode(np.zeros((14, 14), np.uint8))
  for source in (source_of(photo(6), mask=wrong, shrink_to=x) for x in (14, 0)):
    assert "the image is 61x45 px, but its mask is 14x14 px" in error_of(source.__getitem__, 0)
  turned = source_of(photo(6), mask=encode(np.zeros((61, 45), np.uint8)), shrink_to=14)
  assert "turned by its EXIF orientation 6" in error_of(turned.__getitem__, 0)
  # Depth and black and white as ever.
  image = source_of(photo(), mask=mask, shrink_to=14, dtype="uint16")[0]["image"]
  small = source_of(photo(), mask=mask, shrink_to=14)[0]["image"]
  np.testing.assert_array_equal(image, small.astype(np.uint16) * 257)
