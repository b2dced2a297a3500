"""Searches for the largest batch that fits, with few compilations.

The memory of a program grows almost linearly with its rows. After two tries, a line through them
predicts how many rows fit; a few more make sure. If they do not, the search doubles and halves.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

PREDICTIONS = 5  # tries after which lines are no longer trusted


class Try(NamedTuple):
  """What was found for a number of rows."""

  count: int
  fits: bool
  gib: Mapping[str, float | None]  # of a device, by program; None: unknown, or not compiled


def largest(attempt: Callable[[int], Try], first: int, limit: float) -> int:
  """Returns the largest count that fits, to about an eighth; 0 if 1 does not fit.

  Args:
    attempt: Finds out whether a count fits.
    first: The count to begin with.
    limit: GiB of a device.
  """
  tries = [attempt(first)]
  while (count := _next(tries, limit)) is not None:
    tries.append(attempt(count))
  return _low(tries)


def _low(tries: list[Try]) -> int:
  return max((x.count for x in tries if x.fits), default=0)


def _next(tries: list[Try], limit: float) -> int | None:
  """Returns the next count to try; None if it is known well enough."""
  low, high = _low(tries), min((x.count for x in tries if not x.fits), default=None)
  if high is not None and high - low <= max(low // 8, 1):
    return None
  guess = _predicted(tries, limit) if len(tries) <= PREDICTIONS else None
  if guess is None:
    return 2 * low if high is None else (low + high) // 2
  # A prediction that is known to fit, or not to fit, is tested from its other side.
  if guess <= low:
    return low + max(low // 8, 1)
  return guess if high is None or guess < high else min(high - 1, math.ceil(8 * high / 9))


def _predicted(tries: list[Try], limit: float) -> int | None:
  """Returns the largest count that should fit, from lines through the two largest tries."""
  guesses = []
  for program in {name for x in tries for name in x.gib}:
    known = {x.count: gib for x in tries if (gib := x.gib.get(program)) is not None}
    if len(known) > 1:
      small, large = sorted(known)[-2:]
      slope = (known[large] - known[small]) / (large - small)
      if slope > 0:
        guesses.append(math.floor(large + (limit - known[large]) / slope))
  return min(guesses, default=None)
