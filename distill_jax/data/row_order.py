"""Which rows make up step s: a pure function of (seed, s), so that the step number is the whole
iterator state."""

import numpy as np


def bucket_of(length: int, buckets) -> int | None:
  """The smallest bucket that holds `length`; None if none does."""
  return min((b for b in buckets if b >= length), default=None)


def epoch_batches(lengths, questions, *, buckets, batch: int, key) -> list[tuple[int, list[int]]]:
  """One pass over all rows: (bucket, row numbers) a batch, in random order.

  Every row that fits a bucket occurs once. No batch holds two rows of one question. Rows left over
  in a short bucket move up to a longer one, so that few batches are incomplete.
  """
  rng = np.random.Generator(np.random.PCG64(key))
  waiting = {b: [] for b in sorted(buckets)}
  for row in rng.permutation(len(lengths)):
    if (b := bucket_of(lengths[row], buckets)) is not None:
      waiting[b].append(int(row))
  out, left = [], []
  for b in sorted(buckets):
    full, left = _fill(left + waiting[b], questions, batch)
    out += [(b, rows) for rows in full]
    longest = b
    if not any(waiting[longer] for longer in buckets if longer > b):
      break
  while left:
    rows, left = _take(left, questions, batch)
    out.append((longest, rows))
  return [out[i] for i in rng.permutation(len(out))]


def _take(rows, questions, batch):
  """(the first rows of different questions, at most `batch`; the rest)."""
  taken, seen, passed = [], set(), []
  for at, row in enumerate(rows):
    if len(taken) == batch:
      return taken, passed + rows[at:]
    if questions[row] in seen:
      passed.append(row)
    else:
      taken.append(row)
      seen.add(questions[row])
  return taken, passed


def _fill(rows, questions, batch):
  """(complete batches; what is left)."""
  full = []
  while len(rows) >= batch:
    taken, rest = _take(rows, questions, batch)
    if len(taken) < batch:
      break
    full.append(taken)
    rows = rest
  return full, rows


def interleave(batches_of_stages, *, interval: int) -> list:
  """The batches of all stages by turns: `interval` of one stage, then of the next, and again, until
  there are no more. A stage with k times as many batches as the smallest has k times the interval
  (TinyThinker: as many times as a question has options), so that all last to the end."""
  least = min(map(len, batches_of_stages), default=0)
  queues = [(list(b), interval * max(round(len(b) / max(least, 1)), 1)) for b in batches_of_stages]
  out = []
  while any(queue for queue, _ in queues):
    for queue, some in queues:
      out += queue[:some]
      del queue[:some]
  return out


class BatchOrder:
  """order[step] -> (epoch, bucket, rows): the epochs one after the other. `batches_of(epoch)` gives
  that epoch's (bucket, rows)."""

  def __init__(self, batches_of):
    self._batches_of = batches_of
    self._epochs: list[list] = []

  def epoch(self, number: int):
    while len(self._epochs) <= number:
      self._epochs.append(self._batches_of(len(self._epochs)))
    return self._epochs[number]

  def __getitem__(self, step: int):
    number = 0
    while step >= len(self.epoch(number)):
      if not self.epoch(number):
        raise ValueError("no row fits a bucket: there is no step")
      step -= len(self.epoch(number))
      number += 1
    bucket, rows = self.epoch(number)[step]
    return number, bucket, rows
