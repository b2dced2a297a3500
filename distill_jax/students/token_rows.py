"""What a student reads, and what it remembers while it writes.

Rows may be trees: a token sees the earlier tokens of its own segment and of its root segment, so
that several continuations share one prompt (anchor, positive and negative of a contrast) and still
cannot see each other. A plain row is one segment that is its own root. Segment 0 is padding.

A column of the cache is a position: a row at position p writes column p and sees columns up to p,
however far other rows have come. So what it computes depends on itself alone, to the last bit.
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


def write(cache_BGSK, new_BG1K, position_B):
  """The cache with each row's own column written."""
  one = lambda x, new, at: jax.lax.dynamic_update_slice_in_dim(x, new, at, axis=1)
  return jax.vmap(one)(cache_BGSK, new_BG1K, position_B)


def distances(position_B, slots: int):
  """int32 [B, S]: how many tokens ago each column was written; below 0, it is yet to be."""
  return position_B[:, None] - jnp.arange(slots)[None, :]
