"""Row order: which rows make up step `s`.

The order is a pure function of (seed, s), so the step number is the whole iterator state.
"""

from collections.abc import Callable, Sequence

import numpy as np

from distill_jax.data.batch_size import BatchSize

Batch = tuple[int, list[list[int]]]  # (bucket, rows of example indices)


def bucket_of(length: int, buckets: Sequence[int]) -> int | None:
  """The smallest bucket that holds `length` tokens, or None if none does."""
  return min((b for b in buckets if b >= length), default=None)


def epoch_batches(
  lengths: Sequence[int],
  questions: Sequence[str],
  *,
  buckets: Sequence[int],
  size: BatchSize,
  key: int | Sequence[int],
) -> list[tuple[int, list[int]]]:
  """One pass over all rows, as (bucket, row indices) batches in random order.

  Every row that fits a bucket occurs once, and no batch holds two rows of one question. Rows left
  over in a short bucket move up to a longer one to keep incomplete batches rare.

  Args:
    lengths: Length of each row in tokens.
    questions: Question id of each row.
    buckets: Row lengths to pad to.
    size: How many rows a batch of each length has.
    key: Seed of the order.
  """
  rng = np.random.Generator(np.random.PCG64(key))
  waiting: dict[int, list[int]] = {b: [] for b in sorted(buckets)}
  for row in rng.permutation(len(lengths)):
    if (b := bucket_of(lengths[row], buckets)) is not None:
      waiting[b].append(int(row))
  batches, left, longest = [], [], 0
  for b in sorted(buckets):
    complete, left = _complete_batches(left + waiting[b], questions, size.complete(b))
    batches += [(b, rows) for rows in complete]
    longest = b
    if not any(waiting[longer] for longer in buckets if longer > b):
      break
  while left:
    rows, left = _take(left, questions, size.complete(longest))
    batches.append((longest, rows))
  return [batches[i] for i in rng.permutation(len(batches))]


def _take(rows: list[int], questions: Sequence[str], batch: int) -> tuple[list[int], list[int]]:
  """Returns (the first rows with distinct questions, at most `batch`; the rest, in order)."""
  taken, seen, skipped = [], set(), []
  for n, row in enumerate(rows):
    if len(taken) == batch:
      return taken, skipped + rows[n:]
    if questions[row] in seen:
      skipped.append(row)
    else:
      taken.append(row)
      seen.add(questions[row])
  return taken, skipped


def _complete_batches(
  rows: list[int], questions: Sequence[str], batch: int
) -> tuple[list[list[int]], list[int]]:
  """Returns (complete batches, the rows left over)."""
  complete = []
  while len(rows) >= batch:
    taken, rest = _take(rows, questions, batch)
    if len(taken) < batch:
      break
    complete.append(taken)
    rows = rest
  return complete, rows


def interleave(stage_batches: Sequence[list[Batch]], *, interval: int) -> list[Batch]:
  """Alternates between stages: `interval` batches of one stage, then of the next, until all end.

  A stage with k times as many batches as the smallest has k times the interval, so all stages last
  to the end (Piao & Park 2025, TinyThinker: k is the number of options of a question).
  """
  fewest = max(min(map(len, stage_batches), default=0), 1)
  queues = [(list(b), interval * max(round(len(b) / fewest), 1)) for b in stage_batches]
  batches = []
  while any(queue for queue, _ in queues):
    for queue, count in queues:
      batches += queue[:count]
      del queue[:count]
  return batches


class BatchOrder:
  """Maps steps to batches: `batch_order[step]` is (epoch, bucket, rows), epoch after epoch."""

  def __init__(self, epoch_batches: Callable[[int], list[Batch]]):
    """`epoch_batches(epoch)` returns the batches of an epoch; it is called once per epoch."""
    self._epoch_batches = epoch_batches
    self._epochs: list[list[Batch]] = []

  def epoch(self, epoch: int) -> list[Batch]:
    """The batches of an epoch, in order."""
    while len(self._epochs) <= epoch:
      self._epochs.append(self._epoch_batches(len(self._epochs)))
    return self._epochs[epoch]

  def __getitem__(self, step: int) -> tuple[int, int, list[list[int]]]:
    """Returns (epoch, bucket, rows) of a step.

    Raises:
      ValueError: No row fits a bucket, so there are no steps.
    """
    epoch = 0
    while step >= len(self.epoch(epoch)):
      if not self.epoch(epoch):
        raise ValueError("no row fits a bucket, so there are no training steps")
      step -= len(self.epoch(epoch))
      epoch += 1
    bucket, rows = self.epoch(epoch)[step]
    return epoch, bucket, rows
