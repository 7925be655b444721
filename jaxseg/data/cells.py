"""A generated microscopy data set: clusters of touching cells, as in phase contrast.

It needs no download and has what makes cell images hard: neighbours separated by a faint line
of one or two pixels (the case for the U-Net border weight, Ronneberger et al. 2015), and grey
values that cells and background share, so that only texture, rims and shape tell them apart.

All arithmetic is float64: processors differ in the last bits of sums and exponentials, and in
float32 these bits would now and then change a byte of an image.
"""

import numpy as np
from scipy import ndimage, spatial, special

MIN_SIZE = 16  # px, smallest image side
RADII = (9.0, 16.0)  # px, mean radius of a cell
MIN_AREA = 30  # px, smaller pieces (left by the image border or by neighbours) are dropped
OUTLINE = (0.12, 0.06, 0.04, 0.03)  # rms amplitude / radius of the 2nd..5th Fourier term
REACH = 1.5  # largest distance of an outline from the centre / mean radius
SPACING = 0.74  # centre distance / sum of radii, at least; below 1, so that neighbours touch
CLUSTERED = 0.64  # fraction of the plane that clusters cover
CLUSTER_SCALE = 20.0  # px


def generate_cells(key: tuple[int, ...], height: int, width: int) -> dict[str, np.ndarray]:
  """Draws one grey image of touching cells with its label maps.

  Cell size and density are in px and do not depend on the size of the image; cells are cut by
  its borders. A line of background, one or two pixels wide, separates cells that touch, so the
  4-connected components of `mask` are the instances (by 8 neighbours, some cells would merge).

  Args:
    key: non-negative integers such as (seed, split, index); the same key and size give the same
      bytes. Use keys of one length: numpy treats (1,) and (1, 0) as the same seed.
    height, width: size in px, each at least 16.
  Returns:
    {"image": u8[H,W,1], "mask": u8[H,W], 0 = background, 1 = cell,
     "instances": i32[H,W], 0 = background, 1..n = one id per cell; a small image may have none}
  Raises:
    ValueError: the image is too small.
  """
  if min(height, width) < MIN_SIZE:
    raise ValueError(f"height x width is {height}x{width} px; use at least {MIN_SIZE}x{MIN_SIZE}")
  rng = np.random.default_rng(key)
  centres, radii = _place(rng, height, width)
  owner, distance = _assign_pixels(rng, centres, radii, height, width)
  instances = _separate(rng, owner)
  mask = (instances > 0).astype(np.uint8)
  image = _render(rng, mask, owner, distance, centres, radii)
  return {"image": image[..., None], "mask": mask, "instances": instances}


def _noise(rng, height, width, scale):
  """Gaussian noise f64[H,W], variance 1, correlation about exp(-d^2 / (2 scale^2)), in px."""

  def basis(size):
    num_knots = int(np.ceil(size / scale)) + 3
    offset = np.arange(size)[:, None] / scale + 1 - np.arange(num_knots)
    weights = np.exp(-(offset**2))
    return weights / np.linalg.norm(weights, axis=1, keepdims=True)

  rows, columns = basis(height), basis(width)
  # Two thin matrix products: unlike a Gaussian filter, no slower for a large scale.
  knots = rng.standard_normal((rows.shape[1], columns.shape[1]))
  return rows @ knots @ columns.T


def _place(rng, height, width):
  """Cell centres f64[n,2] (y, x) in px, some outside the image, and radii f64[n] in px."""
  margin = int(REACH * RADII[1])  # cells centred this far outside can still reach in
  size = np.array([height + 2 * margin, width + 2 * margin])
  num_tries = int(0.02 * size.prod())  # several times what fits: clusters come out packed
  centres = rng.uniform(0, size, (num_tries, 2))
  radii = rng.uniform(*RADII, num_tries)

  richness = _noise(rng, *size, CLUSTER_SCALE)[tuple(centres.astype(int).T)]
  # A fixed level: a quantile within the image would make density depend on the image's size.
  inside = richness > special.ndtri(1 - CLUSTERED)
  centres, radii = centres[inside], radii[inside]

  tree = spatial.cKDTree(centres)
  pairs = np.sort(tree.query_pairs(2 * SPACING * RADII[1], output_type="ndarray"), axis=1)
  near = np.linalg.norm(centres[pairs[:, 0]] - centres[pairs[:, 1]], axis=1)
  clashes = pairs[near < SPACING * radii[pairs].sum(axis=1)]
  kept = np.ones(len(centres), bool)
  for i, j in clashes[np.argsort(clashes[:, 1])].tolist():
    if kept[i]:  # i < j, and all pairs that could drop i came before
      kept[j] = False
  return centres[kept] - margin, radii[kept]


