"""Counts on the devices against those of NumPy from the probabilities."""

import functools

import jax
import numpy as np
import pytest
from test_predict import draw_variables

from jaxseg import VOID, UserError, predict
from jaxseg import tally as tally_module
from jaxseg.data import stored
from jaxseg.evaluation import score
from jaxseg.models.unet import UNet
from jaxseg.predict import make_predictor
from jaxseg.refine import with_crf
from jaxseg.tally import (
  NUM_BINS,
  Tally,
  bin_by_product,
  bin_by_scatter,
  count_by_product,
  count_by_scatter,
  for_scores,
  tally,
)

CLASSES = ("sky", "road", "car")
SIZES = ((33, 57), (40, 40), (33, 57), (64, 20), (1, 5), (10, 70), (130, 64), (64, 64), (64, 64))


@pytest.fixture(scope="module")
def unet():
  model = UNet(num_classes=3, widths=(4, 8), norm=True)
  return model, draw_variables(model)


def make_examples(sizes, seed=0):
  rng, examples = np.random.default_rng(seed), []
  for size in sizes:
    mask = rng.integers(0, 3, size, dtype=np.uint8)
    mask[rng.random(size) < 0.2] = VOID
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    examples.append({"image": image, "mask": mask, "name": "a"})
  return examples


def by_pixel(probs, mask):
  """One pixel after the other: (counts, loss of each line, its bins, labels, confidence)."""
  num_classes = probs.shape[-1]
  counts = np.zeros((num_classes, num_classes), int)
  loss, labels = np.zeros(len(mask)), np.zeros(mask.shape, int)
  bins, confidence = np.zeros((len(mask), 15, 3)), np.zeros(mask.shape, int)
  for row, col in np.ndindex(*mask.shape):
    values = probs[row, col].tolist()
    labels[row, col] = values.index(max(values))
    if mask[row, col] != 255:
      counts[mask[row, col], labels[row, col]] += 1
      loss[row] -= np.log(values[mask[row, col]])
      right = mask[row, col] == labels[row, col]
      bins[row, int(np.float32(15) * np.float32(max(values)))] += 1, right, max(values)
    confidence[row, col] = round(255 * max(values))
  return counts, loss, bins, labels, confidence


@pytest.mark.parametrize("num_classes", [2, 5])
def test_one_image(num_classes):
  rng = np.random.default_rng(0)
  probs = rng.dirichlet([1.0] * num_classes, (7, 9)).astype(np.float32)
  probs[0, :3] = 1 / num_classes  # the first of equals
  mask = rng.integers(0, num_classes, (7, 9), dtype=np.uint8)
  mask[2], mask[3, 4] = VOID, VOID
  found, expected = jax.jit(tally)(probs, mask), by_pixel(probs, mask)
  assert (found.counts.dtype, found.labels.dtype) == (np.int32, np.uint8)
  assert found.confidence.dtype == np.uint8
  np.testing.assert_array_equal(found.counts, expected[0])
  np.testing.assert_allclose(found.loss, expected[1], atol=1e-5)
  np.testing.assert_allclose(found.bins, expected[2], rtol=1e-6)
  np.testing.assert_array_equal(found.labels, expected[3])
  np.testing.assert_array_equal(found.confidence, expected[4])
  labels = found.labels
  for function in (count_by_scatter, count_by_product):
    counts, chosen = jax.jit(function)(probs, mask, labels)
    np.testing.assert_array_equal(counts, expected[0])
    valid = mask != VOID
    truth = probs[valid][np.arange(valid.sum()), mask[valid]]
    np.testing.assert_array_equal(np.asarray(chosen)[valid], truth)


def test_both_forms_of_bins():
  """Certain pixels are in the last bin, and a line's sums are its own."""
  rng = np.random.default_rng(0)
  numbers, values = rng.integers(0, NUM_BINS + 1, (5, 40)), rng.random((5, 40, 3), np.float32)
  expected = np.zeros((5, NUM_BINS + 1, 3))
  for row, col in np.ndindex(numbers.shape):
    expected[row, numbers[row, col]] += values[row, col]
  for function in (bin_by_scatter, bin_by_product):
    found = jax.jit(function)(numbers, values)
    np.testing.assert_allclose(found, expected[:, :NUM_BINS], rtol=1e-6)
  certain = tally(np.array([[[1.0, 0.0], [0.0, 1.0]]], np.float32), np.array([[0, 0]], np.uint8))
  assert certain.bins.shape == (1, NUM_BINS, 3) and certain.bins[0, -1].tolist() == [2, 1, 2]
  assert certain.bins.sum() == 5


