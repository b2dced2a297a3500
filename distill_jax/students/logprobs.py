"""The one head operation: hidden states and the output matrix in, logits or log-probabilities of
given tokens out.

Dimension key: B batch, T positions (that have a target), D model width, V vocabulary, C positions
of a chunk.
"""

import jax
import jax.numpy as jnp


def logits(hidden_BTD, head_DV, bias_V=None, softcap: float = 0.0):
  """hidden @ head + bias, bent to softcap * tanh(logits / softcap) if there is one: float32
  [B, T, V], from products in the dtype of `hidden`. For a few positions, never for whole rows."""
  matrix = head_DV.astype(hidden_BTD.dtype)
  out_BTV = jnp.einsum("btd,dv->btv", hidden_BTD, matrix, preferred_element_type=jnp.float32)
  if bias_V is not None:
    out_BTV += bias_V[None, None, :]
  return softcap * jnp.tanh(out_BTV / softcap) if softcap else out_BTV


def token_logprobs(hidden_BTD, head_DV, targets_BT, *, chunk: int, bias=None, softcap: float = 0.0):
  """log p(target | what precedes it), float32 [B, T], in nats; see `logits`.

  Works on `chunk` positions at a time and recomputes their logits in the backward pass, so that
  [batch, length, vocabulary] never exists. Positions without a target are not to be passed in at
  all.
  """

  @jax.checkpoint
  def part(hidden_BCD, targets_BC):
    # The head is cast in here, not outside: so the parts' gradients of it add up in its own
    # precision.
    logits_BCV = logits(hidden_BCD, head_DV, bias, softcap)
    wanted = targets_BC[..., None] == jnp.arange(head_DV.shape[1])[None, None, :]
    target_BC = jnp.sum(
      jnp.where(wanted, logits_BCV, 0.0), axis=-1
    )  # a gather would undo vocabulary sharding
    return target_BC - jax.nn.logsumexp(logits_BCV, axis=-1)

  batch, length = targets_BT.shape
  if length <= chunk:
    return part(hidden_BTD, targets_BT)
  parts = -(-length // chunk)
  room = parts * chunk - length
  cut = lambda x: (
    jnp.pad(x, ((0, 0), (0, room)) + ((0, 0),) * (x.ndim - 2))
    .reshape(batch, parts, chunk, *x.shape[2:])
    .swapaxes(0, 1)
  )
  logp = jax.lax.map(lambda xs: part(*xs), (cut(hidden_BTD), cut(targets_BT)))
  return logp.swapaxes(0, 1).reshape(batch, parts * chunk)[:, :length]
