"""Perceptual hashes and specks, against slow twins, written-out numbers and real images."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from jaxseg.data import datasets
from jaxseg.data.fingerprints import NEAR, fingerprint, nearest, specks

COPIES = ("Abyssinian_99.jpg", "Abyssinian_151.jpg")  # test, train


def distance(a, b):
  """Number of bits that differ, in Python's own integers."""
  return sum((int(x) ^ int(y)).bit_count() for x, y in zip(a, b, strict=True))


def scene(seed, size=(120, 170)):
  """Smooth noise, u8[H,W,3]."""
  noise = np.random.default_rng(seed).normal(size=(*size, 3))
  smooth = ndimage.gaussian_filter(noise, (6, 6, 0))
  return np.clip(128 + 45 * smooth / smooth.std(), 0, 255).astype(np.uint8)


def test_fingerprint_compares_the_means_of_a_grid():
  """Cells of 6 x 5 px; bits are packed row by row, the highest first."""
  means = np.random.default_rng(0).integers(10, 246, (16, 17))
  around = np.resize([9, -9], (6, 5))  # sums up to 0 in each cell
  picture = np.repeat(np.repeat(means, 6, 0), 5, 1) + np.tile(around, (16, 17))
  picture = picture.astype(np.uint8)[..., None]
  bits = "".join(str(int(means[i, j + 1] > means[i, j])) for i in range(16) for j in range(16))
  found = fingerprint(picture)
  assert found.dtype == np.uint64 and found.tobytes() == int(bits, 2).to_bytes(32, "big")


