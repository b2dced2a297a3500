"""Logits of whole rows, and greedy decoding: small loops for tests."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from distill_jax import students
from distill_jax.students.token_rows import Rows


@functools.partial(jax.jit, static_argnums=0)
def logits(config, params, tokens_BL, mask_BL, source_BE=None, inside_BE=None):
  """Returns logits, float32 [B, L, V], and the log-probability of each row's tokens, nats [B].

  Rows are padded wherever the mask is 0; positions count tokens that are not padding. The first
  token has no log-probability. An encoder-decoder needs a source.
  """
  positions_BL = jnp.maximum(jnp.cumsum(mask_BL, axis=1) - 1, 0)
  rows = Rows(tokens_BL, positions_BL, mask_BL, source=source_BE, source_segments=inside_BE)
  states = students.of(config).hidden(config, params, rows)
  logp = students.token_logprobs(config, params, states[:, :-1], tokens_BL[:, 1:], chunk=64)
  summed_B = jnp.sum(logp * mask_BL[:, 1:] * mask_BL[:, :-1], axis=1)
  return students.logits(config, params, states), summed_B


@functools.partial(jax.jit, static_argnums=(0, 4))
def greedy(config, params, tokens_BL, lengths_B, new: int):
  """Returns what a student writes after prompts padded on the right, int32 [B, new]."""
  model = students.of(config)
  first, cache, filled_B = model.prefill(config, params, tokens_BL, lengths_B)
  layers = model.unstack_layers(config, params)
  longer = lambda x: jnp.pad(x, ((0, 0), (0, 0), (0, new), (0, 0)))
  cache = cache._replace(
    keys=tuple(map(longer, cache.keys)), values=tuple(map(longer, cache.values))
  )

  def step(carry, n):
    token_B, cache = carry
    out, cache = model.decode_step(config, params, layers, token_B, filled_B + n, cache)
    return (_best(out), cache), token_B

  steps = jnp.arange(new)
  (_, _), written_NB = jax.lax.scan(step, (_best(first), cache), steps)
  return written_NB.T


def _best(logits_BV):
  """Returns the likeliest tokens; -1 where the logits are not finite."""
  best_B = jnp.argmax(logits_BV, axis=-1).astype(np.int32)
  return jnp.where(jnp.all(jnp.isfinite(logits_BV), axis=-1), best_B, -1)
