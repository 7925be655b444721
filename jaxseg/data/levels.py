"""Whether black and white suit the images: what a chosen value_range cuts off or makes flat."""

from collections.abc import Sequence

import numpy as np

from jaxseg.data.decode import DatasetInfo, black_and_white

MAX_VALUES = 1 << 16  # of a channel in an image
CLIPPED = 0.5  # share of the pixels beyond black or white that is worth a warning
FLAT = 0.02  # of the range, from the 1st to the 99th percentile
DARK = 1 / 8  # of white; if no image exceeds this, 13 bits or fewer have been read as 16


def levels(image: np.ndarray, value_range: Sequence) -> np.ndarray:
  """Where the values of an image [H,W,D] lie in a value_range, by up to MAX_VALUES of a channel.

  Returns:
    f64[D,4]: the shares of the pixels below black and above white, and the 1st and 99th percentile
    of what the network sees, where black is 0 and white is 1
  """
  step = max(1, int(np.ceil(np.sqrt(image[..., 0].size / MAX_VALUES))))
  pixels = image[::step, ::step].reshape(-1, image.shape[-1]).astype(np.float64)
  low, high = black_and_white(value_range, image.dtype)
  x = (pixels - low) / (high - low)
  return np.stack([(x < 0).mean(0), (x > 1).mean(0), *np.percentile(x.clip(0, 1), (1, 99), 0)], 1)


def range_fault(found: Sequence[np.ndarray]) -> str:
  """The problem if a value_range leaves a set of images saturated or flat; "" if it does not.

  Args:
    found: `levels` of each image.
  """
  if not found:
    return ""
  below, above, low, high = np.moveaxis(np.stack(found), 2, 0)  # each [N,D]
  faults = []
  for channel in range(below.shape[1]):
    of = f" of channel {channel}" if below.shape[1] > 1 else ""
    shares = (below[:, channel].mean(), "black"), (above[:, channel].mean(), "white")
    span = high[:, channel].max() - low[:, channel].min()
    share, side = max(shares)
    if share > CLIPPED:
      faults.append(f"{share:.0%} of the pixels{of} are beyond {side}")
    elif span < FLAT:
      faults.append(f"98% of the pixels{of} lie within {span:.1%} of the range")
  if not faults:
    return ""
  return (
    f"{'; '.join(faults)}: correct `value_range`, the stored values of black and white, or leave "
    "it empty and set `normalization`=percentiles"
  )


def depth_notes(dtype: np.dtype, brightest: float, info: DatasetInfo) -> list[str]:
  """A note if an image of 16 bits is dark to a network that was trained on 8; else none.

  Args:
    dtype, brightest: of the image, and its largest value.
    info: of what the network was trained on.
  """
  is_deep = dtype == np.uint16 and info.dtype == "uint8" and not info.value_range
  if not is_deep or not 0 < brightest < DARK * 65535:
    return []
  return ["its 16 bits stay below 1/8 of white, almost black to a network trained on 8 bits: "
          "rescale it, so that white is 65535"]  # fmt: skip
