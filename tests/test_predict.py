"""Probabilities at every image's own size, in one piece, in tiles, and averaged over views."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tiny import error_of

from jaxseg import UserError, predict
from jaxseg.models.unet import UNet
from jaxseg.predict import make_predictor

SIZES = ((33, 57), (40, 40), (33, 57), (64, 20), (1, 5), (10, 70), (50, 64))  # height, width


class Pixelwise:
  """A network whose logits are its input; it notes the shapes for which it is traced."""

  margin = context = 0
  stride = 1

  def __init__(self):
    self.shapes = []

  def input_size(self, size):
    return size

  def apply(self, variables, image, *, train):
    assert not train
    self.shapes.append(image.shape)
    return image * variables["params"]


PARAMS = {"params": np.float32(10.0), "batch_stats": {}}


def images_of(sizes, seed=0):
  rng = np.random.default_rng(seed)
  return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def examples_of(sizes):
  return [{"image": image, "number": i} for i, image in enumerate(images_of(sizes))]


def draw_variables(model, size=8):
  """Variables that are not those of a network's start: biases and statistics count."""
  shapes = jax.eval_shape(
    lambda: model.init(jax.random.key(0), jnp.zeros((1, size, size, 3)), train=False)
  )
  rng = np.random.default_rng(0)

  def draw(x):
    if len(x.shape) == 1:
      return rng.uniform(0.5, 1.0, x.shape).astype(np.float32)
    return rng.normal(0, (2 / np.prod(x.shape[:-1])) ** 0.5, x.shape).astype(np.float32)

  return jax.tree.map(draw, shapes)


@pytest.fixture(scope="module")
def unet():
  model = UNet(num_classes=3, widths=(4, 8), norm=True)
  return model, draw_variables(model)


@pytest.fixture(scope="module")
def valid_unet():
  """Three levels: 44 -> 4, 48 -> 8, ..., 76 -> 36."""
  model = UNet(num_classes=3, widths=(4, 8, 8), norm=True, padding="valid")
  return model, draw_variables(model, 44)


predictor_of = functools.cache(make_predictor)


def probs_of(model, variables, image, **options):
  predictor = predictor_of(model, **{"fit": "crop", "size": 32, "batch_size": 8, **options})
  ((_, probs),) = predictor(variables, [{"image": image}])
  return probs


def logits_of(model, variables, image):
  """u8[H,W,D] -> f32[h,w,C]"""
  image = image[None].astype(np.float32) / 255
  return np.asarray(jax.jit(model.apply, static_argnames="train")(variables, image, train=False)[0])


def softmax(logits):
  powers = np.exp(logits - logits.max(-1, keepdims=True))
  return powers / powers.sum(-1, keepdims=True)


def squeeze(image, size):
  """Pillow's resizing, columns first: the order counts, both passes round."""
  picture = Image.fromarray(image).resize((size, len(image)), Image.Resampling.BILINEAR)
  return np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR))


def enlarge(logits, height, width):
  """Bilinear interpolation, centres of pixels at half-integers, edges repeated; pixel by pixel."""
  h, w, _ = logits.shape
  result = np.zeros((height, width, logits.shape[-1]))
  for i in range(height):
    for j in range(width):
      y = min(max((i + 0.5) * h / height - 0.5, 0), h - 1)
      x = min(max((j + 0.5) * w / width - 0.5, 0), w - 1)
      for row, dy in ((int(y), 1 - y % 1), (min(int(y) + 1, h - 1), y % 1)):
        for col, dx in ((int(x), 1 - x % 1), (min(int(x) + 1, w - 1), x % 1)):
          result[i, j] += dy * dx * logits[row, col]
  return result


@pytest.mark.parametrize("fit", [pytest.param("resize", marks=pytest.mark.slow), "crop"])
def test_every_image_has_its_size_its_place_and_no_influence_on_others(unet, fit):
  model, variables = unet
  examples = examples_of(SIZES)
  predict = make_predictor(model, fit=fit, size=16, batch_size=3)
  together = list(predict(variables, iter(examples)))
  assert [example["number"] for example, _ in together] == list(range(len(SIZES)))
  alone = make_predictor(model, fit=fit, size=16, batch_size=1)
  for example, (given, probs) in zip(examples, together, strict=True):
    assert given is example
    assert probs.shape == (*example["image"].shape[:2], 3)
    np.testing.assert_allclose(probs.sum(-1), 1, atol=1e-5)
    assert probs.min() >= 0
    ((_, expected),) = alone(variables, [example])
    np.testing.assert_allclose(probs, expected, atol=1e-5)
  # What a network makes of one image is not what it makes of another.
  assert np.abs(together[0][1] - together[2][1]).max() > 0.01


