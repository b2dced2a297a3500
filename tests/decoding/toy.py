"""A toy student whose next token depends on every token before it and on its position.

Its arithmetic is exact in any order, so a row's tokens show whether its cache held that row alone.
With `apart` it is shaped like an encoder-decoder: the prompt is one number beside the cache, and
the cache starts with one start token.
"""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np

from distill_jax.students import token_rows
from tests.students import oracle

STATES, START = 97, 5  # number of states; the first column with `apart`


@dataclasses.dataclass(frozen=True)
class Config:
  apart: bool = False
  vocab: int = 24


def params(config: Config, seed: int = 0):
  """Returns the logits of each state."""
  return np.float32(oracle.rng(seed).normal(size=(STATES, config.vocab)))


def weights(positions):
  """Returns the weight of each position, for keys and for values."""
  return (3 * positions + 1) % 31, (5 * positions + 2) % 29


def prefill(config, params, tokens_PL, lengths_P, layers=None):
  inside_PL = jnp.arange(tokens_PL.shape[1])[None, :] < lengths_P[:, None]
  garbage_PL = jnp.where(inside_PL, tokens_PL, 1000)
  columns = lambda x_PL: (jnp.float32(x_PL)[:, None, :, None],)
  if config.apart:
    fixed_P = jnp.sum(jnp.where(inside_PL, tokens_PL, 0), axis=1)
    start_P1 = jnp.full((tokens_PL.shape[0], 1), START)
    cache, filled_P = (
      token_rows.Cache(columns(start_P1), columns(2 * start_P1), (fixed_P,)),
      lengths_P * 0 + 1,
    )
  else:
    cache, filled_P = token_rows.Cache(columns(garbage_PL), columns(2 * garbage_PL)), lengths_P
  seen_PL = jnp.arange(cache.keys[0].shape[2])[None, :] < filled_P[:, None]
  positions_PL = jnp.broadcast_to(jnp.arange(seen_PL.shape[1]), seen_PL.shape)
  return _logits(params, cache, positions_PL, seen_PL), cache, filled_P


def unstack_layers(config, params, weights=""):
  return [], None


def decode_step(config, params, layers, token_R, position_R, cache):
  new = jnp.float32(token_R)[:, None, None, None]
  cache = cache._replace(
    keys=(token_rows.write_column(cache.keys[0], new, position_R),),
    values=(token_rows.write_column(cache.values[0], 2 * new, position_R),),
  )
  positions_S = jnp.arange(cache.keys[0].shape[2])
  positions_RS = jnp.broadcast_to(positions_S, (len(token_R), *positions_S.shape))
  return _logits(params, cache, positions_RS, positions_RS <= position_R[:, None]), cache


def _logits(params, cache, positions_BS, seen_BS):
  for_keys, for_values = weights(positions_BS)
  sums = cache.keys[0][:, 0, :, 0] * for_keys + cache.values[0][:, 0, :, 0] * for_values
  state_B = jnp.sum(jnp.where(seen_BS, jnp.int32(sums), 0), axis=1)
  for fixed_B in cache.fixed:
    state_B += fixed_B
  return params[state_B % STATES]


def sample_row(config, params, prompt, key, *, temperature, max_new_tokens, eos):
  """Returns (tokens, ended, logprobs) of one row alone: a loop over its tokens in NumPy."""
  held, fixed = ([START], sum(prompt)) if config.apart else (list(prompt), 0)
  out, logprobs = [], []
  while len(out) < max_new_tokens and not (out and out[-1] in eos):
    chain = np.array(held + out)
    for_keys, for_values = weights(np.arange(len(chain)))
    state = (np.sum(chain * for_keys) + np.sum(2 * chain * for_values) + fixed) % STATES
    logits = np.float64(params[state])
    total = np.cumsum(oracle.softmax(logits / temperature))
    number = jax.random.uniform(jax.random.fold_in(jax.random.wrap_key_data(key), len(out)))
    out.append(int(np.searchsorted(total, float(number) * total[-1], side="right")))
    logprobs.append(np.log(oracle.softmax(logits))[out[-1]])
  return out, out[-1] in eos, logprobs


def students():
  """Returns a stand-in for the package `students`."""
  module = types.SimpleNamespace(
    prefill=prefill, unstack_layers=unstack_layers, decode_step=decode_step
  )
  return types.SimpleNamespace(of=lambda config: module)
