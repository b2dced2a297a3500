"""What the device does when it samples: reads prompts, puts them into free rows, decodes all rows.

Dimension key: P prompts read at once, Q places filled at once, R rows, L columns of a prompt, N new
tokens, S = L + N columns of a row's cache, V vocabulary.

A row may begin at any iteration and computes the same bits whatever the other rows are: a column of
its cache is a position of its own (students/token_rows.py), and all sizes come from the settings
and the bucket, never from the amount of work. rollout.py calls these programs.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from distill_jax import students
from distill_jax.decoding import sampling
from distill_jax.students import sharding, token_rows


class Drawn(NamedTuple):
  """What every row has drawn; a row that was never filled has drawn nothing."""

  tokens: jax.Array  # int32 [R, N]; what stands after a row's length means nothing
  logprobs: jax.Array  # float32 [R, N], nats at temperature 1
  lengths: jax.Array  # int32 [R], the end token included
  ended: jax.Array  # bool [R]: stopped at an end token


class State(NamedTuple):
  turn: jax.Array  # int32: turns so far
  cache: token_rows.Cache
  logits: jax.Array  # float32 [R, V], of the token that comes next
  filled: jax.Array  # int32 [R]: columns before the first new token
  keys: jax.Array  # uint32 [R, 2]
  drawn: Drawn


def _pinned(tree):
  """Rows over the devices, and the key-value groups of a cache too."""

  def pin(x):
    rest = ("groups", None, None) if x.ndim == 4 else (None,) * (x.ndim - 1)
    return sharding.constrain(x, *(("batch",) + rest if x.ndim else ()))

  return jax.tree.map(pin, tree)


@functools.partial(jax.jit, static_argnames="config")
def prefill(config, params, tokens_PL, lengths_P):
  """Reads prompts padded on the right; one of length 0 is there to fill up. Returns what `place`
  places."""
  return _pinned(students.of(config).prefill(config, params, tokens_PL, lengths_P))


@functools.partial(jax.jit, static_argnames=("count", "max_new_tokens"))
def empty(prefilled, *, count: int, max_new_tokens: int) -> State:
  """`count` rows in which nothing is, as wide as what was read and `max_new_tokens` need."""
  logits_PV, cache, _ = prefilled
  like = lambda x: jnp.zeros((count, *x.shape[1:]), x.dtype)
  longer = lambda x: jnp.zeros(
    (count, x.shape[1], x.shape[2] + max_new_tokens, x.shape[3]), x.dtype
  )
  whole = lambda dtype, *shape: jnp.zeros((count, *shape), dtype)
  return _pinned(
    State(
      jnp.int32(0),
      cache._replace(
        keys=jax.tree.map(longer, cache.keys),
        values=jax.tree.map(longer, cache.values),
        fixed=jax.tree.map(like, cache.fixed),
      ),
      like(logits_PV),
      whole(jnp.int32),
      whole(jnp.uint32, 2),
      Drawn(
        whole(jnp.int32, max_new_tokens),
        whole(jnp.float32, max_new_tokens),
        whole(jnp.int32),
        whole(bool),
      ),
    )
  )


@functools.partial(jax.jit, donate_argnames="state")
def place(state: State, prefilled, source_Q, target_Q, keys_Q2) -> State:
  """Prompt source_Q of what was read begins in row target_Q, with a key of its own; a target R is
  no row. Columns that the prompt does not reach keep what they held: nobody sees it before it is
  written over."""
  logits_PV, cache, filled_P = prefilled
  fill = lambda x_R, new_Q: x_R.at[target_Q].set(new_Q, mode="drop")
  take = lambda x_R, x_P: fill(x_R, x_P[source_Q])
  length = cache.keys[0].shape[2]
  begin = lambda x_R, x_P: x_R.at[target_Q, :, :length].set(x_P[source_Q], mode="drop")
  drawn = state.drawn
  return _pinned(
    state._replace(
      cache=token_rows.Cache(
        jax.tree.map(begin, state.cache.keys, cache.keys),
        jax.tree.map(begin, state.cache.values, cache.values),
        jax.tree.map(take, state.cache.fixed, cache.fixed),
      ),
      logits=take(state.logits, logits_PV),
      filled=take(state.filled, filled_P),
      keys=fill(state.keys, keys_Q2),
      drawn=drawn._replace(lengths=fill(drawn.lengths, 0), ended=fill(drawn.ended, False)),
    )
  )


@functools.partial(jax.jit, static_argnames=("config", "eos"), donate_argnames="state")
def decode(
  config,
  params,
  state: State,
  running_R,
  settings: sampling.Sampling,
  free,
  turns,
  *,
  eos: tuple[int, ...],
):
  """Decodes the running rows until `free` rows are free or `turns` turns have passed.

  Returns the state and who still runs. A row stops at any token of `eos`, and after N tokens. The
  i-th number a row draws is a function of (its key, i).
  """
  model = students.of(config)
  # Behind the barrier: so layers are sliced, and a tied head laid out as a head, once and not once
  # a token.
  layers = jax.lax.optimization_barrier(model.unstacked(config, params))
  max_new_tokens = state.drawn.tokens.shape[1]
  last = state.turn + turns

  def more(loop):
    state, running_R = loop
    return (state.turn < last) & (jnp.sum(~running_R) < free)

  def turn(loop):
    state, running_R = loop
    drawn = state.drawn
    uniform_R = jax.vmap(_uniform)(state.keys, drawn.lengths)
    token_R, logp_R = sampling.choose(state.logits, uniform_R, settings)
    here_RN = (jnp.arange(max_new_tokens)[None, :] == drawn.lengths[:, None]) & running_R[:, None]
    position_R = state.filled + drawn.lengths
    drawn = Drawn(
      jnp.where(here_RN, token_R[:, None], drawn.tokens),
      jnp.where(here_RN, logp_R[:, None], drawn.logprobs),
      drawn.lengths + running_R,
      drawn.ended | running_R & jnp.isin(token_R, jnp.int32(eos)),
    )
    logits_RV, cache = model.advance(config, params, layers, token_R, position_R, state.cache)
    state = State(state.turn + 1, cache, logits_RV, state.filled, state.keys, drawn)
    return state, running_R & ~drawn.ended & (drawn.lengths < max_new_tokens)

  state, running_R = jax.lax.while_loop(more, turn, (_pinned(state), _pinned(running_R)))
  return _pinned(state), running_R


def _uniform(key_2, number):
  """The number-th number of a key, in [0, 1)."""
  return jax.random.uniform(jax.random.fold_in(jax.random.wrap_key_data(key_2), number))
