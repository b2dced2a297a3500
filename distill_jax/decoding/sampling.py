"""Drawing a token from logits, without sorting the vocabulary.

Dimension key: R rows, V vocabulary. All settings are traced scalars: changing them compiles
nothing.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Sampling(NamedTuple):
  """temperature 0 is greedy; top_p 1 and top_k 0 switch those filters off."""

  temperature: jax.Array
  top_p: jax.Array
  top_k: jax.Array


def sampling(temperature: float, top_p: float = 1.0, top_k: int = 0) -> Sampling:
  return Sampling(jnp.float32(temperature), jnp.float32(top_p), jnp.int32(top_k))


def _threshold(probs_RV, enough):
  """The largest t [R, 1] for which `enough(probs >= t)` holds; exact, by bisection over the bits of
  a float.

  Non-negative floats are ordered as their bits are, so 31 halvings find the very element.
  """
  low = jnp.zeros((probs_RV.shape[0], 1), jnp.int32)
  high = jnp.full_like(low, 0x7F800000)  # infinity: nothing is kept
  as_float = lambda bits: jax.lax.bitcast_convert_type(bits, jnp.float32)

  def halve(_, bounds):
    low, high = bounds
    middle = low + (high - low) // 2
    ok = enough(probs_RV >= as_float(middle))
    return jnp.where(ok, middle, low), jnp.where(ok, high, middle)

  return as_float(jax.lax.fori_loop(0, 31, halve, (low, high))[0])


def keep(probs_RV, settings: Sampling):
  """Sets to 0 what top-k and then top-p exclude; ties with the last one kept stay in."""
  count = lambda kept: jnp.sum(kept, axis=-1, keepdims=True)
  k = jnp.where(settings.top_k > 0, settings.top_k, probs_RV.shape[-1])
  by_k = lambda p: jnp.where(p >= _threshold(p, lambda kept: count(kept) >= k), p, 0.0)
  probs = jax.lax.cond(settings.top_k > 0, by_k, lambda p: p, probs_RV)

  def by_p(p):
    least = jnp.finfo(p.dtype).tiny  # top_p 0 keeps the likeliest
    wanted = jnp.maximum(settings.top_p * count(p), least)
    return jnp.where(
      p >= _threshold(p, lambda kept: count(jnp.where(kept, p, 0.0)) >= wanted), p, 0.0
    )

  return jax.lax.cond(settings.top_p < 1.0, by_p, lambda p: p, probs)


def choose(logits_RV, uniform_R, settings: Sampling):
  """(token [R], its log-probability at temperature 1 in nats [R]).

  Draws by the inverse of the cumulative distribution: one uniform number a row.
  """
  lead_RV = logits_RV - jnp.max(logits_RV, axis=-1, keepdims=True)  # finite at any temperature

  def draw(lead):
    probs = keep(jax.nn.softmax(lead / settings.temperature, axis=-1), settings)
    cumulative = jnp.cumsum(probs, axis=-1)
    # A parallel sum can rise where nothing is added, so that being above is not enough.
    above = (cumulative > uniform_R[:, None] * cumulative[:, -1:]) & (probs > 0)
    last = jnp.max(jnp.where(probs > 0, jnp.arange(probs.shape[-1])[None, :], 0), axis=-1)
    return jnp.where(jnp.any(above, axis=-1), _first(above), last)

  token_R = jax.lax.cond(settings.temperature > 0, draw, lambda lead: _first(lead == 0), lead_RV)
  chosen_R = jnp.take_along_axis(lead_RV, token_R[:, None], axis=-1)[:, 0]
  return token_R, chosen_R - jnp.log(jnp.sum(jnp.exp(lead_RV), axis=-1))


def _first(is_RV):
  """The index of the first True: a minimum, which every device takes faster than an argmax."""
  index_V = jnp.arange(is_RV.shape[-1])
  return jnp.min(jnp.where(is_RV, index_V[None, :], is_RV.shape[-1] - 1), axis=-1)
