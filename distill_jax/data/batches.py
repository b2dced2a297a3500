"""Batches: the arrays of training step `s`, as a pure function of (seed, s).

Dimension key: B rows, L bucket length, T target positions, C triplets per row, P preference pairs
per row.
"""

from collections.abc import Iterable, Sequence
from typing import Generic

import numpy as np

from distill_jax.data import collate, encode, pack, row_order
from distill_jax.data.batch_size import BatchSize
from distill_jax.data.collate import Example


class Corpus(Generic[Example]):
  """All examples of one training phase, and the batch they form at each step.

  Every batch has the same T, C and P, so each bucket compiles to a single shape (or a few, if
  incomplete batches shrink).

  Attributes:
    examples: The examples that fit the longest bucket.
    too_long: Number of examples dropped because they do not fit.
    lost_triplets: Number of examples whose triplet did not fit into their row in the first epoch.
    batch_order: Maps a step to (epoch, bucket, rows of example indices).
  """

  def __init__(
    self,
    examples: Sequence[Example],
    collator: collate.Collator[Example],
    *,
    size: BatchSize,
    buckets: Sequence[int],
    seed: int,
    pad: int,
    packed: bool,
    interval: int = 0,
  ):
    """Builds the corpus.

    Args:
      examples: Encoded examples or encoded preference pairs.
      collator: Turns an example into the token row it has in an epoch.
      size: How many rows a batch has.
      buckets: Row lengths in tokens. A row is padded to the smallest bucket that holds it.
      seed: Seed of the row order and of the triplets drawn in each epoch.
      pad: Token id of padding.
      packed: Whether to fill every row up to the longest bucket with several examples.
      interval: Number of consecutive batches of one stage before the next stage; 0 mixes stages.
    """
    self._interval = interval
    self._collator, self._seed, self._size, self._pad = collator, seed, size, pad
    self._buckets, self._packed, self._longest = buckets, packed, max(buckets)
    self.examples = [x for x in examples if collator.plain_row(x).length <= self._longest]
    self.too_long = len(examples) - len(self.examples)
    self._rows_by_epoch: dict[int, list[encode.Row]] = {}
    rows = self._epoch_rows(0)
    expected_triplets = sum(collator.has_triplet(example) for example in self.examples)
    self.lost_triplets = expected_triplets - sum(row.triplets for row in rows)
    self._capacity = pack.capacity(
      rows, self._longest, packed=packed, with_triplets=collator.with_triplets
    )
    self.batch_order = row_order.BatchOrder(self._epoch_batches)

  def _epoch_rows(self, epoch: int) -> list[encode.Row]:
    """The row of each example in `epoch`. Only the latest epoch is kept in memory."""
    if epoch not in self._rows_by_epoch:
      rng = np.random.Generator(np.random.PCG64((self._seed, epoch, 1)))
      rows = [self._collator.row(x, rng, self._longest) for x in self.examples]
      self._rows_by_epoch = {epoch: rows}
    return self._rows_by_epoch[epoch]

  def _epoch_batches(self, epoch: int) -> list[row_order.Batch]:
    if not self._interval:
      return self._batches_of(epoch, range(len(self.examples)))
    by_stage: dict[str, list[int]] = {}
    for index, example in enumerate(self.examples):
      stage = example.stage if isinstance(example, encode.EncodedExample) else ""
      by_stage.setdefault(stage, []).append(index)
    stage_batches = [self._batches_of(epoch, indices) for indices in by_stage.values()]
    return row_order.interleave(stage_batches, interval=self._interval)

  def _batches_of(self, epoch: int, indices: Sequence[int]) -> list[row_order.Batch]:
    """One pass over the examples at `indices`, as (bucket, rows of example indices) batches."""
    all_rows = self._epoch_rows(epoch)
    rows = [all_rows[n] for n in indices]
    questions = [self.examples[n].problem for n in indices]
    key = (self._seed, epoch)
    if self._packed:
      sizes = [pack.row_size(row) for row in rows]
      packed_batches = pack.epoch_batches(
        sizes, questions, room=self._capacity, batch=self._size.complete(self._longest), key=key
      )
      batches = [(self._longest, groups) for groups in packed_batches]
    else:
      lengths = [row.length for row in rows]
      plain_batches = row_order.epoch_batches(
        lengths, questions, buckets=self._buckets, size=self._size, key=key
      )
      batches = [(bucket, [[n] for n in numbers]) for bucket, numbers in plain_batches]
    return [(bucket, [[indices[n] for n in row] for row in groups]) for bucket, groups in batches]

  def shape(self, step: int) -> tuple[int, int]:
    """Returns the rows and their length [B, L] in the arrays of `step`."""
    _, bucket, groups = self.batch_order[step]
    return self._size.allocated(len(groups), bucket), bucket

  def batch(self, step: int) -> dict[str, np.ndarray]:
    """Returns the arrays of `step`. Rows missing from an incomplete batch have weight 0."""
    epoch, bucket, groups = self.batch_order[step]
    count, _ = self.shape(step)
    rows = self._epoch_rows(epoch)
    return stack(
      [pack.join_rows([rows[n] for n in group]) for group in groups],
      batch=count,
      length=bucket,
      targets=min(self._capacity.targets, bucket),
      pad=self._pad,
      triplets=self._capacity.triplets,
      pairs=self._capacity.pairs,
    )


