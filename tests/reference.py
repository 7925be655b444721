"""Slow twins of the numeric core in NumPy, from the definitions; random numbers and networks.

Loops over pixels in float64, no tricks: what is compared with these has to be wrong in the same
way twice to go unnoticed.
"""

import colorsys
import itertools
import math

import jax
import numpy as np
from PIL import Image, ImageEnhance
from scipy import ndimage

from jaxseg import VOID


def max_pool_2x2(x):
  """Largest of each 2x2 window.  [B,H,W,D] -> [B,H/2,W/2,D]"""
  b, h, w, d = x.shape
  out = np.empty((b, h // 2, w // 2, d))
  for n, i, j, c in np.ndindex(*out.shape):
    out[n, i, j, c] = max(x[n, 2 * i + k, 2 * j + m, c] for k in (0, 1) for m in (0, 1))
  return out


def up_conv(x, kernel):
  """Transposed convolution, stride 2: every pixel stamps the kernel at twice its place.

  [B,H,W,C], [k,k,C,D] -> [B,2H,2W,D]; what hangs over the lower and right edges is cut off.
  """
  b, h, w, _ = x.shape
  size = kernel.shape[0]
  out = np.zeros((b, 2 * h + size, 2 * w + size, kernel.shape[3]))
  for n, i, j in np.ndindex(b, h, w):
    for k, m in np.ndindex(size, size):
      out[n, 2 * i + k, 2 * j + m] += np.asarray(x[n, i, j], float) @ kernel[k, m]
  return out[:, : 2 * h, : 2 * w]


def same_padding(size, kernel, stride):
  """Zeros before the first pixel under TensorFlow's "same": half of what is missing, floored."""
  needed = (math.ceil(size / stride) - 1) * stride + kernel
  return max(needed - size, 0) // 2


def _taps(shape, size, stride, padding="same"):
  """(output, tap, input) as (row, column) each, for every tap that does not fall on the padding."""
  h, w = shape
  top, left = (
    size // 2 if padding == "symmetric" else same_padding(n, size, stride) for n in shape
  )
  for i, j in np.ndindex(math.ceil(h / stride), math.ceil(w / stride)):
    for k, m in np.ndindex(size, size):
      row, col = stride * i + k - top, stride * j + m - left
      if 0 <= row < h and 0 <= col < w:
        yield (i, j), (k, m), (row, col)


def conv(x, kernel, stride=1):
  """Convolution, "same" padding.  [B,H,W,C], [k,k,C,D] -> [B,ceil(H/stride),...,D]"""
  b, h, w, _ = x.shape
  out = np.zeros((b, math.ceil(h / stride), math.ceil(w / stride), kernel.shape[3]))
  for (i, j), tap, (row, col) in _taps((h, w), kernel.shape[0], stride):
    out[:, i, j] += np.asarray(x[:, row, col], float) @ kernel[tap]
  return out


def depthwise_conv(x, kernel, stride=1, dilation=1, padding="same"):
  """Each channel with its own kernel, [k,k,C].  [B,H,W,C] -> [B,ceil(H/stride),...,C]

  The taps of a dilated kernel are that far apart; "symmetric" centres the first window on the first
  pixel.
  """
  size = kernel.shape[0]
  spread = np.zeros((dilation * (size - 1) + 1,) * 2 + kernel.shape[2:])
  spread[::dilation, ::dilation] = kernel
  b, h, w, c = x.shape
  out = np.zeros((b, math.ceil(h / stride), math.ceil(w / stride), c))
  for (i, j), tap, (row, col) in _taps((h, w), len(spread), stride, padding):
    out[:, i, j] += np.asarray(x[:, row, col], float) * spread[tap]
  return out


def max_pool_3x3(x):
  """Largest of 3x3 windows around every second pixel, of what lies in the image."""
  b, h, w, d = x.shape
  out = np.empty((b, math.ceil(h / 2), math.ceil(w / 2), d))
  for n, i, j, c in np.ndindex(*out.shape):
    rows, cols = range(2 * i - 1, 2 * i + 2), range(2 * j - 1, 2 * j + 2)
    out[n, i, j, c] = max(x[n, k, m, c] for k in rows for m in cols if 0 <= k < h and 0 <= m < w)
  return out


def mirror_pad(x, multiple):
  """Goes back and forth over the image, edge pixel twice, until both sizes divide."""
  for axis in (1, 2):
    n = x.shape[axis]
    padded = math.ceil(n / multiple) * multiple
    there_and_back = [*range(n), *reversed(range(n))]
    x = np.take(x, [there_and_back[i % (2 * n)] for i in range(padded)], axis=axis)
  return x


def double_bilinear(x):
  """Bilinear resize to twice the size, pixel centres at half-integers.  [B,H,W,D] -> [B,2H,2W,D]"""
  for axis in (1, 2):
    n = x.shape[axis]
    positions = (np.arange(2 * n) + 0.5) / 2 - 0.5
    x = np.apply_along_axis(
      lambda row, p=positions: np.interp(p, np.arange(len(row)), row), axis, x
    )
  return x


def cubic(row, position):
  """Value between the pixels of `row`, edges repeated; the kernel of Keys (1981), a = -1/2."""

  def kernel(s):  # equation 15
    s = abs(s)
    if s < 1:
      return 3 / 2 * s**3 - 5 / 2 * s**2 + 1
    return -1 / 2 * s**3 + 5 / 2 * s**2 - 4 * s + 2 if s < 2 else 0.0

  near = range(math.floor(position) - 3, math.floor(position) + 5)
  return sum(row[min(max(i, 0), len(row) - 1)] * kernel(position - i) for i in near)


def cross_entropy(logits, mask):
  """-log softmax of the true class, 0 on VOID.  [...,C], [...] -> [...]"""
  out = np.zeros(mask.shape)
  for place in np.ndindex(*mask.shape):
    if mask[place] != VOID:
      row = [float(x) for x in logits[place]]
      out[place] = math.log(sum(math.exp(x) for x in row)) - row[mask[place]]
  return out


def focal(logits, mask, gamma):
  """-(1 - p)^gamma log p of the true class, 0 on VOID.  [...,C], [...] -> [...]"""
  ce = cross_entropy(logits, mask)
  return (1 - np.exp(-ce)) ** gamma * ce


def _classes(logits, mask):
  """(probability, whether it is the truth) of all kept pixels, for each class of the truth."""
  kept = [place for place in np.ndindex(*mask.shape) if mask[place] != VOID]
  for label in sorted({mask[place] for place in kept}):
    rows = [(np.exp(logits[place].astype(float)), mask[place] == label) for place in kept]
    yield [(row[label] / row.sum(), is_truth) for row, is_truth in rows]


def soft_dice(logits, mask):
  """Mean of 1 - 2 sum(p t) / (sum p + sum t) over the classes of the truth.  [H,W,C], [H,W]"""
  costs = []
  for pixels in _classes(logits, mask):
    both = sum(p for p, is_truth in pixels if is_truth)
    costs.append(1 - 2 * both / sum(p + is_truth for p, is_truth in pixels))
  return np.mean(costs) if costs else 0.0


def lovasz_softmax(logits, mask):
  """Mean of the Lovasz extensions of 1 - IoU over the classes of the truth.  [H,W,C], [H,W]

  Berman et al. 2018, definition 2: errors from the largest on, each times what its pixel adds to
  the Jaccard loss of the set of wrong pixels.
  """
  costs = []
  for pixels in _classes(logits, mask):
    truth = {i for i, (_, is_truth) in enumerate(pixels) if is_truth}
    errors = [1 - p if is_truth else p for p, is_truth in pixels]
    wrong, jaccard_loss, cost = set(), 0.0, 0.0
    for i in sorted(range(len(pixels)), key=lambda i, e=errors: -e[i]):
      wrong, before = wrong | {i}, jaccard_loss
      jaccard_loss = 1 - len(truth - wrong) / len(truth | wrong)
      cost += errors[i] * (jaccard_loss - before)
    costs.append(cost)
  return np.mean(costs) if costs else 0.0


def dense_crf(probs, image, num_iterations, spatial, bilateral):
  """Mean field of a CRF with Potts costs over all pairs of pixels, kernels normalised.

  Args:
    probs: [H,W,C].  image: [H,W,D].
    spatial: (weight, sigma).  bilateral: (weight, sigma of places, sigma of colours).
  Returns:
    f64[H,W,C]
  """
  h, w, num_classes = probs.shape
  places, num = list(np.ndindex(h, w)), h * w
  kernels = np.zeros((2, num, num))
  for i, j in np.ndindex(num, num):
    away = math.dist(places[i], places[j])
    color = math.dist(image[places[i]].astype(float), image[places[j]].astype(float))
    kernels[0, i, j] = math.exp(-(away**2) / (2 * spatial[1] ** 2))
    kernels[1, i, j] = math.exp(
      -(away**2) / (2 * bilateral[1] ** 2) - color**2 / (2 * bilateral[2] ** 2)
    )
  degrees = kernels.sum(2)
  pairs = np.zeros((num, num))
  for (weight, *_), kernel, degree in zip((spatial, bilateral), kernels, degrees, strict=True):
    for i, j in np.ndindex(num, num):
      pairs[i, j] += weight * kernel[i, j] / math.sqrt(degree[i] * degree[j])
  probs = np.asarray(probs, float).reshape(num, num_classes)
  q = probs
  for _ in range(num_iterations):
    rows = []
    for i in range(num):
      costs = pairs[i] @ (1 - q)  # Potts: every other label costs
      rows.append([probs[i, c] * math.exp(-costs[c]) for c in range(num_classes)])
    q = np.array([[x / sum(row) for x in row] for row in rows])
  return q.reshape(h, w, num_classes)


def confusion_matrix(mask, prediction, num_classes):
  """Counts of (truth, prediction), pixel by pixel.  -> int[C,C]"""
  counts = np.zeros((num_classes, num_classes), int)
  for truth, label in zip(mask.ravel(), prediction.ravel(), strict=True):
    if truth != VOID:
      counts[truth, label] += 1
  return counts


def iou(mask, prediction, label):
  """Intersection over union of two sets of pixels; NaN if both are empty."""
  kept = {place for place in np.ndindex(*mask.shape) if mask[place] != VOID}
  truth = {place for place in kept if mask[place] == label}
  found = {place for place in kept if prediction[place] == label}
  return len(truth & found) / len(truth | found) if truth | found else math.nan


def boundary_f1(mask, prediction, tolerance):
  """Mean over the classes of the truth of the F1 of boundaries, by scipy; NaN without any."""

  def boundary(labels, label):
    points = set()
    for i, j in np.ndindex(*labels.shape):
      for k, m in (i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1):
        if 0 <= k < labels.shape[0] and 0 <= m < labels.shape[1]:
          if labels[i, j] == label and labels[k, m] not in (label, VOID):
            points.add((i, j))
    return points

  def near(points, others):
    elsewhere = np.ones(mask.shape, bool)
    elsewhere[tuple(zip(*others, strict=True))] = False
    distance = ndimage.distance_transform_edt(elsewhere)
    return sum(distance[point] <= tolerance for point in points) / len(points)

  shown, found = np.where(mask == VOID, VOID, prediction), []
  for label in sorted(set(mask.ravel().tolist()) - {VOID}):
    truth, predicted = boundary(mask, label), boundary(shown, label)
    if truth and predicted:
      precision, recall = near(predicted, truth), near(truth, predicted)
      either = precision + recall > 0
      found.append(2 * precision * recall / (precision + recall) if either else 0)
    elif truth or predicted:
      found.append(0)
  return sum(found) / len(found) if found else math.nan


def resampled(rows, num_resamples, seed):
  """Sums of rows drawn with replacement, one row after the other.  [N,K] -> list of [K]"""
  rng, sums = np.random.default_rng(seed), []
  for times in rng.multinomial(len(rows), [1 / len(rows)] * len(rows), size=num_resamples):
    drawn = [row for row, number in zip(rows, times, strict=True) for _ in range(number)]
    assert len(drawn) == len(rows)
    sums.append([sum(column) for column in zip(*drawn, strict=True)])
  return sums


def batch_norm(x, params, stats):
  """Inference: running statistics, epsilon 1e-3."""
  return (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-3) * params["scale"] + params["bias"]


def unet(variables, image, *, up="transposed"):
  """Logits of the padded U-Net (Ronneberger et al. 2015, fig. 1), for sizes that divide.

  Args:
    variables: of jaxseg.models.unet.UNet.  image: [B,H,W,D] in [0, 1].
  Returns:
    f64[B,H,W,C]
  """
  params, stats = variables["params"], variables.get("batch_stats", {})
  num_levels = sum(name.startswith("down") and name.endswith("conv1") for name in params)

  def double_conv(x, name):
    for i in (1, 2):
      layer = params[f"{name}_conv{i}"]
      x = conv(x, layer["kernel"]) + layer.get("bias", 0.0)
      if f"{name}_norm{i}" in params:
        x = batch_norm(x, params[f"{name}_norm{i}"], stats[f"{name}_norm{i}"])
      x = np.maximum(x, 0)
    return x

  x, skips = 2.0 * image - 1.0, []
  for level in range(num_levels):
    x = double_conv(max_pool_2x2(x) if level else x, f"down{level}")
    skips.append(x)
  for level in reversed(range(num_levels - 1)):
    layer = params[f"up{level}"]
    x = (
      up_conv(x, layer["kernel"])
      if up == "transposed"
      else conv(double_bilinear(x), layer["kernel"])
    )
    x = double_conv(np.concatenate([skips[level], x + layer["bias"]], -1), f"merge{level}")
  return conv(x, params["head"]["kernel"]) + params["head"]["bias"]


def random_weight(rng, name, shape):
  """f32 array for a weight of this name, such that activations keep a size of about 1.

  Everything differs from its initial value, so that an exchanged or forgotten weight shows.
  (With He's 2 instead of 1.25, MobileNetV2 without its own statistics amplifies the rounding of
  float32 to 2e-4; with 1, nothing reaches the 6 of its ReLU6.)
  """
  if name in ("kernel", "depthwise_kernel"):
    depthwise = len(shape) == 3 or shape[3] == 1
    fan_in = math.prod(shape[:2]) if depthwise else math.prod(shape[:3])
    return rng.normal(0, math.sqrt(1.25 / fan_in), shape).astype(np.float32)
  if name in ("scale", "gamma", "var", "moving_variance"):
    return rng.uniform(0.5, 1.5, shape).astype(np.float32)
  return rng.normal(0, 0.2, shape).astype(np.float32)


def abstract(model, channels=3, size=32):
  """Shapes of a network's variables, for images of so many channels and a size that it takes."""
  image = np.zeros((1, size, size, channels), np.float32)
  return jax.eval_shape(lambda: model.init(jax.random.key(0), image, train=False))


def random_variables(model, channels, seed=0, size=32):
  """Variables of a network for images of so many channels, without compiling its `init`.

  `size`: one that the network takes, px.
  """
  rng = np.random.default_rng(seed)
  return jax.tree_util.tree_map_with_path(
    lambda path, x: random_weight(rng, path[-1].key, x.shape), abstract(model, channels, size)
  )


def count(tree):
  """Number of values in all arrays, or shapes, of a tree."""
  return sum(x.size for x in jax.tree.leaves(tree))


def logits(model, variables, image, **options):
  """f32 logits of one compiled prediction."""
  return np.asarray(
    jax.jit(lambda v, x: model.apply(v, x, train=False, **options))(variables, image)
  )


def run_encoder(encoder, variables, image):
  """Stages of an image, compiled without optimisation, which would take longer than the network."""
  options = {"xla_backend_optimization_level": 0}
  apply = jax.jit(lambda v, x: encoder.apply(v, x, train=False), compiler_options=options)
  return apply(variables, image)


def largest_gap(fine, coarse, factor, offset=0):
  """How far a coarse map [B,h,w,C] is from every `factor`-th value of a fine one, from `offset`."""
  kept = np.asarray(fine)[:, offset::factor, offset::factor]
  assert factor > 1 and kept.shape == coarse.shape, (fine.shape, coarse.shape)
  return np.abs(kept - coarse).max()


KERAS_NAMES = {
  **{("params", name): name for name in ("kernel", "bias")},
  ("params", "scale"): "gamma",
  ("batch_stats", "mean"): "moving_mean",
  ("batch_stats", "var"): "moving_variance",
}


def keras_tensors(variables):
  """{"layer/weight": array} as Keras would save the flat module {collection: {layer: {weight}}}."""
  tensors = {}
  for collection, layer in itertools.chain.from_iterable(
    ((collection, layer) for layer in tree) for collection, tree in variables.items()
  ):
    for weight, value in variables[collection][layer].items():
      name = KERAS_NAMES[collection, weight]
      if name == "bias" and layer in variables.get("batch_stats", {}):
        name = "beta"
      if name == "kernel" and value.ndim == 3:
        name, value = "depthwise_kernel", value[..., None]
      tensors[f"{layer}/{name}"] = value
  return tensors


def set_keras_weights(twin, variables):
  """Gives a Keras model the weights of our layers of the same names, every one of them."""
  params, stats = variables["params"], variables.get("batch_stats", {})
  weighted = [layer for layer in twin.layers if layer.weights]
  assert {layer.name for layer in weighted} == params.keys()
  for layer in weighted:
    ours = {**params[layer.name], **stats.get(layer.name, {})}
    values = [ours[key] for key in ("kernel", "scale", "bias", "mean", "var") if key in ours]
    if type(layer).__name__ == "Conv2DTranspose":
      values[0] = values[0].transpose(0, 1, 3, 2)  # (k, k, out, in)
    layer.set_weights(values)


def turn_hue(image, turn):
  """Rotates (I, Q) of every pixel, with the conversions of `colorsys`.  f[H,W,3] -> f64[H,W,3]

  `colorsys` clips what leaves [0, 1].
  """
  out = np.empty(image.shape)
  cos, sin = math.cos(2 * math.pi * turn), math.sin(2 * math.pi * turn)
  for place in np.ndindex(image.shape[:2]):
    y, i, q = colorsys.rgb_to_yiq(*map(float, image[place]))
    out[place] = colorsys.yiq_to_rgb(y, cos * i - sin * q, sin * i + cos * q)
  return out


def saturate(image, factor):
  """`Color` of Pillow's ImageEnhance, which rounds.  f[H,W,3] -> f64[H,W,3]"""
  picture = Image.fromarray(np.uint8(np.round(image * 255)))
  return np.asarray(ImageEnhance.Color(picture).enhance(factor)) / 255


def grey(image):
  """Pillow's conversion to grey, ITU-R 601, rounded.  f[H,W,3] -> f64[H,W,3]"""
  picture = Image.fromarray(np.uint8(np.round(image * 255)))
  return np.asarray(picture.convert("L").convert("RGB")) / 255


def gaussian_blur(image, sigma):
  """SciPy's Gaussian over both axes, mirrored at the edges.  f[H,W,D] -> f64[H,W,D]"""
  image = np.asarray(image, float)
  return ndimage.gaussian_filter(image, (sigma, sigma, 0), mode="reflect", truncate=10)


def cut_out(image, mask, centre, side):
  """A square of the channels' means, VOID in the mask.  -> f[H,W,D], u8[H,W]"""
  out, labels = np.array(image, float), mask.copy()
  for i, j in np.ndindex(mask.shape):
    if all(0 <= p - c + side // 2 < side for p, c in zip((i, j), centre, strict=True)):
      out[i, j], labels[i, j] = np.mean(np.asarray(image, float), axis=(0, 1)), VOID
  return out, labels


def normal(*shape, seed=0):
  """Standard normal numbers, f32[shape]."""
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def pull_both(first, second, args, g):
  """(value, gradients) of two functions of the same arguments, for the output's gradient g."""
  results = []
  for f in first, second:
    y, pull = jax.vjp(f, *args)
    results.append((y, pull(g)))
  return results
