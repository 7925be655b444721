"""Random augmentation of one example on the device; the caller maps it over the batch.

Everything geometric is one sampling: the image is read by linear interpolation and the labels by
nearest neighbour at the same positions, so that they cannot drift apart.
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from jaxseg import VOID, UserError, photometric
from jaxseg.ops import cubic_matrix, mirror, sample_bilinear, sampling_matrix

BORDERS = ("mirror", "void")
LABEL_FILL = {"mask": VOID, "instances": 0}  # labels beyond the image
# To fold into the key of colours. Numbers 0 and 1 are taken: brightness and contrast split it.
HUE, SATURATION, GRAY, GAMMA, BLUR, NOISE, CUTOUT = range(2, 9)

RGB_ONLY = {"hue": 0.0, "saturation": (1.0, 1.0), "gray": 0.0}  # and the values that do nothing

Labels = Mapping[str, jax.Array]  # {"mask": u8[H,W]} and, if there are any, {"instances": i32[H,W]}

# Your own: name -> function(key, image f32[H,W,D] in [0, 1], labels) -> (image, labels) of one
# example, of the same shapes, types and range. `Augmentation.extra` names those that are used.
AUGMENTATIONS: dict[str, Callable[[jax.Array, jax.Array, Labels], tuple[jax.Array, Labels]]] = {}


@dataclasses.dataclass(frozen=True)
class Augmentation:
  """What to draw. The defaults change nothing.

  Attributes:
    flip: mirror left-right with probability 1/2.
    flip_vertical: mirror top-bottom with probability 1/2.
    transpose: exchange rows and columns with probability 1/2; images have to be square. With both
      flips, all eight flips and right-angle rotations are drawn alike.
    scale: (low, high) zoom factor, drawn log-uniformly; above 1 the content grows and a random
      crop of it is taken, below 1 it shrinks (antialiased unless it is rotated or deformed, too).
    rotation: largest angle, degrees, about the centre and either way.
    shift: largest shift along each axis, px.
    elastic: standard deviation of the displacements of elastic deformation, px; 10 in the U-Net
      paper (section 3.1).
    elastic_grid: number of random displacements along each axis; 3 in the paper.
    border: what comes in from outside of the image: "mirror" continues image and labels by
      reflection, "void" leaves pixels that the loss ignores.
    brightness: largest shift of the grey value, in units of the full range.
    contrast: (low, high) factor on the distance to the image's mean.
    hue: largest rotation of the hue, either way, as a fraction of the circle.
    saturation: (low, high) factor on the distance of a colour to the grey of its luma.
    gray: probability of a grey image, the luma of ITU-R BT.601 in all channels. Hue, saturation
      and this need RGB images and come before brightness and contrast.
    gamma: (low, high) exponent of the values after brightness and contrast, drawn log-uniformly.
    blur: largest sigma of a Gaussian blur, px, drawn uniformly.
    noise: largest standard deviation of Gaussian noise, drawn uniformly, in units of the full
      range; independent in every pixel and channel.
    cutout: side of a hidden square, as a fraction of the shorter side of the image. Its centre is
      any pixel, so it may hang over the edge (DeVries and Taylor 2017), and it shows the mean of
      the image. The mask becomes VOID there: unlike the class of a whole image, the labels of
      pixels that are hidden cannot be told from the rest, and a small object would vanish with its
      label left (French et al. 2020 leave these pixels out of the loss as well). Instances stay,
      so that distances to them remain true.
    extra: keys of AUGMENTATIONS, which follow all others in this order.
  """

  flip: bool = False
  flip_vertical: bool = False
  transpose: bool = False
  scale: tuple[float, float] = (1.0, 1.0)
  rotation: float = 0.0
  shift: float = 0.0
  elastic: float = 0.0
  elastic_grid: int = 3
  border: str = "mirror"
  brightness: float = 0.0
  contrast: tuple[float, float] = (1.0, 1.0)
  hue: float = 0.0
  saturation: tuple[float, float] = (1.0, 1.0)
  gray: float = 0.0
  gamma: tuple[float, float] = (1.0, 1.0)
  blur: float = 0.0
  noise: float = 0.0
  cutout: float = 0.0
  extra: tuple[str, ...] = ()

  def __post_init__(self):
    for name in self.extra:
      if name not in AUGMENTATIONS:
        known = ", ".join(AUGMENTATIONS)
        remedy = f"choose from {known}" if known else "add it to augment.AUGMENTATIONS first"
        raise UserError(f"unknown augmentation {name!r} in `extra`; {remedy}")


def check_channels(config: Augmentation, channels: int) -> None:
  """Raises UserError for an augmentation of colours if images are not RGB."""
  for name, neutral in RGB_ONLY.items():
    value = getattr(config, name)
    if channels != 3 and value != neutral:
      raise UserError(
        f"`{name}` is {value}, but needs RGB images, and these have {channels} "
        f"channel{'s' * (channels > 1)}; set it to {neutral}"
      )


def augment(
  key: jax.Array, image: jax.Array, labels: Labels, config: Augmentation
) -> tuple[jax.Array, Labels]:
  """One random view of an example.

  Args:
    key: of this example alone.
    image: f32[H,W,D], in [0, 1] unless it is standardised.
    labels: {"mask": u8[H,W]} and, if there are any, {"instances": i32[H,W]}.
  Returns:
    f32[H,W,D] in the smallest range that holds 0, 1 and the image that came in; and the labels; the
    same sizes and types.
  Raises:
    UserError: an augmentation of colours gets an image that is not RGB, or an extra augmentation
      changes shapes or types.
  """
  check_channels(config, image.shape[-1])
  limits = jnp.minimum(image.min(), 0.0), jnp.maximum(image.max(), 1.0)
  geometry, colour = jax.random.split(key)
  height, width = shape = image.shape[:2]
  *window_keys, turn_key, angle_key, elastic_key = jax.random.split(geometry, 9)
  rows, cols, zoom = _draw_window(window_keys, shape, config)
  if config.rotation or config.elastic:
    rows, cols = _draw_warp(angle_key, elastic_key, rows, cols, config)
  if config.border == "mirror":
    rows, cols = mirror(rows, height), mirror(cols, width)
  if rows.ndim == 1:
    by_row = sampling_matrix(rows, height, 1 / zoom)
    by_col = sampling_matrix(cols, width, 1 / zoom)
    image = jnp.einsum("ih,jw,hwd->ijd", by_row, by_col, image, precision="highest")
    rows, cols = rows[:, None], cols[None, :]
  else:
    image = sample_bilinear(image, rows, cols)
  labels = _sample_labels(labels, rows, cols)
  if config.transpose:
    turn = jax.random.bernoulli(turn_key)
    image, labels = jax.tree.map(lambda x: jnp.where(turn, x.swapaxes(0, 1), x), (image, labels))
  image = _change_colours(colour, image, config)
  image = _shift_grey_values(colour, image, limits, config)
  image, labels = _degrade(colour, image, labels, limits, config)
  for i, name in enumerate(config.extra):
    # Numbers 0 and 1 are `geometry` and `colour`: a split is made of them.
    image, labels = _extra(name, jax.random.fold_in(key, 2 + i), image, labels)
  return image, labels


def _extra(name, key, image, labels):
  before = {"image": image, **labels}
  match AUGMENTATIONS[name](key, image, labels):
    case (image, Mapping() as labels):
      pass
    case other:
      parts = other if isinstance(other, tuple) else (other,)
      kinds = ", ".join(type(part).__name__ for part in parts)
      raise UserError(f"augmentation {name!r} returns ({kinds}), not (image, labels)")
  before, after = (
    {k: f"{x.dtype}{list(x.shape)}" for k, x in tree.items()}
    for tree in (before, {"image": image, **labels})
  )
  if before != after:
    raise UserError(f"augmentation {name!r} makes {after} of {before}; keep shapes and types")
  return image, labels


def _draw_window(keys, shape, config):
  """Source positions of the output's rows and columns, f32[H] and f32[W] px, and the zoom."""
  flip_key, scale_key, *axis_keys, shift_key, vertical_key = keys
  low, high = jnp.log(jnp.array(config.scale))
  zoom = jnp.exp(jax.random.uniform(scale_key, (), minval=low, maxval=high))
  shifts = config.shift * jax.random.uniform(shift_key, (2,), minval=-1.0, maxval=1.0)
  axes = []
  for axis_key, size, shift in zip(axis_keys, shape, shifts, strict=True):
    # The window is `size / zoom` long and lies anywhere inside the image, or, when it is longer,
    # anywhere around it.
    start = jax.random.uniform(axis_key) * (size - size / zoom) + shift
    axes.append(start + (jnp.arange(size) + 0.5) / zoom - 0.5)
  rows, cols = axes
  if config.flip:
    cols = jnp.where(jax.random.bernoulli(flip_key), cols[::-1], cols)
  if config.flip_vertical:
    rows = jnp.where(jax.random.bernoulli(vertical_key), rows[::-1], rows)
  return rows, cols, zoom


