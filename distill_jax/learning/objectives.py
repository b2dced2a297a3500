"""Objectives: weighted sums of mean losses, each with its own denominator.

Dimension key: B rows, L tokens of a row, T target positions, D model width, C triplets of a row
(each of 3 branches: anchor, positive, negative), P preference pairs of a row, S=2P sequences.

An objective gives `counts(batch)`, the denominators, from data alone, and `sums(params, batch)`.
The train step divides once, by the count of the whole batch; micro-batches, hosts, shards and the
packing of examples into rows therefore change nothing.

All objectives take `hidden(params, rows) -> [B, L, D]` and
`logprobs(params, hidden_BTD, labels_BT) -> [B, T]` (float32, nats).
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from distill_jax.learning import losses
from distill_jax.students import gather
from distill_jax.students.token_rows import Rows
from distill_jax.students.types import Params

EXACT = jax.lax.Precision.HIGHEST  # float32 products stay float32 on every device

Hidden = Callable[[Params, Rows], jax.Array]
Logprobs = Callable[[Params, jax.Array, jax.Array], jax.Array]


class Objective(NamedTuple):
  """A weighted sum of terms."""

  coefficients: dict[str, float]  # of each term; a term without one is reported, not optimized
  counts: Callable[[Any], dict[str, jax.Array]]
  sums: Callable[[Params, Any], dict[str, jax.Array]]
  coupled: bool = False  # whether a row's loss depends on other rows: no micro-batches


class Batch(NamedTuple):
  """What one step reads; the leading dimension of every array is the row.

  A row may hold several examples. A row of weight 0 without triplets and pairs fills up a batch and
  changes nothing. Arrays that the objective does not need may be None.
  """

  rows: Rows
  where: jax.Array  # int32 [B, T]: positions whose next token is a target
  labels: jax.Array  # int32 [B, T]
  weights: jax.Array  # float32 [B, T]; 0 where there is nothing to learn
  tokens: jax.Array  # float32 [B]: what this row adds to the SFT denominator
  # int32 [B, L]: 0, or 1 + 3 * triplet + branch (0 anchor, 1 positive, 2 negative) for a token
  # whose state is part of that branch's mean
  slots: jax.Array | None = None
  shares: jax.Array | None = None  # float32 [B, L]: the token's share in that mean
  valid: jax.Array | None = None  # float32 [B, C]: 1 where there is a triplet
  owners: jax.Array | None = None  # int32 [B, T]: 2 * pair + (0 chosen, 1 rejected)
  references: jax.Array | None = None  # float32 [B, S]: log p under the reference policy, nats
  pairs: jax.Array | None = None  # float32 [B, P]: 1 where there is a pair


class Sides(NamedTuple):
  """The sides of preference pairs; every array is float32 [B, P, 2], chosen before rejected."""

  logp: jax.Array  # nats, summed over the tokens
  reference: jax.Array  # likewise, under the reference policy
  tokens: jax.Array  # number of tokens


def as_batch(arrays: Mapping[str, Any]) -> Batch:
  """Returns the arrays of data/batches.py as a Batch."""
  arrays = dict(arrays)
  rows = {name: arrays.pop(name) for name in Rows._fields if name in arrays}
  return Batch(Rows(**rows), tokens=arrays.pop("denominator"), **arrays)


def tailored(
  hidden: Hidden, logprobs: Logprobs, *, coefficients: dict[str, float], margin: float
) -> Objective:
  """Returns SFT plus self-reflection, in one forward pass (Wang et al. 2023).

  coefficients["sft"] * NLL + coefficients["triplet"] * triplet; terms with coefficient 0 are not
  computed.
  """
  coefficients = {term: weight for term, weight in coefficients.items() if weight}

  def counts(batch: Batch) -> dict[str, jax.Array]:
    of_term = {"sft": batch.tokens, "triplet": batch.valid}
    return {term: jnp.sum(_given(of_term[term])) for term in coefficients}

  def sums(params: Params, batch: Batch) -> dict[str, jax.Array]:
    states_BLD, out = hidden(params, batch.rows), {}
    if "sft" in coefficients:
      logp_BT = _target_logprobs(logprobs, params, states_BLD, batch)
      out["sft"] = losses.weighted_nll(logp_BT, batch.weights)
    if "triplet" in coefficients:
      valid_N = _given(batch.valid).reshape(-1)
      branches = pool_branches(states_BLD, batch)
      out["triplet"] = losses.triplet(*branches, valid_N, margin=margin)
    return out

  return Objective(coefficients, counts, sums)


def preference(
  hidden: Hidden,
  logprobs: Logprobs,
  *,
  loss: str,
  coefficients: dict[str, float],
  beta: float,
  label_smoothing: float,
  gamma: float,
  length_normalized: bool,
) -> Objective:
  """Returns a loss on preference pairs, plus the likelihood of the chosen sides.

  coefficients["preference"] * losses.PREFERENCE[loss], a mean over pairs, plus
  coefficients["nll"] * NLL, a mean over tokens of chosen sides; with DPO this is RPO (Pang et al.
  2024). Both sides of a pair and all pairs of a row share one forward pass; the reference policy is
  data.

  Also reported, as means over pairs and without gradient:
    margin    beta * (score of chosen - score of rejected), see losses.py: the difference of the
              implicit rewards, nats
    accuracy  the share of pairs whose margin is above 0
    chosen, rejected   log p of a side under the policy, summed over its tokens, nats
    kl        KL(policy || reference) of a sequence, nats, where the loss has a reference: the mean
              over both sides of (log p - log p_ref)^2 / 2, the estimator k2 of Schulman 2020. It is
              right to second order for sequences drawn from either policy, and too large far away

  Args:
    hidden: See the module.
    logprobs: See the module.
    loss: A key of losses.PREFERENCE; `kto` is coupled.
    coefficients: Of the terms.
    beta: The loss's temperature.
    label_smoothing: The share of swapped labels; for dpo and robust.
    gamma: The margin of simpo.
    length_normalized: Whether scores are means over tokens instead of sums.

  Raises:
    ValueError: label_smoothing is set for a loss that does not have it.
  """
  if label_smoothing and loss not in ("dpo", "robust"):
    raise ValueError(f"label_smoothing is {label_smoothing}, but {loss} has none: use 0")
  smoothing = {"label_smoothing": label_smoothing}
  options = {"dpo": smoothing, "robust": smoothing, "simpo": {"gamma": gamma}}.get(loss, {})
  has_reference = loss not in losses.WITHOUT_REFERENCE
  per_pair = ["preference", "margin", "accuracy", "chosen", "rejected"]
  if has_reference:
    per_pair.append("kl")

  def counts(batch: Batch) -> dict[str, jax.Array]:
    tokens = jnp.sum(jnp.float32(_is_chosen(batch)))
    return {"nll": tokens, **dict.fromkeys(per_pair, jnp.sum(_given(batch.pairs)))}

  def sums(params: Params, batch: Batch) -> dict[str, jax.Array]:
    logp_BT = _target_logprobs(logprobs, params, hidden(params, batch.rows), batch)
    side, valid_BP = sum_sides(logp_BT, batch), _given(batch.pairs)
    gain = side.logp - side.reference if has_reference else side.logp
    scores = gain / jnp.maximum(side.tokens, 1.0) if length_normalized else gain
    chosen_BP, rejected_BP = scores[..., 0], scores[..., 1]
    out = {
      "preference": losses.preference(loss, chosen_BP, rejected_BP, valid_BP, beta=beta, **options),
      "nll": losses.weighted_nll(logp_BT, jnp.float32(_is_chosen(batch))),
    }
    margin_BP = beta * (chosen_BP - rejected_BP)
    reported = {
      "margin": margin_BP,
      "accuracy": jnp.float32(margin_BP > 0),
      "chosen": side.logp[..., 0],
      "rejected": side.logp[..., 1],
    }
    if has_reference:
      reported["kl"] = jnp.mean(jnp.square(gain) / 2, axis=-1)
    for name, x_BP in reported.items():
      out[name] = jax.lax.stop_gradient(jnp.sum(jnp.where(valid_BP > 0, x_BP, 0.0)))
    return out

  coefficients = {term: weight for term, weight in coefficients.items() if weight}
  return Objective(coefficients, counts, sums, coupled=loss == "kto")


def _given(array: jax.Array | None) -> jax.Array:
  """Returns an optional array of a Batch. Raises ValueError if it is None."""
  if array is None:
    raise ValueError("the batch lacks an array that this objective needs")
  return array


def _is_chosen(batch: Batch) -> jax.Array:
  """Returns whether a target is part of a chosen side, bool [B, T]."""
  return (batch.weights > 0) & (_given(batch.owners) % 2 == 0)


def sum_sides(logp_BT: jax.Array, batch: Batch) -> Sides:
  """Sums log-probabilities and tokens of each side of each pair."""
  pairs = _given(batch.pairs).shape[1]
  owner_BTS = jax.nn.one_hot(_given(batch.owners), 2 * pairs, dtype=jnp.float32)

  def sum_BS(x_BT: jax.Array) -> jax.Array:
    return jnp.einsum("bt,bts->bs", x_BT, owner_BTS, precision=EXACT)

  def by_pair(x_BS: jax.Array) -> jax.Array:
    return x_BS.reshape(-1, pairs, 2)

  is_target_BT = batch.weights > 0
  logp_BS = sum_BS(jnp.where(is_target_BT, logp_BT, 0.0))
  reference = by_pair(_given(batch.references))
  return Sides(by_pair(logp_BS), reference, by_pair(sum_BS(jnp.float32(is_target_BT))))


def pool_branches(states_BLD: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns (anchors, positives, negatives) of all triplets of all rows, float32 [B*C, D] each."""
  branches = 3 * _given(batch.valid).shape[1]
  # Slot 0 becomes a row of zeros.
  weights_BLN = jax.nn.one_hot(_given(batch.slots) - 1, branches, dtype=jnp.float32)
  weights_BLN *= _given(batch.shares)[..., None]
  states_BLD = states_BLD.astype(jnp.float32)
  pooled_BND = jnp.einsum("bln,bld->bnd", weights_BLN, states_BLD, precision=EXACT)
  by_triplet = pooled_BND.reshape(-1, 3, pooled_BND.shape[-1])
  return by_triplet[:, 0], by_triplet[:, 1], by_triplet[:, 2]


def _target_logprobs(
  logprobs: Logprobs, params: Params, states_BLD: jax.Array, batch: Batch
) -> jax.Array:
  """Returns log p of the labels, [B, T]; the head is applied to target positions only."""
  targets_BTD = gather.positions(states_BLD, batch.where)
  return logprobs(params, targets_BTD, batch.labels)
