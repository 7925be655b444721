"""Scores of cell instances by hand, against scikit-image and against plain loops."""

import math

import numpy as np
import pytest
from scipy import ndimage
from skimage import metrics as skimage_metrics

from jaxseg.instance_metrics import instance_scores, split_scores, warping_error


def array(*rows):
  """Rows of digits, "." = 0.  -> i32[H,W]"""
  return np.array([[int(x.replace(".", "0")) for x in row] for row in rows], np.int32)


def cells(*rows):
  """Rows of "#" and ".".  -> bool[H,W]"""
  return np.array([[x == "#" for x in row] for row in rows])


TWO = array("11.222", "11.222")  # 4 and 6 pixels


@pytest.mark.parametrize("prediction, v_rand, v_info", [
  pytest.param(TWO, 1, 1, id="perfect"),
  # One segment of 10: p = (4, 6), s = 10, t = (4, 6).  H(S) = 0, so I = 0.
  pytest.param(array("111111", "111111"), (16 + 36) / (100 / 2 + 52 / 2), 0, id="merged"),
  # Cell 2 cut into 2 and 4: p = s = (4, 2, 4), t = (4, 6).  T follows from S: I = H(T).
  pytest.param(
    array("11.233", "11.233"),
    (16 + 4 + 16) / (36 / 2 + 52 / 2),
    (0.4 * math.log(0.4) + 0.6 * math.log(0.6))
    / (0.5 * (0.4 * math.log(0.4) + 0.6 * math.log(0.6))
       + 0.5 * (0.8 * math.log(0.4) + 0.2 * math.log(0.2))),
    id="split",
  ),
  # Cell 2 missed: 6 segments of one pixel.  I = H(T) again, H(S) = -.4 log .4 - 6 * .1 log .1.
  pytest.param(
    array("11....", "11...."),
    (16 + 6) / ((16 + 6) / 2 + 52 / 2),
    (0.4 * math.log(0.4) + 0.6 * math.log(0.6))
    / (0.5 * (0.4 * math.log(0.4) + 0.6 * math.log(0.6))
       + 0.5 * (0.4 * math.log(0.4) + 0.6 * math.log(0.1))),
    id="missed",
  ),
  # All background: 10 segments of one pixel.
  pytest.param(
    array("......", "......"),
    10 / (10 / 2 + 52 / 2),
    (0.4 * math.log(0.4) + 0.6 * math.log(0.6))
    / (0.5 * (0.4 * math.log(0.4) + 0.6 * math.log(0.6)) + 0.5 * math.log(0.1)),
    id="background",
  ),
])  # fmt: skip
def test_split_scores_by_hand(prediction, v_rand, v_info):
  result = split_scores(TWO, prediction)
  assert result == {"v_rand": pytest.approx(v_rand), "v_info": pytest.approx(v_info, abs=1e-12)}


def test_split_scores_where_there_is_little_to_compare():
  one, none = array("11", "11"), array("..", "..")
  assert split_scores(one, 7 * one) == {"v_rand": 1, "v_info": 1}  # 0/0 is 1
  # 4 segments of one pixel: 4 / (4/2 + 16/2); H(T) = 0, so I = 0.
  assert split_scores(one, none) == {"v_rand": pytest.approx(0.4), "v_info": 0}
  for prediction in (one, none):
    result = split_scores(none, prediction)
    assert math.isnan(result["v_rand"]) and math.isnan(result["v_info"])


def random_pair(seed=0):
  """Truth with background, and a prediction i32[20,17] without, related to it."""
  rng = np.random.default_rng(seed)
  truth = rng.integers(0, 5, (20, 17), np.int32)
  return truth, np.where(rng.random(truth.shape) < 0.6, truth + 1, rng.integers(1, 9, truth.shape))


def test_split_scores_equal_scikit_image():
  truth, prediction = random_pair()
  result = split_scores(truth, prediction)
  table = skimage_metrics.contingency_table(
    truth, prediction, ignore_labels=[0], sparse_type="array"
  )
  # Theirs leaves out the pairs of a pixel with itself; in a table of many pixels they vanish.
  error, _, _ = skimage_metrics.adapted_rand_error(table=1e9 * table)
  assert result["v_rand"] == pytest.approx(1 - error, rel=1e-6)
  s_given_t, t_given_s = skimage_metrics.variation_of_information(
    truth, prediction, ignore_labels=[0]
  )
  t = np.bincount(truth[truth > 0])[1:] / (truth > 0).sum()
  h_truth = -(t * np.log2(t)).sum()  # theirs are in bits
  info = h_truth - t_given_s
  h_segments = info + s_given_t
  assert result["v_info"] == pytest.approx(info / (h_segments / 2 + h_truth / 2))


