"""The head: logits, or log-probabilities of given tokens, from hidden states and output matrix.

Dimension key: B batch, T positions that have a target, D model width, V vocabulary, C positions of
a chunk.
"""

import math

import jax
import jax.numpy as jnp

from distill_jax.students import few_rows, quantized, split_head
from distill_jax.students.types import Head


def logits(
  hidden_BTD: jax.Array, head_DV: Head, bias_V: jax.Array | None = None, softcap: float = 0.0
) -> jax.Array:
  """Returns hidden @ head + bias, float32 [B, T, V], from products in the dtype of `hidden`.

  A softcap c > 0 maps logits to c * tanh(logits / c). Meant for a few positions: the whole array is
  materialized.
  """
  if isinstance(head_DV, few_rows.OutputsFirst):
    out_BTV = few_rows.product(hidden_BTD, head_DV)
  elif isinstance(head_DV, quantized.Int8):
    out_BTV = quantized.int8_product(hidden_BTD, head_DV)
  else:
    matrix = head_DV.astype(hidden_BTD.dtype)
    out_BTV = jnp.einsum("btd,dv->btv", hidden_BTD, matrix, preferred_element_type=jnp.float32)
  if bias_V is not None:
    out_BTV += bias_V[None, None, :]
  return softcap * jnp.tanh(out_BTV / softcap) if softcap else out_BTV


def token_logprobs(
  hidden_BTD: jax.Array,
  head_DV: jax.Array,
  targets_BT: jax.Array,
  *,
  chunk: int,
  bias: jax.Array | None = None,
  softcap: float = 0.0,
) -> jax.Array:
  """Returns log p(target | what precedes it), float32 [B, T], in nats; see `logits`.

  Works on up to `chunk` positions of a row at a time, as far as CHUNK_BYTES allow, and recomputes
  their logits in the backward pass, so [batch, length, vocabulary] never exists. Pass only
  positions that have a target.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.size > 1 or hidden_BTD.dtype != jnp.float32:
    divided = split_head.divide(hidden_BTD, head_DV, chunk=chunk, softcap=softcap)
    if divided is not None:
      return split_head.token_logprobs(divided, hidden_BTD, head_DV, targets_BT, bias)
  bytes_of_position = 4 * len(targets_BT) * head_DV.shape[1]
  chunk = max(min(chunk, split_head.CHUNK_BYTES // bytes_of_position), 1)

  @jax.checkpoint
  def chunk_logprobs(hidden_BCD: jax.Array, targets_BC: jax.Array) -> jax.Array:
    # The head is cast in here, so the gradients of chunks are summed in the head's own dtype.
    logits_BCV = logits(hidden_BCD, head_DV, bias, softcap)
    # A comparison instead of a gather, which would undo the sharding of the vocabulary.
    is_target_BCV = targets_BC[..., None] == jnp.arange(head_DV.shape[1])[None, None, :]
    target_BC = jnp.sum(jnp.where(is_target_BCV, logits_BCV, 0.0), axis=-1)
    return target_BC - jax.nn.logsumexp(logits_BCV, axis=-1)

  batch, length = targets_BT.shape
  if length <= chunk:
    return chunk_logprobs(hidden_BTD, targets_BT)
  chunks = math.ceil(length / chunk)
  padding = chunks * chunk - length

  def split(x: jax.Array) -> jax.Array:
    padded = jnp.pad(x, ((0, 0), (0, padding)) + ((0, 0),) * (x.ndim - 2))
    return padded.reshape(batch, chunks, chunk, *x.shape[2:]).swapaxes(0, 1)

  logp = jax.lax.map(lambda xs: chunk_logprobs(*xs), (split(hidden_BTD), split(targets_BT)))
  return logp.swapaxes(0, 1).reshape(batch, chunks * chunk)[:, :length]