def _draw_warp(angle_key, elastic_key, rows, cols, config):
  """Window, f32[H] and f32[W], -> rotated and deformed positions, f32[H,W] each."""
  angle = jnp.deg2rad(config.rotation) * jax.random.uniform(angle_key, (), minval=-1.0)
  centre_row, centre_col = rows.mean(), cols.mean()
  down, right = rows[:, None] - centre_row, cols[None, :] - centre_col
  displacement = elastic_field(
    elastic_key, (len(rows), len(cols)), config.elastic, config.elastic_grid
  )
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  return (
    centre_row + cos * down - sin * right + displacement[0],
    centre_col + sin * down + cos * right + displacement[1],
  )


def elastic_field(key: jax.Array, shape: tuple[int, int], sigma: float, grid: int = 3) -> jax.Array:
  """Smooth random displacements (U-Net, section 3.1).

  Normal displacements at the nodes of a coarse grid, whose corners are those of the image, and
  bicubic interpolation between them.

  Args:
    shape: (H, W).  sigma: standard deviation of either component at the nodes, px.
    grid: nodes along each axis, at least 2.
  Returns:
    f32[2,H,W] displacements of rows and of columns, px.
  """
  nodes = sigma * jax.random.normal(key, (2, grid, grid))
  by_row, by_col = (cubic_matrix(jnp.linspace(0, grid - 1, size), grid) for size in shape)
  return jnp.einsum("ih,jw,dhw->dij", by_row, by_col, nodes, precision="highest")