def test_ids_and_what_lies_in_the_background_do_not_matter():
  truth, prediction = random_pair()
  prediction[prediction == 3] = 0
  expected = split_scores(truth, prediction)
  new_truth, new_id = np.array([0, 40, 2, 1, 3]), np.array([0, 5, 90, 3, 1, 2, 4, 6, 8])
  assert split_scores(new_truth[truth], new_id[prediction]) == pytest.approx(expected)
  assert split_scores(truth, np.where(truth > 0, prediction, 1)) == pytest.approx(expected)


@pytest.mark.parametrize("truth, prediction, num_wrong", [
  pytest.param(cells("##.##", "##.##", "##.##"), cells("#.###", "#.###", "#.###"), 0, id="moved"),
  pytest.param(cells("....", ".##.", ".##."), cells("####", "####", "####"), 0, id="grown"),
  pytest.param(cells("##.##", "##.##", "##.##"), cells("##.##", "#####", "##.##"), 1, id="bridge"),
  # At the image border, too: the outside does not lead around the line.
  pytest.param(cells("##.##", "##.##", "##.##"), cells("#####", "##.##", "##.##"), 1, id="edge"),
  # Corner to corner is no bridge between cells, but cuts no background either.
  pytest.param(cells("#..", "...", ".##"), cells("#..", ".#.", ".##"), 0, id="diagonal"),
  # All but the last pixel of the cut is an indentation.
  pytest.param(cells("#####", "#####", "#####"), cells("##.##", "##.##", "##.##"), 1, id="cut"),
  pytest.param(cells(".....", ".###.", "....."), cells(*["....."] * 3), 1, id="missed"),
  pytest.param(cells(*["....."] * 3), cells(".....", ".###.", "....."), 3, id="invented"),
  pytest.param(cells(*["#####"] * 3), cells("#####", "#..##", "#####"), 2, id="hole"),
  # A hole that the border cuts is an indentation: background outside.
  pytest.param(cells(*["#####"] * 3), cells("#..##", "#####", "#####"), 0, id="bay"),
  # A missed ring shrinks to the thinnest around its hole, 4-connected: 8 pixels.
  pytest.param(cells("####", "#.##", "####"), cells("....", "....", "...."), 8, id="ring"),
])  # fmt: skip
def test_warping_error_by_hand(truth, prediction, num_wrong):
  assert warping_error(truth, prediction) == num_wrong / truth.size


def warping_error_by_loop(truth, prediction):
  """The same order of flips, pixel by pixel; counts the pieces of the whole image each time."""

  def topology(mask):
    mask = np.pad(mask, 1)
    return ndimage.label(mask)[1], ndimage.label(~mask, np.ones((3, 3)))[1]

  warped, moved = truth.copy(), True
  while moved:
    moved = False
    # `warping_error` starts with the odd rows and columns of the image: it pads by one.
    for i, j in ((1, 1), (1, 0), (0, 1), (0, 0)):
      for place in np.ndindex(*truth.shape):
        if (place[0] % 2, place[1] % 2) == (i, j) and warped[place] != prediction[place]:
          before = topology(warped)
          warped[place] ^= True
          if topology(warped) == before:
            moved = True
          else:
            warped[place] ^= True
  return (warped != prediction).mean()


@pytest.mark.parametrize("seed", range(6))
def test_warping_error_equals_loop(seed):
  rng = np.random.default_rng(seed)
  noise = ndimage.gaussian_filter(rng.standard_normal((2, 12, 11)), (0, 1, 1))
  truth = noise[0] > -0.1
  prediction = noise[0] + 0.5 * (1 + seed % 3) * noise[1] > 0
  error = warping_error(truth, prediction)
  assert error == warping_error_by_loop(truth, prediction)
  assert 0 < error < (truth != prediction).mean()
  assert warping_error(truth, truth) == 0


def test_instance_scores():
  prediction = array("111111", "11.111")
  result = instance_scores(TWO, prediction)
  assert result == {**split_scores(TWO, prediction), "warping_error": 1 / 12}
  assert result["v_info"] == 0


def test_pixels_that_are_not_valid_are_background():
  valid = np.array([[True, True, False, True, True, False]] * 2)
  inputs = TWO, array("111113", "11.111")
  kept = array("11.22.", "11.22."), array("11.11.", "11.11.")
  assert instance_scores(*inputs, valid) == instance_scores(*kept)
  assert instance_scores(*inputs) != instance_scores(*kept)
  np.testing.assert_array_equal(inputs[0], TWO)
  nothing = instance_scores(*inputs, np.zeros_like(valid))
  assert math.isnan(nothing["v_rand"]) and nothing["warping_error"] == 0