def test_with_64_bits():
  """Both forms count in the same type, too, where JAX is told to take 64 bits."""
  probs, mask = np.full((4, 3, 2), 0.5, np.float32), np.zeros((4, 3), np.uint8)
  with jax.enable_x64(True):
    counts = jax.jit(tally)(probs, mask)[0]
  assert counts.dtype == np.int32 and counts.tolist() == [[12, 0], [0, 0]]


@pytest.mark.slow
def test_more_pixels_than_float32_counts():
  """2^24 + 1 and another are not told apart in it."""
  shape = (4097, 4096)
  arguments = np.zeros((*shape, 2), np.float32), np.zeros(shape, np.uint8), np.ones(shape, np.uint8)
  for function in (count_by_scatter, count_by_product):
    counts = jax.jit(lambda *x, function=function: function(*x)[0])(*arguments)
    assert np.asarray(counts).tolist() == [[0, 4097 * 4096], [0, 0]]


def test_counts_line_by_line(monkeypatch):
  """What large images need, on a small one."""
  assert tally_module.EXACT == 2 ** (np.finfo(np.float32).nmant + 1)
  rng = np.random.default_rng(0)
  probs = rng.random((13, 17, 3), np.float32)
  mask, labels = rng.integers(0, 3, (2, 13, 17), np.uint8)
  mask[rng.random(mask.shape) < 0.2] = VOID
  expected, found = count_by_scatter(probs, mask, labels)[0], []
  for exact in (13 * 17, 13 * 17 + 1):
    monkeypatch.setattr(tally_module, "EXACT", exact)
    trace = jax.make_jaxpr(lambda *x: count_by_product(*x))  # a new one: traces are kept
    found.append(str(trace(probs, mask, labels)))
    np.testing.assert_array_equal(count_by_product(probs, mask, labels)[0], expected)
  assert "f32[13,3,3]" in found[0] and "f32[13,3,3]" not in found[1]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_shows(value):
  probs, mask = np.full((4, 3, 2), 0.5, np.float32), np.zeros((4, 3), np.uint8)
  probs[1, 2, 1] = value  # not of the true class
  mask[3] = VOID
  assert np.isnan(tally(probs, mask)[1]).tolist() == [False, True, False, False]


OPTIONS = {
  "resize": {"fit": "resize"},
  "resize, odd": {"fit": "resize", "size": 33},
  "crop": {"fit": "crop"},
  "tiles, tta": {"fit": "crop", "tile": 40, "tta": "flip"},
  "valid, tiles": {"fit": "crop", "tile": 40},
}


@pytest.mark.parametrize("num_devices", [pytest.param(1, marks=pytest.mark.slow), 8])
@pytest.mark.parametrize("case", OPTIONS)
def test_scores_are_those_of_the_probabilities(unet, case, num_devices, monkeypatch):
  """Many sizes, windows of several batches, devices without any window, a short last batch."""
  devices = jax.devices()[:num_devices]
  monkeypatch.setattr(jax, "local_devices", lambda: devices)
  monkeypatch.setattr(predict, "MAX_OUTPUT", 64)  # several parts of an image
  monkeypatch.setattr(predict, "OUTPUT_STEP", 64)
  model, variables = unet
  if case == "valid, tiles":
    model = UNet(num_classes=3, widths=(4, 8), norm=True, padding="valid")
  options = OPTIONS[case]
  predictor = make_predictor(model, **{"size": 32, "batch_size": 3, **options})
  examples, options = make_examples(SIZES), {"boundaries": True, "sample_at": {0, 6}}
  ours = list(for_scores(predictor, variables)(iter(examples)))
  assert all(example is expected for (example, _), expected in zip(ours, examples, strict=True))
  for (_, found), (_, probs) in zip(ours, predictor(variables, examples), strict=True):
    assert isinstance(found, Tally)
    np.testing.assert_array_equal(found.labels(), probs.argmax(-1))
    confidence = np.round(255 * probs.max(-1))
    np.testing.assert_allclose(found.confidence().astype(float), confidence, atol=1)  # rounding
  results = [
    score(run, examples, CLASSES, **options)
    for run in (for_scores(predictor, variables), functools.partial(predictor, variables))
  ]
  (result, samples, _), (expected, expected_samples, _) = results
  jax.tree.map(np.testing.assert_array_equal, samples, expected_samples)
  for name in ("loss", "loss_interval", "ece", "ece_interval"):
    assert result.pop(name) == pytest.approx(expected.pop(name), rel=1e-6)
  np.testing.assert_allclose(result.pop("reliability"), expected.pop("reliability"), rtol=1e-6)
  assert result == expected


