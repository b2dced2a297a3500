"""How different two texts are."""


def within(a: str, b: str, limit: int) -> bool:
  """Whether at most `limit` characters have to be put in, left out or changed to make one text of
  the other (Levenshtein 1966). Takes time of the order of length times limit, and less if the texts
  part early; room of the order of limit.

  Only the band of prefixes whose lengths differ by at most `limit` is looked at: place k of a row
  is the distance of the first i characters of `a` and the first i + k - limit of `b`.
  """
  if abs(len(a) - len(b)) > limit:
    return False
  if a == b:
    return True
  far, width = limit + 1, 2 * limit + 1
  row = [abs(k - limit) if k >= limit else far for k in range(width)]  # i = 0: what b has more
  for i, char in enumerate(a, 1):
    before, row = row, [far] * width
    for k in range(max(limit - i, 0), min(limit + len(b) - i, width - 1) + 1):
      j = i + k - limit
      if j == 0:
        row[k] = i
        continue
      removed = before[k + 1] + 1 if k + 1 < width else far
      added = row[k - 1] + 1 if k else far
      row[k] = min(removed, added, before[k] + (char != b[j - 1]), far)
    if min(row) > limit:
      return False
  return row[limit + len(b) - len(a)] <= limit
