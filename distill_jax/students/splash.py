"""Splash attention (jax's Pallas kernels) for TPU, of plain rows and of rows that are trees.

Dimension key: B batch, L length, H query heads, G key-value heads (groups), K head width. Functions
of one device's part have no suffixes.

In a tree, a token sees its own segment and its root segment. The kernel compares one id of a query
with one id of a key, so a tree takes two passes: over the own segment and over the root. Their
results are joined by their log-sum-exps, and the backward kernels get the joined ones. Gradients
into the root are left out where it is detached: its keys get other query ids in the backward pass.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
from jax.sharding import PartitionSpec as P

from distill_jax.students import sharding
from distill_jax.students.token_rows import Rows

BLOCKS = (512, 256, 128)  # tokens of a block: the first one that divides the rows
NOTHING = -1  # a query id that no key has


class Ids(NamedTuple):
  """Which query sees which key, int32 [B, L]: those with equal ids, as far as it is earlier."""

  query: jax.Array
  key: jax.Array
  learning: jax.Array  # ids of the queries that give keys and values a gradient


def attend(
  q_BLHK: jax.Array,
  k_BGLK: jax.Array,
  v_BGLK: jax.Array,
  rows: Rows,
  *,
  window: int,
  softcap: float,
  detach: bool,
) -> jax.Array:
  """Block-sparse causal attention on TPU; elsewhere the kernels are interpreted (slow, for tests).

  Args:
    q_BLHK: Queries, scaled.
    k_BGLK: Keys.
    v_BGLK: Values.
    rows: The rows. Those that are trees must have no window.
    window: How far back a token sees; 0 is all.
    softcap: Of the scores; 0 is none.
    detach: Whether to honor rows.detached.

  Returns:
    [B, L, H, K].
  """
  q = q_BLHK.swapaxes(1, 2)
  passes = _passes(rows, detach)

  def on_part(q: jax.Array, k: jax.Array, v: jax.Array, passes: list[Ids]) -> jax.Array:
    kernel = _kernel(q.shape[1], q.shape[2], window, softcap)
    if rows.roots is None:
      ids = splash_attention.SegmentIds(passes[0].query, passes[0].key)
      return jax.vmap(kernel)(q, k, v, ids)
    masks = kernel.fwd_mask_info, kernel.dq_mask_info, kernel.dkv_mask_info
    run = lambda *xs: _tree(_Options(**kernel.kwargs), masks, *xs)
    return jax.vmap(run)(q, k, v, passes)

  if jax.sharding.get_abstract_mesh().empty:
    return on_part(q, k_BGLK, v_BGLK, passes).swapaxes(1, 2)
  heads, whole = P(sharding.RULES["batch"], "tensor"), P(sharding.RULES["batch"])
  part = sharding.local(on_part, (heads, heads, heads, whole), heads)
  return part(q, k_BGLK, v_BGLK, passes).swapaxes(1, 2)


def _passes(rows: Rows, detach: bool) -> list[Ids]:
  """Returns the passes over the keys; a tree's second one is over roots."""
  segments, is_detached = rows.segments, rows.is_detached if detach else None
  if rows.roots is None:
    return [Ids(segments, segments, segments)]
  in_root = segments == rows.roots
  root = jnp.where(in_root, NOTHING, rows.roots)
  own = Ids(segments, segments, segments)
  other = Ids(root, segments, root)
  if is_detached is not None:
    own = own._replace(learning=jnp.where(is_detached & in_root, NOTHING, segments))
    other = other._replace(learning=jnp.where(is_detached, NOTHING, root))
  return [own, other]


