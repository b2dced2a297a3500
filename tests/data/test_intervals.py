import math

import pytest

from distill_jax.data import intervals


def test_the_interval_of_eight_in_ten_is_the_one_worked_out_by_hand():
  """z = 1.959964, z^2 = 3.841459: center (0.8 + 0.192073) / 1.384146 = 0.716740,
  half (1.959964 / 1.384146) * sqrt(0.016 + 0.009604) = 0.226577."""
  low, high = intervals.wilson(8, 10)
  assert low == pytest.approx(0.490162, abs=2e-6)
  assert high == pytest.approx(0.943318, abs=2e-6)


def test_none_of_ten_leaves_room_above_and_all_of_ten_below():
  """With no success the upper end is z^2 / (n + z^2) = 3.841459 / 13.841459."""
  low, high = intervals.wilson(0, 10)
  assert (low, high) == (0.0, pytest.approx(0.2775328, abs=1e-6))
  assert intervals.wilson(10, 10) == (pytest.approx(1 - high), 1.0)


def test_the_published_example_is_met():
  """Newcombe 1998, table I, method 3: 81 of 263 gives 0.2553 to 0.3662."""
  assert intervals.wilson(81, 263) == (
    pytest.approx(0.2553, abs=5e-5),
    pytest.approx(0.3662, abs=5e-5),
  )


def test_nothing_measured_says_nothing():
  assert intervals.wilson(0, 0) == (0.0, 1.0)


def test_the_share_lies_inside_and_more_trials_say_more():
  wide, narrow = intervals.wilson(3, 4), intervals.wilson(300, 400)
  assert wide[0] < narrow[0] < 0.75 < narrow[1] < wide[1]


def test_at_its_ends_the_share_is_z_standard_errors_away():
  """The score interval is where |p - share| = z * sqrt(p (1 - p) / n)."""
  for bound in intervals.wilson(37, 90, confidence=0.9):
    assert abs(bound - 37 / 90) == pytest.approx(1.6448536 * math.sqrt(bound * (1 - bound) / 90))


@pytest.mark.parametrize("case", [(-1, 5, 0.95), (6, 5, 0.95), (1, 5, 1.0), (1, 5, 0.0)])
def test_what_is_no_share_is_refused(case):
  with pytest.raises(ValueError):
    intervals.wilson(*case)