def _assign_pixels(rng, centres, radii, height, width):
  """Gives each pixel to the cell with the smallest normalised distance.

  Returns:
    owner: i32[H,W], 0 = none, else 1 + index of the cell.
    distance: f64[H,W], distance from its centre / radius of its outline in that direction; at
      most 1 inside cells, and 1 in the background.
  """
  terms = rng.standard_normal((len(radii), 2, len(OUTLINE))) * np.array(OUTLINE) / np.sqrt(2)
  terms = terms[:, 0] + 1j * terms[:, 1]
  owner = np.zeros((height, width), np.int32)
  distance = np.ones((height, width))
  for i, ((y, x), radius) in enumerate(zip(centres, radii, strict=True)):
    reach = REACH * radius
    top, left = max(int(y - reach), 0), max(int(x - reach), 0)
    bottom, right = min(int(y + reach) + 1, height), min(int(x + reach) + 1, width)
    if top >= bottom or left >= right:
      continue
    position = np.arange(left, right) - x + 1j * (np.arange(top, bottom)[:, None] - y)
    norm = np.abs(position) + 1e-9
    unit = position / norm
    outline = np.zeros_like(unit)
    for term in terms[i, ::-1]:  # Horner: sum of term_k * unit^k for k = 2..5, without arctan2
      outline = (outline + term) * unit
    outline = np.clip((outline * unit).real, -0.4, REACH - 1)
    here = norm / (radius * (1 + outline))
    window = np.s_[top:bottom, left:right]
    closer = here < distance[window]
    distance[window][closer] = here[closer]
    owner[window][closer] = i + 1
  return owner, distance


def _separate(rng, owner):
  """Cuts touching cells apart and numbers what is left: i32[H,W] -> i32[H,W]."""
  wide = _noise(rng, *owner.shape, 8.0) > 0
  free = owner > 0
  for lower, upper in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
    contact = (owner[lower] != owner[upper]) & (owner[lower] > 0) & (owner[upper] > 0)
    free[upper] &= ~contact
    free[lower] &= ~(contact & wide[lower])
  pieces, num_pieces = ndimage.label(free)
  large = np.bincount(pieces.ravel(), minlength=num_pieces + 1) >= MIN_AREA
  large[0] = False
  return (np.cumsum(large) * large).astype(np.int32)[pieces]


def _render(rng, mask, owner, distance, centres, radii):
  """Paints the cells as a phase-contrast microscope would show them: u8[H,W]."""
  height, width = mask.shape
  num_cells = len(radii)
  cell = mask.astype(np.float64)

  def per_cell(values):  # row 0 stands for pixels without a cell
    return np.concatenate([np.zeros(1), values])[owner]

  # Cells differ from the background less by their mean (either sign) than by their texture.
  level = per_cell(rng.normal(-0.04, 0.06, num_cells))
  grain = 0.065 * _noise(rng, height, width, 2.0) + 0.03 * _noise(rng, height, width, 5.0)
  nucleus = centres + rng.normal(0, 0.15, (num_cells, 2)) * radii[:, None]
  dy = np.arange(height)[:, None] - per_cell(nucleus[:, 0])
  dx = np.arange(width) - per_cell(nucleus[:, 1])
  spread = per_cell(rng.uniform(0.25, 0.4, num_cells) * radii) + 1e-3
  spot = np.exp(-(((dy**2 + dx**2) / spread**2) ** 2))
  spot *= per_cell(rng.normal(0.0, 0.09, num_cells))
  dome = per_cell(rng.uniform(-0.02, 0.1, num_cells)) * (1 - distance**2)
  inside = level + grain + spot + dome

  outside = 0.01 * _noise(rng, height, width, 3.0) + 0.02 * _noise(rng, height, width, 12.0)
  # The halo of phase contrast: the low frequencies of an object are missing, so its edge is
  # dark inside and bright outside. It saturates between cells and almost vanishes along parts of
  # the edge: that makes the lines between cells the hard part.
  crowd = ndimage.gaussian_filter(cell, 2.0, truncate=3.0)
  halo = np.where(cell > 0, crowd - 1, crowd * (1.4 - crowd))
  halo *= 0.3 + 0.09 * np.clip(_noise(rng, height, width, 10.0), -2, 2)

  light = 0.48 + halo + outside + cell * (inside - outside)
  light *= np.exp(0.14 * _noise(rng, height, width, 90.0))
  light = ndimage.gaussian_filter(light, 0.7, truncate=3.0)
  # Photon noise grows with the root of the light, read-out noise does not.
  sigma = np.sqrt(0.025**2 * np.clip(light, 0, None) + 0.01**2)
  light += sigma * rng.standard_normal((height, width))
  return np.clip(np.rint(255 * light), 0, 255).astype(np.uint8)
