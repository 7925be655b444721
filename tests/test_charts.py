"""Curves of training; how they look is in test_visualize, on a page in test_seeds."""

from jaxseg.charts import MAX_SEEDS, draw_curves, draw_seeds


def test_a_loss_that_no_logarithm_shows(recwarn):
  lines = [{"split": "train", "epoch": i, "step": i, "loss": 0.0} for i in (1, 2)]
  assert draw_curves(lines).axes[0].get_yscale() == "linear"
  assert draw_seeds({0: lines, 1: lines}, "loss", "loss").axes[0].get_yscale() == "linear"
  assert not recwarn.list


def test_many_seeds_have_no_legend():
  """And one colour, as few can be told apart."""
  lines = [{"split": "test", "epoch": i, "step": i, "loss": 1.0, "miou": 0.1 * i} for i in (1, 2)]
  for number in MAX_SEEDS, MAX_SEEDS + 1:
    axis = draw_seeds(dict.fromkeys(range(number), lines), "miou", "mean IoU").axes[0]
    few = number <= MAX_SEEDS
    assert len(axis.lines) == number and (axis.get_legend() is not None) == few
    assert len({line.get_color() for line in axis.lines}) == (number if few else 1)
