"""Packing: several examples in one row.

  segments   1 1 1 2 2 | 3 3 4 4 4 | 5 5 5 5 6 6 | 0 0      each example keeps its tree, with
  roots      1 1 1 1 1 | 3 3 3 3 3 | 5 5 5 5 5 5 | 0 0      segment numbers of its own,
  positions  0 1 2 3 4 | 0 1 2 3 4 | 0 1 2 3 4 5 | 0 0      and its positions start at 0

Dimension key: B rows, K kinds of room (tokens, source, targets, triplets, pairs), N examples.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from distill_jax.data import encode

SLACK = 1.15  # room for targets, triplets and pairs, relative to their average in the corpus
TARGETS, FEW = 32, 4  # room for targets, and for triplets and pairs, is rounded up to these
MISSES = 64  # examples that may find no room before a batch is closed


class RowSize(NamedTuple):
  """How much of each kind of room a row uses or has."""

  tokens: int
  source: int
  targets: int
  triplets: int
  pairs: int


def row_size(row: encode.Row) -> RowSize:
  """How much room `row` uses."""
  return RowSize(len(row.tokens), len(row.source), len(row.where), row.triplets, row.pairs)


def capacity(
  rows: Sequence[encode.Row], longest: int, *, packed: bool, with_triplets: bool
) -> RowSize:
  """The room that every row of `longest` tokens has, in all epochs. Each of `rows` fits it.

  There is room for the targets, triplets and pairs of the widest example. A packed row has at least
  SLACK times what `longest` tokens have on average, and not more, because the output head computes
  all of that room whether it is used or not. Rounded up, so it rarely changes between rounds (a
  change means a new compilation).

  Args:
    rows: The rows of one epoch, one per example.
    longest: Tokens of the longest bucket.
    packed: Whether a row holds several examples.
    with_triplets: Whether any row can have a triplet.
  """
  sizes_NK = np.array([row_size(row) for row in rows], int).reshape(-1, len(RowSize._fields))
  room_K = sizes_NK.max(axis=0, initial=0)
  if packed:
    total_K = sizes_NK.sum(axis=0)
    per_token_K = total_K / max(total_K[:2].max(), 1)
    room_K = np.maximum(room_K, np.ceil(SLACK * longest * per_token_K).astype(int))
  room, multiple = RowSize(*room_K.tolist()), FEW if packed else 1
  return RowSize(
    tokens=longest,
    source=longest,
    targets=min(_round_up(room.targets, TARGETS), longest),
    triplets=_round_up(room.triplets, multiple) if with_triplets else 0,
    pairs=_round_up(room.pairs, multiple) if room.pairs else 0,
  )


def _round_up(n: int, multiple: int) -> int:
  """The smallest positive multiple of `multiple` that is at least `n`."""
  return max(math.ceil(n / multiple), 1) * multiple


def epoch_batches(
  sizes: Sequence[RowSize],
  questions: Sequence[str],
  *,
  room: RowSize,
  batch: int,
  key: int | Sequence[int],
) -> list[list[list[int]]]:
  """One pass over all examples: for each batch its rows, for each row the indices of its examples.

  First fit in random order, with the rows of one batch open at a time. Every example occurs once,
  and no batch holds two examples of one question.

  Args:
    sizes: What each example's row uses.
    questions: Question id of each example.
    room: What each packed row has.
    batch: Rows per batch.
    key: Seed of the order.

  Raises:
    ValueError: An example is larger than a row.
  """
  sizes_NK = np.array(sizes, int).reshape(-1, len(room))
  if (sizes_NK > room).any():
    raise ValueError(f"an example does not fit into a row with {room}")
  rng = np.random.Generator(np.random.PCG64(key))
  waiting, batches = rng.permutation(len(sizes_NK)).tolist(), []
  while waiting:
    rows, waiting = _fill_batch(waiting, sizes_NK, questions, room, batch)
    batches.append(rows)
  return [batches[n] for n in rng.permutation(len(batches))]


def _fill_batch(
  waiting: list[int], sizes_NK: np.ndarray, questions: Sequence[str], room: RowSize, batch: int
) -> tuple[list[list[int]], list[int]]:
  """Returns (the rows of one batch; the examples still waiting, in order)."""
  room_BK = np.tile(room, (batch, 1))
  rows: list[list[int]] = [[] for _ in range(batch)]
  seen, left, misses = set(), [], 0
  for position, n in enumerate(waiting):
    if misses == MISSES:
      left += waiting[position:]
      break
    if questions[n] in seen:
      left.append(n)
      continue
    fits_B = (room_BK >= sizes_NK[n]).all(axis=1)
    if not fits_B.any():
      left.append(n)
      misses += 1
      continue
    first = int(fits_B.argmax())
    room_BK[first] -= sizes_NK[n]
    rows[first].append(n)
    seen.add(questions[n])
  return [row for row in rows if row], left


def join_rows(rows: Sequence[encode.Row]) -> encode.Row:
  """Joins rows one after the other into a single row. No example sees another."""
  joined: dict[str, Any] = {field.name: [] for field in dataclasses.fields(encode.Row)}
  joined |= {"denominator": 0.0, "triplets": 0}
  above, pairs = 0, 0  # segments and pairs so far
  for row in rows:
    shifted = {
      "segments": [above + s for s in row.segments],
      "roots": [above + s for s in row.roots],
      "source_segments": [above + s for s in row.source_segments],
      "slots": [s + 3 * joined["triplets"] if s else 0 for s in row.slots],
      "where": [len(joined["tokens"]) + i for i in row.where],
      "owners": [2 * pairs + o for o in row.owners],
    }
    above, pairs = above + max(row.segments), pairs + row.pairs
    for name in joined:
      joined[name] += shifted.get(name, getattr(row, name))
  return encode.Row(**joined)
