"""What a student says of whole rows, and what it writes on its own: small loops for tests."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from distill_jax import students
from distill_jax.students import decoder
from distill_jax.students.rows import Cache, Rows


@functools.partial(jax.jit, static_argnums=0)
def logits(config, params, tokens_BL, mask_BL):
  """Logits float32 [B, L, V] of rows padded wherever the mask is 0, and the log-probability of each
  row's tokens after the first, nats [B]. Positions count what is not padding."""
  rows = _rows(tokens_BL, mask_BL)
  states = decoder.hidden(config, params, rows)
  return _head(config, params, states), _summed(config, params, states, tokens_BL, mask_BL)


def _rows(tokens_BL, mask_BL):
  return Rows(tokens_BL, jnp.maximum(jnp.cumsum(mask_BL, axis=1) - 1, 0), mask_BL)


def _head(config, params, states):
  out = states @ decoder.head(config, params)
  if config.head_bias:
    out += params["head_bias"][None, None]
  return (
    config.logit_softcap * jnp.tanh(out / config.logit_softcap) if config.logit_softcap else out
  )


def _summed(config, params, states, tokens_BL, mask_BL):
  logp = students.token_logprobs(config, params, states[:, :-1], tokens_BL[:, 1:], chunk=64)
  return jnp.sum(logp * mask_BL[:, 1:] * mask_BL[:, :-1], axis=1)


@functools.partial(jax.jit, static_argnums=(0, 4))
def greedy(config, params, tokens_BL, lengths_B, new: int):
  """int32 [B, new]: what a student writes after prompts that are padded on the right."""
  first, cache, filled_B = decoder.prefill(config, params, tokens_BL, lengths_B)
  layers = decoder.unstacked(config, params)
  longer = lambda x: jnp.pad(x, ((0, 0), (0, 0), (0, new), (0, 0)))
  cache = Cache(tuple(map(longer, cache.keys)), tuple(map(longer, cache.values)))

  def step(carry, n):
    token_B, cache = carry
    out, cache = decoder.advance(config, params, layers, token_B, filled_B + n, cache)
    return (_best(out), cache), token_B

  steps = jnp.arange(new)
  (_, _), written_NB = jax.lax.scan(step, (_best(first), cache), steps)
  return written_NB.T


def _best(logits_BV):
  """The likeliest tokens; -1 where the logits are no numbers."""
  best_B = jnp.argmax(logits_BV, axis=-1).astype(np.int32)
  return jnp.where(jnp.all(jnp.isfinite(logits_BV), axis=-1), best_B, -1)
