"""What files declare: orientation against Pillow, sizes that cannot be, and words."""

import numpy as np
import pytest
from PIL import Image, ImageOps
from tiny import error_of

from jaxseg.data.raster import Header, check_size, decoding, upright


@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright_equals_pillow(orientation):
  array = np.random.default_rng(0).integers(0, 256, (3, 5, 3), dtype=np.uint8)
  picture = Image.fromarray(array)
  picture.getexif()[0x0112] = orientation
  expected = np.asarray(ImageOps.exif_transpose(picture))
  np.testing.assert_array_equal(upright(array, orientation), expected)


@pytest.mark.parametrize(
  "shape, bits, num_bytes, words",
  [
    ((0, 5, 3), 8, None, "no pixels: 5 x 0 px"),
    ((1 << 16, (1 << 15) + 1, 1), 8, None, "exceeds the limit of 2,147,483,648 px"),
    ((20_000, 20_000, 3), 16, 1000, "20,000 x 20,000 px of 3 x 16 bits in 1,000 bytes: no picture"),
  ],
)
def test_sizes_that_cannot_be(shape, bits, num_bytes, words):
  with pytest.raises(ValueError, match=words):
    check_size(shape, bits, num_bytes)


def test_sizes_that_can_be():
  check_size((1 << 16, 1 << 15, 1), 8, None)
  check_size((4096, 4096, 4), 8, 1)  # 64 MiB, whatever the file
  check_size((20_000, 20_000, 3), 16, 240_000)  # 2.4e9 bytes, 10,000 times those of the file


@pytest.mark.parametrize(
  "names, bits, dtype, text",
  [
    (("grey",), 16, "uint16", "PNG grey 16 bit"),
    (("white",), 1, "uint8", "PNG grey 1 bit"),
    (("index",), 8, "uint8", "PNG palette 8 bit"),
    (("grey", "A"), 8, "uint8", "PNG LA 8 bit"),
    (tuple("RGB"), 32, "float32", "PNG RGB 32 bit float"),
    ((*"RGB", "band", "band"), 16, "int16", "PNG RGB + 2 bands 16 bit signed"),
    (("band",) * 12, 16, "uint16", "PNG 12 bands 16 bit"),
  ],
)
def test_words_about_samples(names, bits, dtype, text):
  assert Header("PNG", (1, 1, len(names)), np.dtype(dtype), names, bits).text == text


def test_whatever_a_decoder_raises_names_the_file():
  def decode(error):
    with decoding("a.png"):
      raise error

  message = error_of(decode, RuntimeError("bad <x object at 0x7f00>\nsecond line"))
  assert message == "a.png: cannot be decoded (bad <x>)"
  assert error_of(decode, KeyError()) == "a.png: cannot be decoded (KeyError)"
