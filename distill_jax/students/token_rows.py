"""The rows that a student reads, and the cache of keys and values.

Rows may be trees: a token sees the earlier tokens of its own segment and of its root segment.
Several continuations can thus share one prompt (anchor, positive and negative of a triplet) without
seeing each other. A plain row is one segment that is its own root. Segment 0 is padding.

A column of the cache is a position: a row at position p writes column p and sees columns up to p,
wherever the other rows are. A row's result therefore depends on that row alone, to the last bit.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from distill_jax.students import cache_kernel, sharding


class Rows(NamedTuple):
  """Token rows; every array is int32 [B, L], those of the source [B, E]."""

  tokens: jax.Array
  positions: jax.Array
  segments: jax.Array
  roots: jax.Array | None = None  # None: no row is a tree, every segment is its own root
  detached: jax.Array | None = None  # 1 where the root is seen without gradient
  # Encoder-decoders only: a token reads the source whose segment is the token's root.
  source: jax.Array | None = None
  source_segments: jax.Array | None = None

  @property
  def root(self) -> jax.Array:
    """The root segment of each token."""
    return self.segments if self.roots is None else self.roots

  @property
  def is_detached(self) -> jax.Array:
    """Whether each token sees its root without gradient. Raises ValueError if it is not known."""
    if self.detached is None:
      raise ValueError("detach needs rows.detached")
    return self.detached > 0


class Cache(NamedTuple):
  """Keys and values, one array [B, G, S, K] a layer; `fixed` is further data of each row."""

  keys: tuple[jax.Array, ...]
  values: tuple[jax.Array, ...]
  fixed: Any = ()


def visible(rows: Rows, window: int = 0) -> jax.Array:
  """Returns the attention mask [B, L, L]: whether a token (axis 1) sees another (axis 2).

  Args:
    rows: The rows.
    window: How many positions back a token sees, itself included; 0 is all.
  """
  order = jnp.arange(rows.tokens.shape[1])
  segments = rows.segments
  seen = segments[:, :, None] == segments[:, None, :]
  if rows.roots is not None:
    seen |= rows.roots[:, :, None] == segments[:, None, :]
  seen &= (order[:, None] >= order[None, :])[None] & (segments > 0)[:, None, :]
  if window:
    seen &= rows.positions[:, :, None] - rows.positions[:, None, :] < window
  return seen


def write_column(cache_BGSK: jax.Array, new_BG1K: jax.Array, position_B: jax.Array) -> jax.Array:
  """Returns the cache with one column of each row written, the one at the row's position."""

  def write(cache_GSK: jax.Array, new_G1K: jax.Array, position: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(cache_GSK, new_G1K, position, axis=1)

  return jax.vmap(write)(cache_BGSK, new_BG1K, position_B)


def write_columns(
  caches_BGSK: Sequence[jax.Array], new_BG1K: Sequence[jax.Array], position_B: jax.Array
) -> tuple[jax.Array, ...]:
  """Does what `write_column` does for several caches of one shape; on TPU, with a kernel."""
  if sharding.platform() == "tpu":
    return cache_kernel.write(caches_BGSK, new_BG1K, position_B)
  pairs = zip(caches_BGSK, new_BG1K, strict=True)
  return tuple(write_column(cache, new, position_B) for cache, new in pairs)


def column_ages(position_B: jax.Array, columns: int) -> jax.Array:
  """Returns int32 [B, S]: how many tokens ago each column was written; below 0: not yet."""
  return position_B[:, None] - jnp.arange(columns)[None, :]
