"""Bounded edit distance between texts."""


def within(a: str, b: str, limit: int) -> bool:
  """Whether the Levenshtein distance of `a` and `b` is at most `limit` (Levenshtein 1966).

  Counts insertions, deletions and substitutions of characters. Takes O(length * limit) time, less
  if the texts differ early, and O(limit) memory.

  Only the band of prefix pairs whose lengths differ by at most `limit` is computed: entry k of a
  row is the distance of the first i characters of `a` and the first i + k - limit of `b`.
  """
  if abs(len(a) - len(b)) > limit:
    return False
  if a == b:
    return True
  far, width = limit + 1, 2 * limit + 1
  row = [abs(k - limit) if k >= limit else far for k in range(width)]  # i = 0: insertions only
  for i, char in enumerate(a, 1):
    previous, row = row, [far] * width
    for k in range(max(limit - i, 0), min(limit + len(b) - i, width - 1) + 1):
      j = i + k - limit
      if j == 0:
        row[k] = i
        continue
      deletion = previous[k + 1] + 1 if k + 1 < width else far
      insertion = row[k - 1] + 1 if k else far
      substitution = previous[k] + (char != b[j - 1])
      row[k] = min(deletion, insertion, substitution, far)
    if min(row) > limit:
      return False
  return row[limit + len(b) - len(a)] <= limit
