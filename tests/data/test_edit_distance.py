"""The bounded edit distance against the full table."""

import time

import numpy as np
import pytest

from distill_jax.data import edit_distance


def table(a: str, b: str) -> int:
  """The Levenshtein distance from the full table."""
  cells = np.zeros((len(a) + 1, len(b) + 1), int)
  cells[0], cells[:, 0] = range(len(b) + 1), range(len(a) + 1)
  for i in range(1, len(a) + 1):
    for j in range(1, len(b) + 1):
      change = cells[i - 1, j - 1] + (a[i - 1] != b[j - 1])
      cells[i, j] = min(change, cells[i - 1, j] + 1, cells[i, j - 1] + 1)
  return int(cells[-1, -1])


@pytest.mark.parametrize("seed", range(5))
def test_the_band_agrees_with_the_full_table(seed):
  rng = np.random.Generator(np.random.PCG64(seed))
  for _ in range(40):
    a, b = ("".join(rng.choice(list("abc"), rng.integers(0, 14))) for _ in range(2))
    exact = table(a, b)
    for limit in range(15):
      assert (
        edit_distance.within(a, b, limit) == edit_distance.within(b, a, limit) == (exact <= limit)
      )


def test_a_limit_of_zero_accepts_only_equal_texts():
  assert edit_distance.within("a lamp", "a lamp", 0) and not edit_distance.within(
    "a lamp", "a camp", 0
  )
  assert edit_distance.within("", "", 0) and edit_distance.within("", "abc", 3)


def test_long_texts_take_linear_time_and_almost_none_if_they_differ_early():
  started = time.process_time()
  assert edit_distance.within("ab" * 10_000, "ba" * 10_000, 10)
  assert not edit_distance.within("a" * 1_000_000, "b" * 1_000_000, 10)
  assert not edit_distance.within("a" * 1_000_000, "a", 10)
  assert time.process_time() - started < 2.0
