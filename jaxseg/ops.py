"""Array operations that segmentation needs and that XLA does not run fast by itself.

All are pure functions of arrays, differentiable, and work under `jit`, `vmap` and sharding. The
forms were chosen by measurement on CPU; `experiments/convolution_forms` has the figures.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxseg.convolution import pixel_pairs
from jaxseg.platforms import by_platform


def normalize(image: jax.Array, value_range: Sequence = (), clip: bool = True) -> jax.Array:
  """Stored values -> f32 of the same shape, black 0 and white 1.

  Args:
    image: u8, u16 or f32 [...,D].
    value_range: (low, high) of black and white, or D of these pairs; () for the full range of the
      type; f32 is then passed on as it is, and has to be in [0, 1].
    clip: with a value_range, cuts values beyond black and white off.
  """
  x = image.astype(jnp.float32)
  if not value_range:
    return x if image.dtype == jnp.float32 else x / float(jnp.iinfo(image.dtype).max)
  low, high = np.array(value_range, np.float64).T
  x = (x - low.astype(np.float32)) / (high - low).astype(np.float32)
  return jnp.clip(x, 0.0, 1.0) if clip else x


@jax.custom_jvp
def relu(x: jax.Array) -> jax.Array:
  """max(x, 0), whose gradient needs the result and not the argument.

  The argument need not be kept: on a GPU, cuDNN adds the bias and takes the maximum while it
  convolves.
  """
  return jnp.maximum(x, 0)


@relu.defjvp
def _relu_jvp(primals, tangents):
  y = relu(*primals)
  # `y > 0` would be simplified to `x > 0`, which needs the argument again.
  return y, jnp.where(y != 0, tangents[0], 0)


def max_pool_2x2(x: jax.Array) -> jax.Array:
  """Largest value of each 2x2 window.  [B,H,W,D] -> [B,H//2,W//2,D]; H and W even.

  Maxima of slices, because the gradient of `reduce_window` (select-and-scatter) is slow and leaves
  ties to the backend. Here the tie rule is fixed: each of three pairwise maxima, of columns before
  that of the row, gives half its gradient to either side of a tie. The slices are of channels of
  pairs of pixels, see `convolution.conv_3x3`.
  """
  if x.shape[1] % 2 or x.shape[2] % 2:
    raise ValueError(f"max_pool_2x2 needs even height and width, got {x.shape[1]}x{x.shape[2]}")
  in_one_pass = dict.fromkeys(("cpu", "cuda"), _max_pool_gradient)
  gradients = in_one_pass | {"tpu": _max_pool_gradient_by_rows}
  return by_platform(_max_of_slices, gradients=gradients)(x)


def _max_of_slices(x):
  c = x.shape[-1]
  x = pixel_pairs(x)
  x = jnp.maximum(x[:, ::2], x[:, 1::2])
  return jnp.maximum(x[..., :c], x[..., c:])


def _share(x, other):
  """What x gets of a gradient: all if it is larger, half if both are equal."""
  return jnp.where(x > other, 1.0, jnp.where(x == other, 0.5, 0.0)).astype(x.dtype)


def _max_pool_gradient(args, g):
  """The gradient of `_max_of_slices` in one pass over its argument."""
  (x,) = args
  b, h, w, c = x.shape
  x = x.reshape(b, h // 2, 2, w // 2, 2, c)
  below = jnp.flip(x, 2)
  column = jnp.maximum(x, below)
  shares = _share(x, below) * _share(column, jnp.flip(column, 4))
  return ((shares * g[:, :, None, :, None]).reshape(b, h, w, c),)


def _max_pool_gradient_by_rows(args, g):
  """The same without another order of axes, for TPUs."""
  (x,) = args
  c = x.shape[-1]
  pairs = pixel_pairs(x)
  upper, lower = pairs[:, ::2], pairs[:, 1::2]
  columns = jnp.maximum(upper, lower)
  left, right = columns[..., :c], columns[..., c:]
  g = jnp.concatenate([g * _share(left, right), g * _share(right, left)], axis=-1)

  def rows(y, above):
    return lax.pad(y, jnp.zeros((), y.dtype), ((0, 0, 0), (above, 1 - above, 1), *[(0, 0, 0)] * 2))

  dx = rows(g * _share(upper, lower), 0) + rows(g * _share(lower, upper), 1)
  return (dx.reshape(x.shape),)


def max_pool_3x3(x: jax.Array) -> jax.Array:
  """Largest value of 3x3 windows, stride 2, as ResNet.  [B,H,W,D] -> [B,ceil(H/2),ceil(W/2),D]

  The first window is centred on the first pixel; pixels outside are ignored. Slices of channels
  and ties as in `max_pool_2x2`.
  """
  b, h, w, c = x.shape
  x = jnp.pad(x, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)), constant_values=-jnp.inf)
  x = x.reshape(b, (h + 1) // 2, 2, (w + 1) // 2, 2 * c)
  x = _max_with_last(x[:, :, 0], x[:, :, 1], axis=1)
  return _max_with_last(x[..., :c], x[..., c:], axis=2)


def _max_with_last(even, odd, axis):
  """Largest of two arrays and, from the second place along `axis` on, of `odd` one place before."""
  pads = [(1, -1, 0) if i == axis else (0, 0, 0) for i in range(even.ndim)]
  last = lax.pad(odd, jnp.array(-jnp.inf, odd.dtype), pads)
  return jnp.maximum(jnp.maximum(last, even), odd)


def space_to_depth(x: jax.Array, block: int) -> jax.Array:
  """Blocks of pixels as channels.  [B,H,W,C] -> [B,H/block,W/block,block^2 C]"""
  b, h, w, c = x.shape
  x = x.reshape(b, h // block, block, w // block, block, c)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h // block, w // block, block**2 * c)


def sampling_matrix(positions: jax.Array, size: int, width: float | jax.Array = 1.0) -> jax.Array:
  """Rows of linear-interpolation weights for sampling one axis.

  Args:
    positions: f32[n], where to sample, in px of the source (centre of the first pixel = 0).
      Positions outside take the nearest edge pixel.
    size: length of the source axis. width: half width of the triangle in px, >= 1; the sampling
      step, when it is larger than 1, so that shrinking does not alias.
  Returns:
    f32[n,size], rows sum to 1.
  """
  positions = jnp.clip(positions, 0, size - 1)
  distance = jnp.abs(positions[:, None] - jnp.arange(size))
  weight = jnp.maximum(0.0, 1.0 - distance / jnp.maximum(width, 1.0))
  return weight / weight.sum(axis=1, keepdims=True)


def resizing_matrix(
  new: int,
  old: int,
  corners: bool = False,
  *,
  factor: float = 1.0,
  offset: float = 0.0,
  coarse: int | None = None,
) -> jax.Array:
  """Antialiased linear interpolation of an axis, pixel centres at half positions.  f32[new,old]

  Args:
    corners: the centres of the first and the last pixel stay where they are.
    factor, offset: the axis is sampled as if it were that of a map `factor` times as coarse, whose
      position x is x * factor + offset here.
    coarse: length of that map; old / factor if None.
  """
  length = jnp.float32(old) / factor if coarse is None else jnp.float32(coarse)
  if corners:
    step = (length - 1) / max(new - 1, 1)
    positions = jnp.arange(new) * step
  else:
    step = length / new
    positions = (jnp.arange(new) + 0.5) * step - 0.5
  return sampling_matrix(positions * factor + offset, old, step * factor)


def double_nearest(x: jax.Array, size: Sequence[int]) -> jax.Array:
  """Nearest-neighbour doubling to a size of 2n - 1, 2n or 2n + 1.  [B,h,w,C] -> [B,H,W,C]

  As PyTorch's `interpolate`, which takes pixel floor(i n / N) of n for i of N: for 2n + 1 the first
  one three times.
  """
  x = x.repeat(2, axis=1).repeat(2, axis=2)
  for axis, n in zip((1, 2), size, strict=True):
    if n - x.shape[axis] == 1:
      x = jnp.pad(x, [(int(i == axis), 0) for i in range(4)], mode="edge")
  return x[:, : size[0], : size[1]]


def resize(
  x: jax.Array,
  size: Sequence[int],
  corners: bool = False,
  *,
  factor: float = 1.0,
  offset: float = 0.0,
  coarse: Sequence[int | None] = (None, None),
) -> jax.Array:
  """Bilinear interpolation to another size (H, W), antialiased.  [B,h,w,C] -> [B,H,W,C]

  Equals `jax.image.resize`, as two matrix products, which export to ONNX. For the options see
  `resizing_matrix`; coarse: (rows, columns).
  """
  rows, cols = (
    resizing_matrix(new, old, corners, factor=factor, offset=offset, coarse=n).astype(x.dtype)
    for new, old, n in zip(size, x.shape[1:3], coarse, strict=True)
  )
  product = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)
  return product("lk,bikc->bilc", cols, product("ij,bjkc->bikc", rows, x))


def cubic_matrix(positions: jax.Array, size: int) -> jax.Array:
  """Rows of bicubic-interpolation weights for sampling one axis (Keys 1981, a = -1/2).

  Args:
    positions: f32[n], in px of the source; beyond the ends the edge pixel repeats.
    size: length of the source axis.
  Returns:
    f32[n,size], rows sum to 1.
  """
  low = jnp.floor(positions).astype(jnp.int32)
  weight = 0
  for tap in range(-1, 3):
    d = jnp.abs(positions - (low + tap))
    near = (1.5 * d - 2.5) * d**2 + 1
    far = ((-0.5 * d + 2.5) * d - 4) * d + 2
    value = jnp.where(d <= 1, near, jnp.where(d < 2, far, 0.0))
    weight += value[:, None] * jax.nn.one_hot(jnp.clip(low + tap, 0, size - 1), size)
  return weight


def mirror(positions: jax.Array, size: int) -> jax.Array:
  """Positions reflected at the outer edges of the first and last pixel, into [0, size - 1].

  The edge pixel appears twice, as in numpy's "symmetric" padding.
  """
  turned = jnp.mod(positions + 0.5, 2 * size)
  return jnp.clip(size - jnp.abs(turned - size) - 0.5, 0, size - 1)


def sample_bilinear(image: jax.Array, rows: jax.Array, cols: jax.Array) -> jax.Array:
  """Bilinear interpolation at any positions.

  Args:
    image: f32[H,W,D].  rows, cols: f32[h,w], px; positions outside take the nearest edge pixel.
  Returns:
    f32[h,w,D]
  """
  height, width, d = image.shape
  rows, cols = jnp.clip(rows, 0, height - 1), jnp.clip(cols, 0, width - 1)
  top, left = jnp.floor(rows).astype(jnp.int32), jnp.floor(cols).astype(jnp.int32)
  down, right = (rows - top)[..., None], (cols - left)[..., None]
  pixels = image.reshape(-1, d)

  def take(i, j):
    i, j = jnp.minimum(i, height - 1), jnp.minimum(j, width - 1)
    return jnp.take(pixels, i * width + j, axis=0, mode="clip")

  upper = take(top, left) * (1 - right) + take(top, left + 1) * right
  lower = take(top + 1, left) * (1 - right) + take(top + 1, left + 1) * right
  return upper * (1 - down) + lower * down


def pad_to_multiple(image: jax.Array, multiple: int) -> jax.Array:
  """Mirrors the lower and right edges until height and width divide.  [B,H,W,D] -> same."""
  pads = [(0, -n % multiple) for n in image.shape[1:3]]
  return jnp.pad(image, ((0, 0), *pads, (0, 0)), mode="symmetric")


def center_crop(x: jax.Array, size: Sequence[int]) -> jax.Array:
  """The middle of an image or a feature map.  [B,H,W,...] -> [B,h,w,...] for size (h, w).

  All crops of U-Net (Ronneberger et al. 2015) remove an even number of pixels; an odd one would go
  at the lower and right edge.
  """
  top, left = ((n - m) // 2 for n, m in zip(x.shape[1:3], size, strict=True))
  if x.ndim != 4 or tuple(size) == x.shape[1:3]:
    return x[:, top : top + size[0], left : left + size[1]]
  b, _, w, c = x.shape
  num = 1 if left % 2 or w % 2 or size[1] % 2 else 2  # see `convolution.conv_3x3`
  x = x.reshape(b, -1, w // num, num * c)
  x = x[:, top : top + size[0], left // num : (left + size[1]) // num]
  # XLA would merge the crop into a convolution; for 88 px, the largest crop of the paper, the
  # compiler for TPU ends its process over that.
  return lax.optimization_barrier(x).reshape(b, *size, c)