def _sample_labels(labels, rows, cols):
  """Labels at the nearest pixel; VOID or no instance outside."""
  rows, cols = (jnp.floor(x + 0.5).astype(jnp.int32) for x in (rows, cols))

  def sample(name, x):
    height, width = x.shape
    inside = (rows >= 0) & (rows < height) & (cols >= 0) & (cols < width)
    i, j = jnp.clip(rows, 0, height - 1), jnp.clip(cols, 0, width - 1)
    taken = jnp.take(x.reshape(-1), i * width + j, axis=0, mode="clip")
    return jnp.where(inside, taken, jnp.array(LABEL_FILL[name], x.dtype))

  return {name: sample(name, x) for name, x in labels.items()}


def _change_colours(key, image, config):
  """Hue, saturation and grey, as one matrix; not clipped."""
  if all(getattr(config, name) == neutral for name, neutral in RGB_ONLY.items()):
    return image
  hue_key, factor_key, gray_key = (jax.random.fold_in(key, i) for i in (HUE, SATURATION, GRAY))
  turn = config.hue * jax.random.uniform(hue_key, (), minval=-1.0)
  low, high = config.saturation
  factor = jax.random.uniform(factor_key, (), minval=low, maxval=high)
  factor = jnp.where(jax.random.bernoulli(gray_key, config.gray), 0.0, factor)
  matrix = photometric.saturation_matrix(factor)
  if config.hue:
    matrix = jnp.matmul(matrix, photometric.hue_matrix(turn), precision="highest")
  return photometric.apply_matrix(matrix, image)


def _shift_grey_values(key, image, limits, config):
  shift_key, factor_key = jax.random.split(key)
  low, high = config.contrast
  factor = jax.random.uniform(factor_key, (), minval=low, maxval=high)
  shift = config.brightness * jax.random.uniform(shift_key, (), minval=-1.0, maxval=1.0)
  # (image - mean) * factor + mean, in the form that is exact at a factor of 1.
  return jnp.clip(image * factor + image.mean() * (1 - factor) + shift, *limits)


def _degrade(key, image, labels, limits, config):
  """Gamma, blur, noise and cutout."""
  if config.gamma != (1.0, 1.0):
    low, high = jnp.log(jnp.array(config.gamma))
    draw = jax.random.uniform(jax.random.fold_in(key, GAMMA), (), minval=low, maxval=high)
    image = photometric.gamma(image, jnp.exp(draw), *limits)
  if config.blur:
    sigma = config.blur * jax.random.uniform(jax.random.fold_in(key, BLUR))
    image = photometric.gaussian_blur(image, sigma)
  if config.noise:
    std_key, noise_key = jax.random.split(jax.random.fold_in(key, NOISE))
    std = config.noise * jax.random.uniform(std_key)
    image = jnp.clip(image + std * jax.random.normal(noise_key, image.shape), *limits)
  if config.cutout:
    shape = image.shape[:2]
    side = round(config.cutout * min(shape))
    centre = jax.random.randint(jax.random.fold_in(key, CUTOUT), (2,), 0, jnp.array(shape))
    hidden = photometric.square(centre, side, shape)
    image = photometric.fill(image, hidden)
    labels = {**labels, "mask": jnp.where(hidden, jnp.uint8(VOID), labels["mask"])}
  return image, labels