def stack(
  rows: Sequence[encode.Row],
  *,
  batch: int,
  length: int,
  targets: int,
  pad: int,
  triplets: int = 1,
  pairs: int = 0,
) -> dict[str, np.ndarray]:
  """Pads rows on the right and stacks them into arrays.

  Fields that no row needs are left out:

    always             tokens, positions, segments [B, L]; where, labels, weights [B, T];
                       denominator [B]
    triplets or pairs  roots, detached [B, L]. Without either, no row is a tree, and `segments`
                       holds the root of each token instead: a target is part of its prompt's
                       segment.
    triplets           slots, shares [B, L]; valid [B, C]
    pairs              owners [B, T]; references [B, 2P]; pairs [B, P]
    encoder-decoder    source, source_segments [B, L]

  Args:
    rows: At most `batch` rows.
    batch: Number of rows B; missing ones have weight 0.
    length: Bucket length L.
    targets: Target positions T per row.
    pad: Token id of padding.
    triplets: Triplets C per row.
    pairs: Preference pairs P per row.
  """
  is_tree = bool(triplets or pairs)
  widths = {"tokens": length, "positions": length, "segments": length}
  widths |= {"where": targets, "labels": targets, "weights": targets}
  if is_tree:
    widths |= {"roots": length, "detached": length}
  if triplets:
    widths |= {"slots": length, "shares": length}
  if pairs:
    widths |= {"owners": targets, "references": 2 * pairs}
  if rows[0].source:
    widths |= {"source": length, "source_segments": length}
  arrays = {}
  for name, width in widths.items():
    dtype = np.float32 if name in ("weights", "shares", "references") else np.int32
    fill = pad if name in ("tokens", "source") else 0
    field = "roots" if name == "segments" and not is_tree else name
    arrays[name] = np.full((batch, width), fill, dtype)
    for n, row in enumerate(rows):
      values = getattr(row, field)
      arrays[name][n, : len(values)] = values
  arrays["denominator"] = np.zeros(batch, np.float32)
  arrays["denominator"][: len(rows)] = [row.denominator for row in rows]
  if triplets:
    arrays["valid"] = _prefix_mask((row.triplets for row in rows), batch, triplets)
  if pairs:
    arrays["pairs"] = _prefix_mask((row.pairs for row in rows), batch, pairs)
  return arrays


def _prefix_mask(counts: Iterable[int], rows: int, width: int) -> np.ndarray:
  """float32 [rows, width] with the first `count` entries of each row set to 1."""
  mask = np.zeros((rows, width), np.float32)
  for n, count in enumerate(counts):
    mask[n, :count] = 1
  return mask
