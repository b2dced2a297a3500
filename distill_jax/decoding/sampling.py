"""Sampling a token from logits, without sorting the vocabulary.

Dimension key: R rows, V vocabulary. All settings are traced scalars, so changing them compiles
nothing.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from distill_jax.students import sharding

BLOCK = 256  # tokens whose probabilities are added up to find the block of a draw


class Sampling(NamedTuple):
  """Sampling settings: temperature 0 is greedy; top_p 1 and top_k 0 switch the filters off."""

  temperature: jax.Array
  top_p: jax.Array
  top_k: jax.Array


def sampling(temperature: float, top_p: float = 1.0, top_k: int = 0) -> Sampling:
  """Returns the settings as arrays."""
  return Sampling(jnp.float32(temperature), jnp.float32(top_p), jnp.int32(top_k))


def _threshold(probs_RV: jax.Array, is_enough: Callable[[jax.Array], jax.Array]) -> jax.Array:
  """Returns the largest t [R, 1] for which `is_enough(probs >= t)` holds; exact.

  Bisects over the bits of a float. Non-negative floats are ordered like their bits, so 31 halvings
  find the element itself.
  """
  low = jnp.zeros((probs_RV.shape[0], 1), jnp.int32)
  high = jnp.full_like(low, 0x7F800000)  # infinity: nothing is kept

  def as_float(bits: jax.Array) -> jax.Array:
    return jax.lax.bitcast_convert_type(bits, jnp.float32)

  def halve(_: jax.Array, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    low, high = bounds
    middle = low + (high - low) // 2
    ok = is_enough(probs_RV >= as_float(middle))
    return jnp.where(ok, middle, low), jnp.where(ok, high, middle)

  return as_float(jax.lax.fori_loop(0, 31, halve, (low, high))[0])


def filter_probs(probs_RV: jax.Array, settings: Sampling) -> jax.Array:
  """Sets to 0 what top-k and then top-p exclude; ties with the last token kept are kept."""

  def total(x_RV: jax.Array) -> jax.Array:
    return jnp.sum(x_RV, axis=-1, keepdims=True)

  def pin(p: jax.Array) -> jax.Array:
    """Keeps rows on their devices: a branch would otherwise get all of them on each."""
    return sharding.constrain(p, "batch", None)

  k = jnp.where(settings.top_k > 0, settings.top_k, probs_RV.shape[-1])

  def by_k(p: jax.Array) -> jax.Array:
    p = pin(p)
    return pin(jnp.where(p >= _threshold(p, lambda kept: total(kept) >= k), p, 0.0))

  probs = pin(jax.lax.cond(settings.top_k > 0, by_k, pin, pin(probs_RV)))

  def by_p(p: jax.Array) -> jax.Array:
    p = pin(p)
    smallest = jnp.finfo(p.dtype).tiny  # top_p 0 keeps the likeliest token
    wanted = jnp.maximum(settings.top_p * total(p), smallest)
    threshold = _threshold(p, lambda kept: total(jnp.where(kept, p, 0.0)) >= wanted)
    return pin(jnp.where(p >= threshold, p, 0.0))

  return pin(jax.lax.cond(settings.top_p < 1.0, by_p, pin, probs))


def sample_tokens(
  logits_RV: jax.Array, uniform_R: jax.Array, settings: Sampling
) -> tuple[jax.Array, jax.Array]:
  """Samples by the inverse of the cumulative distribution: one uniform number a row.

  Args:
    logits_RV: The logits.
    uniform_R: Numbers in [0, 1).
    settings: The settings.

  Returns:
    The token [R], and its log-probability at temperature 1 [R], nats.
  """
  # At most 0: finite after a division by any temperature.
  shifted_RV = logits_RV - jnp.max(logits_RV, axis=-1, keepdims=True)

  def draw(shifted: jax.Array) -> jax.Array:
    probs = filter_probs(jax.nn.softmax(shifted / settings.temperature, axis=-1), settings)
    return _invert(probs, uniform_R)

  token_R = jax.lax.cond(settings.temperature > 0, draw, lambda x: _first(x == 0), shifted_RV)
  chosen_R = jnp.take_along_axis(shifted_RV, token_R[:, None], axis=-1)[:, 0]
  return token_R, chosen_R - jnp.log(jnp.sum(jnp.exp(shifted_RV), axis=-1))


def _invert(probs_RV: jax.Array, uniform_R: jax.Array) -> jax.Array:
  """Returns the first token whose cumulative probability is above a share of the total.

  The sum over whole blocks finds the block, the sum within it the token: no cumulative sum spans
  the whole vocabulary. Rounding differs from such a sum, so a draw next to a boundary may, too.
  """
  pad = -probs_RV.shape[-1] % BLOCK
  blocks_RNB = jnp.pad(probs_RV, ((0, 0), (0, pad))).reshape(len(probs_RV), -1, BLOCK)
  ends_RN = jnp.cumsum(jnp.sum(blocks_RNB, axis=-1), axis=-1)
  wanted_R1 = uniform_R[:, None] * ends_RN[:, -1:]
  # A parallel sum can rise where nothing is added, so being above is not enough.
  block_R1 = _first_or_last(ends_RN > wanted_R1, jnp.any(blocks_RNB > 0, axis=-1))[:, None]
  before_R1 = jnp.where(
    block_R1 > 0, jnp.take_along_axis(ends_RN, jnp.maximum(block_R1 - 1, 0), axis=-1), 0.0
  )
  probs_RB = jnp.take_along_axis(blocks_RNB, block_R1[:, :, None], axis=1)[:, 0]
  above_RB = before_R1 + jnp.cumsum(probs_RB, axis=-1) > wanted_R1
  return block_R1[:, 0] * BLOCK + _first_or_last(above_RB, probs_RB > 0)


def _first_or_last(above_RV: jax.Array, possible_RV: jax.Array) -> jax.Array:
  """Returns the first index that is above and possible; the last possible one if none is."""
  both_RV = above_RV & possible_RV
  last_R = jnp.max(jnp.where(possible_RV, jnp.arange(both_RV.shape[-1])[None, :], 0), axis=-1)
  return jnp.where(jnp.any(both_RV, axis=-1), _first(both_RV), last_R)


def _first(is_RV: jax.Array) -> jax.Array:
  """Returns the index of the first True: by a minimum, which is faster than an argmax."""
  index_V = jnp.arange(is_RV.shape[-1])
  return jnp.min(jnp.where(is_RV, index_V[None, :], is_RV.shape[-1] - 1), axis=-1)
