"""Splash attention (jax's Pallas kernels) for TPU, of plain rows and of rows that are trees.

Dimension key: B batch, L length, H query heads, G key-value heads (groups), K head width. Functions
of one device's part have no suffixes.

In a tree, a token sees its own segment and its root segment. The kernels compare one id of a query
with one id of a key: here the root, so that a token sees its whole tree. What remains to be masked
is one gap, from the end of the root to the start of the token's own segment:

  root   branch   branch   own segment
  seen   hidden   hidden   seen up to the token itself

The kernels pass one number of each query to a mask function. It holds both ends of the gap and the
query's block. A branch that sees its root without gradient gets a gap from the start of the row on
where the gradients of keys and values are computed.
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
LARGE_BLOCK = 1024  # of trees that are too long for smaller ones
BITS = 32  # of what the mask function gets of a query


class Tree(NamedTuple):
  """What the queries of tree rows see, int32 [B, L]."""

  root: jax.Array  # a query sees keys of the same root, as far as they are earlier
  gap: jax.Array  # and outside this gap, packed
  learning_gap: jax.Array  # the gap of the pairs that give keys and values a gradient


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
  ids = rows.segments if rows.roots is None else _tree_of(rows, detach)

  def on_part(q: jax.Array, k: jax.Array, v: jax.Array, ids: Any) -> jax.Array:
    trees = isinstance(ids, Tree)
    kernel = _kernel(q.shape[1], q.shape[2], window=window, softcap=softcap, trees=trees)
    if not trees:
      return jax.vmap(kernel)(q, k, v, splash_attention.SegmentIds(ids, ids))
    masks = kernel.fwd_mask_info, kernel.dq_mask_info, kernel.dkv_mask_info
    run = lambda *xs: _tree(_Options(**kernel.kwargs), masks, *xs)
    return jax.vmap(run)(q, k, v, ids)

  if jax.sharding.get_abstract_mesh().empty:
    return on_part(q, k_BGLK, v_BGLK, ids).swapaxes(1, 2)
  heads, whole = P(sharding.RULES["batch"], "tensor"), P(sharding.RULES["batch"])
  part = sharding.local(on_part, (heads, heads, heads, whole), heads)
  return part(q, k_BGLK, v_BGLK, ids).swapaxes(1, 2)


def block_of(length: int, *, trees: bool) -> int:
  """Returns how many tokens of a row the kernels take at a time; 0 if they cannot."""
  for size in (*BLOCKS, LARGE_BLOCK) if trees else BLOCKS:
    blocks = length // size
    bits = 2 * _bits(length) + _bits(blocks) if trees else 0
    if length % size == 0 and bits <= BITS:
      return size
  return 0


def _bits(count: int) -> int:
  """Returns the bits of a number below `count`."""
  return (count - 1).bit_length()


def _tree_of(rows: Rows, detach: bool) -> Tree:
  """Returns what the tokens of tree rows see."""
  segments, length = rows.segments, rows.segments.shape[1]
  index = jnp.arange(length, dtype=jnp.int32)[None]
  begins = segments != jnp.pad(segments, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
  start = jax.lax.cummax(jnp.where(begins, index, 0), axis=1)
  in_root = segments == rows.root
  follows = ~in_root & jnp.pad(in_root, ((0, 0), (1, 0)))[:, :-1]
  end = jnp.where(in_root, 0, jax.lax.cummax(jnp.where(follows, index, 0), axis=1))
  block = index // block_of(length, trees=True)

  def pack(end: jax.Array) -> jax.Array:
    bits = _bits(length)
    return block << 2 * bits | end << bits | start

  return Tree(rows.root, pack(end), pack(jnp.where(rows.is_detached, 0, end) if detach else end))


class _Sees(NamedTuple):
  """The mask function of a kernel: whether a query of a tree sees a key of the same tree."""

  length: int
  block: int
  axis: int  # the axis of a block that counts queries

  def __call__(self, gap: jax.Array, key: jax.Array) -> jax.Array:
    bits = _bits(self.length)
    shift = jax.lax.shift_right_logical
    end, start = shift(gap, bits) & (2**bits - 1), gap & (2**bits - 1)
    within_block = jax.lax.broadcasted_iota(jnp.int32, gap.shape, self.axis)
    query = shift(gap, 2 * bits) * self.block + within_block
    return (key <= query) & ((key < end) | (key >= start))


def _kernel(heads: int, length: int, *, window: int, softcap: float, trees: bool) -> Any:
  block = block_of(length, trees=trees)
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
  options: _Options, masks: Any, q: jax.Array, k: jax.Array, v: jax.Array, tree: Tree
) -> jax.Array:
  return _tree_forward(options, masks, q, k, v, tree)[0]


def _tree_forward(
  options: _Options, masks: Any, q: jax.Array, k: jax.Array, v: jax.Array, tree: Tree
) -> tuple[jax.Array, Any]:
  """Returns [H, L, K] of one row, and what the backward pass reads."""
  sees = _Sees(q.shape[1], options.block_sizes.block_q, axis=0)
  run = options._replace(save_residuals=True, mask_function=sees)
  out, (total,) = kernels._splash_attention_forward(
    masks[0]._replace(q_sequence=tree.gap),
    q,
    k,
    v,
    splash_attention.SegmentIds(tree.root, tree.root),
    None,
    **run._asdict(),
  )
  return out, (masks, q, k, v, tree, out, total)


def _tree_backward(options: _Options, residuals: Any, slope: jax.Array) -> tuple[Any, ...]:
  masks, q, k, v, tree, out, total = residuals
  blocks = options.block_sizes
  along = jnp.einsum("hsd,hsd->hs", out.astype(jnp.float32), slope.astype(jnp.float32))
  ids = splash_attention.SegmentIds(tree.root, tree.root)
  shared: dict[str, Any] = dict(
    is_mqa=options.is_mqa,
    mask_value=options.mask_value,
    attn_logits_soft_cap=options.attn_logits_soft_cap,
    q_layout=blocks.q_layout,
    k_layout=blocks.k_layout,
    v_layout=blocks.v_layout,
    interpret=options.interpret,
  )
  _, dk, dv = kernels._splash_attention_bwd_dkv(
    q,
    k,
    v,
    ids,
    None,
    total,
    slope,
    along,
    bq=blocks.block_q_dkv,
    bkv=blocks.block_kv_dkv,
    bkv_compute=blocks.block_kv_dkv_compute,
    mask_info=masks[2]._replace(q_sequence=tree.learning_gap),
    mask_function=_Sees(q.shape[1], blocks.block_q_dkv, axis=1),
    use_fused_bwd_kernel=False,
    **shared,
  )
  dq = kernels._splash_attention_bwd_dq(
    q,
    k,
    v,
    ids,
    None,
    total,
    slope,
    along,
    bq=blocks.block_q_dq,
    bkv=blocks.block_kv_dq,
    mask_info=masks[1]._replace(q_sequence=tree.gap),
    mask_function=_Sees(q.shape[1], blocks.block_q_dq, axis=0),
    **shared,
  )
  return None, dq, dk, dv, None


_tree: Any = jax.custom_vjp(_tree_function, nondiff_argnums=(0,))
_tree.defvjp(_tree_forward, _tree_backward)
