"""Trees as plain rows: the root and one branch in each, so that causal attention needs no mask.

Dimension key: B rows, L tokens of a row, C copies of a row (one for each branch), H heads (of
queries or of keys), K head width.

  row       root  branch 1  branch 2
  copy 1    root  branch 1
  copy 2    root  branch 2

For kernels that take a mask only as a dense bias, and compute a gradient for it, as cuDNN's do.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from distill_jax.students.token_rows import Rows

Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def attend(
  causal: Attend,
  q_BLHK: jax.Array,
  k_BLHK: jax.Array,
  v_BLHK: jax.Array,
  rows: Rows,
  *,
  branches: int,
  detach: bool,
) -> jax.Array:
  """Attention of rows that are one tree each, [B, L, H, K].

  Args:
    causal: Causal attention of plain rows.
    q_BLHK: Queries.
    k_BLHK: Keys, of their own number of heads.
    v_BLHK: Values, likewise.
    rows: The rows. Not all of a tree's `branches` may be detached.
    branches: The most branches of a tree.
    detach: Whether to honor rows.detached.
  """
  batch, length = rows.segments.shape
  index_1L, number_1C1 = jnp.arange(length)[None], 1 + jnp.arange(branches)[None, :, None]
  in_root = rows.segments == rows.root
  before = jnp.pad(rows.segments, ((0, 0), (1, 0)))[:, :-1]
  begins = ~in_root & (rows.segments != before)
  branch_BL = jnp.cumsum(begins, axis=1)  # 0 in the root
  size_B1 = jnp.sum(in_root & (rows.segments > 0), axis=1, keepdims=True)
  first_BCL = begins[:, None] & (branch_BL[:, None] == number_1C1)
  start_BC = jnp.argmax(first_BCL, axis=2)
  is_root_BCL = jnp.broadcast_to((index_1L < size_B1)[:, None], first_BCL.shape)
  moved_BC1 = (start_BC - size_B1)[..., None]
  source_BCL = jnp.minimum(index_1L[None] + jnp.where(is_root_BCL, 0, moved_BC1), length - 1)

  def copies(x_BLHK: jax.Array) -> jax.Array:
    return _take(x_BLHK, source_BCL.reshape(batch, -1)).reshape(-1, *x_BLHK.shape[1:])

  q, k, v = copies(q_BLHK), copies(k_BLHK), copies(v_BLHK)
  stopped_BC = jnp.zeros(start_BC.shape, bool)
  if detach:
    stopped_BC = jnp.any(first_BCL & rows.is_detached[:, None], axis=2)
    stopped = (is_root_BCL & stopped_BC[..., None]).reshape(-1, length, 1, 1)
    k, v = (jnp.where(stopped, jax.lax.stop_gradient(x), x) for x in (k, v))
  out = causal(q, k, v).reshape(batch, branches * length, *q.shape[2:])
  # The root's own states come from a copy whose root has a gradient.
  copy_BL = jnp.where(in_root, jnp.argmin(stopped_BC, axis=1)[:, None], branch_BL - 1)
  copy_BL = jnp.clip(copy_BL, 0, branches - 1)  # padding comes after the last branch
  moved_BL = size_B1 - jnp.take_along_axis(start_BC, copy_BL, axis=1)
  place_BL = jnp.clip(index_1L + jnp.where(in_root, 0, moved_BL), 0, length - 1)
  return _take(out, copy_BL * length + place_BL)


def _take(x_BLHK: jax.Array, index_BN: jax.Array) -> jax.Array:
  """Returns [B, N, H, K]; the gradients of what is taken several times are summed in float32."""
  taken = jnp.take_along_axis(x_BLHK.astype(jnp.float32), index_BN[..., None, None], axis=1)
  return taken.astype(x_BLHK.dtype)
