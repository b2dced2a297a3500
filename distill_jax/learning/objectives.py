"""Objectives: weighted sums of mean losses, each with its own denominator.

Dimension key: B rows, L tokens of a row, T target positions, D model width, C contrasts of a row
(of 3 branches: anchor, positive, negative), P preference pairs of a row, S=2P sequences.

An objective gives `counts(batch)`, the denominators, from data alone, and `sums(params, batch)`.
Only the train step divides, once, by the count of the whole batch: so micro-batches, hosts, shards
and how examples lie in rows change nothing.

All take `hidden(params, rows) -> [B, L, D]` and `logprobs(params, hidden_BTD, labels_BT) -> [B, T]`
(float32, nats).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from distill_jax.learning import losses
from distill_jax.students import token_rows as students_rows

EXACT = jax.lax.Precision.HIGHEST  # float32 products stay float32 on every device


class Objective(NamedTuple):
  share: dict[str, float]  # coefficient of each term; one without is reported, not optimised
  counts: Callable[[Any], dict[str, jax.Array]]
  sums: Callable[[Any, Any], dict[str, jax.Array]]
  coupled: bool = False  # a row's loss depends on the others: no micro-batches


class Batch(NamedTuple):
  """What one step reads; the leading dimension is the row everywhere.

  A row may hold several examples. One of weight 0 and without a contrast or pair fills up a batch
  and changes nothing. What the objective does not need may be None.
  """

  rows: students_rows.Rows
  where: jax.Array  # int32 [B, T]: positions whose next token is a target
  labels: jax.Array  # int32 [B, T]
  weights: jax.Array  # float32 [B, T]; 0 where there is nothing to learn
  tokens: jax.Array  # float32 [B]: what this row adds to the SFT denominator
  # int32 [B, L]: 0, or 1 + 3 * contrast + branch (0 anchor, 1 positive, 2 negative) for a token
  # whose state goes into the mean that stands for that branch
  slots: jax.Array | None = None
  shares: jax.Array | None = None  # float32 [B, L]: its share in that mean
  valid: jax.Array | None = None  # float32 [B, C]: 1 where there is a contrast
  owners: jax.Array | None = None  # int32 [B, T]: 2 * pair + (0 chosen, 1 rejected)
  references: jax.Array | None = None  # float32 [B, S]: log p under the reference policy, nats
  pairs: jax.Array | None = None  # float32 [B, P]: 1 where there is a pair


class Sides(NamedTuple):
  """Preference pairs; every array is float32 [B, P, 2], chosen before rejected."""

  logp: jax.Array  # nats, summed over the tokens
  reference: jax.Array  # nats, likewise, under the reference policy
  tokens: jax.Array  # how many


def batch_of(arrays: dict) -> Batch:
  """The Batch of the arrays of data/batches.py."""
  arrays = dict(arrays)
  rows = {name: arrays.pop(name) for name in students_rows.Rows._fields if name in arrays}
  return Batch(students_rows.Rows(**rows), tokens=arrays.pop("denominator"), **arrays)


def tailored(
  hidden: Callable, logprobs: Callable, *, share: dict[str, float], margin: float
) -> Objective:
  """SFT plus self-reflection: `share["sft"] * NLL + share["triplet"] * triplet` (Wang et al. 2023),
  in one forward pass. Terms with share 0 are not computed."""
  share = {term: weight for term, weight in share.items() if weight}

  def counts(batch: Batch):
    return {term: jnp.sum(batch.tokens if term == "sft" else batch.valid) for term in share}

  def sums(params, batch: Batch):
    states_BLD, out = hidden(params, batch.rows), {}
    if "sft" in share:
      logp_BT = _at_targets(logprobs, params, states_BLD, batch)
      out["sft"] = losses.weighted_nll(logp_BT, batch.weights)
    if "triplet" in share:
      valid_N = batch.valid.reshape(-1)
      out["triplet"] = losses.triplet(*pooled(states_BLD, batch), valid_N, margin=margin)
    return out

  return Objective(share, counts, sums)


def preference(
  hidden: Callable,
  logprobs: Callable,
  *,
  loss: str,
  share: dict[str, float],
  beta: float,
  label_smoothing: float,
  gamma: float,
  length_normalized: bool,
) -> Objective:
  """A loss on preference pairs, per pair, and the likelihood of the chosen sides, per token of
  theirs: `share["preference"] * losses.PREFERENCE[loss] + share["nll"] * NLL`; with DPO, RPO (Pang
  et al. 2024). Both sides of a pair and all pairs of a row share one forward pass; the reference
  policy is data. gamma is read by simpo alone.

  Reported beside them, means over pairs, without gradients:
    margin    beta * (score of the chosen - score of the rejected), see losses.py: of the implicit
              rewards, nats
    accuracy  share of pairs whose margin is above 0
    chosen, rejected   log p of a side under the policy, summed over its tokens, nats
    kl        KL(policy || reference) of a sequence, nats, where the loss has a reference: the mean
              over both sides of (log p - log p_ref)^2 / 2, the estimator k2 of Schulman 2020. It is
              right to second order for sequences drawn from either; far from there, too large

  KTO is `coupled`. Raises ValueError if label_smoothing is given to a loss that has none.
  """
  if label_smoothing and loss not in ("dpo", "robust"):
    raise ValueError(f"label_smoothing is {label_smoothing}: dpo and robust have it, {loss} not")
  smoothing = {"label_smoothing": label_smoothing}
  own = {"dpo": smoothing, "robust": smoothing, "simpo": {"gamma": gamma}}.get(loss, {})
  compared = loss not in losses.WITHOUT_REFERENCE
  of_pairs = ("preference", "margin", "accuracy", "chosen", "rejected", *["kl"] * compared)

  def counts(batch: Batch):
    tokens = jnp.sum(jnp.float32(_is_chosen(batch)))
    return {"nll": tokens, **dict.fromkeys(of_pairs, jnp.sum(batch.pairs))}

  def sums(params, batch: Batch):
    logp_BT = _at_targets(logprobs, params, hidden(params, batch.rows), batch)
    of, valid_BP = sides(logp_BT, batch), batch.pairs
    gain = of.logp - of.reference if compared else of.logp
    scores = gain / jnp.maximum(of.tokens, 1.0) if length_normalized else gain
    chosen_BP, rejected_BP = scores[..., 0], scores[..., 1]
    out = {
      "preference": losses.preference(loss, chosen_BP, rejected_BP, valid_BP, beta=beta, **own),
      "nll": losses.weighted_nll(logp_BT, jnp.float32(_is_chosen(batch))),
    }
    margin_BP = beta * (chosen_BP - rejected_BP)
    seen = {"margin": margin_BP, "accuracy": jnp.float32(margin_BP > 0)}
    seen |= {"chosen": of.logp[..., 0], "rejected": of.logp[..., 1]}
    seen |= {"kl": jnp.mean(jnp.square(gain) / 2, axis=-1)} if compared else {}
    total = lambda x_BP: jax.lax.stop_gradient(jnp.sum(jnp.where(valid_BP > 0, x_BP, 0.0)))
    return out | {name: total(x_BP) for name, x_BP in seen.items()}

  share = {term: weight for term, weight in share.items() if weight}
  return Objective(share, counts, sums, coupled=loss == "kto")


def _is_chosen(batch: Batch):
  """Whether a target is one of a chosen side, [B, T]."""
  return (batch.weights > 0) & (batch.owners % 2 == 0)


def sides(logp_BT, batch: Batch) -> Sides:
  """What the two sides of each pair add up to."""
  pairs = batch.pairs.shape[1]
  own_BTS = jax.nn.one_hot(batch.owners, 2 * pairs, dtype=jnp.float32)
  whole = lambda x_BT: jnp.einsum("bt,bts->bs", x_BT, own_BTS, precision=EXACT)
  apart = lambda x_BS: x_BS.reshape(-1, pairs, 2)
  is_target_BT = batch.weights > 0
  logp_BS = whole(jnp.where(is_target_BT, logp_BT, 0.0))
  return Sides(apart(logp_BS), apart(batch.references), apart(whole(jnp.float32(is_target_BT))))


def pooled(states_BLD, batch: Batch):
  """(anchors, positives, negatives) of all contrasts of all rows, [B*C, D] each, float32."""
  branches = 3 * batch.valid.shape[1]
  which_BLN = jax.nn.one_hot(batch.slots - 1, branches, dtype=jnp.float32)  # none where slots is 0
  which_BLN *= batch.shares[..., None]
  states_BLD = states_BLD.astype(jnp.float32)
  pooled_BND = jnp.einsum("bln,bld->bnd", which_BLN, states_BLD, precision=EXACT)
  of = pooled_BND.reshape(-1, 3, pooled_BND.shape[-1])
  return of[:, 0], of[:, 1], of[:, 2]


def _at_targets(logprobs, params, states_BLD, batch: Batch):
  """log p of the labels, [B, T]: the head works on these positions and on no other."""
  here_BTD = jnp.take_along_axis(states_BLD, batch.where[..., None], axis=1)
  return logprobs(params, here_BTD, batch.labels)
