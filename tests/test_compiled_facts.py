"""Facts of compiled programs: the search for the largest batch.

The programs here are numbers; tests/aot compiles real ones.
"""

import pytest

from benchmarks.compiled import search


@pytest.mark.parametrize("slope, limit, first", [(0.2, 16, 8), (0.2, 16, 200), (1.5, 16, 1)])
def test_a_few_tries_find_how_many_rows_fit(slope, limit, first):
  tries = []

  def attempt(count: int) -> search.Try:
    tries.append(count)
    gib = 8 + slope * count + 0.1 * (count % 3)  # not quite a line
    return search.Try(count, gib < limit, {"sft": gib, "score": None})

  most = search.largest(attempt, first, limit)
  want = max(n for n in range(1, 100) if 8 + slope * n + 0.1 * (n % 3) < limit)
  assert want - max(want // 8, 1) <= most <= want and len(tries) <= 6
  assert len(set(tries)) == len(tries)


def test_a_search_without_numbers_doubles_and_halves():
  attempt = lambda count: search.Try(count, count <= 37, {"sft": None})
  assert 33 <= search.largest(attempt, 4, 16.0) <= 37
  assert search.largest(lambda count: search.Try(count, False, {}), 4, 16.0) == 0
