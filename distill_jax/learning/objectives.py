"""Objectives: weighted sums of mean losses, each with its own denominator.

Dimension key: B rows, L tokens of a row, T target positions, D model width, C=3 branches (anchor,
positive, negative).

An objective gives `counts(batch)`, the denominators, from data alone, and `sums(params, batch)`.
Only the train step divides, once, by the count of the whole batch: so micro-batches, hosts and
shards change nothing.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from distill_jax.learning import logprobs, losses


class Objective(NamedTuple):
  share: dict[str, float]  # coefficient of each term
  counts: Callable[[Any], dict[str, jax.Array]]
  sums: Callable[[Any, Any], dict[str, jax.Array]]


class Batch(NamedTuple):
  """What one step reads; the leading dimension is the row everywhere.

  A row of weight 0 and without a contrast fills up a batch and changes nothing.
  """

  rows: Any  # decoder.Rows, int32 [B, L] each
  where: jax.Array  # int32 [B, T]: positions whose next token is a target
  labels: jax.Array  # int32 [B, T]
  weights: jax.Array  # float32 [B, T]; 0 where there is nothing to learn
  tokens: jax.Array  # float32 [B]: what this row adds to the SFT denominator
  # float32 [B, C, L]: weights that pool anchor, positive, negative; rows of C are empty without a
  # triplet
  pool: jax.Array
  valid: jax.Array  # float32 [B]: 1 where the row has a contrast


def tailored(
  hidden: Callable, head: Callable, *, share: dict[str, float], margin: float, chunk: int
) -> Objective:
  """SFT plus self-reflection: `share["sft"] * NLL + share["triplet"] * triplet` (Wang et al. 2023),
  in one forward pass. Terms with share 0 are not computed.

  hidden(params, rows) gives [B, L, D]; head(params) gives [D, V].
  """
  share = {term: weight for term, weight in share.items() if weight}

  def counts(batch: Batch):
    every = {"sft": jnp.sum(batch.tokens), "triplet": jnp.sum(batch.valid)}
    return {term: every[term] for term in share}

  def sums(params, batch: Batch):
    states_BLD = hidden(params, batch.rows)
    out = {}
    if "sft" in share:
      here_BTD = jnp.take_along_axis(states_BLD, batch.where[..., None], axis=1)
      logp_BT = logprobs.token_logprobs(here_BTD, head(params), batch.labels, chunk=chunk)
      out["sft"] = losses.weighted_nll(logp_BT, batch.weights)
    if "triplet" in share:
      pooled_BCD = jnp.einsum("bcl,bld->bcd", batch.pool, states_BLD.astype(jnp.float32))
      anchor, positive, negative = pooled_BCD.swapaxes(0, 1)
      out["triplet"] = losses.triplet(anchor, positive, negative, batch.valid, margin=margin)
    return out

  return Objective(share, counts, sums)