def changed(picture):
  """{name: the same scene, changed}"""
  image = Image.fromarray(picture)
  file = io.BytesIO()
  image.save(file, "JPEG", quality=40)
  width, height = image.size
  noise = np.random.default_rng(1).normal(0, 10, picture.shape)
  return {
    "JPEG": np.asarray(Image.open(io.BytesIO(file.getvalue()))),
    "half": np.asarray(image.resize((width // 2, height // 2))),
    "bright": np.clip(picture * 1.2 + 10, 0, 255).astype(np.uint8),
    "noise": np.clip(picture + noise, 0, 255).astype(np.uint8),
  }


def test_changes_of_a_picture_are_near_and_other_pictures_are_not():
  hashes = [fingerprint(scene(i)) for i in range(8)]
  for i, own in enumerate(hashes):
    for name, picture in changed(scene(i)).items():
      assert distance(own, fingerprint(picture)) <= NEAR, name
    others = [distance(own, other) for j, other in enumerate(hashes) if j != i]
    assert min(others) > 2 * NEAR


def test_grey_is_as_good_as_colour():
  grey = np.repeat(scene(0)[..., :1], 3, -1)
  np.testing.assert_array_equal(fingerprint(grey), fingerprint(grey[..., :1]))


def test_pictures_that_are_mostly_flat_have_no_fingerprint():
  """Two different cells on a black background would have the same bits in all other places."""
  picture = np.zeros((160, 170, 1), np.uint8)
  assert fingerprint(picture) is None
  picture[30:70, 30:70] = 200
  assert fingerprint(picture) is None
  # 8 of 16 columns of cells differ from their left neighbours: just enough. 6 are too few.
  stripes = 60 * np.array([0, 1, 0, 1, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0], np.uint8)
  picture = np.tile(np.repeat(stripes, 10), (160, 1))[..., None]
  assert fingerprint(picture) is not None
  picture[:, 70:80] = 0
  assert fingerprint(picture) is None


def random_hashes(number, seed):
  """u64[N,4] with many near pairs: ten scenes, and up to 40 bits flipped."""
  rng = np.random.default_rng(seed)
  scenes = rng.integers(0, 1 << 64, (10, 4), dtype=np.uint64)
  hashes = scenes[rng.integers(0, 10, number)]
  for row in hashes:
    for bit in rng.integers(0, 256, rng.integers(0, 21)):
      row[bit // 64] ^= np.uint64(1 << (bit % 64))
  return hashes


@pytest.mark.parametrize("number", [0, 1, 2, 64, 65, 150])
def test_nearest_is_the_brute_force_search(number):
  hashes, others = random_hashes(number, 0), random_hashes(90, 0)
  for given, of in ((None, hashes), (others, others), (others[:0], others[:0])):
    expected = []
    for i in range(number):
      candidates = of[:i] if given is None else of
      bits = [distance(hashes[i], other) for other in candidates]
      if bits and min(bits) <= NEAR:
        expected.append((i, bits.index(min(bits)), min(bits)))
    assert nearest(hashes, given) == expected
    assert expected or number < 64 or not len(of)


def slow_specks(labels, void=255):
  """(number, boxes) by labelling every area of every value."""
  boxes = []
  for value in np.unique(labels):
    areas, _ = ndimage.label(labels == value, np.ones((3, 3)))
    for i, (rows, cols) in enumerate(ndimage.find_objects(areas), 1):
      if value != void and (areas == i).sum() <= 3:
        boxes.append((cols.start, rows.start, cols.stop, rows.stop))
  return len(boxes), sorted(boxes)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2), (3, 17), (24, 31)])
@pytest.mark.parametrize("share", [0.05, 0.5, 1])
def test_specks_are_the_small_areas(shape, share):
  rng = np.random.default_rng(0)
  for _ in range(5):
    values = rng.choice([0, 1, 2, 255], shape).astype(np.uint8)
    labels = np.where(rng.random(shape) < share, values, 1).astype(np.uint8)
    number, boxes = specks(labels)
    expected, all_boxes = slow_specks(labels)
    assert number == expected and len(boxes) == min(number, 100)
    assert sorted(boxes) == all_boxes if number <= 100 else set(boxes) <= set(all_boxes)


def test_specks_by_hand():
  labels = np.zeros((6, 8), np.uint8)
  labels[0, 0] = 1  # one pixel in the corner
  labels[2, 2] = labels[3, 3] = labels[2, 4] = 1  # three that touch by their corners
  labels[5, 4:8] = 1  # four are an area
  labels[0, 7] = 255  # void
  number, boxes = specks(labels)
  assert number == 2 and boxes == [(0, 0, 1, 1), (2, 2, 5, 4)]


def test_boxes_are_limited_and_the_number_is_not():
  labels = np.zeros((60, 60), np.uint8)
  labels[1::3, 1::3] = 1
  number, boxes = specks(labels)
  assert number == 400 and len(boxes) == 100


def test_real_slices_are_different_and_their_copies_near(data_dir):
  files = sorted((data_dir / "isbi2012/train/images").glob("*"))
  pictures = [np.asarray(Image.open(file).convert("RGB")) for file in files]
  hashes = np.array([fingerprint(picture) for picture in pictures])
  assert len(files) == 30 and nearest(hashes) == []
  for name in changed(pictures[0]):
    copies = np.array([fingerprint(changed(picture)[name]) for picture in pictures[:5]])
    assert [(i, j) for i, j, _ in nearest(copies, hashes)] == [(i, i) for i in range(5)]


def test_a_copy_across_the_official_split_of_pets(data_dir):
  """Both are one photo, as one sees, in different sizes; the rest of the cats are not that one."""
  hashes = {}
  for split in "train", "test":
    _, source = datasets.load("oxford_iiit_pet", split, data_dir=str(data_dir / "tfds"))
    names = [record["name"] for record in source.records]
    chosen = [i for i, name in enumerate(names) if i % 10 == 0 or name in COPIES]
    hashes[split] = {names[i]: fingerprint(source[i]["image"]) for i in chosen}
  train, test = ([*hashes[split]] for split in ("train", "test"))
  found = nearest(*(np.array([*hashes[split].values()]) for split in ("test", "train")))
  assert {(test[i], train[j]) for i, j, _ in found} == {COPIES}
