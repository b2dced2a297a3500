"""Attention: one plain path, and faster ones for whole rows where the device has them.

Dimension key: B batch, L query length, S key length, H query heads, G key-value heads (groups),
K head width.

  plain   runs everywhere and does everything (trees, soft-caps, biases); scores [B, H, L, S] exist
  cudnn   NVIDIA from Ampere on: 16 bits, no soft-cap, head width a multiple of 8 up to 128
  splash  TPU: rows that are not trees, of a multiple of 128 tokens; masked blocks are skipped

`auto` takes the fastest path that can run: cuDNN from CUDNN_MIN_LENGTH tokens on, splash wherever
it fits.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention
from jax.sharding import PartitionSpec as P

from distill_jax.students import sharding
from distill_jax.students.token_rows import Rows

PATHS = ("auto", "plain", "cudnn", "splash")
CUDNN_MIN_LENGTH = 512  # tokens from which cuDNN's kernel is faster than plain matrix products
SPLASH_BLOCK = 128  # tokens in a block of splash attention


def attend(
  q_BLHK: jax.Array,
  k_BGSK: jax.Array,
  v_BGSK: jax.Array,
  mask_BLS: jax.Array,
  *,
  scale: float,
  softcap: float = 0.0,
  bias_BHLS: jax.Array | None = None,
) -> jax.Array:
  """Softmax attention in float32; query heads share key-value groups.

  A query that sees nothing gets the mean of all values.

  Args:
    q_BLHK: Queries.
    k_BGSK: Keys.
    v_BGSK: Values.
    mask_BLS: Whether a query sees a key.
    scale: Factor of the scores.
    softcap: c > 0 maps scores to c * tanh(score / c) (Gemma 2).
    bias_BHLS: Added to the scaled scores.

  Returns:
    [B, L, H, K], in the dtype of the values.
  """
  batch, length, heads, width = q_BLHK.shape
  groups = k_BGSK.shape[1]
  if length == 1 and bias_BHLS is None:
    return _attend_one(q_BLHK, k_BGSK, v_BGSK, mask_BLS, scale=scale, softcap=softcap)
  q = q_BLHK.reshape(batch, length, groups, heads // groups, width)
  scores = jnp.einsum("blgrk,bgsk->bgrls", q, k_BGSK, preferred_element_type=jnp.float32) * scale
  if softcap:
    scores = softcap * jnp.tanh(scores / softcap)
  if bias_BHLS is not None:
    scores += bias_BHLS.reshape(-1, groups, heads // groups, *bias_BHLS.shape[2:])
  scores = jnp.where(mask_BLS[:, None, None], scores, jnp.finfo(jnp.float32).min)
  probs = jax.nn.softmax(scores, axis=-1).astype(v_BGSK.dtype)
  return jnp.einsum("bgrls,bgsk->blgrk", probs, v_BGSK).reshape(q_BLHK.shape)


def _attend_one(
  q_B1HK: jax.Array,
  k_BGSK: jax.Array,
  v_BGSK: jax.Array,
  mask_B1S: jax.Array,
  *,
  scale: float,
  softcap: float,
) -> jax.Array:
  """Does what `attend` does for one query of each row, as in decoding.

  Without the axis of queries, the two products are plain batched ones, which a CPU computes about
  three times as fast.
  """
  batch, _, heads, width = q_B1HK.shape
  groups = k_BGSK.shape[1]
  q = q_B1HK.reshape(batch, groups, heads // groups, width)
  scores = jnp.einsum("bgrk,bgsk->bgrs", q, k_BGSK, preferred_element_type=jnp.float32) * scale
  if softcap:
    scores = softcap * jnp.tanh(scores / softcap)
  scores = jnp.where(mask_B1S[:, None], scores, jnp.finfo(jnp.float32).min)
  probs = jax.nn.softmax(scores, axis=-1).astype(v_BGSK.dtype)
  return jnp.einsum("bgrs,bgsk->bgrk", probs, v_BGSK).reshape(q_B1HK.shape)


def over_rows(
  q_BLHK: jax.Array,
  k_BGLK: jax.Array,
  v_BGLK: jax.Array,
  *,
  rows: Rows,
  mask_BLL: jax.Array,
  window: int,
  scale: float,
  softcap: float,
  path: str,
) -> jax.Array:
  """Self-attention of whole rows, by `path`: auto | plain | cudnn | splash.

  The result at padding differs between paths and is never read.

  Args:
    q_BLHK: Queries.
    k_BGLK: Keys.
    v_BGLK: Values.
    rows: The rows.
    mask_BLL: Their mask, `token_rows.visible(rows, window)`.
    window: How far back a token sees; 0 is all.
    scale: Factor of the scores.
    softcap: See `attend`.
    path: The path.

  Returns:
    [B, L, H, K].

  Raises:
    ValueError: `path` cannot compute this.
  """
  why_not = {
    "cudnn": _why_not_cudnn(q_BLHK, softcap),
    "splash": _why_not_splash(q_BLHK, k_BGLK, rows),
  }
  if path == "auto":
    path = _fastest_path(q_BLHK.shape[1], why_not)
  if reason := why_not.get(path):
    raise ValueError(f"attention path {path}: {reason}")
  if path == "cudnn":
    return jax.nn.dot_product_attention(
      q_BLHK,
      k_BGLK.swapaxes(1, 2),
      v_BGLK.swapaxes(1, 2),
      mask=mask_BLL[:, None],
      scale=scale,
      implementation="cudnn",
    )
  if path == "splash":
    return _splash(q_BLHK * scale, k_BGLK, v_BGLK, rows.segments, window, softcap)
  return attend(q_BLHK, k_BGLK, v_BGLK, mask_BLL, scale=scale, softcap=softcap)


def _fastest_path(length: int, why_not: dict[str, str]) -> str:
  platform = jax.default_backend()
  if platform == "gpu" and length >= CUDNN_MIN_LENGTH and not why_not["cudnn"]:
    return "cudnn"
  return "splash" if platform == "tpu" and not why_not["splash"] else "plain"


def _why_not_cudnn(q_BLHK: jax.Array, softcap: float) -> str:
  """Returns why cuDNN cannot compute this; "" if it can."""
  if q_BLHK.dtype not in (jnp.bfloat16, jnp.float16):
    return "it computes in 16 bits only (student.dtype=bfloat16)"
  if softcap:
    return "it has no soft-cap"
  width = q_BLHK.shape[-1]
  if width % 8 or width > 128:
    return f"head width {width} is not a multiple of 8 up to 128"
  return ""


def _why_not_splash(q_BLHK: jax.Array, k_BGLK: jax.Array, rows: Rows) -> str:
  """Returns why splash attention cannot compute this; "" if it can."""
  if rows.roots is not None:
    return "rows are trees (triplets or preference pairs)"
  if q_BLHK.shape[1] % SPLASH_BLOCK:
    return f"rows of {q_BLHK.shape[1]} tokens are not a multiple of {SPLASH_BLOCK}"
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return ""
  for name, count, parts in (
    ("rows", len(q_BLHK), mesh.shape["data"] * mesh.shape["fsdp"]),
    ("groups", k_BGLK.shape[1], mesh.shape["tensor"]),
  ):
    if count % parts:
      return f"{count} {name} cannot be split {parts} ways"
  return ""


def _splash(
  q_BLHK: jax.Array,
  k_BGLK: jax.Array,
  v_BGLK: jax.Array,
  segments_BL: jax.Array,
  window: int,
  softcap: float,
) -> jax.Array:
  """Block-sparse attention on TPU; elsewhere the same kernel, interpreted (slow, for tests)."""

  def local_attention(
    q_BHLK: jax.Array, k_BGLK: jax.Array, v_BGLK: jax.Array, segments_BL: jax.Array
  ) -> jax.Array:
    heads, length = q_BHLK.shape[1:3]
    head_mask = (
      splash_attention.LocalMask((length, length), (window - 1, 0), 0)
      if window
      else splash_attention.CausalMask((length, length))
    )
    kernel: Any = splash_attention.make_splash_mha(
      splash_attention.MultiHeadMask([head_mask] * heads),
      head_shards=1,
      q_seq_shards=1,
      attn_logits_soft_cap=softcap or None,
      interpret=jax.default_backend() != "tpu",
    )
    ids = splash_attention.SegmentIds(segments_BL, segments_BL)
    return jax.vmap(kernel)(q_BHLK, k_BGLK, v_BGLK, ids)

  part = local_attention
  mesh = jax.sharding.get_abstract_mesh()
  if not mesh.empty:
    heads, rows = P(sharding.RULES["batch"], "tensor"), P(sharding.RULES["batch"])
    part = functools.partial(jax.shard_map, check_vma=False)(
      local_attention, in_specs=(heads, heads, heads, rows), out_specs=heads
    )
  return part(q_BLHK.swapaxes(1, 2), k_BGLK, v_BGLK, segments_BL).swapaxes(1, 2)
