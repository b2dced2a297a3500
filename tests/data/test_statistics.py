"""Intervals and tests against manual calculations, published examples and scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from distill_jax.data import statistics


def test_the_interval_of_eight_in_ten_matches_a_manual_calculation():
  """z = 1.959964, z^2 = 3.841459: center (0.8 + 0.192073) / 1.384146 = 0.716740,
  half (1.959964 / 1.384146) * sqrt(0.016 + 0.009604) = 0.226577."""
  low, high = statistics.wilson(8, 10)
  assert low == pytest.approx(0.490162, abs=2e-6)
  assert high == pytest.approx(0.943318, abs=2e-6)


def test_none_of_ten_leaves_room_above_and_all_of_ten_below():
  """With no success the upper end is z^2 / (n + z^2) = 3.841459 / 13.841459."""
  low, high = statistics.wilson(0, 10)
  assert (low, high) == (0.0, pytest.approx(0.2775328, abs=1e-6))
  assert statistics.wilson(10, 10) == (pytest.approx(1 - high), 1.0)


def test_the_interval_matches_the_published_example():
  """Newcombe 1998, table I, method 3: 81 of 263 gives 0.2553 to 0.3662."""
  assert statistics.wilson(81, 263) == (
    pytest.approx(0.2553, abs=5e-5),
    pytest.approx(0.3662, abs=5e-5),
  )


def test_no_trials_give_the_whole_range():
  assert statistics.wilson(0, 0) == (0.0, 1.0)


def test_the_interval_contains_the_share_and_shrinks_with_more_trials():
  wide, narrow = statistics.wilson(3, 4), statistics.wilson(300, 400)
  assert wide[0] < narrow[0] < 0.75 < narrow[1] < wide[1]


def test_at_its_ends_the_share_is_z_standard_errors_away():
  """The score interval is where |p - share| = z * sqrt(p (1 - p) / n)."""
  for bound in statistics.wilson(37, 90, confidence=0.9):
    assert abs(bound - 37 / 90) == pytest.approx(1.6448536 * math.sqrt(bound * (1 - bound) / 90))


@pytest.mark.parametrize("case", [(-1, 5, 0.95), (6, 5, 0.95), (1, 5, 1.0), (1, 5, 0.0)])
def test_invalid_counts_and_levels_are_rejected(case):
  with pytest.raises(ValueError):
    statistics.wilson(*case)


def verdicts(share: float, seeds: int, items: int, key: int = 0):
  rng = np.random.Generator(np.random.PCG64(key))
  return (rng.random((seeds, items)) < share).astype(float)


def test_the_bootstrap_of_one_seed_is_the_normal_interval_of_a_share():
  """With N items it has standard error sqrt(p (1 - p) / N): 1.96 of them either way."""
  table = verdicts(0.3, 1, 2000)
  share = table.mean()
  half = 1.959964 * math.sqrt(share * (1 - share) / 2000)
  low, high = statistics.bootstrap(table)
  assert low == pytest.approx(share - half, abs=0.1 * half)
  assert high == pytest.approx(share + half, abs=0.1 * half)


def test_seeds_that_disagree_widen_the_interval_and_seeds_that_agree_do_not():
  """Rows are all ones or all zeros, so only the draw of seeds matters. Half of the draws of 2 seeds
  take one seed twice, so the interval is the whole range."""
  assert statistics.bootstrap([[1.0] * 50, [0.0] * 50]) == (0.0, 1.0)
  assert statistics.bootstrap(np.ones((5, 40))) == (1.0, 1.0)
  one = verdicts(0.5, 1, 300)
  wide, same = statistics.bootstrap(one), statistics.bootstrap(np.repeat(one, 4, axis=0))
  assert same == pytest.approx(wide, abs=0.01)


def test_of_three_seeds_that_disagree_the_interval_holds_the_truth_in_about_84_of_100_tables():
  """Seeds that differ by 10 points on 300 items each, as in the docstring of bootstrap."""
  rng, tables, held = np.random.Generator(np.random.PCG64(0)), 300, 0
  for _ in range(tables):
    share_S1 = 0.5 + 0.1 * rng.standard_normal((3, 1))
    low, high = statistics.bootstrap((rng.random((3, 300)) < share_S1).astype(float), draws=500)
    held += low <= 0.5 <= high
  assert held / tables == pytest.approx(0.84, abs=0.06)


def test_the_spread_over_seeds_and_items_is_the_sum_of_both():
  """Rows are shifted by r_s and columns by c_n, so the variance of the mean is
  var(r) / S + var(c) / N, and the interval is 2 x 1.96 of its roots wide."""
  rng = np.random.Generator(np.random.PCG64(3))
  r_S, c_N = rng.normal(size=30), rng.normal(size=40)
  low, high = statistics.bootstrap(r_S[:, None] + c_N[None, :])
  width = 2 * 1.959964 * math.sqrt(r_S.var() / 30 + c_N.var() / 40)
  assert high - low == pytest.approx(width, rel=0.05)


def test_the_same_table_has_the_same_interval_and_more_confidence_a_wider_one():
  table = verdicts(0.6, 3, 80)
  assert statistics.bootstrap(table) == statistics.bootstrap(table.copy())
  low, high = statistics.bootstrap(table)
  wider = statistics.bootstrap(table, confidence=0.99)
  assert wider[0] < low < table.mean() < high < wider[1]


def test_a_paired_difference_is_clear_where_separate_intervals_overlap():
  """Both fail on the same items and one gains a few, so the difference is certain."""
  before = verdicts(0.5, 3, 200)
  after = before.copy()
  after[:, :20] = 1.0
  low, high = statistics.bootstrap(after - before)
  assert 0 < low < (after - before).mean() < high
  assert statistics.bootstrap(before)[1] > statistics.bootstrap(after)[0]


@pytest.mark.parametrize("table", [[], [[]], [1.0, 0.0], np.zeros((0, 4))])
def test_an_empty_table_has_no_interval(table):
  with pytest.raises(ValueError):
    statistics.bootstrap(table)


@pytest.mark.parametrize(
  ("gained", "lost", "p"),
  [
    (0, 0, 1.0),
    (1, 0, 1.0),
    (5, 0, 2 / 32),
    (0, 10, 2 / 1024),
    (2, 6, 2 * (1 + 8 + 28) / 256),
    (4, 4, 1.0),
    (7, 7, 1.0),
    (1, 2, 1.0),
  ],
)
def test_mcnemar_counts_the_outcomes_of_a_fair_coin(gained, lost, p):
  assert statistics.mcnemar(gained, lost) == p == statistics.mcnemar(lost, gained)


def test_mcnemar_of_many_pairs_is_the_chi_square_with_its_correction():
  """(|b - c| - 1)^2 / (b + c) with one degree of freedom: 39^2 / 1000 gives 2 (1 - Phi(1.2333))."""
  z = 39 / math.sqrt(1000)
  assert statistics.mcnemar(520, 480) == pytest.approx(math.erfc(z / math.sqrt(2)), rel=2e-3)
  assert statistics.mcnemar(5000, 0) == 0.0  # 2^-4999 underflows


def test_mcnemar_is_the_binomial_test():
  for gained, lost in ((3, 9), (40, 61), (0, 7), (200, 150)):
    expected = stats.binomtest(gained, gained + lost).pvalue
    assert statistics.mcnemar(gained, lost) == pytest.approx(expected, rel=1e-9)


def test_negative_counts_are_rejected():
  with pytest.raises(ValueError):
    statistics.mcnemar(-1, 3)
