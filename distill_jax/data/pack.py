"""Several examples in one row: which ones, and what the row looks like.

  segments   1 1 1 2 2 | 3 3 4 4 4 | 5 5 5 5 6 6 | 0 0      each example keeps its tree, under
  roots      1 1 1 1 1 | 3 3 3 3 3 | 5 5 5 5 5 5 | 0 0      numbers of its own
  positions  0 1 2 3 4 | 0 1 2 3 4 | 0 1 2 3 4 5 | 0 0      and starts anew

Dimension key: B rows, K kinds of room (tokens, source, targets, triplets, pairs).
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from distill_jax.data import encode

SLACK = 1.15  # times as much room for targets, triplets and pairs as their share in the corpus
TARGETS, FEW = 32, 4  # what the room for targets, and for triplets and pairs, is rounded up to
MISSES = 64  # examples that may find no room before a batch is closed


class RowSize(NamedTuple):
  """What a row takes, or holds, of each kind of room."""

  tokens: int
  source: int
  targets: int
  triplets: int
  pairs: int


def row_size(row: encode.Row) -> RowSize:
  return RowSize(len(row.tokens), len(row.source), len(row.where), row.triplets, row.pairs)


def capacity(rows, longest: int, *, packed: bool, with_triplets: bool) -> RowSize:
  """What every row of `longest` tokens holds, in all epochs. Each of `rows` fits.

  Of targets, triplets and pairs it holds what the widest has; packed, SLACK times what so many
  tokens have on average, and not more, since the output head works on all of that room, used or
  not. Rounded up, so that it seldom changes between rounds.
  """
  sizes_NK = np.array([row_size(row) for row in rows], int).reshape(-1, len(RowSize._fields))
  most = sizes_NK.max(axis=0, initial=0)
  if packed:
    total = sizes_NK.sum(axis=0)
    per_token = total / max(total[:2].max(), 1)
    most = np.maximum(most, np.ceil(SLACK * longest * per_token).astype(int))
  room, few = RowSize(*most.tolist()), FEW if packed else 1
  up = lambda n, multiple: max(-(-n // multiple), 1) * multiple
  return RowSize(
    tokens=longest,
    source=longest,
    targets=min(up(room.targets, TARGETS), longest),
    triplets=up(room.triplets, few) if with_triplets else 0,
    pairs=up(room.pairs, few) if room.pairs else 0,
  )


def epoch_batches(sizes, questions, *, room: RowSize, batch: int, key) -> list[list[list[int]]]:
  """One pass over all examples: for each batch its rows, for each row its examples' numbers.

  First fit, in random order, with the rows of one batch open at a time. Every example occurs once;
  no batch holds two of one question. Raises ValueError if an example is larger than a row.
  """
  sizes_NK = np.array(sizes, int).reshape(-1, len(room))
  if (sizes_NK > room).any():
    raise ValueError(f"an example does not fit {room}")
  rng = np.random.Generator(np.random.PCG64(key))
  waiting, out = rng.permutation(len(sizes_NK)).tolist(), []
  while waiting:
    rows, waiting = _fill(waiting, sizes_NK, questions, room, batch)
    out.append(rows)
  return [out[n] for n in rng.permutation(len(out))]


def _fill(waiting, sizes_NK, questions, room, batch):
  """(the rows of one batch; who is still waiting, in order)."""
  room_BK, rows = np.tile(room, (batch, 1)), [[] for _ in range(batch)]
  seen, left, misses = set(), [], 0
  for at, n in enumerate(waiting):
    if misses == MISSES:
      left += waiting[at:]
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


def join_rows(rows) -> encode.Row:
  """The row in which `rows` lie one behind the other; none sees another."""
  whole = {field.name: [] for field in dataclasses.fields(encode.Row)}
  whole |= {"denominator": 0.0, "triplets": 0}
  above, pairs = 0, 0  # segments and pairs so far
  for row in rows:
    moved = {
      "segments": [above + s for s in row.segments],
      "roots": [above + s for s in row.roots],
      "source_segments": [above + s for s in row.source_segments],
      "slots": [s and s + 3 * whole["triplets"] for s in row.slots],
      "where": [len(whole["tokens"]) + i for i in row.where],
      "owners": [2 * pairs + o for o in row.owners],
    }
    above, pairs = above + max(row.segments), pairs + row.pairs
    for name in whole:
      whole[name] += moved.get(name, getattr(row, name))
  return encode.Row(**whole)
