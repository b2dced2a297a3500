"""Entries of tables and positions of rows, with gradients that are summed in float32.

Dimension key: B batch, L positions, T positions that are taken, V entries of a table, D width.

A frequent token occurs many thousand times in a batch. A sum in 16 bits stops growing after a few
hundred of them, so entries are taken from the float32 table and cast afterwards.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from distill_jax.students import sharding


def entries(
  table_VD: jax.Array,
  indices_BL: jax.Array,
  dtype: str,
  *,
  vocab: str | None = "vocab",
  whole: bool = False,
) -> jax.Array:
  """Returns the entries of a table, [B, L, D], in `dtype`.

  On a mesh, no device gathers the table: devices that share parts of its width exchange tokens and
  entries instead. The gradient is summed where the part of the table is, in float32.

  Args:
    table_VD: The table, placed by the axes (vocab, embed).
    indices_BL: Which entries; rows are split over the devices.
    dtype: The dtype of the result.
    vocab: The logical axis of the entries.
    whole: Whether every device holds the whole width of the table; there is nothing to exchange.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return jnp.take(table_VD, indices_BL, axis=0).astype(dtype)
  split_rows = sharding.partition(mesh, indices_BL.shape, ("batch", None))[0] is not None
  if whole or not split_rows:  # a batch that the devices cannot share
    whole_VD = sharding.constrain(table_VD, vocab, None)
    return jnp.take(whole_VD, indices_BL, axis=0).astype(dtype)
  names = sharding.partition(mesh, table_VD.shape, (vocab, "embed"))
  parts = P(*(name if name and mesh.shape[name] > 1 else None for name in names))
  return _entries(parts, dtype, table_VD.shape[0], table_VD, indices_BL)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _entries(
  parts: P, dtype: str, count: int, table_VD: jax.Array, indices_BL: jax.Array
) -> jax.Array:
  return _exchange(parts, dtype, table_VD, indices_BL)


def _exchange(parts: P, dtype: str, table_VD: jax.Array, indices_BL: jax.Array) -> jax.Array:
  """Looks entries up in the parts of a table; `parts` is how the table is split."""
  by_entry, by_width = parts

  def look_up(part: jax.Array, indices: jax.Array) -> jax.Array:
    if by_width:
      indices = jax.lax.all_gather(indices, by_width, axis=0, tiled=True)
    at, inside = _within_part(indices, len(part), by_entry)
    found = part[at].astype(dtype)
    if by_entry:
      found = jnp.where(inside[..., None], found, 0)
    if by_width:
      found = jax.lax.all_to_all(found, by_width, split_axis=0, concat_axis=2, tiled=True)
    return jax.lax.psum(found, by_entry) if by_entry else found

  rows = sharding.spec(("batch",))
  return sharding.local(look_up, (parts, rows), rows)(table_VD, indices_BL)


def _exchange_forward(
  parts: P, dtype: str, count: int, table_VD: jax.Array, indices_BL: jax.Array
) -> tuple[jax.Array, Any]:
  like = jnp.zeros((), table_VD.dtype)
  return _exchange(parts, dtype, table_VD, indices_BL), (indices_BL, like)


def _exchange_backward(
  parts: P, dtype: str, count: int, residuals: Any, slope_BLD: jax.Array
) -> tuple[jax.Array, None]:
  del dtype
  by_entry, by_width = parts
  indices_BL, like = residuals
  held = count // (jax.sharding.get_abstract_mesh().shape[by_entry] if by_entry else 1)
  copies = tuple(name for name in sharding.RULES["batch"] if name != by_width)

  def add_up(slope: jax.Array, indices: jax.Array) -> jax.Array:
    if by_width:
      indices = jax.lax.all_gather(indices, by_width, axis=0, tiled=True)
      slope = jax.lax.all_to_all(slope, by_width, split_axis=2, concat_axis=0, tiled=True)
    at, inside = _within_part(indices, held, by_entry)
    at = jnp.where(inside, at, held)  # beyond the end: dropped
    total = jnp.zeros((held, slope.shape[-1]), jnp.float32)
    return jax.lax.psum(total.at[at].add(slope.astype(jnp.float32), mode="drop"), copies)

  rows = sharding.spec(("batch",))
  total_VD = sharding.local(add_up, (rows, rows), parts)(slope_BLD, indices_BL)
  return total_VD.astype(like.dtype), None


_entries.defvjp(_exchange_forward, _exchange_backward)


def _within_part(indices: jax.Array, held: int, axis: str | None) -> tuple[jax.Array, jax.Array]:
  """Returns (indices into this device's part of `held` entries, which of them lie in it)."""
  at = indices - (jax.lax.axis_index(axis) * held if axis else 0)
  inside = (at >= 0) & (at < held)
  return jnp.where(inside, at, 0), inside


def positions(states_BLD: jax.Array, where_BT: jax.Array) -> jax.Array:
  """Returns the states at some positions of each row, [B, T, D].

  Several targets may read one position: the branches of a tree all begin after their root.
  """
  taken_BTD = jnp.take_along_axis(states_BLD.astype(jnp.float32), where_BT[..., None], axis=1)
  return taken_BTD.astype(states_BLD.dtype)
