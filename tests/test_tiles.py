"""Windows over an axis: what they read, against np.pad, and what they fill, by counting."""

import dataclasses

import numpy as np
import pytest

from jaxseg import UserError
from jaxseg.models.unet import UNet
from jaxseg.tiles import mirror, split_axis, window_side

PAPER = UNet(num_classes=2, padding="valid")  # five levels: 572 -> 388, 92 px on each side
PADDED = UNet(num_classes=2, widths=(4, 8, 8))


@dataclasses.dataclass(frozen=True)
class Pixelwise:
  """A network that looks at one pixel only."""

  margin = context = 0
  stride = 1

  def input_size(self, size):
    return size


@pytest.mark.parametrize("length", [1, 2, 3, 7])
def test_mirror_is_symmetric_padding_at_any_distance(length):
  expected = np.pad(np.arange(length), 20, mode="symmetric")
  np.testing.assert_array_equal(mirror(np.arange(-20, length + 20), length), expected)


@pytest.mark.parametrize("model, tile", [(PAPER, 572), (PAPER, 300), (PADDED, 100), (PADDED, 64),
                                         (Pixelwise(), 10)])  # fmt: skip
@pytest.mark.parametrize("multiple", [1, 64])
def test_every_pixel_is_filled_once_by_the_output_above_it(model, tile, multiple):
  side = window_side(tile, model)
  for length in (*range(1, 140, 3), 388, 389, 512, 1000):
    spans = split_axis(length, model, side=side, multiple=multiple)
    filled = np.concatenate([np.arange(length)[span.keep] for span in spans])
    np.testing.assert_array_equal(filled, np.arange(length))
    assert len({len(span.read) for span in spans}) == 1
    assert len(spans[0].read) <= tile
    for span in spans:
      assert model.input_size(len(span.read)) == len(span.read)
      output = span.read[model.margin :][: len(span.read) - 2 * model.margin]
      np.testing.assert_array_equal(output[span.crop], np.arange(length)[span.keep])
      origin = span.keep.start - span.crop.start
      assert origin % model.stride == 0
      reach = np.arange(len(span.read)) + origin - model.margin
      np.testing.assert_array_equal(span.read, mirror(reach, length))


def test_padded_windows_have_the_edges_of_the_whole_and_keep_clear_of_others():
  side = window_side(100, PADDED)
  for length in range(1, 400, 7):
    canvas = -(-length // 64) * 64  # where the network pads with zeros
    for span in split_axis(length, PADDED, side=side, multiple=64):
      start = span.keep.start - span.crop.start
      stop = start + len(span.read)
      assert 0 <= start and stop <= canvas
      assert start == 0 or span.crop.start >= PADDED.context
      assert stop == canvas or span.crop.stop <= side - PADDED.context


def test_the_tiles_of_the_paper():
  def keeps(length, tile):
    spans = split_axis(length, PAPER, side=window_side(tile, PAPER), multiple=64)
    return [(span.keep.start, span.keep.stop) for span in spans]

  assert keeps(388, 572) == [(0, 388)]
  # The last window could begin at 512 - 388 = 124 px; pooling asks for a multiple of 16.
  assert keeps(512, 572) == [(0, 128), (128, 512)]
  assert keeps(389, 572) == [(0, 16), (16, 389)]
  assert keeps(388, 587) == [(0, 388)]  # 587 -> 572, the next size that divides
  (span,) = split_axis(388, PAPER, side=572, multiple=64)
  np.testing.assert_array_equal(span.read, np.pad(np.arange(388), 92, mode="symmetric"))


@pytest.mark.parametrize("model, smallest", [
  (PAPER, 204),  # 188 -> 4, 204 -> 20, and 20 is the first that is a stride or more
  (UNet(num_classes=2, padding="valid", widths=(4, 8, 8)), 44),  # 2 * 20 + 4
  (Pixelwise(), 1),
])  # fmt: skip
def test_smallest_tile(model, smallest):
  assert window_side(smallest, model) == smallest
  assert len(split_axis(1000, model, side=smallest)) == -(-1000 // model.stride)
  with pytest.raises(UserError, match=f"^`tile` is {smallest - 1} px.* {smallest} "):
    window_side(smallest - 1, model)