@pytest.mark.parametrize("size", [32, 33])  # 33: the network's stride does not divide it
def test_resize_is_what_one_would_do_by_hand(unet, size):
  model, variables = unet
  (image,) = images_of([(45, 40)])
  predict = make_predictor(model, fit="resize", size=size, batch_size=8)
  ((_, probs),) = predict(variables, [{"image": image}])
  small = squeeze(image, size)
  logits = logits_of(model, variables, small)
  np.testing.assert_allclose(probs, softmax(enlarge(logits, 45, 40)), atol=1e-5)


def test_crop_is_what_one_would_do_by_hand(unet):
  model, variables = unet
  (image,) = images_of([(45, 30)])
  predict = make_predictor(model, fit="crop", size=32, batch_size=8)
  ((_, probs),) = predict(variables, [{"image": image}])
  # Mirrored to a multiple of 64; 30 -> 64 takes more than one reflection.
  rows = [*range(45), *range(44, 25, -1)]
  cols = [*range(30), *range(29, -1, -1), 0, 1, 2, 3]
  logits = logits_of(model, variables, image[rows][:, cols])
  np.testing.assert_allclose(probs, softmax(logits[:45, :30]), atol=1e-5)


@pytest.mark.parametrize("fit", ["resize", "crop"])
def test_many_sizes_compile_few_programs(fit, caplog):
  model = Pixelwise()
  predict = make_predictor(model, fit=fit, size=16, batch_size=4)

  def num_compilations(sizes):
    caplog.clear()
    with jax.log_compiles():
      list(predict(PARAMS, examples_of(sizes)))
    return sum(record.getMessage().startswith("Compiling ") for record in caplog.records)

  few = num_compilations([(64, 64)] * 4)
  assert 0 < few < 12 and len(model.shapes) == 1
  rng = np.random.default_rng(0)
  sizes = [tuple(size) for size in rng.integers(1, 65, (30, 2))]
  assert len(set(sizes)) == 30
  # 30 = 7 * 4 + 2: the last batch is filled up to the devices, as every other one.
  assert num_compilations(sizes) == 0 and len(model.shapes) == 1


def test_a_batch_is_filled_up_to_a_power_of_two():
  model = Pixelwise()
  predict = make_predictor(model, fit="resize", size=16, batch_size=100)
  for count in (17, 25, 32):
    assert len(list(predict(PARAMS, examples_of([(16, 16)] * count)))) == count
  assert len(model.shapes) == 1


def test_it_reads_no_further_than_it_has_to():
  """A folder of photographs need not fit into memory."""
  read = []

  def examples():
    for i in range(40):
      read.append(i)
      yield {"image": np.zeros((16, 16, 3), np.uint8)}

  predict = make_predictor(Pixelwise(), fit="resize", size=16, batch_size=2)
  _, probs = next(predict(PARAMS, examples()))
  np.testing.assert_allclose(probs, 1 / 3, atol=1e-6)
  assert len(read) <= 3


def test_no_images():
  predict = make_predictor(Pixelwise(), fit="resize", size=16, batch_size=2)
  assert list(predict(PARAMS, [])) == []


@pytest.mark.parametrize("shape", [(37, 48), (65, 31), (5, 3)])
def test_valid_network_in_tiles_is_the_mirrored_image_in_one_piece(valid_unet, shape):
  model, variables = valid_unet
  (image,) = images_of([shape])
  rows, cols = ((20, 20 + -n % 4) for n in shape)  # 4n + 4 is what comes out
  logits = logits_of(model, variables, np.pad(image, (rows, cols, (0, 0)), mode="symmetric"))
  expected = softmax(logits[: shape[0], : shape[1]])
  for tile in (0, 76, 300):
    np.testing.assert_allclose(
      probs_of(model, variables, image, tile=tile), expected, atol=1e-5, err_msg=f"tile {tile}"
    )


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(388, 388), (389, 389), (512, 512), (700, 333)])
def test_five_levels_in_tiles_of_the_paper_and_larger_than_the_image(shape):
  model = UNet(num_classes=2, widths=(2, 3, 4, 5, 6), padding="valid")
  variables = draw_variables(model, 188)
  (image,) = images_of([shape])
  whole = probs_of(model, variables, image, size=388, batch_size=2)
  assert np.ptp(whole[..., 0]) > 0.1
  for tile in (572, 1100):
    probs = probs_of(model, variables, image, size=388, batch_size=2, tile=tile)
    np.testing.assert_allclose(probs, whole, atol=1e-5, err_msg=f"tile {tile}")


