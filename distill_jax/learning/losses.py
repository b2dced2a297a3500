"""Losses: arrays in, a sum out. The train step divides.

Dimension key: B batch, T target positions, D model width. Units: likelihood losses are in nats,
cosine distance has none (0 to 2).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

CERTAIN = 1e-6  # nats; see `orpo`


def weighted_nll(logp_BT: jax.Array, weights_BT: jax.Array) -> jax.Array:
  """Returns the sum over positions of weight * -log p(token)."""
  return -jnp.sum(weights_BT * logp_BT)


def cosine(a_BD: jax.Array, b_BD: jax.Array, eps: float = 1e-8) -> jax.Array:
  """Returns the cosine similarity [B], in float32."""
  a, b = a_BD.astype(jnp.float32), b_BD.astype(jnp.float32)
  squares = jnp.sum(a * a, axis=-1) * jnp.sum(b * b, axis=-1)
  return jnp.sum(a * b, axis=-1) / jnp.sqrt(jnp.maximum(squares, eps**2))


def triplet(
  anchor_BD: jax.Array,
  positive_BD: jax.Array,
  negative_BD: jax.Array,
  valid_B: jax.Array,
  *,
  margin: float,
) -> jax.Array:
  """Self-reflection loss on pooled hidden states (Wang et al. 2023).

  Returns the sum of max(0, margin - cos(a, p) + cos(a, n)) over valid rows. A row is valid if its
  question has a distinct positive and a negative; without valid rows the sum is 0.
  """
  gap_B = cosine(anchor_BD, positive_BD) - cosine(anchor_BD, negative_BD)
  return jnp.sum(jnp.where(valid_B > 0, jnp.maximum(0.0, margin - gap_B), 0.0))


# Losses on preference pairs. Each takes the scores of the chosen and the rejected side and returns
# one value per pair:
#
#   score = log p(side) - log p_ref(side), or log p(side) for losses without a reference;
#           in nats, the sum over the side's tokens or, if length-normalized, their mean
#
# Docstrings say what TRL 1.16 does where that is a setting here and fixed there. The tests compare
# with its numbers (tests/learning/trl.npz).


def dpo(
  chosen: jax.Array, rejected: jax.Array, *, beta: float, label_smoothing: float = 0.0
) -> jax.Array:
  """Direct preference optimization (Rafailov et al. 2023, eq. 7): -log sigmoid(beta * gap).

  gap = chosen - rejected. The loss is log 2 where policy and reference are equal.

  With label smoothing e, the assumed share of pairs with swapped labels, it is conservative DPO
  (Mitchell 2023): (1 - e) * -log sigmoid(beta * gap) + e * -log sigmoid(-beta * gap).
  """
  gain = beta * (chosen - rejected)
  right, wrong = jax.nn.softplus(-gain), jax.nn.softplus(gain)
  return (1 - label_smoothing) * right + label_smoothing * wrong


def robust(
  chosen: jax.Array, rejected: jax.Array, *, beta: float, label_smoothing: float
) -> jax.Array:
  """Robust DPO (Chowdhury et al. 2024, eq. 12).

  ((1 - e) * dpo(c, r) - e * dpo(r, c)) / (1 - 2e), where a share e < 1/2 of the labels is swapped.
  Its expected value under such labels is the DPO loss on the correct labels.
  """
  right, wrong = dpo(chosen, rejected, beta=beta), dpo(rejected, chosen, beta=beta)
  return ((1 - label_smoothing) * right - label_smoothing * wrong) / (1 - 2 * label_smoothing)


def ipo(chosen: jax.Array, rejected: jax.Array, *, beta: float) -> jax.Array:
  """Identity preference optimization (Azar et al. 2023, eq. 17, tau = beta): (gap - 1 / 2 beta)^2.

  The equation sums over tokens; TRL follows the authors' code and always takes means.
  """
  return jnp.square(chosen - rejected - 1 / (2 * beta))


def hinge(chosen: jax.Array, rejected: jax.Array, *, beta: float) -> jax.Array:
  """Hinge loss: max(0, 1 - beta * gap).

  SLiC (Zhao et al. 2023); with a reference policy, Liu et al. 2023.
  """
  return jnp.maximum(0.0, 1 - beta * (chosen - rejected))


def simpo(chosen: jax.Array, rejected: jax.Array, *, beta: float, gamma: float) -> jax.Array:
  """SimPO (Meng et al. 2024, eq. 6): -log sigmoid(beta * gap - gamma), gamma in nats of reward.

  Has no reference policy. The paper and TRL normalize by length.
  """
  return jax.nn.softplus(gamma - beta * (chosen - rejected))


def orpo(chosen: jax.Array, rejected: jax.Array, *, beta: float) -> jax.Array:
  """The odds-ratio term of ORPO (Hong et al. 2024, eq. 7).

  -beta * log sigmoid(log odds(chosen) - log odds(rejected)), with odds = p / (1 - p). Has no
  reference policy. The paper and TRL normalize by length and add an NLL term of weight 1 (TRL's
  includes the prompt).

  Scores are capped at -CERTAIN, because the odds of a side with probability 1 are infinite.
  """

  def log_odds(x: jax.Array) -> jax.Array:
    return x - jax.nn.log1mexp(-x)

  chosen, rejected = jnp.minimum(chosen, -CERTAIN), jnp.minimum(rejected, -CERTAIN)
  return beta * jax.nn.softplus(log_odds(rejected) - log_odds(chosen))


def kto(
  chosen: jax.Array, rejected: jax.Array, *, beta: float, points: tuple[jax.Array, jax.Array]
) -> jax.Array:
  """KTO (Ethayarajh et al. 2024, eq. 7, both weights 1), for pairs.

  The mean of 1 - sigmoid(beta * (chosen - z_c)) and 1 - sigmoid(beta * (z_r - rejected)); `points`
  is (z_c, z_r), see `reference_points`.
  """
  for_chosen, for_rejected = points
  bad = jax.nn.sigmoid(beta * (for_chosen - chosen))
  return 0.5 * (bad + jax.nn.sigmoid(beta * (rejected - for_rejected)))


def reference_points(
  chosen: jax.Array, rejected: jax.Array, valid: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns the two reference points of `kto` on a batch of pairs, without gradient.

  They estimate KL(policy || reference) as max(0, mean score). The point of the chosen sides is
  computed from the rejected sides, and the reverse.

  The first version of the KTO report does this for paired data. So did TRL's DPOTrainer
  (`kto_pair`, up to version 0.8), but with a gradient, which the paper excludes. TRL's KTOTrainer
  uses one point for both, from completions of other rows' prompts. Pairs have no such completions,
  and scoring them would take a third forward pass. The mean is over a whole batch, so the batch
  must not be split.
  """

  def mean(x: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(valid > 0, x, 0.0)) / jnp.maximum(jnp.sum(valid), 1.0)

  return jax.lax.stop_gradient((jnp.maximum(mean(rejected), 0.0), jnp.maximum(mean(chosen), 0.0)))


PREFERENCE: dict[str, Callable[..., jax.Array]] = {
  "dpo": dpo,
  "robust": robust,
  "ipo": ipo,
  "hinge": hinge,
  "simpo": simpo,
  "orpo": orpo,
  "kto": kto,
}
WITHOUT_REFERENCE = ("simpo", "orpo")


def preference(
  loss: str,
  chosen: jax.Array,
  rejected: jax.Array,
  valid: jax.Array,
  *,
  beta: float,
  **options: Any,
) -> jax.Array:
  """Returns the sum of a loss over valid pairs.

  Args:
    loss: A key of PREFERENCE.
    chosen: Scores, of any shape.
    rejected: Scores, of the same shape.
    valid: Above 0 where there is a pair.
    beta: The scale of the scores, as in the formula of each loss.
    **options: Further parameters of the loss.
  """
  # Entries without a pair need a finite gradient: 0 * inf would be NaN.
  chosen, rejected = (jnp.where(valid > 0, x, -1.0) for x in (chosen, rejected))
  if loss == "kto":
    options["points"] = reference_points(chosen, rejected, valid)
  each = PREFERENCE[loss](chosen, rejected, beta=beta, **options)
  return jnp.sum(jnp.where(valid > 0, each, 0.0))
