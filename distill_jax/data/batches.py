"""Encoded examples to the arrays of step s.

Dimension key: B rows, L bucket length, T target positions, C triplets of a row, P preference pairs
of a row.
"""

import numpy as np

from distill_jax.data import pack, row_order


class Corpus:
  """All examples of a training phase, and what they look like at any step. `kind`: see kinds.py.

  `interval`: batches of one stage before those of the next; 0 mixes the stages.
  With `packed`, every row is filled up to the longest bucket with several examples. All steps have
  the same T, C and P, so that a bucket has one shape.
  """

  def __init__(
    self,
    examples,
    kind,
    *,
    batch: int,
    buckets,
    seed: int,
    pad: int,
    packed: bool,
    interval: int = 0,
  ):
    self._interval = interval
    self._kind, self._seed, self._batch, self._pad = kind, seed, batch, pad
    self._buckets, self._packed, self._longest = buckets, packed, max(buckets)
    self.examples = [x for x in examples if kind.plain_row(x).length <= self._longest]
    self.too_long = len(examples) - len(self.examples)
    self._rows_of = {}
    rows = self._epoch(0)
    # rows of the first epoch that had no room for theirs
    self.lost_triplets = sum(map(kind.has_triplet, self.examples)) - sum(r.triplets for r in rows)
    self._room = pack.capacity(rows, self._longest, packed=packed, with_triplets=kind.with_triplets)
    self.batch_order = row_order.BatchOrder(self._batches)

  def _epoch(self, number: int):
    """Each example's row in that epoch; one epoch is kept."""
    if number not in self._rows_of:
      rng = np.random.Generator(np.random.PCG64((self._seed, number, 1)))
      rows = [self._kind.row(x, rng, self._longest) for x in self.examples]
      self._rows_of = {number: rows}
    return self._rows_of[number]

  def _batches(self, epoch: int):
    if not self._interval:
      return self._batches_of(epoch, range(len(self.examples)))
    stages = {}
    for number, example in enumerate(self.examples):
      stages.setdefault(example.stage, []).append(number)
    of_stages = [self._batches_of(epoch, numbers) for numbers in stages.values()]
    return row_order.interleave(of_stages, interval=self._interval)

  def _batches_of(self, epoch: int, members):
    """[(bucket, rows of example numbers)] of one pass over the examples numbered `members`."""
    rows, questions = self._epoch(epoch), [self.examples[n].problem for n in members]
    rows = [rows[n] for n in members]
    fixed = {"batch": self._batch, "key": (self._seed, epoch)}
    if self._packed:
      sizes = [pack.row_size(row) for row in rows]
      batches = pack.epoch_batches(sizes, questions, room=self._room, **fixed)
      found = [(self._longest, groups) for groups in batches]
    else:
      lengths = [row.length for row in rows]
      batches = row_order.epoch_batches(lengths, questions, buckets=self._buckets, **fixed)
      found = [(bucket, [[n] for n in numbers]) for bucket, numbers in batches]
    return [(bucket, [[members[n] for n in row] for row in groups]) for bucket, groups in found]

  def batch(self, step: int) -> dict[str, np.ndarray]:
    """The arrays of step `step`; rows that are missing from a batch have weight 0."""
    epoch, bucket, groups = self.batch_order[step]
    rows = self._epoch(epoch)
    return stack(
      [pack.join_rows([rows[n] for n in group]) for group in groups],
      batch=self._batch,
      length=bucket,
      targets=min(self._room.targets, bucket),
      pad=self._pad,
      triplets=self._room.triplets,
      pairs=self._room.pairs,
    )


def stack(
  rows, *, batch: int, length: int, targets: int, pad: int, triplets: int = 1, pairs: int = 0
) -> dict[str, np.ndarray]:
  """Pads rows on the right into arrays [B, L], [B, T], [B, C], [B, P], [B, 2P] and [B].

  What the rows do not have is not there: slots, shares and valid without triplets; owners,
  references and pairs without pairs; roots and detached without either, where no row is a tree (an
  example's target then belongs to its prompt's segment); source and source_segments for decoders.
  """
  whole = {"tokens": length, "positions": length, "segments": length}
  of_targets = {"where": targets, "labels": targets, "weights": targets}
  of_trees = {"roots": length, "detached": length} if triplets or pairs else {}
  of_triplets = {"slots": length, "shares": length} if triplets else {}
  of_pairs = {"owners": targets, "references": 2 * pairs} if pairs else {}
  of_source = {"source": length, "source_segments": length} if rows[0].source else {}
  out = {}
  for name, width in (whole | of_targets | of_trees | of_triplets | of_pairs | of_source).items():
    kind = np.float32 if name in ("weights", "shares", "references") else np.int32
    out[name] = np.full((batch, width), pad if name in ("tokens", "source") else 0, kind)
    for n, row in enumerate(rows):
      value = row.roots if name == "segments" and not of_trees else getattr(row, name)
      out[name][n, : len(value)] = value
  out["denominator"] = np.zeros(batch, np.float32)
  out["denominator"][: len(rows)] = [row.denominator for row in rows]
  for name, width, of in (("valid", triplets, "triplets"), ("pairs", pairs, "pairs")):
    if width:
      out[name] = np.zeros((batch, width), np.float32)
      for n, row in enumerate(rows):
        out[name][n, : getattr(row, of)] = 1
  return out
