"""What a student reads, and what it remembers while it writes.

Rows may be trees: a token sees the earlier tokens of its own segment and of its root segment, so
that several continuations share one prompt (anchor, positive and negative of a contrast) and still
cannot see each other. A plain row is one segment that is its own root. Segment 0 is padding.

The cache is a ring: at one step all rows write the same column `slot`, so that column c is
(slot - c) mod S tokens old, and a row at position p sees what is at most p tokens old. Rows of any
length and age share it.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Rows(NamedTuple):
  """Token rows; every array is int32 [B, L], the source's [B, E]."""

  tokens: jax.Array
  positions: jax.Array
  segments: jax.Array
  roots: jax.Array | None = None  # None: no row is a tree, every segment is its own root
  detached: jax.Array | None = None  # 1 where the root is seen without gradient
  # Encoder-decoders only: a token reads the source whose segment is its root's.
  source: jax.Array | None = None
  source_segments: jax.Array | None = None

  @property
  def root(self) -> jax.Array:
    return self.segments if self.roots is None else self.roots


class Cache(NamedTuple):
  """Keys and values, one array [B, G, S, K] a layer; `fixed` is what else belongs to a row."""

  keys: tuple
  values: tuple
  fixed: Any = ()


def visible(rows: Rows, window: int = 0):
  """mask [B, L, L]: who sees whom. `window`: how many positions back at most, itself included; 0 is
  all."""
  order = jnp.arange(rows.tokens.shape[1])
  segments = rows.segments
  seen = segments[:, :, None] == segments[:, None, :]
  if rows.roots is not None:
    seen |= rows.roots[:, :, None] == segments[:, None, :]
  seen &= (order[:, None] >= order[None, :])[None] & (segments > 0)[:, None, :]
  if window:
    seen &= rows.positions[:, :, None] - rows.positions[:, None, :] < window
  return seen


def ages(slot, slots: int):
  """int32 [S]: how many tokens ago each column of the ring was written; the newest is 0."""
  return (slot - jnp.arange(slots)) % slots


def write(cache_BGSK, new_BG1K, slot):
  return jax.lax.dynamic_update_slice_in_dim(cache_BGSK, new_BG1K, slot, axis=2)