@pytest.mark.parametrize("up", ["transposed", pytest.param("resize", marks=pytest.mark.slow)])
@pytest.mark.parametrize("shape", [(96, 70), (65, 20), (40, 40)])
def test_padded_network_in_tiles_is_the_image_in_one_piece(shape, up):
  model = UNet(num_classes=3, widths=(4, 8), norm=True, up=up)
  variables = draw_variables(model)
  (image,) = images_of([shape])
  whole = probs_of(model, variables, image)
  np.testing.assert_allclose(probs_of(model, variables, image, tile=40), whole, atol=1e-5)


def turns(image):
  """The eight right-angle symmetries, each with its inverse."""
  for k in range(4):
    yield np.rot90(image, k), lambda x, k=k: np.rot90(x, -k)
    yield np.rot90(image, k)[:, ::-1], lambda x, k=k: np.rot90(x[:, ::-1], -k)


def test_tta_is_the_mean_over_turned_images(unet):
  model, variables = unet
  (image,) = images_of([(64, 128)])  # nothing to be mirrored: the image fills the network's input
  views = [back(probs_of(model, variables, view)) for view, back in turns(image)]
  assert np.abs(views[0] - views[1]).max() > 0.01
  averaged = probs_of(model, variables, image, tta="dihedral")
  np.testing.assert_allclose(averaged, np.mean(views, axis=0), atol=1e-5)
  flipped = probs_of(model, variables, image[:, ::-1])[:, ::-1]
  averaged = probs_of(model, variables, image, tta="flip")
  np.testing.assert_allclose(averaged, (views[0] + flipped) / 2, atol=1e-5)


@pytest.mark.parametrize("padding", [pytest.param("same", marks=pytest.mark.slow), "valid"])
def test_a_turned_image_has_the_turned_prediction_in_tiles_too(unet, valid_unet, padding):
  model, variables = unet if padding == "same" else valid_unet
  (image,) = images_of([(128, 64) if padding == "same" else (100, 60)])  # 4n + 4
  views, backs = zip(*turns(image), strict=True)
  turned = [probs_of(model, variables, view, tile=76, tta="dihedral") for view in views]
  for back, probs in zip(backs, turned, strict=True):
    np.testing.assert_allclose(back(probs), turned[0], atol=1e-5)
  assert np.ptp(turned[0][..., 0]) > 0.01
  whole = probs_of(model, variables, image, tta="dihedral")
  np.testing.assert_allclose(turned[0], whole, atol=1e-5)


def test_resize_with_a_valid_network_and_tta(valid_unet):
  """The squeezed image is mirrored, too; what is averaged is enlarged."""
  model, variables = valid_unet
  (image,) = images_of([(45, 33)])
  small = squeeze(image, 32)

  def network(small):
    padded = np.pad(small, ((20, 20), (20, 20), (0, 0)), mode="symmetric")
    return softmax(logits_of(model, variables, padded))

  mean = (network(small) + network(small[:, ::-1])[:, ::-1]) / 2
  probs = probs_of(model, variables, image, fit="resize", tile=76, tta="flip")
  np.testing.assert_allclose(probs, softmax(enlarge(np.log(mean), 45, 33)), atol=1e-5)


def test_probabilities_are_enlarged_in_blocks(unet, monkeypatch):
  model, variables = unet
  (image,) = images_of([(530, 40)])
  whole = probs_of(model, variables, image, fit="resize")
  monkeypatch.setattr(predict, "MAX_OUTPUT", 256)
  np.testing.assert_allclose(probs_of(model, variables, image, fit="resize"), whole, atol=1e-6)


