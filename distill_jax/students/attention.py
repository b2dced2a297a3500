"""Attention: one plain path, and faster ones for whole rows where the device has them.

Dimension key: B batch, L query length, S key length, H query heads, G key-value heads (groups),
K head width.

  plain   everywhere, everything: trees, soft-caps, biases; scores [B, H, L, S] exist
  cudnn   NVIDIA from Ampere on: 16-bit, no soft-cap, head width a multiple of 8 up to 128
  splash  TPU: rows that are no trees, of a multiple of 128 tokens; whole blocks are skipped

`auto` takes the fastest that can run: cuDNN from LONG tokens on, splash wherever it fits.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention
from jax.sharding import PartitionSpec as P

from distill_jax.students import sharding

LONG = 512  # tokens from which cuDNN's kernel beats a plain matrix product
BLOCK = 128  # tokens; splash works on blocks of this size


def attend(q_BLHK, k_BGSK, v_BGSK, mask_BLS, *, scale: float, softcap: float = 0.0, bias_BHLS=None):
  """Softmax attention in float32; query heads share key-value groups. A row that sees nothing gets
  the mean of all values.

  softcap c > 0 bends scores to c * tanh(score / c) (Gemma 2); bias is added to the scaled scores.
  """
  batch, length, heads, width = q_BLHK.shape
  groups = k_BGSK.shape[1]
  q = q_BLHK.reshape(batch, length, groups, heads // groups, width)
  scores = jnp.einsum("blgrk,bgsk->bgrls", q, k_BGSK, preferred_element_type=jnp.float32) * scale
  if softcap:
    scores = softcap * jnp.tanh(scores / softcap)
  if bias_BHLS is not None:
    scores += bias_BHLS.reshape(-1, groups, heads // groups, *bias_BHLS.shape[2:])
  scores = jnp.where(mask_BLS[:, None, None], scores, jnp.finfo(jnp.float32).min)
  shares = jax.nn.softmax(scores, axis=-1).astype(v_BGSK.dtype)
  return jnp.einsum("bgrls,bgsk->blgrk", shares, v_BGSK).reshape(q_BLHK.shape)


def over_rows(
  q_BLHK, k_BGLK, v_BGLK, *, rows, mask_BLL, window: int, scale: float, softcap: float, path: str
):
  """Attention of whole rows, by `path`. What padding gets differs between paths, and nobody reads
  it. Raises ValueError if a path that was asked for cannot do it."""
  can = {"cudnn": _why_not_cudnn(q_BLHK, softcap), "splash": _why_not_splash(q_BLHK, k_BGLK, rows)}
  if path == "auto":
    path = _best(q_BLHK.shape[1], can)
  if reason := can.get(path):
    raise ValueError(f"attention path {path}: {reason}")
  if path == "cudnn":
    return jax.nn.dot_product_attention(
      q_BLHK, k_BGLK.swapaxes(1, 2), v_BGLK.swapaxes(1, 2), mask=mask_BLL[:, None], scale=scale,
      implementation="cudnn",
    )  # fmt: skip
  if path == "splash":
    return _splash(q_BLHK * scale, k_BGLK, v_BGLK, rows.segments, window, softcap)
  return attend(q_BLHK, k_BGLK, v_BGLK, mask_BLL, scale=scale, softcap=softcap)


def _best(length: int, why_not) -> str:
  platform = jax.default_backend()
  if platform == "gpu" and length >= LONG and not why_not["cudnn"]:
    return "cudnn"
  return "splash" if platform == "tpu" and not why_not["splash"] else "plain"


def _why_not_cudnn(q_BLHK, softcap: float) -> str:
  if q_BLHK.dtype not in (jnp.bfloat16, jnp.float16):
    return "it computes in 16 bits only (student.dtype=bfloat16)"
  if softcap:
    return "it has no soft-cap"
  width = q_BLHK.shape[-1]
  return "" if width % 8 == 0 and width <= 128 else f"head width {width} is not one of its"


def _why_not_splash(q_BLHK, k_BGLK, rows) -> str:
  if rows.roots is not None:
    return "rows are trees (contrasts or preference pairs)"
  if q_BLHK.shape[1] % BLOCK:
    return f"rows of {q_BLHK.shape[1]} tokens are no multiple of {BLOCK}"
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return ""
  for what, count, parts in (
    ("rows", len(q_BLHK), mesh.shape["data"] * mesh.shape["fsdp"]),
    ("groups", k_BGLK.shape[1], mesh.shape["tensor"]),
  ):
    if count % parts:
      return f"{count} {what} cannot be split {parts} ways"
  return ""


def _splash(q_BLHK, k_BGLK, v_BGLK, segments_BL, window: int, softcap: float):
  """Block-sparse attention on TPU; elsewhere the same kernel, interpreted (slow: for tests)."""

  def part(q_BHLK, k_BGLK, v_BGLK, segments_BL):
    heads, length = q_BHLK.shape[1:3]
    one = (
      splash_attention.LocalMask((length, length), (window - 1, 0), 0)
      if window
      else splash_attention.CausalMask((length, length))
    )
    kernel = splash_attention.make_splash_mha(
      splash_attention.MultiHeadMask([one] * heads), head_shards=1, q_seq_shards=1,
      attn_logits_soft_cap=softcap or None, interpret=jax.default_backend() != "tpu",
    )  # fmt: skip
    ids = splash_attention.SegmentIds(segments_BL, segments_BL)
    return jax.vmap(kernel)(q_BHLK, k_BGLK, v_BGLK, ids)

  mesh = jax.sharding.get_abstract_mesh()
  if not mesh.empty:
    heads, rows = P(sharding.RULES["batch"], "tensor"), P(sharding.RULES["batch"])
    part = functools.partial(jax.shard_map, check_vma=False)(
      part, in_specs=(heads, heads, heads, rows), out_specs=heads
    )
  return part(q_BLHK.swapaxes(1, 2), k_BGLK, v_BGLK, segments_BL).swapaxes(1, 2)