def _kernel(heads: int, length: int, window: int, softcap: float) -> Any:
  block = next(size for size in BLOCKS if length % size == 0)
  head_mask = (
    splash_attention.LocalMask((length, length), (window - 1, 0), 0)
    if window
    else splash_attention.CausalMask((length, length))
  )
  return splash_attention.make_splash_mha(
    splash_attention.MultiHeadMask([head_mask] * heads),
    block_sizes=splash_attention.BlockSizes(
      block_q=block,
      block_kv=block,
      block_q_dkv=block,
      block_kv_dkv=block,
      block_kv_dkv_compute=block,
      block_q_dq=block,
      block_kv_dq=block,
    ),
    head_shards=1,
    q_seq_shards=1,
    attn_logits_soft_cap=softcap or None,
    interpret=sharding.platform() != "tpu",
  )


class _Options(NamedTuple):
  """Options of a kernel, hashable."""

  block_sizes: Any
  is_mqa: bool
  save_residuals: bool
  mask_value: float
  attn_logits_soft_cap: float | None
  residual_checkpoint_name: str | None
  mask_function: Any
  interpret: bool


def _tree_function(
  options: _Options, masks: Any, q: jax.Array, k: jax.Array, v: jax.Array, passes: list[Ids]
) -> jax.Array:
  return _tree_forward(options, masks, q, k, v, passes)[0]


def _tree_forward(
  options: _Options, masks: Any, q: jax.Array, k: jax.Array, v: jax.Array, passes: list[Ids]
) -> tuple[jax.Array, Any]:
  """Returns [H, L, K] of one row, and what the backward pass reads."""
  outs, totals = [], []
  for ids in passes:
    out, (total,) = kernels._splash_attention_forward(
      masks[0],
      q,
      k,
      v,
      splash_attention.SegmentIds(ids.query, ids.key),
      None,
      **options._replace(save_residuals=True)._asdict(),
    )
    outs.append(out.astype(jnp.float32))
    totals.append(total)
  joined = jnp.logaddexp(*totals)
  out = sum(
    part * jnp.exp(total - joined)[..., None] for part, total in zip(outs, totals, strict=True)
  )
  out = jnp.asarray(out).astype(q.dtype)
  return out, (masks, q, k, v, passes, out, joined)


def _tree_backward(options: _Options, residuals: Any, slope: jax.Array) -> tuple[Any, ...]:
  masks, q, k, v, passes, out, joined = residuals
  blocks = options.block_sizes
  along = jnp.einsum("hsd,hsd->hs", out.astype(jnp.float32), slope.astype(jnp.float32))
  shared: dict[str, Any] = dict(
    is_mqa=options.is_mqa,
    mask_value=options.mask_value,
    attn_logits_soft_cap=options.attn_logits_soft_cap,
    q_layout=blocks.q_layout,
    k_layout=blocks.k_layout,
    v_layout=blocks.v_layout,
    mask_function=options.mask_function,
    interpret=options.interpret,
  )
  slopes = []
  for ids in passes:
    _, dk, dv = kernels._splash_attention_bwd_dkv(
      q,
      k,
      v,
      splash_attention.SegmentIds(ids.learning, ids.key),
      None,
      joined,
      slope,
      along,
      bq=blocks.block_q_dkv,
      bkv=blocks.block_kv_dkv,
      bkv_compute=blocks.block_kv_dkv_compute,
      mask_info=masks[2],
      use_fused_bwd_kernel=False,
      **shared,
    )
    dq = kernels._splash_attention_bwd_dq(
      q,
      k,
      v,
      splash_attention.SegmentIds(ids.query, ids.key),
      None,
      joined,
      slope,
      along,
      bq=blocks.block_q_dq,
      bkv=blocks.block_kv_dq,
      mask_info=masks[1],
      **shared,
    )
    slopes.append((dq, dk, dv))

  def add(*parts: jax.Array) -> jax.Array:
    return jnp.asarray(sum(x.astype(jnp.float32) for x in parts)).astype(parts[0].dtype)

  total = jax.tree.map(add, *slopes)
  return None, *total, None


_tree: Any = jax.custom_vjp(_tree_function, nondiff_argnums=(0,))
_tree.defvjp(_tree_forward, _tree_backward)