def test_sigmoid_head():
  model = UNet(num_classes=1, widths=(4, 8))
  variables = draw_variables(model)
  (image,) = images_of([(64, 64)])
  expected = 1 / (1 + np.exp(-logits_of(model, variables, image)[..., 0]))
  for options in ({"tile": 40}, {"fit": "resize", "size": 64}):
    probs = probs_of(model, variables, image, **options)
    assert probs.shape == (64, 64, 2)
    np.testing.assert_allclose(probs[..., 1], expected, atol=1e-5)
    np.testing.assert_allclose(probs.sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize("fit", ["resize", "crop"])
def test_reduce_sees_parts_and_its_results_are_kept(fit, monkeypatch):
  monkeypatch.setattr(predict, "MAX_OUTPUT", 256)
  sizes = [(300, 270), (1, 1), (64, 64)]
  options = {"fit": fit, "size": 32, "batch_size": 4, "tile": 64}
  predictor = make_predictor(Pixelwise(), **options)
  seen = []

  def top(probs):
    seen.append(probs.shape)
    return probs.argmax(-1).astype(np.uint8)

  reduced = list(predictor(PARAMS, examples_of(sizes), top))
  for (_, labels), (_, probs) in zip(reduced, predictor(PARAMS, examples_of(sizes)), strict=True):
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, probs.argmax(-1))
  limit = 64 if fit == "crop" else 256
  assert max(max(shape[:2]) for shape in seen) == limit
  assert sum(h * w for h, w, _ in seen) == sum(h * w for h, w in sizes)  # each pixel once


def test_tiles_of_all_large_images_are_one_program():
  model = Pixelwise()
  predictor = make_predictor(model, fit="crop", size=64, batch_size=8, tile=64)
  sizes = [(64, 65), (130, 300), (65, 64), (200, 200), (500, 63), (64, 64)]
  for example, probs in predictor(PARAMS, examples_of(sizes)):
    expected = softmax(10.0 * example["image"] / 255)
    np.testing.assert_allclose(probs, expected, atol=1e-5)
  assert model.shapes == [(8, 64, 64, 3)]


def test_large_windows_go_in_smaller_batches():
  model = Pixelwise()
  predictor = make_predictor(model, fit="crop", size=64, batch_size=32)
  sizes = [(64, 64)] * 33 + [(64, 128)] * 33 + [(640, 640)] * 9
  assert len(list(predictor(PARAMS, examples_of(sizes)))) == len(sizes)
  batches = [shape[:3] for shape in model.shapes]
  # The last of each is filled up to the eight devices, of which each has at least one.
  assert batches == [(32, 64, 64), (8, 64, 64), (16, 64, 128), (8, 64, 128), (8, 640, 640)]


def test_progress_counts_the_tiles_of_what_takes_several_batches():
  shown = []

  def progress(iterable, *, total, unit, leave):
    shown.append([total, unit, 0])
    for item in iterable:
      yield item
      shown[-1][-1] += 1

  predictor = make_predictor(Pixelwise(), fit="crop", size=64, batch_size=4, tile=64)
  sizes = [(64, 64), (300, 128), (128, 128), (128, 192)]  # 1, 10, 4 and 6 tiles
  assert len(list(predictor(PARAMS, examples_of(sizes), progress=progress))) == len(sizes)
  assert shown == [[10, "tile", 10], [6, "tile", 6]]


@pytest.mark.parametrize(
  "options, words",
  [
    ({"tile": 43}, ("`tile` is 43", "44")),
    ({"tta": "all"}, ("`tta`", "'all'", "none, flip, dihedral")),
  ],
)
def test_what_cannot_be_is_said_before_anything_runs(valid_unet, options, words):
  with pytest.raises(UserError) as error:
    make_predictor(valid_unet[0], fit="crop", size=32, batch_size=1, **options)
  assert "\n" not in str(error.value)
  for word in words:
    assert word in str(error.value)


def test_an_image_too_large_for_one_window_is_refused(monkeypatch):
  monkeypatch.setattr(predict, "LARGE", 99)
  image = np.zeros((10, 10, 3), np.uint8)
  whole = make_predictor(Pixelwise(), fit="crop", size=64, batch_size=4)
  assert "10 x 10 px is too large for one window: set `tile`" in error_of(
    list, whole(PARAMS, [{"image": image}])
  )
  (_, probs), *_ = make_predictor(Pixelwise(), fit="resize", size=64, batch_size=4)(
    PARAMS, [{"image": image}]
  )
  assert probs.shape[:2] == (10, 10)
