"""Prefill, then one while_loop with an early exit.

Dimension key: P prompts, R = P * samples rows (all samples of a prompt lie together), L prompt
slots, N new tokens, S = L + N slots of the cache.

A row's tokens depend on its prompt and its key alone: the i-th number it draws is a function of
(key, i).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from distill_jax.decoding import choice
from distill_jax.learning import sharding
from distill_jax.students import decoder


class Sampled(NamedTuple):
  tokens: jax.Array  # int32 [R, N], `pad` after the end
  lengths: jax.Array  # int32 [R], the end token included
  ended: jax.Array  # bool [R]: stopped by itself; False: cut off after N tokens
  logprobs: jax.Array  # float32 [R, N], nats at temperature 1, 0 after the end


class _Loop(NamedTuple):
  count: jax.Array
  logits: jax.Array
  cache: decoder.Cache
  out: Sampled


@functools.partial(jax.jit, static_argnames=("config", "samples", "new_tokens", "eos", "pad"))
def sample(
  config,
  params,
  tokens_PL,
  lengths_P,
  keys_R2,
  settings: choice.Sampling,
  *,
  samples: int,
  new_tokens: int,
  eos: tuple[int, ...],
  pad: int,
) -> Sampled:
  """Continues every prompt `samples` times, each by at most `new_tokens` tokens.

  tokens_PL are padded on the right; keys_R2 is uint32, one key a row; a row stops at any token of
  `eos`. A prompt of length 0 fills up a batch: its rows have ended before they begin.
  """
  slots = tokens_PL.shape[1] + new_tokens
  logits_PV, cache = decoder.prefill(config, params, tokens_PL, lengths_P, slots)
  spread = lambda x: jnp.repeat(x, samples, axis=0)
  pin = lambda x: sharding.constrain(spread(x), "batch", "groups", None, None)
  cache, lengths_R = jax.tree.map(pin, cache), spread(lengths_P)
  modules = decoder.unstacked(config, params)
  keys_R = jax.random.wrap_key_data(keys_R2)
  rows = keys_R.shape[0]
  slot_S = jnp.arange(slots)
  in_prompt_RS = slot_S[None, :] < lengths_R[:, None]

  def unfinished(loop):
    return (loop.count < new_tokens) & ~jnp.all(loop.out.ended)

  def turn(loop):
    uniform_R = jax.vmap(lambda k: jax.random.uniform(jax.random.fold_in(k, loop.count)))(keys_R)
    token_R, logp_R = choice.choose(loop.logits, uniform_R, settings)
    ended = loop.out.ended
    token_R = jnp.where(ended, pad, token_R)
    write = lambda x, y: jax.lax.dynamic_update_slice_in_dim(x, y[:, None], loop.count, axis=1)
    out = Sampled(
      tokens=write(loop.out.tokens, token_R),
      lengths=loop.out.lengths + ~ended,
      ended=ended | functools.reduce(jnp.logical_or, [token_R == e for e in eos]),
      logprobs=write(loop.out.logprobs, jnp.where(ended, 0.0, logp_R)),
    )
    slot = tokens_PL.shape[1] + loop.count
    written_S = (slot_S >= tokens_PL.shape[1]) & (slot_S <= slot)
    logits_RV, cache = decoder.advance(
      config,
      params,
      modules,
      token_R,
      lengths_R + loop.count,
      loop.cache,
      slot,
      in_prompt_RS | written_S[None, :],
    )
    return _Loop(loop.count + 1, logits_RV, cache, out)

  nothing = Sampled(
    jnp.full((rows, new_tokens), pad, jnp.int32),
    jnp.zeros(rows, jnp.int32),
    lengths_R == 0,
    jnp.zeros((rows, new_tokens), jnp.float32),
  )
  return jax.lax.while_loop(
    unfinished, turn, _Loop(jnp.int32(0), spread(logits_PV), cache, nothing)
  ).out