def test_what_follows_the_network_gives_probabilities(unet):
  model, variables = unet
  predictor = make_predictor(model, fit="crop", size=32, batch_size=3)
  crf = with_crf(predictor, num_iterations=1, exact=False, spatial_weight=1.0, spatial_sigma=1.0,
                 bilateral_weight=1.0, bilateral_sigma=9.0, color_sigma=9.0)  # fmt: skip
  ((_, found),) = for_scores(crf, variables)(make_examples([(20, 30)]))
  assert found.shape == (20, 30, 3)


def test_a_label_that_is_no_class(unet):
  model, variables = unet
  predictor = make_predictor(model, fit="crop", size=32, batch_size=3)
  examples = make_examples([(20, 30)] * 2)
  examples[1]["mask"][3, 4] = 3
  with pytest.raises(UserError, match="holds 3, which is no label of 3 classes"):
    score(for_scores(predictor, variables), examples, CLASSES)


def test_labels_stay_on_the_devices_until_they_are_asked_for(unet, monkeypatch):
  model, variables = unet
  predictor = make_predictor(model, fit="crop", size=32, batch_size=3)
  score(for_scores(predictor, variables), make_examples(SIZES[:2]), CLASSES)
  monkeypatch.setattr("jaxseg.tally.joined", lambda *_: 1 / 0)
  score(for_scores(predictor, variables), make_examples(SIZES[:2]), CLASSES)
  with pytest.raises(ZeroDivisionError):
    score(for_scores(predictor, variables), make_examples(SIZES[:2]), CLASSES, sample_at={1})


@pytest.fixture
def few(unet):
  """(predictor, variables, examples): a batch of eight windows, and one of one."""
  model, variables = unet
  predictor = make_predictor(model, fit="crop", size=64, batch_size=8)
  return predictor, variables, make_examples([(60, 64)] * 9)


def test_kept_batches_are_read_once(few):
  predictor, variables, examples = few
  said = []
  run = functools.partial(for_scores, predictor, keep=stored.Kept(said.append))
  expected = score(for_scores(predictor, variables), examples, CLASSES, sample_at={1, 8})
  changed = jax.tree.map(lambda x: 0.5 * x, variables)
  other = score(for_scores(predictor, changed), examples, CLASSES)
  first = score(run(variables), examples, CLASSES, sample_at={1, 8})
  # 8 windows and 1, filled up to 8, of 64 x 64 px in three bytes; and 9 masks.
  num_bytes = 64 * 64 * (16 * 3 + 9)
  assert said == [f"evaluation data on 8 devices: 9 images, {num_bytes / 2**20:.3g} MiB"]
  assert first[0] == expected[0]
  assert score(run(changed), None, CLASSES)[0] == other[0] != expected[0]
  again = score(run(variables), None, CLASSES, sample_at={1, 8})
  assert again[0] == expected[0] and len(said) == 1
  jax.tree.map(np.testing.assert_array_equal, again[1], expected[1])
  assert len(again[1]) == 2


def test_an_evaluation_that_ends_early_keeps_nothing(few):
  predictor, variables, examples = few
  said = []
  run = functools.partial(for_scores, predictor, keep=stored.Kept(said.append))
  next(run(variables)(examples))
  expected, *_ = score(for_scores(predictor, variables), examples, CLASSES)
  assert not said and score(run(variables), examples, CLASSES)[0] == expected


@pytest.mark.parametrize("what", ["devices", "host"])
def test_batches_that_do_not_fit(few, what, monkeypatch):
  predictor, variables, examples = few
  batch = 8 * 64 * 64 * 4  # bytes
  free = 3 * 1.5 * batch  # of which a third may be used
  sizes = {"devices": (free / 8, 1e9), "host": (1e9, free + 9 * 60 * 64 * 4)}[what]
  monkeypatch.setattr(stored, "free_bytes", lambda: sizes)
  said = []
  run = for_scores(predictor, variables, stored.Kept(said.append))
  expected, *_ = score(for_scores(predictor, variables), examples, CLASSES)
  for _ in range(2):
    assert score(run, examples, CLASSES)[0] == expected
    assert len(said) == 1 and said[0].startswith("config.data.on_device: the first 9 images of the")
