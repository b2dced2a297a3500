"""Attention: one plain path, and faster ones for whole rows where the device has them.

Dimension key: B batch, L query length, S key length, H query heads, G key-value heads (groups),
K head width.

  plain   runs everywhere and does everything (trees, soft-caps, biases); scores [B, H, L, S] exist
  cudnn   NVIDIA from Ampere on: 16 bits, no soft-cap, head width a multiple of 8 up to 128
  splash  TPU: rows of a multiple of 128 tokens, trees only without a window; later blocks are
          skipped

`auto` takes the fastest path that can run: cuDNN from CUDNN_MIN_LENGTH tokens on, splash wherever
it fits.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from distill_jax.students import sharding, splash, unfold
from distill_jax.students.token_rows import Rows

PATHS = ("auto", "plain", "cudnn", "splash")
BRANCHES = 3  # of the tree of one example (data/encode.py), and one more if it detaches branches
CUDNN_MIN_LENGTH = 512  # tokens from which `auto` takes cuDNN; an estimate, not measured on a GPU


def attend(
  q_BLHK: jax.Array,
  k_BGSK: jax.Array,
  v_BGSK: jax.Array,
  mask_BLS: jax.Array,
  *,
  scale: float,
  softcap: float = 0.0,
  bias_BHLS: jax.Array | None = None,
  learning_BLS: jax.Array | None = None,
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
    learning_BLS: Whether a query gives a key, and its value, a gradient; None: always.

  Returns:
    [B, L, H, K], in the dtype of the values.
  """
  batch, length, heads, width = q_BLHK.shape
  groups = k_BGSK.shape[1]
  if length == 1 and bias_BHLS is None:
    return _attend_one(q_BLHK, k_BGSK, v_BGSK, mask_BLS, scale=scale, softcap=softcap)
  q = q_BLHK.reshape(batch, length, groups, heads // groups, width)
  if learning_BLS is None:
    scores, mix = _scores(q, k_BGSK), _mix
  else:
    scores = _scores_learning(q, k_BGSK, learning_BLS)
    mix = functools.partial(_mix_learning, learning_BLS)
  scores *= scale
  if softcap:
    scores = softcap * jnp.tanh(scores / softcap)
  if bias_BHLS is not None:
    scores += bias_BHLS.reshape(-1, groups, heads // groups, *bias_BHLS.shape[2:])
  scores = jnp.where(mask_BLS[:, None, None], scores, jnp.finfo(jnp.float32).min)
  probs = jax.nn.softmax(scores, axis=-1).astype(v_BGSK.dtype)
  return mix(probs, v_BGSK).reshape(q_BLHK.shape)


def _scores(q_BLGRK: jax.Array, k_BGSK: jax.Array) -> jax.Array:
  return jnp.einsum("blgrk,bgsk->bgrls", q_BLGRK, k_BGSK, preferred_element_type=jnp.float32)


def _mix(probs_BGRLS: jax.Array, v_BGSK: jax.Array) -> jax.Array:
  return jnp.einsum("bgrls,bgsk->blgrk", probs_BGRLS, v_BGSK)


@jax.custom_vjp
def _scores_learning(q: jax.Array, k: jax.Array, learning_BLS: jax.Array) -> jax.Array:
  """Returns the scores; only some pairs of a query and a key give the key a gradient."""
  return _scores(q, k)


def _scores_forward(q: jax.Array, k: jax.Array, learning_BLS: jax.Array) -> tuple[jax.Array, Any]:
  return _scores(q, k), (q, k, learning_BLS)


def _scores_backward(residuals: Any, slope: jax.Array) -> tuple[jax.Array, jax.Array, None]:
  q, k, learning_BLS = residuals
  kept = jnp.where(learning_BLS[:, None, None], slope, 0.0)
  dq = jnp.einsum("bgrls,bgsk->blgrk", slope, k, preferred_element_type=jnp.float32)
  dk = jnp.einsum("bgrls,blgrk->bgsk", kept, q, preferred_element_type=jnp.float32)
  return dq.astype(q.dtype), dk.astype(k.dtype), None


_scores_learning.defvjp(_scores_forward, _scores_backward)


@jax.custom_vjp
def _mix_learning(learning_BLS: jax.Array, probs: jax.Array, v: jax.Array) -> jax.Array:
  """Returns the means of values; only some pairs of a query and a value give it a gradient."""
  return _mix(probs, v)


def _mix_forward(learning_BLS: jax.Array, probs: jax.Array, v: jax.Array) -> tuple[jax.Array, Any]:
  return _mix(probs, v), (learning_BLS, probs, v)


def _mix_backward(residuals: Any, slope: jax.Array) -> tuple[None, jax.Array, jax.Array]:
  learning_BLS, probs, v = residuals
  kept = jnp.where(learning_BLS[:, None, None], probs, 0)
  return (
    None,
    jnp.einsum("blgrk,bgsk->bgrls", slope, v),
    jnp.einsum("bgrls,blgrk->bgsk", kept, slope),
  )


_mix_learning.defvjp(_mix_forward, _mix_backward)


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

  Without the axis of queries, the two products are plain batched ones, which a CPU computes faster.
  """
  batch, _, heads, width = q_B1HK.shape
  groups = k_BGSK.shape[1]
  q = q_B1HK.reshape(batch, groups, heads // groups, width)
  if sharding.platform() == "cpu":
    scores = _scores_keys_first(q, k_BGSK)
  else:
    scores = jnp.einsum("bgrk,bgsk->bgrs", q, k_BGSK, preferred_element_type=jnp.float32)
  scores *= scale
  if softcap:
    scores = softcap * jnp.tanh(scores / softcap)
  scores = jnp.where(mask_B1S[:, None], scores, jnp.finfo(jnp.float32).min)
  probs = jax.nn.softmax(scores, axis=-1).astype(v_BGSK.dtype)
  return jnp.einsum("bgrs,bgsk->bgrk", probs, v_BGSK).reshape(q_B1HK.shape)


def _scores_keys_first(q_BGRK: jax.Array, k_BGSK: jax.Array) -> jax.Array:
  """Returns the scores [B, G, R, S] of R query heads a group, float32, fast on a CPU.

  As the second factor the keys would be transposed for every token, which takes twice as long. A
  few heads more cost less than a product that does not fill the vector registers.
  """
  heads = q_BGRK.shape[2]
  padding = -heads % 8 if heads > 1 else 0
  q = jnp.pad(q_BGRK, ((0, 0), (0, 0), (0, padding), (0, 0)))
  scores = jnp.einsum("bgsk,bgrk->bgsr", k_BGSK, q, preferred_element_type=jnp.float32)
  # The barrier keeps XLA from swapping the factors.
  return jax.lax.optimization_barrier(scores).swapaxes(2, 3)[:, :, :heads]


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
  detach: bool = False,
  packed: bool = True,
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
    detach: Whether tokens of rows.detached see their root without gradient.
    packed: Whether a row may hold several examples.

  Returns:
    [B, L, H, K].

  Raises:
    ValueError: `path` cannot compute this.
  """
  why_not = {
    "cudnn": _why_not_cudnn(q_BLHK, softcap),
    "splash": _why_not_splash(q_BLHK, k_BGLK, rows, window),
  }
  if path == "auto":
    path = _fastest_path(q_BLHK.shape[1], why_not)
  if reason := why_not.get(path):
    raise ValueError(f"attention path {path}: {reason}")
  if path == "cudnn":
    if packed:
      return _cudnn(q_BLHK, k_BGLK, v_BGLK, rows, mask_BLL, scale, detach)
    causal = functools.partial(_cudnn_causal, window=window, scale=scale)
    k, v = k_BGLK.swapaxes(1, 2), v_BGLK.swapaxes(1, 2)
    if rows.roots is None:
      return causal(q_BLHK, k, v)
    branches = BRANCHES + detach
    return unfold.attend(causal, q_BLHK, k, v, rows, branches=branches, detach=detach)
  if path == "splash":
    if window >= q_BLHK.shape[1]:
      window = 0
    return splash.attend(
      q_BLHK * scale, k_BGLK, v_BGLK, rows, window=window, softcap=softcap, detach=detach
    )
  learning_BLL = learning(rows) if detach else None
  return attend(
    q_BLHK, k_BGLK, v_BGLK, mask_BLL, scale=scale, softcap=softcap, learning_BLS=learning_BLL
  )


def learning(rows: Rows) -> jax.Array:
  """Returns whether a token gives another one's keys and values a gradient, [B, L, L]."""
  in_root_BL = rows.segments == rows.root
  return ~(rows.is_detached[:, :, None] & in_root_BL[:, None, :])


def learning_of_source(rows: Rows, shape: tuple[int, ...]) -> jax.Array:
  """Returns whether a token gives keys and values of a source a gradient, [B, L, E]."""
  return jnp.broadcast_to(~rows.is_detached[:, :, None], shape)


def _cudnn_causal(
  q_BLHK: jax.Array, k_BLGK: jax.Array, v_BLGK: jax.Array, *, window: int, scale: float
) -> jax.Array:
  """Fused attention of rows of one example each, padded on the right: no mask is needed.

  A mask would be a bias for every pair of tokens, with a gradient that nobody reads.
  """
  return jax.nn.dot_product_attention(
    q_BLHK,
    k_BLGK,
    v_BLGK,
    scale=scale,
    is_causal=True,
    local_window_size=(window - 1, 0) if window else None,
    implementation="cudnn",
  )


def _cudnn(
  q_BLHK: jax.Array,
  k_BGLK: jax.Array,
  v_BGLK: jax.Array,
  rows: Rows,
  mask_BLL: jax.Array,
  scale: float,
  detach: bool,
) -> jax.Array:
  """Fused attention of cuDNN; to detach, it runs twice."""

  def run(k: jax.Array, v: jax.Array) -> jax.Array:
    return jax.nn.dot_product_attention(
      q_BLHK,
      k.swapaxes(1, 2),
      v.swapaxes(1, 2),
      mask=mask_BLL[:, None],
      scale=scale,
      implementation="cudnn",
    )

  out = run(k_BGLK, v_BGLK)
  if not detach:
    return out
  in_root = (rows.segments == rows.root)[:, None, :, None]
  k, v = (jnp.where(in_root, jax.lax.stop_gradient(x), x) for x in (k_BGLK, v_BGLK))
  return jnp.where(rows.is_detached[:, :, None, None], run(k, v), out)


def _fastest_path(length: int, why_not: dict[str, str]) -> str:
  platform = sharding.platform()
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


def _why_not_splash(q_BLHK: jax.Array, k_BGLK: jax.Array, rows: Rows, window: int) -> str:
  """Returns why splash attention cannot compute this; "" if it can."""
  length, block, trees = q_BLHK.shape[1], min(splash.BLOCKS), rows.roots is not None
  if trees and 0 < window < length:
    return f"rows are trees (triplets or preference pairs), and layers see back {window} tokens"
  if length % block:
    return f"rows of {length} tokens are not a multiple of {block}"
  if not splash.block_of(length, trees=trees):
    return f"rows that are trees (triplets or preference pairs) are too long with {length} tokens"
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
