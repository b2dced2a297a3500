"""The device programs of sampling: prefill prompts, insert them into free rows, decode all rows.

Dimension key: P prompts prefilled at once, Q rows filled at once, R rows, L columns of a prompt, N
new tokens, S = L + N columns of a row's cache, V vocabulary.

A row may start at any iteration and computes the same bits whatever the other rows are: a column of
its cache is a position of its own (students/token_rows.py), and all sizes follow from settings and
bucket, never from the amount of work. rollout.py calls these programs.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from distill_jax import students
from distill_jax.decoding import sampling
from distill_jax.students import layers, quantized, sharding
from distill_jax.students.token_rows import Cache
from distill_jax.students.types import Config, Params, Unstacked

Prefilled = tuple[jax.Array, Cache, jax.Array]  # (logits [P, V], cache, columns filled [P])


class Samples(NamedTuple):
  """What each row has sampled; a row that was never filled has sampled nothing."""

  tokens: jax.Array  # int32 [R, N]; entries after a row's length are undefined
  logprobs: jax.Array  # float32 [R, N], nats at temperature 1
  lengths: jax.Array  # int32 [R], including the end token
  ended: jax.Array  # bool [R]: whether the row stopped at an end token


class Held(NamedTuple):
  """Weights that a rollout reads; see `prepare`."""

  params: Params
  unstacked: Unstacked | None  # of the model's `unstack_layers`; None: every call computes it


class State(NamedTuple):
  """The state of all rows."""

  iteration: jax.Array  # int32: iterations so far
  cache: Cache
  logits: jax.Array  # float32 [R, V], of the next token
  filled: jax.Array  # int32 [R]: columns before the first new token
  keys: jax.Array  # uint32 [R, 2]
  samples: Samples


def _axes(x: Any) -> tuple[str | None, ...]:
  """Returns the logical axes: rows over the devices, and the key-value groups of a cache too."""
  if not x.ndim:
    return ()
  return ("batch", *(("groups", None, None) if x.ndim == 4 else (None,) * (x.ndim - 1)))


def _pin(tree: Any) -> Any:
  return jax.tree.map(lambda x: sharding.constrain(x, *_axes(x)), tree)


def shardings(mesh: jax.sharding.Mesh, tree: Any) -> Any:
  """Returns the NamedShardings of prefilled prompts or of a state."""
  return jax.tree.map(
    lambda x: jax.NamedSharding(mesh, sharding.partition(mesh, x.shape, _axes(x))), tree
  )


def _holds_whole(config: Config) -> bool:
  return sharding.has_fsdp() and sharding.decodes_whole(students.of(config).shapes, config)


def _gather_weights(config: Config, params: Params) -> Params:
  """Returns the weights as decoding holds them; those of an encoder stay as they are."""
  if not _holds_whole(config):
    return params
  model = students.of(config)
  encoder = {"encoder": params["encoder"]} if "encoder" in params else {}
  rest = layers.cast_for_decode({k: v for k, v in params.items() if k != "encoder"}, config.dtype)
  return sharding.gather_over_fsdp(rest, model.axes(config)) | encoder


@functools.partial(jax.jit, static_argnames="config")
def gather_once(config: Config, params: Params) -> Params:
  """Returns the weights as decoding holds them; see `prepare`."""
  return _gather_weights(config, params)


@functools.partial(jax.jit, static_argnames="config")
def unstack_once(config: Config, params: Params) -> Unstacked:
  """Returns the layers apart, as decoding reads them; see `prepare`."""
  return students.of(config).unstack_layers(config, params)


@functools.partial(jax.jit, static_argnames=("config", "weights"))
def quantize_once(config: Config, params: Params, weights: str) -> Held:
  """Returns the layers apart, in fewer bits, and what else decoding reads; see `prepare`."""
  held = _gather_weights(config, params)
  unstacked = students.of(config).unstack_layers(config, held, weights)
  return Held(_without_layers(held), unstacked)


def _without_layers(params: Params) -> Params:
  """Returns the parameters without the stack of layers that decoding has apart."""
  return {name: x for name, x in params.items() if name == "encoder" or hasattr(x, "shape")}


def prepare(config: Config, params: Params | Held, weights: str = "") -> Held:
  """Returns the weights that a rollout reads; what is prepared stays as it is.

  Where the mesh has fsdp and the weights fit without it, they are gathered over fsdp once. On a
  CPU, the layers are unstacked once, too: this copies all weights, which takes as long as several
  tokens. Elsewhere, each call unstacks them, which takes no time, and the memory of the copy is
  free between the calls.

  Args:
    config: The student's config.
    params: Its parameters.
    weights: int8: layers and head are taken apart and quantized, once, on any device; or empty.
  """
  if isinstance(params, Held):
    return params
  if weights:
    return quantize_once(config, params, weights)
  whole: Params = gather_once(config, params) if _holds_whole(config) else params
  return Held(whole, unstack_once(config, whole) if sharding.platform() == "cpu" else None)


def _held(params: Params | Held) -> Held:
  return params if isinstance(params, Held) else Held(params, None)


@functools.partial(jax.jit, static_argnames="config")
def prefill(
  config: Config, params: Params | Held, tokens_PL: jax.Array, lengths_P: jax.Array
) -> Prefilled:
  """Reads prompts that are padded on the right; those of length 0 fill up the batch."""
  params, unstacked = _held(params)
  return _pin(students.of(config).prefill(config, params, tokens_PL, lengths_P, unstacked))


@functools.partial(jax.jit, static_argnames=("count", "max_new_tokens"))
def empty_state(prefilled: Prefilled, *, count: int, max_new_tokens: int) -> State:
  """Returns `count` empty rows, wide enough for these prompts and `max_new_tokens`."""
  logits_PV, cache, _ = prefilled

  def zeros(dtype: Any, *shape: int) -> jax.Array:
    return jnp.zeros((count, *shape), dtype)

  def zeros_like(x: jax.Array) -> jax.Array:
    return zeros(x.dtype, *x.shape[1:])

  def longer(x: jax.Array) -> jax.Array:
    return zeros(x.dtype, x.shape[1], x.shape[2] + max_new_tokens, x.shape[3])

  return _pin(
    State(
      jnp.int32(0),
      cache._replace(
        keys=jax.tree.map(longer, cache.keys),
        values=jax.tree.map(longer, cache.values),
        fixed=jax.tree.map(zeros_like, cache.fixed),
      ),
      zeros_like(logits_PV),
      zeros(jnp.int32),
      zeros(jnp.uint32, 2),
      Samples(
        zeros(jnp.int32, max_new_tokens),
        zeros(jnp.float32, max_new_tokens),
        zeros(jnp.int32),
        zeros(bool),
      ),
    )
  )


@functools.partial(jax.jit, donate_argnames="state")
def insert(state: State, prefilled: Prefilled, source_Q: Any, target_Q: Any, keys_Q2: Any) -> State:
  """Starts prefilled prompts in rows, each with a key.

  Columns that the prompt does not reach keep their contents; they are overwritten before anything
  sees them.

  Args:
    state: The rows; donated.
    prefilled: The prompts.
    source_Q: Which prompt.
    target_Q: In which row; R is none.
    keys_Q2: The random key of the row.
  """
  logits_PV, cache, filled_P = prefilled

  def fill(x_R: jax.Array, new_Q: Any) -> jax.Array:
    return x_R.at[target_Q].set(new_Q, mode="drop")

  def take(x_R: jax.Array, x_P: jax.Array) -> jax.Array:
    return fill(x_R, x_P[source_Q])

  length = cache.keys[0].shape[2]

  def take_columns(x_R: jax.Array, x_P: jax.Array) -> jax.Array:
    if sharding.platform() == "tpu":  # where a scatter by rows is a loop over rows
      source_R = jnp.full(len(x_R), -1).at[target_Q].set(source_Q, mode="drop")
      padded_P = jnp.pad(x_P, ((0, 0), (0, 0), (0, x_R.shape[2] - length), (0, 0)))
      new_R = padded_P[jnp.maximum(source_R, 0)]
      return jnp.where((source_R >= 0)[:, None, None, None], new_R, x_R)
    return x_R.at[target_Q, :, :length].set(x_P[source_Q], mode="drop")

  samples = state.samples
  return _pin(
    state._replace(
      cache=Cache(
        jax.tree.map(take_columns, state.cache.keys, cache.keys),
        jax.tree.map(take_columns, state.cache.values, cache.values),
        jax.tree.map(take, state.cache.fixed, cache.fixed),
      ),
      logits=take(state.logits, logits_PV),
      filled=take(state.filled, filled_P),
      keys=fill(state.keys, keys_Q2),
      samples=samples._replace(lengths=fill(samples.lengths, 0), ended=fill(samples.ended, False)),
    )
  )


@functools.partial(jax.jit, static_argnames=("config", "eos"), donate_argnames="state")
def decode(
  config: Config,
  params: Params | Held,
  state: State,
  running_R: Any,
  settings: sampling.Sampling,
  free: Any,
  iterations: Any,
  *,
  eos: tuple[int, ...],
) -> tuple[State, jax.Array]:
  """Decodes the running rows until `free` rows are free or `iterations` have passed.

  A row stops at any token of `eos`, and after N tokens. The i-th number that a row draws is a
  function of (its key, i).

  Args:
    config: The student's config.
    params: Its parameters, or what `prepare` returns.
    state: The rows; donated.
    running_R: Which of them run.
    settings: How tokens are chosen.
    free: How many rows must be free to stop.
    iterations: The most iterations.
    eos: The end tokens.

  Returns:
    The state, and which rows still run.
  """
  model = students.of(config)
  params, unstacked = _held(params)
  held = _gather_weights(config, params) if unstacked is None else params
  if unstacked is None:
    # The barriers keep the gathers, the slices of layers and the transpose of a tied head out of
    # the loop.
    unstacked = jax.lax.optimization_barrier(model.unstack_layers(config, held))
    if held is not params:
      held = jax.lax.optimization_barrier(_without_layers(held))
  max_new_tokens = state.samples.tokens.shape[1]
  last = state.iteration + iterations

  def more(loop: tuple[State, jax.Array]) -> jax.Array:
    state, running_R = loop
    return (state.iteration < last) & (jnp.sum(~running_R) < free)

  def iteration(loop: tuple[State, jax.Array]) -> tuple[State, jax.Array]:
    state, running_R = loop
    samples = state.samples
    uniform_R = jax.vmap(_uniform)(state.keys, samples.lengths)
    token_R, logp_R = sampling.sample_tokens(state.logits, uniform_R, settings)
    index_N = jnp.arange(max_new_tokens)
    here_RN = (index_N[None, :] == samples.lengths[:, None]) & running_R[:, None]
    position_R = state.filled + samples.lengths
    samples = Samples(
      jnp.where(here_RN, token_R[:, None], samples.tokens),
      jnp.where(here_RN, logp_R[:, None], samples.logprobs),
      samples.lengths + running_R,
      samples.ended | running_R & jnp.isin(token_R, jnp.int32(eos)),
    )
    apart, token_R = _read_in_loop(unstacked, token_R)
    logits_RV, cache = model.decode_step(config, held, apart, token_R, position_R, state.cache)
    state = State(state.iteration + 1, cache, logits_RV, state.filled, state.keys, samples)
    return state, running_R & ~samples.ended & (samples.lengths < max_new_tokens)

  state, running_R = jax.lax.while_loop(more, iteration, (_pin(state), _pin(running_R)))
  return _pin(state), running_R


def _read_in_loop(unstacked: Unstacked, token_R: jax.Array) -> tuple[Unstacked, jax.Array]:
  """Keeps the cast of weights in 8 bits inside the loop over tokens.

  XLA would cast them once, before the loop, which then would read them in the compute dtype.
  """
  if isinstance(unstacked[1], quantized.Int8):
    return jax.lax.optimization_barrier((unstacked, token_R))
  return unstacked, token_R


def _uniform(key_2: jax.Array, index: Any) -> jax.Array:
  """Returns the index-th number of a key, in [0, 1)."""
  return jax.random.uniform(jax.random.fold_in(jax.random.wrap_key_data(key_2), index))
