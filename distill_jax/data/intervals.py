"""How sure a measured share is."""

import math
import statistics


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
  """(low, high) of Wilson's score interval for a share of n trials; (0.0, 1.0) if n is 0.

  Wilson 1927, as in Newcombe 1998, method 3: no continuity correction.

  Raises ValueError unless 0 <= successes <= n and 0 < confidence < 1.
  """
  if not 0 <= successes <= n:
    raise ValueError(f"{successes} successes of {n}")
  if not 0 < confidence < 1:
    raise ValueError(f"confidence is {confidence}, not between 0 and 1")
  if n == 0:
    return 0.0, 1.0
  z = statistics.NormalDist().inv_cdf((1 + confidence) / 2)
  share = successes / n
  center = (share + z * z / (2 * n)) / (1 + z * z / n)
  half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
  # At the ends the bound is exact, whatever rounding makes of it.
  low = 0.0 if successes == 0 else max(center - half, 0.0)
  high = 1.0 if successes == n else min(center + half, 1.0)
  return low, high
