"""Probabilities at every image's own size, and folders of files in, label maps out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxseg import UserError
from jaxseg.data.datasets import DatasetInfo
from jaxseg.models.unet import UNet
from jaxseg.predict import list_images, make_predictor, output_names, predict_files

SIZES = ((33, 57), (40, 40), (33, 57), (64, 20), (1, 5), (10, 70), (50, 64))  # height, width
RGB = DatasetInfo(("red", "green", "blue"), ((250, 0, 0), (0, 240, 0), (0, 0, 230)), channels=3)


class Pixelwise:
  """A network whose logits are its input; it counts how often it is traced."""

  def __init__(self):
    self.num_traces = 0

  def apply(self, variables, image, *, train):
    assert not train
    self.num_traces += 1
    return image * variables["params"]


PARAMS = {"params": np.float32(10.0), "batch_stats": {}}


def images_of(sizes, seed=0):
  rng = np.random.default_rng(seed)
  return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def examples_of(sizes):
  return [{"image": image, "number": i} for i, image in enumerate(images_of(sizes))]


@pytest.fixture(scope="module")
def unet():
  """A U-Net with batch statistics that are not those of its start, and its variables."""
  model = UNet(num_classes=3, widths=(4, 8), norm=True)
  shapes = jax.eval_shape(
    lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)
  )
  rng = np.random.default_rng(0)

  def draw(x):
    if len(x.shape) == 1:
      return rng.uniform(0.5, 1.0, x.shape).astype(np.float32)
    return rng.normal(0, np.prod(x.shape[:-1]) ** -0.5, x.shape).astype(np.float32)

  return model, jax.tree.map(draw, shapes)


def softmax(logits):
  powers = np.exp(logits - logits.max(-1, keepdims=True))
  return powers / powers.sum(-1, keepdims=True)


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


@pytest.mark.parametrize("fit", ["resize", "crop"])
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


def test_resize_is_what_one_would_do_by_hand(unet):
  model, variables = unet
  (image,) = images_of([(45, 40)])
  predict = make_predictor(model, fit="resize", size=32, batch_size=8)
  ((_, probs),) = predict(variables, [{"image": image}])
  small = np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR))
  logits = model.apply(variables, small[None].astype(np.float32) / 255, train=False)[0]
  np.testing.assert_allclose(probs, softmax(enlarge(np.asarray(logits), 45, 40)), atol=1e-5)


def test_crop_is_what_one_would_do_by_hand(unet):
  model, variables = unet
  (image,) = images_of([(45, 30)])
  predict = make_predictor(model, fit="crop", size=32, batch_size=8)
  ((_, probs),) = predict(variables, [{"image": image}])
  # Mirrored to a multiple of 64; 30 -> 64 takes more than one reflection.
  rows = [*range(45), *range(44, 25, -1)]
  cols = [*range(30), *range(29, -1, -1), 0, 1, 2, 3]
  padded = image[rows][:, cols].astype(np.float32) / 255
  logits = model.apply(variables, padded[None], train=False)[0]
  np.testing.assert_allclose(probs, softmax(np.asarray(logits)[:45, :30]), atol=1e-5)


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
  assert 0 < few < 12 and model.num_traces == 1
  rng = np.random.default_rng(0)
  sizes = [tuple(size) for size in rng.integers(1, 65, (30, 2))]
  assert len(set(sizes)) == 30
  # 30 = 7 * 4 + 2: the last batch is filled up to the devices, as every other one.
  assert num_compilations(sizes) == 0 and model.num_traces == 1


def test_a_batch_is_filled_up_to_a_power_of_two():
  model = Pixelwise()
  predict = make_predictor(model, fit="resize", size=16, batch_size=100)
  for count in (17, 25, 32):
    assert len(list(predict(PARAMS, examples_of([(16, 16)] * count)))) == count
  assert model.num_traces == 1


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


def error_of(function, *arguments):
  with pytest.raises(UserError) as error:
    function(*arguments)
  assert "\n" not in str(error.value)
  return str(error.value)


def test_list_images(tmp_path):
  names = ["b.png", "a.JPG", "c.TiFf", "d.jpeg"]
  for name in (*names, "notes.txt", "a.npy", "png"):
    (tmp_path / name).touch()
  (tmp_path / "folder.png").mkdir()
  assert list_images(str(tmp_path)) == sorted(tmp_path / name for name in names)
  assert list_images(tmp_path / "notes.txt") == [tmp_path / "notes.txt"]  # asked for by name


def test_nothing_to_predict(tmp_path):
  (tmp_path / "notes.txt").touch()
  message = error_of(list_images, tmp_path)
  assert str(tmp_path) in message and ".png" in message
  message = error_of(list_images, tmp_path / "typo")
  assert str(tmp_path / "typo") in message and "--input" in message


@pytest.mark.parametrize(
  "files, expected",
  [
    (["a.jpg", "b.png"], ["a.png", "b.png"]),
    (["a.jpg", "a.png", "b.JPG"], ["a.jpg.png", "a.png.png", "b.png"]),
    (["a.b.jpg", "a.jpg"], ["a.b.png", "a.png"]),
    (["a.jpg", "a.jpg.bmp", "a.png"], ["a.jpg.png", "a.jpg.bmp.png", "a.png.png"]),
  ],
)
def test_output_names(tmp_path, files, expected):
  assert output_names([tmp_path / name for name in files]) == expected
  assert len(set(expected)) == len(expected)


@pytest.fixture
def folder(tmp_path):
  """Images of five sizes and kinds; {name without suffix: its pixels as RGB}."""
  path = tmp_path / "input"
  path.mkdir()
  y, x = np.mgrid[:57, :33]
  smooth = np.stack([7 * x, 4 * y, 200 - 3 * x], -1).astype(np.uint8)
  grey, alpha, palette, wide = images_of([(20, 31), (64, 48), (17, 17), (9, 64)])
  Image.fromarray(smooth).save(path / "photo.jpg", quality=95)
  Image.fromarray(grey[..., 0]).save(path / "grey.png")
  transparency = np.arange(64 * 48).astype(np.uint8).reshape(64, 48)
  Image.fromarray(np.dstack([alpha, transparency])).save(path / "alpha.PNG")
  Image.fromarray(palette).quantize(16).save(path / "palette.png")
  Image.fromarray(wide).save(path / "wide.BMP")
  (path / "notes.txt").write_text("no image")
  return path


def predictor():
  predict = make_predictor(Pixelwise(), fit="crop", size=32, batch_size=2)
  return lambda examples: predict(PARAMS, examples)


def test_predict_files(folder, tmp_path):
  output = tmp_path / "some" / "output"
  files = list_images(folder)
  shown = []
  predict_files(predictor(), files, output, RGB, lambda x: shown.append(True) or x)
  assert shown == [True]
  names = ["alpha.png", "grey.png", "palette.png", "photo.png", "wide.png"]
  assert sorted(p.name for p in output.iterdir()) == sorted([*names, "overlays"])
  assert sorted(p.name for p in (output / "overlays").iterdir()) == names
  sizes = set()
  for file in files:
    picture = Image.open(file).convert("RGB")
    labels = Image.open(output / f"{file.stem}.png")
    assert (labels.mode, labels.size) == ("P", picture.size)
    # The largest of red, green and blue; the first of them where they are equal.
    np.testing.assert_array_equal(np.asarray(labels), np.asarray(picture).argmax(-1))
    colours = np.asarray(labels.convert("RGB"))
    np.testing.assert_array_equal(colours, np.array(RGB.palette)[np.asarray(labels)])
    overlay = Image.open(output / "overlays" / f"{file.stem}.png")
    assert (overlay.mode, overlay.size) == ("RGB", picture.size)
    sizes.add(picture.size)
  assert len(sizes) == 5 and (33, 57) in sizes


def test_predict_one_file(folder, tmp_path):
  predict_files(predictor(), list_images(folder / "photo.jpg"), tmp_path / "out", RGB)
  assert Image.open(tmp_path / "out" / "photo.png").size == (33, 57)


def test_an_image_that_cannot_be_decoded(folder, tmp_path):
  data = (folder / "photo.jpg").read_bytes()
  (folder / "half.jpg").write_bytes(data[: len(data) // 2])
  message = error_of(predict_files, predictor(), list_images(folder), tmp_path / "out", RGB)
  assert message.startswith(f"{folder / 'half.jpg'}: cannot be decoded")


def test_output_that_cannot_be_written(folder, tmp_path):
  (tmp_path / "out").touch()  # stops root too, unlike permissions
  message = error_of(predict_files, predictor(), list_images(folder), tmp_path / "out", RGB)
  assert str(tmp_path / "out") in message and "--output" in message


def test_inputs_are_not_overwritten(folder):
  before = {file: file.read_bytes() for file in folder.iterdir()}
  outside = folder / ".." / folder.name
  message = error_of(predict_files, predictor(), list_images(folder), outside, RGB)
  assert "grey.png" in message and "--output" in message
  assert {file: file.read_bytes() for file in folder.iterdir() if file.is_file()} == before
