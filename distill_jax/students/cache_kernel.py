"""A kernel for TPU that writes one column of each row of a cache, in place.

Dimension key: B rows, G key-value heads (groups), S columns of the cache, K head width, W width of
a column: G * K.

Rows write at positions of their own. XLA writes them one row after another, in a loop, or passes
over the whole cache. This kernel reads and writes only the block of columns that changes.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from distill_jax.students import sharding

LANES = 128  # columns of a block; the compiler of TPUs keeps the columns innermost

AXES = ("batch", "groups", None, None)  # of a cache


def write(
  caches_BGSK: Sequence[jax.Array], columns_BG1K: Sequence[jax.Array], position_B: jax.Array
) -> tuple[jax.Array, ...]:
  """Returns caches of one shape with a column of each row written, at the row's position."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return _write(position_B, *caches_BGSK, *columns_BG1K)
  cache, column = (sharding.partition(mesh, x[0].shape, AXES) for x in (caches_BGSK, columns_BG1K))
  rows = sharding.partition(mesh, position_B.shape, AXES[:1])
  count = len(caches_BGSK)
  inputs = (rows, *(cache,) * count, *(column,) * count)
  return sharding.local(_write, inputs, (cache,) * count)(position_B, *caches_BGSK, *columns_BG1K)


def _write(position_B: jax.Array, *arrays: jax.Array) -> tuple[jax.Array, ...]:
  count = len(arrays) // 2
  batch, groups, columns, width = arrays[0].shape
  caches = [x.swapaxes(2, 3).reshape(batch, groups * width, columns) for x in arrays[:count]]
  news = [x.reshape(batch, 1, groups * width) for x in arrays[count:]]
  lanes = min(LANES, columns)
  block = pl.BlockSpec((1, groups * width, lanes), lambda row, at: (row, 0, at[row] // lanes))
  new = pl.BlockSpec((1, 1, groups * width), lambda row, at: (row, 0, 0))
  written = pl.pallas_call(
    _kernel,
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=1,
      in_specs=[block] * count + [new] * count,
      out_specs=[block] * count,
      grid=(batch,),
    ),
    out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in caches],
    input_output_aliases={1 + n: n for n in range(count)},
    name="write_cache_column",
    interpret=sharding.platform() != "tpu",
  )(jnp.minimum(position_B, columns - 1), *caches, *news)
  return tuple(x.reshape(batch, groups, width, columns).swapaxes(2, 3) for x in written)


def _kernel(position: Any, *refs: Any) -> None:
  count = len(refs) // 3
  for old, new, out in zip(refs[:count], refs[count : 2 * count], refs[2 * count :], strict=True):
    _, width, lanes = old.shape
    at = position[pl.program_id(0)] % lanes
    here = jax.lax.broadcasted_iota(jnp.int32, (width, lanes), 1) == at
    column = jnp.broadcast_to(new[0].astype(jnp.float32), (lanes, width)).T
    out[0] = jnp.where(here, column.astype(out.dtype), old[0])
